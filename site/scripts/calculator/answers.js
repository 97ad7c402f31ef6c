/* The answer of the calculator: ledgers, the step of training, tables of tensors and layers. */

class Answers extends Tool {
  constructor() {
    super();
    this.folds = {};
  }
  /* What a step of training takes. */
  showStep(question) {
    this.showLength();
    if (!this.near || !this.remembers()) { this.stepOut.replaceChildren(this.loading()); return; }
    var self = this, s = this.state, setting = this.setting(), found = tried(function () { return peft.memory(s.method, question, setting); });
    ["batch", "seq", "quantized", "optimizer"].concat(this.shares).forEach(function (name) { self.wrong(name, found.problem && found.problem.field === name); });
    if (found.problem) { this.stepOut.replaceChildren(make("p", { class: "pf-alert", role: "status" }, found.problem.message)); return; }
    var m = found.value, training = peft.data.training, parts = m.gpus ? training.sharding.parts : training.parts, asked = question.task || this.backbone().default_task;
    var bar = make("div", { class: "pf-stack", "aria-hidden": "true" }, parts.map(function (part) { return make("i", { class: "part--" + part }); }));
    parts.forEach(function (part, i) { bar.children[i].style.flexGrow = m[part] / m.peak; });
    var ledgers = parts.map(function (part) {
      return make("div", {}, [make("dt", {}, [make("i", { class: "pf-swatch part--" + part, "aria-hidden": "true" }), part.replace("_", " ")]),
        make("dd", {}, [binary(m[part]), make("small", {}, [self.out_(part, m[part]), " bytes"])])]);
    });
    var notes = [
      m.gpus ? "On one of " + number(m.gpus) + " GPUs, the one that takes the most." : "",
      "A GPU adds about " + binary(m.gpu_extra_estimate) + " (an estimate of its context, its libraries' workspaces and fragmentation): " + binary(m.peak + m.gpu_extra_estimate) + " together.",
      m.paged ? "Optimizer states of " + binary(m.paged) + " may leave the GPU and are not in the peak." : "",
      m.task === asked ? "" : "Trained for " + peft.data.tasks.names[m.task] + ": the base model alone has no loss.",
      m.gpus ? "Not covered: " + m.not_covered + "." : "",
      "About " + power(m.forward_flops) + " operations forward and " + power(m.step_flops) + " a step."
    ].filter(Boolean);
    this.stepOut.replaceChildren(
      make("p", { class: "pf-big" }, [binary(m.peak), make("span", { class: "pf-big__unit" }, ["at the peak, in the ", make("span", { "data-out": "phase" }, m.phase), " phase: ", this.out_("peak", m.peak), " bytes"])]),
      bar, make("dl", { class: "pf-ledgers" }, ledgers), make("p", { class: "pf-small" }, notes.join(" ")), this.foot("memory")
    );
  }
  ledger(name, value, note) { return make("div", {}, [make("dt", {}, name), make("dd", {}, [value, note ? make("small", {}, note) : null])]); }
  out_(name, value) { return make("span", { "data-out": name }, number(value)); }
  answer(cost) {
    var s = this.state, bits = cost.stored_bits ? " and " + number(cost.stored_bits) + " mask bits" : "";
    var stays = [cost.served ? number(cost.served) + " numbers" : "", cost.served_bits ? number(cost.served_bits) + " mask bits" : ""].filter(Boolean).join(" and ");
    var facts = [
      this.ledger("Stored per task", this.out_("stored", cost.stored), bytes(cost.stored_bytes) + " in " + s.dtype + bits),
      this.ledger("Served beside the model", this.out_("served", cost.served), stays ? stays + " stay at inference" : "nothing stays"),
      this.ledger("Backbone", this.out_("backbone", cost.backbone), bytes(cost.base_bytes) + (cost.base_bytes === cost.backbone * peft.bytesOf[s.dtype] ? " in " + s.dtype : " as the method stores it"))
    ];
    if (cost.head) facts.push(this.ledger("New task head", this.out_("head", cost.head), "counted apart"));
    if (cost.positions) facts.push(this.ledger("Extra positions", this.out_("positions", cost.positions), "in every sequence"));
    var combined = peft.data.methods[s.method].combines ? peft.combination(s.method, this.question()) : null;
    if (combined) facts.push(
      this.ledger("Inputs of the merge", this.out_("inputs_bytes", combined.inputs_bytes), "bytes: " + number(combined.inputs) + " × " + bytes(combined.each_bytes) + ", " + peft.data.methods[combined.of].name),
      this.ledger("Peak of the merge", this.out_("merge_peak", combined.peak), "bytes: " + bytes(combined.weights) + " for the model and " + bytes(combined.temporary) + " besides")
    );
    var meter = make("div", { class: "pf-meter", "aria-hidden": "true" }, make("i", {}));
    meter.firstChild.style.width = Math.min(100, cost.percent) + "%";
    return [
      make("p", { class: "pf-big", "aria-live": "polite" }, [this.out_("trained", cost.trained), make("span", { class: "pf-big__unit" }, "trained parameters, " + percent(cost.percent) + " of " + this.modelName())]),
      meter, make("dl", { class: "pf-ledgers" }, facts), this.tensors(cost), this.layers(cost), this.curve(cost), this.foot("cost")
    ].filter(Boolean);
  }
  table(label, heads, rows, numeric) {
    var head = make("tr", {}, heads.map(function (t, i) { return make("th", { scope: "col", class: i >= numeric ? "n" : null }, t); }));
    return make("div", { class: "pf-scroll", tabindex: "0", role: "region", "aria-label": label },
      make("table", { class: "pf-table" }, [make("thead", {}, head), make("tbody", {}, rows)]));
  }
  tensors(cost) {
    var rows = cost.tensors.map(function (t) {
      return make("tr", {}, [
        make("th", { scope: "row" }, make("code", {}, t.name)), make("td", { class: "pf-roles" }, together(t.roles) || t.per),
        make("td", { class: "pf-num" }, t.shape ? t.shape.map(number).join(" × ") || "1" : number(t.count)),
        make("td", { class: "n" }, number(t.sites)), make("td", { class: "n" }, number(t.trained)),
        make("td", { class: "n" }, held(t.stored, t.stored_bits)), make("td", { class: "n" }, held(t.served, t.served_bits))
      ]);
    });
    return this.table("Per tensor", ["Tensor", "Roles", "Shape", "Sites", "Trained", "Stored", "Served"], rows, 3);
  }
  /* A part that is unfolded again where the answer before it was. The element itself is asked: its event comes later than
     the click, and a new answer may come between them. */
  folded(name, kind, children) {
    var before = this.folds[name];
    this.folds[name] = make("details", { class: kind, open: Boolean(before && before.open) }, children);
    return this.folds[name];
  }
  /* What is trained against the size hyperparameter. The picture and its library are fetched when it is unfolded. */
  curve(cost) {
    var self = this, s = this.state, size = peft.data.methods[s.method].size;
    if (!size || cost.hyperparameters[size] === undefined) return null;
    var box = make("div", { class: "pf-curve" }), details = this.folded("curve", "pf-details", [make("summary", {}, "Trained against " + size), box]);
    function show() {
      if (details.open) pf.fetched("curve", ["vendor/d3/d3.min", "vendor/plot/plot.umd.min", "curve"], function () {
        pf.curve(box, s.method, self.question(), size, cost.hyperparameters[size]);
      });
    }
    details.addEventListener("toggle", show);
    return details;
  }
  layers(cost) {
    var body = cost.layers.map(function (l) {
      var name = l.from === null ? { outside: "outside the layers", spread: "over all places together" }[l.stack] : l.stack + " " + (l.from === l.to ? l.from : l.from + "–" + l.to);
      return make("tr", {}, [make("th", { scope: "row" }, name), make("td", { class: "n" }, number(l.from === null ? 1 : l.to - l.from + 1))].concat(
        [number(l.trained), held(l.stored, l.bits), held(l.served, l.served_bits)].map(function (t) { return make("td", { class: "n" }, t); })));
    });
    return body.length ? this.folded("layers", "pf-details pf-layers", [make("summary", {}, "Per layer"), this.table("Per layer", ["Layer", "How many", "Trained in each", "Stored", "Served"], body, 1)]) : null;
  }
}

/* The planner: which methods stay within a budget on a model and grant all wishes, with the largest setting of each,
   and why the others fall out. After calculator.js. */
"use strict";

(function () {
  var make = pf.make, number = pf.number;
  var WISHES = [
    ["merge", "merges into the weights", "nothing is left to compute at inference"],
    ["identity", "equals the model at the first step", "exactly, before any update"],
    ["quantised", "quantises the frozen model", "as part of the method"],
    ["positions", "adds no sequence positions", "no tokens, keys or values beside the input's"]
  ];
  /* How many times larger or smaller than by default the setting is, as a logarithm. */
  function distance(r) { return r.name && r.usual ? Math.abs(Math.log(r.value / r.usual)) : 0; }
  var ORDERS = {
    usual: ["setting nearest to the default", function (r) { return [distance(r), -r.cost.trained]; }],
    trained: ["most trained within the budget", function (r) { return [-r.cost.trained, r.cost.stored_bytes]; }],
    bytes: ["smallest checkpoint", function (r) { return [r.cost.stored_bytes, -r.cost.trained]; }],
    fits: ["largest batch or length", function (r) { return [r.fit ? -r.fit.value : 0, -r.cost.trained]; }],
    memory: ["least memory", function (r) { return [r.fit ? r.fit.memory.peak : 0, -r.cost.trained]; }],
    year: ["newest", function (r) { return [-peft.data.methods[r.id].year, -r.cost.trained]; }],
    name: ["name", function () { return []; }]
  };

  var SOLVED = { batch: "largest batch", seq: "largest length", size: "largest setting" };

  class Planner extends pf.Tool {
    start() {
      var q = this.query, s = this.state;
      s.trained = q.has("trained") ? q.get("trained") : q.has("bytes") || q.has("gpu") ? "" : this.dataset.trained || "";
      s.bytes = q.get("bytes") || "";
      s.gpu = q.get("gpu") || "";
      s.solve = q.one("solve", Object.keys(SOLVED)) || "batch";
      WISHES.forEach(function (w) { s[w[0]] = q.flag(w[0]); });
      s.since = q.get("since") || "";
      s.library = q.one("library", ["any"].concat(Object.keys(peft.data.libraries))) || "";
      s.order = q.one("order", Object.keys(ORDERS)) || "usual";
      this.form = make("form", { class: "pf-calc__form pf-calc__form--still", "aria-label": "Budget and wishes" });
      this.form.addEventListener("submit", function (event) { event.preventDefault(); });
      this.out = make("div", { class: "pf-calc__out" });
      this.replaceChildren(make("div", { class: "pf-calc" }, [this.form, this.out]));
      this.settle();
      this.build();
    }
    write() {
      var s = this.state, query = this.writeModel(new URLSearchParams());
      query.set("trained", s.trained);
      if (s.bytes) query.set("bytes", s.bytes);
      WISHES.forEach(function (w) { if (s[w[0]]) query.set(w[0], "1"); });
      if (s.since) query.set("since", s.since);
      if (s.library) query.set("library", s.library);
      if (s.order !== "usual") query.set("order", s.order);
      if (s.gpu) query.set("gpu", s.gpu);
      if (s.gpu && s.solve !== "batch") query.set("solve", s.solve);
      if (s.gpu) this.writeStep(query);
      this.address(query);
    }
    build() {
      var self = this, s = this.state, libraries = Object.keys(peft.data.libraries).filter(function (k) { return k !== "official"; });
      function change(key) { return function (v) { s[key] = v; self.show(); self.write(); }; }
      this.form.replaceChildren.apply(this.form, this.modelFields().concat([
        make("div", { class: "pf-pair" }, [
          this.input("trained", "Trained at most", s.trained, "text", change("trained"), "5M, 250k, 1e6"),
          this.input("bytes", "Checkpoint at most", s.bytes, "text", change("bytes"), "20 MB, 512 kB")
        ]),
        this.dtypeField(),
        this.input("gpu", "GPU memory at most", s.gpu, "text", change("gpu"), "24 GiB, 80 GB; what one training step may take"),
        this.stepBox(),
        make("fieldset", { class: "pf-wishes" }, [make("legend", {}, "It must be one that")].concat(WISHES.map(function (w) { return self.tick(w[0], w[1], s[w[0]], change(w[0]), w[2]); }))),
        make("div", { class: "pf-pair" }, [
          this.input("since", "From year", s.since, "number", change("since")),
          this.select("library", "In a library", [["", "does not matter"], ["any", "any"]].concat(libraries.map(function (k) { return [k, peft.data.libraries[k]]; })), s.library, change("library"))
        ])
      ]));
      this.show();
    }
    /* Made once, so that it stays open; what is solved for is not asked. */
    stepBox() {
      var self = this, s = this.state;
      function changed() { self.show(); self.write(); }
      function still() { ["batch", "seq"].forEach(function (name) { self.steps.querySelector('[data-field="' + name + '"] input').disabled = s.solve === name; }); }
      if (!this.steps) {
        var solve = this.select("solve", "Find the", Object.keys(SOLVED).map(function (k) { return [k, SOLVED[k]]; }), s.solve, function (v) { s.solve = v; still(); changed(); });
        this.steps = make("details", { class: "pf-details", open: s.gpu !== "" }, [make("summary", {}, "Training step"), make("div", { class: "pf-stepfields" }, [solve].concat(this.stepFields(changed)))]);
        still();
      }
      return this.steps;
    }
    wishes() {
      var s = this.state, wishes = { trained: peft.quantity(s.trained), bytes: peft.quantity(s.bytes), gpu: peft.gpuBytes(s.gpu), step: this.setting(), solve: s.solve, since: /^\d{4}$/.test(s.since) ? Number(s.since) : null, library: s.library };
      WISHES.forEach(function (w) { wishes[w[0]] = s[w[0]]; });
      return wishes;
    }
    /* Judge the methods a few at a time, so that typing goes on meanwhile. */
    show() {
      var self = this, question = this.question(), wishes = this.wishes(), fits = [], out = [];
      if (this.stop) this.stop();
      if (!question) { this.out.replaceChildren(this.waiting()); return; }
      ["trained", "bytes", "gpu"].forEach(function (k) { self.wrong(k, Number.isNaN(wishes[k])); });
      if (Number.isNaN(wishes.gpu)) { this.out.replaceChildren(this.problem("GPU memory is a size such as 24 GiB or 80 GB.")); return; }
      this.wrong("since", this.state.since && !wishes.since);
      if (Number.isNaN(wishes.trained) || Number.isNaN(wishes.bytes)) { this.out.replaceChildren(this.problem("A budget is a number such as 5M, 250k or 1e6; for a checkpoint 20 MB.")); return; }
      if (wishes.gpu !== null && !this.remembers()) { this.out.replaceChildren(this.loading()); return; }
      this.stop = pf.gradually(Object.keys(peft.data.methods), function (id) {
        var found = wishes.gpu === null ? peft.judged(id, question, wishes) : peft.planned(id, question, wishes);
        if (found.name) found.usual = peft.usual(id, question);
        (found.cost ? fits : out).push(found);
      }, function () { self.answer(fits, out, wishes, question); });
    }
    nameOf(id) { return peft.data.methods[id].name; }
    dot(id) { return make("span", { class: "pf-dot hue-" + peft.data.methods[id].hue, "aria-hidden": "true" }); }
    link(id) { return [this.dot(id), " ", make("a", { href: "methods/" + id + ".html" }, this.nameOf(id))]; }
    sorted(fits) {
      var self = this, rank = ORDERS[this.state.order][1];
      return fits.slice().sort(function (a, b) {
        var x = rank(a), y = rank(b);
        for (var i = 0; i < x.length; i++) if (x[i] !== y[i]) return x[i] - y[i];
        return self.nameOf(a.id) < self.nameOf(b.id) ? -1 : 1;
      });
    }
    answer(fits, out, wishes, question) {
      var self = this, s = this.state, all = fits.length + out.length;
      var order = this.select("order", "Ranked by", Object.keys(ORDERS).filter(function (k) { return wishes.gpu || (k !== "fits" && k !== "memory"); }).map(function (k) { return [k, ORDERS[k][0]]; }), s.order, function (v) {
        s.order = v;
        self.show();
        self.write();
        document.getElementById(self.uid + "-order").focus();
      });
      var head = make("div", { class: "pf-planhead" }, [
        make("p", { class: "pf-big", role: "status" }, [make("span", { "data-out": "fits" }, number(fits.length)), make("span", { class: "pf-big__unit" }, "of " + number(all) + " methods fit on " + this.modelName())]), order
      ]);
      var rows = this.sorted(fits).map(function (r) { return self.row(r, wishes, question); });
      this.out.replaceChildren.apply(this.out, [
        head,
        rows.length ? this.table("Methods that fit", ["Method", wishes.gpu && s.solve !== "size" && !wishes.trained && !wishes.bytes ? "Setting" : "Largest setting", "Trained", "Checkpoint"].concat(this.heads(wishes), wishes.gpu ? ["Year"] : ["Served", "Year"]), rows, 2) : make("p", { class: "pf-muted" }, "Nothing fits. The list below says what stands in the way; methods with one reason come first."),
        make("p", { class: "pf-small pf-muted" }, "The setting is the largest whole number that stays within the budget, all else at its default. One far from its default is allowed by the arithmetic, whether or not anybody has tried it. Nothing here measures quality."),
        wishes.gpu ? make("p", { class: "pf-small pf-muted" }, ["Memory is the peak of a training step with what a GPU adds, an estimate. "].concat(this.command(wishes))) : "",
        make("h2", { class: "pf-planout" }, "Why the others fall out"),
        this.table("Methods that do not fit", ["Method", "Why"], this.reasons(out), 9, "pf-plan--out")
      ]);
    }
    heads(wishes) { return !wishes.gpu ? [] : (wishes.solve === "size" ? [] : [SOLVED[wishes.solve].replace("l", "L")]).concat("Memory"); }
    /* The same question as a command, where all methods have the same setting. */
    command(wishes) {
      var s = this.state, solved = s.solve, parts = ["peftonomy fit --model", this.pasted ? "config.json" : s.model, "--gpu", /^[\d.]+$/.test(s.gpu.trim()) ? s.gpu.trim() + "GiB" : s.gpu.replace(/\s/g, "")];
      if (wishes.trained || wishes.bytes || solved === "size") return [];
      this.stepArguments().forEach(function (a) { if (a[0] !== solved) parts.push("--" + a[0] + (a[1] === true ? "" : " " + a[1])); });
      if (solved !== "batch") parts.push("--solve", solved);
      if (s.task) parts.push("--task", s.task);
      if (this.labelled() && Number(s.labels) !== 2) parts.push("--num-labels", s.labels);
      return ["As ", make("code", {}, parts.join(" ")), " has it."];
    }
    table(label, heads, rows, numeric, kind) {
      return make("div", { class: "pf-scroll", tabindex: "0", role: "region", "aria-label": label }, make("table", { class: "pf-table pf-plan " + (kind || "pf-plan--fits") }, [
        make("thead", {}, make("tr", {}, heads.map(function (t, i) { return make("th", { scope: "col", class: i >= numeric ? "n" : null }, t); }))),
        make("tbody", {}, rows)
      ]));
    }
    row(r, wishes, question) {
      var share = wishes.trained ? Math.min(100, 100 * r.cost.trained / wishes.trained) : wishes.bytes ? Math.min(100, 100 * r.cost.stored_bytes / wishes.bytes) : 0;
      var meter = make("div", { class: "pf-meter", "aria-hidden": "true" }, make("i", {})), query = this.writeModel(new URLSearchParams({ method: r.id }));
      meter.firstChild.style.width = share + "%";
      var setting = r.name ? r.name + " = " + number(r.value) : "default", usual = r.usual && r.usual !== r.value ? make("small", { class: "pf-muted" }, "default " + number(r.usual)) : null;
      if (r.name) query.set(pf.key(r.name), r.value);
      if (r.fit) {
        this.writeStep(query);
        if (r.fit.solved in r.fit.memory.setting) query.set(r.fit.solved, r.fit.value);
      }
      return make("tr", { "data-fits": r.id }, [
        make("th", { scope: "row" }, this.link(r.id)),
        make("td", {}, [make("a", { href: "calculator.html?" + query, "aria-label": setting + ", " + this.nameOf(r.id) + " in the calculator" }, setting), usual]),
        make("td", { class: "n" }, [number(r.cost.trained), share ? meter : null]), make("td", { class: "n" }, pf.bytes(r.cost.stored_bytes)),
        r.fit && wishes.solve !== "size" ? make("td", { class: "n pf-fit", "data-name": wishes.solve === "seq" ? "length" : "batch" }, number(r.fit.value)) : "",
        r.fit ? make("td", { class: "n pf-fit" }, pf.binary(r.fit.memory.peak + r.fit.memory.gpu_extra_estimate)) : "",
        r.fit ? "" : make("td", { class: "n" }, pf.held(r.cost.served, r.cost.served_bits)), make("td", { class: "n" }, String(peft.data.methods[r.id].year))
      ]);
    }
    /* Those that miss by one thing first. */
    reasons(out) {
      var self = this;
      return out.slice().sort(function (a, b) { return a.reasons.length - b.reasons.length || (self.nameOf(a.id) < self.nameOf(b.id) ? -1 : 1); }).map(function (r) {
        return make("tr", { "data-out-of": r.id }, [make("th", { scope: "row" }, self.link(r.id)), make("td", { class: "w" }, r.reasons.join("; "))]);
      });
    }
  }
  customElements.define("peft-planner", Planner);
})();

/* The calculator: its question, and the form that changes it. */

var RESERVED = ["method", "model", "config", "task", "labels", "dtype", "targets", "modules", "batch", "seq", "checkpointing", "gpus", "shard"].concat(CHOSEN.concat(FSDP).map(function (c) { return c.query; }));
function key(name) { return RESERVED.indexOf(name) < 0 ? name : "hp." + name; }

class Calculator extends Coded {
  start() {
    var self = this, q = this.query, s = this.state, methods = Object.keys(peft.data.methods);
    s.method = this.getAttribute("method") || q.one("method", methods) || this.dataset.method || methods[0];
    s.targets = q.get("targets") ? words(q.get("targets")) : null;
    s.modules = q.get("modules") ? (q.get("modules").toLowerCase() === "all-linear" ? "all-linear" : words(q.get("modules"))) : null;
    s.named = !!s.modules;   // whether modules are named as in peft
    if (s.modules) s.targets = null;
    s.values = {};
    this.specs().forEach(function (h) { if (q.has(key(h.name))) s.values[h.name] = q.get(key(h.name)); });
    this.code = { cost: "shell", memory: "shell" };
    this.form = this.emptyForm("Setting");
    this.out = make("div", { class: "pf-calc__out" });
    this.stepForm = this.emptyForm("Training step");
    this.stepOut = make("div", { class: "pf-calc__out" });
    this.stepForm.append.apply(this.stepForm, this.stepFields(function () { self.show(); self.write(); }));
    this.replaceChildren(
      make("div", { class: "pf-calc" }, [this.form, this.out]),
      make(this.hasAttribute("method") ? "h3" : "h2", { class: "pf-step__title", id: "memory" }, "Memory of a training step"),
      make("div", { class: "pf-calc pf-step" }, [this.stepForm, this.stepOut])
    );
    var asked = s.targets || [];
    this.settle();
    this.near = false;
    pf.reached(this.stepForm, "600px", function () {
      self.near = true;   // memory counts from here on
      self.show();
    });
    asked.forEach(function (role) { if ((s.targets || []).indexOf(role) < 0) q.refuse("the target", role, self.roles()); });
    this.build();
  }
  get shares() { return peft.data.training.sharding.options; }
  roles() {
    var question = this.question();
    return question ? peft.roles(this.state.method, question) : [];
  }
  emptyForm(label) {
    var form = make("form", { class: "pf-calc__form", "aria-label": label });
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    return form;
  }
  specs() { return peft.data.methods[this.state.method].parts[0].hyperparameters; }
  settle() {
    super.settle();
    var s = this.state, question = this.question();
    if (s.targets && (!this.takesTargets() || question && tried(function () { return peft.targets(s.method, question); }).problem)) {
      var offered = this.roles();
      s.targets = s.targets.filter(function (r) { return offered.indexOf(r) >= 0; });
      if (!s.targets.length) s.targets = null;
    }
    if (!this.takesTargets()) { s.modules = null; s.named = false; }
  }
  takesTargets() { return peft.data.methods[this.state.method].parts.some(function (p) { return p.targets; }); }
  question(more) {
    var s = this.state;
    return super.question(Object.assign(s.modules ? { target_modules: s.modules } : { targets: s.targets }, { values: s.values }, more));
  }
  write() {
    var s = this.state, query = new URLSearchParams();
    if (!this.hasAttribute("method")) query.set("method", s.method);
    this.writeModel(query);
    if (s.targets) query.set("targets", s.targets.join(","));
    if (s.modules) query.set("modules", [].concat(s.modules).join(","));
    Object.keys(s.values).forEach(function (k) { query.set(key(k), s.values[k]); });
    this.writeStep(query);
    this.address(query);
  }

  build() {
    var self = this, s = this.state, fields = [];
    if (!this.hasAttribute("method")) {
      fields.push(this.select("method", "Method", Object.keys(peft.data.methods).map(function (id) { return [id, peft.data.methods[id].name]; }), s.method, function (v) {
        s.method = v;
        s.values = {};
        self.rebuild();
        self.write();
      }));
    }
    fields.push.apply(fields, this.modelFields());
    var specs = this.specs().map(function (h) { return self.hyperparameter(h); });
    for (var i = 0; i < specs.length; i += 2) fields.push(specs[i + 1] ? make("div", { class: "pf-pair" }, specs.slice(i, i + 2)) : specs[i]);
    fields.push(this.targetField(), this.dtypeField());
    this.form.replaceChildren.apply(this.form, fields.filter(Boolean));
    this.show();
  }
  hyperparameter(spec) {
    var self = this, s = this.state, value = s.values[spec.name], rule = spec.rule ? " (" + spec.rule + ")" : "";
    function set(v) {
      if (v === "") delete s.values[spec.name]; else s.values[spec.name] = v;
      self.show();
      self.write();
    }
    var options = spec.type === "bool" ? [["true", "yes"], ["false", "no"]] : spec.type === "choice" ? spec.values.map(function (v) { return [v, v]; }) : null;
    if (options) return this.select("hp-" + spec.name, spec.name, options, value === undefined ? spec.default : value, set, spec.meaning);
    var shown = value === undefined ? (spec.formula === null ? spec.default : "") : value;
    var field = this.input("hp-" + spec.name, spec.name, shown, spec.type === "int" ? "number" : "decimal", set, spec.meaning + rule);
    if (spec.formula !== null) field.querySelector("input").placeholder = spec.default;
    return field;
  }

  targetField() {
    var self = this, s = this.state, question = this.question({ values: {} });
    if (!question || !this.takesTargets()) return null;
    var head = make("div", { class: "pf-legend-row" }, [
      make("span", { class: "pf-label", id: this.uid + "-targets" }, "Targets"),
      this.choice("How targets are named", [[false, "by role"], [true, "by module name"]], s.named, function (named) {
        self.rename(named);
        self.rebuild();
        self.write();
        self.form.querySelector('.pf-targets [aria-pressed="true"]').focus();
      })
    ]);
    return make("div", { class: "pf-targets", role: "group", "aria-labelledby": this.uid + "-targets" },
      [head].concat(s.named ? this.nameFields(question) : this.roleChips(question), make("small", { "data-kept": true, role: "status" })));
  }
  /* Name the same modules by role, or by module name. If they have no such name, they stay as they are named. If nothing
     has changed since the last switch, the words before that switch come back. */
  rename(named) {
    var self = this, s = this.state, before = { targets: s.targets, modules: s.modules }, back = this.renamed;
    function asked(chosen) { return Object.assign(self.question(), { targets: chosen.targets, target_modules: chosen.modules }); }
    function means(chosen) { return chosen && tried(function () { return peft.same(s.method, asked(before), asked(chosen)); }).value; }
    var valid = means(before), found;
    s.named = named;
    if (back && back.after === JSON.stringify(before) && (!valid || means(back.before))) found = back.before;
    else if (!valid) found = { targets: null, modules: null };
    else if (named) found = { targets: null, modules: peft.suffixes(s.method, asked(before)) };
    else found = { targets: s.modules ? peft.targets(s.method, asked(before)) : s.targets, modules: null };
    if (valid && !means(found)) found = before;
    s.targets = found.targets;
    s.modules = found.modules;
    this.renamed = { before: before, after: JSON.stringify(found) };
  }
  /* Say which targets are counted if the fields cannot show them. */
  keptNote() {
    var self = this, s = this.state, note = this.form.querySelector("[data-kept]"), question = this.question();
    if (!note) return;
    if (s.named === !!s.modules) { note.textContent = ""; return; }
    var counted = s.named ? tried(function () { return sitesNow(self); }).value || [] : [].concat(s.modules);
    if (s.named && tried(function () { return peft.suffixes(s.method, question); }).value) note.textContent = "Counted until you name modules: " + counted.join(", ") + ".";
    else note.textContent = "No " + (s.named ? "module names" : "roles") + " mean exactly " + counted.join(", ") + " here. Counted until you " + (s.named ? "name modules." : "choose roles.");
  }
  chip(label, id, checked, onchange) {
    var box = make("input", { type: "checkbox", value: label, id: this.uid + "-" + id, checked: checked });
    box.addEventListener("change", function () { onchange(box.checked); });
    return make("label", { class: "pf-chip" }, [box, make("span", {}, label)]);
  }
  roleChips(question) {
    var self = this, s = this.state, linear = { targets: null, target_modules: "all-linear" };
    var current = s.modules ? [] : tried(function () { return sitesNow(self); }).value || s.targets || [];
    function choose(targets, modules) {
      s.targets = targets && targets.length ? targets : null;
      s.modules = modules;
      if (modules) self.rename(false);   // by role, where roles mean the same
      self.rebuild();
      self.write();
    }
    var offered = Array.from(new Set(peft.roles(s.method, question).concat(current)));
    var chips = offered.map(function (role) {
      return self.chip(role, "role-" + role, current.indexOf(role) >= 0, function (on) {
        choose(on ? offered.filter(function (r) { return r === role || current.indexOf(r) >= 0; }) : current.filter(function (r) { return r !== role; }), null);
      });
    });
    var all = tried(function () { return peft.same(s.method, question, Object.assign({}, question, linear)); });
    if (!all.problem) chips.push(this.chip("all-linear", "role-all", all.value, function (on) { choose(null, on ? "all-linear" : null); }));
    return [make("div", { class: "pf-chips" }, chips)];
  }
  nameFields(question) {
    var self = this, s = this.state, all = s.modules === "all-linear", current = all ? [] : s.modules || [];
    function set(names) { s.modules = names.length ? names : null; s.targets = null; }
    var field = this.input("modules", "Module names, as peft's target_modules", [].concat(s.modules || []).join(", "), "text", function (text) {
      set(text.toLowerCase() === "all-linear" ? "all-linear" : words(text));
      self.show();
      self.write();
    }, "Ends of names, separated by commas; or all-linear.");
    var chips = peft.endings(question).map(function (name) {
      return self.chip(name, "name-" + name, current.indexOf(name) >= 0, function (on) {
        var now = s.modules === "all-linear" ? [] : s.modules || [];
        set(on ? now.concat(name) : now.filter(function (n) { return n !== name; }));
        self.rebuild();
        self.write();
      });
    });
    chips.push(this.chip("all-linear", "name-all", all, function (on) { set(on ? "all-linear" : []); self.rebuild(); self.write(); }));
    return [field, make("div", { class: "pf-chips" }, chips)];
  }

  show() {
    var self = this, s = this.state, question = this.question();
    this.keptNote();
    if (!question) { this.out.replaceChildren(this.waiting()); this.stepOut.replaceChildren(this.waiting()); return; }
    var found = tried(function () { return peft.cost(s.method, question); }), wrong = found.problem && found.problem.field;
    this.specs().forEach(function (h) { self.wrong("hp-" + h.name, wrong === h.name); });
    this.toggleAttribute("data-wrong", !!found.problem);
    this.out.replaceChildren.apply(this.out, found.problem ? [this.problem(found.problem.message)] : this.answer(found.value));
    this.stepForm.hidden = !found.problem && found.value.trained === 0;
    if (found.problem) this.stepOut.replaceChildren(make("p", { class: "pf-muted pf-wait" }, "Nothing to train with this setting."));
    else if (this.stepForm.hidden) this.stepOut.replaceChildren(make("p", { class: "pf-muted pf-wait" }, this.untrained()));
    else this.showStep(question);
  }
  untrained() {
    var method = peft.data.methods[this.state.method], none = method.name + " trains nothing, so it has no training step.";
    if (!method.combines) return none;
    var combined = peft.combination(this.state.method, this.question());
    return none + " It combines " + number(combined.inputs) + " results of " + peft.data.methods[combined.of].name + ": the bytes of the inputs and of the merge are above.";
  }
}
/* The roles that are targeted, whatever the hyperparameters. */
function sitesNow(tool) { return peft.targets(tool.state.method, tool.question()); }

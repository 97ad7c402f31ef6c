/* What the tools share (fields, the choice of a model, the address bar), and the calculator.
   After peftonomy.js, engine.js and data.js. Text from the data or from a paste only ever becomes a text node. */
"use strict";

Object.assign(pf, (function () {
  var make = pf.make, number = pf.number, held = pf.held, percent = pf.percent, serial = 0;
  var BATCH = "1", SEQ = "512";
  var CHOSEN = [
    { field: "dtype", query: "precision", label: "Computed in", of: "dtypes" },
    { field: "optimizer", query: "optimizer", label: "Optimizer", of: "optimizers" },
    { field: "attention", query: "attention", label: "Attention", of: "attention" },
    { field: "quantized", query: "quantized", label: "Frozen matrices", of: "quantized" }
  ];
  function choices(chosen) { var known = peft.data.training[chosen.of]; return Array.isArray(known) ? known : Object.keys(known); }
  var PASTED = "pasted";   // the choice, in the list of models, of a config.json of one's own

  function scaled(value, units, base) {
    for (var i = 0; value >= 0.9995 * base && i < units.length - 1; i++) value /= base;
    return Number(value.toPrecision(3)) + units[i];
  }
  function bytes(value) { return scaled(value, [" B", " kB", " MB", " GB", " TB", " PB"], 1000); }
  /* As memory is counted, and as the command line prints it. */
  function binary(value) {
    for (var units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], i = 0; value >= 1023.5 && i < units.length - 1; i++) value /= 1024;
    return Number(value.toPrecision(4)) + " " + units[i];
  }
  function short(value) { return scaled(value, ["", " k", " M", " G", " T"], 1000); }
  function words(text) { return (text || "").split(",").map(function (w) { return w.trim(); }).filter(Boolean); }
  function quoted(word) { return /^[\w.,:=+\/-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'"; }
  /* An answer, or the error that was meant for people. */
  function tried(action) {
    try { return { value: action() }; } catch (error) { if (!error.user) throw error; return { problem: error }; }
  }

  /* A page element that holds a question in `state`, keeps it in the address and shows the answer. */
  class Tool extends HTMLElement {
    connectedCallback() {
      if (this.ready || typeof peft === "undefined" || !peft.data) return;
      this.ready = true;
      this.uid = "pf-tool-" + ++serial;
      this.query = new pf.Address();
      this.state = { model: null, text: "", config: null, task: null, labels: 2, dtype: "float32" };
      this.readModel();
      this.readStep();
      this.start();
      this.odd = this.query.note();
      if (this.odd) this.prepend(this.odd);
    }
    readModel() {
      var q = this.query, s = this.state, models = Object.keys(peft.data.models);
      s.model = q.one("model", models.concat(PASTED)) || this.getAttribute("model") || models[0];
      s.dtype = q.one("dtype", peft.dtypes) || "float32";
      s.labels = q.get("labels") || 2;
      s.task = q.get("task");
      if (q.get("config")) this.readPasted();
      var model = s.task && this.backbone();
      if (model) s.task = peft.named(model.family, s.task);
      if (model && model.tasks.indexOf(s.task) < 0) q.refuse("task", s.task, model.tasks);
    }
    readPasted() {
      var s = this.state;
      s.model = PASTED;
      s.text = this.query.get("config");
      try { s.text = JSON.stringify(JSON.parse(s.text), null, 1); } catch (error) { /* shown as it is, with what is wrong */ }
      this.readText();
    }
    /* How a step is trained, as it is asked for. */
    readStep() {
      var q = this.query, usual = peft.data.training.setting, step = this.state.step = Object.assign({ batch: q.get("batch") || BATCH, seq: q.get("seq") || SEQ }, usual);
      CHOSEN.forEach(function (c) { step[c.field] = q.one(c.query, choices(c)) || usual[c.field]; }, this);
      step.checkpointing = q.flag("checkpointing");
    }
    /* The same for engine.js: lengths as numbers, where they are some. */
    setting() {
      function whole(text) { return /^\d{1,10}$/.test(text) ? Number(text) : text; }
      var step = this.state.step;
      return Object.assign({}, step, { batch: whole(step.batch), seq: whole(step.seq) });
    }
    writeStep(query) {
      var step = this.state.step, usual = peft.data.training.setting;
      if (step.batch !== BATCH) query.set("batch", step.batch);
      if (step.seq !== SEQ) query.set("seq", step.seq);
      CHOSEN.forEach(function (c) { if (step[c.field] !== usual[c.field]) query.set(c.query, step[c.field]); });
      if (step.checkpointing) query.set("checkpointing", "1");
    }
    stepFields(changed) {
      var self = this, step = this.state.step;
      function change(name) { return function (v) { step[name] = v; changed(); }; }
      var chosen = CHOSEN.map(function (c) {
        var none = peft.data.training.setting[c.field] === null ? [["", "as they are"]] : [];
        return self.select(c.query, c.label, none.concat(choices(c).map(function (v) { return [v, v]; })), step[c.field], function (v) { step[c.field] = v || null; changed(); });
      });
      return [
        make("div", { class: "pf-pair" }, [this.input("batch", "Batch", step.batch, "number", change("batch"), "sequences"), this.input("seq", "Length", step.seq, "number", change("seq"), "tokens of each")]),
        make("div", { class: "pf-pair" }, chosen.slice(0, 2)), make("div", { class: "pf-pair" }, chosen.slice(2)),
        this.tick("checkpointing", "gradient checkpointing", step.checkpointing, change("checkpointing"), "layers keep only what they read")
      ];
    }
    /* What differs from the usual setting, as [name, value]; for code. */
    stepArguments() {
      var step = this.setting(), usual = peft.data.training.setting, found = [["batch", step.batch], ["seq", step.seq]];
      Object.keys(usual).forEach(function (name) { if (step[name] !== usual[name]) found.push([name, step[name]]); });
      return found;
    }
    /* The pasted text as a model; what is wrong with it is kept for its field. */
    readText() {
      var s = this.state, found = tried(function () { return peft.backbone({ config: s.text }); });
      s.config = found.problem ? null : s.text;
      this.wrongText = found.problem && s.text.trim() ? found.problem.message : "";
    }
    /* Whether the task's class takes a number of labels. */
    labelled() { return peft.data.tasks.labelled.indexOf(this.state.task) >= 0; }
    get pasted() { return this.state.model === PASTED; }
    /* What engine.js is asked about a model; null while there is none. */
    question(more) {
      var s = this.state, base = { task: s.task, num_labels: this.labelled() ? Number(s.labels) : 2, dtype: s.dtype };
      if (this.pasted) { if (!s.config) return null; base.config = s.config; } else base.model = s.model;
      return Object.assign(base, more);
    }
    backbone() {
      var question = this.question();
      return question && peft.backbone(question);
    }
    modelName() { var b = this.backbone(); return this.pasted ? "your config" + (b ? " (" + b.family.name + ")" : "") : b.name; }
    /* A task that the model lacks falls back to its own. */
    settle() {
      var model = this.backbone();
      if (model && model.tasks.indexOf(this.state.task) < 0) this.state.task = null;
    }
    writeModel(query) {
      var s = this.state;
      if (this.pasted) { if (s.config) query.set("config", peft.reduced(s.config)); else query.set("model", PASTED); } else query.set("model", s.model);
      if (s.task) query.set("task", s.task);
      if (this.labelled() && Number(s.labels) !== 2) query.set("labels", s.labels);
      if (s.dtype !== "float32") query.set("dtype", s.dtype);
      return query;
    }
    address(query) {
      var text = "?" + query.toString().replace(/%2C/g, ",").replace(/%3A/g, ":");
      if (this.odd) this.odd.remove();
      try { history.replaceState(null, "", text + location.hash); } catch (error) { /* an opaque origin, or too many at once */ }
    }
    /* Build the form anew and give the focus back. */
    rebuild() {
      var focus = document.activeElement && this.contains(document.activeElement) && document.activeElement.id;
      this.settle();
      this.build();
      if (focus && document.getElementById(focus)) document.getElementById(focus).focus({ preventScroll: true });
    }

    field(name, label, control, hint) {
      control.id = this.uid + "-" + name;
      var note = make("small", { id: control.id + "-note" }, hint || "");
      control.setAttribute("aria-describedby", note.id);
      return make("div", { class: "pf-field", "data-field": name }, [make("label", { for: control.id }, label), control, note]);
    }
    select(name, label, options, value, onchange, hint) {
      var control = make("select", { class: "pf-input" }, options.map(function (o) {
        return make("option", { value: o[0], selected: String(o[0]) === String(value) }, o[1]);
      }));
      control.addEventListener("change", function () { onchange(control.value); });
      return this.field(name, label, control, hint);
    }
    input(name, label, value, kind, onchange, hint) {
      var mode = { number: "numeric", decimal: "decimal" }[kind] || "text";
      var control = make("input", { class: "pf-input", type: "text", inputmode: mode, value: String(value), autocomplete: "off", spellcheck: "false" });
      control.addEventListener("input", function () { onchange(control.value.trim()); });
      return this.field(name, label, control, hint);
    }
    tick(name, label, checked, onchange, hint) {
      var box = make("input", { type: "checkbox", id: this.uid + "-" + name, checked: checked });
      box.addEventListener("change", function () { onchange(box.checked); });
      return make("div", { class: "pf-tick" }, [box, make("label", { for: box.id }, [label, hint ? make("small", {}, hint) : null])]);
    }
    /* Small buttons of which one is pressed. */
    choice(label, options, value, onchange) {
      return make("div", { class: "pf-seg", role: "group", "aria-label": label }, options.map(function (o) {
        return make("button", { type: "button", "aria-pressed": String(o[0] === value), onclick: function () { onchange(o[0]); } }, o[1]);
      }));
    }
    wrong(name, message) {
      var field = this.querySelector('[data-field="' + name + '"]');
      if (!field) return;
      var control = field.querySelector("input, select, textarea");
      control.setAttribute("aria-invalid", message ? "true" : "false");
    }

    /* Model, its pasted text, task, labels, and how numbers are stored. */
    modelFields() {
      var self = this, s = this.state, families = {}, fields = [], control = make("select", { class: "pf-input" });
      Object.keys(peft.data.models).forEach(function (id) {
        var record = peft.data.models[id], family = peft.data.families[record.config.model_type].name;
        if (!families[family]) { families[family] = make("optgroup", { label: family }); control.append(families[family]); }
        families[family].append(make("option", { value: id, selected: id === s.model }, record.name));
      });
      control.prepend(make("option", { value: PASTED, selected: this.pasted }, "A config.json of yours"));
      control.addEventListener("change", function () { s.model = control.value; self.rebuild(); self.write(); });
      fields.push(this.field("model", "Model", control));
      if (this.pasted) fields.push(this.textField());
      var model = this.backbone();
      if (model && model.tasks.length > 1) {
        var task = this.select("task", "Task", model.tasks.map(function (t) { return [t, peft.data.tasks.names[t] || t]; }), s.task || model.default_task, function (t) {
          s.task = t === model.default_task ? null : t;
          self.rebuild();
          self.write();
        });
        fields.push(!this.labelled() ? task : make("div", { class: "pf-pair" }, [task, this.input("labels", "Labels", s.labels, "number", function (v) { s.labels = v; self.show(); self.write(); })]));
      }
      return fields;
    }
    /* Made once, so that a paste keeps its place while the fields around it are built anew. */
    textField() {
      var self = this, s = this.state;
      if (!this.paste) {
        var area = make("textarea", { class: "pf-input pf-paste", rows: "6", spellcheck: "false", autocomplete: "off", placeholder: '{"model_type": "llama", "hidden_size": …}' });
        area.value = s.text;
        area.addEventListener("input", function () { s.text = area.value; self.readText(); self.rebuild(); self.write(); });
        this.paste = this.field("config", "config.json", area);
        this.paste.querySelector("small").setAttribute("role", "status");
      }
      var note = this.paste.querySelector("small"), model = this.backbone(), families = Object.keys(peft.data.families).sort().join(", ");
      this.paste.querySelector("textarea").setAttribute("aria-invalid", this.wrongText ? "true" : "false");
      note.className = this.wrongText ? "pf-error" : "";
      note.textContent = this.wrongText || (model ? model.family.name + ", " + number(model.parameters) + " parameters" : "Paste the file of a model of one of these types: " + families + ". It stays in this page.");
      return this.paste;
    }
    dtypeField() {
      var self = this, s = this.state;
      return this.select("dtype", "Stored as", peft.dtypes.map(function (d) { return [d, d]; }), s.dtype, function (v) { s.dtype = v; self.show(); self.write(); });
    }
    /* Whether memory can be counted. If not yet, what that needs is fetched, and the tool shows its answer again. */
    remembers() {
      var self = this;
      if (peft.memory) return true;
      if (!this.fetching) pf.memory(function () { self.show(); });
      this.fetching = true;
      return false;
    }
    /* Why there is no answer. */
    problem(message) { return make("p", { class: "pf-alert", role: "alert" }, message); }
    loading() { return make("p", { class: "pf-muted pf-wait" }, "Loading…"); }
    waiting() { return make("p", { class: "pf-muted pf-wait" }, this.wrongText ? "The config.json cannot be counted yet." : "Paste a config.json to get numbers."); }
  }

  /* ---- the calculator ---- */

  var RESERVED = ["method", "model", "config", "task", "labels", "dtype", "targets", "modules", "batch", "seq", "checkpointing"].concat(CHOSEN.map(function (c) { return c.query; }));
  function key(name) { return RESERVED.indexOf(name) < 0 ? name : "hp." + name; }

  class Calculator extends Tool {
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
      new IntersectionObserver(function (entries, observer) {
        if (!entries.some(function (e) { return e.isIntersecting; })) return;
        observer.disconnect();
        self.near = true;   // memory counts from here on
        self.show();
      }, { rootMargin: "600px" }).observe(this.stepForm);
      asked.forEach(function (role) { if ((s.targets || []).indexOf(role) < 0) q.refuse("the target", role, self.roles()); });
      this.build();
    }
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
      if (s.targets && (!question || !this.takesTargets() || tried(function () { return peft.targets(s.method, question); }).problem)) {
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
      if (found.problem) this.stepOut.replaceChildren(make("p", { class: "pf-muted pf-wait" }, "Nothing to train with this setting."));
      else this.showStep(question);
    }
    /* What a step of training takes. */
    showStep(question) {
      if (!this.near || !this.remembers()) { this.stepOut.replaceChildren(this.loading()); return; }
      var self = this, s = this.state, setting = this.setting(), found = tried(function () { return peft.memory(s.method, question, setting); });
      ["batch", "seq", "quantized"].forEach(function (name) { self.wrong(name, found.problem && found.problem.field === name); });
      if (found.problem) { this.stepOut.replaceChildren(make("p", { class: "pf-alert", role: "status" }, found.problem.message)); return; }
      var m = found.value, parts = peft.data.training.parts, asked = question.task || this.backbone().default_task;
      var bar = make("div", { class: "pf-stack", "aria-hidden": "true" }, parts.map(function (part) { return make("i", { class: "part--" + part }); }));
      parts.forEach(function (part, i) { bar.children[i].style.flexGrow = m[part] / m.peak; });
      var ledgers = parts.map(function (part) {
        return make("div", {}, [make("dt", {}, [make("i", { class: "pf-swatch part--" + part, "aria-hidden": "true" }), part.replace("_", " ")]),
          make("dd", {}, [binary(m[part]), make("small", {}, [self.out_(part, m[part]), " bytes"])])]);
      });
      var notes = [
        "A GPU adds about " + binary(m.gpu_extra_estimate) + " (an estimate of its context, its libraries' workspaces and fragmentation): " + binary(m.peak + m.gpu_extra_estimate) + " together.",
        m.paged ? "Optimizer states of " + binary(m.paged) + " may leave the GPU and are not in the peak." : "",
        m.task === asked ? "" : "Trained for " + peft.data.tasks.names[m.task] + ": the base model alone has no loss.",
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
        this.ledger("Backbone", this.out_("backbone", cost.backbone), bytes(cost.base_bytes) + " as it is held")
      ];
      if (cost.head) facts.push(this.ledger("New task head", this.out_("head", cost.head), "counted apart"));
      if (cost.positions) facts.push(this.ledger("Extra positions", this.out_("positions", cost.positions), "in every sequence"));
      var meter = make("div", { class: "pf-meter", "aria-hidden": "true" }, make("i", {}));
      meter.firstChild.style.width = Math.min(100, cost.percent) + "%";
      return [
        make("p", { class: "pf-big", "aria-live": "polite" }, [this.out_("trained", cost.trained), make("span", { class: "pf-big__unit" }, "trained parameters, " + percent(cost.percent) + " of " + this.modelName())]),
        meter, make("dl", { class: "pf-ledgers" }, facts), this.tensors(cost), this.layers(cost), this.foot("cost")
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
    layers(cost) {
      var body = cost.layers.map(function (l) {
        var name = l.from === null ? { outside: "outside the layers", spread: "over all places together" }[l.stack] : l.stack + " " + (l.from === l.to ? l.from : l.from + "–" + l.to);
        return make("tr", {}, [make("th", { scope: "row" }, name), make("td", { class: "n" }, number(l.from === null ? 1 : l.to - l.from + 1))].concat(
          [number(l.trained), held(l.stored, l.bits), held(l.served, l.served_bits)].map(function (t) { return make("td", { class: "n" }, t); })));
      });
      var details = make("details", { class: "pf-details pf-layers", open: this.layersOpen }, [make("summary", {}, "Per layer"), this.table("Per layer", ["Layer", "How many", "Trained in each", "Stored", "Served"], body, 1)]), self = this;
      details.addEventListener("toggle", function () { self.layersOpen = details.open; });
      return body.length ? details : null;
    }

    /* The same question (`of`: cost or memory) as a command, in Python and for peft. */
    foot(of) {
      var self = this, codes = { shell: this.shell(of), python: this.python(of), peft: of === "cost" ? this.peft() : "" };
      var shown = codes[this.code[of]] ? this.code[of] : "shell";
      var options = [["shell", "Shell"], ["python", "Python"]].concat(codes.peft ? [["peft", "peft"]] : []);
      var seg = this.choice("Copy as", options, shown, function (v) {
        self.code[of] = v;
        var made = self.foot(of);
        foot.replaceWith(made);
        made.querySelector('[aria-pressed="true"]').focus();
      });
      var foot = make("div", { class: "pf-calc__foot" }, [
        make("div", { class: "pf-calc__bar" }, [seg,
          make("button", { type: "button", class: "pf-button", "data-copy-text": codes[shown] }, "Copy"),
          make("button", { type: "button", class: "pf-button", "data-copy-address": true }, "Copy link")]),
        make("div", { class: "pf-command", tabindex: "0", role: "region", "aria-label": of === "cost" ? "The cost as code" : "The memory as code" }, codes[shown])
      ]);
      return foot;
    }
    shell(of) {
      var s = this.state, parts = ["peftonomy " + of, s.method, "--model", this.pasted ? "config.json" : s.model];
      Object.keys(s.values).forEach(function (k) { parts.push("--set", quoted(k + "=" + s.values[k])); });
      if (s.targets) parts.push("--targets", quoted(s.targets.join(",")));
      if (s.modules) parts.push("--target-modules", quoted([].concat(s.modules).join(",")));
      if (s.task) parts.push("--task", s.task);
      if (this.labelled() && Number(s.labels) !== 2) parts.push("--num-labels", s.labels);
      if (of === "memory") this.stepArguments().forEach(function (a) { parts.push("--" + a[0]); if (a[1] !== true) parts.push(quoted(a[1])); });
      else if (s.dtype !== "float32") parts.push("--dtype", s.dtype);
      return parts.join(" ");
    }
    literal(spec, value) {
      if (spec.type === "choice") return JSON.stringify(value);
      if (spec.type === "bool") return /^(true|1)$/i.test(String(value)) ? "True" : "False";
      return spec.type === "float" && /^-?\d+$/.test(String(value)) ? value + ".0" : String(value);
    }
    python(of) {
      var self = this, s = this.state, args = [JSON.stringify(this.pasted ? "./config.json" : s.model)];
      this.specs().forEach(function (h) { if (h.name in s.values) args.push(h.name + "=" + self.literal(h, s.values[h.name])); });
      if (s.targets) args.push("targets=" + list(s.targets));
      if (s.modules) args.push("target_modules=" + (s.modules === "all-linear" ? '"all-linear"' : list(s.modules)));
      if (s.task) args.push("task=" + JSON.stringify(s.task));
      if (this.labelled() && Number(s.labels) !== 2) args.push("num_labels=" + s.labels);
      if (of === "memory") this.stepArguments().forEach(function (a, i) { args.push(a[0] + "=" + (i < 2 ? a[1] : a[1] === true ? "True" : JSON.stringify(a[1]))); });
      else if (s.dtype !== "float32") args.push("dtype=" + JSON.stringify(s.dtype));
      return "import peftonomy\n\n" + of + " = peftonomy.load()[" + JSON.stringify(s.method) + "]." + of + "(" + args.join(", ") + ")";
    }
    /* peft's config, where the entry names its class and says how the hyperparameters are called there. */
    peft() {
      var self = this, s = this.state, found = peft.data.methods[s.method].libraries.hf_peft, question = this.question();
      if (!found || !/^\w+Config$/.test(found.symbol || "") || (!Object.keys(found.rename).length && this.specs().length)) return "";
      var answer = tried(function () { return { cost: peft.cost(s.method, question), names: self.takesTargets() ? peft.suffixes(s.method, question) : undefined }; }).value;
      if (!answer || answer.names === null) return "";
      var model = this.backbone(), task = s.task || model.default_task, said = coded(Object.assign({}, found.set, peft.written(s.method, question, "hf_peft")));
      this.specs().forEach(function (h) {
        var value = answer.cost.hyperparameters[h.name], name = found.rename[h.name] || (found.type ? "" : h.name);
        if (!name) return;
        put(said, name.split("."), found.counted.indexOf(name) >= 0 ? "list(range(" + value + "))" :
          found.files.indexOf(name) >= 0 ? '{str(n): f"path/to/{n}" for n in range(' + value + ")}" :
          self.literal(h, found.loud.indexOf(name) >= 0 ? String(value).toUpperCase() : value));
      });
      var args = Object.keys(said).map(function (name) { return name + "=" + written(said[name]); });
      if (answer.names && found.aimed) args.push("target_modules=" + (answer.names === "all-linear" ? '"all-linear"' : list(answer.names)));
      var known = [task].concat(peft.modules(question).computed);
      var type = peft.data.tasks.types.filter(function (t) { return known.indexOf(t.task) >= 0 && (!t.kind || t.kind === model.family.kind); })[0];
      if (type) args.push('task_type="' + type.type + '"');
      return "from peft import " + found.symbol + "\n\nconfig = " + found.symbol + "(" + args.join(", ") + ")";
    }
  }
  /* Arguments as Python has them: a text is code, an object a dictionary of such. */
  function coded(value) {
    if (Array.isArray(value)) return "[" + value.map(function (v) { return written(coded(v)); }).join(", ") + "]";
    if (value === true || value === false || value === null) return { true: "True", false: "False", null: "None" }[value];
    if (typeof value !== "object") return JSON.stringify(value);
    return Object.keys(value).reduce(function (made, key) { made[key] = coded(value[key]); return made; }, {});
  }
  function written(code) {
    return typeof code === "string" ? code : "{" + Object.keys(code).map(function (key) { return JSON.stringify(key) + ": " + written(code[key]); }).join(", ") + "}";
  }
  /* `a.b` is the key b of the dictionary a. */
  function put(made, path, code) {
    if (path.length === 1) made[path[0]] = code;
    else put(typeof made[path[0]] === "object" ? made[path[0]] : (made[path[0]] = {}), path.slice(1), code);
  }
  function list(items) { return "[" + items.map(function (i) { return JSON.stringify(i); }).join(", ") + "]"; }
  /* 6907381153792 as "6.91 × 10¹²". */
  function power(value) {
    var parts = Number(value).toExponential(2).split("e+");
    return parts[0] + " × 10" + parts[1].replace(/\d/g, function (d) { return "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]; });
  }
  /* "attn.q, attn.v, mlp.up" as "attn.q/v, mlp.up". */
  function together(roles) {
    var groups = new Map();
    roles.forEach(function (role) {
      var cut = role.lastIndexOf(".") + 1, head = role.slice(0, cut);
      groups.set(head, (groups.get(head) || []).concat(role.slice(cut)));
    });
    return Array.from(groups, function (g) { return g[0] + g[1].join("/"); }).join(", ");
  }
  /* The roles that are targeted, whatever the hyperparameters. */
  function sitesNow(tool) { return peft.targets(tool.state.method, tool.question()); }
  customElements.define("peft-calculator", Calculator);

  return { Tool: Tool, bytes: bytes, binary: binary, short: short, words: words, tried: tried, key: key };
})());

/* What the tools share: the choice of a model, how a step is trained, fields, and the address. */

var BATCH = "1", SEQ = "512";
var CHOSEN = [
  { field: "dtype", query: "precision", label: "Computed in", of: "dtypes" },
  { field: "optimizer", query: "optimizer", label: "Optimizer", of: "optimizers" },
  { field: "attention", query: "attention", label: "Attention", of: "attention" },
  { field: "quantized", query: "quantized", label: "Frozen matrices", of: "quantized" }
];
function choices(chosen) { var known = peft.data.training[chosen.of]; return Array.isArray(known) ? known : Object.keys(known); }
var PASTED = "pasted";   // the choice, in the list of models, of a config.json of one's own

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

/* What the tools share: the choice of a model, how a step is trained, and the address. */

var BATCH = "1", SEQ = "512";
var CHOSEN = [
  { field: "dtype", query: "precision", label: "Computed in", of: "dtypes" },
  { field: "optimizer", query: "optimizer", label: "Optimizer", of: "optimizers" },
  { field: "attention", query: "attention", label: "Attention", of: "attention" },
  { field: "quantized", query: "quantized", label: "Frozen matrices", of: "quantized" }
];
function choices(chosen) { var known = peft.data.training[chosen.of]; return Array.isArray(known) ? known : Object.keys(known); }
var ONE = "1";
/* How several GPUs may share a step; the first is the default. */
function kinds() { return peft.data.training.sharding.kinds; }
/* The other options of FSDP: what an empty choice means, and the other choices with the values of the setting. */
var FSDP = [
  { field: "reshard_after_forward", query: "reshard", label: "After a layer's forward pass", none: "release its weights", of: function () { return [["no", "keep them gathered"]]; }, values: { no: false } },
  { field: "reduce_dtype", query: "reduce", label: "Gradients reduced in", none: "the trained type", of: function () { return named(Object.keys(peft.data.training.sharding.reduced)); } },
  { field: "quant_storage", query: "storage", label: "NF4 is held in", none: peftStorage, of: function () { return named(peft.data.training.sharding.storage); } }
];
function named(words) { return words.map(function (w) { return [w, w]; }); }
function peftStorage() { return peft.data.training.sharding.storage[0] + ", if there is NF4"; }
var PASTED = "pasted";   // the choice, in the list of models, of a config.json of one's own

/* A page element that holds a question in `state`, keeps it in the address and shows the answer. */
class Tool extends Fields {
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
    if (q.has("seq") && !this.readsTokens()) q.odd.push("The address asks for a length of " + q.get("seq").slice(0, 60) + "; " + this.modelName() + " reads no tokens, so the length has no effect.");
    CHOSEN.forEach(function (c) { step[c.field] = q.one(c.query, choices(c)) || usual[c.field]; }, this);
    step.checkpointing = q.flag("checkpointing");
    if (!this.shares.length) return;
    step.gpus = q.get("gpus") || ONE;
    step.shard = q.one("shard", kinds()) || kinds()[0];
    this.fsdp().forEach(function (c) { step[c.field] = q.one(c.query, c.of().map(function (o) { return o[0]; })) || ""; });
  }
  /* Whether the model reads tokens, and its sequences have a length that one chooses. */
  readsTokens() {
    var question = Tool.prototype.question.call(this);   // of the model alone
    return !question || tried(function () { return peft.readsTokens(question); }).value !== false;
  }
  /* Ask for a length only where it counts. */
  showLength() { this.querySelector('[data-field="seq"]').hidden = !this.readsTokens(); }
  /* The settings of several GPUs that a tool asks for. */
  get shares() { return []; }
  fsdp() { var shares = this.shares; return FSDP.filter(function (c) { return shares.indexOf(c.field) >= 0; }); }
  /* The same for engine.js: lengths as numbers, where they are some. */
  setting() {
    function whole(text) { return /^\d{1,10}$/.test(text) ? Number(text) : text; }
    var step = this.state.step, setting = Object.assign({}, step, { batch: whole(step.batch), seq: this.readsTokens() ? whole(step.seq) : null });
    if (!this.shares.length) return setting;
    setting.gpus = step.gpus === ONE ? null : whole(step.gpus);
    if (setting.gpus === null) setting.shard = null;
    this.fsdp().forEach(function (c) { setting[c.field] = step[c.field] === "" ? null : c.values ? c.values[step[c.field]] : step[c.field]; });
    return setting;
  }
  writeStep(query) {
    var step = this.state.step, usual = peft.data.training.setting;
    if (step.batch !== BATCH) query.set("batch", step.batch);
    if (step.seq !== SEQ && this.readsTokens()) query.set("seq", step.seq);
    CHOSEN.forEach(function (c) { if (step[c.field] !== usual[c.field]) query.set(c.query, step[c.field]); });
    if (step.checkpointing) query.set("checkpointing", "1");
    if (!this.shares.length) return;
    if (step.gpus !== ONE) query.set("gpus", step.gpus);
    if (step.shard !== kinds()[0]) query.set("shard", step.shard);
    this.fsdp().forEach(function (c) { if (step[c.field] !== "") query.set(c.query, step[c.field]); });
  }
  /* The fields of several GPUs. */
  shareFields(changed) {
    var self = this, step = this.state.step;
    function change(name) { return function (v) { step[name] = v; changed(); }; }
    var fields = [make("div", { class: "pf-pair" }, [
      this.input("gpus", "GPUs", step.gpus, "number", change("gpus"), "each with such a batch"),
      this.select("shard", "Shared with", named(kinds()), step.shard, change("shard"), "if there are several")
    ])];
    var more = this.fsdp().map(function (c) {
      var none = typeof c.none === "function" ? c.none() : c.none;
      return self.select(c.field, c.label, [["", none]].concat(c.of()), step[c.field], change(c.field));
    });
    if (more.length) fields.push(make("details", { class: "pf-details", open: this.fsdp().some(function (c) { return step[c.field] !== ""; }) }, [make("summary", {}, "Options of FSDP"), make("div", { class: "pf-stepfields" }, more)]));
    return fields;
  }
  stepFields(changed) {
    var self = this, step = this.state.step;
    function change(name) { return function (v) { step[name] = v; changed(); }; }
    var chosen = CHOSEN.map(function (c) {
      var none = peft.data.training.setting[c.field] === null ? [["", "as they are"]] : [];
      return self.select(c.query, c.label, none.concat(choices(c).map(function (v) { return [v, v]; })), step[c.field], function (v) { step[c.field] = v || null; changed(); });
    });
    return [
      make("div", { class: "pf-pair" }, [this.input("batch", "Batch", step.batch, "number", change("batch"), "sequences or images"), this.input("seq", "Length", step.seq, "number", change("seq"), "tokens of each")]),
      make("div", { class: "pf-pair" }, chosen.slice(0, 2)), make("div", { class: "pf-pair" }, chosen.slice(2)),
      this.tick("checkpointing", "gradient checkpointing", step.checkpointing, change("checkpointing"), "layers keep only what they read")
    ].concat(this.shares.length ? this.shareFields(changed) : []);
  }
  /* What differs from the usual setting, as [name, value]; for code. */
  stepArguments() {
    var step = this.setting(), usual = peft.data.training.setting, found = [["batch", step.batch]].concat(step.seq === null ? [] : [["seq", step.seq]]);
    Object.keys(usual).forEach(function (name) { if (step[name] !== usual[name]) found.push([name, step[name]]); });
    if (step.gpus) found.push(["gpus", step.gpus]);
    if (step.gpus && step.shard !== kinds()[0]) found.push(["shard", step.shard]);
    this.fsdp().forEach(function (c) { if (step[c.field] !== null) found.push([c.field, step[c.field]]); });
    return found;
  }
  /* The same as options of a command. */
  stepOptions() {
    return this.stepArguments().map(function (a) {
      if (a[0] === "reshard_after_forward") return a[1] ? "--reshard" : "--no-reshard";
      return "--" + a[0].replace(/_/g, "-") + (a[1] === true ? "" : " " + quoted(String(a[1])));
    });
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
    var s = this.state;
    if (s.unknown) return null;
    var base = { task: s.task, num_labels: this.labelled() ? Number(s.labels) : 2, dtype: s.dtype };
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

  /* Model, its pasted text, task, labels, and how numbers are stored. */
  modelFields() {
    var self = this, s = this.state, fields = this.pasted ? [this.modelSwitch(), this.textField()] : [this.nameField()];
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
  /* Made once, so that typing goes on while the fields around it are built anew. */
  nameField() {
    var self = this, s = this.state, models = peft.data.models, field = this.modelField;
    if (!field) {
      var options = Object.keys(models).map(function (id) { return [models[id].name, models[id].hub || id]; });
      field = this.modelField = this.suggested("model", "Model", "", options, function (text) { self.choose(text); }, "A name, or a name on the Hugging Face Hub.");
      field.querySelector("small").setAttribute("role", "status");
      field.append(this.modelSwitch());
      this.noteModel({ ids: [s.model] });
    }
    if (s.typed === undefined) s.typed = models[s.model].name;
    if (field.querySelector("input").value.trim() !== s.typed) field.querySelector("input").value = s.typed;
    return field;
  }
  /* Name a model, or paste one. */
  modelSwitch() {
    var self = this, s = this.state;
    return make("button", { type: "button", class: "pf-link", onclick: function () {
      s.model = self.pasted ? self.getAttribute("model") || Object.keys(peft.data.models)[0] : PASTED;
      s.unknown = false;
      s.typed = self.modelField = undefined;
      self.rebuild();
      self.querySelector(self.pasted ? '[data-field="config"] textarea' : '[data-field="model"] input').focus();
      self.write();
    } }, this.pasted ? "Name a model instead" : "Paste a config.json instead");
  }
  /* Take the model that a text names, and say so where it is none or one of several. */
  choose(text) {
    var s = this.state, found = modelsNamed(text);
    s.typed = text;
    s.unknown = found.ids.length !== 1;
    this.noteModel(found);
    if (s.unknown) { this.show(); return; }
    if (found.ids[0] !== s.model) {
      s.model = found.ids[0];
      this.rebuild();
    } else this.show();
    this.write();
  }
  noteModel(found) {
    var note = this.modelField.querySelector("small"), wrong = this.state.unknown && this.state.typed;
    this.modelField.querySelector("input").setAttribute("aria-invalid", this.state.unknown ? "true" : "false");
    note.className = wrong ? "pf-error" : "";
    note.textContent = modelNote(found);
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
  waiting() { return make("p", { class: "pf-muted pf-wait" }, this.state.unknown ? "Name one model to get an answer." : this.wrongText ? "The config.json cannot be counted yet." : "Paste a config.json to get numbers."); }
}

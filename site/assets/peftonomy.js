/* The site's own behaviour, as custom elements and a few listeners. Every page reads without it.
   Text from the data only ever becomes a text node, never markup. */
"use strict";

(function () {
  function make(tag, attributes, children) {
    var node = document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (key) {
      var value = attributes[key];
      if (value === null || value === undefined || value === false) return;
      if (key.slice(0, 2) === "on") node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    });
    [].concat(children === undefined ? [] : children).forEach(function (child) {
      if (child) node.append(child);
    });
    return node;
  }
  function number(value) { return value.toLocaleString("en-US", { maximumFractionDigits: 0 }); }
  function percent(value) {
    if (value === 0) return "0 %";
    return (value >= 1 ? value.toLocaleString("en-US", { maximumFractionDigits: 2 }) : String(Number(value.toPrecision(3)))) + " %";
  }
  function bytes(value) {
    var units = ["B", "kB", "MB", "GB", "TB", "PB"], i = 0;
    while (value >= 999.5 && i < units.length - 1) { value /= 1000; i++; }
    return Number(value.toPrecision(3)) + " " + units[i];
  }

  /* ---- calculator ---- */
  var TASKS = { none: "base model", causal_lm: "language model", seq_cls: "classification" };
  var RESERVED = ["method", "model", "task", "labels", "dtype", "targets"];
  var serial = 0;

  class Calculator extends HTMLElement {
    connectedCallback() {
      if (this.ready || typeof peft === "undefined" || !peft.data) return;
      this.ready = true;
      this.uid = "pf-calc-" + ++serial;
      this.state = this.read();
      this.out = make("div", { class: "pf-calc__out" });
      this.form = make("form", { class: "pf-calc__form", "aria-label": "Setting" });
      this.form.addEventListener("submit", function (event) { event.preventDefault(); });
      this.replaceChildren(make("div", { class: "pf-calc" }, [this.form, this.out]));
      this.build();
    }

    /* State: the address bar first, then what the page says, then the first of everything. */
    read() {
      var query = new URLSearchParams(location.search), methods = Object.keys(peft.data.methods), models = Object.keys(peft.data.models);
      function known(name, list) { return list.indexOf(name) >= 0 ? name : null; }
      var state = {
        method: this.getAttribute("method") || known(query.get("method"), methods) || known(this.dataset.method, methods) || methods[0],
        model: known(query.get("model"), models) || known(this.getAttribute("model"), models) || models[0],
        dtype: known(query.get("dtype"), peft.dtypes) || "float32",
        labels: Math.max(1, parseInt(query.get("labels"), 10) || 2), task: query.get("task"),
        targets: query.get("targets") ? query.get("targets").split(",") : null, values: {}
      };
      this.clean(state);
      this.specs(state).forEach(function (s) { if (query.has(s.name)) state.values[s.name] = query.get(s.name); });
      return state;
    }
    specs(state) { return peft.data.methods[state.method].parts[0].hyperparameters; }
    clean(state) {
      var model = peft.data.models[state.model], offered = null;
      if (model.tasks.indexOf(state.task) < 0) state.task = null;
      offered = peft.roles(state.method, state.model, this.task(state));
      if (state.targets) {
        state.targets = state.targets.filter(function (r) { return offered.indexOf(r) >= 0; });
        if (!state.targets.length) state.targets = null;
      }
    }
    /* No task chosen means the model's own. */
    task(state) { return state.task || peft.data.models[state.model].default_task; }
    write() {
      var s = this.state, query = new URLSearchParams();
      if (!this.hasAttribute("method")) query.set("method", s.method);
      query.set("model", s.model);
      if (s.task) query.set("task", s.task);
      if (s.task === "seq_cls" && s.labels !== 2) query.set("labels", s.labels);
      if (s.dtype !== "float32") query.set("dtype", s.dtype);
      if (s.targets) query.set("targets", s.targets.join(","));
      Object.keys(s.values).forEach(function (k) { if (RESERVED.indexOf(k) < 0) query.set(k, s.values[k]); });
      try { history.replaceState(null, "", "?" + query.toString().replace(/%2C/g, ",") + location.hash); } catch (error) { /* an opaque origin */ }
    }

    change(key, value, rebuild) {
      this.state[key] = value;
      if (key === "method") { this.state.values = {}; this.state.targets = null; }
      if (rebuild) {
        this.clean(this.state);
        var focus = document.activeElement && document.activeElement.id;
        this.build();
        if (focus && document.getElementById(focus)) document.getElementById(focus).focus();
      } else this.show();
      this.write();
    }

    build() {
      var self = this, state = this.state, model = peft.data.models[state.model], fields = [];
      if (!this.hasAttribute("method")) {
        fields.push(this.select("method", "Method", Object.keys(peft.data.methods).map(function (id) { return [id, peft.data.methods[id].name]; }), state.method, true));
      }
      fields.push(this.modelField());
      if (model.tasks.length > 1) {
        var task = this.select("task", "Task", model.tasks.map(function (t) { return [t, TASKS[t] || t]; }), this.task(state), true);
        if (state.task === "seq_cls") {
          fields.push(make("div", { class: "pf-pair" }, [task, this.input("labels", "Labels", state.labels, "number", function (v) { self.change("labels", Math.max(1, parseInt(v, 10) || 1)); })]));
        } else fields.push(task);
      }
      var specs = this.specs(state).map(function (s) { return self.hyperparameter(s); });
      for (var i = 0; i < specs.length; i += 2) fields.push(specs[i + 1] ? make("div", { class: "pf-pair" }, specs.slice(i, i + 2)) : specs[i]);
      fields.push(this.targetField());
      fields.push(this.select("dtype", "Stored as", peft.dtypes.map(function (d) { return [d, d]; }), state.dtype));
      this.form.replaceChildren.apply(this.form, fields.filter(Boolean));
      this.show();
    }
    field(name, label, control, hint) {
      control.id = this.uid + "-" + name;
      var note = make("small", { id: control.id + "-note" }, hint || "");
      control.setAttribute("aria-describedby", note.id);
      return make("div", { class: "pf-field", "data-field": name }, [make("label", { for: control.id }, label), control, note]);
    }
    select(name, label, options, value, rebuild) {
      var self = this, control = make("select", { class: "pf-input" }, options.map(function (o) {
        return make("option", { value: o[0], selected: String(o[0]) === String(value) }, o[1]);
      }));
      control.addEventListener("change", function () { self.change(name, control.value, rebuild); });
      return this.field(name, label, control);
    }
    input(name, label, value, type, onchange, hint) {
      var control = make("input", { class: "pf-input", type: "text", inputmode: type === "number" ? "numeric" : "decimal", value: value, autocomplete: "off", spellcheck: "false" });
      control.addEventListener("input", function () { onchange(control.value); });
      return this.field(name, label, control, hint);
    }
    modelField() {
      var self = this, families = {}, control = make("select", { class: "pf-input" });
      Object.keys(peft.data.models).forEach(function (id) {
        var model = peft.data.models[id];
        if (!families[model.family]) { families[model.family] = make("optgroup", { label: model.family }); control.append(families[model.family]); }
        families[model.family].append(make("option", { value: id, selected: id === self.state.model }, model.name));
      });
      control.addEventListener("change", function () { self.change("model", control.value, true); });
      return this.field("model", "Model", control);
    }
    hyperparameter(spec) {
      var self = this, value = this.state.values[spec.name];
      function set(v) {
        if (v === "") delete self.state.values[spec.name]; else self.state.values[spec.name] = v;
        self.change("values", self.state.values);
      }
      var options = spec.type === "bool" ? [["true", "yes"], ["false", "no"]] : spec.type === "choice" ? spec.values.map(function (v) { return [v, v]; }) : null;
      if (options) {
        var control = make("select", { class: "pf-input" }, options.map(function (o) {
          return make("option", { value: o[0], selected: o[0] === String(value === undefined ? spec.default : value) }, o[1]);
        }));
        control.addEventListener("change", function () { set(control.value); });
        return this.field("hp-" + spec.name, spec.name, control, spec.meaning);
      }
      var shown = value === undefined ? (spec.formula === null ? spec.default : "") : value;
      var field = this.input("hp-" + spec.name, spec.name, shown, spec.type === "int" ? "number" : "decimal", set, spec.meaning);
      if (spec.formula !== null) field.querySelector("input").placeholder = spec.default;
      return field;
    }
    targetField() {
      var self = this, state = this.state, offered = peft.roles(state.method, state.model, this.task(state));
      if (!offered.length) return null;
      var current = state.targets;
      if (!current) { try { current = peft.cost(state.method, this.question({})).targets; } catch (error) { current = []; } }
      var chips = offered.map(function (role) {
        var box = make("input", { type: "checkbox", value: role, id: self.uid + "-role-" + role, checked: current.indexOf(role) >= 0 });
        box.addEventListener("change", function () {
          var chosen = [].map.call(self.form.querySelectorAll(".pf-chip input:checked"), function (b) { return b.value; });
          self.change("targets", chosen.length ? chosen : null, !chosen.length);
        });
        return make("label", { class: "pf-chip" }, [box, make("span", {}, role)]);
      });
      return make("fieldset", {}, [make("legend", {}, "Target modules"), make("div", { class: "pf-chips" }, chips)]);
    }

    question(values) {
      var s = this.state;
      return { model: s.model, task: this.task(s), num_labels: s.labels, targets: s.targets, dtype: s.dtype, values: values || s.values };
    }
    show() {
      var self = this, cost = null, problem = null;
      try { cost = peft.cost(this.state.method, this.question()); } catch (error) { if (!error.user) throw error; problem = error; }
      [].forEach.call(this.form.querySelectorAll("[data-field]"), function (field) {
        var control = field.querySelector("input, select"), wrong = problem && problem.field && field.dataset.field === "hp-" + problem.field;
        if (control) control.setAttribute("aria-invalid", wrong ? "true" : "false");
      });
      this.toggleAttribute("data-wrong", !!problem);
      if (problem) {
        this.out.replaceChildren(make("p", { class: "pf-alert", role: "alert" }, problem.message));
        return;
      }
      this.out.replaceChildren.apply(this.out, this.answer(cost));
    }
    ledger(name, value, note) { return make("div", {}, [make("dt", {}, name), make("dd", {}, [value, note ? make("small", {}, note) : null])]); }
    answer(cost) {
      var s = this.state, model = peft.data.models[s.model];
      var bits = cost.stored_bits ? " and " + number(cost.stored_bits) + " mask bits" : "";
      var facts = [
        this.ledger("Stored per task", make("span", { "data-out": "stored" }, number(cost.stored)), bytes(cost.stored_bytes) + " in " + s.dtype + bits),
        this.ledger("Served beside the model", make("span", { "data-out": "served" }, number(cost.served)), cost.served ? "numbers kept at inference" : "nothing stays"),
        this.ledger("Backbone", make("span", { "data-out": "backbone" }, number(cost.backbone)), bytes(cost.base_bytes) + " as it is held")
      ];
      if (cost.head) facts.push(this.ledger("New task head", make("span", { "data-out": "head" }, number(cost.head)), "counted apart"));
      var meter = make("div", { class: "pf-meter", "aria-hidden": "true" }, make("i", {}));
      meter.firstChild.style.width = Math.min(100, cost.percent) + "%";
      return [
        make("p", { class: "pf-big", "aria-live": "polite" }, [make("span", { "data-out": "trained" }, number(cost.trained)), make("span", { class: "pf-big__unit" }, "trained parameters, " + percent(cost.percent) + " of " + model.name)]),
        meter, make("dl", { class: "pf-ledgers" }, facts), this.table(cost), this.foot()
      ];
    }
    table(cost) {
      var head = make("tr", {}, ["Tensor", "Roles", "Shape", "Sites", "Trained", "Stored"].map(function (t, i) { return make("th", { scope: "col", class: i > 2 ? "n" : null }, t); }));
      var rows = cost.tensors.map(function (t) {
        return make("tr", {}, [
          make("th", { scope: "row" }, make("code", {}, t.name)), make("td", {}, t.roles.join(", ") || t.per),
          make("td", { class: "pf-num" }, t.shape ? t.shape.map(number).join(" × ") || "1" : number(t.count)),
          make("td", { class: "n" }, number(t.sites)), make("td", { class: "n" }, number(t.trained)),
          make("td", { class: "n" }, t.stored_bits ? number(t.stored_bits) + " bits" : number(t.stored))
        ]);
      });
      return make("div", { class: "pf-scroll", tabindex: "0", role: "region", "aria-label": "Per tensor" },
        make("table", { class: "pf-table" }, [make("thead", {}, head), make("tbody", {}, rows)]));
    }
    foot() {
      var s = this.state, model = peft.data.models[s.model];
      var set = Object.keys(s.values), flags = set.map(function (k) { return "--set " + k + "=" + s.values[k]; });
      if (s.targets) flags.push("--targets " + s.targets.join(","));
      if (s.task && s.task !== model.default_task) flags.push("--task " + s.task);
      if (s.task === "seq_cls" && s.labels !== 2) flags.push("--num-labels " + s.labels);
      var command = ["peftonomy cost", s.method, "--model", s.model].concat(flags).join(" ");
      var pairs = set.map(function (k) {
        var spec = this.specs(s).filter(function (h) { return h.name === k; })[0], v = s.values[k];
        return k + "=" + (spec.type === "choice" ? JSON.stringify(v) : spec.type === "bool" ? (String(v) === "true" ? "True" : "False") : v);
      }, this);
      if (s.targets) pairs.push("targets=" + JSON.stringify(s.targets));
      if (s.task && s.task !== model.default_task) pairs.push("task=" + JSON.stringify(s.task));
      if (s.task === "seq_cls" && s.labels !== 2) pairs.push("num_labels=" + s.labels);
      if (s.dtype !== "float32") pairs.push("dtype=" + JSON.stringify(s.dtype));
      var python = 'peftonomy.load()["' + s.method + '"].cost(' + [JSON.stringify(s.model)].concat(pairs).join(", ") + ")";
      return make("div", { class: "pf-calc__foot" }, [
        make("div", { class: "pf-command", tabindex: "0", role: "region", "aria-label": "The same as a command" }, command),
        make("button", { type: "button", class: "pf-button", "data-copy-text": command }, "Copy command"),
        make("button", { type: "button", class: "pf-button", "data-copy-text": python }, "Copy Python"),
        make("button", { type: "button", class: "pf-button", "data-copy-address": true }, "Copy link")
      ]);
    }
  }
  customElements.define("peft-calculator", Calculator);

  /* ---- taxonomy picture ---- */
  class Graph extends HTMLElement {
    connectedCallback() {
      if (this.ready) return;
      this.svg = this.querySelector("svg");
      if (!this.svg) return;
      this.ready = true;
      var self = this;
      this.links = [].slice.call(this.svg.querySelectorAll("[data-id]"));
      this.edges = [].slice.call(this.svg.querySelectorAll(".edge"));
      this.byId = {};
      this.links.forEach(function (link) { self.byId[link.dataset.id] = link; });
      this.panel = document.querySelector("[data-graph-panel]");
      this.welcome = this.panel && [].slice.call(this.panel.childNodes);
      this.links.forEach(function (link) {
        link.addEventListener("pointerenter", function () { self.focusOn(link); });
        link.addEventListener("focus", function () { self.focusOn(link); });
        link.addEventListener("pointerleave", function () { if (!self.pinned) self.focusOn(null); });
      });
      this.svg.addEventListener("keydown", function (event) { self.step(event); });
      this.svg.addEventListener("focusout", function () { self.focusOn(null); });
      this.find = document.getElementById("pf-graph-find");
      this.type = document.getElementById("pf-graph-type");
      [this.find, this.type].forEach(function (control) { if (control) control.addEventListener("input", function () { self.filter(); }); });
      var wanted = decodeURIComponent(location.hash.slice(1));
      if (this.byId[wanted]) { this.pinned = true; this.focusOn(this.byId[wanted]); }
    }
    focusOn(link) {
      var id = link && link.dataset.id, near = {};
      this.svg.classList.toggle("is-focused", !!link);
      this.edges.forEach(function (edge) {
        var from = edge.dataset.from === id, to = edge.dataset.to === id, off = edge.classList.contains("off");
        edge.classList.toggle("from", from && !off);
        edge.classList.toggle("to", to && !off);
        if (from && !off) near[edge.dataset.to] = 1;
        if (to && !off) near[edge.dataset.from] = 1;
      });
      this.links.forEach(function (other) {
        other.classList.toggle("on", other === link);
        other.classList.toggle("near", !!near[other.dataset.id]);
      });
      this.describe(link);
    }
    describe(link) {
      if (!this.panel) return;
      if (!link) { this.panel.replaceChildren.apply(this.panel, this.welcome); return; }
      var data = link.dataset, self = this, items = [];
      this.edges.forEach(function (edge) {
        var from = edge.dataset.from === data.id;
        if ((!from && edge.dataset.to !== data.id) || edge.classList.contains("off")) return;
        var other = self.byId[from ? edge.dataset.to : edge.dataset.from];
        items.push(make("li", { class: from ? "from" : "to" }, [(from ? edge.dataset.label : edge.dataset.inverse) + " ", make("strong", {}, self.nameOf(other))]));
      });
      this.panel.replaceChildren(
        make("h3", {}, this.nameOf(link)),
        make("p", { class: "pf-small pf-muted" }, data.year || "no entry yet"),
        make("p", {}, data.summary || ""), items.length ? make("ul", { "data-relations": true }, items) : ""
      );
    }
    nameOf(link) { return link.dataset.name || link.querySelector("text").textContent; }
    step(event) {
      var move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!move) return;
      var stops = this.links.filter(function (l) { return l.hasAttribute("href") && !l.classList.contains("off"); });
      var at = stops.indexOf(document.activeElement);
      if (at < 0) return;
      event.preventDefault();
      stops[(at + move + stops.length) % stops.length].focus();
    }
    filter() {
      var words = (this.find ? this.find.value : "").toLowerCase().trim(), type = this.type ? this.type.value : "", hits = [];
      this.links.forEach(function (link) {
        var text = [link.dataset.name, link.dataset.id, link.dataset.year, link.dataset.summary, link.textContent].join(" ").toLowerCase();
        var off = words && text.indexOf(words) < 0;
        link.classList.toggle("off", !!off);
        if (!off) hits.push(link);
      });
      this.edges.forEach(function (edge) { edge.classList.toggle("off", !!type && edge.dataset.type !== type); });
      this.focusOn(words && hits.length === 1 ? hits[0] : null);
    }
  }
  customElements.define("peft-graph", Graph);

  /* ---- small things ---- */
  function copy(text, button) {
    function done() {
      var before = button.textContent;
      button.textContent = "Copied";
      setTimeout(function () { button.textContent = before; }, 1200);
    }
    function byHand() {
      var area = make("textarea", { readonly: true, class: "pf-visually-hidden" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      done();
    }
    if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).then(done, byHand); else byHand();
  }
  /* The theme's drawer and search hang on hidden check boxes, which real buttons press. */
  function press(id) {
    var toggle = document.getElementById(id), input = document.querySelector(".md-search__input");
    if (toggle && !toggle.checked) toggle.click();
    if (id === "__search" && input) input.focus();
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest && event.target.closest("button");
    if (!button) return;
    if (button.dataset.copy) copy(document.getElementById(button.dataset.copy).textContent, button);
    else if (button.dataset.copyText !== undefined) copy(button.dataset.copyText, button);
    else if (button.dataset.copyAddress !== undefined) copy(location.href, button);
    else if (button.dataset.press) press(button.dataset.press);
  });

  [].forEach.call(document.querySelectorAll("[data-filter]"), function (input) {
    var box = document.getElementById(input.dataset.filter), note = document.querySelector('[data-filter-count="' + input.dataset.filter + '"]');
    var rows = [].slice.call(box.querySelectorAll("[data-filter-row], tbody tr:not(.pf-group)"));
    function filter() {
      var words = input.value.toLowerCase().split(/\s+/).filter(Boolean), shown = 0;
      rows.forEach(function (row) {
        var text = row.textContent.toLowerCase();
        row.hidden = !words.every(function (w) { return text.indexOf(w) >= 0; });
        if (!row.hidden) shown++;
      });
      [].forEach.call(box.querySelectorAll("tbody"), function (body) {
        body.hidden = !body.querySelector("tr:not(.pf-group):not([hidden])");
      });
      note.textContent = words.length ? shown + " of " + rows.length : "";
    }
    input.addEventListener("input", filter);
    filter();
  });
})();

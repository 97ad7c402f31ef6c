/* Methods side by side on one model: a table to sort, a picture of the three ledgers, the same budget for all, and the
   table as CSV and LaTeX. After calculator.js. */
"use strict";

(function () {
  var make = pf.make, number = pf.number, MOST = 6, BUDGET = "10M", TOGETHER = 3, here = document.currentScript.src;
  var SVG = "http://www.w3.org/2000/svg";
  var YES = { exact: "exactly", approximate: "nearly", none: "no" };

  /* What a row shows of an answer: `value` to sort by, `text` to read. */
  function amount(key, bits) {
    return { value: function (a) { return a.cost[key]; }, text: function (a) { return bits ? pf.held(a.cost[key], a.cost[bits]) : number(a.cost[key]); }, cost: true, n: true };
  }
  function fact(read) { return { value: read, text: read }; }
  var COSTS = [
    ["trained", "Trained", amount("trained")],
    ["percent", "% of the model", { value: function (a) { return a.cost.percent; }, text: function (a) { return pf.percent(a.cost.percent); }, cost: true, n: true }],
    ["stored", "Stored", amount("stored", "stored_bits")],
    ["stored_bytes", "Checkpoint", { value: function (a) { return a.cost.stored_bytes; }, text: function (a) { return pf.bytes(a.cost.stored_bytes); }, cost: true, n: true }],
    ["served", "Served", amount("served", "served_bits")],
    ["positions", "Extra positions", amount("positions")],
    ["base_bytes", "Model as held", { value: function (a) { return a.cost.base_bytes; }, text: function (a) { return pf.bytes(a.cost.base_bytes); }, cost: true, n: true }]
  ];
  /* Of a training step: the peak and what it is made of. */
  function steps() {
    return ["peak"].concat(peft.data.training.parts).map(function (part) {
      return [part, part === "peak" ? "Peak memory" : part.charAt(0).toUpperCase() + part.slice(1).replace("_", " "), {
        value: function (a) { return a.memory[part]; }, text: function (a) { return pf.binary(a.memory[part]); }, step: true, n: true
      }];
    });
  }
  /* Whether an answer lacks what a row shows. */
  function lacks(show, a) { return (show.cost && !a.cost) || (show.step && !a.memory); }
  var FACTS = [
    ["year", "Year", fact(function (a) { return String(a.method.year); })],
    ["category", "Category", fact(function (a) { return peft.data.categories[a.method.category]; })],
    ["merge", "Merges", fact(function (a) { return YES[a.method.merge]; })],
    ["identity", "Equals the model at first", fact(function (a) { return YES[a.method.identity]; })],
    ["quantised", "Quantised model", fact(function (a) { return a.method.quantised ? "yes" : "no"; })]
  ];
  function facets() {
    var aspects = peft.aspects();
    return Object.keys(aspects).filter(function (k) { return k !== "merge" && k !== "identity_at_init" && k !== "quantised"; }).map(function (k) {
      return [k, aspects[k].name, fact(function (a) { return peft.traits(a.id)[k].phrase; })];
    });
  }
  var SUPPORT = [["libraries", "Libraries and trainers", fact(function (a) {
    var names = peft.choices.libraries[a.id].map(function (k) { return peft.choices.names[k]; });
    return names.concat("official" in a.method.libraries ? peft.data.libraries.official : []).join(", ") || "none known";
  })]];

  /* Fetch the card of a method once. */
  function carded(id, then) {
    if (peft.cards[id]) { then(); return; }
    var script = make("script", { src: new URL("cards/" + id + ".js", here).href });
    script.addEventListener("load", then);
    document.head.append(script);
  }

  function draw(tag, attributes, text) {
    var node = document.createElementNS(SVG, tag);
    Object.keys(attributes).forEach(function (k) { node.setAttribute(k, attributes[k]); });
    if (text !== undefined) node.textContent = text;
    return node;
  }

  /* The width inside a box's padding, so that a chart is drawn at its own scale. The box must be shown. */
  function room(box) {
    var style = getComputedStyle(box);
    return Math.max(260, box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
  }

  class Compare extends pf.Tool {
    start() {
      var q = this.query, s = this.state, all = Object.keys(peft.data.methods), asked = q.has("methods") ? q.get("methods") : this.dataset.methods;
      s.methods = Array.from(new Set(pf.words(asked))).filter(function (id) {
        if (all.indexOf(id) < 0) q.refuse("the method", id, all);
        return all.indexOf(id) >= 0;
      });
      if (s.methods.length > MOST) q.odd.push("The address asks for " + s.methods.length + " methods; shown are the first " + MOST + ".");
      s.methods = s.methods.slice(0, MOST);
      s.iso = q.has("budget");
      s.budget = q.get("budget") || BUDGET;
      s.diff = q.flag("diff");
      s.sort = q.one("sort", this.rows().map(function (r) { return r[0]; })) || "";
      s.desc = q.flag("desc");
      s.values = {};
      all.forEach(function (id) {
        s.values[id] = {};
        peft.data.methods[id].parts[0].hyperparameters.forEach(function (h) { if (q.has(id + "." + h.name)) s.values[id][h.name] = q.get(id + "." + h.name); });
      });
      this.form = make("form", { class: "pf-compare__form", "aria-label": "What to compare" });
      this.form.addEventListener("submit", function (event) { event.preventDefault(); });
      this.out = make("div", { class: "pf-compare__out" });
      this.replaceChildren(make("div", { class: "pf-compare" }, [this.form, this.out]));
      this.settle();
      this.build();
      var self = this, width = 0;
      if (window.ResizeObserver) new ResizeObserver(function () {
        if (!self.answers || Math.abs(self.out.clientWidth - width) <= 2) return;
        width = self.out.clientWidth;
        self.plot();
        self.bars();
      }).observe(this.out);
    }
    write() {
      var s = this.state, query = new URLSearchParams();
      query.set("methods", s.methods.join(","));
      this.writeModel(query);
      s.methods.forEach(function (id) { Object.keys(s.values[id]).forEach(function (k) { query.set(id + "." + k, s.values[id][k]); }); });
      if (s.iso) query.set("budget", s.budget);
      if (s.diff) query.set("diff", "1");
      if (s.sort) query.set("sort", s.sort);
      if (s.sort && s.desc) query.set("desc", "1");
      this.writeStep(query);
      this.address(query);
    }
    build() {
      var self = this, s = this.state;
      var budget = this.input("budget", "Trained in each", s.budget, "text", function (v) { s.budget = v; self.show(); self.write(); });
      budget.hidden = !s.iso;
      var ticks = make("div", { class: "pf-compare__ticks" }, [
        this.tick("iso", "the same budget for all", s.iso, function (on) { s.iso = on; budget.hidden = !on; self.show(); self.write(); }, "the largest setting that stays below it"),
        budget,
        this.tick("diff", "only what differs", s.diff, function (on) { s.diff = on; self.show(); self.write(); })
      ]);
      this.form.replaceChildren.apply(this.form, [
        make("div", { class: "pf-compare__model" }, this.modelFields().concat(this.dtypeField())), this.picker(), ticks, this.stepBox()
      ]);
      this.show();
    }
    /* Made once, so that it stays open. */
    stepBox() {
      var self = this;
      if (!this.steps) {
        this.steps = make("details", { class: "pf-details pf-compare__step", open: ["batch", "seq"].some(function (k) { return self.query.has(k); }) }, [
          make("summary", {}, "Training step"),
          make("div", { class: "pf-compare__stepfields" }, this.stepFields(function () { self.show(); self.write(); }))
        ]);
      }
      return this.steps;
    }
    /* A text field with suggestions rather than a list that acts at every arrow key. */
    picker() {
      var self = this, s = this.state, all = peft.data.methods, id = this.uid + "-known";
      var list = make("datalist", { id: id }, Object.keys(all).map(function (k) { return make("option", { value: all[k].name }, k); }));
      var box = make("input", { class: "pf-input", type: "text", list: id, autocomplete: "off", placeholder: "a name, such as " + all[Object.keys(all)[0]].name });
      var field = this.field("add", "Add a method (up to " + MOST + ")", box), note = field.querySelector("small");
      note.setAttribute("role", "status");
      function add() {
        var asked = box.value.trim().toLowerCase(), found = Object.keys(all).filter(function (k) { return k === asked || all[k].name.toLowerCase() === asked; });
        if (!found.length) found = Object.keys(all).filter(function (k) { return all[k].name.toLowerCase().indexOf(asked) >= 0 || k.indexOf(asked) >= 0; });
        var message = !asked ? "" : !found.length ? "No method is called " + box.value.trim() + "." : found.length > 1 ? "Several: " + found.slice(0, 6).map(function (k) { return all[k].name; }).join(", ") + "." :
          s.methods.indexOf(found[0]) >= 0 ? all[found[0]].name + " is in already." : s.methods.length >= MOST ? "You can compare up to six methods. Remove one first." : null;
        note.textContent = message === null ? all[found[0]].name + " added." : message;
        if (message !== null) return;
        s.methods.push(found[0]);
        box.value = "";
        self.show();
        self.write();
      }
      box.addEventListener("keydown", function (event) { if (event.key === "Enter") { event.preventDefault(); add(); } });
      field.insertBefore(make("div", { class: "pf-add" }, [box, list, make("button", { type: "button", class: "pf-button", onclick: add }, "Add"),
        make("button", { type: "button", class: "pf-button", "data-clear": true, onclick: function () { self.clear(); } }, "Clear all")]), note);
      return field;
    }
    clear() {
      this.state.methods = [];
      this.show();
      this.write();
      this.querySelector("#" + this.uid + "-add").focus();
    }
    remove(id) {
      var s = this.state;
      s.methods = s.methods.filter(function (m) { return m !== id; });
      this.show();
      this.write();
      var next = this.querySelector("[data-remove]") || this.querySelector("#" + this.uid + "-add");
      next.focus();
    }

    /* One record a method: its answer, or why there is none. */
    ask(id, question, budget) {
      var method = peft.data.methods[id], given = Object.assign({}, question, { values: this.state.values[id] });
      var found = pf.tried(function () {
        if (budget === null) return { cost: peft.cost(id, given) };
        var best = peft.largest(id, given, { trained: budget });
        if (best.cost && best.name) given.values = Object.assign({}, given.values, { [best.name]: best.value });
        if (best.cost) return best;
        return { problem: "trains " + number(best.least.trained) + (best.name ? " at its smallest (" + best.name + " = " + best.value + ")" : " whatever is set") };
      });
      var cost = found.value && found.value.cost, setting = this.setting(), step = cost && this.remembers() ? pf.tried(function () { return peft.memory(id, given, setting); }) : {};
      return {
        id: id, method: method, cost: cost, problem: found.problem ? found.problem.message : found.value.problem,
        memory: step.value, unknown: step.problem && step.problem.message, wrong: step.problem && step.problem.field
      };
    }
    show() {
      var self = this, s = this.state, question = this.question(), budget = s.iso ? peft.quantity(s.budget) : null;
      this.answers = null;
      this.wrong("budget", s.iso && !budget);
      if (!s.methods.length) { this.out.replaceChildren(make("p", { class: "pf-muted" }, "Add two methods or more.")); return; }
      this.showLength();
      this.querySelector("[data-clear]").hidden = s.methods.length < 2;
      if (!question) { this.out.replaceChildren(this.waiting(), this.chips()); return; }
      if (s.iso && !budget) { this.out.replaceChildren(this.problem("A budget is a number such as 10M, 250k or 1e6.")); return; }
      this.answers = s.methods.map(function (id) { return self.ask(id, question, budget); });
      ["batch", "seq"].forEach(function (name) { self.wrong(name, self.answers.some(function (a) { return a.wrong === name; })); });
      this.order();
      var focus = document.activeElement && this.out.contains(document.activeElement) && document.activeElement.id;
      this.ledgers = make("div", { class: "pf-plot" });
      this.stacks = make("div", { class: "pf-plot pf-plot--memory" });
      this.out.replaceChildren(this.words(), make("h2", { class: "pf-compare__title" }, "On " + this.modelName()), this.ledgers, this.stacks, this.table(), this.exports());
      this.plot();
      this.bars();
      if (focus && document.getElementById(focus)) document.getElementById(focus).focus({ preventScroll: true });
    }
    /* The methods in words: how they differ, and for each what it does. Made again only for other methods. */
    words() {
      var self = this, ids = this.state.methods, key = ids.join(",");
      if (this.said && this.said.key === key) return this.said.node;
      var node = make("section", { class: "pf-inwords" }, [this.differences(ids), make("div", { class: "pf-cards" }, ids.map(function (id) { return self.card(id); }))]);
      this.said = { key: key, node: node };
      return node;
    }
    /* A sentence for each difference: of all together, or where there are many, of each and the first. */
    differences(ids) {
      function list(chosen) {
        var found = peft.comparedInWords(chosen);
        return [make("ul", { class: "pf-differences" }, found.differences.map(function (d) { return make("li", { "data-aspect": d.aspect }, [make("strong", {}, d.name + ": "), d.sentence]); })),
          make("p", { class: "pf-small pf-muted" }, found.same.length ? "They agree in: " + found.same.map(function (name) { return name.charAt(0).toLowerCase() + name.slice(1); }).join(", ") + "." : "They agree in nothing here.")];
      }
      if (ids.length < 2) return make("p", { class: "pf-muted" }, "Add another method to see how they differ.");
      var title = make("h2", { class: "pf-compare__title" }, "How they differ");
      if (ids.length <= TOGETHER) return make("div", {}, [title].concat(list(ids)));
      return make("div", {}, [title].concat(ids.slice(1).map(function (id) {
        return make("details", { class: "pf-details" }, [make("summary", {}, peft.data.methods[ids[0]].name + " and " + peft.data.methods[id].name)].concat(list([ids[0], id])));
      })));
    }
    card(id) {
      var traits = peft.traits(id), method = peft.data.methods[id], body = make("div", { class: "pf-card__body" });
      var facts = ["trains", "freezes", "init", "targets", "merge"].filter(function (k) { return traits[k]; }).map(function (k) {
        var phrase = traits[k].phrase;
        return make("li", {}, phrase.charAt(0).toUpperCase() + phrase.slice(1) + ".");
      });
      carded(id, function () {
        var parsed = new DOMParser().parseFromString(peft.cards[id], "text/html");   // made by the build; a script in it does not run
        body.replaceChildren.apply(body, Array.from(parsed.body.childNodes));
      });
      return make("article", { class: "pf-card", "data-card": id }, [
        make("h3", {}, [make("span", { class: "pf-dot hue-" + method.hue, "aria-hidden": "true" }), " ", make("a", { href: "methods/" + id + ".html" }, method.name)]),
        make("p", {}, method.summary), body, make("ul", { class: "pf-card__facts" }, facts)
      ]);
    }
    chips() {
      return make("p", { class: "pf-small" }, "Chosen: " + this.state.methods.map(function (id) { return peft.data.methods[id].name; }).join(", "));
    }
    stepName() { return "batch " + this.state.step.batch + (this.readsTokens() ? " × " + this.state.step.seq : ""); }
    groups() { return [["Cost", COSTS], ["Training step, " + this.stepName(), steps()], ["What it is", FACTS.concat(facets())], ["Where to get it", SUPPORT]]; }
    rows() { return [].concat.apply([], this.groups().map(function (g) { return g[1]; })); }
    order() {
      var s = this.state, row = this.rows().filter(function (r) { return r[0] === s.sort; })[0];
      if (!row) { s.sort = ""; return; }
      var sign = s.desc ? -1 : 1;
      this.answers = this.answers.map(function (a, i) { return [a, i]; }).sort(function (x, y) {
        var none = [x, y].map(function (pair) { return Number(Boolean(lacks(row[2], pair[0]))); });
        if (none[0] || none[1]) return none[0] - none[1] || x[1] - y[1];
        var a = row[2].value(x[0]), b = row[2].value(y[0]);
        return (a < b ? -sign : a > b ? sign : 0) || x[1] - y[1];
      }).map(function (pair) { return pair[0]; });
    }

    table() {
      var self = this, s = this.state, columns = this.answers.length + 1, different = 0;
      var head = make("tr", {}, [make("td", { class: "pf-corner" }, "")].concat(this.answers.map(function (a) {
        return make("th", { scope: "col" }, [
          make("span", { class: "pf-dot hue-" + a.method.hue, "aria-hidden": "true" }), " ", make("a", { href: "methods/" + a.id + ".html" }, a.method.name),
          make("button", { type: "button", class: "pf-remove", "data-remove": a.id, id: self.uid + "-remove-" + a.id, "aria-label": "Remove " + a.method.name, onclick: function () { self.remove(a.id); } }, "×")
        ]);
      })));
      var bodies = this.groups().map(function (group) {
        var rows = group[1].map(function (r) { return self.row(r); }).filter(Boolean);
        if (group[0] === "Cost") rows.unshift(self.settings());
        different += rows.length;
        return rows.length ? make("tbody", {}, [make("tr", { class: "pf-group" }, make("th", { colspan: String(columns), scope: "rowgroup" }, group[0]))].concat(rows)) : null;
      });
      return make("div", { class: "pf-scroll", tabindex: "0", role: "region", "aria-label": "Comparison" },
        make("table", { class: "pf-table pf-compared" }, [make("caption", { class: "pf-visually-hidden" }, "Methods in columns; a button in each row sorts them by it"), make("thead", {}, head)].concat(bodies.filter(Boolean))));
    }
    row(r) {
      var self = this, s = this.state, show = r[2], texts = this.answers.map(function (a) { return lacks(show, a) ? null : show.text(a); });
      if (s.diff && this.answers.length > 1 && texts.every(function (t) { return t === texts[0]; })) return null;
      var sorted = s.sort === r[0], sort = sorted ? (s.desc ? "descending" : "ascending") : "none";
      var button = make("button", { type: "button", class: "pf-rowsort", id: this.uid + "-sort-" + r[0], onclick: function () {
        if (s.sort === r[0]) s.desc = !s.desc; else { s.sort = r[0]; s.desc = false; }
        self.show();
        self.write();
      } }, [r[1], make("span", { class: "pf-rowsort__mark", "aria-hidden": "true" }, sorted ? (s.desc ? "▾" : "▴") : "▸")]);
      var counts = show.n ? this.answers.filter(function (a) { return !lacks(show, a); }).map(show.value) : [];
      var least = new Set(counts).size > 1 ? Math.min.apply(null, counts) : null;
      return make("tr", { "data-row": r[0] }, [make("th", { scope: "row", "aria-sort": sort }, button)].concat(this.answers.map(function (a, i) {
        if (texts[i] === null) return make("td", { class: "pf-muted" }, (r[0] === "trained" && a.problem) || (r[0] === "peak" && a.unknown) || (show.step && !peft.memory ? "…" : "–"));
        return make("td", { title: show.step ? number(show.value(a)) + " bytes" : null, class: least !== null && show.value(a) === least ? "pf-least" : null }, texts[i]);
      })));
    }
    /* The size of each method can be changed in its column, unless the budget says it. */
    settings() {
      var self = this, s = this.state;
      return make("tr", { "data-row": "setting" }, [make("th", { scope: "row" }, make("span", { class: "pf-rowsort" }, "Setting"))].concat(this.answers.map(function (a) {
        var size = a.method.size, own = s.values[a.id], specs = a.method.parts[0].hyperparameters, all = a.cost ? a.cost.hyperparameters : {}, cell = [];
        if (size && !s.iso) {
          var spec = specs.filter(function (h) { return h.name === size; })[0], input = make("input", {
            class: "pf-input", type: "text", inputmode: "numeric", autocomplete: "off", id: self.uid + "-set-" + a.id, "aria-label": size + " of " + a.method.name,
            value: self.emptied === a.id ? "" : String(size in own ? own[size] : size in all ? all[size] : spec.default), placeholder: String(spec.default), "aria-invalid": a.cost ? "false" : "true"
          });
          input.addEventListener("input", function () {
            var at = input.selectionStart;
            self.emptied = input.value.trim() === "" ? a.id : null;   // the default counts, but is not typed for the reader
            if (self.emptied) delete own[size]; else own[size] = input.value.trim();
            self.show();
            self.write();
            var again = document.getElementById(input.id);
            if (again) again.setSelectionRange(at, at);
          });
          cell.push(make("label", { class: "pf-set" }, [make("span", { "aria-hidden": "true" }, size + " ="), input]));
        } else if (size && size in all) cell.push(make("strong", { class: "pf-num" }, size + " = " + number(all[size])));
        var rest = Object.keys(all).filter(function (n) { return n !== size; }).map(function (n) { return n + " = " + all[n]; }).join(", ");
        if (rest) cell.push(make("small", {}, rest));
        return make("td", {}, cell.length ? cell : make("small", {}, a.cost ? "nothing to set" : "–"));
      })));
    }

    /* ---- the pictures: one line a method, three marks on a logarithmic axis, with a place for nought; and one bar a
       method, the parts of its peak on a plain axis ---- */
    plot() {
      var self = this, box = this.ledgers, rows = this.answers.filter(function (a) { return a.cost; });
      var keys = [["trained", "trained"], ["stored", "stored"], ["served", "served"]];
      var values = [].concat.apply([], rows.map(function (a) { return keys.map(function (k) { return a.cost[k[0]]; }); })).filter(function (v) { return v > 0; });
      box.hidden = !values.length;
      if (box.hidden) return;
      var width = room(box), narrow = width < 480;
      var low = Math.floor(Math.log10(Math.min.apply(null, values))), high = Math.ceil(Math.log10(Math.max.apply(null, values)) + 1e-9);
      if (high <= low) high = low + 1;
      var nought = rows.some(function (a) { return keys.some(function (k) { return !a.cost[k[0]]; }); });
      var names = narrow ? 0 : Math.min(190, 16 + 6.6 * Math.max.apply(null, rows.map(function (a) { return a.method.name.length; })));
      var line = narrow ? 40 : 28, top = 6, zero = names + 18, left = zero + (nought ? 34 : 0), right = width - 22, bottom = top + line * rows.length;
      function x(v) { return v > 0 ? left + (right - left) * (Math.log10(v) - low) / (high - low) : zero; }
      var svg = draw("svg", { viewBox: "0 0 " + width + " " + (bottom + 26), width: width, height: bottom + 26, role: "img", "aria-label": this.told(rows, keys) });
      var step = Math.max(1, Math.ceil((high - low) / Math.max(2, Math.floor((right - left) / 62))));
      for (var e = low; e <= high; e += step) {
        svg.append(draw("line", { class: "grid", x1: x(Math.pow(10, e)), x2: x(Math.pow(10, e)), y1: top, y2: bottom }),
          draw("text", { class: "tick", x: x(Math.pow(10, e)), y: bottom + 17, "text-anchor": "middle" }, pf.short(Math.pow(10, e))));
      }
      if (nought) svg.append(draw("line", { class: "grid grid--zero", x1: zero, x2: zero, y1: top, y2: bottom }), draw("text", { class: "tick", x: zero, y: bottom + 17, "text-anchor": "middle" }, "0"));
      rows.forEach(function (a, i) {
        var y = top + line * i + (narrow ? 27 : line / 2), xs = keys.map(function (k) { return x(a.cost[k[0]]); });
        svg.append(narrow ? draw("text", { class: "name", x: 4, y: y - 13 }, a.method.name) : draw("text", { class: "name", x: names - 4, y: y + 4, "text-anchor": "end" }, a.method.name));
        svg.append(draw("line", { class: "span", x1: Math.min.apply(null, xs), x2: Math.max.apply(null, xs), y1: y, y2: y }));
        keys.slice().reverse().forEach(function (k) {
          var mark = self.mark(draw, k[0], x(a.cost[k[0]]), y);
          mark.append(draw("title", {}, a.method.name + ": " + number(a.cost[k[0]]) + " " + k[1]));
          svg.append(mark);
        });
      });
      var legend = make("ul", { class: "pf-plot__legend", "aria-hidden": "true" }, keys.map(function (k) {
        var icon = draw("svg", { viewBox: "-8 -8 16 16", width: 16, height: 16 });
        icon.append(self.mark(draw, k[0], 0, 0));
        return make("li", {}, [icon, k[1]]);
      }));
      box.replaceChildren(legend, svg);
    }
    bars() {
      var box = this.stacks, parts = peft.data.training.parts, rows = this.answers.filter(function (a) { return a.memory; });
      box.hidden = !rows.length;
      if (box.hidden) return;
      var width = room(box), narrow = width < 480;
      var most = Math.max.apply(null, rows.map(function (a) { return a.memory.peak; })), unit = Math.pow(1024, Math.floor(Math.log2(most) / 10));
      var names = narrow ? 0 : Math.min(190, 16 + 6.6 * Math.max.apply(null, rows.map(function (a) { return a.method.name.length; })));
      var line = narrow ? 40 : 28, top = 6, left = names + 8, right = width - 22, bottom = top + line * rows.length;
      function x(bytes) { return left + (right - left) * bytes / most; }
      var svg = draw("svg", { viewBox: "0 0 " + width + " " + (bottom + 26), width: width, height: bottom + 26, role: "img", "aria-label": "Memory at the peak. " + rows.map(function (a) {
        return a.method.name + ": " + pf.binary(a.memory.peak) + ", of which " + parts.map(function (p) { return pf.binary(a.memory[p]) + " " + p.replace("_", " "); }).join(", ");
      }).join(". ") + "." });
      var rough = most / unit / Math.max(2, Math.floor((right - left) / 80)), size = Math.pow(10, Math.floor(Math.log10(rough)));
      var tick = [1, 2, 5, 10].map(function (n) { return n * size; }).filter(function (n) { return n >= rough; })[0];
      for (var i = 0; i * tick * unit <= most; i++) {
        var at = x(i * tick * unit);
        svg.append(draw("line", { class: "grid", x1: at, x2: at, y1: top, y2: bottom }), draw("text", { class: "tick", x: at, y: bottom + 17, "text-anchor": i ? "middle" : "start" }, pf.binary(i * tick * unit)));
      }
      rows.forEach(function (a, n) {
        var y = top + line * n + (narrow ? 27 : line / 2), from = 0;
        svg.append(narrow ? draw("text", { class: "name", x: 4, y: y - 13 }, a.method.name) : draw("text", { class: "name", x: names - 4, y: y + 4, "text-anchor": "end" }, a.method.name));
        parts.forEach(function (p) {
          var bar = draw("rect", { class: "part--" + p, x: x(from).toFixed(1), y: y - 7, height: 14, width: (x(from + a.memory[p]) - x(from)).toFixed(1) });
          bar.append(draw("title", {}, a.method.name + ": " + pf.binary(a.memory[p]) + " " + p.replace("_", " ")));
          svg.append(bar);
          from += a.memory[p];
        });
      });
      var legend = make("ul", { class: "pf-plot__legend", "aria-hidden": "true" }, [make("li", {}, "Peak of a training step, " + this.stepName() + ":")].concat(parts.map(function (p) {
        return make("li", {}, [make("i", { class: "pf-swatch part--" + p }), p.replace("_", " ")]);
      })));
      box.replaceChildren(legend, svg);
    }
    /* Each ledger has its form, and they nest, so that equal counts stay visible. */
    mark(draw, key, x, y) {
      var node = draw("g", { class: "mark mark--" + key, transform: "translate(" + x.toFixed(1) + " " + y + ")" });
      node.append(key === "trained" ? draw("circle", { r: 3.4 }) : key === "stored" ? draw("circle", { r: 6.4 }) : draw("path", { d: "M0-7.5 7.5 0 0 7.5-7.5 0z" }));
      return node;
    }
    told(rows, keys) {
      return "Numbers on a logarithmic scale. " + rows.map(function (a) {
        return a.method.name + ": " + keys.map(function (k) { return number(a.cost[k[0]]) + " " + k[1]; }).join(", ");
      }).join(". ") + ".";
    }

    /* ---- the table for elsewhere: a method a row ---- */
    records() {
      var self = this, step = this.setting();
      return this.answers.map(function (a) {
        var c = a.cost || {}, set = Object.keys(c.hyperparameters || {}).map(function (n) { return n + "=" + c.hyperparameters[n]; }).join("; ");
        var record = { method: a.method.name, id: a.id, model: self.pasted ? "config.json" : self.state.model, setting: set };
        ["trained", "percent", "stored", "stored_bits", "stored_bytes", "served", "served_bits", "positions", "base_bytes", "backbone"].forEach(function (k) { record[k] = a.cost ? c[k] : ""; });
        Object.keys(step).forEach(function (k) { record["step_" + k] = step[k]; });
        ["peak"].concat(peft.data.training.parts).forEach(function (k) { record[k + "_bytes"] = a.memory ? a.memory[k] : ""; });
        FACTS.concat(SUPPORT).forEach(function (r) { record[r[0]] = r[2].text(a); });
        record.note = a.problem || a.unknown || "";
        return record;
      });
    }
    csv() {
      var records = this.records(), keys = Object.keys(records[0]);
      function cell(value) {
        var text = String(value);
        if (typeof value === "string" && /^[=+@\t\r-]/.test(text)) text = "'" + text;   // a spreadsheet takes it for a formula
        return /[",\r\n]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
      }
      return [keys].concat(records.map(function (r) { return keys.map(function (k) { return r[k]; }); })).map(function (row) { return row.map(cell).join(","); }).join("\r\n") + "\r\n";
    }
    latex() {
      function escaped(text) {
        return String(text).replace(/[\\{}$&#^_%~<>|]/g, function (c) {
          return { "\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}" }[c] || "\\" + c;
        });
      }
      var rows = this.records().map(function (r) {
        var n = r.trained === "" ? ["--", "--", "--", "--"] : [number(r.trained), r.percent.toPrecision(3), number(r.stored) + (r.stored_bits ? " + " + number(r.stored_bits) + " bits" : ""), number(r.served) + (r.served_bits ? " + " + number(r.served_bits) + " bits" : "")];
        n = n.concat([r.peak_bytes, r.activations_bytes].map(function (v) { return v === "" ? "--" : pf.binary(v); }));
        return "  " + [r.method, r.setting].map(escaped).concat(n).join(" & ") + " \\\\";
      });
      return ["% " + this.modelName() + ", from peftonomy; memory of a training step with " + this.stepName().replace("×", "x"), "\\begin{tabular}{llrrrrrr}", "  \\toprule", "  Method & Setting & Trained & \\% of the model & Stored & Served & Peak memory & Activations \\\\", "  \\midrule"]
        .concat(rows, ["  \\bottomrule", "\\end{tabular}", ""]).join("\n");
    }
    exports() {
      var self = this;
      function download(name, type, text) {
        var link = make("a", { href: URL.createObjectURL(new Blob([text], { type: type })), download: name });
        link.click();
        setTimeout(function () { URL.revokeObjectURL(link.href); }, 1000);
      }
      return make("div", { class: "pf-actions" }, [
        make("button", { type: "button", class: "pf-button", onclick: function () { download("comparison.csv", "text/csv", self.csv()); } }, "Download CSV"),
        make("button", { type: "button", class: "pf-button", onclick: function () { download("comparison.tex", "text/x-tex", self.latex()); } }, "Download LaTeX"),
        make("button", { type: "button", class: "pf-button", "data-copy-text": this.csv() }, "Copy CSV"),
        make("button", { type: "button", class: "pf-button", "data-copy-text": this.latex() }, "Copy LaTeX"),
        make("button", { type: "button", class: "pf-button", "data-copy-address": true }, "Copy link")
      ]);
    }
  }
  customElements.define("peft-compare", Compare);
})();

/* Is my idea new?: describe a mechanism by its aspects and get the nearest methods, with their differences. After
   calculator.js, choices.js and mechanism.js. */
"use strict";

(function () {
  var make = pf.make, N = 6;
  /* The aspects that describe a mechanism, the weightiest first; the rest is folded. */
  var MAIN = 7;

  class Idea extends HTMLElement {
    connectedCallback() {
      if (this.ready || typeof peft === "undefined" || !peft.data) return;
      this.ready = true;
      var self = this, query = new pf.Address(), methods = Object.keys(peft.data.methods);
      this.described = {};
      Object.keys(peft.aspects()).forEach(function (name) {
        var known = Object.keys(self.values(name)), chosen = pf.words(query.get(name)).filter(function (v) {
          if (known.indexOf(v) < 0) query.refuse(name, v, known);
          return known.indexOf(v) >= 0;
        });
        if (chosen.length) self.described[name] = chosen;
      });
      this.like = query.one("like", methods) || "";
      this.form = make("form", { class: "pf-calc__form pf-calc__form--still", "aria-label": "The mechanism" });
      this.form.addEventListener("submit", function (event) { event.preventDefault(); });
      this.out = make("div", { class: "pf-calc__out" });
      this.replaceChildren(make("div", { class: "pf-calc" }, [this.form, this.out]));
      this.odd = query.note();
      if (this.odd) this.prepend(this.odd);
      this.build();
      this.show();
    }
    /* The values of an aspect with their meanings; the default targets are roles. */
    values(name) { return name === "targets" ? Object.assign({}, peft.aspects()[name].values, peft.choices.roles) : peft.aspects()[name].values; }
    build() {
      var self = this, aspects = peft.aspects(), names = Object.keys(aspects).filter(function (name) { return name !== "targets"; });
      function group(name) {
        var facet = aspects[name], id = "pf-idea-" + name;
        return make("div", { class: "pf-field", role: "group", "aria-labelledby": id, "data-aspect": name }, [
          make("span", { class: "pf-label", id: id }, facet.name), make("small", {}, facet.meaning),
          make("div", { class: "pf-chips" }, Object.keys(facet.values).map(function (value) {
            var box = make("input", { type: "checkbox", value: value, checked: (self.described[name] || []).indexOf(value) >= 0 });
            box.addEventListener("change", function () { self.change(name, value, box.checked); });
            return make("label", { class: "pf-chip pf-chip--word", title: facet.values[value] }, [box, make("span", {}, facet.phrases[value] || value.replace(/_/g, " "))]);
          }))
        ]);
      }
      var more = make("details", { class: "pf-details" }, [make("summary", {}, "More aspects"), make("div", { class: "pf-stepfields" }, names.slice(MAIN).map(group))]);
      more.open = names.slice(MAIN).some(function (name) { return self.described[name]; });
      this.form.replaceChildren.apply(this.form, names.slice(0, MAIN).map(group).concat(more, this.starter()));
    }
    /* Begin with what a method does, and change it. */
    starter() {
      var self = this, all = peft.data.methods, id = "pf-idea-like", list = make("datalist", { id: id + "-list" }, Object.keys(all).map(function (k) { return make("option", { value: all[k].name }, k); }));
      var box = make("input", { class: "pf-input", type: "text", id: id, list: list.id, autocomplete: "off", value: this.like ? all[this.like].name : "" });
      box.addEventListener("change", function () {
        var asked = box.value.trim().toLowerCase(), found = Object.keys(all).filter(function (k) { return k === asked || all[k].name.toLowerCase() === asked; })[0];
        note.textContent = found || !asked ? "" : "No method has this name.";
        if (!found) return;
        self.described = {};
        var traits = peft.traits(found);
        Object.keys(traits).slice(0, MAIN).forEach(function (name) { if (name !== "targets") self.described[name] = traits[name].values.slice(); });
        self.like = found;
        self.build();
        self.show();
        self.write();
        document.getElementById(id).focus();
      });
      var note = make("small", { role: "status" });
      return make("div", { class: "pf-field" }, [make("label", { for: id }, "Or begin with a method"), box, list, note]);
    }
    change(name, value, on) {
      var values = Object.keys(peft.aspects()[name].values), chosen = this.described[name] || [];
      chosen = values.filter(function (v) { return v === value ? on : chosen.indexOf(v) >= 0; });
      if (chosen.length) this.described[name] = chosen; else delete this.described[name];
      this.like = "";
      this.show();
      this.write();
    }
    write() {
      var query = new URLSearchParams(), self = this;
      Object.keys(this.described).forEach(function (name) { query.set(name, self.described[name].join(",")); });
      if (this.odd) this.odd.remove();
      var text = query.toString().replace(/%2C/g, ",");
      try { history.replaceState(null, "", location.pathname + (text ? "?" + text : "")); } catch (error) { /* an opaque origin */ }
    }
    show() {
      var asked = Object.keys(this.described).length;
      if (!asked) { this.out.replaceChildren(make("p", { class: "pf-muted pf-wait" }, "Choose what your mechanism does. Aspects that you leave open do not count.")); return; }
      var found = peft.nearest(null, this.described, N), same = found.filter(function (r) { return r.likeness === 1; }).length;
      var all = Object.keys(peft.data.methods).length;
      var verdict = same ? (same < N ? "" : "At least ") + (same === 1 ? "One method has" : same + " methods have") + " all of this." : "None of the " + all + " methods here has all of this. That does not prove that it is new.";
      this.out.replaceChildren(
        make("p", { class: "pf-decision", role: "status" }, verdict),
        make("ol", { class: "pf-choices" }, found.map(function (r) {
          var method = peft.data.methods[r.method];
          return make("li", { class: "pf-choice", "data-near": r.method }, [
            make("h3", {}, [make("span", { class: "pf-dot hue-" + method.hue, "aria-hidden": "true" }), " ", make("a", { href: "methods/" + r.method + ".html" }, method.name), make("small", { class: "pf-muted" }, " " + method.year + ", " + Math.round(100 * r.likeness) + " % alike")]),
            make("p", { class: "pf-choice__summary" }, method.summary),
            r.differences.length ? make("ul", { class: "pf-differences" }, r.differences.map(function (d) { return make("li", {}, [make("strong", {}, d.name + ": "), d.sentence]); })) : make("p", { class: "pf-small" }, "It agrees in every aspect that you chose.")
          ]);
        })),
        make("p", { class: "pf-small pf-muted" }, "Likeness is the weighted share of values that a method and your description have in common, over the aspects that you chose: where a method acts, what it changes, what it trains and freezes, and what it shares count most.")
      );
    }
  }
  customElements.define("peft-idea", Idea);
})();

/* The finder of the pages of methods and of models: narrows the table by words and facets, and keeps the question in the address.
   Without it the page is the whole table. */
"use strict";

(function () {
  /* "(IA)^3", "IA3" and "ia^3" are one word here: only letters, digits and dots within numbers count. */
  function plain(text) { return text.toLowerCase().replace(/[^\p{L}\p{N}.\s]+/gu, ""); }
  function spaced(text) { return text.toLowerCase().replace(/[^\p{L}\p{N}.]+/gu, " "); }

  class Finder extends HTMLElement {
    connectedCallback() {
      this.form = this.querySelector("form");
      if (this.ready || !this.form) return;
      this.ready = true;
      var self = this;
      this.rows = [].slice.call(this.querySelectorAll("tr[data-facets]"));
      this.rows.forEach(function (row) {
        var text = row.textContent + " | " + row.dataset.names;
        row.pfText = spaced(text) + " | " + plain(text);
        row.pfFacets = row.dataset.facets.split(" ");
      });
      this.static = this.rows.map(function (row) { return row.lastElementChild.textContent; });
      this.counted = {};
      this.fields = [].slice.call(this.form.elements).filter(function (field) { return field.name; });
      this.form.hidden = false;
      this.form.addEventListener("submit", function (event) { event.preventDefault(); });
      this.form.addEventListener("input", function () { self.show(); self.keep(); });
      this.form.addEventListener("reset", function () { setTimeout(function () { self.show(); self.keep(); }); });
      this.read();
      addEventListener("popstate", function () { self.read(); });
    }
    read() {
      pf.readForm(this.form, this.fields);
      var more = this.querySelector("details");
      if (more && more.querySelector("select") && [].some.call(more.querySelectorAll("select"), function (s) { return s.value; })) more.open = true;
      this.show();
    }
    keep() { pf.keepForm(this.form, this.fields); }
    /* "5M" as five million; what is no number asks nothing, and says so. */
    number(field) {
      var match = /^\s*([\d.,_ ]+)\s*([kmb]?)\s*$/i.exec(field.value);
      var value = match ? Number(match[1].replace(/[,_ ]/g, "")) * { "": 1, k: 1e3, m: 1e6, b: 1e9 }[match[2].toLowerCase()] : NaN;
      field.setAttribute("aria-invalid", isNaN(value) ? "true" : "false");
      return isNaN(value) ? Infinity : value;
    }
    /* A model's size, or what a row's method trains on the model that is asked about; null where it finds nothing to act on. */
    trained(row) {
      if (row.dataset.size) return Number(row.dataset.size);
      var counts = this.counted[this.model] || {};
      return counts[row.dataset.id] === undefined ? null : counts[row.dataset.id];
    }
    /* The counts on a model: those of the page's own model stand in it, for others the engine is fetched. */
    count(model) {
      var self = this, counts = this.counted[model] = {};
      if (model === this.dataset.model) {
        this.rows.forEach(function (row, i) { counts[row.dataset.id] = self.static[i] === "–" ? null : Number(self.static[i].replace(/,/g, "")); });
        return;
      }
      pf.engine(function () {
        pf.gradually(self.rows, function (row) {
          try { counts[row.dataset.id] = peft.cost(row.dataset.id, { model: model }).trained; } catch (error) { if (!error.user) throw error; counts[row.dataset.id] = null; }
        }, function () { self.model = null; self.show(); });
      });
    }
    /* The last column follows the chosen model. */
    onModel() {
      var self = this, field = this.form.elements.on, model = field && (field.value || this.dataset.model);
      if (!field || model === this.model) return;
      this.model = model;
      if (!this.counted[model]) this.count(model);
      this.querySelector("thead th:last-child").textContent = "Trained on " + field.selectedOptions[0].textContent;
      this.rows.forEach(function (row) {
        var count = self.trained(row);
        row.lastElementChild.textContent = count === null ? "–" : pf.number(count);
      });
    }
    /* A name that means several methods says so, those without an entry included. */
    sharedName() {
      var word = this.form.elements.q.value.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");
      [].forEach.call(this.querySelectorAll("[data-shared] [data-key]"), function (item) { item.hidden = item.dataset.key !== word; });
    }
    show() {
      var words = [], asked = [], from = 0, to = Infinity, most = Infinity, shown = 0, self = this;
      this.fields.forEach(function (field) {
        if (!field.value) return;
        if (field.name === "q") words = field.value.split(/\s+/).filter(Boolean).map(plain).filter(Boolean);
        else if (field.name === "from") from = Number(field.value);
        else if (field.name === "to") to = Number(field.value);
        else if (field.name === "most") most = self.number(field);
        else if (field.name === "on") return;
        else asked.push(field.name + ":" + field.value);
      });
      this.onModel();
      this.rows.forEach(function (row) {
        var year = Number(row.dataset.year), trained = self.trained(row);
        row.hidden = year < from || year > to || (most < Infinity && !(trained !== null && trained <= most)) ||
          !asked.every(function (a) { return row.pfFacets.indexOf(a) >= 0; }) ||
          !words.every(function (w) { return row.pfText.indexOf(w) >= 0; });
        if (!row.hidden) shown++;
      });
      [].forEach.call(this.querySelectorAll("tbody"), function (body) { body.hidden = !body.querySelector("tr[data-facets]:not([hidden])"); });
      this.sharedName();
      this.querySelector("[data-found]").textContent = shown === this.rows.length ? "" : shown ? shown + " of " + this.rows.length + " " + this.dataset.what + "s" : "No " + this.dataset.what + " answers to all of this.";
    }
  }
  customElements.define("peft-finder", Finder);
})();

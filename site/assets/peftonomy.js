/* The site's own behaviour, as custom elements and a few listeners. Every page reads without it.
   Text from the data only ever becomes a text node, never markup. */
"use strict";

var pf = (function () {
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

  return { make: make };   // for the tools, which come after
})();

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

  /* One formatter for all: a keystroke may print a thousand numbers, and each toLocaleString makes its own. */
  var number = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 }).format;
  var hundredths = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 }).format;
  function held(values, bits) { return bits ? (values ? number(values) + " + " : "") + number(bits) + " bits" : number(values); }
  function percent(value) {
    if (value === 0) return "0 %";
    return (value >= 1 ? hundredths(value) : String(Number(value.toPrecision(3)))) + " %";
  }

  /* ---- the engine with its data, and what memory needs besides: fetched when something first asks for them ---- */

  var here = document.currentScript.src, waiting = new Map(), LOADED = [];
  /* Scripts, one after the other; `key` says which they are, so that they are fetched once. */
  function fetched(key, names, then) {
    if (waiting.get(key) === LOADED) { then(); return; }
    if (waiting.has(key)) { waiting.get(key).push(then); return; }
    waiting.set(key, [then]);
    names.forEach(function (name, i) {
      var script = make("script", { src: new URL(name + ".js", here).href });
      script.async = false;   // they arrive together and run in order
      if (i === names.length - 1) script.addEventListener("load", function () {
        var all = waiting.get(key);
        waiting.set(key, LOADED);
        all.forEach(function (f) { f(); });
      });
      document.head.append(script);
    });
  }
  function engine(then) {
    if (typeof peft !== "undefined" && peft.data) then(); else fetched("engine", ["engine", "data"], then);
  }
  /* After the engine. */
  function memory(then) {
    if (peft.memory) then(); else fetched("memory", peft.data.scripts, then);
  }
  /* Calls back once when an element is in view, or within `margin` of it. */
  function reached(element, margin, then) {
    new IntersectionObserver(function (entries, observer) {
      if (!entries.some(function (e) { return e.isIntersecting; })) return;
      observer.disconnect();
      then();
    }, { rootMargin: margin }).observe(element);
  }
  /* Some work for each item, a few at a time, so that the page answers meanwhile; returns how to stop it. */
  function gradually(items, work, then) {
    var queue = items.slice(), stopped = false;
    (function some() {
      for (var end = performance.now() + 10; !stopped && queue.length && performance.now() < end; ) work(queue.shift());
      if (stopped) return;
      if (queue.length) setTimeout(some); else then();
    })();
    return function () { stopped = true; };
  }

  /* ---- what an address asks, and what of it means nothing here ---- */

  /* The words of a list that share most letters, in order, with one that is not in it: three at most, the nearest first. */
  function nearest(word, list) {
    return list.map(function (other) {
      var row = new Array(other.length + 1).fill(0);   // letters shared by what was read of the word, and by so much of the other
      Array.from(word.toLowerCase(), function (letter) {
        for (var i = 1, before = 0; i < row.length; i++) {
          var now = other[i - 1].toLowerCase() === letter ? before + 1 : Math.max(row[i], row[i - 1]);
          before = row[i];
          row[i] = now;
        }
      });
      return [2 * row[other.length] / (word.length + other.length), other];
    }).filter(function (found) { return found[0] >= 0.6; }).sort(function (a, b) { return b[0] - a[0]; }).slice(0, 3).map(function (found) { return found[1]; });
  }
  /* The id in the address. A fragment that is not well encoded names nothing. */
  function fragment() {
    try { return decodeURIComponent(location.hash.slice(1)); } catch (error) { return ""; }
  }
  class Address {
    constructor() {
      this.query = new URLSearchParams(location.search);
      this.fields = [];
      this.odd = [];
    }
    has(field) { this.fields.push(field); return this.query.has(field); }
    get(field) { this.fields.push(field); return this.query.get(field); }
    /* The word of a field, if it is one of a list. */
    one(field, list) {
      var word = this.get(field);
      if (!word || list.indexOf(word) >= 0) return word;
      this.refuse(field, word, list);
      return null;
    }
    flag(field) { return this.one(field, ["0", "1"]) === "1"; }
    refuse(what, word, list) {
      var shown = word.length > 60 ? word.slice(0, 59) + "…" : word, near = nearest(shown, list);
      this.odd.push("The address asks for " + what + " '" + shown + "', which is not known here" +
        (near.length ? "; did you mean " + near.join(", ") + "?" : list.length <= 8 ? "; known: " + list.join(", ") + "." : "."));
    }
    /* What was not understood, fields that nobody asked for included; null if all was. */
    note() {
      new Set(this.query.keys()).forEach(function (field) { if (this.fields.indexOf(field) < 0) this.refuse("the field", field, this.fields); }, this);
      return this.odd.length ? make("div", { class: "pf-alert pf-odd", role: "alert" }, this.odd.map(function (line) { return make("p", {}, line); })) : null;
    }
  }
  /* The fields of a form as the address asks for them; what was not understood is told above the form. */
  function readForm(form, fields) {
    var address = new Address(), old = form.parentNode.querySelector(".pf-odd");
    fields.forEach(function (field) {
      var values = field.options && [].map.call(field.options, function (o) { return o.value; }).filter(Boolean);
      field.value = (values ? address.one(field.name, values) : address.get(field.name)) || "";
      if (field.value === "" && field.options) field.selectedIndex = 0;
    });
    var note = address.note();
    if (old) old.remove();
    if (note) form.before(note);
  }
  function keepForm(form, fields) {
    var query = new URLSearchParams(), note = form.parentNode.querySelector(".pf-odd");
    fields.forEach(function (field) { if (field.value) query.set(field.name, field.value); });
    var text = query.toString();
    if (note) note.remove();
    try { history.replaceState(null, "", location.pathname + (text ? "?" + text : "") + location.hash); } catch (error) { /* an opaque origin */ }
  }

  /* ---- every method on a model: the table that stands in the page, made whole ---- */

  class Costs extends HTMLElement {
    connectedCallback() {
      var self = this;
      if (this.ready || !this.querySelector("tbody")) return;
      this.ready = true;
      reached(this, "600px", function () { engine(function () { self.fill(); }); });
    }
    fill() {
      var self = this, model = this.dataset.model, rows = [], body = this.querySelector("tbody");
      var ids = Object.keys(peft.data.methods).sort(function (a, b) { return peft.data.methods[a].use - peft.data.methods[b].use; });
      gradually(ids, function (id) { rows.push(self.row(id, model)); }, function () {
        body.replaceChildren.apply(body, rows);
        self.querySelector("[data-some]").remove();
        memory(function () { gradually(ids, function (id) { self.step(id, model, rows[ids.indexOf(id)]); }, function () {}); });
      });
    }
    /* The memory of a step in the cell that waits for it, or why it is not known. */
    step(id, model, row) {
      var cell = row.querySelector("[data-step]"), asked = { batch: Number(this.dataset.batch), seq: this.dataset.seq ? Number(this.dataset.seq) : null, dtype: "bfloat16" };
      if (!cell) return;
      try {
        var peak = peft.memory(id, { model: model }, asked).peak;
        cell.dataset.value = peak;
        cell.textContent = (peak / Math.pow(2, 30)).toPrecision(3) + " GiB";
      } catch (error) {
        if (!error.user) throw error;
        cell.dataset.value = "";
        cell.textContent = "–";
        cell.title = error.message;
      }
    }
    row(id, model) {
      var method = peft.data.methods[id], cells = [], cost = null;
      try { cost = peft.cost(id, { model: model }); } catch (error) {
        if (!error.user) throw error;
        cells = [make("td", { colspan: 5, class: "pf-muted" }, error.message)];
      }
      if (cost) cells = [
        [number(cost.trained), cost.trained], [percent(100 * cost.trained / cost.backbone), cost.trained / cost.backbone],
        [held(cost.stored, cost.stored_bits), cost.stored + cost.stored_bits / 32], [held(cost.served, cost.served_bits), cost.served + cost.served_bits / 32]
      ].map(function (pair) { return make("td", { class: "n", "data-value": String(pair[1]) }, pair[0]); }).concat(make("td", { class: "n", "data-step": true }, "…"));
      cells.unshift(make("td", {}, method.told));
      var name = [make("span", { class: "pf-dot hue-" + method.hue }), " ", make("a", { href: new URL("../methods/" + id + ".html", here).href }, method.name)];
      return make("tr", {}, [make("th", { scope: "row" }, name)].concat(cells));
    }
  }
  customElements.define("peft-costs", Costs);

  /* ---- a calculator that is a part of a page: fetched when it is reached, or when the address asks it something ---- */

  addEventListener("DOMContentLoaded", function () {
    var tool = document.querySelector("peft-calculator");
    if (!tool || customElements.get("peft-calculator")) return;
    function fetch() { engine(function () { fetched("calculator", ["calculator"], function () { /* it starts by itself */ }); }); }
    if (location.search) fetch(); else reached(tool, "600px", fetch);
  });

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
      this.byId = new Map(this.links.map(function (link) { return [link.dataset.id, link]; }));
      this.panel = document.querySelector("[data-graph-panel]");
      this.welcome = this.panel && [].slice.call(this.panel.childNodes);
      this.links.forEach(function (link) {
        link.addEventListener("pointerenter", function () { self.focusOn(link); });
        link.addEventListener("focus", function () { self.focusOn(link); });
        link.addEventListener("pointerleave", function () { if (!self.pinned) self.focusOn(null); });
      });
      this.svg.addEventListener("keydown", function (event) { self.step(event); });
      this.svg.addEventListener("focusout", function () { self.focusOn(null); });
      this.form = document.getElementById("pf-graph-form");
      this.items = [].slice.call(document.querySelectorAll("[data-leaf]"));
      if (this.form) {
        this.fields = [].slice.call(this.form.elements).filter(function (field) { return field.name; });
        this.form.hidden = false;
        this.form.addEventListener("submit", function (event) { event.preventDefault(); });
        this.form.addEventListener("input", function () { self.filter(); self.keep(); });
        this.form.addEventListener("reset", function () { setTimeout(function () { self.filter(); self.keep(); }); });
        addEventListener("popstate", function () { self.read(); });
        this.read();
      }
      var wanted = this.byId.get(fragment());
      if (wanted) { this.pinned = true; this.focusOn(wanted); }
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
        var other = self.byId.get(from ? edge.dataset.to : edge.dataset.from);
        items.push(make("li", { class: from ? "from" : "to" }, [(from ? edge.dataset.label : edge.dataset.inverse) + " ", make("strong", {}, self.nameOf(other))]));
      });
      this.panel.replaceChildren(
        make("h3", {}, this.nameOf(link)),
        make("p", { class: "pf-small pf-muted" }, data.year),
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
    /* What is asked stands in the address. */
    read() {
      var more = this.form.querySelector("details");
      readForm(this.form, this.fields);
      if ([].some.call(more.querySelectorAll("select"), function (s) { return s.value; })) more.open = true;
      this.filter();
    }
    keep() { keepForm(this.form, this.fields); }
    filter() {
      var words = "", type = "", from = 0, to = Infinity, asked = [], hits = [], kept = {};
      this.fields.forEach(function (field) {
        if (!field.value) return;
        if (field.name === "q") words = field.value.toLowerCase().trim();
        else if (field.name === "type") type = field.value;
        else if (field.name === "from") from = Number(field.value);
        else if (field.name === "to") to = Number(field.value);
        else asked.push(field.name + ":" + field.value);
      });
      this.links.forEach(function (link) {
        var data = link.dataset, year = Number(data.year), facets = data.facets.split(" ");
        var text = [data.name, data.id, data.year, data.summary, link.textContent].join(" ").toLowerCase();
        var off = (words && text.indexOf(words) < 0) || year < from || year > to ||
          !asked.every(function (a) { return facets.indexOf(a) >= 0; });
        link.classList.toggle("off", !!off);
        if (link.hasAttribute("href")) { if (off) link.setAttribute("tabindex", "-1"); else link.removeAttribute("tabindex"); }
        if (!off) { hits.push(link); kept[data.id] = 1; }
      });
      /* One method alone shows all its relations, several those among them. */
      this.edges.forEach(function (edge) {
        var a = kept[edge.dataset.from], b = kept[edge.dataset.to];
        edge.classList.toggle("off", (!!type && edge.dataset.type !== type) || !(hits.length === 1 ? a || b : a && b));
      });
      this.list(kept);
      var some = hits.length < this.links.length, note = this.form.querySelector("[data-graph-found]");
      note.textContent = !some ? "" : hits.length ? hits.length + " of " + this.links.length + " methods" : "No method answers to all of this.";
      this.focusOn(some && hits.length === 1 ? hits[0] : null);
    }
    /* The list below, which is all there is on a narrow screen, keeps what the picture keeps. */
    list(kept) {
      this.items.forEach(function (item) {
        item.hidden = !item.dataset.leaf.split(" ").some(function (id) { return kept[id]; });
      });
      [].forEach.call(document.querySelectorAll(".pf-tree li:not([data-leaf])"), function (place) {
        place.hidden = !!place.querySelector("[data-leaf]") && !place.querySelector("[data-leaf]:not([hidden])");
      });
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
  /* The theme's drawer hangs on a hidden check box, which a real button presses. */
  function press(id) {
    var toggle = document.getElementById(id);
    if (toggle && !toggle.checked) toggle.click();
  }
  document.addEventListener("click", function (event) {
    if (event.target.matches(".highlight .linenos")) location.hash = event.target.parentNode.id;   // a link to that line
    var button = event.target.closest("button");
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

  /* ---- the theme adds a navigation to each block of code; each needs a name of its own ---- */

  document.querySelectorAll("article .highlight").forEach(function (block, i) {
    function named() {
      block.querySelectorAll("nav").forEach(function (nav) { nav.setAttribute("aria-label", "Code " + (i + 1)); });
    }
    new MutationObserver(named).observe(block, { childList: true, subtree: true });
    named();
  });

  [].forEach.call(document.querySelectorAll("[data-support]"), function (form) {   // the matrix of support, for one library or base
    var box = document.getElementById(form.dataset.support), note = form.querySelector("[data-filter-count]");
    var rows = [].slice.call(box.querySelectorAll("tbody tr"));
    function narrow() {
      var place = form.elements.place.value, base = form.elements.base.value;
      [].forEach.call(box.querySelectorAll("[data-in]"), function (cell) { cell.hidden = !!place && cell.dataset.in !== place; });
      rows.forEach(function (row) {
        var cells = [].slice.call(row.querySelectorAll("td[data-works]:not([hidden])"));
        row.classList.toggle("pf-off", !cells.some(function (cell) { return !base || cell.dataset.works.split(" ").indexOf(base) >= 0; }));
      });
      var shown = rows.filter(function (row) { return !row.hidden && !row.classList.contains("pf-off"); }).length;
      note.textContent = shown < rows.length ? shown + " of " + rows.length : "";
    }
    form.addEventListener("input", narrow);   // after the filter above, which hears its own field first
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    narrow();
  });

  return { make: make, fetched: fetched, reached: reached, engine: engine, memory: memory, gradually: gradually, number: number, held: held, percent: percent, fragment: fragment, Address: Address, readForm: readForm, keepForm: keepForm };   // for the tools, which come after
})();

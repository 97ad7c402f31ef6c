/* Sort tables with `data-sort` by a column, hide the categories of a legend with `data-hues`, and mark what belongs to a
   symbol of an equation.
   A cell's `data-value` goes before its text. Rows without a value stay last. */
(function () {
  "use strict";
  function value(row, column) {
    var cell = row.cells[column], given = cell.getAttribute("data-value"), text = (given === null ? cell.textContent : given).trim();
    if (text === "" || text === "–") return null;
    var number = Number(text.replace(/,/g, "").replace(/\s*%$/, ""));
    return isNaN(number) ? text.toLowerCase() : number;
  }
  function before(a, b) {
    if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
    return typeof a === "number" ? -1 : 1;
  }
  function sort(table, head, column) {
    var body = table.tBodies[0], rows = Array.from(body.rows);
    var keys = new Map(rows.map(function (row) { return [row, value(row, column)]; }));
    var numbers = rows.some(function (row) { return typeof keys.get(row) === "number"; });
    var now = head.getAttribute("aria-sort"), down = now ? now === "ascending" : numbers;
    rows.sort(function (a, b) {
      var one = keys.get(a), other = keys.get(b);
      if (one === null || other === null) return (one === null) - (other === null);
      return down ? -before(one, other) : before(one, other);
    });
    Array.from(table.tHead.rows[0].cells).forEach(function (cell) { cell.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append.apply(body, rows);
  }
  function sortable(table) {
    Array.from(table.tHead.rows[0].cells).forEach(function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.className = "pf-sort";
      button.append.apply(button, Array.from(head.childNodes));
      button.addEventListener("click", function () { sort(table, head, column); });
      head.append(button);
    });
  }

  /* Make each category of a legend a button that hides and shows its rows and points. */
  function filtering(keys) {
    var around = keys.closest("[data-filtered]");
    Array.from(keys.children).forEach(function (key) {
      var button = document.createElement("button"), hue = key.getAttribute("data-hue");
      var rows = around.querySelectorAll('tr[data-hue="' + hue + '"]'), points = around.querySelectorAll("svg .hue-" + hue);
      if (!rows.length) { key.remove(); return; }
      button.type = "button";
      button.className = "pf-key";
      button.setAttribute("aria-pressed", "true");
      button.append.apply(button, Array.from(key.childNodes));
      button.addEventListener("click", function () {
        var shown = button.getAttribute("aria-pressed") !== "true";
        button.setAttribute("aria-pressed", String(shown));
        rows.forEach(function (row) { row.hidden = !shown; });
        points.forEach(function (point) { (point.closest("a") || point).classList.toggle("is-off", !shown); });
      });
      key.append(button);
    });
  }

  function of(element) { return (element.getAttribute("data-symbol") || "").split(" ").filter(Boolean); }
  function marks() {
    var all = Array.from(document.querySelectorAll("[data-symbol]")), pointed = [], focused = [];
    function mark(event) {   // what is pointed at and what has the focus: a page that scrolls moves other things under the pointer
      var from = event.target.closest && event.target.closest("[data-symbol]"), found = from && event.type !== "focusout" ? of(from) : [];
      if (event.type === "mouseover") pointed = found; else focused = found;
      all.forEach(function (element) {
        element.classList.toggle("is-marked", of(element).some(function (n) { return pointed.concat(focused).indexOf(n) >= 0; }));
      });
    }
    if (all.length) ["mouseover", "focusin", "focusout"].forEach(function (name) { document.addEventListener(name, mark); });
  }
  /* A link to a folded part unfolds it. */
  function unfold() {
    var target = document.getElementById(pf.fragment());
    for (var fold = target && target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    if (target) target.scrollIntoView();
  }
  function start() {
    document.querySelectorAll("table[data-sort]").forEach(sortable);
    document.querySelectorAll("[data-hues]").forEach(filtering);
    marks();
    unfold();
    addEventListener("hashchange", unfold);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();

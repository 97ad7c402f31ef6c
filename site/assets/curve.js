/* What a method trains against its size hyperparameter, with the present value marked. After engine.js, and after d3 and
   Observable Plot, which only this picture needs. */
"use strict";

(function () {
  var make = pf.make, number = pf.number, MOST = 4096;

  /* The trained parameters at the powers of two, and at the present value. Values that the method refuses are left out. */
  function points(method, question, name, present) {
    var found = [], values = [];
    for (var n = 1; n <= MOST; n *= 2) values.push(n);
    if (values.indexOf(present) < 0 && Number.isInteger(present) && present > 0) values.push(present);
    values.sort(function (a, b) { return a - b; }).forEach(function (value) {
      try {
        var cost = peft.cost(method, Object.assign({}, question, { values: Object.assign({}, question.values, { [name]: value }) }));
        found.push({ value: value, trained: cost.trained, here: value === present });
      } catch (error) {
        if (!error.user) throw error;
      }
    });
    return found;
  }

  function draw(rows, name) {
    var logs = rows.every(function (row) { return row.trained > 0; });
    var picture = Plot.plot({
      width: 380, height: 230, marginLeft: 52, marginBottom: 36, style: { background: "none", color: "var(--pf-soft)", fontFamily: "inherit", fontSize: "11px" },
      x: { type: "log", base: 2, label: name, tickFormat: function (v) { return String(v); } },
      y: { type: logs ? "log" : "linear", label: "trained parameters", grid: true, ticks: 5, tickFormat: "~s" },
      marks: [
        Plot.lineY(rows, { x: "value", y: "trained", stroke: "var(--pf-accent)", strokeWidth: 1.6 }),
        Plot.dot(rows, { x: "value", y: "trained", fill: "var(--pf-accent)", r: 2.5, title: function (row) { return name + " = " + row.value + ": " + number(row.trained); } }),
        Plot.dot(rows.filter(function (row) { return row.here; }), { x: "value", y: "trained", stroke: "var(--pf-hue-1)", strokeWidth: 2.5, r: 6 }),
        Plot.text(rows.filter(function (row) { return row.here; }), { x: "value", y: "trained", text: function () { return "you are here"; }, dy: -13, fill: "var(--pf-ink)", fontWeight: 600 })
      ]
    });
    picture.querySelectorAll("[aria-label]").forEach(function (part) { part.removeAttribute("aria-label"); });   // groups without a role
    var present = rows.filter(function (row) { return row.here; })[0];
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", "Trained parameters against " + name + (present ? "; at " + present.value + " it trains " + number(present.trained) : "") + ". The table has the numbers.");
    return picture;
  }

  function table(rows, name) {
    var body = rows.map(function (row) {
      return make("tr", {}, [make("th", { scope: "row", class: "n" }, number(row.value) + (row.here ? " (now)" : "")), make("td", { class: "n" }, number(row.trained))]);
    });
    var head = make("tr", {}, [make("th", { scope: "col", class: "n" }, name), make("th", { scope: "col", class: "n" }, "Trained")]);
    return make("details", { class: "pf-details" }, [make("summary", {}, "As a table"),
      make("table", { class: "pf-table" }, [make("thead", {}, head), make("tbody", {}, body)])]);
  }

  pf.curve = function (box, method, question, name, present) {
    var rows = points(method, question, name, present);
    if (rows.length < 2) { box.replaceChildren(make("p", { class: "pf-small pf-muted" }, "Only one value of " + name + " is possible here.")); return; }
    box.replaceChildren(draw(rows, name), table(rows, name));
  };
})();

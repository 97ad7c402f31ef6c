/* How methods differ, in sentences, and which are nearest to a method or a described mechanism. It mirrors
   `peftonomy.knowledge.mechanism`; a test compares the answers. After engine.js, data.js and choices.js. */
"use strict";

(function () {
  function aspects() { return peft.choices.aspects; }
  function joined(words) { return words.length > 1 ? words.slice(0, -1).join(", ") + " and " + words[words.length - 1] : words.join(""); }
  /* The end of a sentence about a method with these values: "acts on weight matrices and biases". */
  function said(facet, values) {
    return facet.phrase.replace("{}", function () { return joined(values.map(function (v) { return facet.phrases[v] || v.replace(/_/g, " "); })); });
  }
  /* The trait of an aspect: its values, the end of a sentence, and a key that is equal where methods do not differ. */
  function trait(name, record) {
    return { values: record[0], phrase: record[1] || said(aspects()[name], record[0]), key: record[2] || said(aspects()[name], record[0].slice().sort()) };
  }
  function traits(id) {
    var found = {}, record = peft.choices.traits[id];
    Object.keys(aspects()).forEach(function (name) { found[name] = trait(name, record[name]); });
    return found;
  }
  /* A sentence for each aspect of the last one in which not all are the same. `told`: [name, traits] each. */
  function differences(told) {
    var unlike = {}, out = [], last = told[told.length - 1][1];
    Object.keys(aspects()).forEach(function (name) {
      if (!(name in last)) return;
      var found = told.map(function (t) { return t[1][name]; }), described = found.some(function (t) { return !t.key; });
      var keys = found.map(function (t) { return described ? JSON.stringify(t.values.slice().sort()) : t.key; });
      if (new Set(keys).size < 2) return;
      unlike[name] = true;
      if (name === "scope" && (unlike.trains || unlike.freezes)) return;   // their sentences name the places
      out.push({ aspect: name, name: aspects()[name].name, sentence: told.map(function (t, i) { return t[0] + " " + found[i].phrase; }).join("; ") + "." });
    });
    return out;
  }
  /* A default as Python writes it: a float has a point, a boolean a capital. */
  function plain(spec) {
    var value = spec.default;
    if (typeof value === "boolean") return value ? "True" : "False";
    if (spec.type !== "float" || typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return value + ".0";
    return Math.abs(value) < 1e-4 ? value.toExponential().replace(/e-(\d)$/, "e-0$1") : String(value);
  }
  /* Sentences for hyperparameters that all have, with different defaults. */
  function defaults(ids) {
    function specs(id) { return peft.data.methods[id].parts[0].hyperparameters; }
    return specs(ids[0]).map(function (spec) {
      var all = ids.map(function (id) { return specs(id).filter(function (h) { return h.name === spec.name; })[0]; });
      if (!all.every(Boolean)) return null;
      var values = all.map(function (h) { return plain(h); });
      if (new Set(values).size < 2) return null;
      return { aspect: "defaults", name: "Default settings", sentence: "The default of " + spec.name + " is " + joined(values.map(function (v, i) { return v + " in " + peft.data.methods[ids[i]].name; })) + "." };
    }).filter(Boolean);
  }
  /* How two or more methods differ: {differences, same}, `same` with the names of the aspects in which all agree. */
  function compared(ids) {
    var found = differences(ids.map(function (id) { return [peft.data.methods[id].name, traits(id)]; })), unlike = found.map(function (d) { return d.aspect; });
    var same = Object.keys(aspects()).filter(function (name) { return name !== "scope" && unlike.indexOf(name) < 0; });
    return { differences: found.concat(defaults(ids)), same: same.map(function (name) { return aspects()[name].name; }) };
  }
  function likeness(asked, other) {
    var total = 0, shared = 0;
    Object.keys(asked).forEach(function (name) {
      var a = new Set(asked[name].values), b = new Set(other[name].values), both = 0;
      a.forEach(function (v) { if (b.has(v)) both++; });
      total += aspects()[name].weight;
      shared += aspects()[name].weight * both / (a.size + b.size - both);
    });
    return total ? shared / total : 0;
  }
  /* The methods nearest to a method, or to a mechanism described by values of aspects ({aspect: [value, ...]}). */
  function nearest(method, described, n) {
    var asked = {}, methods = peft.data.methods, year = method ? methods[method].year : null;
    if (method) asked = traits(method);
    else Object.keys(described).forEach(function (name) { asked[name] = { values: described[name], phrase: said(aspects()[name], described[name]), key: "" }; });
    var rated = Object.keys(methods).filter(function (id) { return id !== method; }).map(function (id) {
      var own = traits(id);
      return { method: id, likeness: likeness(asked, own), own: own };
    });
    function age(r) { return year === null ? methods[r.method].year : Math.abs(methods[r.method].year - year); }
    rated.sort(function (a, b) { return b.likeness - a.likeness || age(a) - age(b) || (a.method < b.method ? -1 : 1); });
    return rated.slice(0, n).map(function (r) {
      var told = differences([[methods[r.method].name, r.own], [method ? methods[method].name : "the idea", asked]]);
      return { method: r.method, likeness: r.likeness, differences: told };
    });
  }
  Object.assign(peft, { aspects: aspects, traits: traits, comparedInWords: compared, nearest: nearest });
})();

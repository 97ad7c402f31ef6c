/* ---- the largest setting that fits a budget ---- */

/* "10M", "2.5e6", "40 MB" or "1,000,000" as a number; null for nothing, NaN for what is none. */
function quantity(text) {
  var match = /^\s*([\d,_]*\.?\d+(?:e\d+)?|[\d,_]+\.)\s*([kKmMgGbBtT]?)(?:i?[bB])?\s*$/.exec(String(text === null || text === undefined ? "" : text));
  if (String(text === null || text === undefined ? "" : text).trim() === "") return null;
  if (!match) return NaN;
  var factor = { "": 1, k: 1e3, m: 1e6, g: 1e9, b: 1e9, t: 1e12 }[match[2].toLowerCase()];
  return Math.round(Number(match[1].replace(/[,_]/g, "")) * factor);
}
/* "24GiB", "80 GB" or "24", which are GiB, in bytes; null for nothing, NaN for what is none. */
function gpuBytes(text) {
  var units = { "": Math.pow(2, 30), kb: 1e3, mb: 1e6, gb: 1e9, kib: 1024, mib: Math.pow(1024, 2), gib: Math.pow(1024, 3) };
  if (!text.trim()) return null;
  var found = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim()), unit = found && units[found[2].toLowerCase()];
  return unit && Number(found[1]) > 0 ? Math.trunc(Number(found[1]) * unit) : NaN;
}
function within(sum, budget) {
  return (!given(budget.trained) || sum.trained <= budget.trained) && (!given(budget.bytes) || sum.stored_bytes <= budget.bytes);
}
/* The largest whole number of a method's size hyperparameter with which it stays within a budget, exactly.
   {name, value, cost}; or {name, least: the smallest setting's cost, value: that setting}. Name and value are null for
   a method without such a number. Counts never fall as it grows (the build has seen to that), so a bracket over the
   plain formulas comes first, and then the first value below it that everything allows. */
function largest(id, options, budget) {
  var size = sizeOf(options), plan = planOf(id, options), name = plan.method.size, base = options.values || {}, out;
  if (!name) {
    out = cost(id, options);
    return within(out, budget) ? { name: null, value: null, cost: out } : { name: null, value: null, least: out };
  }
  var specs = plan.method.parts[0].hyperparameters, start = {};
  specs.forEach(function (s) { start[s.name] = s.name !== name && given(at(base, s.name)) ? coerce(s, base[s.name]) : fallback(s, plan.common); });
  function at_(value) { var filled = merge(start); filled[name] = value; return filled; }
  function loosely(value) {
    try {
      var sum = sumsOf(rowsOf(plan, at_(value), true), size);
      return within(sum, budget) && most(sum) <= EXACT;
    } catch (error) { return false; }
  }
  /* The answer at a value; null where something that must hold does not. */
  function strictly(value) {
    var filled = at_(value), names = merge(filled, plan.common);
    if (!specs.every(function (s) { return !s.sized || holds(s, names); }) || !allowed(plan, filled, true)) return null;
    try { return answer(plan, filled, size); } catch (error) { if (!error.user) throw error; return null; }
  }
  /* What this number has no part in holds for all of its values, or for none. */
  specs.forEach(function (s) { if (!s.sized && !holds(s, merge(at_(1), plan.common))) fail(s.name + " = " + start[s.name] + " is out of its domain " + s.rule, s.name); });
  if (!allowed(plan, at_(1), false)) rowsOf(plan, at_(1));   // which says what is wrong
  var cap = ceiling(plan, at_), found = bracket(loosely, cap), steps = MOST_STEPS;
  for (var value = found; value >= 0 && steps > 0; value--, steps--) {
    out = strictly(value);
    if (out && within(out, budget)) return { name: name, value: value, cost: out };
  }
  for (value = 0; value <= Math.min(cap, MOST_STEPS); value++) {
    out = strictly(value);
    if (out) return { name: name, value: value, least: out };
  }
  fail("no " + name + " is allowed with this setting in " + plan.inv.backbone.name, name);
}
/* What must hold at every place, without counting anything: where the size hyperparameter has a part, or where not. */
function allowed(plan, filled, sized) {
  var args = argumentsOf(plan, filled);
  return plan.tensors.every(function (piece) {
    var tensor = piece.tensor;
    return tensor.requires === null || tensor.sized !== sized || piece.spots.every(function (spot) {
      var names = atop(spot.dims, args[piece.part]);
      try { return (tensor.guard !== null && !run(tensor.guard, names)) || run(tensor.requires, names); } catch (error) { return false; }
    });
  });
}
/* The least of the upper bounds that conditions state. */
function ceiling(plan, at_) {
  var least = LARGEST, args = argumentsOf(plan, at_(1));
  function bound(index, names) {
    try { var value = Number(run(index, names)); if (value > 0 && value < least) least = Math.floor(value); } catch (error) { /* no bound here */ }
  }
  plan.method.parts.forEach(function (part, i) { part.bounds.forEach(function (b) { bound(b, merge(args[i], plan.common)); }); });
  plan.tensors.forEach(function (piece) {
    piece.tensor.bounds.forEach(function (b) {
      piece.spots.forEach(function (spot) {
        var names = atop(spot.dims, args[piece.part]);
        try { if (piece.tensor.guard !== null && !run(piece.tensor.guard, names)) return; } catch (error) { return; }   // it is there in some layers
        bound(b, names);
      });
    });
  });
  return least;
}
/* The largest whole number from 1 to `cap` for which `fits` holds, which it does up to some point; 0 if never. */
function bracket(fits, cap) {
  if (!fits(1)) return 0;
  var low = 1, high = 2;
  while (high <= cap && fits(high)) { low = high; high *= 2; }
  high = Math.min(high, cap + 1);
  while (high - low > 1) {
    var middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle; else high = middle;
  }
  return low;
}

/* ---- a combination of trained models or adapters: peftonomy/memory/combining.py ---- */

/* What is there before it and after it, and the bytes that it takes. `options`: those of a cost. */
function combination(id, options) {
  var size = sizeOf(options), plan = planOf(id, options), filled = valuesFor(plan, options.values || {}), record = plan.method.combines;
  if (!record) fail(id + " combines nothing: it trains its own tensors");
  var names = atop(plan.common, merge(filled)), sum = answer(plan, filled, size);
  var inputs = wholeOf(plan, "inputs", run(record.inputs, names), 1);
  var each = cost(record.method, trainedAs(plan, options, record, filled, names));
  var added = 0, taken = Math.max.apply(null, record.passes.map(function (pass) { return passOf(plan, pass, filled, size); }));
  rowsOf(plan, filled).forEach(function (row) { if (!row.piece.tensor.selecting) added += row.count * row.n; });
  var weights = (plan.inv.backbone.parameters + added) * size;
  if (Math.max(weights + taken, inputs * each.stored_bytes) > EXACT) fail(id + ": this combination takes more than 2**53 bytes");
  return {
    method: id, hyperparameters: filled, targets: plan.targets, of: record.method, inputs: inputs, each: each.stored, each_bytes: each.stored_bytes,
    stored: sum.stored, stored_bytes: sum.stored_bytes, trained: sum.trained, sum: record.sum, weights: weights, temporary: taken,
    inputs_bytes: inputs * each.stored_bytes, peak: weights + taken
  };
}
/* The question about one input: the same model and targets, and the hyperparameters that follow from ours. */
function trainedAs(plan, options, record, filled, names) {
  var aimed = methodOf(record.method).parts.some(function (p) { return p.targets; }), values = {};
  Object.keys(record.rename).forEach(function (theirs) { values[theirs] = filled[record.rename[theirs]]; });
  Object.keys(record.set).forEach(function (theirs) {
    var fixed = record.set[theirs];
    values[theirs] = fixed.formula === null ? fixed.value : run(fixed.formula, names);
  });
  return merge(options, { values: values, targets: aimed && !plan.target_modules ? plan.targets : null, target_modules: aimed ? plan.target_modules : null });
}
/* The bytes of a pass: of all its places together, and of the largest one for a while. */
function passOf(plan, pass, filled, width) {
  var together = 0, largest = 0;
  spotsOf(merge(pass, { by_layer: pass.by_layer && !pass.layered }), plan.inv, plan.sites[0], plan.common).forEach(function (spot) {
    var names = merge(local(spot.dims, plan.common), filled, { width: width }), number = spot.n;
    if (pass.layered) number = spot.layers ? layersOf(spot.layers).filter(function (n) { return run(pass.guard, atop(plan.common, merge(names, { layer: n }))); }).length : 0;
    else if (pass.guard !== null && !run(pass.guard, atop(plan.common, names))) return;
    if (!number) return;
    together += number * wholeOf(plan, "bytes", run(pass.together, atop(plan.common, names)), 0);
    largest = Math.max(largest, wholeOf(plan, "bytes", run(pass.temporary, atop(plan.common, names)), 0));
  });
  return together + largest;
}
function wholeOf(plan, what, value, least) {
  value = Number(value);
  if (!Number.isInteger(value) || value < least || value > EXACT) fail(plan.id + ": its combination has " + value + " " + what + "; expected a whole number from " + least);
  return value;
}

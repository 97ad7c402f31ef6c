/* What a method costs on a model, in the page: peftonomy/backbones and peftonomy/costs, step for
   step, over the data that the build exports. On top of that, the largest setting that fits a budget.
   A classic script with one global, so that it runs from a file and under a policy without eval. Counts are integers
   below 2**53 and therefore exact; tests compare every method on every model, and bad configs, with Python. */
"use strict";

/* include arithmetic */

var peft = (function () {
  /* include shared */
  /* include json */
  /* include config */
  /* include modules */
  /* include sites */
  /* include plan */
  /* include settings */
  /* include rows */
  /* include answer */
  /* include combining */
  /* include largest */
  /* include python */

  return {
    load: function (records) { data = records; formulas = records.formulas; held.clear(); return this; },
    get data() { return data; },
    cost: cost, combination: combination, written: written, roles: roles, targets: targets, suffixes: suffixes, same: same, endings: function (options) { return endings(inventory(backboneOf(options), options.task)); },
    backbone: backboneOf, reduced: reduced, readJson: readJson, largest: largest, quantity: quantity, gpuBytes: gpuBytes,
    named: named,
    modules: function (options) { return inventory(backboneOf(options), options.task, options.num_labels); },
    readsTokens: function (options) { var model = backboneOf(options); return readsTokens(inventory(model, given(options.task) ? options.task : trainedTask(model), options.num_labels)); },
    dtypes: Object.keys(BYTES), bytesOf: BYTES,
    python: { coded: coded, spelled: spelled, put: put },
    /* What the scripts of memory go on with. */
    inner: {
      trainedTask: trainedTask, readsTokens: readsTokens,
      EXACT: EXACT, INPUTS: INPUTS, product: product, local: local, byRole: byRole, hasRole: hasRole, LINEAR: LINEAR, fail: fail, given: given, merge: merge, atop: atop, run: run, total: total, layersOf: layersOf, kept: kept, grouped: grouped, shown: shown,
      planOf: planOf, spotsOf: spotsOf, valuesFor: valuesFor, argumentsOf: argumentsOf, placed: placed, some: some, baseBytes: baseBytes, lookup: lookup, seen: seen
    }
  };
})();

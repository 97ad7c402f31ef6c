/* ---- the planner ---- */

var START = { exact: "", approximate: "starts close to the base model, not equal to it", none: "differs from the base model at the first step" };
/* Whether a method fits, with its largest setting: {id, name, value, cost}; or {id, reasons}: all of why it does not.
   `wishes`: trained and bytes (budgets, null for none), merge, identity, quantised, positions (no extra ones), library
   (a key, or "any"), since (a year). */
function judged(id, options, wishes) {
  var reasons = [], found = null, method = methodOf(id), libraries = Object.keys(method.libraries);
  if (wishes.merge && method.merge !== "exact") reasons.push("does not merge into the weights");
  if (wishes.identity && method.identity !== "exact") reasons.push(START[method.identity]);
  if (wishes.quantised && !method.quantised) reasons.push("keeps the base model unquantised");
  if (wishes.library === "any" && !libraries.some(function (k) { return k !== "official"; })) reasons.push("is in no library");
  else if (wishes.library && wishes.library !== "any" && libraries.indexOf(wishes.library) < 0) reasons.push("is not in " + (data.libraries[wishes.library] || wishes.library));
  if (wishes.since && method.year < wishes.since) reasons.push("is from " + method.year);
  try { found = fitted(id, options, wishes); } catch (error) { if (!error.user) throw error; reasons.push(error.message.replace(method.name + " finds", "finds")); }
  if (found && found.least) reasons.push(tooMuch(found, wishes));
  var answer = found && (found.cost || found.least);
  if (answer && wishes.positions && answer.positions > 0) reasons.push("adds " + grouped(answer.positions) + " sequence positions");
  return reasons.length ? { id: id, reasons: reasons } : { id: id, name: found.name, value: found.value, cost: found.cost };
}
function planner(options, wishes) {
  var all = Object.keys(data.methods).map(function (id) { return judged(id, options, wishes); });
  return { fits: all.filter(function (r) { return r.cost; }), out: all.filter(function (r) { return r.reasons; }) };
}
function fitted(id, options, wishes) {
  var key = ["fit", id, JSON.stringify([options, wishes.trained, wishes.bytes])].join("|");
  return kept(key, function () { return given(wishes.trained) || given(wishes.bytes) ? largest(id, options, wishes) : { name: null, value: null, cost: cost(id, options) }; });
}
function tooMuch(found, budget) {
  var least = found.least, what = over(least, budget) === "trained" ? "trains " + grouped(least.trained) : "stores " + grouped(least.stored_bytes) + " bytes";
  return what + (found.name ? " at its smallest, " + found.name + " = " + found.value : " at its default setting");
}

/* ---- hyperparameters ---- */

var KIND = { int: "a whole number", float: "a number", bool: "true or false" };
function coerce(spec, raw) {
  var text = typeof raw === "string" ? raw.trim() : raw, value;
  if (spec.type === "choice") {
    text = String(raw).toLowerCase();
    return spec.values.indexOf(text) >= 0 ? text : fail(spec.name + ": found " + shown(String(raw)) + "; expected one of " + spec.values.join(", "), spec.name);
  }
  if (spec.type === "bool") value = typeof raw === "boolean" ? raw : { true: true, false: false, 1: true, 0: false }[String(raw).toLowerCase()];
  else if (typeof text === "number") value = text;
  else if (typeof text === "string" && text.length < 20 && (spec.type === "int" ? /^[+-]?\d+$/ : /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i).test(text)) value = Number(text);
  if (value === undefined || (typeof value === "number" && (!Number.isFinite(value) || (spec.type === "int" && !Number.isInteger(value))))) {
    fail(spec.name + ": found " + (raw === "" ? "nothing" : shown(String(raw))) + "; expected " + KIND[spec.type], spec.name);
  }
  if (Math.abs(value) > LARGEST) fail(spec.name + " = " + shown(String(raw)) + " is beyond 2**31", spec.name);
  return value;
}
function fallback(spec, common) { return given(spec.formula) ? run(spec.formula, common) : spec.default; }
function holds(spec, names) {
  try { return spec.domain === null || Boolean(run(spec.domain, names)); } catch (error) { return false; }
}
/* All hyperparameters, defaults filled in, each checked against its domain. */
function valuesFor(plan, chosen) {
  var specs = plan.method.parts[0].hyperparameters, filled = {};
  Object.keys(chosen).forEach(function (name) {
    if (!specs.some(function (s) { return s.name === name; })) fail(plan.method.name + " has no hyperparameter " + shown(name));
  });
  specs.forEach(function (s) { filled[s.name] = given(at(chosen, s.name)) ? coerce(s, chosen[s.name]) : fallback(s, plan.common); });
  var names = merge(filled, plan.common);
  specs.forEach(function (s) {
    if (!holds(s, names)) fail(s.name + " = " + filled[s.name] + " is out of its domain " + s.rule, s.name);
  });
  return filled;
}
/* For each part, the values of its own hyperparameters. */
function argumentsOf(plan, filled) {
  var all = [filled];
  plan.method.parts.slice(1).forEach(function (part) {
    var above = all[part.parent], own = {};
    part.hyperparameters.forEach(function (s) {
      var fixed = part.fixed[s.name];
      if (s.name in part.rename) own[s.name] = above[part.rename[s.name]];
      else if (fixed) own[s.name] = fixed.formula === null ? fixed.value : run(fixed.formula, merge(plan.common, above));
      else own[s.name] = fallback(s, plan.common);
    });
    all.push(own);
  });
  return all;
}

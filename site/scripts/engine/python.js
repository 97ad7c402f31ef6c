/* Arguments as Python has them: a text is code, an object a dictionary of such. */
function coded(value) {
  if (Array.isArray(value)) return "[" + value.map(function (v) { return spelled(coded(v)); }).join(", ") + "]";
  if (value === true || value === false || value === null) return { true: "True", false: "False", null: "None" }[value];
  if (typeof value !== "object") return JSON.stringify(value);
  return Object.keys(value).reduce(function (made, key) { made[key] = coded(value[key]); return made; }, {});
}
function spelled(code) {
  return typeof code === "string" ? code : "{" + Object.keys(code).map(function (key) { return JSON.stringify(key) + ": " + spelled(code[key]); }).join(", ") + "}";
}
/* `a.b` is the key b of the dictionary a. */
function put(made, path, code) {
  if (path.length === 1) made[path[0]] = code;
  else put(typeof made[path[0]] === "object" ? made[path[0]] : (made[path[0]] = {}), path.slice(1), code);
}

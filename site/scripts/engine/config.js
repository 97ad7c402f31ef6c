/* ---- a model: its family's formulas with its config put in ---- */

function shown(text) {
  text = text.replace(/[\p{C}\p{Zl}\p{Zp}\p{Zs}]/gu, function (c) {
    var code = c.codePointAt(0);
    if (c === " ") return c;
    var short = { 9: "\\t", 10: "\\n", 13: "\\r" }[code];
    return short || (code < 256 ? "\\x" + code.toString(16).padStart(2, "0") : code < 65536 ? "\\u" + code.toString(16).padStart(4, "0") : "\\U" + code.toString(16).padStart(8, "0"));
  });
  var letters = Array.from(text);
  return letters.length <= SHOWN ? text : letters.slice(0, SHOWN - 1).join("") + "…";
}
/* A value of a config as a message shows it. */
function seen(value) {
  if (value === undefined) return "nothing";
  if (value === null) return "null";
  if (typeof value === "boolean") return value ? "true" : "false";
  if (Array.isArray(value)) return "a list of " + value.length;
  if (value instanceof Beyond) return "a number beyond 2**53";
  if (typeof value === "number" || value instanceof Real) return String(value);
  if (typeof value === "object") return "a mapping of " + Object.keys(value).length;
  var quote = value.indexOf("'") >= 0 && value.indexOf('"') < 0 ? '"' : "'";
  return shown(quote + value.replace(/\\/g, "\\\\").split(quote).join(quote === "'" ? "\\'" : '\\"') + quote);
}
function refuse(source, field, found, expected) {
  fail([source, field].filter(Boolean).join(": ") + ": found " + found + "; expected " + expected);
}
function truthy(value) {
  if (value instanceof Real) return Number(value.text) !== 0;
  return Array.isArray(value) ? value.length > 0 : value && typeof value === "object" ? Object.keys(value).length > 0 : Boolean(value);
}
/* The value of a key, or of one inside an object ("text_config.hidden_size"); undefined where there is none. */
function lookup(source, raw, label) {
  var cut = label.lastIndexOf("."), holder = cut < 0 ? raw : lookup(source, raw, label.slice(0, cut));
  if (!given(holder)) return undefined;
  if (typeof holder !== "object" || Array.isArray(holder) || holder instanceof Real || holder instanceof Beyond) refuse(source, label.slice(0, cut), seen(holder), "an object");
  return at(holder, label.slice(cut + 1));
}
function at(raw, key) { return Object.prototype.hasOwnProperty.call(raw, key) ? raw[key] : undefined; }

function expected(key) {
  if (key.type === "layers") return key.pattern ? "a list with a word for each layer" : "a list of layers' numbers";
  if (key.type === "int" || key.type === "float") return (key.type === "int" ? "a whole number from " : "a number from ") + grouped(key.min) + " to " + grouped(key.max);
  return key.type === "bool" ? "true or false" : "a text or a list of texts";
}
/* The value as formulas use it; undefined for one that the key cannot have. */
function valueOf(key, value) {
  if (key.type === "float" && value instanceof Real) value = Number(value.text);
  if (key.type === "float") return typeof value === "number" && value >= key.min && value <= key.max ? value : undefined;
  if (key.type === "int") return Number.isInteger(value) && value >= key.min && value <= key.max ? value : undefined;
  if (typeof value === "boolean") return value;
  var words = typeof value === "string" ? value.split("|") : value;
  if (!key.pattern || !Array.isArray(words) || !words.every(function (w) { return typeof w === "string"; })) return undefined;
  var pattern = new RegExp(key.pattern[0], key.pattern[1]);
  return words.some(function (word) { return pattern.test(word.trim()); });
}
function layersOver(key, values) { return range(0, Math.min(run(key.over, values), data.limits.layers)); }
/* The layers that a list names, or at which it has a matching word; undefined for any other value. */
function chosenLayers(key, value, layers) {
  var pattern = key.pattern && new RegExp(key.pattern[0], key.pattern[1]);
  if (!Array.isArray(value) || !value.every(function (v) { return pattern && !pattern.test("1") ? typeof v === "string" : Number.isInteger(v) || (!pattern && v instanceof Beyond); })) return undefined;
  if (!pattern) return layers.filter(function (n) { return value.indexOf(n) >= 0; });
  return value.length < layers.length ? undefined : layers.filter(function (n) { return pattern.test(value[n]); });
}
/* What the config calls a key: its first name that is there and not null, else its own. */
function labelOf(source, key, raw) {
  var names = [key.key || key.name].concat(key.aliases || []);
  return names.filter(function (n) { return given(lookup(source, raw, n)); })[0] || names[0];
}
function valuesOf(source, raw, family) {
  var values = {};
  if (truthy(at(raw, "per_layer_config"))) refuse(source, "per_layer_config", "sizes of single layers", "layers that are alike");
  family.config.forEach(function (key) {
    var label = labelOf(source, key, raw), found = lookup(source, raw, label), filled;
    var none = key.type === "layers" && key.pattern && Array.isArray(found) && !found.length;
    if (given(found) && !none) {
      if (given(key.item) && Array.isArray(found) && found.length > key.item) found = found[key.item];
    } else {
      filled = found === null && given(key.if_null) ? key.if_null : key.default;
      if (!given(filled)) refuse(source, label, seen(found), expected(key) + ", which " + family.name + " needs");
      found = key.type === "layers" ? layersOver(key, values).filter(function (n) { return run(filled, merge(values, { layer: n })); }) : run(filled, values);
      if (key.type === "bool" || key.type === "flag") found = Boolean(found);
    }
    var value = key.type !== "layers" ? valueOf(key, found) : filled === undefined ? chosenLayers(key, found, layersOver(key, values)) : found;
    if (value === undefined) refuse(source, label, seen(found), expected(key));
    values[key.name] = value;
  });
  family.requires.forEach(function (rule) {
    if (run(rule.formula, values)) return;
    var stated = rule.names.map(function (n) { var v = values[n]; return n + " = " + (v === true ? "True" : v === false ? "False" : v); });
    refuse(source, rule.names.join(" and "), stated.join(", "), rule.source + ", as in " + family.name);
  });
  return values;
}

/* The model of a config; `source` is how messages call the config. */
function built(raw, name, source) {
  var type = at(raw, "model_type"), family = typeof type === "string" ? at(data.families, type) : undefined;
  if (!family) refuse(source, "model_type", type === null ? "nothing" : seen(type), data.limits.types);
  var values = valuesOf(source, raw, family), layers = {}, dims = {}, own = {}, parameters;
  function sized(formulas) {
    var made = {};
    Object.keys(formulas).forEach(function (n) { made[n] = run(formulas[n], values); });
    return made;
  }
  Object.keys(family.stacks).forEach(function (stack) {
    layers[stack] = run(family.stacks[stack].layers, values);
    if (layers[stack] > data.limits.layers) refuse(source, family.stacks[stack].keys.join(", "), grouped(layers[stack]) + " layers", "at most " + grouped(data.limits.layers));
  });
  dims = sized(family.dims);
  Object.keys(family.stacks).forEach(function (stack) { own[stack] = sized(family.stacks[stack].dims || {}); });
  var backbone = { name: name, type: type, raw: raw, family: family, config: values, layers: layers, dims: dims, own: own, inventories: new Map(), default_task: family.default_task, tasks: Object.keys(family.tasks) };
  parameters = inventory(backbone, null, 2);
  backbone.parameters = parameters.total - parameters.head;
  if (backbone.parameters > EXACT) {
    var size = backbone.parameters.toPrecision(3).replace(/\.?0*(e|$)/, "$1");
    refuse(source, "sizes", size + " parameters", "at most 2**53");
  }
  backbone.inventories.clear();   // made before the number of its parameters was known
  return backbone;
}

/* A model of the catalogue by id, or that of `options.config`: the text of a config.json, or its content. */
function backboneOf(options) {
  if (given(options.config)) {
    var text = typeof options.config === "string" ? options.config : JSON.stringify(options.config);
    return kept("config|" + text, function () { return built(readJson(text), "config.json", "config"); });
  }
  var found = at(data.models, options.model);
  if (!found) fail("unknown model " + options.model);
  return kept("model|" + options.model, function () { return built(found.config, found.name, options.model); });
}
/* The part of a config that is read: what an address has to carry. */
function reduced(config) {
  var raw = typeof config === "string" ? readJson(config) : config, type = raw.model_type, made = { model_type: type };
  data.families[type].config.forEach(function (key) {
    var names = labelOf("", key, raw).split("."), last = names.pop(), from = raw, to = made;
    names.forEach(function (name) { from = given(from) ? at(from, name) : undefined; });
    if (!given(from) || at(from, last) === undefined) return;
    names.forEach(function (name) { to = to[name] = to[name] || {}; });
    to[last] = at(from, last);
  });
  return JSON.stringify(made, function (_, v) { return v instanceof Beyond || v instanceof Real ? Number(v.text) : v; });
}

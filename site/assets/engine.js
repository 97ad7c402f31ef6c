/* What a method costs on a model, in the page: peftonomy/backbones and peftonomy/costs, step for
   step, over the data that the build exports. On top of that, the largest setting that fits a budget, and the planner.
   A classic script with one global, so that it runs from a file and under a policy without eval. Counts are integers
   below 2**53 and therefore exact; tests compare every method on every model, and bad configs, with Python. */
"use strict";

/* The helpers that compiled formulas name, with Python's meaning. */
function mod(a, b) {
  if (b === 0) throw new Error("division by zero");
  var r = a % b;
  return r !== 0 && (r < 0) !== (b < 0) ? r + b : r;
}
function fdiv(a, b) {
  if (b === 0) throw new Error("division by zero");
  var r = a % b, quotient = (a - r) / b - (r !== 0 && (r < 0) !== (b < 0) ? 1 : 0), floor = Math.floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}
function pow(a, n) {
  if (!Number.isInteger(a)) return Math.pow(a, n);
  for (var product = 1; n > 0; n--) product *= a;
  return product;
}
function gcd(a, b) {
  for (a = Math.abs(a), b = Math.abs(b); b; ) { var r = a % b; a = b; b = r; }
  return a;
}
function factor(n, f) {
  if (f > 0 && n % f === 0) return f;
  if (!(n >= 1 && n <= 1e9)) throw new Error("factor of a number that is not from 1 to 1,000,000,000");
  for (var d = Math.floor(f < 1 ? Math.sqrt(n) : Math.min(f, Math.sqrt(n))); n % d; d--);
  return d;
}

var peft = (function () {
  var EXACT = Math.pow(2, 53), LARGEST = Math.pow(2, 31), INDEX_BYTES = 4, SHOWN = 80, MOST_STEPS = 200000;
  var BYTES = { float64: 8, float32: 4, bfloat16: 2, float16: 2 };
  var LINEAR = ["linear", "conv1d"], OF_PARAMETERS = ["weight", "bias", "norm"], SUMS = ["trained", "stored", "bits", "indices", "served", "served_bits"];
  var SAVED_BY_PEFT = /(classifier|score)(\.|$)/, ANSWERS_SAVED_BY_PEFT = /qa_outputs(\.|$)/, NUMBER = /(^|\.)\d+(\.|$)/;
  var data = null, formulas = null, held = new Map();

  /* An error for people: `field` names the hyperparameter it is about. */
  function fail(message, field) {
    var error = new Error(message);
    error.user = true;
    error.field = field;
    throw error;
  }
  function merge() { return Object.assign.apply(null, [{}].concat([].slice.call(arguments))); }
  /* Names seen through others: cheaper than a copy, of which a keystroke would make thousands. */
  function atop(names, more) { return Object.assign(Object.create(names), more); }
  function run(index, names) { return formulas[index](names); }
  /* The names of their own that names have, without those they are seen through: down to `base`. */
  function local(names, base) { return names === base ? {} : merge(local(Object.getPrototypeOf(names), base), names); }
  function given(value) { return value !== null && value !== undefined; }
  function product(shape) { return shape.reduce(function (a, b) { return a * b; }, 1); }
  function total(rows, key) { return rows.reduce(function (n, r) { return n + r[key]; }, 0); }
  function range(start, stop) { for (var out = []; start < stop; start++) out.push(start); return out; }
  /* What was worked out for a key, kept; a page asks the same thing at every keystroke. */
  function kept(key, make) {
    var found = held.get(key);
    if (found === undefined) {
      if (held.size > 3000) held.clear();
      held.set(key, found = make());
    }
    return found;
  }
  function grouped(value) { return String(value).replace(/\B(?=(\d{3})+(?!\d))/g, ","); }

  /* "attn.*" or "decoder:xattn.v" against a role in its stack. */
  var patterns = new Map();
  function matches(pattern, role, stack) {
    var found = patterns.get(pattern);
    if (!found) {
      var cut = pattern.lastIndexOf(":"), wanted = pattern.slice(cut + 1);
      var escaped = wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
      if (patterns.size > 2000) patterns.clear();
      patterns.set(pattern, found = { stack: cut < 0 ? "" : pattern.slice(0, cut), test: new RegExp("^" + escaped + "$") });
    }
    return inStack(found.stack, stack) && found.test.test(role);
  }
  /* Whether a stack is meant: by its name, by what it does ("encoder" means "encoder_vision" too) or by "". */
  function inStack(wanted, stack) { return wanted === "" || wanted === stack || wanted === stack.split("_")[0]; }
  function wanted(patterns, role, stack) {
    return !patterns || patterns.some(function (p) { return matches(p, role, stack); });
  }

  /* ---- a config.json as text: JSON as strict as Python's reader, which tells 12 from 12.0 ---- */

  function Real(text) { this.text = text; }
  Real.prototype.toString = function () {   // as Python writes it
    var value = Number(this.text);
    if (Number.isInteger(value) && Math.abs(value) < 1e16) return (Object.is(value, -0) ? "-0" : String(value)) + ".0";
    return isFinite(value) ? String(value).replace(/e([+-])(\d)$/, "e$10$2") : value > 0 ? "inf" : "-inf";
  };
  function Beyond(text) { this.text = text; }

  function readJson(text, source) {
    var at = 0, depth = 0;
    function wrong(what) {
      var before = text.slice(0, at).split("\n");
      fail((source || "config") + ": found " + what + " on line " + before.length + ", column " + (before[before.length - 1].length + 1) + "; expected valid JSON");
    }
    function space() { while (" \t\n\r".indexOf(text[at]) >= 0 && at < text.length) at++; }
    function word(name, value) { if (text.slice(at, at + name.length) !== name) wrong(at < text.length ? "a character out of place" : "the end"); at += name.length; return value; }
    function string() {
      var start = at++;
      for (; text[at] !== '"'; at++) {
        if (at >= text.length) { at = start; wrong("a text without end"); }
        if (text[at] < " ") wrong("a control character in a text");
        if (text[at] === "\\") at++;
      }
      at++;
      try { return JSON.parse(text.slice(start, at)); } catch (error) { at = start; return wrong("a wrong escape in a text"); }
    }
    function numeral() {
      var found = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/.exec(text.slice(at, at + 5000));
      if (!found) wrong(at < text.length ? "a character out of place" : "the end");
      if (found[0].length > 4300) wrong("a number of thousands of digits");
      at += found[0].length;
      if (found[2] || found[3]) return new Real(found[0]);
      return Math.abs(Number(found[0])) > EXACT ? new Beyond(found[0]) : Number(found[0]);
    }
    function list(close, item) {
      at++;
      if (++depth > 900) fail((source || "config") + ": found deep nesting; expected the few levels of a config.json");
      space();
      if (text[at] === close) { at++; depth--; return; }
      for (;;) {
        space();
        item();
        space();
        if (text[at] === close) break;
        if (text[at] !== ",") wrong(at < text.length ? "a missing comma" : "the end");
        at++;
      }
      at++;
      depth--;
    }
    function object() {
      var made = {};
      list("}", function () {
        if (text[at] !== '"') wrong("a key without quotes");
        var key = string();
        space();
        if (text[at++] !== ":") { at--; wrong("a missing colon"); }
        if (Object.prototype.hasOwnProperty.call(made, key)) wrong("the key " + shown(key) + " twice");
        var found = value();
        Object.defineProperty(made, key, { value: found, enumerable: true });
      });
      return made;
    }
    function value() {
      space();
      var first = text[at];
      if (first === "{") return object();
      if (first === "[") { var made = []; list("]", function () { made.push(value()); }); return made; }
      if (first === '"') return string();
      if (first === "t") return word("true", true);
      if (first === "f") return word("false", false);
      if (first === "n") return word("null", null);
      return numeral();
    }
    if (text.length > data.limits.bytes) fail((source || "config") + ": found more than " + grouped(data.limits.bytes) + " bytes; expected a config.json, a few thousand bytes");
    var found = value();
    space();
    if (at < text.length) wrong("something after the end");
    if (found === null || typeof found !== "object" || Array.isArray(found) || found instanceof Real || found instanceof Beyond) fail((source || "config") + ": found no object; expected a JSON object");
    return found;
  }

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

  /* ---- its modules, as one task builds them ---- */

  function savedByPeft(inv) { return inv.task === "question_ans" ? ANSWERS_SAVED_BY_PEFT : SAVED_BY_PEFT; }
  /* A task may have an earlier name, under which the family declares its computation. */
  function named(family, task) { return at(family.tasks, task) === undefined ? at(family.earlier, task) || task : task; }
  function computed(family, task) {
    return Object.keys(family.earlier).filter(function (name) { return family.earlier[name] === task; })[0] || task;
  }
  /* The task of a training step: the model's own or, if that has no loss, a classification. */
  function trainedTask(backbone) {
    if (backbone.default_task !== "none") return backbone.default_task;
    var tasks = data.tasks.labelled.map(function (task) { return named(backbone.family, task); });
    return tasks.filter(function (task) { return backbone.tasks.indexOf(task) >= 0; })[0] || backbone.default_task;
  }

  function inventory(backbone, task, labels) {
    task = given(task) ? task : backbone.default_task;
    labels = given(labels) ? labels : 2;
    var key = task + "|" + labels, found = backbone.inventories.get(key);
    if (found) return found;
    task = named(backbone.family, task);
    if (backbone.tasks.indexOf(task) < 0) fail(backbone.name + " has no task " + task + "; it has " + backbone.tasks.join(", "));
    if (!Number.isInteger(labels) || labels < 1 || labels > data.limits.labels) fail("labels: found " + labels + "; expected a whole number from 1 to " + grouped(data.limits.labels));
    var only = at(backbone.family.only, task);
    if (given(only) && labels !== only) fail("labels: found " + labels + "; expected " + only + ", the only number that the class for " + task + " takes");
    var sizes = merge(backbone.config, { num_labels: labels }), family = backbone.family, prefix = family.tasks[task], modules = [];
    var stacks = Object.keys(family.stacks).filter(function (name) { var tasks = family.stacks[name].tasks; return !tasks || tasks.indexOf(task) >= 0; });
    function exists(spec, sizes) { return (!spec.tasks || spec.tasks.indexOf(task) >= 0) && (!given(spec.when) || run(spec.when, sizes)); }
    family.modules.forEach(function (spec) { if (exists(spec, sizes)) modules.push(moduleOf(spec, spec.outside ? "" : prefix, "", null, sizes)); });
    stacks.forEach(function (name) {
      var stack = family.stacks[name], n = backbone.layers[name], own = merge(sizes, backbone.own[name]);
      stack.modules.forEach(function (spec) {
        var layers = [0, n];
        if (given(spec.where)) {
          var chosen = range(0, n).filter(function (layer) { return run(spec.where, atLayer(layer, family, own)); });
          layers = chosen.length === n ? layers : { at: chosen };
        }
        if (countOf(layers) && exists(spec, own)) modules.push(moduleOf(spec, prefix + stack.path + ".", name, layers, own));
      });
    });
    found = { backbone: backbone, task: task, computed: computed(family, task), labels: labels, stacks: stacks, modules: modules, blocks: blocksOf(backbone, stacks, modules) };
    found.total = total(modules, "numel");
    found.head = total(modules.filter(function (m) { return m.head; }), "numel");
    found.dims = dimsOf(found);
    found.sites = sitesIn(found);
    if (backbone.inventories.size > 40) backbone.inventories.clear();
    backbone.inventories.set(key, found);
    return found;
  }
  /* What a formula sees at one layer. */
  function atLayer(layer, family, sizes) {
    var seen = merge(sizes, { layer: layer });
    family.config.forEach(function (key) { if (key.type === "layers") seen[key.name] = sizes[key.name].indexOf(layer) >= 0; });
    return seen;
  }
  /* Layers are null (exists once), [start, stop) or {at: [...]}. */
  function layersOf(layers) { return !layers ? [] : Array.isArray(layers) ? range(layers[0], layers[1]) : layers.at; }
  function countOf(layers) { return !layers ? 1 : Array.isArray(layers) ? layers[1] - layers[0] : layers.at.length; }

  function moduleOf(spec, prefix, stack, layers, sizes) {
    function size(index) { return run(index, sizes); }
    function flag(index) { return given(index) && Boolean(size(index)); }
    var d_in, d_out, shape, parameters, start = 0;
    if (spec.kind === "embedding" || spec.kind === "parameter") {
      shape = (spec.shape || []).map(size);
      d_in = spec.kind === "parameter" ? 1 : shape[0];
      d_out = shape.length ? shape[shape.length - 1] : 1;
      parameters = [[spec.kind === "parameter" ? spec.suffix : "weight", shape]];
    } else {
      if (spec.kind === "norm") d_in = d_out = size(spec.size); else { d_in = size(spec.in); d_out = size(spec.out); }
      shape = spec.kind === "norm" ? (given(spec.heads) ? [size(spec.heads), d_in] : [d_in]) : spec.kind === "linear" ? [d_out, d_in] : spec.kind === "conv1d" ? [d_in, d_out] : [d_out, fdiv(d_in, size(spec.groups))].concat(spec.kernel.map(size));
      parameters = [["weight", shape]];
      if (flag(spec.bias)) parameters.push(["bias", [d_out]]);
    }
    var bias = parameters.some(function (p) { return p[0] === "bias"; });
    if (given(spec.tied) && size(spec.tied)) parameters = parameters.filter(function (p) { return spec.ties && spec.ties.indexOf(p[0]) < 0; });
    return {
      path: (prefix + (spec.path || "")).replace(/\.$/, ""), role: spec.role, stack: stack, layers: layers, n: countOf(layers), kind: spec.kind, d_in: d_in, d_out: d_out, bias: bias,
      parameters: parameters, head: !!spec.new, pretrained: !spec.absent && !spec.new,
      numel: countOf(layers) * parameters.reduce(function (n, p) { return n + product(p[1]); }, 0),
      slices: (spec.slices || []).map(function (s) { var from = start; start += size(s[1]); return [s[0], from, start]; }),
      groups: LINEAR.indexOf(spec.kind) >= 0 && given(spec.groups) ? size(spec.groups) : 1
    };
  }
  function blocksOf(backbone, stacks, modules) {
    var out = [];
    stacks.forEach(function (name) {
      var n = backbone.layers[name], dims = merge(backbone.dims, backbone.own[name], { n_layers: n });
      function add(kind, called, layers) { out.push({ kind: kind, name: called, role: called, stack: name, layers: layers, n: countOf(layers), dims: dims }); }
      Object.keys(backbone.family.stacks[name].attention).forEach(function (attention) {
        var inside = modules.filter(function (m) { return m.stack === name && m.role.indexOf(attention + ".") === 0; });
        var having = range(0, n).filter(function (layer) { return inside.some(function (m) { return layersOf(m.layers).indexOf(layer) >= 0; }); });
        if (having.length) add("attention", attention, having.length === n ? [0, n] : { at: having });
      });
      if (modules.some(function (m) { return m.stack === name && m.role === backbone.family.stacks[name].mlp; })) add("mlp", "mlp", [0, n]);
      add("layer", "layer", [0, n]);
    });
    return out;
  }
  function dimsOf(inv) {
    function layers(wanted) {
      return inv.stacks.reduce(function (n, name) { return n + (inStack(wanted, name) ? inv.backbone.layers[name] : 0); }, 0);
    }
    return merge(inv.backbone.dims, inv.backbone.own[inv.stacks[0]], {
      n_layers: layers(""), n_encoder_layers: layers("encoder"), n_decoder_layers: layers("decoder"),
      n_attention: total(inv.blocks.filter(function (b) { return b.kind === "attention"; }), "n")
    });
  }

  /* ---- which linear modules are meant: by role, or by peft's suffixes ---- */

  function siteOf(module, layers, role, start, stop) {
    stop = stop || module.d_out;
    var whole = stop - (start || 0) === module.d_out;
    return {
      module: module, role: role || module.role, stack: module.stack, d_in: module.d_in, d_out: stop - (start || 0), start: start || 0, stop: stop, bias: module.bias,
      layers: layers, n: countOf(layers), whole: whole, fused: whole && module.slices.length > 0
    };
  }
  /* Every linear module in the network's order, a fused one before its slices. */
  function sitesIn(inv) {
    var out = [];
    inv.modules.forEach(function (m) {
      if (LINEAR.indexOf(m.kind) < 0) return;
      out.push(siteOf(m, m.layers));
      m.slices.forEach(function (s) { out.push(siteOf(m, m.layers, s[0], s[1], s[2])); });
    });
    return out;
  }
  function means(pattern, site) { return matches(pattern, site.role, site.stack) && !(site.fused && pattern.indexOf("*") >= 0); }
  function hasRole(inv, role) { return inv.sites.some(function (s) { return means(role, s); }); }
  /* A fused module named as a whole takes its slices in. */
  function byRole(inv, patterns) {
    var chosen = new Set(), whole = new Set();
    patterns.forEach(function (pattern) {
      var found = inv.sites.filter(function (s) { return means(pattern, s); });
      if (!found.length) fail(inv.backbone.name + " has no linear module of role " + pattern);
      found.forEach(function (s) { chosen.add(s); if (s.whole) whole.add(s.module); });
    });
    return inv.sites.filter(function (s) { return chosen.has(s) && (s.whole || !whole.has(s.module)); });
  }
  function layersNamed(module, suffixes) {
    function named(path) { return suffixes.some(function (s) { return ("." + path).endsWith("." + s); }); }
    if (!module.layers || !suffixes.some(function (s) { return NUMBER.test(s); })) {
      return named(module.path.replace("{layer}", "0")) ? module.layers : undefined;
    }
    var at = layersOf(module.layers).filter(function (n) { return named(module.path.replace("{layer}", n)); });
    return !at.length ? undefined : at.length === module.n ? module.layers : { at: at };
  }
  /* The linear modules whose name is, or ends in a dot and, one of these; or "all-linear". As in peft. */
  function bySuffix(inv, suffixes) {
    var linear = inv.modules.filter(function (m) { return LINEAR.indexOf(m.kind) >= 0 && !savedByPeft(inv).test(m.path); });
    if (typeof suffixes === "string") {
      if (suffixes.toLowerCase() !== "all-linear") fail("target modules: a list, or all-linear");
      if (inv.backbone.family.expert_names.length) experts("all-linear");
      return linear.filter(function (m) { return m.role !== "head.lm"; }).map(function (m) { return siteOf(m, m.layers); });
    }
    function experts(suffix) { fail("target module " + shown(suffix) + " means tensors of experts in peft, which are no linear modules; choose roles, or other modules"); }
    suffixes.forEach(function (suffix) {
      if (inv.backbone.family.expert_names.indexOf(suffix.split(".").pop()) >= 0) experts(suffix);
      if (linear.some(function (m) { return layersNamed(m, [suffix]) !== undefined; })) return;
      var other = inv.modules.filter(function (m) { return m.kind !== "parameter" && layersNamed(m, [suffix]) !== undefined; })[0];
      if (other && LINEAR.indexOf(other.kind) >= 0) fail("target module " + shown(suffix) + " belongs to the task's head, which is trained in full");
      if (other) fail("target module " + shown(suffix) + " is of kind " + other.kind + ", not a linear module");
      fail(inv.backbone.name + " has no linear module named " + shown(suffix) + "; it has " + endings(inv).join(", "));
    });
    return linear.map(function (m) { return [m, layersNamed(m, suffixes)]; })
      .filter(function (pair) { return pair[1] !== undefined; }).map(function (pair) { return siteOf(pair[0], pair[1]); });
  }
  function endings(inv) {
    var linear = inv.modules.filter(function (m) { return LINEAR.indexOf(m.kind) >= 0 && !savedByPeft(inv).test(m.path); });
    return Array.from(new Set(linear.map(function (m) { return m.path.split(".").pop(); })));
  }

  function sitesOf(method, part, inv, targets, suffixes) {
    if (!part.targets) return [];
    var declared = method.parts[0].targets || part.targets, found;
    if (suffixes) return bySuffix(inv, suffixes);
    if (!targets) {   // default roles that only some families have are passed over
      var present = declared.default.filter(function (role) { return hasRole(inv, role); });
      if (!present.length) fail(inv.backbone.name + " has none of the default targets " + declared.default.join(", ") + "; choose others");
      return byRole(inv, present);
    }
    found = byRole(inv, targets);
    found.forEach(function (s) {
      if (!wanted(declared.allowed, s.role, s.stack)) fail("cannot target " + s.role + "; allowed: " + declared.allowed.join(", "));
    });
    return found;
  }

  /* ---- a method laid out on a model: what does not depend on its hyperparameters ---- */

  function methodOf(id) { return at(data.methods, id) || fail("unknown method " + id); }

  /* `options`: model or config, task, num_labels, targets or target_modules. */
  function planOf(id, options) {
    var method = methodOf(id), backbone = backboneOf(options);
    var labels = given(options.num_labels) ? options.num_labels : 2, targets = options.targets || null, suffixes = options.target_modules || null;
    var key = ["plan", id, given(options.config) ? "=" + (typeof options.config === "string" ? options.config : JSON.stringify(options.config)) : options.model, options.task, labels, JSON.stringify([targets, suffixes])].join("|");
    return kept(key, function () { return laidOut(id, method, inventory(backbone, options.task, labels), targets, suffixes); });
  }
  function laidOut(id, method, inv, targets, suffixes) {
    if (targets && suffixes) fail("give targets (roles) or target modules (suffixes), not both");
    if ((targets || suffixes) && !method.parts.some(function (p) { return p.targets; })) fail(method.name + " has no targets: it does not act on chosen linear modules");
    var plan = { id: id, method: method, inv: inv, target_modules: suffixes, tensors: [] }, found = false;
    plan.sites = method.parts.map(function (part) { return sitesOf(method, part, inv, targets, suffixes); });
    plan.common = merge(inv.dims, { backbone: inv.backbone.parameters }, totals([].concat.apply([], plan.sites)));
    method.parts.forEach(function (part, i) {
      var used = new Set();
      part.tensors.forEach(function (tensor) {
        var places = spotsOf(tensor, inv, plan.sites[i], plan.common);
        places.forEach(function (p) { used.add(p.source); });
        plan.tensors.push({ part: i, tensor: tensor, name: part.prefix + tensor.name, spots: places });
        found = found || places.length > 0;
      });
      if (!part.tensors.some(function (t) { return t.per === "site"; })) return;
      plan.sites[i].forEach(function (s) { if (!used.has(s)) fail("nothing in " + method.name + " acts on " + s.role + "; choose other targets"); });
    });
    if (!found) fail(method.name + " finds nothing to act on in " + inv.backbone.name);
    plan.targets = targets || Array.from(new Set([].concat.apply([], plan.sites).map(function (s) { return s.role; })));
    return plan;
  }
  /* What formulas may name of all targeted linears together. */
  function totals(sites) {
    function most(key) { return sites.reduce(function (n, s) { return Math.max(n, s[key]); }, 0); }
    function sum(key) { return sites.reduce(function (n, s) { return n + s.n * s[key]; }, 0); }
    return { n_sites: total(sites, "n"), max_d_in: most("d_in"), max_d_out: most("d_out"), sum_d_in: sum("d_in"), sum_d_out: sum("d_out") };
  }
  /* Each role (and shape) among the sites, with how many share it. */
  function rolesOf(tensor, sites) {
    var found = new Map();
    sites.forEach(function (s) {
      if (!wanted(tensor.roles, s.role, s.stack)) return;
      var key = [s.role, s.d_in, s.d_out].join("|"), role = found.get(key) || { role: s.role, d_in: s.d_in, d_out: s.d_out, n_sharing: 0 };
      role.n_sharing += s.n;
      found.set(key, role);
    });
    return Array.from(found.values());
  }
  /* Every spot of a tensor: n equal places and the dimensions that its formulas may name there. */
  function spotsOf(tensor, inv, sites, common) {
    var out = [];
    function add(role, source, dims, shape, suffix) {
      out.push({ role: role, stack: source.stack || "", source: source, n: source.n, layers: source.layers, dims: atop(common, dims), shape: shape, suffix: suffix });
    }
    if (tensor.per === "model") add("", { n: 1, layers: null }, {});
    else if (tensor.per === "site") sites.forEach(function (s) {
      if (wanted(tensor.roles, s.role, s.stack)) add(s.role, s, { d_in: s.d_in, d_out: s.d_out, bias: Number(s.bias) });
    });
    else if (tensor.per === "role") rolesOf(tensor, sites).forEach(function (r) {
      add(r.role, { n: 1, layers: null }, { d_in: r.d_in, d_out: r.d_out, n_sharing: r.n_sharing });
    });
    else if (OF_PARAMETERS.indexOf(tensor.per) >= 0) inv.modules.forEach(function (m) {
      if (!m.pretrained || !wanted(tensor.roles, m.role, m.stack) || (tensor.per === "norm" && m.kind !== "norm")) return;
      m.parameters.forEach(function (p) {
        var sides = LINEAR.indexOf(m.kind) >= 0 && p[0] === "weight" ? p[1] : [0, 0];
        if (tensor.per !== "bias" || p[0] === "bias") add(m.role, m, { numel: product(p[1]), rows: sides[0], columns: sides[1] }, tensor.selecting ? p[1] : undefined, p[0]);
      });
    });
    else inv.blocks.forEach(function (b) {
      if (b.kind === tensor.per && wanted(tensor.roles, b.name, b.stack)) add(b.name, b, merge(b.dims, { cross: b.name === "xattn" ? 1 : 0 }));
    });
    if (!tensor.by_layer) return out;
    return [].concat.apply([], out.map(function (spot) {
      var layers = layersOf(spot.layers);
      return layers.map(function (layer) { return merge(spot, { n: 1, layers: [layer, layer + 1], dims: atop(spot.dims, { layer: layer }) }); });
    }));
  }

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

  /* ---- rows: every tensor that exists, with its share of the ledgers ---- */

  /* `loose` leaves out what must hold: used to bracket an answer, never to give one. */
  function rowsOf(plan, filled, loose) {
    var args = argumentsOf(plan, filled), out = [];
    plan.tensors.forEach(function (piece) { out.push.apply(out, gathered(piece, placed(piece, args[piece.part], loose), args[piece.part], plan, loose)); });
    return out;
  }
  /* The rows of a tensor, one for each spot where it exists. */
  function placed(piece, own, loose) {
    var rows = [];
    piece.spots.forEach(function (spot) {
      var row;
      try { row = rowOf(piece, spot, own, loose); } catch (error) {
        if (error.user) throw error;
        fail("tensor " + piece.name + " has no size here: " + error.message);
      }
      if (row) rows.push(row);
    });
    return rows;
  }
  function whole(piece, what, value, loose) {
    value = Number(value);
    if (value > EXACT || (!loose && (!Number.isInteger(value) || value < 0))) fail("tensor " + piece.name + ": " + what + " is " + value + ", not a count");
    return value;
  }
  function rowOf(piece, spot, own, loose) {
    var tensor = piece.tensor, names = atop(spot.dims, own), row = { piece: piece, spot: spot };
    if (tensor.guard !== null && !run(tensor.guard, names)) return null;
    if (!loose && tensor.requires !== null && !run(tensor.requires, names)) {
      fail("tensor " + piece.name + (spot.role ? " at " + spot.role : "") + " requires " + tensor.rule);
    }
    row.shape = tensor.shape ? tensor.shape.map(function (f) { return run(f, names); }) : spot.shape || null;
    row.count = whole(piece, "its size", row.shape ? product(row.shape) : run(tensor.count, names), loose);
    row.n = tensor.copies === null ? spot.n : spot.n * whole(piece, "copies", run(tensor.copies, names), loose);
    row.trained = tensor.trained === true ? row.count * row.n : tensor.trained === false ? 0 : row.n * whole(piece, "trained", run(tensor.trained, names), loose);
    row.stored = row.bits = row.indices = 0;
    tensor.stored.forEach(function (s) {
      if (s.across !== null) return;
      keep(row, s.as, row.n * (s.count === null ? row.count : whole(piece, "stored", run(s.count, names), loose)));
    });
    return served(row, row.count * row.n);
  }
  function keep(row, as, amount) {
    if (as === "bits") row.bits += amount; else if (as !== "shared") row.stored += amount;
    if (as === "indices") row.indices += amount;
  }
  function served(row, numel) {
    var stays = row.piece.tensor.served === "kept" ? numel : 0;
    row.served = row.bits ? 0 : stays;
    row.served_bits = row.bits ? stays : 0;
    return row;
  }
  /* A tensor with a share over all its places together becomes one row: that share has no place of its own. */
  function gathered(piece, rows, own, plan, loose) {
    var tensor = piece.tensor;
    if (!rows.length || (tensor.moved === null && tensor.stored.every(function (s) { return s.across === null; }))) return rows;
    var numel = rows.reduce(function (n, r) { return n + r.count * r.n; }, 0), names = merge(own, plan.common, { numel: numel });
    var row = {
      piece: piece, spot: null, shape: null, count: numel, n: 1, stored: total(rows, "stored"), bits: total(rows, "bits"), indices: total(rows, "indices"),
      trained: tensor.moved === null ? total(rows, "trained") : whole(piece, "trained", run(tensor.moved, names), loose),
      roles: rows.map(function (r) { return r.spot.role; })
    };
    tensor.stored.forEach(function (s) { if (s.across !== null) keep(row, s.as, whole(piece, "stored", run(s.across, names), loose)); });
    return [served(row, numel)];
  }

  function sumsOf(rows, size) {
    var sum = {};
    SUMS.forEach(function (key) { sum[key] = total(rows, key); });
    sum.stored_bytes = (sum.stored - sum.indices) * size + sum.indices * INDEX_BYTES + Math.ceil(sum.bits / 8);
    return sum;
  }
  function most(sum) { return Math.max(sum.trained, sum.stored, sum.served, sum.bits); }
  function sizeOf(options) {
    var dtype = options.dtype || "float32";
    return at(BYTES, dtype) || fail("unknown dtype " + dtype + "; known: " + Object.keys(BYTES).join(", "));
  }

  /* ---- the answer ---- */

  /* `options`: those of a plan, dtype, values. Throws an Error whose message is for people. */
  function cost(id, options) {
    var size = sizeOf(options), plan = planOf(id, options), filled = valuesFor(plan, options.values || {});
    return answer(plan, filled, size);
  }
  /* The arguments of a library that are computed from the hyperparameters. */
  function written(id, options, library) {
    var plan = planOf(id, options), names = merge(valuesFor(plan, options.values || {}), plan.common), found = {}, write = methodOf(id).libraries[library].write;
    Object.keys(write).forEach(function (name) { found[name] = run(write[name], names); });
    return found;
  }
  function answer(plan, filled, size) {
    var rows = rowsOf(plan, filled), sum = sumsOf(rows, size), backbone = plan.inv.backbone.parameters;
    if (most(sum) > EXACT) fail("these hyperparameters give more than 2**53 numbers");
    return {
      hyperparameters: filled, targets: plan.targets, target_modules: plan.target_modules, task: plan.inv.task,
      trained: sum.trained, stored: sum.stored, stored_bits: sum.bits, stored_bytes: sum.stored_bytes, served: sum.served, served_bits: sum.served_bits,
      head: plan.inv.head, backbone: backbone, percent: 100 * sum.trained / backbone,
      positions: run(plan.method.positions, merge(filled, plan.common)),
      base_bytes: baseBytes(plan, filled, size), tensors: perTensor(rows), layers: perLayer(rows)
    };
  }
  /* Bytes of the backbone as the method holds it. */
  function baseBytes(plan, filled, size) {
    var plain = plan.inv.backbone.parameters * size, args = argumentsOf(plan, filled);
    plan.method.parts.forEach(function (part, i) {
      if (part.base.length) plan.inv.modules.forEach(function (m) {
        var kept = part.base.filter(function (h) { return wanted(h.roles, m.role, m.stack); });
        var weight = m.parameters.filter(function (p) { return p[0] === "weight"; })[0];
        if (!kept.length || !weight || !m.pretrained) return;
        var numel = product(weight[1]), names = merge(args[i], plan.common, { numel: numel });
        var bytes = kept.reduce(function (n, h) { return n + Math.ceil(run(h.count, names) * h.bits / 8); }, 0);
        plain += m.n * (bytes - numel * size);
      });
    });
    return plain;
  }
  /* Places of equal shape together. */
  function perTensor(rows) {
    var groups = new Map();
    rows.forEach(function (r) {
      var key = [r.piece.name, r.shape, r.count].join("|"), g = groups.get(key);
      if (!g) {
        g = { name: r.piece.name, per: r.piece.tensor.per, shape: r.shape, count: r.count, sites: 0, total: 0, trained: 0, stored: 0, stored_bits: 0, served: 0, served_bits: 0, roles: [] };
        groups.set(key, g);
      }
      g.sites += r.n; g.total += r.n * r.count; g.trained += r.trained; g.stored += r.stored; g.stored_bits += r.bits; g.served += r.served; g.served_bits += r.served_bits;
      (r.roles || [r.spot.role]).forEach(function (role) { if (role && g.roles.indexOf(role) < 0) g.roles.push(role); });
    });
    return Array.from(groups.values());
  }
  /* What each layer has, equal neighbours as one run; then what belongs to no layer, and what has no place of its own. */
  function perLayer(rows) {
    var keys = ["trained", "stored", "bits", "served", "served_bits"], layers = new Map(), rest = { outside: null, spread: null };
    function add(record, row, n) { keys.forEach(function (k) { record[k] += row[k] / n; }); return record; }
    function empty(head) { keys.forEach(function (k) { head[k] = 0; }); return head; }
    rows.forEach(function (r) {
      var at = r.spot ? layersOf(r.spot.layers) : [], where = r.spot ? "outside" : "spread";
      if (!at.length) rest[where] = add(rest[where] || empty({ stack: where, from: null, to: null }), r, 1);
      at.forEach(function (n) {
        var key = r.spot.stack + "|" + n;
        if (!layers.has(key)) layers.set(key, empty({ stack: r.spot.stack, from: n, to: n }));
        add(layers.get(key), r, at.length);
      });
    });
    var order = Array.from(layers.values()).sort(function (a, b) { return a.stack === b.stack ? a.from - b.from : a.stack < b.stack ? 1 : -1; }), runs = [];
    order.forEach(function (layer) {
      var last = runs[runs.length - 1];
      if (last && last.stack === layer.stack && last.to === layer.from - 1 && keys.every(function (k) { return last[k] === layer[k]; })) last.to = layer.from;
      else runs.push(layer);
    });
    return runs.concat([rest.outside, rest.spread].filter(Boolean));
  }

  /* The roles that a method may target in a model; a fused one only where its slices are not offered. */
  function roles(id, options) {
    var inv = inventory(backboneOf(options), options.task), out = [], method = methodOf(id);
    var targets = method.parts[0].targets || method.parts.map(function (p) { return p.targets; }).filter(Boolean)[0];
    inv.sites.forEach(function (s) {
      if (targets && !s.fused && out.indexOf(s.role) < 0 && wanted(targets.allowed, s.role, s.stack)) out.push(s.role);
    });
    return out;
  }
  /* Those in force: what was chosen, taken apart, or the defaults. */
  function targets(id, options) {
    return Array.from(new Set([].concat.apply([], planOf(id, options).sites).map(function (s) { return s.role; })));
  }
  /* Names by which peft finds exactly the modules that a question targets; null where it cannot. */
  function suffixes(id, options) {
    var plan = planOf(id, options), sites = [].concat.apply([], plan.sites), wanted = new Map();
    if (options.target_modules) return options.target_modules;
    if (!sites.length || sites.some(function (s) { return !s.whole; })) return null;
    sites.forEach(function (s) { wanted.set(s.module, s.n); });
    for (var depth = 1; depth < 7; depth++) {
      var names = Array.from(new Set(sites.map(function (s) { return s.module.path.replace("{layer}", "0").split(".").slice(-depth).join("."); })));
      if (names.some(function (n) { return NUMBER.test(n); })) break;
      var found = [];
      try { found = bySuffix(plan.inv, names); } catch (error) { if (!error.user) throw error; }
      if (found.length === wanted.size && found.every(function (s) { return wanted.get(s.module) === s.n; })) return names;
    }
    return null;
  }

  /* Whether two questions target the same modules, slices and layers. */
  function same(id, a, b) {
    function meant(options) {
      return JSON.stringify(planOf(id, options).sites.map(function (sites) {
        return sites.map(function (s) { return [s.module.path, s.role, layersOf(s.layers)]; });
      }));
    }
    return meant(a) === meant(b);
  }

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
  function over(sum, budget) {
    return given(budget.trained) && sum.trained > budget.trained ? "trained" : "bytes";
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
  /* The default of what `largest` looks for; null where a method has no such number. */
  function usual(id, options) {
    var plan = planOf(id, options), name = plan.method.size;
    return name ? fallback(plan.method.parts[0].hyperparameters.filter(function (s) { return s.name === name; })[0], plan.common) : null;
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
      piece.tensor.bounds.forEach(function (b) { piece.spots.forEach(function (spot) { bound(b, atop(spot.dims, args[piece.part])); }); });
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

  return {
    load: function (records) { data = records; formulas = records.formulas; held.clear(); return this; },
    get data() { return data; },
    cost: cost, written: written, roles: roles, targets: targets, suffixes: suffixes, same: same, endings: function (options) { return endings(inventory(backboneOf(options), options.task)); },
    backbone: backboneOf, reduced: reduced, readJson: readJson, largest: largest, usual: usual, judged: judged, planner: planner, quantity: quantity, gpuBytes: gpuBytes,
    named: named,
    modules: function (options) { return inventory(backboneOf(options), options.task, options.num_labels); },
    dtypes: Object.keys(BYTES),
    /* What the scripts of memory go on with. */
    inner: {
      trainedTask: trainedTask,
      EXACT: EXACT, product: product, local: local, byRole: byRole, hasRole: hasRole, LINEAR: LINEAR, fail: fail, given: given, merge: merge, atop: atop, run: run, total: total, layersOf: layersOf, kept: kept, grouped: grouped, shown: shown,
      planOf: planOf, spotsOf: spotsOf, valuesFor: valuesFor, argumentsOf: argumentsOf, placed: placed, baseBytes: baseBytes, lookup: lookup, seen: seen
    }
  };
})();

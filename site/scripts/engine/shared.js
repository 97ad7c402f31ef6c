var EXACT = Math.pow(2, 53), LARGEST = Math.pow(2, 31), INDEX_BYTES = 4, SHOWN = 80, MOST_STEPS = 200000;
var BYTES = { float64: 8, float32: 4, bfloat16: 2, float16: 2 };
var INPUTS = ["embed.token", "embed.patch", "embed.audio"], LINEAR = ["linear", "conv1d"], OF_PARAMETERS = ["weight", "bias", "norm"], SUMS = ["trained", "stored", "bits", "indices", "served", "served_bits"];
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

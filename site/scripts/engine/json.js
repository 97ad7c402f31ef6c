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

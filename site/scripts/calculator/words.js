/* Numbers, lists and names as the tools write them. */

function scaled(value, units, base) {
  for (var i = 0; value >= 0.9995 * base && i < units.length - 1; i++) value /= base;
  return Number(value.toPrecision(3)) + units[i];
}
function bytes(value) { return scaled(value, [" B", " kB", " MB", " GB", " TB", " PB"], 1000); }
/* As memory is counted, and as the command line prints it. */
function binary(value) {
  for (var units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], i = 0; value >= 1023.5 && i < units.length - 1; i++) value /= 1024;
  return Number(value.toPrecision(4)) + " " + units[i];
}
function short(value) { return scaled(value, ["", " k", " M", " G", " T"], 1000); }
function words(text) { return (text || "").split(",").map(function (w) { return w.trim(); }).filter(Boolean); }
function quoted(word) { return /^[\w.,:=+\/-]+$/.test(word) ? word : "'" + word.replace(/'/g, "'\\''") + "'"; }
/* An answer, or the error that was meant for people. */
function tried(action) {
  try { return { value: action() }; } catch (error) { if (!error.user) throw error; return { problem: error }; }
}

function list(items) { return "[" + items.map(function (i) { return JSON.stringify(i); }).join(", ") + "]"; }
/* 6907381153792 as "6.91 × 10¹²". */
function power(value) {
  var parts = Number(value).toExponential(2).split("e+");
  return parts[0] + " × 10" + parts[1].replace(/\d/g, function (d) { return "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]; });
}
/* "attn.q, attn.v, mlp.up" as "attn.q/v, mlp.up". */
function together(roles) {
  var groups = new Map();
  roles.forEach(function (role) {
    var cut = role.lastIndexOf(".") + 1, head = role.slice(0, cut);
    groups.set(head, (groups.get(head) || []).concat(role.slice(cut)));
  });
  return Array.from(groups, function (g) { return g[0] + g[1].join("/"); }).join(", ");
}

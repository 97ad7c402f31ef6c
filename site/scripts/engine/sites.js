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

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
  if (!found && !(method.head_alone && inv.dims.n_labels)) fail(method.name + " finds nothing to act on in " + inv.backbone.name);
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
      var outputs = p[0] === "weight" ? { linear: p[1][0], conv1d: p[1][1], conv: p[1][0] }[m.kind] || 0 : 0;
      if (tensor.per !== "bias" || p[0] === "bias") add(m.role, m, { numel: product(p[1]), rows: sides[0], columns: sides[1], outputs: outputs, bias: Number(p[0] === "bias") }, tensor.selecting ? p[1] : undefined, p[0]);
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

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
  if (most(sum) > EXACT) fail("these hyperparameters give more than 2**53 numbers or bytes");
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

/* What a method costs on a model: peftonomy/_plan.py and _layout.py, step for step, over the data that the build exports.
   A classic script with one global, so that it runs from a file and under a policy without eval. Counts are integers
   below 2**53 and therefore exact; a test compares every method on every model with Python. */
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

var peft = (function () {
  var EXACT = Math.pow(2, 53), LARGEST = Math.pow(2, 31), INDEX_BYTES = 4;
  var BYTES = { float64: 8, float32: 4, bfloat16: 2, float16: 2 };
  var data = null, formulas = null;

  function fail(message) { var error = new Error(message); error.user = true; throw error; }
  function merge() { return Object.assign.apply(null, [{}].concat([].slice.call(arguments))); }
  function run(index, names) { return formulas[index](names); }
  /* Layers are null (once), [start, stop) or {at: [...]}. */
  function layersOf(layers) {
    return !layers ? [] : Array.isArray(layers) ? range(layers[0], layers[1]) : layers.at;
  }
  function product(shape) { return shape.reduce(function (a, b) { return a * b; }, 1); }
  function range(start, stop) { for (var out = []; start < stop; start++) out.push(start); return out; }

  /* "attn.*" or "decoder:xattn.v" against a role in its stack. */
  function matches(pattern, role, stack) {
    var cut = pattern.lastIndexOf(":"), wanted = pattern.slice(cut + 1);
    if (cut >= 0 && pattern.slice(0, cut) !== stack) return false;
    var escaped = wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
    return new RegExp("^" + escaped + "$").test(role);
  }
  function wanted(patterns, role, stack) {
    return !patterns || patterns.some(function (p) { return matches(p, role, stack); });
  }

  /* The model as one task builds it. */
  function inventory(model, task) {
    var found = data.models[model];
    if (!found) fail("unknown model " + model);
    if (found.tasks.indexOf(task) < 0) fail(found.name + " has no task " + task);
    var at = found.tasks.indexOf(task);
    return {
      model: found, task: task, head: found.head[at], blocks: found.blocks,
      dims: merge(found.dims[at], { backbone: found.backbone }),
      modules: found.modules_of[at].map(function (i) { return found.modules[i]; }),
      selector: found.selectors[found.selector_of[at]]
    };
  }

  /* The sites that roles or patterns name. A fused module named as a whole takes its slices in. */
  function sitesOf(inv, patterns) {
    var sites = inv.selector.sites, chosen = [], whole = {};
    patterns.forEach(function (pattern) {
      var found = inv.selector.resolve[pattern];
      if (!found) fail(inv.model.name + " has no role " + pattern);
      found.forEach(function (i) {
        if (chosen.indexOf(i) < 0) chosen.push(i);
        if (sites[i].whole) whole[sites[i].module] = true;
      });
    });
    chosen.sort(function (a, b) { return a - b; });
    return chosen.map(function (i) { return sites[i]; }).filter(function (s) { return s.whole || !whole[s.module]; });
  }
  /* Default roles: those that only some families have are passed over. */
  function defaultSites(inv, roles) {
    return sitesOf(inv, roles.filter(function (role) { return inv.selector.resolve[role]; }));
  }

  function targetsOf(method, part, inv, targets) {
    if (!part.targets) return [];
    var declared = method.parts[0].targets || part.targets;
    if (!targets) {
      var found = defaultSites(inv, declared.default);
      if (!found.length) fail(inv.model.name + " has none of the default targets " + part.targets.default.join(", "));
      return found;
    }
    var sites = sitesOf(inv, targets);
    sites.forEach(function (s) {
      if (!wanted(declared.allowed, s.role, s.stack)) fail("cannot target " + s.role + "; allowed: " + declared.allowed.join(", "));
    });
    return sites;
  }

  /* Every spot of a tensor: n equal places and the dimensions that its formulas may name there. */
  function spots(part, tensor, inv, sites) {
    var common = inv.dims, out = [];
    function add(role, source, dims, shape) {
      out.push({ role: role, source: source, n: source.n, layers: source.layers, dims: merge(common, dims), shape: shape });
    }
    if (tensor.per === "model") add("", { n: 1, layers: null }, {});
    else if (tensor.per === "site") sites.forEach(function (s) {
      if (wanted(tensor.roles, s.role, s.stack)) add(s.role, s, { d_in: s.d_in, d_out: s.d_out, bias: s.bias });
    });
    else if (["weight", "bias", "norm"].indexOf(tensor.per) >= 0) inv.modules.forEach(function (m) {
      if (!m.pretrained || !wanted(tensor.roles, m.role, m.stack)) return;
      if (tensor.per === "norm" && m.kind !== "norm") return;
      m.parameters.forEach(function (p) {
        if (tensor.per !== "bias" || p[0] === "bias") add(m.role, m, { numel: product(p[1]) }, tensor.selecting ? p[1] : undefined);
      });
    });
    else inv.blocks.forEach(function (b) {
      if (b.kind === tensor.per && wanted(tensor.roles, b.name, b.stack)) add(b.name, b, merge(b.dims, { cross: b.name === "xattn" ? 1 : 0 }));
    });
    if (!tensor.by_layer) return out;
    return [].concat.apply([], out.map(function (spot) {
      var layers = layersOf(spot.layers);
      if (!layers.length) return [spot];
      return layers.map(function (layer) { return merge(spot, { n: 1, dims: merge(spot.dims, { layer: layer }) }); });
    }));
  }

  function coerce(spec, raw) {
    if (spec.type === "choice") return spec.values.indexOf(raw) >= 0 ? raw : fail(spec.name + " is one of " + spec.values.join(", "));
    if (spec.type === "bool") return raw === true || raw === "true" || raw === "1";
    var value = typeof raw === "string" && raw.trim() === "" ? NaN : Number(raw);
    if (!Number.isFinite(value) || Math.abs(value) > LARGEST) fail(spec.name + " is a number");
    if (spec.type === "int" && !Number.isInteger(value)) fail(spec.name + " is a whole number");
    return value;
  }
  function fallback(spec, common) { return spec.formula === null ? spec.default : run(spec.formula, common); }

  /* All hyperparameters, defaults filled in, each checked against its domain. */
  function values(method, inv, given) {
    var specs = method.parts[0].hyperparameters, filled = {};
    specs.forEach(function (s) { filled[s.name] = s.name in given ? coerce(s, given[s.name]) : fallback(s, inv.dims); });
    specs.forEach(function (s) {
      var fine = true;
      try { fine = s.domain === null || run(s.domain, merge(filled, inv.dims)); } catch (error) { fine = false; }
      if (!fine) { var error = new Error(s.name + " = " + filled[s.name] + " must satisfy " + s.rule); error.user = true; error.field = s.name; throw error; }
    });
    return filled;
  }

  function argumentsOf(method, inv, filled) {
    var all = [filled];
    method.parts.slice(1).forEach(function (part) {
      var above = all[part.parent], own = {};
      part.hyperparameters.forEach(function (s) {
        var fixed = part.fixed[s.name];
        if (s.name in part.rename) own[s.name] = above[part.rename[s.name]];
        else if (fixed) own[s.name] = fixed.formula === null ? fixed.value : run(fixed.formula, merge(inv.dims, above));
        else own[s.name] = fallback(s, inv.dims);
      });
      all.push(own);
    });
    return all;
  }

  function whole(row, what, value) {
    value = Number(value);
    if (!Number.isInteger(value) || value < 0 || value > EXACT) fail("tensor " + row.name + ": " + what + " is " + value + ", not a count");
    return value;
  }

  function rowOf(part, tensor, spot, own) {
    var names = merge(own, spot.dims), row = { name: part.prefix + tensor.name, tensor: tensor, spot: spot, role: spot.role };
    if (tensor.guard !== null && !run(tensor.guard, names)) return null;
    if (tensor.requires !== null && !run(tensor.requires, names)) {
      fail(row.name + (spot.role ? " at " + spot.role : "") + " requires " + tensor.rule);
    }
    row.shape = tensor.shape ? tensor.shape.map(function (f) { return run(f, names); }) : spot.shape || null;
    row.count = whole(row, "its size", row.shape ? product(row.shape) : run(tensor.count, names));
    row.n = tensor.copies === null ? spot.n : spot.n * whole(row, "copies", run(tensor.copies, names));
    row.trained = tensor.trained === true ? row.count * row.n : tensor.trained === false ? 0 : row.n * whole(row, "trained", run(tensor.trained, names));
    row.stored = row.bits = row.indices = 0;
    tensor.stored.forEach(function (s) {
      if (s.across !== null) return;
      var held = row.n * (s.count === null ? row.count : whole(row, "stored", run(s.count, names)));
      if (s.as === "bits") row.bits += held; else row.stored += held;
      if (s.as === "indices") row.indices += held;
    });
    row.served = tensor.served === "kept" && !row.bits ? row.count * row.n : 0;
    return row;
  }

  /* A tensor with a share over all its places together becomes one row: that share has no place of its own. */
  function gathered(tensor, rows, own, inv) {
    if (!rows.length || (tensor.moved === null && tensor.stored.every(function (s) { return s.across === null; }))) return rows;
    function sum(key) { return rows.reduce(function (n, r) { return n + r[key]; }, 0); }
    var numel = rows.reduce(function (n, r) { return n + r.count * r.n; }, 0), names = merge(own, inv.dims, { numel: numel });
    var row = {
      name: rows[0].name, tensor: tensor, shape: null, count: numel, n: 1, stored: sum("stored"), bits: sum("bits"), indices: sum("indices"),
      trained: tensor.moved === null ? sum("trained") : whole(rows[0], "trained", run(tensor.moved, names)),
      roles: rows.map(function (r) { return r.role; })
    };
    tensor.stored.forEach(function (s) {
      if (s.across === null) return;
      var held = whole(rows[0], "stored", run(s.across, names));
      if (s.as === "bits") row.bits += held; else row.stored += held;
      if (s.as === "indices") row.indices += held;
    });
    row.served = tensor.served === "kept" && !row.bits ? numel : 0;
    return [row];
  }

  /* Every targeted module has a tensor that acts on it. */
  function checkUsed(part, sites, used) {
    if (!part.tensors.some(function (t) { return t.per === "site"; })) return;
    sites.forEach(function (s) { if (used.indexOf(s) < 0) fail("nothing here acts on " + s.role + "; choose other targets"); });
  }

  function baseBytes(method, inv, args, size) {
    var plain = inv.model.backbone * size;
    method.parts.forEach(function (part, i) {
      inv.modules.forEach(function (m) {
        var held = part.base.filter(function (h) { return wanted(h.roles, m.role, m.stack); });
        var weight = m.parameters.filter(function (p) { return p[0] === "weight"; })[0];
        if (!held.length || !weight || m.head) return;
        var bytes = held.reduce(function (n, h) {
          return n + Math.ceil(Math.trunc(run(h.count, merge(args[i], inv.dims, { numel: product(weight[1]) })) * h.bits) / 8);
        }, 0);
        plain += m.n * (bytes - product(weight[1]) * size);
      });
    });
    return plain;
  }

  /* The answer. `options`: model, task, num_labels, targets, dtype, values. Throws an Error whose message is for people. */
  function cost(id, options) {
    var method = data.methods[id];
    if (!method) fail("unknown method " + id);
    var model = data.models[options.model] || fail("unknown model " + options.model);
    var inv = inventory(options.model, options.task || model.default_task);
    var sum = { trained: 0, stored: 0, bits: 0, served: 0, indices: 0 }, all = [], used = [], size = BYTES[options.dtype || "float32"];
    var sites = method.parts.map(function (part) { return targetsOf(method, part, inv, options.targets); });
    inv.dims.n_sites = [].concat.apply([], sites).reduce(function (n, s) { return n + s.n; }, 0);
    var filled = values(method, inv, options.values || {}), args = argumentsOf(method, inv, filled), found = false;
    method.parts.forEach(function (part, i) {
      part.tensors.forEach(function (tensor) {
        var places = spots(part, tensor, inv, sites[i]);
        found = found || places.length > 0;
        places.forEach(function (p) { used.push(p.source); });
        var rows = places.map(function (s) { return rowOf(part, tensor, s, args[i]); }).filter(Boolean);
        gathered(tensor, rows, args[i], inv).forEach(function (r) {
          Object.keys(sum).forEach(function (k) { sum[k] += r[k]; });
          all.push(r);
        });
      });
    });
    if (!found) fail("it finds nothing to act on in " + model.name);
    method.parts.forEach(function (part, i) { checkUsed(part, sites[i], used); });
    if (Math.max(sum.trained, sum.stored, sum.served, sum.bits) > EXACT) fail("these hyperparameters give more than 2**53 numbers");
    var labels = options.num_labels || 2;
    return {
      hyperparameters: filled, task: inv.task, trained: sum.trained, stored: sum.stored, stored_bits: sum.bits, served: sum.served,
      stored_bytes: (sum.stored - sum.indices) * size + sum.indices * INDEX_BYTES + Math.ceil(sum.bits / 8),
      head: inv.head[0] + inv.head[1] * labels, backbone: model.backbone, percent: 100 * sum.trained / model.backbone,
      base_bytes: baseBytes(method, inv, args, size), tensors: grouped(all), targets: chosen(sites)
    };
  }
  function chosen(sites) {
    var roles = [];
    sites.forEach(function (group) { group.forEach(function (s) { if (roles.indexOf(s.role) < 0) roles.push(s.role); }); });
    return roles;
  }

  /* Places of equal shape together. */
  function grouped(rows) {
    var groups = {}, out = [];
    rows.forEach(function (r) {
      var key = [r.name, r.shape, r.count].join("|");
      var g = groups[key];
      if (!g) {
        g = groups[key] = { name: r.name, per: r.tensor.per, shape: r.shape, count: r.count, sites: 0, trained: 0, stored: 0, stored_bits: 0, served: 0, roles: [] };
        out.push(g);
      }
      g.sites += r.n; g.trained += r.trained; g.stored += r.stored; g.stored_bits += r.bits; g.served += r.served;
      (r.roles || [r.role]).forEach(function (role) { if (role && g.roles.indexOf(role) < 0) g.roles.push(role); });
    });
    return out;
  }

  /* The roles that a method may target in a model; a fused one only where its slices are not offered. */
  function roles(id, model, task) {
    var found = data.models[model], sites = inventory(model, task || found.default_task).selector.sites, out = [];
    var targets = data.methods[id].parts.map(function (p) { return p.targets; }).filter(Boolean)[0];
    sites.forEach(function (s) {
      if (targets && !s.fused && out.indexOf(s.role) < 0 && wanted(targets.allowed, s.role, s.stack)) out.push(s.role);
    });
    return out;
  }

  return {
    load: function (records) { data = records; formulas = records.formulas; return this; },
    get data() { return data; },
    cost: cost, roles: roles, dtypes: Object.keys(BYTES)
  };
})();

/* What a training step takes, in the page, from lists of operations: peftonomy/memory/{program,machine,caller,step,answer}.py,
   step for step, over what engine.js lays out. After engine.js and data.js; programs.js gives it its lists. No model and no method
   is known here. Bytes are integers below 2**53 and therefore exact; operations, which are more, are counted in BigInt. */
"use strict";

(function () {
  var inner = peft.inner, fail = inner.fail, given = inner.given, merge = inner.merge, layersOf = inner.layersOf, product = inner.product, total = inner.total;
  var HALF = 2, SINGLE = 4, NONE = [], data = null;

  function load(records) {
    data = records;
    Object.keys(data.rules).forEach(function (kind) {
      data.rules[kind].kind = kind;
      data.rules[kind].casts = kind === "cast" || kind === "as" || kind === "float";
    });
    data.functions = decoded(data.functions);
    Object.keys(data.families).forEach(function (name) { data.families[name].functions = decoded(data.families[name].functions); });
    Object.keys(data.entries).forEach(function (id) { (data.entries[id] || NONE).forEach(function (act) { act.functions = decoded(act.functions); }); });
  }
  function decoded(functions) {
    return new Map(Object.keys(functions).map(function (name) {
      return [name, { name: name, inputs: functions[name][0], lines: functions[name][1].map(lineOf) }];
    }));
  }
  /* borrowed: which arguments are parameters of the place of a method, which nobody else holds. */
  function lineOf(row) {
    var borrowed = row[1].map(function (word) { return word === ".weight" || word === ".bias" || word === ".bias?"; });
    return {
      kind: row[0], words: row[1], targets: row[2] || NONE, when: given(row[3]) ? row[3] : null, shape: row[4] || null,
      borrowed: borrowed.indexOf(true) >= 0 ? borrowed : null, rule: data.rules[row[0]], point: own(data.points, row[0])
    };
  }
  function run(index, names) { return data.formulas[index](names); }
  function within(layers, n) { return !layers || (Array.isArray(layers) ? layers[0] <= n && n < layers[1] : layers.at.indexOf(n) >= 0); }
  function at(map, key) {
    if (!map.has(key)) map.set(key, []);
    return map.get(key);
  }
  function own(record, key) { return Object.prototype.hasOwnProperty.call(record, key); }
  function flat(name) { return "has_" + name.replace(/\./g, "_"); }
  function joined(path, name) { return path && name ? path + "." + name : path || name; }
  /* Three sizes: of more, the first ones are one; of fewer, ones stand in front. */
  function padded(shape) {
    var whole = [1, 1, 1].concat(shape), n = whole.length;
    return [product(whole.slice(0, n - 2)), whole[n - 2], whole[n - 1]];
  }

  function Tensor(shape, width, live, storage, key) {
    this.shape = shape; this.width = width; this.live = live; this.key = key || null;
    this.bytes = shape[0] * shape[1] * shape[2] * width;
    this.storage = storage || { bytes: this.bytes, holders: 1, forward: false };
    this.grad = null; this.hooked = null;
  }
  /* A fused module of which only the part of one role is meant. */
  function Part(module, start, stop) { this.module = module; this.start = start; this.stop = stop; this.groups = module.groups; }

  /* ---- what does not depend on the method: an inventory with the functions of its family ---- */

  function Model(inv) {
    var backbone = inv.backbone, family = backbone.family, prefix = family.tasks[inv.task], modules = new Map(), tied = {}, paths = {};
    if (!own(data.families, backbone.type)) fail("memory: family " + backbone.type + " does not say yet which operations it does");
    this.inv = inv; this.operations = data.families[backbone.type]; this.functions = new Map(Array.from(data.functions).concat(functionsOf(this.operations)));
    this.perLayer = family.config.filter(function (key) { return key.type === "layers"; }).map(function (key) { return key.name; });
    inv.modules.forEach(function (m) {
      var start = prefix + (m.stack ? family.stacks[m.stack].path + "." : ""), path = m.path.indexOf(start) === 0 ? m.path.slice(start.length) : m.path;
      if (m.kind === "parameter") path = joined(path, m.parameters.length ? m.parameters[0][0] : "");
      new Set([m.role, path]).forEach(function (name) { at(modules, m.stack + "|" + name).push(m); });
      paths[m.path] = m;
    });
    this.operations.tied.forEach(function (pair) { tied[placed(pair[0])] = placed(pair[1]); });
    function placed(path) { return (path[1] ? "" : prefix) + path[0]; }
    this.modules = modules; this.paths = paths; this.tied = tied;
    this.found = new Map(); this.layers = new Map(); this.names = this.namesOf(family);
  }
  function functionsOf(operations) {
    return (given(operations.like) ? functionsOf(data.families[operations.like]) : NONE).concat(Array.from(operations.functions));
  }
  /* What formulas see, by the stack ("" outside of them): the config, sizes, and which roles there are. */
  Model.prototype.namesOf = function (family) {
    var inv = this.inv, backbone = inv.backbone, flags = {}, names = {}, every;
    function absent(spec) { flags[flat(spec.role)] = 0; }
    family.modules.forEach(absent);
    Object.keys(family.stacks).forEach(function (name) { family.stacks[name].modules.forEach(absent); });
    inv.modules.forEach(function (m) { if (!m.stack) flags[flat(m.role)] = 1; });
    every = names[""] = merge(flags, backbone.config, inv.dims, { num_labels: inv.labels });
    every.post_norm = Number(Boolean(run(this.operations.post_norm, backbone.config)));
    Object.assign(every, { in_encoder: 0, in_decoder: 0, layer: -1 });
    inv.stacks.forEach(function (name) {
      var here = { n_layers: backbone.layers[name] };
      here["in_" + name.split("_")[0]] = 1;
      names[name] = merge(every, backbone.dims, backbone.own[name], here);
    });
    return names;
  };
  /* The module whose weight (or other parameter) a module has: itself, or what that is tied to. */
  Model.prototype.owner = function (m, suffix) {
    var there = m.parameters.some(function (p) { return suffix || p[0] === "weight"; });
    return there || !own(this.tied, m.path) ? m : this.paths[this.tied[m.path]];
  };
  /* What formulas see in one layer. */
  Model.prototype.layer = function (stack, number) {
    var key = stack + "|" + number, made = this.layers.get(key);
    if (made) return made;
    made = this.layered(merge(this.names[stack]), number);
    this.modules.forEach(function (modules, place) {
      if (place.indexOf(stack + "|") === 0 && modules.some(function (m) { return within(m.layers, number); })) made[flat(place.slice(stack.length + 1))] = 1;
    });
    this.layers.set(key, made);
    return made;
  };
  Model.prototype.layered = function (names, number) {
    var config = this.inv.backbone.config;
    names.layer = number;
    this.perLayer.forEach(function (name) { names[name] = Number(config[name].indexOf(number) >= 0); });
    return names;
  };
  /* The module of a role or path, of the layer at hand first, or the part of a fused one that plays the role; else null. */
  Model.prototype.find = function (stack, number, name) {
    var key = stack + "|" + number + "|" + name, found = this.found.get(key);
    if (found === undefined) this.found.set(key, found = this.module(stack, number, name) || this.part(stack, number, name));
    return found;
  };
  Model.prototype.module = function (stack, number, name) {
    var places = stack ? [stack, ""] : [""];
    for (var i = 0; i < places.length; i++) {
      var found = (this.modules.get(places[i] + "|" + name) || NONE).filter(function (m) { return within(m.layers, number); });
      if (new Set(found.map(function (m) { return this.owner(m, ""); }, this)).size > 1 && new Set(found.map(function (m) { return m.path; })).size > 1) throw new Error(name + " means several modules");
      if (found.length) return found[0];
    }
    return null;
  };
  Model.prototype.part = function (stack, number, role) {
    var found = null;
    this.inv.modules.forEach(function (m) {
      if (!found && m.stack === stack && within(m.layers, number)) m.slices.forEach(function (s) { if (!found && s[0] === role) found = new Part(m, s[1], s[2]); });
    });
    return found;
  };

  /* ---- a method with hyperparameters put into it ---- */

  function isSite(source) { return given(source.module); }
  function isBlock(source) { return given(source.name); }
  function isModule(source) { return given(source.path); }
  function pathOf(source) { return isSite(source) ? source.module.path : source.path || ""; }
  function placeOf(per, spot) {
    var source = spot.source;
    if (per === "role") return ["role", spot.role, spot.dims.d_in, spot.dims.d_out].join("|");
    if (isSite(source)) return ["site", source.module.path, source.start, source.stop].join("|");
    if (isBlock(source)) return ["block", source.stack, source.name].join("|");
    return isModule(source) ? ["parameter", source.path, spot.suffix].join("|") : "model";
  }
  /* The places that a spot belongs to, the nearest first. */
  function around(spot) {
    var source = spot.source, found = [placeOf("", spot)];
    if (isSite(source)) found.push(["role", spot.role, source.d_in, source.d_out].join("|"));
    else if (isModule(source)) found.push(["parameter", source.path, "weight"].join("|"));
    return found.concat(["block", source.stack, spot.role.replace(/^norm\./, "").split(".")[0]].join("|"), ["block", source.stack, "layer"].join("|"), "model");
  }
  /* Rows of a tensor that are alike but for their layers, as one. */
  function together(rows) {
    var found = new Map();
    rows.forEach(function (row) {
      var spot = row.spot, several = at(at2(found, spot.source), [spot.suffix, row.shape, row.count, row.n / spot.n, row.trained / row.n].join("|"));
      several.push(row);
    });
    return [].concat.apply([], Array.from(found.values()).map(function (alike) {
      return Array.from(alike.values()).map(function (several) {
        var first = several[0], layers = first.spot.layers;
        if (several.length > 1) layers = { at: [].concat.apply([], several.map(function (r) { return layersOf(r.spot.layers); })) };
        return {
          piece: first.piece, spot: first.spot, layers: layers, shape: first.shape, count: first.count, copies: first.n / first.spot.n,
          n: total(several, "n"), learns: learns(first)
        };
      });
    }));
  }
  function at2(map, key) {
    if (!map.has(key)) map.set(key, new Map());
    return map.get(key);
  }
  function learns(row) { return row.piece.tensor.trained !== false && (row.trained > 0 || row.piece.tensor.selecting); }

  /* width: bytes of a frozen number. */
  function Program(plan, model, values, width) {
    var args = inner.argumentsOf(plan, values), self = this;
    this.plan = plan; this.model = model; this.width = width; this.trained = new Map(); this.own = new Map(); this.hooks = new Map(); this.points = new Map(); this.keys = new Map(); this.acting = new Map(); this.holds = 0;
    this.rows = [].concat.apply([], plan.tensors.map(function (piece) { return together(inner.placed(piece, args[piece.part])); }));
    this.rows.forEach(function (row) { self.row(row); });
    plan.inv.modules.forEach(function (m) {
      if (!m.pretrained) m.parameters.forEach(function (p) { at(self.trained, m.path + "|" + p[0]).push(null); });
    });
    data.methods[plan.id].forEach(function (id, part) {
      var acts = data.entries[id] || fail(plan.method.parts[part].name + " does not say yet which operations it does, so its memory is not known"), helpers = [];
      acts.forEach(function (act) { act.functions.forEach(function (f, name) { if (!hooks(name)) helpers.push([name, f]); }); });
      acts.forEach(function (act) { self.act(part, act, new Map(helpers.concat(Array.from(act.functions))), args[part]); });
    });
    this.eager = Array.from(this.points.keys()).some(function (key) { return data.points[key.split("|")[2]] === "eager"; });
  }
  Program.prototype.row = function (row) {
    var tensor = row.piece.tensor, spot = row.spot, source = spot.source, shape = row.shape, place = placeOf(tensor.per, spot), name = row.piece.part + "|" + tensor.name;
    row.key = name + "|" + place;
    if (tensor.selecting) {
      if (row.learns) at(this.trained, pathOf(source) + "|" + spot.suffix).push(row.layers);
      return;
    }
    if (!shape) {   // it is not dense, or has a number for each of a parameter's
      shape = isModule(source) && spot.dims.numel === row.count ? source.parameters.filter(function (p) { return p[0] === spot.suffix; })[0][1] : [row.count];
      if (source.kind === "conv1d") shape = shape.slice().reverse();
    }
    at(at2(this.own, name), place).push({ key: row.key, shape: padded(shape), copies: row.copies, trained: row.learns, layers: row.layers });
  };
  function surrounds(name) { return data.constants.around.indexOf(name) >= 0; }
  function replaces(name) { return data.constants.in_place.indexOf(name) >= 0; }
  /* Whether a function of that name acts by itself, and is not one that others call. */
  function hooks(name) { return surrounds(name) || replaces(name) || own(data.points, name); }
  /* functions: those of the record, with the helpers of the entry's others. */
  Program.prototype.act = function (part, act, functions, args) {
    var self = this, plan = this.plan, common = inner.atop(plan.common, { post_norm: this.model.names[""].post_norm, width: this.width }), sites = plan.sites[part];
    if (act.per === "site" && !plan.method.parts[part].targets) sites = inner.byRole(plan.inv, (act.roles || NONE).filter(function (role) { return inner.hasRole(plan.inv, role); }));
    inner.spotsOf(merge(act, { by_layer: act.by_layer && !act.layered }), plan.inv, sites, common).forEach(function (spot) {
      var layers = spot.layers, names = inner.atop(spot.dims, args);
      if (act.layered) {
        if (!layers) return;
        layers = { at: layersOf(layers).filter(function (n) { return run(act.guard, inner.atop(names, { layer: n })); }) };
        if (!layers.at.length) return;
      } else if (given(act.guard) && !run(act.guard, names)) return;
      self.holds += run(act.holds, names) * (layers ? layersOf(layers).length : spot.n);
      self.hook(part, act.functions, functions, merge(inner.local(spot.dims, common), args), spot, layers);
    });
  };
  Program.prototype.hook = function (part, acting, functions, names, spot, layers) {
    var self = this, source = spot.source, stack = spot.stack, module = isSite(source) ? source.module : isModule(source) ? source : null;
    var slice = isSite(source) && !source.whole ? new Part(module, source.start, source.stop) : null;
    acting.forEach(function (f, name) {
      var hook = { name: name, function: f, functions: functions, names: names, part: part, spot: spot, tensors: {}, layers: layers, slice: slice, module: module, suffix: spot.suffix };
      if (surrounds(name) && isModule(source) && spot.suffix !== source.parameters[0][0]) return;   // a module once, whatever it has besides its weight
      if (surrounds(name) || replaces(name)) at(self.hooks, stack + "|" + (isBlock(source) ? source.name : pathOf(source))).push(hook);
      else if (own(data.points, name)) at(self.points, [stack, isBlock(source) ? source.name : "", name].join("|")).push(hook);
    });
  };
  /* The tensors of a name nearest to the spot of a hook: what there is at it, else in its block, its layer, or the model. */
  Program.prototype.nearest = function (hook, name) {
    if (!hook.tensors[name]) {
      var places = this.own.get(hook.part + "|" + name), place = places && around(hook.spot).filter(function (p) { return places.has(p); })[0];
      hook.tensors[name] = place === undefined ? NONE : places.get(place);
    }
    return hook.tensors[name];
  };
  Program.prototype.trains = function (m, suffix, layer) {
    var found = this.trained.get(m.path + "|" + suffix);
    return found !== undefined && found.some(function (layers) { return within(layers, layer); });
  };
  function acting(hooks, layer) { return !hooks ? NONE : hooks.filter(function (hook) { return within(hook.layers, layer); }); }
  /* The hooks around modules and blocks in a layer. */
  Program.prototype.at = function (layer) {
    var found = this.acting.get(layer);
    if (found) return found;
    found = new Map();
    this.hooks.forEach(function (hooks, where) {
      var here = acting(hooks, layer);
      if (here.length) found.set(where, here);
    });
    this.acting.set(layer, found);
    return found;
  };
  /* What the method puts into a point, in order. */
  Program.prototype.point = function (stack, block, name, layer) {
    if (!this.points.size) return NONE;
    var found = acting(this.points.get([stack, block, name].join("|")), layer);
    if (block && block !== "layer") found = found.concat(acting(this.points.get([stack, "layer", name].join("|")), layer));
    return stack ? found.concat(acting(this.points.get("||" + name), layer)) : found;
  };
  /* The layers of a stack, in groups: which to run, and how often more to count them. */
  Program.prototype.sequence = function (stack, names) {
    var model = this.model, formulas = model.varying(), here = Object.create(names);
    return compressed(this.alike(stack).map(function (key, layer) {
      if (!formulas.length) return key;
      model.layered(here, layer);
      return formulas.reduce(function (text, f) { return text + "|" + run(f, here); }, key);
    }));
  };
  /* For each layer of a stack, in which of the sets of layers of modules, tensors and hooks it is. */
  Program.prototype.alike = function (stack) {
    var model = this.model, n = model.inv.backbone.layers[stack], sets = new Map(), found = this.keys.get(stack);
    if (found) return found;
    function note(layers) { if (layers && !(Array.isArray(layers) && layers[0] === 0 && layers[1] >= n)) sets.set(JSON.stringify(layers), layers); }
    model.inv.modules.forEach(function (m) { if (m.stack === stack) note(m.layers); });
    this.trained.forEach(function (several, where) { if (model.paths[where.split("|")[0]].stack === stack) several.forEach(note); });
    this.own.forEach(function (places) { places.forEach(function (several) { several.forEach(function (o) { note(o.layers); }); }); });
    [this.hooks, this.points].forEach(function (all) {
      all.forEach(function (hooks, where) { if (where.split("|")[0] === stack) hooks.forEach(function (hook) { note(hook.layers); }); });
    });
    for (found = []; found.length < n; ) found.push(Array.from(sets.values()).map(function (layers) { return Number(within(layers, found.length)); }).join(""));
    this.keys.set(stack, found);
    return found;
  };
  /* All formulas of the model that differ from layer to layer. */
  Model.prototype.varying = function () {
    if (this.differ) return this.differ;
    var found = new Set(), about = ["layer"].concat(this.perLayer);
    function note(index) {
      if (typeof index === "number" && (data.varying[index] || NONE).some(function (name) { return about.indexOf(name) >= 0; })) found.add(index);
    }
    this.functions.forEach(function (f) {
      f.lines.forEach(function (line) { line.words.concat(line.shape || NONE, line.when === null ? NONE : line.when).forEach(note); });
    });
    return (this.differ = Array.from(found));
  };
  /* Numbers of layers in groups, each with how often more it counts: of a pattern that comes again and again the first,
     the second (for all between) and the last. */
  function compressed(keys) {
    var groups = [], i = 0;
    function equal(a, b, n) {
      for (var k = 0; k < n; k++) if (b + k >= keys.length || keys[a + k] !== keys[b + k]) return false;
      return true;
    }
    function numbers(from, n) { for (var out = []; n > 0; n--) out.push(from++); return out; }
    while (i < keys.length) {
      var length = 0, period = 0;
      for (var p = 1; p <= data.constants.pattern; p++) {
        var runs = 1;
        while (equal(i, i + runs * p, p)) runs++;
        if (runs >= data.constants.alike && runs * p > length) { length = runs * p; period = p; }
      }
      if (!length) groups.push([[i++], 0]);
      else {
        groups.push([numbers(i, period), 0], [numbers(i + period, period), length / period - 3], [numbers(i + length - period, period), 0]);
        i += length;
      }
    }
    return groups;
  }

  /* ---- one training step, run on tensors that have only sizes ---- */

  /* flags: batch, seq, width (bytes of a number), trained (of one that is trained), autocast, eager, checkpointing, device. */
  function Step(program, flags) {
    var model = program.model, functions = model.functions, rules = data.rules, constants = data.constants;
    var now = 0, peak = 0, left = 0, grads = 0, most = [0, 0], flops = 0n, forward = true, records = [];
    var scopes = [], stack = "", number = -1, block = "", inside = new Map(), outside = new Map(), held = [], casts = new Map(), shared = new Map();
    var autocast = flags.autocast, hook = null, module = null, copy = null, depth = 0, used = new Map(), groups = [], sequences = {};
    var recording = true, done = 0, last = 0, limit = -1, parts = new Map(), stayed = [];
    var flagged = {
      batch: flags.batch, seq: flags.seq, eager: Number(flags.eager), sdpa: Number(!flags.eager), checkpointing: Number(flags.checkpointing),
      autocast: Number(flags.autocast), width: flags.width
    };
    var names = inner.atop(model.names[""], flagged), base = names;
    function hooksAt(stack, path) { return program.hooks.size && program.at(number).get(stack + "|" + path) || NONE; }

    /* What is alive. */
    function see(moment) { if (moment > peak) { peak = moment; most = [left, grads]; } }
    function create(bytes) {
      now += bytes;
      see(now);
      if (forward) left += bytes;
      return { bytes: bytes, holders: 1, forward: forward };
    }
    function free(storage) {
      if (--storage.holders) return;
      now -= storage.bytes;
      if (storage.forward) left -= storage.bytes;
    }
    function hold(x) { x.storage.holders++; return x; }
    function holdAll(values) {
      for (var i = 0; i < values.length; i++) if (values[i] instanceof Tensor) values[i].storage.holders++;
      return values;
    }
    function letGo(values) { for (var i = 0; i < values.length; i++) if (values[i] instanceof Tensor) free(values[i].storage); }

    /* Values: a tensor, a module or a part of one, a number, null for a tensor that is missing. */
    function value(word, line) {
      if (typeof word === "number") return run(word, names);
      if (word[0] === ".") return mine(word.slice(1));
      if (word[0] === "$" && shared.has(word.slice(1))) return shared.get(word.slice(1));
      for (var d = scopes.length - 1; d >= 0; d--) {
        var found = scopes[d].get(word);
        if (found === undefined) continue;
        if (d < depth) used.set(word, found);
        return found;
      }
      found = model.find(stack, number, word);
      if (found) return found;
      if (names[word] !== undefined) return names[word];
      if (line.kind === "loop" || line.kind === "stacked" || line.kind === "detached") return word;
      throw new Error("operations: unknown name " + word + " in " + line.kind);
    }
    function mine(word) {
      var name = word.replace(/\?$/, ""), found;
      if ((name === "weight" || name === "bias") && hook && hook.module) return weight(hook.slice || hook.module, name);
      found = declared(word);
      if (!found) return null;
      var shape = found.copies > 1 && copy === null ? [found.copies * found.shape[0], found.shape[1], found.shape[2]] : found.shape;
      var y = parameter(found.key + "|" + copy, shape, found.trained, found.layers !== null), f = hook.functions.get("gradient_" + name);
      if (f && y.live) y.hooked = arriving(merge(hook, { function: f }), y);
      return y;
    }
    /* What the method makes of a gradient as it arrives, with no autocast; the gradient is let go. */
    function arriving(h, x) {
      var layer = number;
      return function (grad) {
        var before = [autocast, number];
        autocast = false; number = layer;
        var made = act(h, [new Tensor(x.shape, x.width, false, grad)])[0];
        autocast = before[0]; number = before[1];
        free(grad);
        return made.storage;
      };
    }
    /* The method's own tensor of a name; null where it may be missing and is. */
    function declared(word) {
      var name = word.replace(/\?$/, ""), found = hook ? program.nearest(hook, name) : NONE;
      for (var i = 0; i < found.length; i++) if (within(found[i].layers, number)) return found[i];
      if (name !== word) return null;
      throw new Error("operations: no tensor ." + name + " here");
    }
    /* One of several parameters that the entry declares as one tensor. */
    function part(line) {
      var found = declared(line.words[0].slice(1)), numbers = line.words.slice(1).map(function (word) { return value(word, line); });
      if (!found) return [null];
      at2(parts, found.key).set(numbers[0], numbers.slice(1));
      return [hold(parameter([found.key, copy, numbers[0]].join("|"), padded(numbers.slice(1)), found.trained, found.layers !== null))];
    }
    function parameter(key, shape, trained, layered) {
      var known = layered ? inside : outside, found = known.get(key);
      if (!found) known.set(key, found = new Tensor(shape, trained ? flags.trained : flags.width, trained, null, key));
      return found;
    }
    /* A parameter of a module or of a part of it, held once: its weight, or what a method makes of it; null where there is none. */
    function weight(m, suffix) {
      if (m instanceof Part) {
        var whole = weight(m.module, suffix), kind = suffix === "bias" ? "narrow" : "positions";
        if (!whole) return null;
        var made = operate(rules[kind], [whole], [m.stop - m.start])[0];
        free(whole.storage);
        return made;
      }
      var owner = model.owner(m, suffix), there = owner.parameters, found = there.filter(function (p) { return p[0] === (suffix || "weight"); })[0];
      if (!found && !suffix) found = there[0];
      if (!found) return null;
      var name = found[0], layered = owner.layers !== null, key = owner.path + "|" + name, y = (layered ? inside : outside).get(key);
      if (!y) {
        var shape = owner.kind === "conv1d" && name === "weight" ? found[1].slice().reverse() : found[1];
        y = parameter(key, padded(shape), program.trains(owner, name, layered ? number : -1), layered);
      }
      hold(y);
      hooksAt(owner.stack, owner.path).forEach(function (h) {
        if (h.suffix && h.suffix !== name) return;
        if (h.name === "gradient" && y.live) y.hooked = arriving(h, y);
        if (h.name !== name && !(h.name === "weight" && name !== "weight" && name !== "bias")) return;
        var made = act(h, [y])[0];
        free(y.storage);
        y = made;
      });
      return y;
    }

    /* One operation under autocast or not; its outputs, each held once. */
    function operate(rule, inputs, numbers, shape) {
      var width = cast_to(rule);
      if (!width) return computed(rule, inputs, numbers, shape);
      var given_ = inputs.map(function (x) { return cast(x, width); }), results = computed(rule, given_, numbers, shape);
      letGo(given_);
      return results;
    }
    function cast_to(rule) {
      var type = autocast ? rule[flags.device] : undefined;
      return type === undefined ? 0 : type === "half" ? HALF : SINGLE;
    }
    /* Under autocast: a copy in another type, of a trained parameter one for all of the forward pass. */
    function cast(x, width) {
      if (x.width === width || (x.width !== HALF && x.width !== SINGLE)) return hold(x);
      if (x.key === null || !x.live) return computed(rules.cast, [x], [width])[0];
      if (!casts.has(x)) {
        casts.set(x, computed(rules.cast, [x], [width])[0]);
        held.push(casts.get(x).storage);
      }
      return hold(casts.get(x));
    }
    function computed(rule, inputs, numbers, shape) {
      var first = inputs[0], width = widthOf(rule, inputs, numbers), outputs = [], live = false, i, y;
      if (special.has(rule.kind)) return [special.get(rule.kind)(first)];
      if (rule.casts && first.width === width) return [hold(first)];
      if (rule.skip !== undefined && data.formulas[rule.skip](names, inputs, null, numbers)) return [hold(first)];
      var shapes = rule.parts ? numbers.map(function (n) { return [first.shape[0], first.shape[1], n]; })
        : [shape || (rule.shape !== undefined ? data.formulas[rule.shape](names, inputs, null, numbers) : inputs.length === 1 ? first.shape : broadcast(inputs))];
      var gone = ++done > limit && limit >= 0;
      for (i = 0; i < inputs.length && i < rule.through; i++) live = live || inputs[i].live;
      for (i = 0; i < shapes.length; i++) {
        y = new Tensor(shapes[i], width, live, rule.view ? first.storage : UNBORN);
        if (rule.view) hold(first); else y.storage = create(gone || rule.free ? 0 : y.bytes);
        outputs.push(y);
      }
      y = outputs[0];
      if (rule.during !== undefined && !gone) see(now + data.formulas[rule.during](names, inputs, y, numbers));
      if (rule.flops !== undefined && !gone) flops += data.formulas[rule.flops](names, inputs, y, numbers);
      if (live) keep(rule, inputs, numbers, outputs);
      return outputs;
    }
    function broadcast(inputs) {
      return [0, 1, 2].map(function (i) { return inputs.reduce(function (n, x) { return Math.max(n, x.shape[i]); }, 1); });
    }
    /* What the backward pass needs; inputs are kept before the operation runs, and outputs after. */
    function keep(rule, inputs, numbers, outputs) {
      var kept = [], y = outputs[0], before = true;
      for (var i = 0; i < rule.needs.length; i++) {
        var what = rule.needs[i][0], need = rule.needs[i][1];
        if (what === -2) kept.push(null);
        else if (what < inputs.length && (need === null || (need < inputs.length && inputs[need].live))) kept.push(what === -1 ? y : inputs[what]);
        else continue;
        before = before && what >= 0;
      }
      if (kept.length) last = done - before;
      if (!recording) return;
      for (i = 0; i < kept.length; i++) kept[i] = kept[i] ? hold(kept[i]).storage : create(data.formulas[rule.own](names, inputs, y, numbers));
      records.push({ rule: rule, inputs: inputs, numbers: numbers, outputs: outputs, names: names, kept: kept });
    }
    function widthOf(rule, inputs, numbers) {
      if (rule.kind === "cast") return Math.trunc(numbers[0]) || flags.width;
      if (rule.width !== undefined) return rule.width;
      if (rule.like !== undefined) return inputs[rule.like < 0 ? inputs.length + rule.like : rule.like].width;
      if (!inputs.length) return flags.width;
      for (var width = 0, i = 0; i < inputs.length && i < (rule.through || 1); i++) width = Math.max(width, inputs[i].width);
      return width;
    }
    var special = new Map(Object.entries({
      same: hold,
      leaf: function (x) { return hold(x.live ? x : hold(new Tensor(x.shape, x.width, true, x.storage))); },
      hold: function (x) { if (limit < 0) held.push(hold(x).storage); return hold(x); },
      stay: function (x) {
        if (limit < 0) stayed.push(x.storage);
        var scope = scopes[Math.min(1, scopes.length - 1)];
        scope.set("held " + scope.size, hold(x));
        return hold(x);
      },
      remain: function (x) {
        var scope = scopes[scopes.length - 2];
        scope.set("held " + scope.size, hold(x));
        return hold(x);
      },
      hooked: function (x) { x.hooked = function (grad) { return copied(x, grad); }; return hold(x); }
    }));

    /* Run a function: what it named is let go, its results are held once. */
    function call(f, values) {
      var scope = new Map(), results = NONE, named = true;
      for (var i = 0; i < f.inputs.length && i < values.length; i++) scope.set(f.inputs[i], values[i]);
      holdAll(values.slice(0, i));
      scopes.push(scope);
      for (i = 0; i < f.lines.length; i++) {
        var line = f.lines[i];
        if (line.when !== null && !run(line.when, names)) continue;
        if (!named) letGo(results);
        results = lineRun(line);
        named = line.targets.length > 0;
        if (named) name(scope, line, results);
        if (line.kind === "return") break;
      }
      if (named) holdAll(results);
      scopes.pop();
      scope.forEach(letGoOne);
      return results;
    }
    function letGoOne(v) { if (v instanceof Tensor) free(v.storage); }
    function name(scope, line, results) {
      if (results.length !== line.targets.length) throw new Error("operations: " + line.kind + " gives " + results.length + " results");
      for (var i = 0; i < results.length; i++) {
        var old = scope.get(line.targets[i]);
        scope.set(line.targets[i], results[i]);
        letGoOne(old);
      }
    }
    /* Run a function of the method, with its own tensors and names at hand. */
    function act(h, values) {
      var before = [hook, names, copy];
      hook = h; names = inner.atop(base, h.names); copy = null;
      var results = call(h.function, values);
      hook = before[0]; names = before[1]; copy = before[2];
      return results;
    }
    function lineRun(line) {
      var kind = line.kind, words = line.words;
      if (kind === "each") return layers(line);
      if (kind === "share") return share(words[0], value(words[1], line));
      if (kind === "part") return part(line);
      for (var values = [], i = 0; i < words.length; i++) values.push(value(words[i], line));
      if (line.borrowed && hook && hook.module) {
        var results = apply(kind, values, line);
        letGo(values.filter(function (_, i) { return line.borrowed[i]; }));
        return results;
      }
      if (kind === "return") return holdAll(values);
      if (kind === "loop") return loop(line, values);
      if (kind === "stacked") return stacked(line, values);
      if (kind === "detached") return detached(line, values);
      if (kind === "either") return holdAll(values.filter(function (v) { return v !== null; }).slice(0, 1));   // the first that is there
      if (kind === "none") return [null];
      return kind === "reads" ? NONE : apply(kind, values, line);   // reads: by name only, so that a checkpoint holds it
    }
    /* One operation, or a function that is called as if it were one; results are held once. */
    function apply(kind, values, line) {
      if (hook && hook.functions.has(kind)) return call(hook.functions.get(kind), values);
      if (own(data.points, kind)) return point(kind, values);
      var f = functions.get(kind);
      if (!f) return operation(rules[kind], values, line);
      if (!hook) return called(f, kind, values);
      var before = [hook, names];   // a function of the model's, with the model's own names
      hook = null; names = base;
      var results = called(f, kind, values);
      hook = before[0]; names = before[1];
      return results;
    }
    function operation(rule, values, line) {
      if (values.length && values[0] === null) return [null];
      var inputs = [], numbers = [], weights = [];
      for (var i = 0; i < values.length; i++) {
        var v = values[i];
        if (v instanceof Tensor) inputs.push(v);
        else if (v !== null && typeof v === "object") {
          taken(v, "", rule, inputs, weights);
          if (rule.bias && (v.module || v).kind !== "parameter") taken(v, "bias", rule, inputs, weights);
        } else if (v !== null) numbers.push(v);
      }
      var wanted = rule.parts ? line.targets.length : rule.numbers || 0, least = wanted - (rule.optional || 0);
      if (numbers.length > wanted || numbers.length < least) throw new Error("operations: " + line.kind + " takes " + wanted + " numbers, found " + numbers.length);
      while (numbers.length < wanted) numbers.push(0);
      if (rule.live) for (i in rule.live) if (i < inputs.length && inputs[i].live) return instead(rule.live[i], rule, inputs);
      if (rule.alone && inputs.length === 1) return [hold(inputs[0])];
      var results = operate(rule, inputs, numbers, line.shape ? sizes(line.shape, inputs) : null);
      letGo(weights);
      return results;
    }
    function taken(module, suffix, rule, inputs, weights) {
      var mark = records.length, made = weight(module, suffix);
      if (inputs.length >= rule.through) forget(mark);   // no gradient gets there, so that what made it goes at once
      if (made) { inputs.push(made); weights.push(made); }
    }
    /* A function in place of an operation, inside of which autocast does nothing. */
    function instead(name, rule, inputs) {
      var width = cast_to(rule), values = inputs.map(function (x) { return width ? cast(x, width) : hold(x); }), before = autocast;
      autocast = false;
      var results = call(functions.get(name), values);
      autocast = before;
      letGo(values);
      return results;
    }
    function sizes(shape, inputs) {
      var here = Object.create(names);
      inputs.forEach(function (x, i) { x.shape.forEach(function (n, axis) { here["abcd"[i] + axis] = n; }); });
      return shape.map(function (f) { return run(f, here); });
    }

    /* A function of the model's, with what the method does around a module or a block. */
    function called(f, kind, values) {
      var n = f.inputs.length, m = values[n - 1], outer, results;
      if (n && f.inputs[n - 1] === "W" && m && m.parameters) {
        if (m === module) return call(f, values);   // one function of a module calls another
        outer = module; module = m;
        results = around_(function (v) { return call(f, v); }, values, hooksAt(m.stack, m.path));
        module = outer;
        return results;
      }
      if (!stack || constants.blocks.indexOf(kind) < 0) return call(f, values);
      outer = block; block = kind;
      results = around_(function (v) { return call(f, v); }, values, hooksAt(stack, kind));
      block = outer;
      return results;
    }
    function around_(run, values, hooks) {
      if (!hooks.length) return run(values);
      var x = values[0], others = values.slice(1), results;
      holdAll([x]);
      hooks.forEach(function (h) { if (h.name === "before") x = typed(act(h, [x].concat(others))[0], x); });
      results = run([x].concat(others));
      hooks.forEach(function (h) { if (h.name === "after") results = [after(h, x, results[0])].concat(results.slice(1)); });
      letGo([x]);
      return results;
    }
    /* In the type of what it stands for, which is let go. */
    function typed(made, old) {
      var y = operate(rules.as, [made, old], [])[0];
      free(made.storage);
      free(old.storage);
      return y;
    }
    function after(h, x, y) {
      if (!h.slice) return typed(act(h, [x, y])[0], y);
      var part = piece(y, h.slice.stop - h.slice.start, h.slice), changed = typed(act(h, [x, part])[0], part);
      var before = piece(y, h.slice.start, null), behind = piece(y, y.shape[2] - h.slice.stop, null);
      var whole = operate(rules.join, [before, changed, behind], [])[0];
      letGo([before, changed, behind, y]);
      return whole;
    }
    function piece(y, width, part) {
      var made = operate(rules.narrow, [y], [width])[0];
      if (!part || part.groups <= 1) return made;
      var whole = operate(rules.copy, [made], [])[0];   // spread over groups, so that it is copied together
      free(made.storage);
      return whole;
    }
    function point(name, values) {
      return program.point(stack, block, name, number).reduce(function (results, h) {
        var changed = act(h, results);
        letGo(results);
        return changed;
      }, holdAll(values.slice()));
    }
    function share(name, x) {
      holdAll([x]);
      letGo([shared.get(name)]);
      shared.set(name, x);
      return NONE;
    }
    /* A function whose graph goes at once: nothing asks for it. */
    function detached(line, values) {
      var mark = records.length, results = apply(values[0], values.slice(1), line);
      forget(mark);
      return results.map(function (y) { return y instanceof Tensor ? new Tensor(y.shape, y.width, false, y.storage) : y; });
    }
    /* Let go what autograd kept from there on. */
    function forget(mark) { records.splice(mark).forEach(function (record) { if (record.rule) record.kept.forEach(free); }); }
    /* A function that runs several times on what it gave before, each time with the next copy of each tensor. */
    function loop(line, values) {
      var results = holdAll(values.slice(2)), before = copy, wanted = Math.max(1, line.targets.length);
      for (var i = 0; i < Math.trunc(values[0]); i++) {
        copy = i;
        var changed = apply(values[1], results, line);
        letGo(results.slice(0, changed.length));
        results = changed.concat(results.slice(changed.length));
      }
      copy = before;
      letGo(results.slice(wanted));
      return results.slice(0, wanted);
    }

    /* A function that runs several times on the same, each time with the next copy of each tensor; its results as one tensor. */
    function stacked(line, values) {
      var made = [], before = copy, n = Math.trunc(values[0]);
      for (var i = 0; i < n; i++) {
        copy = i;
        made = made.concat(apply(values[1], values.slice(2), line));
      }
      copy = before;
      var results = operate(rules.stack, made, [n]);
      letGo(made);
      return results;
    }

    /* All layers of a stack, one after the other, each on what the one before gave. Of layers that are alike some only
       count: on the way back their gradients are there at once. */
    function sequence(name) {
      return sequences[name] || (sequences[name] = program.sequence(name, inner.atop(model.names[name], flagged)));
    }
    function layers(line) {
      var name = line.words[0], wanted = Math.max(1, line.targets.length), outer = [stack, number, inside, base, names];
      var values = holdAll(line.words.slice(1).map(function (word) { return value(word, line); }));
      sequence(name).forEach(function (pair) {
        var group = begun(pair[1]);
        pair[0].forEach(function (n) {
          stack = name; number = n; inside = new Map();
          base = names = inner.atop(model.layer(name, n), flagged);
          var results = around_(flags.checkpointing ? checkpointed : one, values, hooksAt(name, "layer"));
          inside.forEach(function (p) { if (p.live) group.trained += p.bytes; });
          letGo(values.slice(0, results.length));
          values = results.concat(values.slice(results.length));
        });
        if (group.more) ended(group);
      });
      stack = outer[0]; number = outer[1]; inside = outer[2]; base = outer[3]; names = outer[4];
      letGo(values.slice(wanted));
      return values.slice(0, wanted);
    }
    function begun(more) {
      var group = { more: more, now: now, flops: flops, left: left, first: [held.length, stayed.length], trained: 0 };
      if (more) records.push(function () {   // the way back has left the group
        flops += BigInt(more) * (flops - group.flops);
        if (!(group.trained > group.kept)) passed(group);
      });
      return group;
    }
    function ended(group) {
      group.kept = now - group.now; group.left = left - group.left; group.held = held.slice(group.first[0]).concat(stayed.slice(group.first[1]));
      now += group.more * group.kept;
      left += group.more * group.left;
      flops += BigInt(group.more) * (flops - group.flops);
      records.push(function () {   // the way back reaches the group, which is run when most is alive: as its last layer, or as its first
        group.flops = flops;
        if (group.trained > group.kept) passed(group);
      });
      groups.push(group);
    }
    /* The layers that only count have let go of what they kept, and their gradients are there. */
    function passed(group) {
      now += group.more * (group.trained - group.kept);
      left -= group.more * group.left;
      grads += group.more * group.trained;
    }
    function one(values) {
      depth = scopes.length; used = new Map();
      var results = call(functions.get(stack), values);
      depth = 0;
      return results;
    }
    /* A layer of which only what it is given is kept. */
    function checkpointed(values) {
      recording = false; done = last = 0;
      var results = one(values);
      recording = true;
      if (!results.some(function (y) { return y instanceof Tensor && y.live; })) return results;
      var kept = values.concat(Array.from(used.values())).filter(function (v) { return v instanceof Tensor; });
      var state = { stack: stack, number: number, inside: inside, base: base, used: new Map(used), last: last };
      holdAll(kept);
      records.push(function () { again(values, results, kept, state); });
      return results;
    }
    /* Forward once more, until all is there that the backward pass needs, and back. */
    function again(values, results, given_, state) {
      var storages = given_.map(function (x) { return x.storage; }), outer = records;
      var found = results.map(function (y) { return y instanceof Tensor ? y.grad : null; });
      if (found.some(Boolean)) {
        records = []; stack = state.stack; number = state.number; inside = state.inside; base = names = state.base; scopes = [state.used];
        done = 0; limit = state.last;
        var made = one(values);
        limit = -1;
        found.forEach(function (grad, i) {
          if (!grad) return;
          results[i].grad = null;   // before the next line, since it may be the same tensor
          made[i].grad = grad;
        });
        letGo(made);
        var holder = records.filter(function (record) { return record.rule && record.kept.length; })[0];
        if (holder) { holder.kept = holder.kept.concat(storages); storages = NONE; }   // let go with the last of what is kept
        backward();
        records = outer; stack = ""; number = -1; scopes = [];
      }
      storages.forEach(free);
    }

    /* From the end of the tape to its beginning. */
    function backward() {
      while (records.length) {
        var record = records.pop();
        if (record.rule) back(record); else record();
      }
    }
    function back(record) {
      var rule = record.rule, inputs = record.inputs, outputs = record.outputs, y = outputs[0], arrived = [], passed = [], later = [], raw = 0, i, x;
      function formula(index) { return data.formulas[index](record.names, inputs, y, record.numbers); }
      for (i = 0; i < outputs.length; i++) {
        if (outputs[i].grad) arrived.push(outputs[i].grad);
        outputs[i].grad = null;
      }
      if (arrived.length) {
        for (i = 0; i < inputs.length && i < rule.through; i++) {
          x = inputs[i];
          if (!x.live) continue;
          if (rule.passes && (x.bytes === y.bytes || rule.passes === "parts")) {
            arrived[0].holders++;
            passed.push([x, arrived[0]]);
          } else if (rule.summed && x.bytes < y.bytes) {
            later.push(x);
            raw += y.bytes;
          } else passed.push([x, create(x.bytes)]);
        }
        for (i = 0; i < later.length; i++) {   // all products are there before the first is summed, or gets another type
          see(now + raw);
          passed.push([later[i], create(later[i].bytes)]);
          see(now + raw);
          raw -= y.bytes;
        }
        see(now + (rule.beside === undefined ? 0 : formula(rule.beside)));
        if (rule.back !== undefined) flops += formula(rule.back);
        else if (rule.flops !== undefined) flops += BigInt(inputs.slice(0, 2).filter(function (x) { return x.live; }).length) * formula(rule.flops);
        for (i = 0; i < arrived.length; i++) free(arrived[i]);
      }
      for (i = 0; i < record.kept.length; i++) free(record.kept[i]);
      for (i = 0; i < passed.length; i++) add(passed[i][0], passed[i][1]);
    }
    function copied(x, grad) {
      var made = create(x.bytes);
      free(grad);
      return made;
    }
    /* A gradient of x, or another one, which takes a third tensor for a while. */
    function add(x, grad) {
      var made;
      if (x.grad !== null) {
        made = create(x.bytes);
        free(x.grad);
        free(grad);
        x.grad = made;
        return;
      }
      if (x.key !== null) {
        if (x.hooked) grad = x.hooked(grad);
        else if (grad.holders > 1) grad = copied(x, grad);   // others hold it
        grads += x.bytes;
      }
      x.grad = grad;
    }

    /* Forward and back: of each the most that was alive with what that was made of, and the operations up to its end. */
    var loss = call(functions.get(model.inv.task) || fail("memory: no loss is known for task " + model.inv.task), [])[0];
    held.forEach(free);
    groups.forEach(function (group) {
      var gone = group.held.reduce(function (n, s) { return n + (s.holders ? 0 : s.bytes); }, 0);
      group.kept -= gone;
      group.left -= gone;
      now -= group.more * gone;
      left -= group.more * gone;
    });
    this.first = [peak].concat(most);
    this.kept = now;
    this.forward_flops = flops;
    peak = 0; held = []; casts = new Map(); forward = false;
    loss.grad = create(SINGLE);
    loss.grad.holders++;
    backward();
    this.second = [peak].concat(most);
    this.step_flops = flops;
    this.sequence = sequence;
    /* Whether an operation has read a parameter: outside of layers one may wait for other tasks. */
    this.reached = function (m, suffix) { return m.layers ? own(sequences, m.stack) : outside.has(m.path + "|" + suffix); };
    /* Of a tensor that is several parameters, their sizes; else its own. */
    this.shapes = function (row) {
      return parts.has(row.key) ? Array.from(parts.get(row.key).values()) : [row.shape && row.shape.length ? row.shape : [row.count]];
    };
  }
  var UNBORN = { bytes: 0, holders: 1, forward: false };

  /* ---- the answer ---- */

  function settingOf(asked) {
    var known = peft.data.training, setting = merge(known.setting, asked), lists = { dtype: Object.keys(known.dtypes), optimizer: Object.keys(known.optimizers), attention: known.attention };
    ["batch", "seq"].forEach(function (name) {
      var n = setting[name];
      if (!Number.isInteger(n) || n < 1 || n > known.most) fail(name + ": found " + inner.shown(String(n)) + "; expected a whole number from 1", name);
    });
    if (given(setting.quantized)) lists.quantized = Object.keys(known.quantized);
    Object.keys(lists).forEach(function (name) {
      if (lists[name].indexOf(setting[name]) < 0) fail("unknown " + (name === "quantized" ? "quantization" : name) + " '" + inner.shown(String(setting[name])) + "'", name);
    });
    return setting;
  }
  /* A method with hyperparameters in a model; kept, since a page asks for many settings of one. */
  function programOf(id, options, width) {
    var model = peft.backbone(options), task = options.task;
    if (!given(task) && model.default_task === "none" && model.tasks.indexOf("seq_cls") >= 0) task = "seq_cls";
    var plan = inner.planOf(id, merge(options, { task: task })), values = inner.valuesFor(plan, options.values || {}), key = width + JSON.stringify(values);
    plan.programs = plan.programs || new Map();
    if (!plan.programs.has(key)) {
      if (plan.programs.size > 20) plan.programs.clear();
      plan.inv.operations = plan.inv.operations || new Model(plan.inv);
      plan.programs.set(key, new Program(plan, plan.inv.operations, values, width));
    }
    return { program: plan.programs.get(key), values: values };
  }
  function numel(tensor) { return tensor.number * product(tensor.shape); }
  /* The tensors that are trained, each kind once, with how many there are, and whether the step reached them. */
  function trainedIn(program, step) {
    var found = [];
    program.plan.inv.modules.forEach(function (m) {
      m.parameters.forEach(function (p) {
        var number = (m.layers ? layersOf(m.layers) : [-1]).filter(function (n) { return program.trains(m, p[0], n); }).length;
        if (number) found.push({ shape: p[1], number: number, reached: step.reached(m, p[0]) });
      });
    });
    program.rows.forEach(function (row) {
      if (row.learns && !row.piece.tensor.selecting) step.shapes(row).forEach(function (shape) { found.push({ shape: shape, number: row.n, reached: true }); });
    });
    return found;
  }
  /* Numbers of single tensors as the optimizer comes to them, layer by layer; of layers that are alike, a few. */
  function ordered(program, step) {
    var found = [], added = new Map(), inv = program.plan.inv, family = inv.backbone.family, outside = inv.modules.filter(function (m) { return !m.stack; });
    function pathIn(spot) {
      var source = spot.source, layer = isBlock(source) && family.tasks[inv.task] + family.stacks[source.stack].path;
      if (!isBlock(source)) return isSite(source) ? source.module.path : isModule(source) ? joined(source.path, spot.suffix) : "";
      return source.kind === "mlp" ? "" : source.kind === "layer" ? layer : layer + "." + family.stacks[source.stack].attention[source.name];
    }
    program.rows.forEach(function (row) {
      if (row.learns && !row.piece.tensor.selecting) at(at2(added, row.spot.stack), pathIn(row.spot)).push(row);
    });
    function beside(stack, path, layer) {
      (added.has(stack) && added.get(stack).get(path) || NONE).forEach(function (row) {
        if (within(row.layers, layer)) for (var i = 0; i < Math.min(row.copies, 2); i++) step.shapes(row).forEach(function (shape) { found.push(product(shape)); });
      });
    }
    function module(m, layer) {
      m.parameters.forEach(function (p) { if (program.trains(m, p[0], layer) && step.reached(m, p[0])) found.push(product(p[1])); });
      beside(m.stack, m.path, layer);
    }
    function embeds(m) { return m.role.indexOf("embed.") === 0; }
    outside.filter(embeds).forEach(function (m) { module(m, -1); });
    inv.stacks.forEach(function (stack) {
      var inside = inv.modules.filter(function (m) { return m.stack === stack; }), paths = new Set(inside.map(function (m) { return m.path; }));
      step.sequence(stack).forEach(function (pair) {
        pair[0].forEach(function (layer) {
          inside.forEach(function (m) { if (within(m.layers, layer)) module(m, layer); });
          if (added.has(stack)) added.get(stack).forEach(function (_, path) { if (!paths.has(path)) beside(stack, path, layer); });
        });
      });
    });
    outside.forEach(function (m) { if (!embeds(m)) module(m, -1); });
    beside("", "", -1);
    return found;
  }
  /* Bytes of an optimizer's states that stay, of those that may leave the device, and needed for a while during the update. */
  function update(optimizer, tensors, singles, width) {
    var states = 0, all = 0, temporary = 0, before = 0;
    tensors.forEach(function (tensor) {
      var n = product(tensor.shape), shape = tensor.shape, axes = shape.length;
      all += n * width * tensor.number;
      if (optimizer.factored) states += tensor.number * 4 * (axes >= 2 ? Math.floor(n / shape[axes - 1]) + Math.floor(n / shape[axes - 2]) : n);
      else if (optimizer.eight_bit) states += tensor.number * optimizer.moments * (n + 4 * Math.ceil(n / peft.data.training.STATE_BLOCK));
      else if (optimizer.moments) states += tensor.number * (optimizer.moments * n * width + data.constants.counter);
    });
    singles.forEach(function (n) {   // a root, a quotient, and the quotient of the tensor before
      temporary = Math.max(temporary, 2 * n * width + before);
      before = n * width;
    });
    if (optimizer.foreach || !optimizer.moments) temporary = optimizer.moments ? all : 0;
    return { states: optimizer.paged ? 0 : states, paged: optimizer.paged ? states : 0, temporary: temporary };
  }
  /* Bytes of all that stays from step to step but the optimizer's states. */
  function weightsOf(program, setting, values, trained, w, w_t) {
    var plan = program.plan, inv = plan.inv, T = peft.data.training, kind = setting.quantized;
    var bytes = program.holds + run(program.model.operations.buffers, inner.atop(program.model.names[""], { width: w })) + inner.baseBytes(plan, values, w) - inv.backbone.parameters * w, frozen = inv.total - trained;
    program.rows.forEach(function (row) {
      var tensor = row.piece.tensor;
      if (!tensor.selecting && (row.learns || tensor.served !== "absent")) frozen += row.count * row.n;
    });
    if (given(kind)) inv.modules.forEach(function (m) {
      if (inner.LINEAR.indexOf(m.kind) < 0 || !m.stack) return;
      if (layersOf(m.layers).some(function (n) { return program.trains(m, "weight", n); })) fail(plan.method.name + " trains weights that are to be held in " + kind);
      var n = m.d_in * m.d_out, scales = kind === "nf4" ? Math.ceil(n / T.BLOCK) : m.d_out;
      bytes += m.n * (Math.ceil(n * T.quantized[kind] / 8) + 4 * scales - n * w);
    });
    return frozen * w + trained * w_t + bytes;
  }
  function batchOf(model, setting, w) {
    var T = peft.data.training, pixels = run(model.operations.pixels, model.inv.backbone.config), labels = model.inv.task === "causal_lm" ? setting.seq : 1;
    return setting.batch * ((pixels ? pixels * w : setting.seq * (T.TOKEN_BYTES - T.LABEL_BYTES)) + T.LABEL_BYTES * labels);
  }
  /* `options`: those of a cost; `asked`: batch, seq and what else differs from the usual setting. */
  peft.remembered = function (id, options, asked) {
    var setting = settingOf(asked), T = peft.data.training, w = T.dtypes[setting.dtype][0], w_t = T.dtypes[setting.dtype][1];
    var found = programOf(id, options, w), program = found.program, model = program.model, plan = program.plan;
    if (program.eager || !run(model.operations.sdpa, plan.inv.backbone.config)) setting.attention = "eager";
    if (setting.checkpointing && !model.operations.checkpointing) fail("checkpointing: transformers does not have it for " + plan.inv.backbone.family.name + "; expected none");
    var step = new Step(program, { batch: setting.batch, seq: setting.seq, width: w, trained: w_t, autocast: setting.dtype === "mixed", eager: setting.attention === "eager", checkpointing: setting.checkpointing, device: "cpu" });
    var tensors = trainedIn(program, step), trained = tensors.reduce(function (n, t) { return n + numel(t); }, 0), inputs = batchOf(model, setting, w);
    tensors = tensors.filter(function (t) { return t.reached; });
    var gradients = w_t * tensors.reduce(function (n, t) { return n + numel(t); }, 0), optimizer = update(T.optimizers[setting.optimizer], tensors, ordered(program, step), w_t);
    var moments = [["forward", step.first[0], Math.min(step.first[0], step.kept), 0], ["backward"].concat(step.second), ["optimizer", gradients + optimizer.temporary, 0, gradients]];
    var most = moments.reduce(function (best, moment) { return moment[1] > best[1] ? moment : best; });
    var weights = weightsOf(program, setting, found.values, trained, w, w_t), peak = weights + most[1] + optimizer.states + inputs;
    if (Math.max(peak - inputs, step.kept, optimizer.paged) > inner.EXACT) fail("memory: this step takes more than 2**53 bytes");
    return {
      method: plan.id, task: plan.inv.task, setting: setting, hyperparameters: found.values, targets: plan.targets,
      peak: peak, phase: most[0], weights: weights, gradients: most[3], optimizer_states: optimizer.states, activations: most[2] + inputs, temporaries: most[1] - most[2] - most[3],
      kept: step.kept + inputs, paged: optimizer.paged, gpu_extra_estimate: T.CONTEXT + T.WORKSPACE + Math.trunc(T.FRAGMENTATION * (peak - weights)), trained: trained,
      forward_flops: step.forward_flops, step_flops: step.step_flops
    };
  };
  peft.loadOperations = load;
})();

/* A model with a method put into it: peftonomy/memory/program.py over the inventory of engine.js. After engine.js and
   data.js; programs.js has the lists of operations, step.js runs them. This file knows no model and no method. */
"use strict";

(function () {
  var inner = peft.inner, fail = inner.fail, given = inner.given, merge = inner.merge, layersOf = inner.layersOf, product = inner.product, total = inner.total;
  var NONE = [], SIZED = ["own", "skip", "beside", "during", "flops", "back", "shape"], OF_FAMILY = ["post_norm", "sdpa", "runs", "pixels", "buffers"];
  var data = null;

  /* What programs.js brings: numbers of formulas become functions, and rows of lines objects. */
  function load(records) {
    data = records;
    data.varying = new Map(Object.keys(data.varying).map(function (number) {
      return [data.formulas[number], { number: number, names: data.varying[number], formula: data.formulas[number] }];
    }));
    each(data.rules, function (rule, kind) {
      rule.kind = kind;
      rule.casts = kind === "cast" || kind === "as" || kind === "float";
      SIZED.forEach(function (field) { rule[field] = formula(rule[field]); });
    });
    data.functions = decoded(data.functions);
    each(data.positions, function (index, id) { data.positions[id] = formula(index); });
    each(data.recipes, function (recipe) { ["evaluations", "layers", "drops"].forEach(function (key) { recipe[key] = formula(recipe[key]); }); });
    each(data.updates, function (updates) {
      updates.forEach(function (update) { ["guard", "states", "temporary", "together"].forEach(function (key) { update[key] = formula(update[key]); }); });
    });
    each(data.families, function (family) {
      family.functions = decoded(family.functions);
      OF_FAMILY.forEach(function (field) { family[field] = formula(family[field]); });
    });
    /* known: the functions of a record, with the helpers of the entry's others. */
    each(data.entries, function (acts) {
      (acts || NONE).forEach(function (act) {
        act.functions = decoded(act.functions);
        act.guard = formula(act.guard);
        act.holds = formula(act.holds);
      });
      var helpers = [].concat.apply([], (acts || NONE).map(function (act) { return Array.from(act.functions).filter(function (pair) { return !hooks(pair[0]); }); }));
      (acts || NONE).forEach(function (act) { act.known = new Map(helpers.concat(Array.from(act.functions))); });
    });
  }
  function each(record, work) { Object.keys(record).forEach(function (key) { work(record[key], key); }); }
  function formula(index) { return given(index) ? data.formulas[index] : null; }
  function decoded(functions) {
    return new Map(Object.keys(functions).map(function (name) {
      return [name, { name: name, inputs: functions[name][0], lines: functions[name][1].map(lineOf) }];
    }));
  }
  /* words: names, and formulas as functions. borrowed: which of them are parameters of the place of a method, which nobody
     else holds. */
  function lineOf(row) {
    var borrowed = row[1].map(function (word) { return word === ".weight" || word === ".bias" || word === ".bias?"; });
    return {
      kind: row[0], words: row[1].map(function (word) { return typeof word === "number" ? formula(word) : word; }), targets: row[2] || NONE,
      when: formula(row[3]), shape: row[4] ? row[4].map(formula) : null,
      borrowed: borrowed.indexOf(true) >= 0 ? borrowed : null
    };
  }
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
    this.check();
    this.found = new Map(); this.layers = new Map(); this.differ = new WeakMap(); this.names = this.namesOf(family);
  }
  function functionsOf(operations) {
    return (given(operations.like) ? functionsOf(data.families[operations.like]) : NONE).concat(Array.from(operations.functions));
  }
  /* What formulas see, by the stack ("" outside of them): the config, sizes, and which roles there are. */
  Model.prototype.namesOf = function (family) {
    var inv = this.inv, backbone = inv.backbone, flags = {}, names = {}, every;
    function absent(spec) { flags[flat(spec.role)] = 0; }
    inner.INPUTS.forEach(function (role) { absent({ role: role }); });
    family.modules.forEach(absent);
    Object.keys(family.stacks).forEach(function (name) { family.stacks[name].modules.forEach(absent); });
    inv.modules.forEach(function (m) { if (!m.stack) flags[flat(m.role)] = 1; });
    every = names[""] = merge(flags, backbone.config, inv.dims, { num_labels: inv.labels });
    every.post_norm = Number(Boolean(this.operations.post_norm(backbone.config)));
    Object.assign(every, { in_encoder: 0, in_decoder: 0, layer: -1 });
    Object.keys(family.stacks).forEach(function (name) { every["in_" + name] = 0; });
    inv.stacks.forEach(function (name) {
      var here = { n_layers: backbone.layers[name] };
      here["in_" + name.split("_")[0]] = here["in_" + name] = 1;
      names[name] = merge(every, backbone.dims, backbone.own[name], here);
    });
    return names;
  };
  /* Refuse a config with an option that changes the computation in a way that no function declares. */
  Model.prototype.check = function () {
    var backbone = this.inv.backbone;
    (this.operations.fixed || NONE).forEach(function (option) {
      var found = inner.lookup("memory of " + backbone.name, backbone.raw, option[0]);
      if (found === undefined || option[1].some(function (allowed) { return plain(allowed) === plain(found); })) return;
      fail("memory of " + backbone.name + ": " + option[0] + ": found " + inner.seen(found) + "; expected " + option[1].map(inner.seen).join(" or ") + ", as the operations of " + backbone.family.name + " assume");
    });
  };
  /* A value as Python compares it: 1.0 equals 1, and true does. */
  function plain(value) { return value !== null && typeof value === "object" && given(value.text) ? Number(value.text) : typeof value === "boolean" ? Number(value) : value; }
  /* Whether a module's parameters are in float32 whatever type the model has. */
  Model.prototype.single = function (m) { return this.operations.float32.indexOf(m.role) >= 0; };
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
    if (source.stack !== undefined) [spot.role.replace(/^norm\./, "").split(".")[0], "layer"].concat(spot.role === "layer" ? data.constants.blocks : NONE).forEach(function (name) { found.push(["block", source.stack, name].join("|")); });
    return found.concat("model");
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
    this.plan = plan; this.model = model; this.width = width; this.trained = new Map(); this.own = new Map(); this.hooks = new Map(); this.points = new Map(); this.keys = new Map(); this.acting = new Map(); this.differ = new Map(); this.holds = 0; this.whole = this;
    this.rows = inner.some(plan, [].concat.apply([], plan.tensors.map(function (piece) { return together(inner.placed(piece, args[piece.part])); })));
    this.rows.forEach(function (row) { self.row(row); });
    plan.inv.modules.forEach(function (m) {
      if (!m.pretrained) m.parameters.forEach(function (p) { at(self.trained, m.path + "|" + p[0]).push(null); });
    });
    data.methods[plan.id].forEach(function (id, part) {
      var acts = data.entries[id] || fail(plan.method.parts[part].name + " does not say yet which operations it does, so its memory is not known");
      acts.forEach(function (act) { self.act(part, act, args[part]); });
    });
    this.recipe(args);
    var kinds = Array.from(this.points.keys()).map(function (key) { return data.points[key.split("|")[2]]; });
    this.eager = kinds.indexOf("eager") >= 0 || kinds.indexOf("inside") >= 0;
    if (kinds.indexOf("inside") >= 0 && !model.operations.interface) inner.fail("memory of " + plan.id + ": it adds keys, values or terms to attention, and that of " + model.inv.backbone.family.name + " does not go through the interface of transformers");
  }
  /* How many forward passes replace a backward pass, how many layers are trained at a time (null: all), and whether the others
     have no optimizer states. */
  Program.prototype.recipe = function (args) {
    var plan = this.plan, self = this;
    this.evaluations = 0; this.together = null; this.drops = true;
    data.methods[plan.id].forEach(function (id, part) {
      var recipe = data.recipes[id], names = inner.atop(plan.common, args[part]);
      if (!recipe) return;
      self.evaluations = Math.max(self.evaluations, Math.trunc(recipe.evaluations(names)));
      if (!recipe.layers) return;
      if (self.together !== null) fail(plan.id + ": two of its parts train layers in turns");
      self.together = Math.trunc(recipe.layers(names)); self.drops = Boolean(recipe.drops(names));
    });
    if (self.evaluations < 0 || self.evaluations > inner.EXACT) fail(plan.id + ": found " + self.evaluations + " evaluations; expected a count from 0 to 2**53");
    if (self.together !== null && self.together < 1) fail(plan.id + ": found " + self.together + " layers at a time; expected at least 1");
  };
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
    row.sizes = shape;
    at(at2(this.own, name), place).push({ key: row.key, shape: padded(shape), copies: row.copies, trained: row.learns, layers: row.layers });
  };
  function surrounds(name) { return data.constants.around.indexOf(name) >= 0; }
  function replaces(name) { return data.constants.in_place.indexOf(name) >= 0; }
  /* Whether a function of that name acts by itself, and is not one that others call. */
  function hooks(name) { return surrounds(name) || replaces(name) || own(data.points, name); }
  Program.prototype.act = function (part, act, args) {
    var self = this, plan = this.plan, common = inner.atop(plan.common, { post_norm: this.model.names[""].post_norm, width: this.width }), sites = plan.sites[part];
    if (act.per === "site" && !plan.method.parts[part].targets) sites = inner.byRole(plan.inv, (act.roles || NONE).filter(function (role) { return inner.hasRole(plan.inv, role); }));
    inner.spotsOf(merge(act, { by_layer: act.by_layer && !act.layered }), plan.inv, sites, common).forEach(function (spot) {
      var layers = spot.layers, names = inner.atop(spot.dims, args);
      if (act.layered) {
        if (!layers) return;
        layers = { at: layersOf(layers).filter(function (n) { return act.guard(inner.atop(names, { layer: n })); }) };
        if (!layers.at.length) return;
      } else if (act.guard && !act.guard(names)) return;
      if (spot.suffix === "bias" && act.functions.has("weight") && !act.functions.has("bias")) return;   // what stands in place of a weight does nothing to a bias
      self.holds += act.holds(names) * (layers ? layersOf(layers).length : spot.n);
      self.hook(part, act, merge(inner.local(spot.dims, common), args), spot, layers);
    });
  };
  /* The path of what a function at a spot acts around, which may be the layer of a site or the norm behind it. */
  Program.prototype.pathAt = function (spot, at_) {
    if (at_ !== "norm") return at_ || pathOf(spot.source);
    var first = layersOf(spot.layers)[0], found = this.model.module(spot.stack, first === undefined ? -1 : first, "norm." + spot.role.split(".")[0]);
    if (!found) fail("memory: " + this.plan.method.name + " acts around the norm behind " + spot.role + ", and there is none");
    return found.path;
  };
  Program.prototype.hook = function (part, act, names, spot, layers) {
    var self = this, source = spot.source, stack = spot.stack, module = isSite(source) ? source.module : isModule(source) ? source : null;
    var slice = isSite(source) && !source.whole && !act.at ? new Part(module, source.start, source.stop) : null, tensors = {};
    this.plan.method.parts[part].tensors.forEach(function (tensor) {
      names["with_" + tensor.name] = Number(self.nearest({ part: part, spot: spot, tensors: tensors }, tensor.name).length > 0);
    });
    act.functions.forEach(function (f, name) {
      var hook = { name: name, function: f, functions: act.known, names: names, part: part, spot: spot, tensors: tensors, layers: layers, slice: slice, module: module, suffix: spot.suffix };
      if (surrounds(name) && isModule(source) && spot.suffix !== source.parameters[0][0]) return;   // a module once, whatever it has besides its weight
      if (surrounds(name) || replaces(name)) at(self.hooks, stack + "|" + (isBlock(source) ? source.name : self.pathAt(spot, act.at))).push(hook);
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
  /* The method's own tensors of a name, at all places. */
  Program.prototype.everywhere = function (hook, name) {
    var places = this.own.get(hook.part + "|" + name);
    return places ? [].concat.apply([], Array.from(places.values())) : NONE;
  };
  /* The method's own tensors of a name, by their place. */
  Program.prototype.places = function (hook, name) { return this.own.get(hook.part + "|" + name) || new Map(); };
  /* Those at a block. */
  Program.prototype.inBlock = function (hook, name, stack, block) { return this.places(hook, name).get(["block", stack, block].join("|")) || NONE; };
  /* The same without what the method does. */
  Program.prototype.bare = function () {
    return Object.assign(Object.create(Program.prototype), this, { hooks: new Map(), points: new Map(), acting: new Map(), keys: new Map(), differ: new Map() });
  };
  /* The same while, of all layers, only those of a turn are trained. */
  Program.prototype.during = function (turn) {
    var found = Object.assign(Object.create(Program.prototype), this, { trained: new Map(), keys: new Map() }), paths = this.model.paths;
    this.trained.forEach(function (several, where) {
      var stack = paths[where.split("|")[0]].stack, here = turn.filter(function (one) { return one[0] === stack; }).map(function (one) { return one[1]; });
      found.trained.set(where, several.map(function (layers) {
        return layers ? { at: here.filter(function (n) { return within(layers, n); }) } : layers;
      }).filter(function (layers) { return !layers || layers.at.length; }));
    });
    return found;
  };
  /* The turns of which one takes the most memory; none if all is trained at a time. Of layers that are alike, a turn has the
     first ones, the last ones, or some of both. */
  Program.prototype.turns = function (namesOf) {
    if (this.together === null) return NONE;
    var self = this, alike = new Map(), all = 0, found = new Map([["", []]]), together;
    this.model.inv.stacks.forEach(function (stack) {
      self.likeness(stack, namesOf(stack)).forEach(function (key, layer) { at(alike, stack + "|" + key).push([stack, layer]); all++; });
    });
    together = Math.min(this.together, all);
    alike.forEach(function (several) {
      var more = new Map();
      found.forEach(function (turn) {
        for (var n = 0; n <= Math.min(several.length, together - turn.length); n++) {
          for (var low = 0; low <= n; low++) {
            var chosen = turn.concat(several.slice(0, low), several.slice(several.length - n + low));
            more.set(chosen.join(" "), chosen);
          }
        }
      });
      found = more;
      if (found.size > data.constants.turns) fail("memory: " + self.plan.id + " trains " + together + " layers at a time, of " + alike.size + " kinds; expected fewer, so that at most " + data.constants.turns + " choices can be the largest");
    });
    return Array.from(found.values()).filter(function (turn) { return turn.length === together; });
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
  Program.prototype.sequence = function (stack, names) { return compressed(this.likeness(stack, names)); };
  /* A key for each layer; layers with equal keys are alike. */
  Program.prototype.likeness = function (stack, names) {
    var model = this.model, differing = this.differing(stack).map(function (pair) { return [pair[0], inner.atop(names, pair[1])]; });
    return this.alike(stack).map(function (key, layer) {
      return differing.reduce(function (text, pair) {
        var here = model.layered(pair[1], layer), sized = pair[0].names.some(function (name) { return !(name in here); });
        return text + "|" + (sized ? "layer " + layer : pair[0].formula(here));   // it needs sizes of tensors as well
      }, key);
    });
  };
  /* All formulas of the model and of hooks that differ from layer to layer, with the names that they see besides. */
  Program.prototype.differing = function (stack) {
    var model = this.model, found = this.differ.get(stack);
    function note(functions, seen) {
      model.varying(functions).forEach(function (varying) {
        found.set(JSON.stringify([varying.number].concat(varying.names.map(function (name) { return seen[name]; }))), [varying, seen]);
      });
    }
    if (found) return found;
    found = new Map();
    note(model.functions, {});
    [this.hooks, this.points].forEach(function (all) {
      all.forEach(function (hooks, where) {
        if (["", stack].indexOf(where.split("|")[0]) >= 0) hooks.forEach(function (hook) { note(hook.functions, hook.names); });
      });
    });
    this.differ.set(stack, found = Array.from(found.values()));
    return found;
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
  /* The formulas of functions that name what differs from layer to layer in the model. */
  Model.prototype.varying = function (functions) {
    var found = this.differ.get(functions), about = ["layer"].concat(this.perLayer);
    function note(word) {
      var varying = data.varying.get(word);
      if (varying && varying.names.some(function (name) { return about.indexOf(name) >= 0; })) found.add(varying);
    }
    if (found) return found;
    this.differ.set(functions, found = new Set());
    functions.forEach(function (f) {
      f.lines.forEach(function (line) { line.words.concat(line.shape || NONE, line.when || NONE).forEach(note); });
    });
    return found;
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

  peft.loadOperations = load;
  /* What tape.js, machine.js, step.js and memory.js go on with. */
  inner.memory = { get data() { return data; }, Model: Model, Program: Program, Part: Part, within: within, own: own, at: at, at2: at2, padded: padded, placeOf: placeOf, joined: joined, isSite: isSite, isBlock: isBlock, isModule: isModule, learns: learns };
})();

/* What a training step takes: peftonomy/memory/asked.py, optimizer.py and fit.py. After step.js and programs.js. Bytes are
   integers below 2**53 and therefore exact. */
"use strict";

(function () {
  var inner = peft.inner, parts = inner.memory, fail = inner.fail, given = inner.given, merge = inner.merge, layersOf = inner.layersOf, product = inner.product, within = parts.within;
  var NONE = [], MOST = Math.pow(2, 24), LEAST = 64, FASTEST = 32;

  function constants() { return peft.data.training; }

  /* ---- a question ---- */

  function settingOf(asked) {
    var known = constants(), setting = merge(known.setting, asked), lists = { dtype: Object.keys(known.dtypes), optimizer: Object.keys(known.optimizers), attention: known.attention };
    if (!given(setting.seq)) setting.seq = null;   // of images and speech
    ["batch", "seq"].forEach(function (name) {
      var n = setting[name];
      if (name === "seq" && n === null) return;
      if (!Number.isInteger(n) || n < 1 || n > known.most) fail(name + ": found " + inner.shown(String(n)) + "; expected a whole number from 1", name);
    });
    if (given(setting.quantized)) lists.quantized = Object.keys(known.quantized);
    Object.keys(lists).forEach(function (name) {
      if (lists[name].indexOf(setting[name]) < 0) fail("unknown " + (name === "quantized" ? "quantization" : name) + " '" + inner.shown(String(setting[name])) + "'", name);
    });
    return setting;
  }
  /* How several GPUs share a step; null for one. */
  function sharingOf(asked, setting) {
    var known = constants().sharding, how = { gpus: asked.gpus, shard: given(asked.shard) ? asked.shard : known.kinds[0] }, fsdp = how.shard === "fsdp";
    if (!given(asked.gpus)) {
      parts.sharing.forEach(function (name) { if (given(asked[name])) fail(name + " has no meaning for one GPU; give gpus as well, a whole number from 2", name); });
      return null;
    }
    if (!Number.isInteger(how.gpus) || how.gpus < 2 || how.gpus > known.most) fail("gpus: found " + inner.shown(String(how.gpus)) + "; expected a whole number from 2 to " + inner.grouped(known.most), "gpus");
    if (known.kinds.indexOf(how.shard) < 0) fail("unknown shard '" + inner.shown(String(how.shard)) + "'", "shard");
    ["reshard_after_forward", "reduce_dtype", "quant_storage"].forEach(function (name) { if (given(asked[name])) how[name] = asked[name]; });
    if (given(how.reduce_dtype) && !parts.own(known.reduced, how.reduce_dtype)) fail("unknown reduce_dtype '" + inner.shown(String(how.reduce_dtype)) + "'", "reduce_dtype");
    if (given(how.quant_storage) && known.storage.indexOf(how.quant_storage) < 0) fail("unknown quant_storage '" + inner.shown(String(how.quant_storage)) + "'", "quant_storage");
    if (!fsdp && Object.keys(how).length > 2) fail(Object.keys(how)[2] + " has no meaning for shard " + how.shard + "; it is an option of fsdp", Object.keys(how)[2]);
    if (how.shard !== "ddp" && known.run.indexOf(setting.optimizer) < 0) fail("optimizer: found " + setting.optimizer + "; with shard " + how.shard + " expected " + known.run.slice(0, -1).join(", ") + " or " + known.run[known.run.length - 1], "optimizer");
    if (!fsdp) return how;
    if (setting.quantized === "int8") fail("quantized: found int8, which FSDP2 does not shard; expected nf4 or none", "quantized");
    if (given(how.quant_storage) && !given(setting.quantized)) fail("quant_storage has no meaning without quantized nf4", "quant_storage");
    how.reshard_after_forward = how.reshard_after_forward !== false;
    how.reduce_dtype = how.reduce_dtype || (setting.dtype === "mixed" ? "float32" : setting.dtype);
    if (given(setting.quantized)) how.quant_storage = how.quant_storage || known.storage[0];
    return how;
  }
  /* A method with hyperparameters in a model; kept, since a page asks for many settings of one. */
  function programOf(id, options, width) {
    var model = peft.backbone(options), task = options.task;
    if (!given(task)) task = inner.trainedTask(model);
    var plan = inner.planOf(id, merge(options, { task: task })), values = inner.valuesFor(plan, options.values || {}), key = width + JSON.stringify(values);
    plan.programs = plan.programs || new Map();
    if (!plan.programs.has(key)) {
      if (plan.programs.size > 20) plan.programs.clear();
      plan.inv.operations = plan.inv.operations || new parts.Model(plan.inv);
      plan.programs.set(key, { positions: positionsOf(plan, values), program: new parts.Program(plan, plan.inv.operations, values, width), values: values });
    }
    return plan.programs.get(key);
  }
  /* Sequence positions that the method's parts add together. */
  function positionsOf(plan, values) {
    var args = inner.argumentsOf(plan, values);
    return sum(parts.data.methods[plan.id], function (id, i) {
      var formula = parts.data.positions[id];
      return formula ? Math.trunc(formula(inner.atop(plan.common, args[i]))) : 0;
    });
  }
  /* Refuse a length that is more than the model has positions for, with those that the method adds; text without a
     length, and images or speech with one. */
  function checkLength(plan, seq, more) {
    var limit = plan.common.max_positions, prompt = more ? " with " + inner.grouped(more) + " more" : "", text = inner.readsTokens(plan.inv), name = plan.inv.backbone.name;
    if (text && seq === null) fail("seq: found nothing; expected the number of tokens in a sequence for " + name, "seq");
    if (!text && seq !== null) fail("seq: found " + inner.grouped(seq) + "; " + name + " reads no tokens, so leave seq out", "seq");
    if (limit && seq !== null && seq + more > limit) fail("seq: found " + inner.grouped(seq) + prompt + "; " + name + " has " + inner.grouped(limit) + " positions", "seq");
  }
  /* `options`: those of a cost; `asked`: batch, seq and what else differs from the usual setting. */
  function memory(id, options, asked) {
    var setting = settingOf(asked), widths = constants().dtypes[setting.dtype], found = programOf(id, options, widths[0]), how = sharingOf(asked, setting), fsdp = how && how.shard === "fsdp", mixed = setting.dtype === "mixed";
    parts.sharing.forEach(function (name) { delete setting[name]; });
    var program = found.program, model = program.model, family = model.inv.backbone.family;
    checkLength(program.plan, setting.seq, found.positions);
    if (program.eager || !model.operations.sdpa(model.inv.backbone.config)) setting.attention = "eager";
    if (setting.checkpointing && !model.operations.checkpointing) fail("checkpointing: transformers does not have it for " + family.name + ", or not for layers alone; expected none", "checkpointing");
    if (how && (program.evaluations || program.together !== null)) fail("gpus: found " + how.gpus + "; the recipe of " + program.plan.id + " is covered on one GPU only", "gpus");
    function started(program) {
      var known = constants(), flags = {
        batch: setting.batch, seq: setting.seq || 1, width: widths[0], trained: fsdp ? widths[0] : widths[1], autocast: mixed && !fsdp,
        eager: setting.attention === "eager", checkpointing: setting.checkpointing, device: "cpu"
      };
      if (!fsdp) return new parts.Step(program, flags);
      return new parts.RankStep(program, flags, merge(how, {
        frozen: widths[0], trained: widths[1], mixed: mixed, packed: setting.quantized === "nf4", reduced: known.sharding.reduced[how.reduce_dtype] || widths[1],
        data: { bits: known.quantized.nf4, packed: known.sharding.packed }
      }));
    }
    function answer(program) {
      var step = started(program);
      return billed(program, found.values, setting, step, step.run(), how);
    }
    if (program.together === null) return answer(program);
    var flagged = started(program).flagged;
    return program.turns(function (stack) { return inner.atop(model.names[stack], flagged); }).map(function (turn) { return answer(program.during(turn)); }).reduce(function (best, one) { return one.peak > best.peak ? one : best; });
  }
  /* The answer: the totals of a step of the program, maybe in one turn, with weights, optimizer states and the batch. `how`: that of one rank. */
  function billed(program, values, setting, step, totals, how) {
    var gpus = how && how.shard === "fsdp" ? how.gpus : 1;
    var T = constants(), plan = program.plan, w = T.dtypes[setting.dtype][0], w_t = T.dtypes[setting.dtype][1], rules = ruled(program, values, step, w_t), everything = trainedIn(program, step, w_t, rules), kind = T.optimizers[setting.optimizer];
    if ((rules.at.size || rules.names.size || program.evaluations) && setting.optimizer !== T.setting.optimizer) fail("optimizer: found " + setting.optimizer + "; " + plan.id + " updates by a rule of its own; expected " + T.setting.optimizer + ", the default", "optimizer");
    if ((rules.at.size || rules.names.size) && how && how.shard !== "ddp") fail("shard: found " + how.shard + "; " + plan.id + " updates by a rule of its own, which is not divided; expected ddp", "shard");
    var tensors = everything.filter(function (t) { return t.reached; }), trained = sum(everything, numel), buckets = sum(everything, function (t) { return numel(t) * t.width; });
    if (gpus > 1) tensors = tensors.map(function (t) { return merge(t, { shape: parts.shared(t.shape, gpus) }); });
    var gradients = sum(tensors, function (t) { return product(t.shape) * t.now * t.width; }), singles = ordered(program, step, w_t, rules, gpus);
    var optimizer = how && how.shard === "zero1" ? divided(kind, tensors, how.gpus) : update(kind, tensors, singles), resting = update(kind, program.drops ? NONE : tensors.map(restingOf), NONE);
    if (program.evaluations) { gradients = 0; optimizer = { states: 0, paged: 0, temporary: Math.max.apply(null, singles.concat(0)) }; }   // of one parameter, the perturbation
    var paged = optimizer.paged + resting.paged, states = optimizer.states + resting.states + (program.drops ? rules : ruled(program.whole, values, step, w_t)).states, inputs = batchOf(program.model, setting, w), kept = totals.kept;
    var moments = [["forward", totals.first[0], gpus > 1 ? totals.first[1] : Math.min(totals.first[0], kept), 0].concat(totals.first.slice(3)), ["backward"].concat(totals.second), ["optimizer", gradients + Math.max(optimizer.temporary, rules.temporary + rules.together), 0, gradients, 0, 0]];
    var most = moments.reduce(function (best, moment) { return moment[1] > best[1] ? moment : best; });
    var weights = weightsOf(program.whole, setting, values, trained, w, w_t, gpus > 1 ? step.shards : null), gathered = most[4], buffers = gpus > 1 ? most[5] : how ? buckets : 0, peak = weights + most[1] + states;
    if (Math.max(peak, kept, paged) > inner.EXACT) fail("memory: this step takes more than 2**53 bytes");
    peak += inputs + (gpus > 1 ? 0 : buffers);
    return merge({
      method: plan.id, task: plan.inv.task, setting: setting, hyperparameters: values, targets: plan.targets,
      peak: peak, phase: most[0], weights: weights, gradients: most[3], optimizer_states: states, activations: most[2] + inputs, temporaries: most[1] - most[2] - most[3] - gathered - most[5],
      kept: kept + inputs, paged: paged, gpu_extra_estimate: T.CONTEXT + T.WORKSPACE + Math.trunc(T.FRAGMENTATION * (peak - weights)), trained: trained,
      forward_flops: totals.forward, step_flops: totals.flops
    }, how ? merge({ gathered: gathered, communication: buffers, not_covered: T.sharding.not_covered }, how) : {});
  }
  /* The optimizer's memory on the rank that takes the most under torch's ZeroRedundancyOptimizer, which sorts the tensors by
     size and gives each to the rank that has the fewest entries so far. */
  function divided(kind, tensors, gpus) {
    var ranks = Array.from({ length: gpus }, function () { return { entries: 0, tensors: [] }; }), best = null;
    tensors.slice().sort(function (a, b) { return product(b.shape) - product(a.shape); }).forEach(function (t) {
      for (var i = 0; i < t.now - t.ruled; i++) {
        var least = ranks.reduce(function (a, b) { return b.entries < a.entries ? b : a; });
        least.entries += product(t.shape);
        least.tensors.push(merge(t, { number: 1, now: 1, ruled: 0 }));
      }
    });
    ranks.forEach(function (rank) {
      var found = update(kind, rank.tensors, rank.tensors.map(function (t) { return product(t.shape) * t.width; }));
      if (!best || found.states + found.temporary > best.states + best.temporary) best = found;
    });
    return best;
  }
  function sum(list, size) { return list.reduce(function (n, x, i) { return n + size(x, i); }, 0); }
  function numel(tensor) { return tensor.number * product(tensor.shape); }
  /* The tensors like this one that are trained in other turns. */
  function restingOf(t) { return merge(t, { now: t.ruled ? 0 : t.number - t.now, ruled: 0 }); }

  /* ---- what is trained, and what its optimizer takes ---- */

  /* The parameters that the method's own rule updates: `at` has module, name and layer of the model's, `names` the method's own; bytes that the rule keeps, and takes for a while to update one, or each while it updates all. */
  function ruled(program, values, step, width) {
    var plan = program.plan, found = { at: new Set(), names: new Set(), states: 0, temporary: 0, together: 0 }, args = inner.argumentsOf(plan, values);
    parts.data.methods[plan.id].forEach(function (id, part) {
      (parts.data.updates[id] || NONE).forEach(function (record) {
        if (record.tensors.length) return taken(record, part);
        inner.spotsOf(merge(record, { by_layer: record.by_layer && !record.layered }), plan.inv, NONE, plan.common).forEach(function (spot) {
          var names = merge(inner.local(spot.dims, plan.common), args[part], { width: widthIn(program, spot.source, width) });
          if (record.layered && !spot.layers || !step.reached(spot.source, spot.suffix)) return;
          if (record.guard && !record.layered && !record.guard(inner.atop(plan.common, names))) return;
          var layers = (spot.layers ? layersOf(spot.layers) : [-1]).filter(function (n) {
            return program.trains(spot.source, spot.suffix, n) && (!record.layered || record.guard(inner.atop(plan.common, merge(names, { layer: n }))));
          });
          layers.forEach(function (n) {
            var key = ruleKey(spot.source, spot.suffix, n);
            if (found.at.has(key)) fail(plan.id + ": two of its updates change " + spot.source.path + "." + spot.suffix);
            found.at.add(key);
          });
          if (!layers.length) return;
          names = inner.atop(plan.common, names);
          found.states += layers.length * record.states(names);
          found.together += layers.length * record.together(names);
          found.temporary = Math.max(found.temporary, record.temporary(names));
        });
      });
    });
    /* The method's own tensors at each location. */
    function taken(record, part) {
      record.tensors.forEach(function (name) { found.names.add(part + "|" + name); });
      inner.spotsOf(merge(record, { by_layer: record.by_layer && !record.layered }), plan.inv, plan.sites[part], plan.common).forEach(function (spot) {
        if (!record.tensors.some(function (name) { return program.evaluations > 0 || step.tape.arrived.has(part + "|" + name + "|" + parts.placeOf(record.per, spot)); })) return;
        var names = inner.atop(plan.common, merge(inner.local(spot.dims, plan.common), args[part], { width: width })), number = spot.n;
        if (record.layered) number = layersOf(spot.layers).filter(function (n) { return record.guard(inner.atop(names, { layer: n })); }).length;
        else if (record.guard && !record.guard(names)) return;
        found.states += number * record.states(names);
        found.together += number * record.together(names);
        if (number) found.temporary = Math.max(found.temporary, record.temporary(names));
      });
    }
    return found;
  }
  function isTaken(rules, row) { return rules.names.has(row.piece.part + "|" + row.piece.tensor.name); }
  function ruleKey(m, suffix, layer) { return m.path + "|" + suffix + "|" + layer; }
  /* The tensors that are trained, each kind once: how many there are, how many of them are trained now and how many the method's own rule updates, bytes of a number, and whether the step reached them. */
  function trainedIn(program, step, width, rules) {
    var found = [];
    program.plan.inv.modules.forEach(function (m) {
      m.parameters.forEach(function (p) {
        var there = (m.layers ? layersOf(m.layers) : [-1]).filter(function (n) { return program.whole.trains(m, p[0], n); }), now = there.filter(function (n) { return program.trains(m, p[0], n); }), own = there.filter(function (n) { return rules.at.has(ruleKey(m, p[0], n)); });
        if (there.length) found.push({ shape: p[1], width: widthIn(program, m, width), number: there.length, now: now.length, ruled: own.length, reached: step.reached(m, p[0]) });
      });
    });
    learned(program).forEach(function (row) {
      step.shapes(row).forEach(function (shape) { found.push({ shape: shape, width: width, number: row.n, now: row.n, ruled: isTaken(rules, row) ? row.n : 0, reached: arrives(program, step, row) }); });
    });
    return found;
  }
  /* Whether a gradient arrives at a row's tensors, or the step has none and updates all. */
  function arrives(program, step, row) { return program.evaluations > 0 || step.tape.arrived.has(row.key); }
  /* Rows of tensors that are the method's own and are trained. */
  function learned(program) { return program.rows.filter(function (row) { return row.learns && !row.piece.tensor.selecting; }); }
  /* Bytes per number of a module's parameters where they are trained. */
  function widthIn(program, m, width) { return program.model.single(m) ? parts.SINGLE : width; }
  /* Bytes of single tensors as the optimizer comes to them, layer by layer; of layers that are alike, a few. Fused experts
     are several modules at one path: what is beside them comes once. */
  function ordered(program, step, width, rules, gpus) {
    function bytes(shape, width) { return product(gpus > 1 ? parts.shared(shape, gpus) : shape) * width; }
    var found = [], added = new Map(), order = new Map(), inv = program.plan.inv, family = inv.backbone.family, last = new Map(inv.modules.map(function (m) { return [m.stack + " " + m.path, m]; })), outside = inv.modules.filter(function (m) { return !m.stack; });
    function pathIn(spot) {
      var source = spot.source, layer = parts.isBlock(source) && family.tasks[inv.task] + family.stacks[source.stack].path;
      if (!parts.isBlock(source)) return parts.isSite(source) ? source.module.path : parts.isModule(source) ? parts.joined(source.path, spot.suffix) : "";
      return source.kind === "mlp" ? "" : source.kind === "layer" ? layer : layer + "." + family.stacks[source.stack].attention[source.name];
    }
    learned(program).filter(function (row) { return arrives(program, step, row) && !isTaken(rules, row); }).forEach(function (row) { parts.at(parts.at2(added, row.spot.stack), pathIn(row.spot)).push(row); });
    function beside(stack, path, layer) {
      (added.has(stack) && added.get(stack).get(path) || NONE).forEach(function (row) {
        if (within(row.layers, layer)) for (var i = 0; i < Math.min(row.copies, 2); i++) step.shapes(row).forEach(function (shape) { found.push(bytes(shape, width)); });
      });
    }
    function module(m, layer) {
      m.parameters.forEach(function (p) { if (program.trains(m, p[0], layer) && step.reached(m, p[0]) && !rules.at.has(ruleKey(m, p[0], layer))) found.push(bytes(p[1], widthIn(program, m, width))); });
      if (last.get(m.stack + " " + m.path) === m) beside(m.stack, m.path, layer);
    }
    inv.modules.forEach(function (m) { m.parameters.forEach(function (p) { order.set(parts.joined(m.path, p[0]), order.size); }); });
    function place(path) { return order.has(path) ? order.get(path) : -1; }
    function embeds(m) { return m.role.indexOf("embed.") === 0; }
    outside.filter(embeds).forEach(function (m) { module(m, -1); });
    inv.stacks.forEach(function (stack) {
      var inside = inv.modules.filter(function (m) { return m.stack === stack; }), paths = new Set(inside.map(function (m) { return m.path; }));
      var others = Array.from(added.has(stack) ? added.get(stack).keys() : NONE).filter(function (path) { return !paths.has(path); }).sort();
      others.sort(function (a, b) { return place(a) - place(b); });
      step.sequence(stack).forEach(function (pair) {
        pair[0].forEach(function (layer) {
          inside.forEach(function (m) { if (within(m.layers, layer)) module(m, layer); });
          others.forEach(function (path) { beside(stack, path, layer); });
        });
      });
    });
    outside.forEach(function (m) { if (!embeds(m)) module(m, -1); });
    beside("", "", -1);
    return found;
  }
  /* Bytes of an optimizer's states that stay, of those that may leave the device, and needed for a while during the update. */
  function update(optimizer, tensors, singles) {
    var states = 0, all = 0, temporary = 0, before = 0;
    tensors.forEach(function (tensor) {
      var n = product(tensor.shape), shape = tensor.shape, axes = shape.length, bytes = n * tensor.width, number = tensor.now - tensor.ruled;
      all += bytes * number;
      if (optimizer.factored) states += number * 4 * (axes >= 2 ? Math.floor(n / shape[axes - 1]) + Math.floor(n / shape[axes - 2]) : n);
      else if (optimizer.eight_bit) states += number * optimizer.moments * (n + 4 * Math.ceil(n / constants().STATE_BLOCK));
      else if (optimizer.moments) states += number * (optimizer.moments * bytes + parts.data.constants.counter);
    });
    singles.forEach(function (bytes) {   // a root, a quotient, and the quotient of the tensor before
      temporary = Math.max(temporary, 2 * bytes + before);
      before = bytes;
    });
    if (optimizer.foreach || !optimizer.moments) temporary = optimizer.moments ? all : 0;
    return { states: optimizer.paged ? 0 : states, paged: optimizer.paged ? states : 0, temporary: temporary };
  }

  /* ---- what stays from step to step, and the batch ---- */

  /* shards: the bytes of a rank's shards; null if nothing is sharded. */
  function weightsOf(program, setting, values, trained, w, w_t, shards) {
    var inv = program.plan.inv, model = program.model, frozen = shards === null ? inv.total - trained : 0;
    program.rows.forEach(function (row) {
      var tensor = row.piece.tensor;
      if (!tensor.selecting && (shards === null && row.learns || !row.learns && tensor.served !== "absent")) frozen += row.count * row.n;
    });
    var held = program.holds + model.operations.buffers(inner.atop(model.names[""], { width: w }));
    if (shards !== null) return shards + frozen * w + held + scalesOf(program, setting);
    held += widened(program, w, w_t) + requantised(program, setting, values, w);
    return frozen * w + trained * w_t + held;
  }
  /* By how many bytes the parameters grow that are in float32 whatever type the model has. */
  function widened(program, w, w_t) {
    return sum(program.plan.inv.modules.filter(function (m) { return program.model.single(m); }), function (m) {
      return sum(m.parameters, function (p) {
        return sum(m.layers ? layersOf(m.layers) : [-1], function (n) { return product(p[1]) * (parts.SINGLE - (program.trains(m, p[0], n) ? w_t : w)); });
      });
    });
  }
  /* Bytes of the scales of nf4, which are no parameters and so are not sharded. */
  function scalesOf(program, setting) {
    var plan = program.plan;
    if (plan.method.parts.some(function (part) { return part.base.length; })) fail(plan.method.name + " stores the frozen weights in its own form, which is not covered with fsdp; ask for a method on plain weights with quantized nf4", "quantized");
    if (!given(setting.quantized)) return 0;
    return sum(plan.inv.modules, function (m) { return linear(program, m, setting.quantized) ? m.n * 4 * Math.ceil(m.d_in * m.d_out / constants().BLOCK) : 0; });
  }
  /* Whether a module is a linear layer inside of the stacks, which is to be quantised and so must not be trained. */
  function linear(program, m, kind) {
    if (inner.LINEAR.indexOf(m.kind) < 0 || !m.stack) return false;
    if (layersOf(m.layers).some(function (n) { return program.trains(m, "weight", n); })) fail(program.plan.method.name + " trains weights that are to be held in " + kind, "quantized");
    return true;
  }
  /* By how many bytes the weights grow (or shrink, below zero) as they are held. */
  function requantised(program, setting, values, w) {
    var plan = program.plan, T = constants(), kind = setting.quantized, grown = inner.baseBytes(plan, values, w) - plan.inv.backbone.parameters * w;
    if (!given(kind)) return grown;
    if (plan.method.parts.some(function (part) { return part.base.length; })) fail(plan.method.name + " stores the frozen weights in its own form; leave out quantized " + kind, "quantized");
    return grown + sum(plan.inv.modules, function (m) {
      if (!linear(program, m, kind)) return 0;
      var n = m.d_in * m.d_out, scales = kind === "nf4" ? Math.ceil(n / T.BLOCK) : m.d_out;
      return m.n * (Math.ceil(n * T.quantized[kind] / 8) + 4 * scales - n * w);
    });
  }
  /* Bytes of a batch: numbers of tokens or pixels, or both, and labels. */
  function batchOf(model, setting, w) {
    var T = constants(), pixels = model.operations.pixels(model.inv.backbone.config), labels = model.inv.computed === "causal_lm" ? setting.seq : 1;
    var tokens = setting.seq * (T.TOKEN_BYTES - T.LABEL_BYTES), texts = model.inv.task === peft.data.tasks.by_texts ? model.inv.labels * tokens : 0;
    return setting.batch * ((pixels ? pixels * w : tokens) + T.LABEL_BYTES * labels) + texts;
  }

  /* ---- what fits ---- */

  /* The largest batch, length or hyperparameter whose step fits `gpu` bytes: {value, limited, memory}; value is 0 where
     none does, limited says whether something else than memory is the limit. */
  function fit(id, options, asked, solved, gpu) {
    var ofStep = solved === "batch" || solved === "seq";
    function ask(value) {
      var changed = { [solved]: value };
      return ofStep ? memory(id, options, merge(asked, changed)) : memory(id, merge(options, { values: merge(options.values, changed) }), asked);
    }
    /* Bytes that a value takes; null where it makes no sense. */
    function taken(value) {
      try { var answer = ask(value), bytes = whole(answer); } catch (error) { if (!error.user) throw error; return null; }
      if (bytes <= gpu) best = answer;
      return bytes;
    }
    var best = null, low = 1, bytes = taken(low), found;
    while (bytes === null && low < LEAST - 1) bytes = taken(++low);
    if (bytes === null) ask(low = 1);   // which says what is wrong
    if (!(bytes <= gpu)) return { solved: solved, value: 0, limited: false, memory: null, least: low };
    found = ofStep ? along(taken, low, bytes, gpu) : halved(taken, low, gpu);
    return { solved: solved, value: found.value, limited: found.limited, memory: best };   // the last that fitted is the largest
  }
  /* By bisection, as in Python: of sizes not every one need be allowed. */
  function halved(taken, low, gpu) {
    var high = 2 * low, limited = false, bytes;
    while (high <= MOST) {
      bytes = taken(high);
      limited = bytes === null;
      if (limited || bytes > gpu) break;
      low = high;
      high *= 2;
    }
    while (high - low > 1) {
      var middle = Math.floor((low + high) / 2);
      bytes = taken(middle);
      limited = bytes === null || (limited && bytes <= gpu);
      if (bytes !== null && bytes <= gpu) low = middle; else high = middle;
    }
    return { value: low, limited: limited };
  }
  /* The same in fewer steps, for a batch or a length, which are all allowed up to some point. Bytes grow with them along a
     line that may bend upwards, if at all: so the line through two points around the GPU's bytes meets these too early,
     and that through the last two points below them too late. */
  function along(taken, low, below, gpu) {
    var end = low, slope = 0, above = null, limited = false, early = true, widths = [], high, guess, bytes;
    while (end <= MOST) end *= 2;
    high = end;
    while (high - low > 1) {
      widths.push(high - low);
      early = !early;
      if (widths.length > 3 && widths[widths.length - 1] > widths[widths.length - 4] / 2) { guess = low + Math.floor((high - low) / 2); widths = []; }
      else if (early && above !== null) guess = low + Math.floor((gpu - below) * (high - low) / (above - below));
      else if (slope && (high === end || above !== null)) guess = low + Math.floor((gpu - below) / slope) + 1;
      else guess = high === end ? FASTEST * low : low + Math.floor((high - low) / 2);
      guess = Math.max(low + 1, Math.min(high - 1, guess, FASTEST * low));
      bytes = taken(guess);
      if (bytes !== null && bytes <= gpu) {
        slope = (bytes - below) / (guess - low);
        low = guess;
        below = bytes;
      } else {
        limited = bytes === null;
        high = guess;
        above = bytes;
      }
    }
    return { value: low, limited: limited };
  }
  /* What a step takes of a GPU. */
  function whole(memory) { return memory.peak + memory.gpu_extra_estimate; }

  parts.sharing = ["gpus", "shard", "reshard_after_forward", "reduce_dtype", "quant_storage"];
  /* A setting with its defaults, and how several GPUs share it. */
  peft.checkedSetting = function (asked) {
    var setting = settingOf(asked);
    return merge(setting, sharingOf(asked, setting));
  };
  peft.memory = memory;
  peft.fit = fit;
})();

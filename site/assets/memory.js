/* What a training step takes, in the page: peftonomy/memory/model.py and fit.py, step for step, over what engine.js lays out.
   Bytes are integers below 2**53 and therefore exact; operations, which are more, are counted in BigInt. */
"use strict";

(function () {
  var inner = peft.inner, fail = inner.fail, given = inner.given, merge = inner.merge, run = inner.run, total = inner.total;
  var OUTSIDE = "|-1", KINDS = ["trained", "weights", "inputs", "reads", "keys", "kinds"], MOST = Math.pow(2, 24), LEAST = 64;
  function constants() { return peft.data.training; }
  function floor(a, b) { return Math.floor(a / b); }
  function ceil(a, b) { return Math.ceil(a / b); }
  function sum(list) { return list.reduce(function (n, x) { return n + x; }, 0); }
  /* Whether any of these roles of a block ("attn" and ["q", "k"]) is in a set. */
  function any(set, block, names) { return names.some(function (name) { return set.has(block + "." + name); }); }
  function starts(text, word) { return text.slice(0, word.length) === word; }

  /* ---- the setting ---- */

  function settingOf(asked) {
    var known = constants(), setting = merge(known.setting, asked);
    ["batch", "seq"].forEach(function (name) {
      var n = setting[name];
      if (!Number.isInteger(n) || n < 1 || n > known.most) fail(name + ": found " + inner.shown(String(n)) + "; expected a whole number from 1", name);
    });
    function check(name, list, called) { if (list.indexOf(setting[name]) < 0) fail("unknown " + called + " '" + inner.shown(String(setting[name])) + "'", name); }
    check("dtype", Object.keys(known.dtypes), "dtype");
    check("optimizer", Object.keys(known.optimizers), "optimizer");
    check("attention", known.attention, "attention");
    if (given(setting.quantized)) check("quantized", Object.keys(known.quantized), "quantization");
    return setting;
  }

  /* ---- a plan with what memory needs beyond it ---- */

  /* The tasks whose computation `dataflow` describes. */
  var COMPUTED = ["none", "causal_lm", "seq_cls"];

  function stepOf(id, options) {
    var model = peft.backbone(options), task = options.task;
    if (!given(task)) task = inner.trainedTask(model);
    var plan = inner.planOf(id, merge(options, { task: task }));
    return plan.step || (plan.step = made(plan));
  }
  function made(plan) {
    var inv = plan.inv, model = inv.backbone, flow = model.family.dataflow, modules = inv.modules, number = 0;
    if (COMPUTED.indexOf(inv.computed) < 0) fail("memory: task " + inv.task + " is not described; expected " + COMPUTED.slice(1).join(" or "));
    if (!flow) fail("memory: family " + model.type + " does not say yet how its layers compute (dataflow)");
    var mechanisms = plan.method.parts.map(function (part) {
      return part.memory || fail(part.name + " does not say yet what its training keeps alive, so its memory is not known");
    });
    function of(name) { return Number(run(flow[name], model.config)); }
    function has(role) { return modules.some(function (m) { return m.role === role; }); }
    function numbered(spots) { spots.forEach(function (spot) { spot.number = number++; }); return spots; }
    plan.tensors.forEach(function (piece) { numbered(piece.spots); });
    var step = {
      plan: plan, flow: flow, mechanisms: mechanisms, laid: new Map(),
      order: of("post") ? "post" : flow.order, activation: of("activation"), keeps_output: of("keeps_output"), activation_needs: of("activation_needs"),
      parallel: of("parallel"), softcap: of("softcap"), fused: of("fused"), repeated: of("repeated"), heads_first: of("heads_first"), logits: of("logits"),
      experts: of("experts"), buffers: of("buffers"), pixels: of("pixels"), frames: of("frames"), repeats: of("repeats"),
      side: mechanisms.some(function (m) { return m.side; }),
      stacks: inv.stacks.map(function (name) { return stackOf(inv, name); }),
      keeps: [],
      vocab: total(modules.filter(function (m) { return m.role === "head.lm"; }), "d_out"),
      tied: modules.some(function (m) { return m.role === "head.lm" && !m.parameters.some(function (p) { return p[0] === "weight"; }); }),
      normed: has("norm.embed"),
      linears: modules.filter(function (m) { return inner.LINEAR.indexOf(m.kind) >= 0 && m.stack; })
    };
    mechanisms.forEach(function (mechanism, part) {
      mechanism.keeps.forEach(function (kept) {
        step.keeps.push({ part: part, kept: kept, spots: numbered(inner.spotsOf(kept, inv, plan.sites[part], plan.common)) });
      });
    });
    var own = constants().positions.some(has), relative = sum(modules.map(function (m) { return m.role === "embed.relative" ? m.parameters[0][1][0] : 0; }));
    var there = [of("relative_keys"), of("relative_queries")];
    /* The roles of the maps that make keys and queries of relative positions, with the number of positions. */
    step.table = (own ? constants().positions : ["attn.k", "attn.q"]).map(function (role, i) { return [role, there[i] ? relative : 0]; });
    step.relative = Math.max(step.table[0][1], step.table[1][1]);
    /* How many of them what has one of these roles, or is at a spot, reads besides the tokens. */
    step.read = function (roles) { return sum(step.table.map(function (made) { return roles.indexOf(made[0]) >= 0 ? made[1] : 0; })); };
    step.positions = function (spot) { return step.relative ? step.read(rolesAt(spot, "end")) : 0; };
    step.convolved = has("conv");
    step.image = step.pixels > 0 && !step.frames;
    step.summed = flow.scaled || has("embed.position");
    step.dropout = Object.keys(flow.dropout).filter(function (place) { return Number(run(flow.dropout[place], model.config)) > 0; });
    step.changed = step.normed || step.summed || step.dropout.indexOf("embedding") >= 0;
    step.largest = step.linears.reduce(function (n, m) { return Math.max(n, m.d_in * m.d_out); }, 0);
    return step;
  }
  /* What a layer is: made of experts, without a norm. */
  function kindsOf(stack, n) { return new Set(["experts", "unnormed"].filter(function (kind) { return stack[kind === "experts" ? "sparse" : kind].indexOf(n) >= 0; })); }
  function stackOf(inv, name) {
    var model = inv.backbone, dims = merge(model.dims, model.own[name]), modules = inv.modules.filter(function (m) { return m.stack === name; }), norms = {}, widths = {};
    function layersWith(role) { return [].concat.apply([], modules.filter(function (m) { return m.role === role; }).map(function (m) { return inner.layersOf(m.layers); })); }
    var normed = layersWith("norm.attn"), sparse = Array.from(new Set(layersWith("moe.router"))), experts = 0, unnormed = [];
    for (var n = 0; normed.length && n < model.layers[name]; n++) if (normed.indexOf(n) < 0) unnormed.push(n);
    function has(role) { return modules.some(function (m) { return m.role === role; }); }
    modules.forEach(function (m) {
      if (m.kind === "norm") norms[m.role] = m.d_out;
      if (inner.LINEAR.indexOf(m.kind) >= 0) widths[m.role] = m.d_out;
      if (m.role === "moe.router") m.parameters.forEach(function (p) { experts = Math.max(experts, p[1][0]); });
    });
    return {
      name: name, layers: model.layers[name], d: dims.d_model, d_attn: dims.d_attn, d_kv: dims.d_kv, d_ff: dims.d_ff, heads: dims.n_heads,
      attentions: inv.blocks.filter(function (b) { return b.stack === name && b.kind === "attention"; }).map(function (b) { return b.name; }),
      gated: has("mlp.gate") || has("mlp.gate_up"), fused: has("attn.qkv"), norms: norms, widths: widths,
      sparse: sparse, experts: experts, unnormed: unnormed,
      causal: starts(name, "decoder")
    };
  }
  /* The roles within one that may be fused. */
  function plain(role) {
    var cut = role.indexOf("."), block = role.slice(0, cut), letters = role.slice(cut + 1).split("");
    if ((block === "attn" || block === "xattn") && letters.every(function (l) { return "qkvo".indexOf(l) >= 0; })) return letters.map(function (l) { return block + "." + l; });
    return role === "mlp.gate_up" ? ["mlp.gate", "mlp.up"] : [role];
  }
  function isSite(spot) { return given(spot.source.module); }
  function isBlock(spot) { return given(spot.source.name); }
  function isModule(spot) { return given(spot.source.path); }
  /* Where a tensor at a spot comes in. */
  function rolesAt(spot, enters) {
    return isSite(spot) ? plain(spot.source.module.role) : isModule(spot) ? plain(spot.role) : [spot.role + ":" + enters];
  }

  /* What the method does in each layer: for each stack the runs of equal layers; "" has what stands outside of stacks. */
  function layersFor(step, rows, extras) {
    var key = rows.map(function (r) { return r.spot.number; }).concat(extras.map(function (e) { return e.spot.number + ":" + e.keys; })).join();
    if (step.laid.size > 50) step.laid.clear();
    if (!step.laid.has(key)) step.laid.set(key, walked(step, rows, extras));
    return step.laid.get(key);
  }
  function walked(step, rows, extras) {
    var found = new Map();
    function noteAt(stack, layers, kind, words) {
      layers.forEach(function (n) {
        var key = stack + "|" + n;
        if (!found.has(key)) found.set(key, KINDS.map(function () { return new Set(); }));
        words.forEach(function (word) { found.get(key)[kind].add(word); });
      });
    }
    function note(spot, kind, words) {
      var layers = inner.layersOf(spot.layers);
      noteAt(spot.stack, layers.length ? layers : [-1], kind, words);
    }
    rows.forEach(function (row) {
      var tensor = row.piece.tensor, roles = rolesAt(row.spot, "end");
      if (!tensor.selecting && step.mechanisms[row.piece.part].reads.indexOf(tensor.name) >= 0) note(row.spot, 3, roles);
      if (tensor.trained === false || (step.mechanisms[row.piece.part].beside && isModule(row.spot) && !tensor.selecting)) return;
      note(row.spot, 0, roles);
      if (tensor.selecting && row.spot.suffix === "weight") note(row.spot, 1, roles);
    });
    extras.forEach(function (extra) {
      var kept = step.keeps[extra.record].kept;
      note(extra.spot, 0, rolesAt(extra.spot, extra.keys ? "attention" : kept.enters));
      if (kept.input && kept.per !== "layer") note(extra.spot, 2, isBlock(extra.spot) ? [constants().reads[extra.spot.role]] : rolesAt(extra.spot, "end"));
      if (extra.keys) note(extra.spot, 4, [extra.spot.role + "|" + extra.record + "|" + extra.keys]);
    });
    step.stacks.forEach(function (stack) {
      noteAt(stack.name, stack.sparse, 5, ["experts"]);
      noteAt(stack.name, stack.unnormed, 5, ["unnormed"]);
    });
    /* Besides what it is made of, `more`: how many keys its attentions see more. */
    function layerOf(sets) {
      var layer = { key: "" };
      KINDS.forEach(function (kind, i) {
        layer[kind] = sets ? sets[i] : new Set();
        layer.key += Array.from(layer[kind]).sort().join() + "|";
      });
      layer.more = {};
      layer.keys.forEach(function (key) { var parts = key.split("|"); layer.more[parts[0]] = (layer.more[parts[0]] || 0) + Number(parts[2]); });
      return layer;
    }
    var layers = { "": [[layerOf(found.get(OUTSIDE)), 1]] };
    step.stacks.forEach(function (stack) {
      var runs = layers[stack.name] = [];
      for (var n = 0; n < stack.layers; n++) {
        var layer = layerOf(found.get(stack.name + "|" + n)), last = runs[runs.length - 1];
        if (last && last[0].key === layer.key) last[1]++; else runs.push([layer, 1]);
      }
    });
    return layers;
  }

  /* ---- one question ---- */

  /* Hyperparameters, those of each part, and rows: the same while batch and length are tried. */
  function rowsFor(step, chosen) {
    var key = JSON.stringify(chosen), plan = step.plan;
    if (step.last && step.last.key === key) return step.last;
    var values = inner.valuesFor(plan, chosen), args = inner.argumentsOf(plan, values), rows = [];
    plan.tensors.forEach(function (piece) { rows.push.apply(rows, inner.placed(piece, args[piece.part])); });
    return step.last = { key: key, values: values, args: args, rows: rows };
  }
  function answer(step, chosen, setting) {
    if (!step.flow.sdpa) setting = merge(setting, { attention: "eager" });
    if (setting.checkpointing && !step.flow.checkpointing) fail("checkpointing: transformers does not have it for " + step.plan.inv.backbone.family.name + "; expected none", "checkpointing");
    var plan = step.plan, inv = plan.inv, flow = step.flow, T = constants(), sizes = T.dtypes[setting.dtype], w = sizes[0], w_t = sizes[1];
    var batch = setting.batch, seq = setting.seq, checkpointing = setting.checkpointing, eager = setting.attention === "eager", optimizer = T.optimizers[setting.optimizer];
    var found = rowsFor(step, chosen), values = found.values, args = found.args, rows = found.rows;
    var positions = positions_(), limit = plan.common.max_positions, prompted = positions > 0, lengths = {};
    if (step.image && seq !== limit) fail("seq: found " + inner.grouped(seq) + "; " + inv.backbone.name + " sees " + inner.grouped(limit) + " tokens in an image", "seq");
    if (limit && !step.image && seq + positions > limit) fail("seq: found " + inner.grouped(seq) + "; " + inv.backbone.name + " has " + inner.grouped(limit) + " positions", "seq");
    step.stacks.forEach(function (stack, i) { lengths[stack.name] = !i && step.frames ? step.frames : seq + (i ? 0 : positions); });
    var everywhere = Math.max.apply(null, Object.keys(lengths).map(function (name) { return lengths[name]; }));
    var first = step.stacks[0], last = step.stacks[step.stacks.length - 1], source_length = lengths[first.name];
    var reached = new Set();    // roles whose modules read, in the layer at hand, what carries a gradient
    var all = kept_(), held = total(all.filter(function (e) { return e.held; }), "total"), extras = all.filter(function (e) { return !e.held; });
    var layers = layersFor(step, rows, extras), outside = layers[""][0][0], tableTrained = outside.trained.has("embed.relative") || outside.trained.has("norm.relative");

    function dropped(where) { return step.dropout.indexOf(where) >= 0; }
    /* Sequence positions that the method's parts add together. */
    function positions_() {
      return sum(plan.method.parts.map(function (part, i) {
        var formula = step.mechanisms[i].positions;
        return given(formula) ? Math.trunc(run(formula, merge(plan.common, args[i]))) : 0;
      }));
    }
    /* What the method keeps of its own. */
    function kept_() {
      var out = [];
      step.keeps.forEach(function (record, index) {
        var kept = record.kept, size = given(kept.bits) ? kept.bits / 8 : w, own = args[record.part];
        record.spots.forEach(function (spot) {
          var length = spot.stack in lengths ? lengths[spot.stack] : everywhere, names = inner.atop(inner.atop(spot.dims, own), { tokens: batch * length + step.positions(spot), seq: length, outputs: step.vocab, post_norm: Number(step.order === "post") });
          function multiplied(spot, formula) {
            var products = number(formula);
            return products > inner.EXACT ? fail("memory: this step takes more than 2**53 operations in one place") : BigInt(spot.n) * BigInt(products);
          }
          function number(formula) { return given(formula) ? Math.trunc(run(formula, names)) : 0; }
          if (kept.guard !== null && !run(kept.guard, names)) return;
          var one = Math.ceil(run(kept.count, names) * size);
          if (kept.output && isSite(spot)) one += names.tokens * spot.source.module.d_out * w;
          if (kept.input && kept.per === "layer" && !checkpointing) one += names.tokens * names.d_model * w;   // which keeps it anyway
          if (given(kept.layers)) one += beside(number(kept.layers));
          out.push({
            record: index, spot: spot, total: spot.n * one, layer: inner.layersOf(spot.layers).length ? one : 0,
            temporary: number(kept.temporary) * w, keys: number(kept.keys), held: kept.held, products: multiplied(spot, kept.products), frozen_products: multiplied(spot, kept.frozen_products)
          });
        });
      });
      return out;
    }
    /* Bytes that so many layers like those of the last stack keep, trained as a whole, with the norm behind them. */
    function beside(count) {
      var roles = new Set(), kept = 0, live = false, empty = new Set();
      inv.modules.forEach(function (m) { if (m.stack === last.name) plain(m.role).forEach(function (role) { roles.add(role); }); });
      for (var i = 0; i < count; i++) {
        var halves = halvesOf(last, { trained: roles, weights: roles, inputs: empty, reads: empty, kinds: kindsOf(last, i), more: {} }, live, false);
        live = halves[halves.length - 1].live;
        kept += total(halves, "kept");
      }
      return kept + (step.order === "post" ? 0 : norm(last.d, batch * lengths[last.name], live, true));
    }
    function learns(row) { return row.piece.tensor.trained !== false && (row.trained > 0 || row.piece.tensor.selecting); }

    /* Bytes that a norm of that many tokens keeps; unless it is `stale`, its input is not kept yet. */
    function norm(d, tokens, live, gain, stale) {
      var n = tokens * d, kind = flow.norm, copy = 4 * n * (!stale || w < 4);
      if (!(live || gain)) return 0;
      if (kind === "kernel") return (n * !stale + 2 * tokens) * w;
      if (kind === "float32_kernel") return copy + 8 * tokens;
      var kept = gain ? n * (kind === "float32_gain" || kind === "centered" ? 4 : kind === "mixed" ? w_t : w) : 0;
      if (live) kept += (kind === "centered" ? 8 * n : copy) + 4 * tokens + (kind === "mixed" && w < 4 ? n * w : 0);
      return kept;
    }
    /* The bytes kept where half a layer ends, and whether a gradient flows out of it. */
    function tailOf(stack, block, n, live, added, trained) {
      var kept = added && (dropped("residual") || (block === "mlp" && dropped("output"))) ? n * stack.d : 0, role = step.order === "out" ? "norm." + block : "norm." + block + "_out";
      if (trained.has("scale." + block)) {
        kept += n * stack.d * w;
        added = true;
      }
      if (role in stack.norms) {
        kept += norm(stack.d, n, added, trained.has(role));
        added = added || trained.has(role);
      }
      live = live || added;
      if (step.order === "post") {
        var gain = trained.has("norm." + block);
        kept += norm(stack.d, n, live, gain);
        live = live || gain;
      }
      return { kept: kept, live: live };
    }
    /* A half of a layer: {kept, tail, temporary, live}, as in Python's Half; live is whether a gradient flows out of it. */
    function attention(stack, name, layer, live, source) {
      var cross = name === "xattn", length = lengths[stack.name], n = batch * length, more = layer.more[name] || 0;
      var n_k = batch * (cross ? source_length : length) + batch * more;
      var trained = layer.trained, pre = step.order === "pre", gain = trained.has("norm." + name);
      function keeps(letters) { return any(layer.weights, name, letters) || any(layer.inputs, name, letters); }
      var kept = pre && !layer.kinds.has("unnormed") ? norm(stack.d, n, live, gain) : 0, read = live || (pre && gain) || trained.has(name + ":inputs"), into = cross ? source : read;
      var q = read || trained.has(name + ".q"), extra = trained.has(name + ":attention");
      var k = into || extra || trained.has(name + ".k"), v = into || extra || trained.has(name + ".v");
      if (keeps(cross ? ["q"] : ["q", "k", "v"])) kept += checkpointing && !pre && !cross ? 0 : n * stack.d * w;
      if ("norm.q" in stack.norms && !cross) {
        [["norm.q", stack.d_attn, q], ["norm.k", stack.d_kv, k]].forEach(function (each) {
          var width = stack.norms[each[0]];
          kept += norm(width, floor(n * each[1], width), each[2], trained.has(each[0]));
        });
        q = q || trained.has("norm.q");
        k = k || trained.has("norm.k");
      }
      var cells = floor(n, batch) * n_k * stack.heads, out = n * stack.d_attn * w, scores = q || k, written = eager || !step.fused;
      if (step.relative) {
        var relative = relatively(stack, layer, q, k);
        kept += relative.kept;
        scores = relative.scores;
      }
      var wide = written || step.repeated ? stack.d_attn : stack.d_kv, temporary = 0;
      if (eager) {
        var half = flow.softmax === "float32" ? 4 : w;
        kept += n_k * wide * w * scores + (n * stack.d_attn * k + n_k * wide * q) * (flow.scores === "float32" ? 4 : w);
        kept += cells * half * scores + (scores && step.softcap ? cells * w : 0);
        if (dropped("attention")) kept += cells * scores + cells * w * v;
        else if (v) kept += cells * w * (!scores || half !== w);
        temporary = scores ? cells * (w + half) : 0;
        if (step.relative && scores) temporary = Math.max(temporary, n * stack.heads * step.relative * w - cells - n_k * stack.d_attn * w);
      } else if (written) {
        kept += 4 * (n * stack.d_attn * k + n_k * wide * (q + scores) + cells * (scores || v));
        temporary = scores ? 8 * cells : 0;
      } else if (scores || v) {
        kept += 2 * out + 2 * n_k * wide * w + T.LOGSUMEXP * batch * stack.heads * length;
        if (stack.fused && flow.rotary && v && !step.repeated) kept += out + n_k * wide * w;
        if (step.heads_first && keeps(["o"])) kept += out;
        if (more && !cross && stack.causal) kept += length * floor(n_k, batch) * w;
        if (flow.bias && stack.causal) kept += floor(cells, batch) * w;
      }
      if (keeps(["o"]) && (written || !(scores || v))) kept += out;
      [["q", read], ["k", into], ["v", into], ["o", scores || v]].forEach(function (pair) { if (pair[1]) reached.add(name + "." + pair[0]); });
      var end = tailOf(stack, name, n, live, scores || v || trained.has(name + ".o") || trained.has(name + ":end"), trained);
      return { kept: kept + end.kept, tail: end.kept, temporary: temporary, live: end.live };
    }
    /* What scores by relative position keep besides, and whether a gradient flows into the scores: content's queries meet
       the positions' keys, and content's keys their queries. */
    function relatively(stack, layer, q, k) {
      var length = lengths[stack.name], n = batch * length * stack.d_attn * w, kept = 0, scores = q || k, made = [], read = false;
      step.table.forEach(function (one, i) {
        var role = one[0], positions = one[1], content = i ? k : q;
        made.push(positions > 0 && (tableTrained || layer.trained.has(role)));
        kept += batch * positions * stack.d_attn * w * content;
        if (positions && (content || made[i])) kept += batch * stack.heads * length * positions * w + 8 * length * length;
        read = read || layer.weights.has(role) || layer.inputs.has(role);
      });
      scores = scores || made[0] || made[1];
      kept += n * (made[0] && !k) + n * made[1];
      if (read) kept += step.relative * stack.d * w;
      kept += step.relative * stack.d * (tableTrained && dropped("residual"));
      return { kept: kept + batch * length * length * scores, scores: scores };
    }
    /* Bytes alive when the last of an attention's scores by relative position are gathered in the forward pass. */
    function gathering(stack) {
      var length = lengths[stack.name], cells = batch * stack.heads * length * length;
      var alive = 4 * batch * length * stack.d_attn * w + 5 * cells * w + 2 * step.relative * stack.d * w + (8 + 8 * batch + 16) * length * length;
      return alive + sum(step.table.map(function (made) { return batch * made[1] * (stack.d_attn + stack.heads * length) * w; }));
    }
    function feedForward(stack, layer, live, before) {
      var trained = layer.trained, n = batch * lengths[stack.name], pre = step.order === "pre", parallel = step.parallel;
      var wide = n * (stack.experts && "mlp.up" in stack.widths ? stack.widths["mlp.up"] : stack.d_ff);
      var shared = parallel && !("norm.mlp" in stack.norms), gain = trained.has(shared ? "norm.attn" : "norm.mlp"), state = parallel ? before : live;
      function keepsOf(block, names) { return any(layer.weights, block, names) || any(layer.inputs, block, names); }
      function keeps(names) { return keepsOf("mlp", names); }
      var kept = pre && !shared ? norm(stack.d, n, state, gain, parallel && (state || trained.has("norm.attn"))) : 0;
      var read = state || (pre && gain) || trained.has("mlp:inputs");
      if ((keeps(["up", "gate"]) || keepsOf("moe", ["router", "shared.gate", "shared.up"])) && !(shared && keepsOf("attn", ["q", "k", "v"]))) kept += n * stack.d * w;
      if (layer.kinds.has("experts")) {
        var of = experts(stack, layer, read), tail = tailOf(stack, "mlp", n, live, of.live, trained);
        return { kept: kept + of.kept + tail.kept, tail: tail.kept, temporary: of.temporary, live: tail.live };
      }
      var up = read || trained.has("mlp.up"), gate = read || trained.has("mlp.gate"), activated = stack.gated ? gate : up;
      kept += step.activation * wide * w * activated;
      if (stack.gated) kept += wide * w * (up + gate);
      var inside = up || gate, drop = dropped("mlp");
      [["up", read], ["gate", read], ["down", inside]].forEach(function (pair) { if (pair[1]) reached.add("mlp." + pair[0]); });
      kept += wide * (inside && drop);
      var same = step.keeps_output && !stack.gated && !drop && inside, down = keeps(["down"]);
      kept += wide * w * (down && !same);
      var end = tailOf(stack, "mlp", n, live, inside || trained.has("mlp.down") || trained.has("mlp:end"), trained);
      var gone = 0, temporary;
      if (layer.weights.has("mlp.down") && !stack.gated) temporary = wide * w + 2 * n * stack.d * w + stack.d * stack.d_ff * w_t;
      else {
        var several = stack.gated || step.activation > 1, tensors = several || (layer.reads.has("mlp.down") && !down) ? 3 : 2;
        tensors += step.activation_needs;
        if (several && down) gone = wide * w;
        temporary = inside ? tensors * wide * w + n * stack.d * w : 0;
      }
      return { kept: kept + end.kept, tail: end.kept + gone, temporary: temporary, live: end.live };
    }

    /* A feed-forward of experts; read: whether a gradient flows into it. */
    function experts(stack, layer, read) {
      var trained = layer.trained, n = batch * lengths[stack.name], sorted = n * step.experts, one = sorted * stack.d * w, wide = sorted * stack.d_ff * w;
      var gates = read || trained.has("moe.gate_up"), routed = read || trained.has("moe.router"), out = gates || routed || trained.has("moe.down");
      var kept = one * trained.has("moe.gate_up") + wide * ((2 + step.activation) * gates + trained.has("moe.down"));
      if (trained.has("moe.router") && flow.router === "float32" && w < 4) kept += 4 * n * stack.d;
      if (routed) kept += 4 * n * (stack.experts + 1) + 12 * sorted + one;
      kept += out * 28 * sorted;
      if ("moe.shared.up" in stack.widths) {
        var up = read || trained.has("moe.shared.up"), gate = read || trained.has("moe.shared.gate");
        kept += n * stack.widths["moe.shared.up"] * w * (step.activation * gate + up + gate + trained.has("moe.shared.down"));
        if ("moe.shared.router" in stack.widths && (read || trained.has("moe.shared.router"))) kept += n * (stack.d + 1) * w;
      }
      var state = n * stack.d, products = 3 * wide + state * w - one * routed;
      return { kept: kept, temporary: out ? Math.max(products, (sorted * stack.d + state) * (4 + w)) : 0, live: out };
    }

    /* ---- the model, layer by layer ---- */

    function embeds() { return Array.from(outside.trained).some(function (role) { return starts(role, "embed.") || role === ":embeddings"; }); }
    /* The halves of a layer in order. */
    function halvesOf(stack, layer, live, source) {
      var before = live = live || layer.trained.has("layer:inputs");
      var halves = stack.attentions.map(function (name) { var half = attention(stack, name, layer, live, source); live = half.live; return half; });
      return halves.concat([feedForward(stack, layer, live, before)]);
    }
    function walk() {
      var found = { layers: 0, entry: 0, forward: 0, states: 0, ends: 0, final: 0, first: [], last: [], into: {}, through: {}, reached: {}, before: [] }, source = false;
      (step.side ? [] : step.stacks).forEach(function (stack, i) {
        var n = batch * lengths[stack.name], live = embeds() || (prompted && i === 0) || (checkpointing && !step.pixels), crossing = false, reads = new Set(), ending = [];
        var entry = entryOf(stack, n, live) + (checkpointing ? argumentsOf(stack) : 0);
        live = live || outside.trained.has("norm.embed");
        entry += convolved(stack, n, live);
        found.into[stack.name] = found.through[stack.name] = 0;
        layers[stack.name].forEach(function (run) {
          var layer = run[0], count = run[1] * step.repeats;
          (count > 1 ? [1, count - 1] : [1]).forEach(function (times) {   // a gradient may begin in the first of them
            found.into[stack.name] += times * live;
            reached.clear();
            var halves = halvesOf(stack, layer, live, source);
            live = halves[halves.length - 1].live || layer.trained.has("layer:end") || layer.trained.has("mlp:norm");
            found.through[stack.name] += times * live;
            reached.forEach(function (role) { var key = stack.name + "|" + role; found.reached[key] = (found.reached[key] || 0) + times; });
            found.layers += times * (checkpointing ? n * stack.d * w : total(halves, "kept"));
            if (!live) return;
            if (!found.first.length) found.first = halves;
            found.last = ending = halves;
          });
          reads = new Set([].concat(Array.from(layer.weights), Array.from(layer.inputs)));
          crossing = crossing || any(reads, "xattn", ["k", "v"]);
        });
        if (crossing && !checkpointing) entry += batch * source_length * first.d * w;
        if (flow.bias && !(eager || checkpointing || stack.causal)) entry += stack.heads * Math.pow(lengths[stack.name], 2) * w;
        if (flow.rotary && found.through[stack.name]) entry += 2 * (flow.windowed ? 2 : 1) * lengths[stack.name] * floor(stack.d_attn, stack.heads) * w;
        found.entry += entry;
        if (!checkpointing) {
          var free = !flow.states ? [] : layers[stack.name].map(function (run) { return any(run[0].weights, "attn", ["q", "k", "v"]) || any(run[0].inputs, "attn", ["q", "k", "v"]) ? 0 : run[1]; });
          found.states += sum(free) * n * stack.d * w;
          found.forward = passing(stack, reads, live) + found.states;
        }
        var gain = outside.trained.has("norm.final");
        if (step.order !== "post") found.final = norm(stack.d, n, live, gain);
        if ((live || gain) && dropped("final")) found.final += n * stack.d;
        if (ending.length) found.before.push({ name: stack.name, halves: ending, alive: found.layers + found.entry + found.ends });
        found.ends += found.final;
        source = live || gain;
      });
      if (step.side) found.forward = passing(last, new Set(), false);
      return found;
    }
    /* Bytes that a stack's last layer needs for a while in the forward pass, where norms stand behind the sums. */
    function passing(stack, reads, live) {
      if (step.order !== "post") return 0;
      var states = 5 - 2 * any(reads, "attn", ["q", "k", "v"]) - reads.has("mlp.up"), wide = !reads.has("mlp.down") + (live ? 0 : step.activation);
      return batch * lengths[stack.name] * w * (states * stack.d + wide * stack.d_ff);
    }
    /* Bytes of what all checkpointed layers of a stack are called with. */
    function argumentsOf(stack) {
      var length = lengths[stack.name], kept = eager && (stack.causal || flow.windowed) ? batch * length * length * w : 0;
      kept += flow.bias ? stack.heads * length * length * w : 0;
      if (step.relative) kept += step.relative * stack.d * w + 8 * (batch + 1) * length * length;
      if (stack.attentions.indexOf("xattn") >= 0) kept += batch * source_length * stack.d * w + (flow.bias ? stack.heads * length * source_length * w : 0);
      return kept;
    }
    /* Bytes kept where a stack begins. */
    function entryOf(stack, n, live) {
      var kept = 0, d = plan.common.d_embed, prompts = prompted && stack === first;
      var shifted = layers[stack.name][0][0].trained.has("layer:inputs");
      if (checkpointing && !step.pixels && !embeds() && (step.changed || prompts || shifted)) kept += batch * seq * d * w;
      if (step.normed) {
        var gain = outside.trained.has("norm.embed");
        kept += norm(d, n, live, gain, kept > 0 && !step.summed);
        live = live || gain;
      }
      if (outside.weights.has("embed.audio") && stack === first) kept += 5 * n * d * w;
      if (outside.weights.has("embed.proj")) kept += n * d * w;
      return kept + n * d * (live && dropped("embedding"));
    }

    /* Bytes kept where a convolution of what enters the first layer is added to what leaves it. */
    function convolved(stack, n, live) {
      if (!step.convolved) return 0;
      live = live || outside.trained.has("conv");
      var layer = layers[stack.name][0][0], halves = halvesOf(stack, layer, live, false), out = halves[halves.length - 1].live || layer.trained.has("layer:end") || layer.trained.has("mlp:norm");
      return n * stack.d * (2 * w + dropped("residual")) * live + norm(stack.d, n, live || out, outside.trained.has("norm.conv"));
    }

    /* ---- the step ---- */

    function memory() {
      var n = batch * seq, d = last.d, head = inv.head, numbers = trained_(), trained = numbers.own + numbers.added + head;
      var weights = (inv.total - numbers.own - head) * w + trained * w_t + numbers.frozen * w + requantised() + step.buffers;
      var gradients = trained * w_t, states = statesOf(trained), paged = optimizer.paged ? states : 0;
      if (optimizer.paged) states = 0;

      var found = walk(), loss = n * step.vocab * (flow.loss === "float32" || setting.dtype === "mixed" ? 4 : w), logits = n * step.vocab * step.logits * w;
      if (headWeight || (head && inv.backbone.family.kind === "decoder")) {
        found.final += n * d * w;
        found.ends += n * d * w;
      }
      if (inv.computed === "seq_cls" && !dropped("head") && inv.modules.some(function (m) { return m.role === flow.first_token && !m.stack && (m.head || outside.weights.has(m.role)); })) {
        found.final += n * d * w;
        found.ends += n * d * w;
      }
      var around = 0, inside = 0, beyond = 0, n_layers = total(step.stacks, "layers");
      extras.forEach(function (e) {
        if (e.layer) inside += insideOf(e, found); else around += e.total;
        if (step.keeps[e.record].kept.per === "layer") beyond += insideOf(e, found);    // checkpoints do not reach it
      });
      weights += held;
      inside *= step.repeats;
      var one_inside = floor(inside, n_layers * step.repeats), inputs = step.pixels ? batch * (step.pixels * w + T.LABEL_BYTES * (step.vocab ? seq : 1)) : n * T.TOKEN_BYTES, copies = setting.dtype === "mixed" ? copied() * w : 0;
      var packed = setting.quantized || plan.method.parts.some(function (part) { return part.base.length; });
      var dequantised = packed ? step.largest * w : 0, fixed = inputs + around;
      var kept = fixed + copies + found.layers + found.entry + found.ends + loss + logits + (checkpointing && !step.side ? beyond : inside);

      var aside = step.side ? one_inside : 0;   // of the last layer, after which it comes
      var moments = [["backward", 0, kept, 2 * loss], ["forward", 0, kept - loss - logits - aside, found.forward]];
      if (step.relative) moments.push(["forward", 0, kept - loss - logits - found.ends - (checkpointing ? 0 : total(found.last, "kept")), found.states + gathering(last)]);
      var there = inLayers(), one_layer = floor(w_t * there.inside, n_layers), one_mlp = floor(w_t * there.mlp, n_layers);
      /* Through one layer, with `held` gradients there already. */
      function back(halves, held, base) {
        for (var i = halves.length - 1; i >= 0; i--) {
          var end = i === halves.length - 1, here = 0;
          extras.forEach(function (e) { if (starts(e.spot.role, "mlp") === end) here = Math.max(here, e.temporary); });
          moments.push(["backward", held, base - halves[i].tail, Math.max(halves[i].temporary, here) + dequantised]);
          base -= halves[i].kept;
          held += end ? one_mlp : 0;
        }
      }
      var heads = w_t * (head + (headWeight ? step.vocab * d : 0)), again = checkpointing ? total(found.last, "kept") + one_inside - floor(beyond, n_layers) : 0;
      back(found.last, heads, kept - loss - logits - found.final + again);
      if (step.repeats > 1) {   // the gradients of a layer's last run are there when that before begins, and a matrix has two for a while
        var twice = step.stacks.some(function (stack) { return layers[stack.name].some(function (run) { return run[0].weights.size; }); });
        back(found.last, heads + one_layer, kept - loss - logits - found.final - (again ? 0 : total(found.last, "kept") + one_inside) + step.largest * w_t * twice);
      }
      for (var later = heads, s = found.before.length - 2; s >= 0; s--) {   // the other stack is through, and what it embeds comes
        var stack = found.before[s], alive = fixed + stack.alive;
        later += w_t * inLayers(found.before[s + 1].name).inside;
        moments.push(["backward", later, alive, w_t * step.vocab * d * outside.weights.has("embed.token")]);
        back(stack.halves, later, alive + (checkpointing ? total(stack.halves, "kept") : 0));
      }
      var left = fixed + floor(copies, n_layers) + found.entry + total(found.first, "kept") + one_inside;
      left += checkpointing ? floor(found.layers, n_layers * step.repeats) : 0;
      back(found.first, gradients - w_t * embedded() - one_layer, left);
      moments.push(["backward", gradients, fixed, n * d * w]);
      moments.push(["optimizer", gradients, inputs, !optimizer.moments ? 0 : optimizer.foreach ? gradients : 2 * numbers.largest * w_t]);
      function size(moment) { return moment[1] + moment[2] + moment[3]; }
      var most = moments.reduce(function (best, moment) { return size(moment) > size(best) ? moment : best; });
      var peak = weights + states + size(most);
      if (Math.max(peak, kept, paged) > inner.EXACT) fail("memory: this step takes more than 2**53 bytes");
      var flops = operations(found);
      return {
        method: plan.id, task: inv.task, setting: setting, hyperparameters: values, targets: plan.targets,
        peak: peak, phase: most[0], weights: weights, gradients: most[1], optimizer_states: states, activations: most[2], temporaries: most[3],
        kept: kept, paged: paged, gpu_extra_estimate: T.CONTEXT + T.WORKSPACE + Math.trunc(T.FRAGMENTATION * (peak - weights)), trained: trained,
        forward_flops: flops[0], step_flops: flops[1]
      };
    }
    var headWeight = outside.weights.has("head.lm") || (step.tied && outside.weights.has("embed.token"));

    /* Bytes of what a method keeps in all layers together. */
    function insideOf(extra, found) {
      if (!step.keeps[extra.record].kept.live || step.side) return extra.total;
      var stack = step.stacks.filter(function (s) { return s.name === extra.spot.stack; })[0];
      if (!stack) return extra.total;
      var start = stack.layers - (found.reached[stack.name + "|" + (isBlock(extra.spot) ? T.ends[extra.spot.role] : rolesAt(extra.spot, "end")[0])] || 0);
      return extra.layer * inner.layersOf(extra.spot.layers).filter(function (n) { return n >= start; }).length;
    }
    /* Numbers trained inside of layers (of a stack), and of these those in feed-forward blocks. */
    function inLayers(stack) {
      var inside = 0, mlp = 0;
      rows.filter(learns).forEach(function (row) {
        if (stack && row.spot.stack !== stack) return;
        var role = row.spot.role;
        if (inner.layersOf(row.spot.layers).length) inside += row.count * row.n;
        if (starts(role, "mlp") || starts(role, "norm.mlp")) mlp += row.count * row.n;
      });
      return { inside: inside, mlp: mlp };
    }
    /* Numbers of trained embeddings whose gradients come last. */
    function embedded() {
      return total(inv.modules.filter(function (m) {
        return starts(m.role, "embed.") && outside.trained.has(m.role) && !(step.tied && m.role === "embed.token");
      }), "numel");
    }
    /* Numbers trained of the backbone and added, those of the largest such tensor, and those added but frozen. */
    function trained_() {
      var found = { own: 0, added: 0, largest: 0, frozen: 0 };
      rows.forEach(function (row) {
        var tensor = row.piece.tensor, numbers = row.count * row.n;
        if (!learns(row)) { if (!tensor.selecting && tensor.served !== "absent") found.frozen += numbers; return; }
        if (tensor.selecting) found.own += numbers; else found.added += numbers;
        if (!given(tensor.count) || isModule(row.spot)) found.largest = Math.max(found.largest, row.count);
      });
      return found;
    }
    /* Numbers trained that products of matrices read, of which autocast makes copies in half precision. */
    function copied() {
      return inv.head + sum(rows.filter(learns).map(function (row) {
        return !isModule(row.spot) || inner.LINEAR.indexOf(row.spot.source.kind) >= 0 ? row.count * row.n : 0;
      }));
    }
    /* By how many bytes the weights grow (or shrink, below zero) as they are held. */
    function requantised() {
      var grown = inner.baseBytes(plan, values, w) - inv.backbone.parameters * w, as = setting.quantized;
      if (!given(as)) return grown;
      var roles = [].concat.apply([], step.linears.map(function (m) { return plain(m.role); }));
      Object.keys(layers).forEach(function (name) {
        layers[name].forEach(function (run) {
          if (roles.some(function (role) { return run[0].weights.has(role); })) fail(plan.method.name + " trains weights that are to be held in " + as, "quantized");
        });
      });
      step.linears.forEach(function (m) {
        var numel = m.d_in * m.d_out, scales = as === "nf4" ? ceil(numel, T.BLOCK) : m.d_out;
        grown += m.n * (ceil(numel * T.quantized[as], 8) + 4 * scales - numel * w);
      });
      return grown;
    }
    /* Bytes of the optimizer's states. */
    function statesOf(trained) {
      if (optimizer.factored) return factored();
      return optimizer.moments * (optimizer.eight_bit ? trained + 4 * ceil(trained, T.STATE_BLOCK) : trained * w_t);
    }
    /* Of each matrix its rows and columns, of each vector itself, in float32. */
    function factored() {
      return 4 * (inv.head + sum(rows.filter(learns).map(function (row) {
        var shape = row.shape;
        return row.n * (shape && shape.length >= 2 ? floor(row.count, shape[shape.length - 1]) + floor(row.count, shape[shape.length - 2]) : row.count);
      })));
    }

    /* Of a forward pass and of a step: products of matrices, two operations for each pair. */
    function operations(found) {
      function times() { return [].reduce.call(arguments, function (n, x) { return n * BigInt(x); }, 1n); }
      var weights = new Set(), head = times(2, batch, seq, last.d, step.vocab), backward = head * (headWeight ? 2n : 1n), again = 0n, images = 0n;
      Object.keys(layers).forEach(function (name) { layers[name].forEach(function (run) { run[0].weights.forEach(function (role) { weights.add(role); }); }); });
      extras.forEach(function (extra) {
        var kept = step.keeps[extra.record].kept;
        if (kept.per === "weight" && kept.input) rolesAt(extra.spot, "end").forEach(function (role) { weights.add(role); });
      });
      inv.modules.forEach(function (m) {
        if (m.role !== "embed.patch") return;
        var one = times(2, batch, step.pixels, m.d_out);
        images += one;
        if (weights.has(m.role)) backward += one;
      });
      inv.modules.filter(function (m) { return m.role === "embed.audio"; }).forEach(function (m, i) {
        var one = times(2, batch, step.frames * (i ? 1 : 2)) * times.apply(null, m.parameters[0][1]);
        images += one;
        if (weights.has(m.role)) backward += one * BigInt(1 + i);
      });
      inv.modules.filter(function (m) { return m.role === "conv"; }).forEach(function (m) {
        var one = times(2, batch, source_length) * times.apply(null, m.parameters[0][1]), through = checkpointing || found.into[first.name] === first.layers;
        images += one;
        backward += one * BigInt(through + weights.has(m.role));
      });
      step.linears.forEach(function (m) {
        var source = m.role === "xattn.k" || m.role === "xattn.v" || m.role === "xattn.kv", length = source ? source_length : lengths[m.stack];
        var early = T.reading.indexOf(m.role) >= 0 || (step.parallel && starts(m.role, "mlp."));
        var content = T.positions.indexOf(m.role) < 0 ? batch * length : 0, relative = step.read([m.role]);
        var one = times(2, content + relative, m.d_in, m.d_out), reached = (early ? found.into : found.through)[m.stack] || 0;
        again += one * BigInt(m.n * step.repeats);
        backward += times(2, content + relative * tableTrained, m.d_in, m.d_out) * BigInt(floor(reached * m.n, inv.backbone.layers[m.stack]));
        if (plain(m.role).some(function (role) { return weights.has(role); })) backward += one * BigInt(m.n * step.repeats);
      });
      step.stacks.forEach(function (stack) {
        var each = times(6, batch, lengths[stack.name], step.experts, stack.d, stack.d_ff), of = stack.sparse.length;
        var trained = sum(layers[stack.name].map(function (run) { return run[0].trained.has("moe.gate_up") ? run[1] : 0; }));
        again += each * BigInt(of);
        backward += each * BigInt(floor((found.through[stack.name] || 0) * of, stack.layers) + trained);
        stack.attentions.forEach(function (name) {
          var length = lengths[stack.name], one = times(4, batch, length, name === "xattn" ? source_length : length, stack.d_attn);
          var more = times(4, batch, length, stack.d_attn, sum(layers[stack.name].map(function (run) { return run[1] * (run[0].more[name] || 0); })));
          if (step.relative) step.table.forEach(function (made) {
            var learned = sum(layers[stack.name].map(function (run) { return tableTrained || run[0].trained.has(made[0]) ? run[1] : 0; }));
            var gathered = times(2, batch, length, made[1], stack.d_attn);
            again += gathered * BigInt(stack.layers);
            backward += gathered * BigInt(learned + (found.through[stack.name] || 0));
          });
          var back = times(found.through[stack.name] || 0, one) + more;
          again += one * BigInt(stack.layers * step.repeats) + more;
          backward += eager ? back * 2n : back * 5n / 2n;
        });
      });
      extras.forEach(function (extra) {
        again += 2n * (extra.products + extra.frozen_products);
        backward += 2n * (2n * extra.products + extra.frozen_products);
      });
      rows.forEach(function (row) {
        var tensor = row.piece.tensor, shape = tensor.selecting || tensor.per === "model" || step.mechanisms[row.piece.part].composed ? null : row.shape;
        if (!shape || shape.length !== 2) return;
        var one = times(2, batch * seq + step.positions(row.spot), row.count, row.n);
        again += one;
        backward += one * (learns(row) ? 2n : 1n);
      });

      /* What checkpointing leaves out: a layer's last map, where nothing behind it is kept. */
      function unrepeated() {
        if (step.order !== "pre" || dropped("residual") || dropped("output")) return 0n;
        return step.stacks.reduce(function (total, stack) {
          if (inv.modules.some(function (m) { return m.stack === stack.name && (m.role === "norm.mlp_out" || m.role === "scale.mlp"); })) return total;
          var plainly = sum(layers[stack.name].map(function (run) { return endsPlainly(run[0]) ? run[1] : 0; }));
          return total + times(2, batch, lengths[stack.name], stack.d, stack.d_ff, step.repeats, plainly);
        }, 0n);
      }
      /* Whether neither experts nor anything of the method's own come behind the feed-forward's last map. */
      function endsPlainly(layer) {
        var added = (layer.trained.has("mlp.down") && !layer.weights.has("mlp.down")) || layer.reads.has("mlp.down") || layer.inputs.has("mlp.down");
        return !layer.kinds.has("experts") && !added && !layer.trained.has("mlp:end") && !layer.trained.has("scale.mlp");
      }
      var forward = head + images + again;
      return [forward, forward + backward + (checkpointing ? again - unrepeated() : 0n)];
    }
    return memory();
  }

  /* ---- what fits ---- */

  /* The largest batch, length or hyperparameter whose step fits `gpu` bytes: {value, limited, memory}; value is 0 where
     none does, limited says whether something else than memory is the limit. */
  function fit(id, options, asked, solved, gpu) {
    var step = stepOf(id, options), chosen = options.values || {};
    function ask(value) {
      var changed = {};
      changed[solved] = value;
      var ofStep = solved === "batch" || solved === "seq";
      return answer(step, ofStep ? chosen : merge(chosen, changed), settingOf(ofStep ? merge(asked, changed) : asked));
    }
    function fits(value) { var memory = ask(value); return memory.peak + memory.gpu_extra_estimate <= gpu; }
    /* null where the value makes no sense */
    function tried(value) { try { return fits(value); } catch (error) { if (!error.user) throw error; return null; } }
    var low = 1, good = tried(low);
    while (good === null && low < LEAST - 1) good = tried(++low);
    if (good === null) fits(low = 1);   // which says what is wrong
    if (!good) return { solved: solved, value: 0, limited: false, memory: null, least: low };
    var high = 2 * low, limited = false;
    while (high <= MOST) {
      good = tried(high);
      limited = good === null;
      if (!good) break;
      low = high;
      high *= 2;
    }
    while (high - low > 1) {
      var middle = floor(low + high, 2);
      good = tried(middle);
      limited = good === null || (limited && good);
      if (good) low = middle; else high = middle;
    }
    return { solved: solved, value: low, limited: limited, memory: ask(low) };
  }

  /* "24GiB", "80 GB" or "24", which are GiB, in bytes; null for nothing, NaN for what is none. */
  function gpuBytes(text) {
    var units = { "": Math.pow(2, 30), kb: 1e3, mb: 1e6, gb: 1e9, kib: 1024, mib: Math.pow(1024, 2), gib: Math.pow(1024, 3) };
    if (!text.trim()) return null;
    var found = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim()), unit = found && units[found[2].toLowerCase()];
    return unit && Number(found[1]) > 0 ? Math.trunc(Number(found[1]) * unit) : NaN;
  }
  function gibibytes(bytes) { return Number((bytes / Math.pow(2, 30)).toPrecision(4)) + " GiB"; }
  /* As peft.judged, with three wishes more: `gpu` (bytes that a step may take, null for any), `step` (how it is trained)
     and `solve` (batch, seq or size: of what the largest is wanted). An answer then has `fit`: {solved, value, limited,
     memory}; where size is solved for, its name and value are the largest that every budget allows. */
  function planned(id, options, wishes) {
    var found = peft.judged(id, options, wishes);
    if (!given(wishes.gpu)) return found;
    var reasons = (found.reasons || []).slice(), chosen = {};
    if (given(found.name)) chosen[found.name] = found.value;
    try {
      var fitted = inner.kept(["gpu", id, JSON.stringify([options, chosen, wishes])].join("|"), function () { return onGpu(id, options, wishes, chosen); });
      if (fitted.refused) reasons.push(fitted.refused);
      else if (!reasons.length) return merge(found, fitted);
    } catch (error) {
      if (!error.user) throw error;
      var name = peft.data.methods[id].name + " ", text = starts(error.message, name) ? error.message.slice(name.length) : error.message;
      if (reasons.indexOf(text) < 0) reasons.push(text);
    }
    return { id: id, reasons: reasons };
  }
  function onGpu(id, options, wishes, chosen) {
    var size = peft.data.methods[id].size, asked = wishes.step, set = merge(options, { values: chosen }), memory, found;
    if (wishes.solve !== "size") {
      found = fit(id, set, asked, wishes.solve, wishes.gpu);
      if (found.value) return { fit: found };
      memory = peft.memory(id, set, merge(asked, { [wishes.solve]: found.least }));
    } else {
      if (!size || given(chosen[size])) {
        memory = peft.memory(id, set, asked);
        if (memory.peak + memory.gpu_extra_estimate <= wishes.gpu) return { fit: { solved: size, value: size ? chosen[size] : null, limited: true, memory: memory } };
      }
      if (size) {
        found = fit(id, options, asked, size, wishes.gpu);
        if (found.value) return { fit: found, name: size, value: found.value, cost: peft.cost(id, merge(options, { values: found.memory.hyperparameters })) };
        memory = peft.memory(id, merge(options, { values: merge(chosen, { [size]: found.least }) }), asked);
      }
    }
    return { refused: "takes " + gibibytes(memory.peak + memory.gpu_extra_estimate) + " on a GPU with " + (wishes.solve !== "size" ? wishes.solve + " " + found.least : size ? size + " = " + found.least : "the usual setting") };
  }

  /* `options`: those of a cost; `asked`: batch, seq and what else differs from the usual setting. */
  peft.memory = function (id, options, asked) {
    var setting = settingOf(asked);
    return answer(stepOf(id, options), options.values || {}, setting);
  };
  peft.fit = fit;
  peft.planned = planned;
  peft.gpuBytes = gpuBytes;
})();

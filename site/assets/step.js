/* One training step, run on tensors that have only sizes: peftonomy/memory/{tensor,tape,machine,caller,step}.py, line by
   line. After operations.js. A tensor is released when no name refers to it and autograd does not save it. Operations are
   more than 2**53 and therefore counted in BigInt. */
"use strict";

(function () {
  var inner = peft.inner, lists = inner.operations, within = lists.within, at2 = lists.at2, own = lists.own, padded = lists.padded, Part = lists.Part, fail = inner.fail, merge = inner.merge;
  var HALF = 2, SINGLE = 4, NONE = [], UNBORN = { bytes: 0, holders: 1, forward: false };
  var run = lists.run;

  function Tensor(shape, width, live, storage, key) {
    this.shape = shape; this.width = width; this.live = live; this.key = key || null;
    this.bytes = shape[0] * shape[1] * shape[2] * width;
    this.storage = storage || { bytes: this.bytes, holders: 1, forward: false };
    this.grad = null; this.hooked = null;
  }

  /* flags: batch, seq, width (bytes of a number), trained (of one that is trained), autocast, eager, checkpointing, device. */
  function Step(program, flags) {
    var data = lists.data, model = program.model, functions = model.functions, rules = data.rules, constants = data.constants;
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
  inner.Step = Step;
})();

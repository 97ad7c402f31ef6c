/* What runs one operation of a step: peftonomy/memory/machine.py. After tape.js. It knows parameters, types and what
   autograd keeps, and no order of operations. */
"use strict";

(function () {
  var inner = peft.inner, parts = inner.memory, Part = parts.Part, Tensor = parts.Tensor, Anew = parts.Anew, Record = parts.Record, Storage = parts.Storage;
  var HALF = 2, SINGLE = 4, NONE = [], NAMING = ["loop", "stacked", "detached", "sized", "observed"], UNBORN = new Storage(0, false);

  /* flags: batch, seq, width (bytes of a number), trained (of one that is trained), autocast, eager, checkpointing, device.
     A value is a tensor, a module or a part of one, a number, a text, or null for a tensor that is missing. */
  class Machine {
    constructor(program, flags) {
      var data = parts.data;
      if (program.evaluations) flags = inner.merge(flags, { checkpointing: false });   // in evaluation mode, where transformers has none
      this.program = program; this.model = program.model; this.flags = flags;
      this.rules = data.rules; this.points = data.points; this.blocks = data.constants.blocks;
      this.tape = new parts.Tape();
      this.scopes = [];
      this.stack = ""; this.number = -1; this.block = "";
      this.inside = new Map();    // parameters of the layer at hand
      this.outside = new Map();   // all others
      this.held = [];             // to the end of the forward pass
      this.stayed = [];           // until what called their stack is through
      this.lasting = [];          // to the end of the step
      this.leaves = [];           // that autograd holds to the end
      this.casts = new Map();
      this.shared = new Map();
      this.autocast = flags.autocast;
      this.hook = null;
      this.floor = 0;             // scopes of the model below those of the method's function, whose own names come first
      this.module = null;         // whose forward pass runs
      this.copy = null;
      this.owns = new Map();      // parameters of a method that stand in place of the model's
      this.parts = new Map();     // of tensors that are several parameters
      this.depth = 0;             // scopes outside of the layer,
      this.used = new Map();      // and what it reads from there
      this.early = new Map();    // what was put aside before the layer
      this.recording = !program.evaluations; this.done = this.last = 0; this.limit = -1;   // see `Step`
      this.flagged = {
        batch: flags.batch, seq: inner.readsTokens(this.model.inv) ? flags.seq : this.model.names[""].max_positions, eager: Number(flags.eager), sdpa: Number(!flags.eager), checkpointing: Number(flags.checkpointing),
        autocast: Number(flags.autocast), width: flags.width, evaluating: Number(program.evaluations > 0)
      };
      this.names = this.base = inner.atop(this.model.names[""], this.flagged);
    }
    hooksAt(stack, path) { return this.program.hooks.size && this.program.at(this.number).get(stack + "|" + path) || NONE; }

    /* ---- values ---- */

    value(word, line) {
      if (typeof word === "function") return word(this.names);
      if (word[0] === ".") return this.mine(word.slice(1));
      if (word[0] === "$" && this.shared.has(word.slice(1))) {
        var shared = this.shared.get(word.slice(1));
        if (this.depth && this.early.get(word.slice(1)) === shared) this.used.set(word, shared);
        return shared;
      }
      var own = this.hook && parts.own(this.hook.names, word), found;
      for (var d = this.scopes.length - 1; d >= (own ? this.floor : 0); d--) {
        found = this.scopes[d].get(word);
        if (found === undefined) continue;
        if (d < this.depth) this.used.set(word, found);
        return found;
      }
      if (own) return this.hook.names[word];
      found = this.model.find(this.stack, this.number, word);
      if (found) return found;
      if (this.names[word] !== undefined) return this.names[word];
      return NAMING.indexOf(line.kind) >= 0 ? word : this.wrong(line.kind + ": found unknown name " + word);
    }
    mine(word) {
      var name = word.replace(/\?$/, ""), hook = this.hook;
      if ((name === "weight" || name === "bias") && hook && hook.module) return this.weight(hook.slice || hook.module, name);
      var found = this.declared(word);
      if (!found) return null;
      var shape = found.copies > 1 && this.copy === null ? [found.copies * found.shape[0], found.shape[1], found.shape[2]] : found.shape;
      var y = this.parameter(found.key + "|" + (found.copies > 1 ? this.copy : null), shape, found.trained, found.layers !== null, false, [found.key]), f = hook.functions.get("gradient_" + name);
      if (f && y.live) y.hooked = this.arriving(inner.merge(hook, { function: f }), y);
      return y;
    }
    /* What a method makes of a gradient as it arrives in a layer, with no autocast; the gradient is let go. Autograd records
       nothing of it. */
    arriving(hook, x) {
      var self = this, layer = this.number;
      return function (grad) {
        var before = [self.autocast, self.number, self.recording];
        self.autocast = self.recording = false; self.number = layer;
        var made = self.act(hook, [new Tensor(x.shape, x.width, false, grad)])[0];
        self.autocast = before[0]; self.number = before[1]; self.recording = before[2];
        self.tape.free(grad);
        return made.storage;
      };
    }
    /* The method's own tensor of a name; null where it may be missing and is. `xattn.A`: of that block of the layer at hand. */
    declared(word) {
      var name = word.replace(/\?$/, ""), dot = name.lastIndexOf("."), found = NONE;
      if (this.hook && dot < 0) found = this.program.nearest(this.hook, name);
      else if (this.hook) found = this.program.inBlock(this.hook, name.slice(dot + 1), this.stack, name.slice(0, dot));
      for (var i = 0; i < found.length; i++) if (parts.within(found[i].layers, this.number)) return found[i];
      if (name !== word) return null;
      return this.wrong("found no tensor ." + name + " here");
    }
    /* `w = part .F 0 rows numbers`: one of several parameters that the entry declares as one tensor; behind these may stand
       which of its copies is meant. */
    part(line) {
      var found = this.declared(line.words[0].slice(1)), numbers = line.words.slice(1).map(function (word) { return this.value(word, line); }, this);
      if (!found) return [null];
      var shape = numbers.slice(1, 3), copy = numbers.length > 3 ? numbers[3] : this.copy;
      parts.at2(this.parts, found.key).set(numbers[0], shape);
      return [this.tape.hold(this.parameter([found.key, copy, numbers[0]].join("|"), parts.padded(shape), found.trained, found.layers !== null, false, [found.key]))];
    }
    /* wide: whether it has the type of a trained one, since it is trained in another turn. */
    parameter(key, shape, trained, layered, single, own, wide) {
      var known = layered ? this.inside : this.outside, found = known.get(key);
      if (found) return found;
      known.set(key, found = new Tensor(shape, single ? SINGLE : trained || wide ? this.flags.trained : this.flags.width, trained, null, key));
      found.own = own || null;
      return found;
    }
    /* A parameter of a module or of a part of it, held once: its weight, or what a method makes of it; null where there is none. */
    weight(m, suffix) {
      if (m instanceof Part) {
        if (m.groups > 1) inner.fail("memory: " + this.program.plan.method.name + " reads a part of " + m.module.path + " whose outputs lie apart, head by head");
        var whole = this.weight(m.module, suffix), kind = suffix === "bias" ? "narrow" : "positions";
        if (!whole) return null;
        var made = this.operate(this.rules[kind], [whole], [m.stop - m.start])[0];
        this.tape.free(whole.storage);
        return made;
      }
      var owner = this.model.owner(m, suffix), there = owner.parameters, found = there.filter(function (p) { return p[0] === (suffix || "weight"); })[0];
      if (!found && !suffix) found = there[0];
      if (!found) return null;
      var name = found[0], layered = owner.layers !== null, key = owner.path + "|" + name, mine = this.owns.get(key);
      if (mine) return this.tape.hold(this.parameter(mine.key + "|null", mine.shape, mine.trained, layered, false, [mine.key]));
      var y = (layered ? this.inside : this.outside).get(key);
      if (!y) {
        var shape = owner.kind === "conv1d" && name === "weight" ? found[1].slice().reverse() : found[1];
        var n = layered ? this.number : -1, wide = this.program.whole.trains(owner, name, n);
        y = this.parameter(key, parts.padded(shape), this.program.trains(owner, name, n), layered, this.model.single(owner), null, wide);
      }
      this.tape.hold(y);
      this.hooksAt(owner.stack, owner.path).forEach(function (h) {
        if (h.suffix && h.suffix !== name) return;
        if (h.name === "gradient" && y.live) y.hooked = this.arriving(h, y);
        if (h.name !== name && !(h.name === "weight" && name !== "weight" && name !== "bias")) return;
        var made = this.madeOf(h, y);
        this.tape.free(y.storage);
        y = made;
      }, this);
      return y;
    }
    /* What a method makes of a parameter, which the backward pass makes `anew` if the method says so. */
    madeOf(hook, x) {
      var tape = this.tape, before = tape.now, outer = tape.watch(), made = this.act(hook, [x])[0];
      if (made.anew) made.anew = Math.max(tape.high - before, made.bytes);
      tape.unwatch(outer);
      return made;
    }

    /* ---- operations ---- */

    /* An operation under autocast or not; its outputs, each held once. */
    operate(rule, inputs, numbers, shape) {
      var width = this.casting(rule);
      if (!width) return this.computed(rule, inputs, numbers, shape);
      var cast = inputs.map(function (x) { return this.cast(x, width); }, this), results = this.computed(rule, cast, numbers, shape);
      this.tape.letGo(cast);
      return results;
    }
    /* Bytes of a number of the type that autocast gives an operation's inputs, 0 where it does nothing. */
    casting(rule) {
      var type = this.autocast ? rule[this.flags.device] : undefined;
      return type === undefined ? 0 : type === "half" ? HALF : SINGLE;
    }
    /* Under autocast: a copy in another type, of a trained parameter one for all of the forward pass. */
    cast(x, width) {
      if (x.width === width || (x.width !== HALF && x.width !== SINGLE)) return this.tape.hold(x);
      if (!x.key || !x.live) return this.computed(this.rules.cast, [x], [width])[0];
      if (!this.casts.has(x)) {
        this.casts.set(x, this.computed(this.rules.cast, [x], [width])[0]);
        this.held.push(this.casts.get(x).storage);
      }
      return this.tape.hold(this.casts.get(x));
    }
    /* An operation: its outputs, and a place on the tape if a gradient comes there. */
    computed(rule, inputs, numbers, shape) {
      var tape = this.tape, names = this.names, first = inputs[0], outputs = [], live = false, i, y;
      if (rule.single && first.width < SINGLE) inner.fail("memory: " + this.program.plan.method.name + " needs " + rule.kind + ", which torch lacks for bfloat16; expected float32 or mixed");
      if (special.has(rule.kind)) return [special.get(rule.kind)(this, first)];
      var width = this.widthOf(rule, inputs, numbers);
      if (rule.casts && first.width === width) return [tape.hold(first)];
      if (rule.lays && inputs.length === 1 && first.laid) return [tape.hold(first)];
      if (rule.skip && rule.skip(names, inputs, null, numbers)) return [tape.hold(first)];
      var shapes = rule.parts ? numbers.map(function (n) { return [first.shape[0], first.shape[1], n]; })
        : [shape || (rule.shape ? rule.shape(names, inputs, null, numbers) : inputs.length === 1 ? first.shape : broadcast(inputs))];
      var gone = ++this.done > this.limit && this.limit >= 0;
      for (i = 0; i < inputs.length && i < rule.through; i++) live = live || inputs[i].live;
      for (i = 0; i < shapes.length; i++) {
        y = new Tensor(shapes[i], width, live, rule.view ? first.storage : UNBORN);
        y.laid = rule.lays === true;
        if (rule.view) tape.hold(first); else y.storage = tape.create(gone || rule.free ? 0 : y.bytes);
        outputs.push(y);
      }
      y = outputs[0];
      if (rule.during && !gone) tape.see(tape.now + rule.during(names, inputs, y, numbers));
      if (rule.flops && !gone) tape.flops += rule.flops(names, inputs, y, numbers);
      if (live) this.keep(rule, inputs, numbers, outputs);
      return outputs;
    }
    /* What the backward pass needs; inputs are kept before the operation runs, and outputs after. */
    keep(rule, inputs, numbers, outputs) {
      var kept = [], y = outputs[0], before = true, i;
      for (i = 0; i < rule.needs.length; i++) {
        var what = rule.needs[i][0], need = rule.needs[i][1];
        if (what === -2) kept.push(null);
        else if (what < inputs.length && (need === null || (need < inputs.length && inputs[need].live))) kept.push(what === -1 ? y : inputs[what]);
        else continue;
        before = before && kept[kept.length - 1] !== null && kept[kept.length - 1] !== y;
      }
      if (kept.length) this.last = this.done - before;
      if (!this.recording) return;
      for (i = 0; i < kept.length; i++) {
        var x = kept[i];
        kept[i] = !x ? this.tape.create(rule.own(this.names, inputs, y, numbers)) : x.anew ? new Anew(x.bytes, x.anew) : this.tape.hold(x).storage;
      }
      this.tape.records.push(new Record(rule, inputs.slice(), numbers, outputs, this.names, kept));
    }
    /* A mistake in a list of operations, as one line. */
    wrong(what) { inner.fail("memory: operations of " + (this.hook ? this.program.plan.method.name + " in " : "") + this.model.inv.backbone.family.name + ": " + what); }
    widthOf(rule, inputs, numbers) {
      if (rule.kind === "cast") return Math.trunc(numbers[0]) || this.flags.width;
      if (rule.width !== undefined) return rule.width;
      if (rule.like !== undefined) return inputs[rule.like < 0 ? inputs.length + rule.like : rule.like].width;
      if (!inputs.length) return this.flags.width;
      for (var width = 0, i = 0; i < inputs.length && i < (rule.through || 1); i++) width = Math.max(width, inputs[i].width);
      return width;
    }
  }
  function broadcast(inputs) {
    return [0, 1, 2].map(function (i) { return inputs.reduce(function (n, x) { return Math.max(n, x.shape[i]); }, 1); });
  }

  /* Operations that are of a tensor itself. */
  var special = new Map(Object.entries({
    same: function (machine, x) { return machine.tape.hold(x); },
    /* A leaf that wants a gradient. Autograd holds it to the end, but not a copy that a checkpoint makes again. */
    leaf: function (machine, x) {
      var y = x.live ? x : new Tensor(x.shape, x.width, true, x.storage);
      if (!x.live && machine.limit < 0) machine.leaves.push(machine.tape.hold(y));
      return machine.tape.hold(y);
    },
    /* Held from outside of the model, to the end of the step, as a module does that keeps its last draw. */
    hold: function (machine, x) {
      if (machine.limit < 0) machine.lasting.push(machine.tape.hold(x).storage);
      return machine.tape.hold(x);
    },
    /* Held by what called the stack at hand, until that is through. */
    stay: function (machine, x) {
      if (machine.limit < 0) machine.stayed.push(x.storage);
      return heldIn(machine, machine.scopes[Math.min(1, machine.scopes.length - 1)], x);
    },
    /* Held by what called the function at hand, until that is through. */
    remain: function (machine, x) { return heldIn(machine, machine.scopes[machine.scopes.length - 2], x); },
    /* Held until the layer at hand is through. */
    linger: function (machine, x) { return heldIn(machine, machine.scopes[machine.depth], x); },
    /* A frozen tensor that autograd does not keep, since the backward pass makes it again. */
    anew: function (machine, x) {
      var y = machine.tape.hold(new Tensor(x.shape, x.width, false, x.storage));
      y.anew = y.bytes;
      return y;
    },
    /* A parameter whose gradient a hook takes and gives anew. */
    hooked: function (machine, x) {
      x.hooked = function (grad) { return machine.tape.copied(x, grad); };
      return machine.tape.hold(x);
    }
  }));
  function heldIn(machine, scope, x) {
    scope.set("held " + scope.size, machine.tape.hold(x));
    return machine.tape.hold(x);
  }

  Object.assign(parts, { Machine: Machine, SINGLE: SINGLE });
})();

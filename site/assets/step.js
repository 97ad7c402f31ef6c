/* One training step, run on tensors that have only sizes: peftonomy/memory/step.py. After caller.js. The forward pass writes
   a tape, the backward pass reads it. Nothing here knows a model, and nothing knows a method. */
"use strict";

(function () {
  var inner = peft.inner, parts = inner.memory, Tensor = parts.Tensor;

  function bytesOf(storages) { return storages.reduce(function (n, storage) { return n + storage.bytes; }, 0); }
  /* What is put aside: the next layer of a group replaces it. */
  function aside(step) {
    return Array.from(step.shared.values()).filter(function (x) { return x instanceof Tensor; }).map(function (x) { return x.storage; });
  }

  /* Layers that are run, and `more` others like them that only count: on the way back their gradients are there at once. */
  class Group {
    constructor(step, more) {
      var self = this, tape = step.tape;
      this.more = more; this.now = tape.now - tape.buffers; this.flops = tape.flops; this.before = tape.left; this.gathered = tape.gathered;
      this.first = [step.held.length, step.stayed.length, step.lasting.length];
      this.aside = aside(step);
      this.alone = this.aside.filter(function (storage) { return storage.holders === 1; });
      this.trained = this.kept = this.left = 0;
      this.held = [];
      if (!more) return;
      tape.records.push(function () { self.counted(tape); });
      tape.group = this;
    }
    /* The group is through the forward pass. */
    end(step) {
      var self = this, tape = step.tape;
      if (!this.more) return;
      tape.group = null;
      this.kept = tape.now - tape.buffers - this.now;   // buffers of collectives do not stay
      this.gathered = tape.gathered - this.gathered;
      this.left = tape.left - this.before;
      // what an earlier layer had put aside is gone or kept by now, and something of its own is kept by the next at most
      var old = this.aside, now = aside(step), fresh = now.filter(function (storage) { return storage.holders === 1 && old.indexOf(storage) < 0; });
      var replaced = bytesOf(this.alone.filter(function (storage) { return now.indexOf(storage) < 0; })) - bytesOf(fresh);
      this.kept += replaced;
      this.left += replaced;
      this.held = step.held.slice(this.first[0]).concat(step.stayed.slice(this.first[1]));
      tape.now += this.more * this.kept;
      tape.left += this.more * this.left;
      tape.gathered += this.more * this.gathered;
      tape.flops += BigInt(this.more) * (tape.flops - this.flops);
      var lasting = bytesOf(step.lasting.slice(this.first[2]));
      this.kept -= lasting;
      this.left -= lasting;
      tape.records.push(function () { self.begin(tape); });
      step.groups.push(this);
    }
    /* What was held for a while, at most to the end of the forward pass, and is not kept counts no longer. */
    forget(tape) { this.lose(tape, this.held.reduce(function (n, storage) { return n + (storage.holders ? 0 : storage.bytes); }, 0)); }
    /* Some bytes of those that the forward pass left are not kept. */
    lose(tape, gone) {
      this.kept -= gone;
      this.left -= gone;
      tape.now -= this.more * gone;
      tape.left -= this.more * gone;
    }
    /* The way back reaches the group, which is run when most is alive: as its last layer, or as its first. */
    begin(tape) {
      this.flops = tape.flops;
      if (this.trained > this.kept) this.passed(tape);
    }
    /* The way back has left the group. */
    counted(tape) {
      tape.flops += BigInt(this.more) * (tape.flops - this.flops);
      if (!(this.trained > this.kept)) this.passed(tape);
    }
    /* The layers that only count have let go of what they kept, and their gradients are there. */
    passed(tape) {
      tape.now += this.more * (this.trained - this.kept);
      tape.left -= this.more * this.left;
      tape.gathered -= this.more * this.gathered;
      tape.grads += this.more * this.trained;
    }
  }

  class Step extends parts.Caller {
    constructor(program, flags) {
      super(program, flags);
      this.sequences = new Map();
      this.groups = [];
      this.states = null;   // what the stacks of an unadapted pass gave
    }
    /* Forward and back. Of each pass: the most that was alive, with what the forward pass left of that and gradients among it. */
    run() {
      var tape = this.tape, task = this.model.inv.computed, f = this.model.functions.get(task), loss, first;
      if (!f) {
        var family = this.model.inv.backbone.family, known = Object.keys(family.tasks).filter(function (name) { return this.model.functions.has(name); }, this);
        inner.fail("memory: task " + task + " of " + family.name + " has no operations; expected " + known.join(" or "));
      }
      this.starts();
      this.point("at_start", []);
      loss = this.call(f, [])[0];
      this.only(loss);
      this.held.forEach(function (storage) { tape.free(storage); });
      this.groups.forEach(function (group) { group.forget(tape); });
      this.held = []; this.casts = new Map();
      this.turns();
      first = { first: [tape.peak].concat(tape.most), kept: tape.now, forward: tape.flops };
      if (this.program.evaluations) {   // as often, and no backward pass
        return Object.assign(first, { second: [0, 0, 0], flops: tape.flops * BigInt(this.program.evaluations) });
      }
      tape.peak = 0;
      tape.forward = false;
      loss.grad = tape.create(parts.SINGLE);
      loss.grad.holders++;   // the caller holds the loss and torch its gradient
      tape.back();
      this.ends();
      return Object.assign(first, { second: [tape.peak].concat(tape.most), flops: tape.flops });
    }
    /* What one of several ranks does before the forward pass, before the backward pass, and after it. */
    starts() {}
    turns() {}
    ends() {}
    /* `e d = unadapted`: the whole model runs once without the method and without gradients; the states that its last stacks
       give. `h = unadapted body`: only this function of it runs, and gives its result. */
    unadapted(name, wanted) {
      var tape = this.tape, state = Object.assign({}, this), lists = [tape.records, this.held, this.stayed, this.groups], marks = lists.map(function (list) { return list.length; });
      this.program = this.program.bare(); this.recording = false;
      this.flags = inner.merge(this.flags, { checkpointing: false });
      this.flagged = inner.merge(this.flagged, { checkpointing: 0 });
      this.names = this.base = inner.atop(this.model.names[""], this.flagged);
      this.scopes = []; this.hook = this.module = null; this.casts = new Map(); this.sequences = new Map(); this.states = [];
      if (name && !this.model.functions.has(name)) this.wrong("unadapted: found no function " + name);
      var results = this.call(this.model.functions.get(name || this.model.inv.computed), []);
      if (!name) tape.letGo(results);
      this.held.slice(marks[1]).forEach(function (storage) { tape.free(storage); });
      lists.forEach(function (list, i) { list.length = marks[i]; });
      var states = this.states;
      Object.assign(this, state);
      if (name) { tape.letGo(states); states = results; }
      var rest = states.length - wanted;
      tape.letGo(states.slice(0, rest));
      return states.slice(rest).map(function (x) { return new Tensor(x.shape, x.width, false, x.storage); });
    }
    /* `h = doubled f n .A .B`: the model's function f runs with n layers, without the method, and with tensors of the method's
       own in place of the parameters that they are beside. Its layers are no checkpoints. */
    doubled(line) {
      var state = Object.assign({}, this), f = this.model.functions.get(line.words[0]), n = Math.trunc(this.value(line.words[1], line));
      if (!f) this.wrong("doubled: found no function " + line.words[0]);
      this.owns = this.beside(line.words.slice(2)); this.program = this.program.bare();
      this.flags = inner.merge(this.flags, { checkpointing: false });
      this.flagged = inner.merge(this.flagged, { checkpointing: 0, n_layers: n });
      this.names = this.base = inner.atop(this.model.names[""], this.flagged);
      this.scopes = []; this.hook = this.module = this.copy = null;
      this.sequences = new Map(this.model.inv.stacks.map(function (stack) {
        return [stack, Array.from({ length: n }, function (_, i) { return [[i], 0]; })];
      }));
      var results = this.call(f, []);
      Object.assign(this, state);
      return results;
    }
    /* `y = another h .A .B`: the layer at hand runs once more on h, without the method, and with tensors of the method's own in
       place of the parameters that they are beside. It is a checkpoint if the layers are. */
    another(line) {
      if (!this.stack) this.wrong("another: found no layer here");
      var self = this, state = {}, values = [this.value(line.words[0], line)];
      ["program", "owns", "names", "scopes", "hook", "module", "copy", "floor", "depth", "used", "early", "block"].forEach(function (name) { state[name] = self[name]; });
      this.owns = this.beside(line.words.slice(1)); this.program = this.program.bare();
      this.names = this.base; this.scopes = this.scopes.slice(0, this.floor);
      this.hook = this.module = this.copy = null; this.floor = 0; this.block = "";
      var results = this.layer(values);
      Object.assign(this, state);
      this.tape.letGo(results.slice(1));
      return results.slice(0, 1);
    }
    /* Tensors of the method's own by the parameter of the model that each is beside. */
    beside(words) {
      var owns = new Map();
      words.forEach(function (word) {
        this.program.places(this.hook, word.slice(1)).forEach(function (found, place) { owns.set(place.replace(/^parameter\|/, ""), found[found.length - 1]); });
      }, this);
      return owns;
    }
    /* Whether an operation has read a parameter: outside of layers one may wait for other tasks. */
    reached(m, suffix) { return m.layers ? this.sequences.has(m.stack) : this.outside.has(m.path + "|" + suffix); }
    /* Of a tensor that is several parameters, their sizes; else its own. */
    shapes(row) {
      return this.parts.has(row.key) ? Array.from(this.parts.get(row.key).values()) : [row.shape && row.shape.length ? row.shape : [row.count]];
    }

    /* ---- layers ---- */

    /* `h = each decoder h`: all layers of a stack, one after the other, each on what the one before gave. Of layers that are
       alike some only count. */
    layers(line) {
      var self = this, tape = this.tape, stack = line.words[0], wanted = Math.max(1, line.targets.length), outer = [this.stack, this.number, this.inside, this.base, this.names];
      var values = tape.holdAll(line.words.slice(1).map(function (word) { return this.value(word, line); }, this));
      this.sequence(stack).forEach(function (pair) {
        var group = new Group(self, pair[1]);
        pair[0].forEach(function (number) {
          self.enter(stack, number, values[0].shape[1]);
          for (var times = Math.trunc(self.model.operations.runs(self.names)); times; times--) {
            var results = self.layer(values, pair[1]);
            tape.letGo(values.slice(0, results.length));
            values = results.concat(values.slice(results.length));
          }
          group.trained += self.gradients();
        });
        group.end(self);
      });
      this.stack = outer[0]; this.number = outer[1]; this.inside = outer[2]; this.base = outer[3]; this.names = outer[4];
      tape.letGo(values.slice(wanted));
      if (this.states) this.states.push(tape.hold(values[0]));
      return values.slice(0, wanted);
    }
    /* The layer at hand, which counts `more` further times, with the method's hooks around it. */
    layer(values) {
      var self = this;
      return this.around(function (x) { return self.flags.checkpointing ? self.checkpointed(x) : self.one(x); }, values, this.hooksAt(this.stack, "layer"));
    }
    /* Bytes that the gradients of the layer at hand take after its backward pass. */
    gradients() {
      var bytes = 0;
      this.inside.forEach(function (p) { if (p.live) bytes += p.bytes; });
      return bytes;
    }
    /* The layers of a stack, in groups: which are run, and how often more they count. */
    sequence(stack) {
      if (!this.sequences.has(stack)) this.sequences.set(stack, this.program.sequence(stack, inner.atop(this.model.names[stack], this.flagged)));
      return this.sequences.get(stack);
    }
    /* Names and parameters of a layer. length: the positions of what it is given. */
    enter(stack, number, length) {
      this.stack = stack; this.number = number; this.inside = new Map();
      this.base = this.names = inner.atop(this.model.layer(stack, number), inner.merge(this.flagged, { length: length }));
    }
    one(values) {
      this.depth = this.scopes.length; this.used = new Map(); this.early = new Map(this.shared);
      var results = this.call(this.model.functions.get(this.stack), values);
      this.depth = 0;
      return results;
    }
    /* The layer at hand: what it returns, and what it puts aside for functions around it, by name. What the layer was given
       is nothing new there: it is the same when the layer runs again. */
    within(values) {
      var known = new Set([...this.shared.values(), ...values]), results = this.one(values), aside = new Map();
      this.shared.forEach(function (x, name) { if (x instanceof Tensor && !known.has(x)) aside.set(name, x); });
      return { results: results, aside: aside };
    }
    /* A layer of which only what it is given is kept. */
    checkpointed(values) {
      var self = this;
      this.recording = false; this.done = this.last = 0;
      var found = this.within(values), results = found.results, outputs = results.concat(Array.from(found.aside.values()));
      this.recording = true;
      var live = outputs.filter(function (y) { return y instanceof Tensor && y.live; });
      if (!live.length) return results;
      var kept = values.concat(Array.from(this.used.values())).filter(function (v) { return v instanceof Tensor; });
      var state = { stack: this.stack, number: this.number, inside: this.inside, base: this.base, program: this.program, owns: this.owns, used: new Map(this.used), last: this.last };
      this.tape.holdAll(kept);
      this.tape.records.push(new parts.Checkpoint(kept, live, function () { self.again(values, outputs, Array.from(found.aside.keys()), kept, state); }));
      return results;
    }
    /* Forward once more, until all is there that the backward pass needs, and back. outputs: what the first pass returned,
       and then what it put aside under the names `aside`. */
    again(values, outputs, aside, given, state) {
      var tape = this.tape, storages = given.map(function (x) { return x.storage; }), records = tape.records;
      var found = outputs.map(function (y) { return y instanceof Tensor ? y.grad : null; });
      if (found.some(Boolean)) {
        tape.records = [];
        this.stack = state.stack; this.number = state.number; this.inside = state.inside; this.base = this.names = state.base;
        this.scopes = [new Map(Array.from(state.used).filter(function (pair) { return pair[0][0] !== "$"; }))];
        var outer = [this.program, this.owns];
        this.program = state.program; this.owns = state.owns; this.done = 0; this.limit = state.last;
        var before = this.shared, shared = this.shared = new Map(before);
        state.used.forEach(function (x, name) { if (name[0] === "$") shared.set(name.slice(1), x); });
        tape.holdAll(Array.from(shared.values()));
        var second = this.within(values);
        this.limit = -1;
        var made = second.results.concat(aside.map(function (name) { return second.aside.get(name); }));
        found.forEach(function (grad, i) {
          if (!grad) return;
          outputs[i].grad = null;   // before the next line, since it may be the same tensor
          made[i].grad = grad;
        });
        // functions around the layer do not run again, so nobody takes what is put aside for them
        tape.letGo(second.results.concat(Array.from(this.shared.values())));
        this.shared = before;
        var holder = tape.records.filter(function (record) { return record instanceof parts.Record && record.kept.length; })[0];
        if (holder) { holder.kept = holder.kept.concat(storages); storages = []; }   // let go with the last of what is kept
        tape.back();
        tape.records = records; this.stack = ""; this.number = -1; this.scopes = [];
        this.program = outer[0]; this.owns = outer[1];
      }
      storages.forEach(function (storage) { tape.free(storage); });
    }
  }

  parts.Step = Step;
})();

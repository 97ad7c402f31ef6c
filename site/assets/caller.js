/* What runs functions: peftonomy/memory/caller.py. After machine.js. Lines run one after the other, scopes are as in Python,
   and a method acts around modules, blocks and points. A tensor is let go when no name holds it and autograd does not
   keep it. */
"use strict";

(function () {
  var inner = peft.inner, parts = inner.memory, Part = parts.Part, Tensor = parts.Tensor, NONE = [];

  class Caller extends parts.Machine {
    /* Run a function: what it named is let go, its results are held once. */
    call(f, values) {
      var scope = new Map(), tape = this.tape, results = NONE, named = true;   // named: whether the results at hand have names, which hold them
      for (var i = 0; i < f.inputs.length && i < values.length; i++) scope.set(f.inputs[i], values[i]);
      tape.holdAll(values.slice(0, i));
      this.scopes.push(scope);
      for (i = 0; i < f.lines.length; i++) {
        var line = f.lines[i];
        if (line.when && !line.when(this.names)) continue;
        if (!named) tape.letGo(results);
        results = this.line(line);
        named = line.targets.length > 0;
        if (named) this.name(scope, line, results);
        if (line.kind === "return") break;
      }
      if (named) tape.holdAll(results);
      this.scopes.pop();
      scope.forEach(function (value) { if (value instanceof Tensor) tape.free(value.storage); });
      return results;
    }
    /* Give results their names; what had them before is let go. */
    name(scope, line, results) {
      if (results.length !== line.targets.length) this.wrong(line.kind + ": found " + results.length + " results; expected " + line.targets.length);
      for (var i = 0; i < results.length; i++) {
        var old = scope.get(line.targets[i]);
        scope.set(line.targets[i], results[i]);
        if (old instanceof Tensor) this.tape.free(old.storage);
      }
    }
    /* Run a function of the method, with its own tensors and names at hand. */
    act(hook, values) {
      var before = [this.hook, this.names, this.copy, this.floor];
      this.hook = hook; this.names = inner.atop(this.base, hook.names); this.copy = null; this.floor = this.scopes.length;
      var results = this.call(hook.function, values);
      this.hook = before[0]; this.names = before[1]; this.copy = before[2]; this.floor = before[3];
      return results;
    }
    line(line) {
      var kind = line.kind, words = line.words;
      if (kind === "each") return this.layers(line);
      if (kind === "share") return this.share(words[0], this.value(words[1], line));
      if (kind === "part") return this.part(line);
      if (kind === "every") return this.every(line);
      if (kind === "nth") return this.nth(line);
      if (kind === "doubled") return this.doubled(line);
      if (kind === "another") return this.another(line);
      if (kind === "unadapted") return this.unadapted(words[0], line.targets.length);
      for (var values = [], i = 0; i < words.length; i++) values.push(this.value(words[i], line));
      if (line.borrowed && this.hook && this.hook.module) {
        var results = this.apply(kind, values, line);
        this.tape.letGo(values.filter(function (_, i) { return line.borrowed[i]; }));
        return results;
      }
      if (kind === "return") return this.tape.holdAll(values);
      if (kind === "loop") return this.loop(line, values);
      if (kind === "stacked") return this.stacked(line, values);
      if (kind === "detached") return this.detached(line, values);
      if (kind === "sized") return this.sized(line, values);
      if (kind === "observed") return this.observed(values);
      if (kind === "only") return this.only(values[0]);
      if (kind === "either") return this.tape.holdAll(values.filter(function (v) { return v !== null; }).concat(null).slice(0, 1));   // the first that is there
      if (kind === "none") return [null];
      return kind === "reads" ? NONE : this.apply(kind, values, line);   // reads: by name only, so that a checkpoint holds it
    }
    /* One operation, or a function that is called as if it were one; results are held once. */
    apply(kind, values, line) {
      var hook = this.hook;
      if (hook && hook.functions.has(kind)) return this.call(hook.functions.get(kind), values);
      if (parts.own(this.points, kind)) return this.point(kind, values);
      var rule = this.rules[kind], f = hook && rule ? null : this.model.functions.get(kind);   // a method means the rule, even if the family has a function of that name
      if (!f) return this.operation(rule, values, line);
      if (!hook) return this.called(f, kind, values);
      var names = this.names;   // a function of the model's, with the model's own names
      this.hook = null; this.names = this.base;
      var results = this.called(f, kind, values);
      this.hook = hook; this.names = names;
      return results;
    }
    operation(rule, values, line) {
      if (!rule) this.wrong("found unknown operation " + line.kind);
      if (values.length && values[0] === null) return [null];
      var inputs = [], numbers = [], weights = [];
      for (var i = 0; i < values.length; i++) {
        var v = values[i];
        if (v instanceof Tensor) inputs.push(v);
        else if (v !== null && typeof v === "object") {
          this.take(v, "", rule, inputs, weights);
          if (rule.bias && (v.module || v).kind !== "parameter") this.take(v, "bias", rule, inputs, weights);
        } else if (v !== null) numbers.push(v);
      }
      var wanted = rule.parts ? line.targets.length : rule.numbers || 0, least = wanted - (rule.optional || 0);
      if (numbers.length > wanted || numbers.length < least) this.wrong(line.kind + ": found " + numbers.length + " numbers; expected " + wanted);
      while (numbers.length < wanted) numbers.push(0);
      if (rule.live) for (i in rule.live) if (i < inputs.length && inputs[i].live) return this.instead(rule.live[i], rule, inputs);
      if (rule.alone && inputs.length === 1) return [this.tape.hold(inputs[0])];
      var results = this.operate(rule, inputs, numbers, line.shape ? this.sizes(line.shape, inputs) : null);
      this.tape.letGo(weights);
      return results;
    }
    take(module, suffix, rule, inputs, weights) {
      var mark = this.tape.records.length, made = this.weight(module, suffix);
      if (inputs.length >= rule.through) this.forget(mark);   // no gradient gets there, so that what made it goes at once
      if (made) { inputs.push(made); weights.push(made); }
    }
    /* A function in place of an operation, inside of which autocast does nothing. */
    instead(name, rule, inputs) {
      var width = this.casting(rule), before = this.autocast;
      var values = inputs.map(function (x) { return width ? this.cast(x, width) : this.tape.hold(x); }, this);
      this.autocast = false;
      var results = this.call(this.model.functions.get(name), values);
      this.autocast = before;
      this.tape.letGo(values);
      return results;
    }
    sizes(shape, inputs) {
      var here = Object.create(this.names);
      inputs.slice(0, 4).forEach(function (x, i) { x.shape.forEach(function (n, axis) { here["abcd"[i] + axis] = n; }); });
      return shape.map(function (formula) { return formula(here); });
    }

    /* ---- around modules, blocks and points ---- */

    /* A function of the model's, with what the method does around a module or a block. */
    called(f, kind, values) {
      var self = this, n = f.inputs.length, m = values[n - 1], outer, results;
      function run(values) { return self.call(f, values); }
      if (n && f.inputs[n - 1] === "W" && m && m.parameters) {
        if (m === this.module) return run(values);   // one function of a module calls another
        outer = this.module; this.module = m;
        results = this.around(run, values, this.hooksAt(m.stack, m.path));
        this.module = outer;
        return results;
      }
      if (!this.stack || this.blocks.indexOf(kind) < 0) return run(values);
      outer = this.block; this.block = kind;
      results = this.around(run, values, this.hooksAt(this.stack, kind));
      this.block = outer;
      return results;
    }
    /* What runs, with what the method does before and after it. */
    around(run, values, hooks) {
      if (!hooks.length) return run(values);
      var x = values[0], others = values.slice(1), results;
      this.tape.holdAll([x]);
      hooks.forEach(function (h) { if (h.name === "before") x = this.typed(this.act(h, [x].concat(others))[0], x); }, this);
      results = run([x].concat(others));
      hooks.forEach(function (h) { if (h.name === "after") results = [this.after(h, x, results[0])].concat(results.slice(1)); }, this);
      this.tape.letGo([x]);
      return results;
    }
    /* In the type of what it stands for, which is let go. */
    typed(made, old) {
      var y = this.operate(this.rules.as, [made, old], [])[0];
      this.tape.free(made.storage);
      this.tape.free(old.storage);
      return y;
    }
    /* What a module gives out after a hook, which may change a slice of it; y is let go. */
    after(h, x, y) {
      if (!h.slice) return this.typed(this.act(h, [x, y])[0], y);
      var part = this.piece(y, h.slice.stop - h.slice.start, h.slice), changed = this.typed(this.act(h, [x, part])[0], part);
      var before = this.piece(y, h.slice.start, null), behind = this.piece(y, y.shape[2] - h.slice.stop, null);
      var whole = this.operate(this.rules.join, [before, changed, behind], [])[0];
      this.tape.letGo([before, changed, behind, y]);
      return whole;
    }
    piece(y, width, part) {
      var made = this.operate(this.rules.narrow, [y], [width])[0];
      if (!part || part.groups <= 1) return made;
      var whole = this.operate(this.rules.copy, [made], [])[0];   // spread over groups, so that it is copied together
      this.tape.free(made.storage);
      return whole;
    }
    /* What the method's parts do here, one after the other; the values themselves where none does anything. */
    point(name, values) {
      var tape = this.tape, results = tape.holdAll(values.slice());
      this.program.point(this.stack, this.block, name, this.number).forEach(function (h) {
        var changed = this.act(h, results);
        tape.letGo(results);
        results = changed;
      }, this);
      return results;
    }

    /* ---- lines of their own kind ---- */

    /* `share s x`: put a tensor aside under a name of its own, for other functions and later layers. */
    share(name, x) {
      this.tape.holdAll([x]);
      this.tape.letGo([this.shared.get(name)]);
      this.shared.set(name, x);
      return NONE;
    }
    /* `a = every .a .b?`: tensors of the method's own at all their places, joined into one row. */
    every(line) {
      var owns = [].concat.apply([], line.words.map(function (word) { return this.program.everywhere(this.hook, word.slice(1).replace(/\?$/, "")); }, this));
      var size = owns.reduce(function (n, own) { return n + inner.product(own.shape) * own.copies * (own.layers ? inner.layersOf(own.layers).length : 1); }, 0);
      var keys = Array.from(new Set(owns.map(function (own) { return own.key; }))).sort();
      if (!owns.length) this.wrong("every: found no such tensor");
      return this.operate(this.rules.copy, [this.parameter("every|" + keys.join("|"), [1, 1, size], owns.some(function (own) { return own.trained; }), false, false, keys)], []);
    }
    /* `y = observed x f`: x itself, whose gradient f is given as it arrives. */
    observed(values) {
      values[0].hooked = this.arriving(inner.merge(this.hook, { function: this.hook.functions.get(values[1]) }), values[0]);
      return [this.tape.hold(values[0])];
    }
    /* `y = detached f x ...`: f runs, and what autograd kept of it goes at once: nothing asks for it. */
    detached(line, values) {
      var mark = this.tape.records.length, results = this.apply(values[0], values.slice(1), line);
      this.forget(mark);
      return results.map(function (y) { return y instanceof Tensor ? new Tensor(y.shape, y.width, false, y.storage) : y; });
    }
    /* `y = sized f x ...`: f runs, and its formulas have the positions of x as `length`. */
    sized(line, values) {
      var before = this.names;
      this.names = inner.atop(before, { length: values[1].shape[1] });
      var results = this.apply(values[0], values.slice(1), line);
      this.names = before;
      return results;
    }
    /* `w = nth .A 1`: one of the copies of a tensor of the method's own, counted from 0. */
    nth(line) {
      var number = this.value(line.words[1], line), own = this.declared(line.words[0].slice(1)), before = this.copy;
      if (!own) return [null];
      if (number < 0 || number >= own.copies) this.wrong("nth: found copy " + number + "; expected one of " + own.copies + ", from 0");
      this.copy = number;
      var y = this.value(line.words[0], line);
      this.copy = before;
      return [this.tape.hold(y)];
    }
    /* `only y`: nothing else that carries a gradient is read from here on, and its graph goes. */
    only(y) {
      var wanted = this.tape.only(y), gone = this.leaves.filter(function (x) { return !wanted.has(x); });
      this.tape.drop(gone.map(function (x) { return x.storage; }));
      this.leaves = this.leaves.filter(function (x) { return wanted.has(x); });
      return NONE;
    }
    /* Let go what autograd kept from there on. */
    forget(mark) {
      this.tape.records.splice(mark).forEach(function (record) {
        (record.kept || NONE).forEach(function (one) { if (one instanceof parts.Storage) this.tape.free(one); }, this);
      }, this);
    }
    /* `y = loop n f y ...`: f runs n times on what it gave before, each time with the next copy of each tensor. */
    loop(line, values) {
      var results = this.tape.holdAll(values.slice(2)), before = this.copy, wanted = Math.max(1, line.targets.length);
      for (var i = 0; i < Math.trunc(values[0]); i++) {
        this.copy = i;
        var changed = this.apply(values[1], results, line);
        this.tape.letGo(results.slice(0, changed.length));
        results = changed.concat(results.slice(changed.length));
      }
      this.copy = before;
      this.tape.letGo(results.slice(wanted));
      return results.slice(0, wanted);
    }
    /* `y = stacked n f x ...`: f runs n times on the same, each time with the next copy of each tensor; what it gives becomes one tensor. */
    stacked(line, values) {
      var made = [], before = this.copy, n = Math.trunc(values[0]);
      for (var i = 0; i < n; i++) {
        this.copy = i;
        made = made.concat(this.apply(values[1], values.slice(2), line));
      }
      this.copy = before;
      var results = this.operate(this.rules.stack, made, [n]);
      this.tape.letGo(made);
      return results;
    }
  }

  parts.Caller = Caller;
})();

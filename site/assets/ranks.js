/* One rank of FSDP2: peftonomy/memory/ranks.py. After step.js. Parameters are gathered, released, and their gradients reduced. */
"use strict";

(function () {
  var inner = peft.inner, parts = inner.memory, Tensor = parts.Tensor, product = inner.product, within = parts.within;

  /* Rows of a rank's shard: the first dimension is padded to a multiple of the number of ranks. */
  function share(rows, gpus) { return Math.floor((rows + gpus - 1) / gpus); }
  /* The shape of a rank's shard. */
  function shared(shape, gpus) { return [share(shape[0], gpus)].concat(shape.slice(1)); }

  /* A unit in a step. inside: its parameters as tensors of the step. before: what the forward pass ran before it. */
  function Run(unit, inside, before) {
    this.unit = unit; this.inside = inside; this.before = before; this.storage = null; this.reached = this.reduced = false;
  }

  /* how: the sharding, with the bytes per entry of `frozen` and `trained` shards, of `reduced` gradients, whether
     everything is gathered as `mixed`, and whether weights are `packed` as nf4. */
  class RankStep extends parts.Step {
    constructor(program, flags, how) {
      super(program, flags);
      this.how = how; this.gpus = how.gpus; this.units = new Map();
      this.order = []; this.buffer = this.fetched = this.sent = null;
    }

    /* ---- parameters ---- */

    /* The parameters of a layer, which are gathered together; for layer -1 those outside the layers. */
    unit(stack, layer) {
      var key = stack + "|" + layer;
      if (!this.units.has(key)) this.units.set(key, this.unitOf(stack, layer));
      return this.units.get(key);
    }
    unitOf(stack, layer) {
      var self = this, how = this.how, found = new Map(), unit = { parameters: found, last: new Set(), shards: 0, gathered: 0, cast: 0 }, widths = new Set();
      this.program.plan.inv.modules.forEach(function (m) {
        if (layer < 0 ? m.layers : !m.layers || m.stack !== stack || !within(m.layers, layer)) return;
        m.parameters.forEach(function (p) {
          var shape = p[1], trained = self.program.trains(m, p[0], layer), packed = how.packed && m.stack && p[0] === "weight" && inner.LINEAR.indexOf(m.kind) >= 0;
          if (!shape.length) inner.fail("memory: FSDP2 cannot shard scalar parameters, and the model has " + parts.joined(m.path, p[0]));
          var width = self.model.single(m) ? parts.SINGLE : trained ? how.trained : how.frozen, data = how.data;
          if (layer >= 0 && m.kind === "norm") unit.last.add(m.path + "|" + p[0]);   // models register norms last
          if (packed && trained) inner.fail(self.program.plan.method.name + " trains weights that are to be held in nf4", "quantized");
          if (packed && how.quant_storage === "uint8") unit.shards += Math.ceil(product(shape) * data.bits / 8);
          else if (packed) found.set(m.path + "|" + p[0], { rows: Math.ceil(product(shape) / data.packed[0]), rest: 1, width: data.packed[1], gathered: data.packed[1], number: 1 });
          else found.set(m.path + "|" + p[0], { rows: shape[0], rest: product(shape.slice(1)), width: width, gathered: how.mixed ? how.frozen : width, trained: trained, number: 1 });
        });
      });
      this.program.rows.forEach(function (row) {
        if (!row.learns || row.piece.tensor.selecting) return;
        if (layer < 0 ? row.layers : !row.layers || row.spot.stack !== stack || !within(row.layers, layer)) return;
        found.set(row.key, { rows: row.sizes[0], rest: product(row.sizes.slice(1)), width: how.trained, gathered: how.mixed ? how.frozen : how.trained, trained: true, number: row.copies });
      });
      found.forEach(function (p) {
        var entries = share(p.rows, self.gpus) * p.rest * p.number;
        unit.shards += entries * p.width;
        unit.gathered += entries * self.gpus * p.gathered;
        if (p.width !== p.gathered) unit.cast += entries * p.gathered;
        if (p.trained) widths.add(p.width);
      });
      if (widths.size > 1) inner.fail(this.program.plan.method.name + ": FSDP2 expects one type for all trained parameters of a layer");
      return unit;
    }
    /* Bytes of the parameters that the rank stores. */
    get shards() {
      var self = this, total = this.unit("", -1).shards;
      this.sequences.forEach(function (groups, stack) {
        groups.forEach(function (pair) { pair[0].forEach(function (n) { total += self.unit(stack, n).shards * (1 + pair[1]); }); });
      });
      return total;
    }
    gradients() {
      var self = this, unit = this.unit(this.stack, this.number), entries = 0;
      this.inside.forEach(function (p) { if (p.live) entries += self.entries(unit, p); });
      return entries * this.how.trained;
    }
    /* Entries of a rank's shard of a parameter. */
    entries(unit, x) {
      var key = x.own ? x.own[0] : x.key, rest = x.own && x.key.slice(key.length + 1).split("|");
      if (x.own && x.key.indexOf(key + "|") !== 0) inner.fail(this.program.plan.method.name + " reads its tensors of all layers together, but FSDP2 shards them");
      if (rest && rest.length > 1) {
        var shape = this.parts.get(key).get(Number(rest[1]));
        return product(shared(shape, this.gpus));
      }
      var one = unit.parameters.get(key);
      if (rest && rest[0] === "null" && one.number > 1) return share(one.number, this.gpus) * one.rows * one.rest;   // all copies are one tensor
      return share(one.rows, this.gpus) * one.rest;
    }

    /* ---- forward ---- */

    starts() {
      this.root = new Run(this.unit("", -1), this.outside, null);
      this.gather(this.root);
    }
    layer(values, more) {
      var self = this, order = this.order, run = new Run(this.unit(this.stack, this.number), this.inside, order.length ? order[order.length - 1] : null);
      if (more) run.before = run;   // the layer before it is one that counts
      order.push(run);
      this.gather(run);
      if (values.some(function (x) { return x instanceof Tensor && x.live; })) this.tape.records.push(function () { if (run.reached) self.reduce(run); });
      var results = super.layer(values, more), outputs = results.filter(function (y) { return y instanceof Tensor && y.live; });
      if (this.how.reshard_after_forward) this.release(run);
      this.tape.records.push(function () { self.arrive(run, outputs); });
      return results;
    }
    gather(run) {
      var made = this.fetch(run);
      this.copyOut(run);
      this.let(this.buffer);
      this.buffer = made;
    }
    /* The buffer into which a unit's shards are gathered. */
    fetch(run) {
      var cast = run.unit.cast ? this.made(run.unit.cast) : null, buffer = this.made(run.unit.gathered);
      this.let(cast);
      return buffer;
    }
    copyOut(run) {
      this.tape.gathered += run.unit.gathered;
      run.storage = this.apart(run.unit.gathered);
    }
    release(run) {
      if (!run.storage) return;
      this.tape.gathered -= run.unit.gathered;
      this.tape.free(run.storage);
      run.storage = null;
    }

    /* ---- backward ---- */

    turns() {
      var self = this;
      this.let(this.buffer);
      this.buffer = null;
      this.tape.records.push(function () { self.prefetch(self.order.length ? self.order[self.order.length - 1] : null); });
    }
    ends() {
      this.reduce(this.root);
      this.order.forEach(function (run) { if (!run.reduced) this.reduce(run); }, this);
    }
    prefetch(run) { if (run && !run.storage) this.fetched = { run: run, buffer: this.fetch(run) }; }
    /* The backward pass reaches a unit, if it has a gradient of an output. */
    arrive(run, outputs) {
      if (!outputs.some(function (y) { return y.grad; })) return;
      run.reached = true;
      if (!run.storage) {
        if (!this.fetched || this.fetched.run !== run) {
          if (this.fetched) this.let(this.fetched.buffer);
          this.fetched = { run: run, buffer: this.fetch(run) };
        }
        this.copyOut(run);
        this.let(this.fetched.buffer);
        this.fetched = null;
      }
      if (this.how.reshard_after_forward) this.prefetch(run.before !== run ? run.before : new Run(run.unit, null, null));
    }
    /* Release a unit, and reduce its gradients. */
    reduce(run) {
      var self = this, tape = this.tape, arrived = [], entries = 0, order = Array.from(run.unit.parameters.keys()), made;
      function place(p) {
        var key = p.own ? p.own[0] : p.key;
        return order.indexOf(key) + (run.unit.last.has(key) ? order.length : 0);
      }
      run.reduced = true;
      this.release(run);
      this.let(this.sent);
      this.sent = null;
      run.inside.forEach(function (p) { if (p.grad) arrived.push(p); });
      if (!arrived.length) return;
      arrived.forEach(function (p) { entries += self.entries(run.unit, p); });
      this.sent = this.made(entries * this.gpus * this.how.reduced);
      arrived.sort(function (a, b) { return place(a) - place(b); }).slice(0, -1).forEach(this.letGrad, this);
      tape.grads += entries * this.how.trained;
      made = this.apart(entries * this.how.reduced);
      if (this.how.reduced !== this.how.trained) this.apart(entries * this.how.trained);
      this.letGrad(arrived[arrived.length - 1]);   // a variable of a loop holds it
      if (this.how.reduced !== this.how.trained) tape.free(made);
    }
    letGrad(p) {
      this.tape.free(p.grad);
      this.tape.grads -= p.bytes;
      p.grad = null;
    }

    /* ---- storages ---- */

    /* One that does not count as what the forward pass left. */
    apart(bytes) {
      var before = this.tape.forward, storage;
      this.tape.forward = false;
      storage = this.tape.create(bytes);
      this.tape.forward = before;
      return storage;
    }
    made(bytes) {
      this.tape.buffers += bytes;
      return this.apart(bytes);
    }
    let(buffer) {
      if (!buffer) return;
      this.tape.buffers -= buffer.bytes;
      this.tape.free(buffer);
    }

    unadapted() { this.twice(); }
    doubled() { this.twice(); }
    another() { this.twice(); }
    twice() { inner.fail(this.program.plan.method.name + " runs layers of the model twice in a step, which is not covered with fsdp"); }
  }

  Object.assign(parts, { RankStep: RankStep, shared: shared });
})();

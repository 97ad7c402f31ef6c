/* Tensors that have only sizes, and what is alive of them: peftonomy/memory/tensor.py and tape.py.
   After program.js. Bytes are integers below 2**53 and therefore exact; operations are more, and counted in BigInt. */
"use strict";

(function () {
  class Storage {
    /* group: the layers that count several times, if they made it. */
    constructor(bytes, forward, group) { this.bytes = bytes; this.holders = 1; this.forward = forward; this.group = group || null; }
  }

  /* Numbers of `width` bytes each. live: whether a gradient comes here. key: of a parameter, which one it is. own: of a method's
     parameter, the keys of its tensors. hooked: what a method makes of its gradient. anew: if it is made again for the backward pass, the most bytes alive meanwhile.
     laid: whether its heads lie in memory as a product of matrices reads them. */
  class Tensor {
    constructor(shape, width, live, storage, key) {
      this.shape = shape; this.width = width; this.live = live; this.key = key || null;
      this.bytes = shape[0] * shape[1] * shape[2] * width;
      this.storage = storage || new Storage(this.bytes, false);
      this.grad = this.hooked = this.own = null; this.anew = 0; this.laid = false;
    }
  }

  /* A tensor that the backward pass makes again: its bytes, and the most bytes alive while it is made. */
  class Anew {
    constructor(bytes, most) { this.bytes = bytes; this.most = most; }
  }

  /* An operation on the tape: what formulas saw, and what is kept for it. */
  class Record {
    constructor(rule, inputs, numbers, outputs, names, kept) {
      this.rule = rule; this.inputs = inputs; this.numbers = numbers; this.outputs = outputs; this.names = names; this.kept = kept;
    }
  }

  /* A layer on the tape that runs once more: its inputs and outputs, what is kept for it, and how it runs. */
  class Checkpoint {
    constructor(inputs, outputs, run) {
      this.inputs = inputs; this.outputs = outputs; this.run = run;
      this.kept = inputs.map(function (x) { return x.storage; });
    }
  }

  /* now, peak: bytes alive, and the most of them. high: the most since `watch`. left, grads, gathered, buffers: of those
     alive, what the forward pass left, gradients of parameters, parameters gathered from other ranks, and buffers of
     collectives; at the peak, `most`. flops: operations so far. arrived: keys of the method's own tensors that got a gradient. */
  class Tape {
    constructor() {
      this.now = this.peak = this.high = this.left = this.grads = this.gathered = this.buffers = 0;
      this.most = [0, 0, 0, 0];
      this.flops = 0n;
      this.forward = true;
      this.records = [];
      this.group = null;
      this.arrived = new Set();
    }
    see(moment) {
      if (moment > this.high) this.high = moment;
      if (moment > this.peak) { this.peak = moment; this.most = [this.left, this.grads, this.gathered, this.buffers]; }
    }
    /* Begin to watch for the most bytes alive; what comes back goes to `unwatch`. */
    watch() {
      var outer = this.high;
      this.high = 0;
      return outer;
    }
    unwatch(outer) { this.high = Math.max(this.high, outer); }
    /* Bytes that come, held once. */
    create(bytes) {
      this.now += bytes;
      this.see(this.now);
      if (this.forward) this.left += bytes;
      return new Storage(bytes, this.forward, this.group);
    }
    free(storage) {
      if (--storage.holders) return;
      this.now -= storage.bytes;
      if (storage.forward) this.left -= storage.bytes;
    }
    hold(x) { x.storage.holders++; return x; }
    holdAll(values) {
      for (var i = 0; i < values.length; i++) if (values[i] instanceof Tensor) values[i].storage.holders++;
      return values;
    }
    letGo(values) { for (var i = 0; i < values.length; i++) if (values[i] instanceof Tensor) this.free(values[i].storage); }

    /* Let go of what is kept for other gradients than that of a tensor; the tensors that this one reaches. */
    only(root) {
      var wanted = new Set([root]), left = [];
      for (var record; (record = this.records.pop());) {
        if (record.outputs) {
          if (!record.outputs.some(function (y) { return wanted.has(y); })) {
            this.drop(record.kept.filter(function (one) { return one instanceof Storage; }));
            continue;
          }
          record.inputs.forEach(function (x) { if (x.live) wanted.add(x); });
        }
        left.push(record);
      }
      this.records = left.reverse();
      return wanted;
    }
    /* One holder less for each, also in the layers that only count. */
    drop(storages) {
      storages.forEach(function (storage) {
        this.free(storage);
        if (!storage.holders && storage.group) storage.group.lose(this, storage.bytes);
      }, this);
    }
    /* From the end of the tape to its beginning. */
    back() {
      while (this.records.length) {
        var record = this.records.pop();
        if (record instanceof Record) this.undo(record); else if (record instanceof Checkpoint) record.run(); else record();
      }
    }
    undo(record) {
      var rule = record.rule, inputs = record.inputs, outputs = record.outputs, kept = record.kept, y = outputs[0], passed = [], i, x;
      var arrived = [];
      for (i = 0; i < outputs.length; i++) {
        if (!outputs[i].grad) continue;
        if (outputs[i].hooked) outputs[i].grad = outputs[i].hooked(outputs[i].grad);
        arrived.push(outputs[i].grad);
      }
      if (arrived.length) {
        for (i = 0; i < kept.length; i++) if (kept[i] instanceof Anew) kept[i] = this.again(kept[i]);
        for (i = 0; i < outputs.length; i++) outputs[i].grad = null;
        for (var later = [], raw = 0, j = 0; j < inputs.length && j < rule.through; j++) {
          x = inputs[j];
          if (!x.live) continue;
          if (rule.passes && (x.bytes === y.bytes || rule.passes !== true)) {
            arrived[0].holders++;
            passed.push([x, arrived[0]]);
          } else if (rule.summed && x.bytes < y.bytes) {
            later.push(x);
            raw += y.bytes;
          } else passed.push([x, this.create(x.bytes)]);
        }
        for (i = 0; i < later.length; i++) {   // all products are there before the first is summed, or gets another type
          this.see(this.now + raw);
          passed.push([later[i], this.create(later[i].bytes)]);
          this.see(this.now + raw);
          raw -= y.bytes;
        }
        this.see(this.now + (rule.beside ? rule.beside(record.names, inputs, y, record.numbers) : 0));
        if (rule.back) this.flops += rule.back(record.names, inputs, y, record.numbers);
        else if (rule.flops) this.flops += BigInt(inputs.slice(0, 2).filter(function (x) { return x.live; }).length) * rule.flops(record.names, inputs, y, record.numbers);
        for (i = 0; i < arrived.length; i++) this.free(arrived[i]);
      }
      for (i = 0; i < kept.length; i++) if (kept[i] instanceof Storage) this.free(kept[i]);
      for (i = 0; i < passed.length; i++) this.add(passed[i][0], passed[i][1], rule.passes === "views");
    }
    again(made) {
      this.see(this.now + made.most);
      return this.create(made.bytes);
    }
    /* A gradient in a storage of its own. */
    copied(x, grad) {
      var made = this.create(x.bytes);
      this.free(grad);
      return made;
    }
    /* A gradient of x, or another one, which takes a third tensor for a while. view: it is a part of a larger one, and stays so. */
    add(x, grad, view) {
      if (x.grad) {
        var both = this.create(x.bytes);
        this.free(x.grad);
        this.free(grad);
        x.grad = both;
        return;
      }
      if (x.key) {
        if (x.own) x.own.forEach(function (key) { this.arrived.add(key); }, this);
        if (x.hooked) grad = x.hooked(grad);
        else if (grad.holders > 1 && !view) grad = this.copied(x, grad);   // others hold it
        this.grads += x.bytes;
      }
      x.grad = grad;
    }
  }

  Object.assign(peft.inner.memory, { Storage: Storage, Tensor: Tensor, Anew: Anew, Checkpoint: Checkpoint, Record: Record, Tape: Tape });
})();

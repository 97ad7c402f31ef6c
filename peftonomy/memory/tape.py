"""Count living bytes: storages with their holders, the tape of a forward pass, and the backward pass along it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from .rules import Rule
from .tensor import Storage, Tensor

__all__ = ["Anew", "Checkpoint", "Record", "Tape"]


class Anew(NamedTuple):
    """A tensor that the backward pass makes again: its bytes, and the most bytes alive while it is made."""

    bytes: Any
    most: Any


class Record(NamedTuple):
    """An operation on the tape: its rule, inputs, numbers and outputs, what formulas saw, and what is kept for it."""

    rule: Rule
    inputs: list[Tensor]
    numbers: list[Any]
    outputs: list[Tensor]
    names: Any
    kept: list[Storage | Anew]


class Checkpoint(NamedTuple):
    """A layer on the tape that runs once more: its inputs and outputs, what is kept for it, and how it runs."""

    inputs: list[Tensor]
    outputs: list[Tensor]
    kept: list[Storage]
    run: Callable[[], None]

    def __call__(self) -> None:
        self.run()


class Tape:
    """Counts bytes as they come and go.

    now, peak: bytes alive, and the most of them. high: the most since `watch`. left, grads: of those alive, what the
    forward pass left and gradients of parameters. gathered, buffers: parameters gathered from other ranks, and buffers
    of collectives. At the peak, these four are `most`. flops: operations so far. arrived: the keys of parameters that
    got a gradient.
    """

    def __init__(self) -> None:
        self.now: Any = 0
        self.peak: Any = 0
        self.high: Any = 0
        self.flops: Any = 0
        self.left: Any = 0
        self.grads: Any = 0
        self.gathered: Any = 0
        self.buffers: Any = 0
        self.most: tuple[Any, ...] = (0, 0, 0, 0)
        self.arrived: set[Any] = set()
        self.forward = True
        self.records: list[Record | Checkpoint | Callable[[], None]] = []
        self.origin = ""
        self.group: Any = None
        self.log: list[tuple[Storage, int]] | None = None
        """All storages that came (1) and went (-1), in order, for those who look."""

    def see(self, moment: Any) -> None:
        """Note a moment with this number of living bytes."""
        if moment > self.high:
            self.high = moment
        if moment > self.peak:
            self.peak, self.most = moment, self.parts

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return what is alive now, by kind: left, grads, gathered and buffers."""
        return self.left, self.grads, self.gathered, self.buffers

    def watch(self) -> Any:
        """Begin to watch for the most bytes alive. Returns what `unwatch` needs to go on with the watch around it."""
        outer, self.high = self.high, 0
        return outer

    def watched(self) -> Any:
        """Return the largest number of living bytes since `watch`."""
        return self.high

    def unwatch(self, outer: Any) -> None:
        """End the watch that `watch` began."""
        self.high = max(self.high, outer)

    def new(self, size: Any) -> Storage:
        """Return a new storage, held once."""
        self.now += size
        self.see(self.now)
        storage = Storage(size, self.forward, self.origin, self.group)
        if self.forward:
            self.left += size
        if self.log is not None:
            self.log.append((storage, 1))
        return storage

    def free(self, storage: Storage) -> None:
        """Remove one holder; the storage dies with the last."""
        storage.holders -= 1
        if not storage.holders:
            self.now -= storage.bytes
            if storage.forward:
                self.left -= storage.bytes
            if self.log is not None:
                self.log.append((storage, -1))

    @staticmethod
    def hold(tensor: Tensor) -> Tensor:
        """Add one holder and return the tensor."""
        tensor.storage.holders += 1
        return tensor

    def only(self, roots: Sequence[Tensor]) -> set[int]:
        """Let go of what is kept for other gradients than those of these tensors. Returns the ids of all tensors that
        these gradients reach."""
        wanted = {id(x) for x in roots}
        left = []
        for record in reversed(self.records):
            if isinstance(record, Record | Checkpoint):
                for y in record.outputs:
                    if id(y) in wanted:
                        break
                else:
                    self.drop(one for one in record.kept if isinstance(one, Storage))
                    continue
                for x in record.inputs:
                    if x.live:
                        wanted.add(id(x))
            left.append(record)
        self.records = left[::-1]
        return wanted

    def drop(self, storages: Iterable[Storage]) -> None:
        """Remove one holder from each storage, also in the layers that only count."""
        for storage in storages:
            self.free(storage)
            if not storage.holders and storage.group is not None:
                storage.group.lose(self, storage.bytes)

    def back(self) -> None:
        """Run the backward pass, from the end of the tape to its beginning."""
        while self.records:
            record = self.records.pop()
            if isinstance(record, Record):
                self._back(record)
            else:
                record()

    def _back(self, record: Record) -> None:
        rule, inputs, numbers, outputs, names, kept = record
        for y in outputs:
            if y.hooked is not None and y.grad is not None:
                y.grad = y.hooked(y.grad)
        given = [y.grad for y in outputs if y.grad is not None]
        passed: list[tuple[Tensor, Storage]] = []
        if given:
            for i, one in enumerate(kept):
                if isinstance(one, Anew):
                    kept[i] = self.again(one)
            y, raw = outputs[0], 0
            for output in outputs:
                output.grad = None
            later: list[Tensor] = []
            for x in inputs[: rule.through]:
                if not x.live:
                    continue
                if rule.passes and (x.bytes == y.bytes or rule.passes in ("parts", "views")):
                    given[0].holders += 1
                    passed.append((x, given[0]))
                elif rule.summed and x.bytes < y.bytes:
                    later.append(x)
                    raw += y.bytes
                else:
                    passed.append((x, self.new(x.bytes)))
            for x in later:  # all products are there before the first is summed, or gets another type
                self.see(self.now + raw)
                storage = self.new(x.bytes)
                self.see(self.now + raw)
                passed.append((x, storage))
                raw -= y.bytes
            beside: Any = 0
            if "beside" in rule.sizes:
                beside = rule.sizes["beside"](names, inputs, y, numbers)[0]
            self.see(self.now + beside)
            if rule.flops is not None:
                which = "back" if rule.back is not None else "flops"
                products = 1 if which == "back" else sum(x.live for x in inputs[:2])
                self.flops += products * rule.sizes[which](names, inputs, y, numbers)[0]
            for storage in given:
                self.free(storage)
        for one in kept:
            if isinstance(one, Storage):
                self.free(one)
        for x, grad in passed:
            self.add(x, grad, rule.passes == "views")

    def again(self, made: Anew) -> Storage:
        """Make a tensor again and return its storage."""
        self.see(self.now + made.most)
        return self.new(made.bytes)

    def add(self, x: Tensor, grad: Storage, view: bool = False) -> None:
        """Add a gradient of x. A second one is summed into a third, temporary tensor. view: the gradient stays a view
        of a larger tensor."""
        if x.grad is not None:
            both = self.new(x.bytes)
            self.free(x.grad)
            self.free(grad)
            x.grad = both
            return
        if x.key is not None:
            self.arrived.add(x.key)
            if x.hooked is not None:
                grad = x.hooked(grad)
            elif grad.holders > 1 and not view:  # others hold it
                copy = self.new(x.bytes)
                self.free(grad)
                grad = copy
            self.grads += x.bytes
        x.grad = grad

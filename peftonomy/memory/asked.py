"""Answer one question about a training step: run its program, then add weights, gradients and optimizer states."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..catalogue.records import Records
from ..costs.layout import Spot
from ..errors import UsageError
from ..schema.base import Value
from ..schema.names import BY_TEXTS
from .machine import SINGLE
from .optimizer import Trained, Update, update
from .program import Model, Program, Turn
from .rules import load_language
from .setting import BLOCK, DTYPES, LABEL_BYTES, OPTIMIZER, OPTIMIZERS, QUANTIZED, TOKEN_BYTES, Memory, Setting
from .sharding import RankMemory, Sharding, divided, share
from .step import Flags, Step
from .updates import Ruled, Taken, own, ruled, taken

if TYPE_CHECKING:
    from ..backbones.modules import Module
    from ..costs.plan import Plan, Row

__all__ = ["Asked", "Ledger", "Totals", "billed", "learned", "modelled"]

EXACT = 2**53


class Totals(NamedTuple):
    """Results of one step.

    first, second: of the forward and the backward pass, the bytes at the peak, and the tape's `parts` of them. kept:
    bytes alive between the passes. forward, flops: operations of the forward pass, and of both. holds: bytes that the
    method holds besides its tensors. states, updating: bytes that its own rule of the update keeps, and takes for a
    while. shards: the step's. parts: the rows whose tensors are several parameters, by number, with their sizes.
    """

    first: tuple[int, ...]
    kept: int
    forward: int
    second: tuple[int, ...]
    flops: int
    holds: int
    states: int
    updating: int
    shards: int
    parts: Mapping[int, Sequence[tuple[int, ...]]]


Single = tuple[int, int, int]
"""Bytes of one tensor of the backbone, -1 and its rows; or 0, the number of the row whose tensor it is, and of its
part."""


class Ledger(NamedTuple):
    """The parts of an answer that are the same for all questions with the same rows.

    eager: whether attention is written out. forward_only: whether the step has no backward pass.
    backbone: trained tensors of the backbone that the step reaches, each kind with its number. ruled: those of them
    that the method's own rule updates. taken: the rows whose tensors it updates. resting: those of the backbone that
    are trained in other turns, and keep their states.
    trained: numbers of all that are trained, reached or not. unreached: the rows whose tensors are trained and get no
    gradient.
    pairs: two tensors that the optimizer updates one after the other, the second one first; of equal pairs one.
    matrices: linear layers inside of the stacks, each with whether its weight is trained.
    widened: by how many bytes the parameters grow that are in float32 whatever type the model has.
    bucketed: bytes of the gradients of all trained tensors of the backbone, reached or not.
    """

    eager: bool
    forward_only: bool
    backbone: tuple[Trained, ...]
    ruled: tuple[Trained, ...]
    taken: frozenset[int]
    resting: tuple[Trained, ...]
    trained: int
    unreached: frozenset[int]
    pairs: tuple[tuple[Single, Single], ...]
    matrices: tuple[tuple[Module, bool], ...]
    buffers: int
    widened: int
    bucketed: int
    pixels: int


NONE: Single = (0, -1, 0)


class Asked:
    """One question: a plan with hyperparameters and a setting."""

    sizes: Mapping[str, Any]
    """The hyperparameters as formulas see them."""

    def __init__(self, kb: Records[Any], plan: Plan, given: Mapping[str, Any], setting: Setting):
        values = plan.values(given)
        rows = plan.each(values)
        model, self.sizes = modelled(kb, plan), values
        self._put(plan, model, Program(plan, model, values, rows, DTYPES[setting.dtype][0]), values, rows, setting)

    def _put(
        self, plan: Plan, model: Model, program: Program, values: Mapping[str, Value], rows: Sequence[Row],
        setting: Setting,
    ) -> None:  # fmt: skip
        self.plan, self.inventory, self.model, self.program = plan, plan.inventory, model, program
        self.values, self.rows = values, rows
        operations, config = model.operations, model.config
        if program.eager or not operations.sdpa(config):
            setting = replace(setting, attention="eager")
        if setting.checkpointing and not operations.checkpointing:
            raise UsageError(
                f"checkpointing: transformers does not have it for {model.family.name}, or not for layers alone; "
                "expected none"
            )
        self.setting = setting
        self.w, self.w_t = DTYPES[setting.dtype]

    def flags(self, whole: bool = False) -> Flags:
        """Return how the step is run."""
        s = self.setting
        mixed = s.dtype == "mixed"
        return Flags(s.batch, s.tokens, self.w, self.w_t, mixed, s.attention == "eager", s.checkpointing, "cpu", whole)

    def turns(self) -> list[Turn | None]:
        """Return the turns of which one takes the most memory; None alone if everything is trained at a time."""
        if self.program.together is None:
            return [None]
        return [*self.program.turns(self.step().every)]

    def step(self, turn: Turn | None = None) -> Step:
        """Return a step of the program; in a turn, if layers are trained in turns."""
        return Step(self.program if turn is None else self.program.during(turn), self.flags())

    def totals(self, step: Step) -> Totals:
        """Run the step and return its totals."""
        tape = step.tape
        loss = step.run()
        first, kept, forward = (tape.peak, *tape.most), tape.now, tape.flops
        tape.peak = 0
        step.back(loss)
        second = tape.peak, *tape.most
        return Totals(
            first, kept, forward, second, tape.flops, self.program.holds, *self.own(step), step.shards, self.parts(step)
        )  # fmt: skip

    def own(self, step: Step) -> tuple[Any, Any]:
        """Return the bytes that the method's own rule keeps, and those that it takes for a while."""
        added = taken(step.program, self.sizes, self.w_t, step.arrived()) if own(self.plan) else []
        keeping: list[Ruled | Taken] = [*self.rules(step, kept=True), *added]
        rules: list[Ruled | Taken] = [*self.rules(step), *added]
        states = sum(r.states * r.number for r in keeping)
        return states, max((r.temporary for r in rules), default=0) + sum(r.together * r.number for r in rules)

    def rules(self, step: Step, kept: bool = False) -> list[Ruled]:
        """Return the parameters that the method's own rule updates, as far as the step reaches them.

        kept: also those of other turns whose states stay.
        """
        program = self.program if kept and not self.program.drops else step.program
        return [r for r in ruled(program, self.sizes, self.w_t) if step.reached(r.module, r.suffix)]

    def parts(self, step: Step) -> dict[int, list[tuple[int, ...]]]:
        """Return the parameters' sizes for each row whose tensor is split into several parameters."""
        shapes = {i: step.shapes(row, row.piece.group.spots[0][1]) for i, row in enumerate(self.rows) if learned(row)}
        return {i: several for i, several in shapes.items() if several}

    def ledger(self, step: Step) -> Ledger:
        """Return the parts of the answer that depend only on the rows and the settings."""
        trains, inventory, model = self.program.trains, self.inventory, self.model
        backbone, owned, resting = list[Trained](), list[Trained](), list[Trained]()
        everything = bucketed = 0
        rules = self._ruled(step)
        for module in inventory.modules:
            for suffix, shape in module.parameters:
                if (module.path, suffix) not in self.program.trained:
                    continue
                number = sum(trains(module, suffix, n) for n in module.layers or (-1,))
                everything += number * math.prod(shape)
                bucketed += number * math.prod(shape) * self._width(module)
                if number and step.reached(module, suffix):
                    now = sum(step.program.trains(module, suffix, n) for n in module.layers or (-1,))
                    several = sum((module.path, suffix, n) in rules for n in module.layers or (-1,))
                    rest = 0 if self.program.drops or several else number - now
                    kinds = (backbone, now - several), (owned, several), (resting, rest)
                    for kind, n in kinds:
                        kind += [Trained(shape, self._width(module), n)] if n else []
        arrived = step.arrived()
        unreached = frozenset(
            i for i, row in enumerate(self.rows)
            if learned(row) and not any(self.program.key(row, spot) in arrived for _, spot in row.piece.group.spots)
        )  # fmt: skip
        matrices = [
            (m, any(trains(m, "weight", n) for n in m.layers))
            for m in inventory.modules if m.kind in ("linear", "conv1d") and m.stack
        ]  # fmt: skip
        before, pairs = NONE, dict[tuple[Single, Single], None]()
        for single in self.ordered(step):
            pairs[single, before] = None
            before = single
        return Ledger(
            self.setting.attention == "eager", self.program.evaluations > 0, tuple(backbone), tuple(owned),
            self._taken(), tuple(resting), everything, unreached, tuple(pairs),
            tuple(matrices),
            int(model.operations.buffers({**model.names[""], "width": self.w})), self._widened(),
            bucketed, int(model.operations.pixels(model.config)),
        )  # fmt: skip

    def ordered(self, step: Step) -> Iterator[Single]:
        """Yield single tensors in the optimizer's order, layer by layer. Equal layers are not all repeated."""
        added: dict[tuple[str, str], list[tuple[int, Row, Spot]]] = {}
        arrived, rules, mine = step.arrived(), self._ruled(step), self._taken()
        for index, row in enumerate(self.rows):
            if learned(row) and index not in mine:
                for _, spot in row.piece.group.spots:
                    if self.program.key(row, spot) not in arrived:
                        continue
                    stack = "" if spot.source is None else spot.source.stack
                    added.setdefault((stack, where(spot)), []).append((index, row, spot))

        last = {(m.stack, m.path): m for m in self.inventory.modules}  # fused experts are several at one path

        def module(m: Module, layer: int) -> Iterator[Single]:
            for suffix, shape in m.parameters:
                trained = step.program.trains(m, suffix, layer) and (m.path, suffix, layer) not in rules
                if trained and step.reached(m, suffix):
                    yield math.prod(shape) * self._width(m), -1, shape[0] if shape else 1
            if last[m.stack, m.path] is m:
                yield from beside(m.stack, m.path, layer)

        def beside(stack: str, path: str, layer: int) -> Iterator[Single]:
            for index, row, spot in added.get((stack, path), ()):
                layers = spot.layers if row.layers is None else row.layers
                if not spot.layers or layer in layers:
                    number = len(step.shapes(row, spot)) or 1
                    yield from [(0, index, part) for part in range(number)] * min(row.copies, 2)

        outside = [m for m in self.inventory.modules if not m.stack]
        weights = [f"{m.path}.{suffix}" for m in self.inventory.modules for suffix, _ in m.parameters]
        order = {path: number for number, path in enumerate(weights)}
        for m in (m for m in outside if m.role.startswith("embed.")):
            yield from module(m, -1)
        for stack in self.inventory.stacks:
            inside = [m for m in self.inventory.modules if m.stack == stack]
            for layer in (n for numbers, _ in step.sequence(stack) for n in numbers):
                for m in inside:
                    if layer in m.layers:
                        yield from module(m, layer)
                others = {p for s, p in added if s == stack} - {m.path for m in inside}
                for path in sorted(others, key=lambda p: (order.get(p, -1), p)):
                    yield from beside(stack, path, layer)
        for m in (m for m in outside if not m.role.startswith("embed.")):
            yield from module(m, -1)
        yield from beside("", "", -1)

    def _ruled(self, step: Step) -> frozenset[tuple[str, str, int]]:
        """Return the parameters that the method's own rule updates: module, name and layer."""
        return frozenset((r.module.path, r.suffix, n) for r in self.rules(step) for n in r.layers or (-1,))

    def _taken(self) -> frozenset[int]:
        """Return the rows whose tensors the method's own rule updates."""
        names = own(self.plan)
        return frozenset(i for i, row in enumerate(self.rows) if learned(row) and self.program.named(row) in names)

    def _width(self, module: Module) -> int:
        """Return the bytes per entry of a module's trained parameters."""
        return SINGLE if self._single(module) else self.w_t

    def _single(self, module: Module) -> bool:
        """Return True if a module's parameters stay in float32 whatever the model's type."""
        return module.role in self.model.operations.float32

    def _widened(self) -> int:
        """Return how many bytes the parameters that stay in float32 take beyond the model's type."""
        grown = 0
        for module in (m for m in self.inventory.modules if self._single(m)):
            for suffix, shape in module.parameters:
                for layer in module.layers or (-1,):
                    width = self.w_t if self.program.trains(module, suffix, layer) else self.w
                    grown += math.prod(shape) * (SINGLE - width)
        return grown

    def answer(self, turn: Turn | None = None) -> tuple[Totals, Ledger]:
        """Run the step and return its totals and the ledger."""
        step = self.step(turn)
        return self.totals(step), self.ledger(step)

    def memory(self) -> Memory:
        """Run the step and return its memory; that of the largest turn, if there are several."""
        return max((self.in_turn(turn) for turn in self.turns()), key=lambda memory: memory.peak)

    def in_turn(self, turn: Turn | None) -> Memory:
        """Run the step of one turn and return its memory."""
        return billed(self.plan, self.setting, self.values, self.rows, *self.answer(turn))


def billed(
    plan: Plan, setting: Setting, values: Mapping[str, Value], rows: Sequence[Row], totals: Totals, ledger: Ledger,
    sharding: Sharding | None = None,
) -> Memory:  # fmt: skip
    """Return the answer: the totals of a step, with weights, optimizer states and the batch. Raises UsageError.

    sharding: the answer is for one rank. With fsdp, the totals are those of a rank.
    """
    if ledger.eager and setting.attention != "eager":
        setting = replace(setting, attention="eager")
    w, w_t = DTYPES[setting.dtype]
    inventory = plan.inventory
    if ledger.ruled or ledger.taken or ledger.forward_only:
        _own_rule(plan, setting, sharding)
    gpus = sharding.gpus if sharding is not None and sharding.shard == "fsdp" else 1
    tensors = [t if gpus == 1 else t._replace(shape=_share(t.shape, gpus)) for t in ledger.backbone]
    numbers = trained = frozen = 0  # those of the method itself
    mine = list[Trained]()
    sizes: list[list[int]] = []  # bytes of single tensors
    for index, row in enumerate(rows):
        tensor = row.piece.tensor
        sizes.append([row.count * w_t])
        if tensor.selecting:
            continue
        if row.learns:
            parts = totals.parts.get(index)
            shapes = parts or [plan.shape(row) or (row.count,)]
            trained += sum(math.prod(shape) * row.n for shape in shapes)
            if gpus > 1:
                shapes = [_share(shape, gpus) for shape in shapes]
            if index not in ledger.unreached:
                (mine if index in ledger.taken else tensors).extend(Trained(shape, w_t, row.n) for shape in shapes)
            if parts or gpus > 1:
                sizes[-1] = [math.prod(shape) * w_t for shape in shapes]
        elif tensor.served != "absent":
            frozen += row.count * row.n
        if row.learns:
            numbers += row.count * row.n
    trained += ledger.trained
    pairs = [
        (_single(a, m, gpus) if i < 0 else sizes[i][m], _single(b, n, gpus) if j < 0 else sizes[j][n])
        for (a, i, m), (b, j, n) in ledger.pairs
    ]
    divides = sharding is not None and sharding.shard == "zero1"
    kind = OPTIMIZERS[setting.optimizer]
    optimizer = divided(kind, tensors, sharding.gpus) if divides and sharding else update(kind, tensors, pairs)
    resting = update(kind, ledger.resting, ())
    gradients = sum(size(t) for t in [*tensors, *mine, *ledger.ruled])
    if ledger.forward_only:  # of one parameter, the perturbation
        gradients, optimizer = 0, Update(0, 0, max((one for one, _ in pairs), default=0))
    states, paged = optimizer.states + resting.states + int(totals.states), optimizer.paged + resting.paged
    held = int(totals.holds) + ledger.buffers
    if gpus > 1:
        assert sharding is not None
        weights = totals.shards + frozen * w + held + _scales(plan, setting, ledger)
    else:
        held += ledger.widened + _requantised(plan, setting, values, ledger)
        weights = (inventory.total + numbers + frozen - trained) * w + trained * w_t + held
    inputs = _inputs(setting, inventory.computed, inventory.num_labels, ledger.pixels)
    kept, first = totals.kept, totals.first[0]
    moments: list[tuple[Any, ...]] = [
        ("forward", first, min(first, kept), 0, *totals.first[3:]),
        ("backward", *totals.second),
        ("optimizer", gradients + max(optimizer.temporary, int(totals.updating)), 0, gradients, 0, 0),
    ]
    phase, *sums = max(moments, key=lambda m: m[1])
    peak, left, grads, gathered, buffers = map(int, sums)  # a size such as `bottleneck/2` is a float
    if gpus > 1 and phase == "forward":
        left = totals.first[1]
    if max(weights + peak + states, kept, paged) > EXACT:
        raise UsageError("memory: this step takes more than 2**53 bytes")
    common: tuple[Any, ...] = (
        plan.id, inventory.backbone.id, inventory.task, setting, dict(values), plan.targets, phase, weights, grads,
        states, left + inputs, peak - left - grads - gathered - buffers, kept + inputs, paged, trained,
        totals.forward, totals.flops,
    )  # fmt: skip
    found = Memory(*common)
    if sharding is None:
        return found
    if gpus == 1:  # the buckets into which DistributedDataParallel copies gradients
        buffers = ledger.bucketed + sum(
            row.count * row.n * w_t for row in rows if row.learns and not row.piece.tensor.selecting
        )
    return RankMemory(**vars(found), sharding=sharding, gathered=gathered, communication=buffers)


def _own_rule(plan: Plan, setting: Setting, sharding: Sharding | None) -> None:
    """Raise UsageError if the method's own rule of the update cannot take the optimizer's place."""
    if setting.optimizer != OPTIMIZER:
        raise UsageError(
            f"optimizer: found {setting.optimizer}; {plan.id} updates by a rule of its own; expected {OPTIMIZER}, "
            "the default"
        )
    if sharding is not None and sharding.shard != "ddp":
        raise UsageError(
            f"shard: found {sharding.shard}; {plan.id} updates by a rule of its own, which is not divided; expected ddp"
        )


def _share(shape: Sequence[int], gpus: int) -> tuple[int, ...]:
    """Return the shape of a rank's shard."""
    return (share(shape[0], gpus), *shape[1:])


def _single(size: int, rows: int, gpus: int) -> int:
    """Return the bytes of a rank's shard of a tensor with so many rows."""
    return size if gpus == 1 or not rows else size // rows * share(rows, gpus)


def _scales(plan: Plan, setting: Setting, ledger: Ledger) -> int:
    """Return the bytes of the scales of nf4, which are no parameters and so are not sharded. Raises UsageError."""
    if any(part.entry.base_storage for part in plan.parts):
        raise UsageError(
            f"{plan.id} stores the frozen weights in its own form, which is not covered with fsdp; ask for a method on "
            "plain weights with quantized nf4"
        )
    if setting.quantized is None:
        return 0
    return sum(4 * m.count * -(-_unquantised(plan, m, trained, setting) // BLOCK) for m, trained in ledger.matrices)


def _unquantised(plan: Plan, module: Module, trained: bool, setting: Setting) -> int:
    """Return the number of weights of a linear layer that is to be quantised. Raises UsageError if it is trained."""
    if trained:
        raise UsageError(f"{plan.id} trains weights that are to be held in {setting.quantized}")
    return module.d_in * module.d_out


def _inputs(setting: Setting, task: str, num_labels: int, pixels: int) -> int:
    """Return the bytes of a batch: tokens or pixels, or both, and labels."""
    labels = setting.tokens if task == "causal_lm" else 1
    if pixels:
        texts = num_labels * setting.tokens * (TOKEN_BYTES - LABEL_BYTES) if task == BY_TEXTS else 0
        return setting.batch * (pixels * DTYPES[setting.dtype][0] + LABEL_BYTES * labels) + texts
    return setting.batch * (setting.tokens * (TOKEN_BYTES - LABEL_BYTES) + LABEL_BYTES * labels)


def _requantised(plan: Plan, setting: Setting, values: Mapping[str, Value], ledger: Ledger) -> int:
    """Return how many bytes quantisation adds to the weights; negative if it saves bytes."""
    w, kind = DTYPES[setting.dtype][0], setting.quantized
    grown = plan.base_bytes(values, w) - plan.inventory.backbone.parameters * w
    if kind is None:
        return grown
    if any(part.entry.base_storage for part in plan.parts):
        raise UsageError(f"{plan.id} stores the frozen weights in its own form; leave out quantized {kind}")
    for m, trained in ledger.matrices:
        numel = _unquantised(plan, m, trained, setting)
        scales = -(-numel // BLOCK) if kind == "nf4" else m.d_out
        grown += m.count * (-(-numel * QUANTIZED[kind] // 8) + 4 * scales - numel * w)
    return grown


def learned(row: Row) -> bool:
    """Return True if a row's tensors belong to the method and are trained."""
    return row.learns and not row.piece.tensor.selecting


def where(spot: Spot) -> str:
    """Return the path of a spot's module or block; "" if the spot belongs to the whole model."""
    return "" if spot.source is None else spot.path


def numel(tensor: Trained) -> int:
    """Return the number of entries of these tensors."""
    one = tensor.number
    for side in tensor.shape:
        one *= side
    return one


def size(tensor: Trained) -> int:
    """Return the bytes of these tensors."""
    return numel(tensor) * tensor.width


def modelled(kb: Records[Any], plan: Plan) -> Model:
    """Return the model of an inventory. All methods on it share it."""
    found = plan.inventory.memo.get("operations")
    if found is None:
        language = load_language(kb.root / "backbones" / "operations.yaml")
        found = plan.inventory.memo["operations"] = Model(plan.inventory, language, kb.families)
    model: Model = found
    return model

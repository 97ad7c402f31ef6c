"""The answer to "does it fit?": the memory of a training step, from closed forms.

    >>> import peftonomy
    >>> memory = peftonomy.load()["lora"].memory("llama_2_7b", batch=1, seq=512, r=8)
    >>> memory.phase, memory.weights, memory.optimizer_states
    ('backward', 13485219840, 16777216)

No constant is fitted. Autograd keeps a tensor if and only if the gradient of something that carries one needs it: a
linear map keeps its input only if its weight is trained, a product the other factor, a softmax its output, a norm its
input. Families say how their layers compute (`dataflow`), entries what their methods add (`memory`), and what is kept
follows layer by layer: before the first trained tensor nothing is. All sizes are live bytes; what a GPU adds is an
estimate of its own (`gpu_extra`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from ..backbones.backbone import Inventory
from ..backbones.modules import LINEAR, Block, Module, SiteGroup
from ..costs.layout import Spot, spots
from ..costs.measure import Measure, measure
from ..costs.plan import EXACT, Plan, Row
from ..costs.table import Table
from ..errors import UnknownName, UsageError, shown
from ..schema.base import Value
from ..schema.memory import Kept
from ..schema.memory import Memory as Mechanism
from ..schema.method import MethodEntry
from ..schema.names import OF_PARAMETERS

__all__ = ["ATTENTION", "DTYPES", "OPTIMIZERS", "PARTS", "QUANTIZED", "Memory", "Setting", "Step"]

DTYPES = {"float32": (4, 4), "bfloat16": (2, 2), "float16": (2, 2), "mixed": (2, 4)}
"""Bytes of a number of the frozen weights (and of activations), and of one that is trained."""
ATTENTION = ("sdpa", "eager")
PARTS = ("weights", "gradients", "optimizer_states", "activations", "temporaries")
TOKEN_BYTES = 8 * 3
"""Of a token's number, its place in the mask and its label, which are 64-bit integers."""
LABEL_BYTES = 8
BLOCK = 64
"""Weights that share a scale in NF4, as in QLoRA."""
QUANTIZED = {"nf4": 4, "int8": 8}
"""Bits of a weight that is held quantised; a scale in float32 comes with each block (nf4) or row (int8)."""
STATE_BLOCK = 256
"""Values that share a scale in 8-bit optimizer states."""
LOGSUMEXP = 4
"""Bytes that fused attention keeps for every query of every head."""
CONTEXT, WORKSPACE, FRAGMENTATION = 400 * 2**20, 32 * 2**20, 0.03
"""What a GPU adds, roughly: its context, the workspaces of its libraries, and what allocation wastes."""
MAX_TOKENS = 10**9
READING = ("attn.q", "attn.k", "attn.v", "attn.qkv")
"""Roles of what reads a layer's input first."""
POSITIONS = ("attn.pos_k", "attn.pos_q")
"""Roles of what reads relative positions."""
READS = {"attn": "attn.q", "xattn": "xattn.q", "mlp": "mlp.up"}
"""By the name of a block, the role of what reads its input."""
ENDS = {"attn": "attn.o", "xattn": "xattn.o", "mlp": "mlp.down", "layer": "attn.q"}
"""By the name of a block, the role of what reads what `live` asks about."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """What an optimizer holds: how many `moments` of each trained number, and how.

    factored: rows and columns of a matrix in place of it. foreach: whether all tensors are updated together.
    """

    moments: int
    eight_bit: bool = False
    paged: bool = False
    factored: bool = False
    foreach: bool = False


COMPUTED = ("none", "causal_lm", "seq_cls")
"""The tasks whose computation `dataflow` describes."""
OPTIMIZERS = {
    "adamw": Optimizer(2),
    "adamw-foreach": Optimizer(2, foreach=True),
    "adamw-8bit": Optimizer(2, eight_bit=True),
    "paged-adamw": Optimizer(2, paged=True),
    "paged-adamw-8bit": Optimizer(2, eight_bit=True, paged=True),
    "adafactor": Optimizer(1, factored=True),
    "sgd": Optimizer(0),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """How a step is trained, apart from method and model."""

    batch: int
    seq: int
    dtype: str = "bfloat16"
    optimizer: str = "adamw"
    checkpointing: bool = False
    attention: str = "sdpa"
    quantized: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "seq"):
            number = getattr(self, name)
            if type(number) is not int or not 1 <= number <= MAX_TOKENS:
                raise UsageError(f"{name}: found {shown(number)}; expected a whole number from 1")
        for name, known in (("dtype", DTYPES), ("optimizer", OPTIMIZERS), ("attention", ATTENTION)):
            if getattr(self, name) not in known:
                raise UnknownName(name, str(getattr(self, name)), known)
        if self.quantized is not None and self.quantized not in QUANTIZED:
            raise UnknownName("quantization", str(self.quantized), QUANTIZED)


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step (the second or a later one, when optimizer states exist), at its peak.

    peak: the most that is alive at once; phase: when (forward, backward or optimizer). weights, gradients,
    optimizer_states, activations (what the forward pass leaves for the backward pass), temporaries: what the peak is
    made of. kept: what is alive besides weights and optimizer states when the forward pass ends. gpu_extra: what a GPU
    adds, an estimate. paged: optimizer states that may leave the GPU, not in the peak. forward_flops, step_flops: of
    one step, in products of matrices, a multiplication and an addition being two.
    """

    method: str
    model: str
    task: str
    setting: Setting
    hyperparameters: dict[str, Value]
    targets: tuple[str, ...]
    phase: str
    weights: int
    gradients: int
    optimizer_states: int
    activations: int
    temporaries: int
    kept: int
    paged: int
    trained: int
    forward_flops: int
    step_flops: int

    @property
    def peak(self) -> int:
        """Bytes alive when most are."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def gpu_extra(self) -> int:
        """An estimate of what a GPU holds besides: context, workspaces, fragmentation."""
        return CONTEXT + WORKSPACE + int(FRAGMENTATION * (self.peak - self.weights))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `memory --json` prints it; integers are exact."""
        return {
            "method": self.method, "model": self.model, "task": self.task, **asdict(self.setting),
            "hyperparameters": dict(self.hyperparameters), "targets": list(self.targets),
            "peak": self.peak, "phase": self.phase, **{part: getattr(self, part) for part in PARTS},
            "kept": self.kept, "paged": self.paged, "gpu_extra_estimate": self.gpu_extra, "trained": self.trained,
            "forward_flops": self.forward_flops, "step_flops": self.step_flops,
        }  # fmt: skip

    def table(self) -> Table:
        """One row per part of the peak."""
        rows = [{"part": part, "bytes": getattr(self, part)} for part in PARTS]
        return Table(rows, caption=f"{self.method} on {self.model}: {self.peak:,} bytes, in the {self.phase} phase")



def mechanism(entry: MethodEntry) -> Mechanism:
    """What an entry says of memory, or what follows where all that it trains is the backbone's own."""
    if entry.memory is not None:
        return entry.memory
    if all(t.selecting and isinstance(t.trained, bool) for t in entry.tensors.values()):
        return Mechanism()
    raise UsageError(f"{entry.id} does not say yet what its training keeps alive, so its memory is not known")


# What a method does in each layer


class Layer(NamedTuple):
    """A method in one layer: where it trains (roles, or `attn:end` and the like for blocks), of which roles' modules it
    trains the weight, keeps the input, and reads the input with tensors of its own, which attentions see how many keys
    more, with the record that says so, and what it is: `experts` where its feed-forward is made of them, `unnormed`
    where its attention has no norm."""

    trained: frozenset[str] = frozenset()
    weights: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    keys: frozenset[tuple[str, int, int]] = frozenset()
    kinds: frozenset[str] = frozenset()

    def more(self, attention: str) -> int:
        """Keys that an attention sees more."""
        return sum(number for name, number, _ in self.keys if name == attention)


OUTSIDE = "", -1
Layers = Mapping[str, list[tuple[Layer, int]]]
"""For each stack the runs of equal layers with their lengths; "" has what stands outside of stacks."""


@dataclass(frozen=True)
class Stack:
    """The sizes of equal layers, and what they are made of: attentions by name, whether the feed-forward is gated and
    queries, keys and values come from one linear map, the widths of norms and of what linear maps give out by role,
    which layers are made of how many experts, and which lack the norm before attention that others have."""

    name: str
    layers: int
    d: int
    d_attn: int
    d_kv: int
    d_ff: int
    heads: int
    attentions: tuple[str, ...]
    gated: bool
    fused: bool
    norms: Mapping[str, int]
    widths: Mapping[str, int]
    sparse: frozenset[int]
    experts: int
    unnormed: frozenset[int]

    def kinds(self, layer: int) -> frozenset[str]:
        """What a layer is, as `Layer` has it."""
        return frozenset(
            kind for kind, numbers in (("experts", self.sparse), ("unnormed", self.unnormed)) if layer in numbers
        )

    @property
    def causal(self) -> bool:
        """Whether a position sees none behind it."""
        return self.name.startswith("decoder")

    @classmethod
    def of(cls, inventory: Inventory, name: str) -> Stack:
        dims = {**inventory.backbone.dims, **inventory.backbone.stack_dims[name]}
        attentions = tuple(b.name for b in inventory.blocks if b.stack == name and b.kind == "attention")
        modules = [m for m in inventory.modules if m.stack == name]
        gated = any(m.role in ("mlp.gate", "mlp.gate_up") for m in modules)
        norms = {m.role: m.d_out for m in modules if m.kind == "norm"}
        widths = {m.role: m.d_out for m in modules if m.kind in LINEAR}
        normed = frozenset(layer for m in modules if m.role == "norm.attn" for layer in m.layers)
        routers = [m for m in modules if m.role == "moe.router"]
        sparse = frozenset(layer for m in routers for layer in m.layers)
        experts = max((shape[0] for m in routers for _, shape in m.parameters), default=0)
        return cls(
            name, inventory.backbone.layers[name], dims["d_model"], dims["d_attn"], dims["d_kv"], dims["d_ff"],
            dims["n_heads"], attentions, gated, any(m.role == "attn.qkv" for m in modules), norms,
            widths, sparse, experts, frozenset(range(inventory.backbone.layers[name])) - normed if normed else normed,
        )  # fmt: skip


def _plain(role: str) -> Iterator[str]:
    """The roles within one that may be fused: `attn.qkv` is `attn.q`, `attn.k` and `attn.v`."""
    block, _, letters = role.partition(".")
    if block in ("attn", "xattn") and set(letters) <= set("qkvo"):
        yield from (f"{block}.{letter}" for letter in letters)
    else:
        yield from ("mlp.gate", "mlp.up") if role == "mlp.gate_up" else (role,)


class Extra(NamedTuple):
    """A record of what a method keeps, at one of its places: bytes in all and in a layer, those that the backward pass
    needs there for a while, in which layers, if not all, whether it is held from step to step, keys more, and
    multiplications that all of its places take, of trained factors and with frozen ones."""

    record: int
    place: int
    total: int
    layer: int
    temporary: int
    layers: frozenset[int] | None
    held: bool
    keys: int
    products: int
    frozen_products: int


def step(plan: Plan) -> Step:
    """Return the plan with what memory needs beyond it; worked out once for each plan. Raises UsageError."""
    if "step" not in plan.memo:
        plan.memo["step"] = Step(plan)
    found: Step = plan.memo["step"]
    return found


class Step:
    """A plan with what memory needs beyond it, worked out once by `step`. Raises UsageError."""

    def __init__(self, plan: Plan):
        inventory = plan.inventory
        family = inventory.backbone.family
        if inventory.computed not in COMPUTED:
            raise UsageError(f"memory: task {inventory.task} is not described; expected {' or '.join(COMPUTED[1:])}")
        if family.dataflow is None:
            raise UsageError(f"memory: family {family.model_type} does not say yet how its layers compute (dataflow)")
        self.plan, self.inventory, self.flow = plan, inventory, family.dataflow
        config = inventory.backbone.config
        self.order = "post" if self.flow.post(config) else self.flow.order
        self.activation: int = self.flow.activation(config)
        self.keeps_output = bool(self.flow.keeps_output(config))
        self.activation_needs = int(self.flow.activation_needs(config))
        self.parallel, self.softcap = bool(self.flow.parallel(config)), bool(self.flow.softcap(config))
        self.fused, self.repeated = bool(self.flow.fused(config)), bool(self.flow.repeated(config))
        self.dropout = frozenset(place for place, probability in self.flow.dropout.items() if probability(config) > 0)
        self.repeats = int(self.flow.repeats(config))
        self.pixels, self.frames = int(self.flow.pixels(config)), int(self.flow.frames(config))
        self.image = self.pixels > 0 and not self.frames
        self.experts, self.buffers = int(self.flow.experts(config)), int(self.flow.buffers(config))
        self.heads_first, self.logits = bool(self.flow.heads_first(config)), int(self.flow.logits(config))
        self.mechanisms = [mechanism(part.entry) for part in plan.parts]
        self.side = any(m.gradients == "side" for m in self.mechanisms)
        self.stacks = [Stack.of(inventory, name) for name in inventory.stacks]
        self.keeps: list[tuple[int, Kept, Measure, list[Spot]]] = []
        for index, part in enumerate(plan.parts):
            for kept in self.mechanisms[index].keeps:
                measured = measure(kept.tensor(), tuple(part.entry.hyperparameters))
                places = list(spots(measured, inventory, plan.sites[index]))
                self.keeps.append((index, kept, measured, places))
        self._layers: dict[Any, Layers] = {}

    @cached_property
    def vocab(self) -> int:
        """Outputs of the language model's head, 0 without one."""
        return sum(m.d_out for m in self.inventory.modules if m.role == "head.lm")

    @cached_property
    def tied(self) -> bool:
        """Whether that head has the embedding's weight."""
        return any(m.role == "head.lm" and "weight" not in dict(m.parameters) for m in self.inventory.modules)

    @cached_property
    def table(self) -> tuple[tuple[str, int], ...]:
        """The roles of the maps that make keys and queries of relative positions, with the number of positions."""
        modules, config = self.inventory.modules, self.inventory.backbone.config
        own = any(m.role in POSITIONS for m in modules)
        rows = sum(shape[0] for m in modules if m.role == "embed.relative" for _, shape in m.parameters)
        there = self.flow.relative_keys(config), self.flow.relative_queries(config)
        return tuple(zip(POSITIONS if own else ("attn.k", "attn.q"), (rows * bool(t) for t in there), strict=True))

    @cached_property
    def relative(self) -> int:
        """How many relative positions the scores are taken for, 0 for most models."""
        return max(number for _, number in self.table)

    def positions(self, spot: Spot) -> int:
        """How many relative positions what is at a spot reads, besides the tokens."""
        return sum(number for role, number in self.table if role in _roles(spot)) if self.relative else 0

    @cached_property
    def convolutions(self) -> list[Module]:
        """What adds a convolution of the first layer's input to its output, if anything does."""
        return [m for m in self.inventory.modules if m.role == "conv"]

    @cached_property
    def normed(self) -> bool:
        """Whether a norm stands behind the embeddings."""
        return any(m.role == "norm.embed" for m in self.inventory.modules)

    @cached_property
    def summed(self) -> bool:
        """Whether embedded tokens are added to or multiplied before anything else is done to them."""
        return self.flow.scaled or any(m.role == "embed.position" for m in self.inventory.modules)

    @cached_property
    def changed(self) -> bool:
        """Whether something is done to embedded tokens before the first layer."""
        return self.normed or self.summed or "embedding" in self.dropout

    @staticmethod
    def embeds(outside: Layer) -> bool:
        """Whether embeddings are trained, or something right behind them."""
        return any(role.startswith("embed.") or role == ":embeddings" for role in outside.trained)

    @cached_property
    def linears(self) -> list[Module]:
        """The linear maps of the layers."""
        return [m for m in self.inventory.modules if m.kind in LINEAR and m.stack]

    @cached_property
    def largest(self) -> int:
        """Numbers of the largest matrix in the layers."""
        return max((m.d_in * m.d_out for m in self.linears), default=0)

    def layers(self, rows: list[Row], extras: list[Extra]) -> Layers:
        """What the method does in each layer, given its tensors and what it keeps."""
        where = tuple((e.record, e.place, e.layers, e.keys) for e in extras)
        key = tuple((id(row.piece), row.layers) for row in rows), where
        if key not in self._layers:
            self._layers[key] = self._walked(rows, extras)
        return self._layers[key]

    def _walked(self, rows: list[Row], extras: list[Extra]) -> Layers:
        found: dict[tuple[str, int], tuple[set[Any], ...]] = {}

        def note(spot: Spot, only: frozenset[int] | None, kind: int, roles: list[Any]) -> None:
            stack = "" if spot.source is None else spot.source.stack
            for layer in spot.layers or (-1,):
                if only is None or layer in only:
                    found.setdefault((stack, layer), tuple(set() for _ in Layer._fields))[kind].update(roles)

        for row in rows:
            if "d_in" in row.piece.measure.names and not row.piece.tensor.selecting:
                for _, spot in row.piece.places.spots:
                    note(spot, row.layers, 3, _roles(spot))
            if row.piece.tensor.trained is False or self._apart(row):
                continue
            for _, spot in row.piece.places.spots:
                note(spot, row.layers, 0, _roles(spot))
                if row.piece.tensor.selecting and spot.suffix == "weight":
                    note(spot, row.layers, 1, _roles(spot))
        for extra in extras:
            _, kept, _, where = self.keeps[extra.record]
            spot = where[extra.place]
            enters = "attention" if extra.keys else kept.enters
            note(spot, extra.layers, 0, _roles(spot, enters))  # what is shared acts here too
            if kept.input and kept.per != "layer":
                block = isinstance(spot.source, Block)
                note(spot, extra.layers, 2, [READS[spot.role]] if block else _roles(spot))
            if extra.keys:
                note(spot, extra.layers, 4, [(spot.role, extra.keys, extra.record)])
        for stack in self.stacks:
            for number in stack.sparse | stack.unnormed:
                sets = found.setdefault((stack.name, number), tuple(set() for _ in Layer._fields))
                sets[5].update(stack.kinds(number))
        empty: tuple[set[Any], ...] = tuple(set() for _ in Layer._fields)
        layers = {s.name: [found.get((s.name, n), empty) for n in range(s.layers)] for s in self.stacks}
        layers[""] = [found.get(OUTSIDE, empty)]
        return {
            name: [(Layer(*map(frozenset, sets)), len(list(same))) for sets, same in groupby(each)]
            for name, each in layers.items()
        }

    def _apart(self, row: Row) -> bool:
        """Whether a tensor belongs to layers that run beside the model's own."""
        keeps, tensor = self.mechanisms[row.piece.part].keeps, row.piece.tensor
        return tensor.per in OF_PARAMETERS and not tensor.selecting and any(k.layers.literal != 0 for k in keeps)

    def memory(self, given: Mapping[str, Any], setting: Setting) -> Memory:
        """The memory of a step with these hyperparameters. Raises UsageError."""
        return _Answer(self, given, setting).memory()


def _roles(spot: Spot, enters: str = "end") -> list[str]:
    """Where a tensor at a spot comes in."""
    if spot.source is None or isinstance(spot.source, Block):
        return [f"{spot.role}:{enters}"]
    return [*_plain(spot.source.module.role if isinstance(spot.source, SiteGroup) else spot.role)]


def _attends(roles: frozenset[str]) -> bool:
    """Whether one of the roles reads what attention reads."""
    return not roles.isdisjoint(READING)


# One question


class Half(NamedTuple):
    """A part of a layer: the bytes that it keeps, those of them that are released before its backward pass needs most,
    and what that needs for a while."""

    kept: int = 0
    tail: int = 0
    temporary: int = 0


@dataclass
class Walked:
    """What the backbone keeps: bytes in its layers, before them, behind each stack and (of these) behind the last one;
    of states that are held and not kept; what the last layer of the forward pass needs for a while (with a residual sum
    in front of its norm: the state of the feed-forward, the model's input, the layer's, the block's, and what dropout
    and norm give out); the halves of the first and the last layer that gradients reach, and of each stack's last one,
    with the stack's name and what is kept by then; in how many layers of a stack they flow into its input and out of
    its last sum, and into what the modules of a role read."""

    layers: int = 0
    entry: int = 0
    forward: int = 0
    states: int = 0
    ends: int = 0
    final: int = 0
    first: list[Half] = field(default_factory=list)
    last: list[Half] = field(default_factory=list)
    before: list[tuple[str, list[Half], int]] = field(default_factory=list)
    into: dict[str, int] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)
    reached: Counter[tuple[str, str]] = field(default_factory=Counter)


class _Answer:
    """One question: a step with hyperparameters and a setting put in."""

    def __init__(self, step: Step, given: Mapping[str, Any], setting: Setting):
        if not step.flow.sdpa:
            setting = replace(setting, attention="eager")
        if setting.checkpointing and not step.flow.checkpointing:
            family = step.inventory.backbone.family.name
            raise UsageError(f"checkpointing: transformers does not have it for {family}; expected none")
        self.step, self.plan, self.setting, self.flow = step, step.plan, setting, step.flow
        self.w, self.w_t = DTYPES[setting.dtype]
        self.values = self.plan.values(given)
        self.rows = self.plan.each(self.values)
        self.arguments = self.plan.arguments(self.values)
        positions = self._positions()
        self.eager = setting.attention == "eager"
        limit = self.plan.common["max_positions"]
        if step.image and setting.seq != limit:
            model = step.inventory.backbone.id
            raise UsageError(f"seq: found {setting.seq:,}; {model} sees {limit:,} tokens in an image")
        if limit and not step.image and setting.seq + positions > limit:
            raise UsageError(f"seq: found {setting.seq:,}; {step.inventory.backbone.id} has {limit:,} positions")
        self.lengths = {s.name: setting.seq + (0 if i else positions) for i, s in enumerate(step.stacks)}
        if step.frames:
            self.lengths[step.stacks[0].name] = step.frames
        self.prompted = positions > 0
        self.reached: set[str] = set()  # roles whose modules read, in the layer at hand, what carries a gradient
        found = list(self._extras())
        self.held = sum(e.total for e in found if e.held)
        self.extras = [e for e in found if not e.held]
        self.layers = step.layers(self.rows, self.extras)
        self.outside = self.layers[""][0][0]
        self.table_trained = not self.outside.trained.isdisjoint(("embed.relative", "norm.relative"))

    def _positions(self) -> int:
        """Sequence positions that the method's parts add together."""
        total = 0
        for part, mechanism, args in zip(self.plan.parts, self.step.mechanisms, self.arguments, strict=True):
            if mechanism.positions.literal != 0:
                names = tuple(part.entry.hyperparameters)
                total += int(mechanism.positions.compile(names, self.plan.common)(*args))
        return total

    def _extras(self) -> Iterator[Extra]:
        """What the method keeps of its own."""
        everywhere = max(self.lengths.values())
        for record, (part, kept, measured, places) in enumerate(self.step.keeps):
            args = self.arguments[part]
            size = self.w if kept.bits is None else kept.bits / 8
            for place, spot in enumerate(places):
                stack = "" if spot.source is None else spot.source.stack
                seq = self.lengths.get(stack, everywhere)
                tokens = {
                    "tokens": self.setting.batch * seq + self.step.positions(spot), "seq": seq,
                    "outputs": self.step.vocab, "post_norm": int(self.step.order == "post"),
                }  # fmt: skip
                common, dims = self.plan.common | tokens, {**spot.dims, **tokens}
                layers = None
                if measured.layered:
                    layers = frozenset(n for n in spot.layers if measured.there(common, dims, n, *args)[0])
                found = measured.sizes(common, dims, *args)
                n = spot.n if layers is None else len(layers)
                if found is None or not n:
                    continue
                one = math.ceil(found[0] * size)
                if kept.output and isinstance(spot.source, SiteGroup):
                    one += common["tokens"] * spot.source.module.d_out * self.w
                temporary, keys, beside, *products = (
                    0 if number.literal == 0 else int(number.compile(measured.hyperparameters, common | dims)(*args))
                    for number in (kept.temporary, kept.keys, kept.layers, kept.products, kept.frozen_products)
                )
                if max(products) > EXACT:
                    raise UsageError("memory: this step takes more than 2**53 operations in one place")
                one += self._beside(beside) if beside else 0
                if kept.input and kept.per == "layer" and not self.setting.checkpointing:  # which keeps it anyway
                    one += dims["tokens"] * dims["d_model"] * self.w
                here = one if spot.layers else 0
                products = [n * number for number in products]
                yield Extra(record, place, n * one, here, temporary * self.w, layers, kept.held, keys, *products)

    def _beside(self, layers: int) -> int:
        """Bytes that so many layers like those of the last stack keep, trained as a whole, and the norm behind them."""
        stack, kept, live = self.step.stacks[-1], 0, False
        n = self.setting.batch * self.lengths[stack.name]
        inside = [m for m in self.step.inventory.modules if m.stack == stack.name]
        roles = frozenset(role for m in inside for role in _plain(m.role))
        for number in range(layers):
            halves, live = self.layer(stack, Layer(roles, roles, kinds=stack.kinds(number)), live, False)
            kept += sum(half.kept for half in halves)
        return kept + (0 if self.step.order == "post" else self.norm(stack.d, n, live, True))

    # A layer

    def norm(self, d: int, tokens: int, live: bool, gain: bool, fresh: bool = True) -> int:
        """Bytes that a norm of that many tokens keeps; with `fresh`, its input is not kept yet."""
        n, w, kind = tokens * d, self.w, self.flow.norm
        if not (live or gain):
            return 0
        if kind == "kernel":
            return (n * fresh + 2 * tokens) * w
        copy = 4 * n * (fresh or w < 4)
        if kind == "float32_kernel":
            return copy + 8 * tokens
        wide = {"float32_gain": 4, "centered": 4, "mixed": self.w_t}  # the type of what the gain is multiplied with
        kept = n * wide.get(kind, w) if gain else 0
        if live:
            kept += 8 * n if kind == "centered" else copy
            kept += 4 * tokens
            kept += n * w if kind == "mixed" and w < 4 else 0
        return kept

    def attention(self, stack: Stack, name: str, layer: Layer, live: bool, source: bool) -> tuple[Half, bool]:
        """An attention, whether a gradient flows into what it reads (and from where its keys come), and out of it."""
        batch, w, flow = self.setting.batch, self.w, self.flow
        cross = name == "xattn"
        length = self.lengths[stack.name]
        n = batch * length
        more = layer.more(name)
        n_k = batch * (self.lengths[self.step.stacks[0].name] if cross else length) + batch * more
        trained, keeping = layer.trained, layer.weights | layer.inputs
        pre = self.step.order == "pre"
        gain = f"norm.{name}" in trained
        kept = self.norm(stack.d, n, live, gain) if pre and "unnormed" not in layer.kinds else 0
        read = live or (pre and gain) or f"{name}:inputs" in trained
        into = source if cross else read
        q = read or f"{name}.q" in trained
        extra = f"{name}:attention" in trained
        k, v = into or extra or f"{name}.k" in trained, into or extra or f"{name}.v" in trained
        if keeping & ({f"{name}.q"} if cross else {f"{name}.q", f"{name}.k", f"{name}.v"}):
            same = self.setting.checkpointing and not pre and not cross  # the layer's own input, which is kept already
            kept += 0 if same else n * stack.d * w
        if "norm.q" in stack.norms and not cross:
            for width, role, here in ((stack.d_attn, "norm.q", q), (stack.d_kv, "norm.k", k)):
                kept += self.norm(stack.norms[role], n * width // stack.norms[role], here, role in trained)
            q, k = q or "norm.q" in trained, k or "norm.k" in trained
        cells = n // batch * n_k * stack.heads
        out, scores = n * stack.d_attn * w, q or k
        if self.step.relative:
            beside, scores = self.relative(stack, layer, q, k)
            kept += beside
        eager = self.eager or not self.step.fused
        wide = stack.d_attn if eager or self.step.repeated else stack.d_kv
        temporary = 0
        if self.eager:
            half = 4 if flow.softmax == "float32" else w
            kept += n_k * wide * w * scores
            kept += (n * stack.d_attn * k + n_k * wide * q) * (4 if flow.scores == "float32" else w)
            kept += cells * half * scores + cells * w * (scores and self.step.softcap)
            if "attention" in self.step.dropout:
                kept += cells * scores + cells * w * v
            elif v:
                kept += cells * w * (not scores or half != w)
            temporary = cells * (w + half) if scores else 0
            if self.step.relative and scores:  # what was gathered from, when probabilities and values are gone
                gathered = n * stack.heads * self.step.relative * w
                temporary = max(temporary, gathered - cells - n_k * stack.d_attn * w)
        elif eager:  # PyTorch's own, written out
            kept += 4 * (n * stack.d_attn * k + n_k * wide * (q + scores) + cells * (scores or v))
            temporary = 8 * cells if scores else 0
        elif scores or v:
            kept += 2 * out + 2 * n_k * wide * w + LOGSUMEXP * batch * stack.heads * length
            if stack.fused and flow.rotary and v and not self.step.repeated:  # values are a part of its whole output
                kept += out + n_k * wide * w
            if self.step.heads_first and f"{name}.o" in keeping:
                kept += out
            if more and not cross and stack.causal:  # a mask of its own for each layer
                kept += length * (n_k // batch) * w
            if flow.bias and stack.causal:  # joined with the mask, anew in each layer
                kept += cells // batch * w
        if f"{name}.o" in keeping and (eager or not (scores or v)):
            kept += out
        given = ("q", read), ("k", into), ("v", into), ("o", scores or v)
        self.reached.update(f"{name}.{letter}" for letter, live_here in given if live_here)
        live_out = scores or v or f"{name}.o" in trained or f"{name}:end" in trained
        tail, live = self._tail(stack, name, n, live, live_out, trained)
        return Half(kept + tail, tail, temporary), live

    def relative(self, stack: Stack, layer: Layer, q: bool, k: bool) -> tuple[int, bool]:
        """Bytes that scores by relative position keep besides, and whether a gradient flows into the scores.

        Content's queries meet the positions' keys, and content's keys their queries.
        """
        batch, w, length = self.setting.batch, self.w, self.lengths[stack.name]
        n = batch * length * stack.d_attn * w
        kept, scores, made, most = 0, q or k, [], self.step.relative
        for (role, positions), content in zip(self.step.table, (q, k), strict=True):
            made.append(bool(positions) and (self.table_trained or role in layer.trained))
            kept += batch * positions * stack.d_attn * w * content
            if positions and (content or made[-1]):  # what the scores are gathered from, and where
                kept += batch * stack.heads * length * positions * w + 8 * length**2
        scores = scores or any(made)
        kept += n * (made[0] and not k) + n * made[1]  # queries, if not kept anyway, and keys, which are scaled besides
        if (layer.weights | layer.inputs) & {role for role, _ in self.step.table}:
            kept += most * stack.d * w
        kept += most * stack.d * (self.table_trained and "residual" in self.step.dropout)
        return kept + batch * length**2 * scores, scores

    def _gathering(self, stack: Stack) -> int:
        """Bytes alive when the last of an attention's scores by relative position are gathered in the forward pass."""
        batch, w, length, most = self.setting.batch, self.w, self.lengths[stack.name], self.step.relative
        cells = batch * stack.heads * length**2
        alive = 4 * batch * length * stack.d_attn * w + 5 * cells * w  # queries, keys (twice), values; and scores
        alive += 2 * most * stack.d * w + (8 + 8 * batch + 16) * length**2  # the table, distances, mask, where to look
        for _, positions in self.step.table:
            alive += batch * positions * stack.d_attn * w + batch * stack.heads * length * positions * w
        return alive

    def _tail(
        self, stack: Stack, block: str, n: int, live: bool, added: bool, trained: frozenset[str]
    ) -> tuple[int, bool]:
        """Bytes kept where half a layer ends, and whether a gradient flows out of it."""
        dropped = "residual" in self.step.dropout or (block == "mlp" and "output" in self.step.dropout)
        kept = n * stack.d if added and dropped else 0
        if f"scale.{block}" in trained:
            kept, added = kept + n * stack.d * self.w, True
        role = f"norm.{block}" if self.step.order == "out" else f"norm.{block}_out"
        if role in stack.norms:
            kept += self.norm(stack.d, n, added, role in trained)
            added = added or role in trained
        live = live or added
        if self.step.order == "post":
            gain = f"norm.{block}" in trained
            kept += self.norm(stack.d, n, live, gain)
            live = live or gain
        return kept, live

    def feed_forward(self, stack: Stack, layer: Layer, live: bool, before: bool) -> tuple[Half, bool]:
        """The feed-forward block, and whether a gradient flows out of it. before: whether one flows into the layer."""
        w, trained, keeping = self.w, layer.trained, layer.weights | layer.inputs
        n = self.setting.batch * self.lengths[stack.name]
        pre, parallel = self.step.order == "pre", self.step.parallel
        wide = n * (stack.widths.get("mlp.up", stack.d_ff) if stack.experts else stack.d_ff)
        shared = parallel and "norm.mlp" not in stack.norms
        gain, state = "norm.attn" if shared else "norm.mlp", before if parallel else live
        first = not parallel or not (state or "norm.attn" in trained)
        kept = self.norm(stack.d, n, state, gain in trained, first) if pre and not shared else 0
        read = state or (pre and gain in trained) or "mlp:inputs" in trained
        firsts = {"mlp.up", "mlp.gate", "moe.router", "moe.shared.gate", "moe.shared.up"}
        if keeping & firsts and not (shared and keeping & {"attn.q", "attn.k", "attn.v"}):
            kept += n * stack.d * w
        if "experts" in layer.kinds:
            half, live_out = self.experts(stack, layer, read)
            tail, live = self._tail(stack, "mlp", n, live, live_out, trained)
            return Half(kept + half.kept + tail, half.tail + tail, half.temporary), live
        up, gate = read or "mlp.up" in trained, read or "mlp.gate" in trained
        activated = gate if stack.gated else up
        kept += self.step.activation * wide * w * activated
        if stack.gated:
            kept += wide * w * (up + gate)
        inner = up or gate
        given = ("mlp.up", read), ("mlp.gate", read), ("mlp.down", inner)
        self.reached.update(role for role, live_here in given if live_here)
        dropped = "mlp" in self.step.dropout
        kept += wide * (inner and dropped)
        same = self.step.keeps_output and not stack.gated and not dropped and inner
        kept += wide * w * ("mlp.down" in keeping and not same)
        live_out = inner or bool(trained & {"mlp.down", "mlp:end"})
        tail, live = self._tail(stack, "mlp", n, live, live_out, trained)
        gone = 0
        if "mlp.down" in layer.weights and not stack.gated:
            temporary = wide * w + 2 * n * stack.d * w + stack.d * stack.d_ff * self.w_t
        else:
            several = stack.gated or self.step.activation > 1
            if several and "mlp.down" in keeping:  # what it read is released before
                gone = wide * w
            tensors = 3 if several or ("mlp.down" in layer.reads and "mlp.down" not in keeping) else 2
            tensors += self.step.activation_needs
            temporary = tensors * wide * w + n * stack.d * w if inner else 0
        return Half(kept + tail, tail + gone, temporary), live

    def experts(self, stack: Stack, layer: Layer, read: bool) -> tuple[Half, bool]:
        """A feed-forward of experts, and whether a gradient flows out of it. read: whether one flows into it."""
        w, flow, trained, each = self.w, self.flow, layer.trained, self.step.experts
        n = self.setting.batch * self.lengths[stack.name]
        sorted_ = n * each  # tokens, once for each of their experts
        one, wide = sorted_ * stack.d * w, sorted_ * stack.d_ff * w
        gates, routed = read or "moe.gate_up" in trained, read or "moe.router" in trained
        out = gates or routed or "moe.down" in trained
        kept = one * ("moe.gate_up" in trained) + wide * ((2 + self.step.activation) * gates + ("moe.down" in trained))
        if "moe.router" in trained and flow.router == "float32" and w < 4:  # a copy of what it reads
            kept += 4 * n * stack.d
        if routed:  # probabilities, chosen ones and their numbers, and what the chosen ones weigh
            kept += 4 * n * (stack.experts + 1) + (4 + 8) * sorted_ + one
        kept += out * (4 + 3 * 8) * sorted_  # in their order, with the ways there and back
        if "moe.shared.up" in stack.widths:
            shared = n * stack.widths["moe.shared.up"] * w
            up, gate = (read or f"moe.shared.{role}" in trained for role in ("up", "gate"))
            kept += shared * (self.step.activation * gate + up + gate + ("moe.shared.down" in trained))
            if "moe.shared.router" in stack.widths and (read or "moe.shared.router" in trained):
                kept += n * (stack.d + 1) * w
        state = n * stack.d
        products = 3 * wide + state * w - one * routed  # after that of what came out is gone
        temporary = max(products, (sorted_ * stack.d + state) * (4 + w)) if out else 0  # else in float32, put in order
        return Half(kept, 0, temporary), out

    def layer(self, stack: Stack, layer: Layer, live: bool, source: bool) -> tuple[list[Half], bool]:
        """The halves of a layer in order, and whether a gradient flows out of it."""
        live = before = live or "layer:inputs" in layer.trained
        halves = []
        for name in stack.attentions:
            half, live = self.attention(stack, name, layer, live, source)
            halves.append(half)
        half, live = self.feed_forward(stack, layer, live, before)
        return [*halves, half], live or bool(layer.trained & {"layer:end", "mlp:norm"})

    # The model

    def walk(self) -> Walked:
        """The whole model, layer by layer. With checkpointing layers keep their inputs only."""
        batch, w, checkpointing = self.setting.batch, self.w, self.setting.checkpointing
        found = Walked()
        source = False
        for i, stack in enumerate([] if self.step.side else self.step.stacks):
            n = batch * self.lengths[stack.name]
            leaf = checkpointing and not self.step.pixels
            live = self.step.embeds(self.outside) or (self.prompted and i == 0) or leaf
            reads: frozenset[str] = frozenset()
            entry = self._entry(stack, n, live) + (self._arguments(stack) if checkpointing else 0)
            live_at_entry = live = live or "norm.embed" in self.outside.trained
            crossing = False
            last: list[Half] = []
            for layer, once in self.layers[stack.name]:
                count = once * self.step.repeats
                for times in (1, count - 1) if count > 1 else (1,):  # a gradient may begin in the first of them
                    found.into[stack.name] = found.into.get(stack.name, 0) + times * live
                    self.reached.clear()
                    halves, live = self.layer(stack, layer, live, source)
                    for role in self.reached:
                        found.reached[stack.name, role] += times
                    found.through[stack.name] = found.through.get(stack.name, 0) + times * live
                    found.layers += times * (n * stack.d * w if checkpointing else sum(half.kept for half in halves))
                    if live:
                        found.first, found.last, last = found.first or halves, halves, halves
                reads = layer.weights | layer.inputs
                crossing = crossing or bool(reads & {"xattn.k", "xattn.v"})
            entry += self._convolved(stack, n, live_at_entry)
            if crossing and not checkpointing:
                entry += batch * self.lengths[self.step.stacks[0].name] * stack.d * w
            if self.flow.bias and not (self.eager or checkpointing or stack.causal):
                entry += stack.heads * self.lengths[stack.name] ** 2 * w
            if self.flow.rotary and found.through.get(stack.name):
                entry += 2 * (1 + self.flow.windowed) * self.lengths[stack.name] * (stack.d_attn // stack.heads) * w
            found.entry += entry
            if not checkpointing:
                if self.flow.states:
                    runs = self.layers[stack.name]
                    free = sum(count for layer, count in runs if not _attends(layer.weights | layer.inputs))
                    found.states += free * n * stack.d * w
                found.forward = self._passing(stack, reads, live) + found.states
            gain = "norm.final" in self.outside.trained
            if self.step.order != "post":
                found.final = self.norm(stack.d, n, live, gain)
            if (live or gain) and "final" in self.step.dropout:
                found.final += n * stack.d
            if last:
                found.before.append((stack.name, last, found.layers + found.entry + found.ends))
            found.ends += found.final
            source = live or gain
        if self.step.side:
            found.forward = self._passing(self.step.stacks[-1], frozenset(), False)
        return found

    def _passing(self, stack: Stack, reads: frozenset[str], live: bool) -> int:
        """Bytes that a stack's last layer needs for a while in the forward pass, where norms stand behind the sums."""
        if self.step.order != "post":
            return 0
        first = _attends(reads)
        states = 5 - 2 * first - bool(reads & {"mlp.up"})
        wide = ("mlp.down" not in reads) + (0 if live else self.step.activation)
        return self.setting.batch * self.lengths[stack.name] * self.w * (states * stack.d + wide * stack.d_ff)

    def _arguments(self, stack: Stack) -> int:
        """Bytes of what all checkpointed layers of a stack are called with: mask, position biases, the other stack's
        last state."""
        batch, w, length = self.setting.batch, self.w, self.lengths[stack.name]
        source = self.lengths[self.step.stacks[0].name]
        kept = batch * length * length * w if self.eager and (stack.causal or self.flow.windowed) else 0
        kept += stack.heads * length * length * w if self.flow.bias else 0
        if self.step.relative:
            kept += self.step.relative * stack.d * w + 8 * (batch + 1) * length**2
        if "xattn" in stack.attentions:
            kept += batch * source * stack.d * w + (stack.heads * length * source * w if self.flow.bias else 0)
        return kept

    def _entry(self, stack: Stack, n: int, live: bool) -> int:
        """Bytes kept where a stack begins."""
        d: int = self.plan.common["d_embed"]
        kept, w = 0, self.w
        prompted = self.prompted and stack is self.step.stacks[0]
        leaf = self.setting.checkpointing and not (self.step.pixels or self.step.embeds(self.outside))
        shifted = "layer:inputs" in self.layers[stack.name][0][0].trained
        if leaf and (self.step.changed or prompted or shifted):
            kept += self.setting.batch * self.setting.seq * d * w  # a leaf, so that gradients begin there
        if self.step.normed:
            gain = "norm.embed" in self.outside.trained
            kept += self.norm(d, n, live, gain, fresh=not kept or self.step.summed)
            live = live or gain
        if "embed.audio" in self.outside.weights and stack is self.step.stacks[0]:
            kept += 5 * n * d * w  # what two convolutions and their activations read, the first ones twice as long
        if "embed.proj" in self.outside.weights:
            kept += n * d * w
        return kept + n * d * (live and "embedding" in self.step.dropout)

    def _convolved(self, stack: Stack, n: int, live: bool) -> int:
        """Bytes kept where a convolution of what enters the first layer is added to what leaves it."""
        if not self.step.convolutions:
            return 0
        live, gain = live or "conv" in self.outside.trained, "norm.conv" in self.outside.trained
        _, added = self.layer(stack, self.layers[stack.name][0][0], live, False)
        kept = n * stack.d * (2 * self.w + ("residual" in self.step.dropout)) * live  # its input, and its activation's
        return kept + self.norm(stack.d, n, live or added, gain)

    # The step

    def memory(self) -> Memory:
        """The answer."""
        setting, step, w, w_t = self.setting, self.step, self.w, self.w_t
        n, d = setting.batch * setting.seq, step.stacks[-1].d
        own, added, largest, extra_weights = self._trained()
        head = step.inventory.head
        trained = own + added + head
        frozen = step.inventory.total - own - head
        weights = frozen * w + trained * w_t + extra_weights * w + self._requantised() + step.buffers
        gradients = trained * w_t
        states, paged = self._states(trained)

        walked = self.walk()
        loss = n * step.vocab * (4 if self.flow.loss == "float32" or setting.dtype == "mixed" else w)
        logits = n * step.vocab * step.logits * w
        head_weight = "head.lm" in self.outside.weights or (step.tied and "embed.token" in self.outside.weights)
        if head_weight or (head and step.inventory.backbone.family.kind == "decoder"):
            walked.final += n * d * w
            walked.ends += n * d * w
        role = self.flow.first_token if step.inventory.computed == "seq_cls" and "head" not in step.dropout else None
        first = [m for m in step.inventory.modules if m.role == role and not m.stack]
        if any(m.head or m.role in self.outside.weights for m in first):
            walked.final += n * d * w
            walked.ends += n * d * w
        weights += self.held
        everywhere = sum(e.total for e in self.extras if not e.layer)
        inside = step.repeats * sum(self._inside(e, walked) for e in self.extras if e.layer)
        n_layers = sum(stack.layers for stack in step.stacks)
        one_inside = inside // (n_layers * step.repeats)
        inputs = n * TOKEN_BYTES
        if step.pixels:
            inputs = setting.batch * (step.pixels * w + LABEL_BYTES * (setting.seq if step.vocab else 1))
        copies = self._copied() * w if setting.dtype == "mixed" else 0
        packed = setting.quantized or any(part.entry.base_storage for part in self.plan.parts)
        dequantised = step.largest * w if packed else 0
        fixed = inputs + everywhere
        kept = fixed + copies + walked.layers + walked.entry + walked.ends + loss + logits
        outside = sum(self._inside(e, walked) for e in self.extras if self._outside(e))
        recomputed = setting.checkpointing and not step.side  # what is beside the layers is not computed again
        kept += outside if recomputed else inside

        aside = one_inside if step.side else 0  # of the last layer, after which it comes
        moments = [("backward", 0, kept, 2 * loss), ("forward", 0, kept - loss - logits - aside, walked.forward)]
        if step.relative:
            here = 0 if setting.checkpointing else sum(half.kept for half in walked.last)
            before = kept - loss - logits - walked.ends - here
            moments.append(("forward", 0, before, walked.states + self._gathering(step.stacks[-1])))
        one_layer, one_mlp = (w_t * number // n_layers for number in self._in_layers())

        def back(halves: list[Half], held: int, base: int) -> None:
            """Through one layer, with `held` gradients there already."""
            for i, half in reversed(list(enumerate(halves))):
                last = i == len(halves) - 1
                here = max((e.temporary for e in self.extras if self._in_mlp(e) == last), default=0)
                moments.append(("backward", held, base - half.tail, max(half.temporary, here) + dequantised))
                base -= half.kept
                held += one_mlp if last else 0

        heads = w_t * (head + (step.vocab * d if head_weight else 0))
        again = sum(half.kept for half in walked.last) + one_inside - outside // n_layers
        again *= setting.checkpointing
        back(walked.last, heads, kept - loss - logits - walked.final + again)
        if step.repeats > 1:  # the gradients of a layer's last run are there when that before begins
            run = sum(half.kept for half in walked.last) + one_inside
            base = kept - loss - logits - walked.final - (0 if again else run)
            twice = any(layer.weights for stack in step.stacks for layer, _ in self.layers[stack.name])
            back(walked.last, heads + one_layer, base + step.largest * w_t * twice)  # a matrix has two for a while
        later, embeds = heads, "embed.token" in self.outside.weights
        for (name, _, _), (_, halves, alive) in zip(walked.before[:0:-1], walked.before[-2::-1], strict=True):
            later += w_t * self._in_layers(name)[0]  # the other stack is through, and what it embeds comes
            moments.append(("backward", later, fixed + alive, w_t * step.vocab * d * embeds))
            back(halves, later, fixed + alive + (sum(half.kept for half in halves) if setting.checkpointing else 0))
        embedded = w_t * self._embedded()
        left = fixed + copies // n_layers + walked.entry + sum(half.kept for half in walked.first) + one_inside
        left += walked.layers // (n_layers * step.repeats) if setting.checkpointing else 0
        back(walked.first, gradients - embedded - one_layer, left)
        moments.append(("backward", gradients, fixed, n * d * w))
        optimizer = OPTIMIZERS[setting.optimizer]
        temporary = 0 if not optimizer.moments else gradients if optimizer.foreach else 2 * largest * w_t
        moments.append(("optimizer", gradients, inputs, temporary))
        phase, held, activations, temporaries = max(moments, key=lambda m: sum(m[1:]))
        if max(weights + held + states + activations + temporaries, kept, paged) > EXACT:
            raise UsageError("memory: this step takes more than 2**53 bytes")
        forward, total = self._flops(walked)
        return Memory(
            self.plan.id, step.inventory.backbone.id, step.inventory.task, setting, self.values,
            self.plan.targets, phase, weights, held, states, activations, temporaries, kept, paged, trained,
            forward, total,
        )  # fmt: skip

    def _inside(self, extra: Extra, walked: Walked) -> int:
        """Bytes of what a method keeps in all layers together."""
        _, kept, _, where = self.step.keeps[extra.record]
        spot = where[extra.place]
        if not kept.live or spot.source is None or self.step.side:
            return extra.total
        role = ENDS[spot.role] if isinstance(spot.source, Block) else _roles(spot)[0]
        first = self.plan.inventory.backbone.layers[spot.source.stack] - walked.reached[spot.source.stack, role]
        return extra.layer * sum(n >= first for n in (spot.layers if extra.layers is None else extra.layers))

    def _outside(self, extra: Extra) -> bool:
        """Whether it stands before or behind a whole layer, where checkpoints do not reach."""
        return self.step.keeps[extra.record][1].per == "layer"

    def _weights(self, extra: Extra) -> list[str]:
        """The roles of linear maps whose weight gets a gradient because something is made of it."""
        _, kept, _, where = self.step.keeps[extra.record]
        return _roles(where[extra.place]) if kept.per == "weight" and kept.input else []

    def _in_mlp(self, extra: Extra) -> bool:
        """Whether what a method keeps belongs to a feed-forward block."""
        return self.step.keeps[extra.record][3][extra.place].role.startswith("mlp")

    def _in_layers(self, stack: str = "") -> tuple[int, int]:
        """Numbers trained inside of layers (of a stack), and of these those in feed-forward blocks."""
        inside = mlp = 0
        for row in self.rows:
            for spot, n in row.spots() if row.learns else ():
                if stack and (spot.source is None or spot.source.stack != stack):
                    continue
                inside += row.count * n * bool(spot.layers)
                mlp += row.count * n * spot.role.startswith(("mlp", "norm.mlp"))
        return inside, mlp

    def _embedded(self) -> int:
        """Numbers of trained embeddings whose gradients come last."""
        trained, tied = self.outside.trained, self.step.tied
        chosen = [m for m in self.step.inventory.modules if m.role.startswith("embed.") and m.role in trained]
        return sum(m.numel for m in chosen if not (tied and m.role == "embed.token"))

    def _trained(self) -> tuple[int, int, int, int]:
        """Numbers trained of the backbone and added, those of the largest such tensor, and those added but frozen."""
        own = added = largest = frozen = 0
        for row in self.rows:
            tensor = row.piece.tensor
            if not row.learns:
                frozen += 0 if tensor.selecting or tensor.served == "absent" else row.count * row.n
                continue
            if tensor.selecting:
                own += row.count * row.n
            else:
                added += row.count * row.n
            several = tensor.count is not None and tensor.per not in OF_PARAMETERS  # a count may be of several tensors
            largest = max(largest, 0 if several else row.count)
        return own, added, largest, frozen

    def _copied(self) -> int:
        """Numbers trained that products of matrices read, of which autocast makes copies in half precision."""
        number = self.step.inventory.head
        for row in self.rows:
            for spot, n in row.spots() if row.learns else ():
                linear = not isinstance(spot.source, Module) or spot.source.kind in LINEAR
                number += row.count * n * linear
        return number

    def _requantised(self) -> int:
        """By how many bytes the weights grow (or shrink, below zero) as they are held."""
        plan, setting = self.plan, self.setting
        grown = plan.base_bytes(self.values, self.w) - plan.inventory.backbone.parameters * self.w
        if setting.quantized is None:
            return grown
        roles = {plain for m in self.step.linears for plain in _plain(m.role)}
        if any(layer.weights & roles for runs in self.layers.values() for layer, _ in runs):
            raise UsageError(f"{plan.id} trains weights that are to be held in {setting.quantized}")
        bits = QUANTIZED[setting.quantized]
        for m in self.step.linears:
            numel = m.d_in * m.d_out
            scales = -(-numel // BLOCK) if setting.quantized == "nf4" else m.d_out
            grown += m.count * (-(-numel * bits // 8) + 4 * scales - numel * self.w)
        return grown

    def _states(self, trained: int) -> tuple[int, int]:
        """Bytes of the optimizer's states that stay, and of those that may leave."""
        optimizer = OPTIMIZERS[self.setting.optimizer]
        if optimizer.factored:
            states = self._factored()
        elif optimizer.eight_bit:
            states = optimizer.moments * (trained + 4 * -(-trained // STATE_BLOCK))
        else:
            states = optimizer.moments * trained * self.w_t
        return (0, states) if optimizer.paged else (states, 0)

    def _factored(self) -> int:
        """Adafactor's: of each matrix its rows and columns, of each vector itself, in float32."""
        numbers = self.step.inventory.head
        for row in self.rows:
            if not row.learns:
                continue
            shape = self.plan.shape(row)
            factored = shape is not None and len(shape) >= 2
            one = row.count // shape[-1] + row.count // shape[-2] if factored and shape else row.count
            numbers += row.n * one
        return 4 * numbers

    # Operations

    def _flops(self, walked: Walked) -> tuple[int, int]:
        """Floating-point operations of a forward pass, and of a step: products of matrices, two for each pair."""
        setting, step, batch = self.setting, self.step, self.setting.batch
        n_loss = batch * setting.seq
        weights = {role for runs in self.layers.values() for layer, _ in runs for role in layer.weights}
        weights |= {role for extra in self.extras for role in self._weights(extra)}
        forward = head = 2 * n_loss * step.stacks[-1].d * step.vocab
        head_weight = "head.lm" in self.outside.weights or (step.tied and "embed.token" in self.outside.weights)
        backward, again = head * (1 + head_weight), 0
        source, maps = self.lengths[step.stacks[0].name], dict(step.table) if step.relative else {}
        for m in step.inventory.modules:
            if m.role == "embed.patch":  # every number of an image is seen once
                one = 2 * batch * step.pixels * m.d_out
                forward, backward = forward + one, backward + one * (m.role in weights)
        for i, m in enumerate(m for m in step.inventory.modules if m.role == "embed.audio"):
            one = 2 * batch * (step.frames if i else 2 * step.frames) * math.prod(m.parameters[0][1])
            forward, backward = forward + one, backward + one * (m.role in weights) * (1 + i)
        for m in step.convolutions:
            one, first = 2 * batch * source * math.prod(m.parameters[0][1]), step.stacks[0]
            entered = setting.checkpointing or walked.into.get(first.name) == first.layers
            forward, backward = forward + one, backward + one * (entered + (m.role in weights))
        for m in step.linears:
            length = source if m.role in ("xattn.k", "xattn.v", "xattn.kv") else self.lengths[m.stack]
            content, table = batch * length * (m.role not in POSITIONS), maps.get(m.role, 0)
            one = 2 * (content + table) * m.d_in * m.d_out
            again += one * m.count * step.repeats
            early = m.role in READING or (step.parallel and m.role.startswith("mlp."))
            reached = (walked.into if early else walked.through).get(m.stack, 0)
            through = 2 * (content + table * self.table_trained) * m.d_in * m.d_out
            backward += through * (reached * m.count // self.plan.inventory.backbone.layers[m.stack])
            backward += one * m.count * step.repeats * bool(weights & {*_plain(m.role)})
        for stack in step.stacks:
            one = 6 * batch * self.lengths[stack.name] * step.experts * stack.d * stack.d_ff
            again += one * len(stack.sparse)
            reached = walked.through.get(stack.name, 0) * len(stack.sparse) // stack.layers
            trained = sum(count for layer, count in self.layers[stack.name] if "moe.gate_up" in layer.trained)
            backward += one * (reached + trained)
            for name in stack.attentions:
                length = self.lengths[stack.name]
                one = 4 * batch * length * (source if name == "xattn" else length) * stack.d_attn
                more = 4 * batch * length * stack.d_attn
                more *= sum(count * layer.more(name) for layer, count in self.layers[stack.name])
                for role, positions in maps.items():
                    made = sum(n for layer, n in self.layers[stack.name] if self.table_trained or role in layer.trained)
                    gathered = 2 * batch * length * positions * stack.d_attn
                    again += gathered * stack.layers
                    backward += gathered * (made + walked.through.get(stack.name, 0))
                again += one * stack.layers * step.repeats + more
                back = walked.through.get(stack.name, 0) * one + more
                backward += back * 2 if self.eager else back * 5 // 2
        for extra in self.extras:
            again += 2 * (extra.products + extra.frozen_products)
            backward += 2 * (2 * extra.products + extra.frozen_products)
        for row in self.rows:
            tensor = row.piece.tensor
            passed = not (tensor.selecting or tensor.per == "model" or step.mechanisms[row.piece.part].composed)
            shape = self.plan.shape(row) if passed else None
            if shape is not None and len(shape) == 2:
                rows = batch * setting.seq * row.n  # that all of them read together
                rows += sum(n * step.positions(spot) for spot, n in row.spots()) if maps else 0
                again += 2 * rows * row.count
                backward += 2 * rows * row.count * (1 + row.learns)
        forward += again
        return forward, forward + backward + (again - self._unrepeated() if setting.checkpointing else 0)

    def _unrepeated(self) -> int:
        """Operations that checkpointing leaves out: those of a layer's last map, where nothing behind it is kept."""
        total = 0
        if self.step.order != "pre" or {"residual", "output"} & self.step.dropout:
            return 0
        for stack in self.step.stacks:
            roles = {m.role for m in self.step.inventory.modules if m.stack == stack.name}
            if roles.isdisjoint(("norm.mlp_out", "scale.mlp")):
                one = 2 * self.setting.batch * self.lengths[stack.name] * stack.d * stack.d_ff * self.step.repeats
                total += one * sum(count for layer, count in self.layers[stack.name] if self._ends_plainly(layer))
        return total

    @staticmethod
    def _ends_plainly(layer: Layer) -> bool:
        """Whether neither experts nor anything of the method's own come behind the feed-forward's last map."""
        added = (layer.trained - layer.weights) | layer.reads | layer.inputs
        return "experts" not in layer.kinds and not added & {"mlp.down", "mlp:end", "scale.mlp"}

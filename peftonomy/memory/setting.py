"""The setting of a training step, and the memory that the step takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ..costs.table import Table, Tabled
from ..errors import UsageError, chosen, shown
from ..schema.base import Value

if TYPE_CHECKING:
    from ..backbones.backbone import Inventory

__all__ = [
    "ATTENTION", "BLOCK", "DTYPES", "LABEL_BYTES", "OPTIMIZER", "OPTIMIZERS", "PARTS", "QUANTIZED", "SEQ",
    "STATE_BLOCK", "TOKEN_BYTES", "Memory", "Optimizer", "Setting",
]  # fmt: skip

DTYPES = {"float32": (4, 4), "bfloat16": (2, 2), "float16": (2, 2), "mixed": (2, 4)}
"""Bytes of a number of the frozen weights (and of activations), and of one that is trained."""
ATTENTION = ("sdpa", "eager")
SEQ = 512
"""The tokens of a sequence for `fit` and `choose`, if none are given."""
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
CONTEXT, WORKSPACE, FRAGMENTATION = 400 * 2**20, 32 * 2**20, 0.03
"""What a GPU adds, roughly: its context, the workspaces of its libraries, and what allocation wastes."""
MAX_TOKENS = 10**9


@dataclass(frozen=True, slots=True)
class Optimizer:
    """The states of an optimizer: the number of `moments` per trained parameter, and their form.

    factored: rows and columns of a matrix in place of it. foreach: whether all tensors are updated together.
    """

    moments: int
    eight_bit: bool = False
    paged: bool = False
    factored: bool = False
    foreach: bool = False


OPTIMIZERS = {
    "adamw": Optimizer(2),
    "adamw-foreach": Optimizer(2, foreach=True),
    "adamw-8bit": Optimizer(2, eight_bit=True),
    "paged-adamw": Optimizer(2, paged=True),
    "paged-adamw-8bit": Optimizer(2, eight_bit=True, paged=True),
    "adafactor": Optimizer(1, factored=True),
    "sgd": Optimizer(0),
}
OPTIMIZER = "adamw"
"""The default. A method's own rule of the update takes its place."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The setting of a training step, apart from method and model.

    seq: the tokens of a sequence; None for a model that reads none (of images or speech), whose length is its own.
    """

    batch: int
    seq: int | None = None
    dtype: str = "bfloat16"
    optimizer: str = OPTIMIZER
    checkpointing: bool = False
    attention: str = "sdpa"
    quantized: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "seq"):
            number = getattr(self, name)
            if number is None and name == "seq":
                continue
            if type(number) is not int or not 1 <= number <= MAX_TOKENS:
                raise UsageError(f"{name}: found {shown(number)}; expected a whole number from 1")
        if not isinstance(cast(object, self.checkpointing), bool):
            raise UsageError(f"checkpointing: found {shown(self.checkpointing)}; expected True or False")
        for name, known in (("dtype", DTYPES), ("optimizer", OPTIMIZERS), ("attention", ATTENTION)):
            chosen(name, getattr(self, name), dict.fromkeys(known))
        if self.quantized is not None:
            chosen("quantization", self.quantized, QUANTIZED)

    @property
    def tokens(self) -> int:
        """The tokens of a sequence; 1 for a model that reads none."""
        return self.seq or 1

    def check(self, model: Inventory) -> None:
        """Raise UsageError for a model of text without a length, and for one that reads no tokens with a length."""
        name = model.backbone.id
        if model.reads_tokens and self.seq is None:
            raise UsageError(f"seq: found nothing; expected the number of tokens in a sequence for {name}")
        if not model.reads_tokens and self.seq is not None:
            raise UsageError(f"seq: found {self.seq:,}; {name} reads no tokens, so leave seq out")

    def usual(self, model: Inventory) -> Setting:
        """Return the setting with the usual length if a model of text has none."""
        return replace(self, seq=SEQ) if model.reads_tokens and self.seq is None else self


@dataclass(frozen=True)
class Memory(Tabled):
    """Bytes of one training step (the second or a later one, when optimizer states exist), at its peak.

    peak: the most that is alive at once; phase: when (forward, backward or optimizer). weights, gradients,
    optimizer_states, activations (what the forward pass leaves for the backward pass), temporaries: what the peak is
    made of. kept: what is alive besides weights and optimizer states when the forward pass ends. gpu_extra: what a GPU
    adds, an estimate. paged: optimizer states that may leave the GPU, not in the peak. trained: entries of the tensors
    that the optimizer has, with the head; a tensor of which a mask or some rows are trained counts whole, unlike in
    `Cost.trained`. forward_flops, step_flops: of one step, in products of matrices, a multiplication and an addition
    being two.
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

    parts: ClassVar[tuple[str, ...]] = PARTS

    @property
    def peak(self) -> int:
        """Return the largest number of bytes alive at once."""
        return sum(getattr(self, part) for part in self.parts)

    @property
    def gpu_extra(self) -> int:
        """Return an estimate of the memory that a GPU uses beyond this: context, workspaces, fragmentation."""
        return CONTEXT + WORKSPACE + int(FRAGMENTATION * (self.peak - self.weights))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `memory --json` prints it. Integers are exact."""
        return {
            "method": self.method, "model": self.model, "task": self.task, **asdict(self.setting),
            "hyperparameters": dict(self.hyperparameters), "targets": list(self.targets),
            "peak": self.peak, "phase": self.phase, **{part: getattr(self, part) for part in self.parts},
            "kept": self.kept, "paged": self.paged, "gpu_extra_estimate": self.gpu_extra, "trained": self.trained,
            "forward_flops": self.forward_flops, "step_flops": self.step_flops,
        }  # fmt: skip

    def table(self) -> Table:
        """Return a table with one row per part of the peak."""
        rows = [{"part": part, "bytes": getattr(self, part)} for part in self.parts]
        return Table(rows, caption=f"{self.method} on {self.model}: {self.peak:,} bytes, in the {self.phase} phase")

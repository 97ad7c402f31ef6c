"""The counts of a method on a model: three ledgers, and the tensors that they sum up.

    >>> import peftonomy
    >>> cost = peftonomy.load()["lora"].cost("llama_2_7b", r=8, targets=["attn.q", "attn.v"])
    >>> cost.trained, [t.name for t in cost.tensors]
    (4194304, ['A', 'B'])

No torch and no model is needed: `plan` derives the counts from the tensors that an entry declares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..schema.base import Value
from .table import Table, Tabled

__all__ = ["Cost", "TensorCost"]


@dataclass(frozen=True, slots=True)
class TensorCost:
    """One declared tensor at all locations where it has the same shape.

    `count` is the number of entries of one such tensor, `sites` the number of these tensors, `total` their product.
    `trained`, `stored`, `stored_bits`, `shared`, `served` and `served_bits` are its share of the ledgers.
    """

    name: str
    per: str
    shape: tuple[int, ...] | None
    count: int
    sites: int
    total: int
    trained: int
    stored: int
    stored_bits: int
    shared: int
    served: int
    served_bits: int
    roles: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `cost --json` prints it."""
        record = {n: getattr(self, n) for n in self.__slots__}
        return record | {"shape": None if self.shape is None else list(self.shape), "roles": list(self.roles)}


@dataclass(frozen=True)
class Cost(Tabled):
    """The result: three ledgers, never merged, with the tensors from which they are derived.

    trained: entries that the optimiser updates, without a new task head. stored: values and positions that one task's
    checkpoint must contain; stored_bits: mask bits beside them; stored_bytes: all of it, values in `dtype`. shared:
    values stored once for all tasks. served: values that remain at inference beyond the backbone; served_bits: mask
    bits beside them. head: parameters of a newly initialised task head. backbone: parameters of the published model,
    tied weights once. base_bytes: the frozen model in the method's storage format. percent = 100 * trained / backbone.
    """

    method: str
    model: str
    hyperparameters: dict[str, Value]
    targets: tuple[str, ...]
    target_modules: tuple[str, ...] | str | None
    task: str
    dtype: str
    trained: int
    stored: int
    stored_bits: int
    stored_bytes: int
    shared: int
    served: int
    served_bits: int
    head: int
    backbone: int
    _tensors: Callable[[], tuple[TensorCost, ...]] = field(repr=False, compare=False)
    _base_bytes: Callable[[], int] = field(repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the lazily computed values, too."""
        later = {"tensors": self.tensors, "base_bytes": self.base_bytes}
        return {name: value for name, value in vars(self).items() if not name.startswith("_")} | later

    @property
    def percent(self) -> float:
        """Trained entries in percent of the backbone's parameters."""
        return 100 * self.trained / self.backbone

    @cached_property
    def base_bytes(self) -> int:
        """Bytes of the backbone's weights in the method's storage format (quantised if declared, else `dtype`)."""
        return self._base_bytes()

    @cached_property
    def tensors(self) -> tuple[TensorCost, ...]:
        """Every declared tensor, with locations of equal shape merged."""
        return self._tensors()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `cost --json` prints it; integers are exact."""
        record: dict[str, Any] = {
            "method": self.method, "model": self.model, "hyperparameters": dict(self.hyperparameters),
            "targets": list(self.targets), "target_modules": self.target_modules, "task": self.task,
            "dtype": self.dtype, "trained": self.trained, "stored": self.stored, "stored_bits": self.stored_bits,
            "stored_bytes": self.stored_bytes, "shared": self.shared, "served": self.served,
            "served_bits": self.served_bits, "head": self.head, "backbone": self.backbone,
            "base_bytes": self.base_bytes,
            "percent": self.percent, "tensors": [t.to_dict() for t in self.tensors],
        }  # fmt: skip
        if isinstance(self.target_modules, tuple):
            record["target_modules"] = list(self.target_modules)
        return record

    def table(self) -> Table:
        """Return a table with one row per tensor."""
        return Table(
            [t.to_dict() for t in self.tensors], caption=f"{self.method} on {self.model}: {self.trained:,} trained"
        )

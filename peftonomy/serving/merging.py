"""Check whether the update of a saved adapter survives a merge into quantised weights, from its file.

The norm of each module's update B A follows from the small matrices B^T B and A A^T. With the weights, their norm and
the largest value of each block give the prediction of `rounding`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..costs.table import Table, Tabled
from ..errors import DataError, Problem, UnknownName, UsageError, chosen, near, shown
from ..files.safetensors import Tensors
from ..libraries.reading import read_adapter
from .rounding import FORMATS, gaussian_scale, rounded

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..catalogue.records import Records
    from ..costs.plan import Place
    from ..libraries.adapter import Adapter

__all__ = ["MergeCheck", "Merged", "merge_check"]

FILE = "adapter_model.safetensors"
FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight\Z")
"""A factor in the library's file: the module's name, and which factor it is."""
SHARES = 8
"""The blocks of a weight are sorted by their largest value and described by this many means."""


@dataclass(frozen=True, slots=True)
class Merged:
    """One adapted module: the norm of its update and, with the weights, what a merge leaves of it.

    norm, weight_norm: Frobenius norms. rho: their ratio. error: the predicted norm of the rounding error by that of the
    update. kept: the part of the update that remains. verdict: lost, partly or kept.
    """

    module: str
    rank: int
    norm: float
    weight_norm: float | None = None
    rho: float | None = None
    error: float | None = None
    kept: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class MergeCheck(Tabled):
    """The updates of an adapter, and what a merge into quantised weights leaves of them.

    lost_below, kept_above: ratios of an update's norm to that of the weights, below which it is lost and above which it
    is kept, for normal weights; None for a format where the largest weight of a row decides.
    """

    adapter: str
    method: str
    model: str
    to: str
    modules: tuple[Merged, ...]
    lost_below: float | None
    kept_above: float | None

    @property
    def verdicts(self) -> dict[str, int]:
        """The number of modules of each verdict; empty without the weights."""
        return dict(Counter(one.verdict for one in self.modules if one.verdict is not None))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `merge-check --json` prints it."""
        return asdict(self) | {"modules": [asdict(one) for one in self.modules], "verdicts": self.verdicts}

    def table(self) -> Table:
        """Return a table with one row per module."""
        return Table([asdict(one) for one in self.modules], caption=f"{self.adapter} merged into {self.to}")


def merge_check(
    kb: Records[Any], adapter: str | Path, model: Backbone, to: str, weights: str | Path | None = None
) -> MergeCheck:
    """Check a saved adapter against a format. See `KnowledgeBase.merge_check`."""
    form = chosen("format", to, FORMATS)
    path = Path(adapter)
    file, folder = (path / FILE, path) if path.is_dir() else (path, path.parent)
    config = read_adapter(
        kb, folder, model, library=None, method=None, task=None, num_labels=2, dtype="float32"
    )  # fmt: skip
    if config.method.merge != "exact":
        raise UsageError(f"{adapter}: {config.method.id} does not merge into the weights")
    if weights is None and not form.block:
        raise UsageError(f"{to} has a scale for each row, whose largest weight decides; give the weights")
    places = {place.path: place for place in config.plan.places(config.hyperparameters)}
    updates = _updates(file, config, places)
    held = None if weights is None else _weights(Path(weights))
    modules = []
    for name, (rank, norm) in updates.items():
        if held is None:
            modules.append(Merged(name, rank, norm))
            continue
        modules.append(_merged(name, rank, norm, held, to, places[name]))
    low, high = _limits(to) if form.block else (None, None)
    return MergeCheck(str(adapter), config.method.id, model.id, to, tuple(modules), low, high)


def _updates(file: Path, config: Adapter, places: Mapping[str, Place]) -> dict[str, tuple[int, float]]:
    """Return the rank and the norm of each module's update. Raises DataError for other tensors than two factors."""
    import numpy as np

    tensors = Tensors(file)

    def wrong(where: str, found: str, expected: str, known: tuple[str, ...] = ()) -> DataError:
        close = near(found, known, 1)
        hint = f"did you mean {close[0]}?" if close else ""
        return DataError([Problem(str(file), 0, shown(where), shown(found), expected, hint)])

    factors: dict[str, dict[str, str]] = {}
    for name in tensors.names:
        match = FACTOR.match(name)
        if match is None:
            raise wrong("", name, "tensors named lora_A.weight and lora_B.weight")
        if match[1] not in places:
            expected = f"a module that the configuration adapts in {config.plan.inventory.backbone.id}"
            raise wrong(name, match[1], expected, tuple(places))
        factors.setdefault(match[1], {})[match[2]] = name
    found = {}
    for module, pair in factors.items():
        if len(pair) < 2:
            raise wrong(module, f"lora_{next(iter(pair))} alone", "lora_A and lora_B")
        place = places[module]
        rank = tensors.shape(pair["A"])[0] if tensors.shape(pair["A"]) else 0
        for part, shape in (("A", (rank, place.d_in)), ("B", (place.d_out, rank))):
            if tensors.shape(pair[part]) != shape or not rank:
                raise wrong(pair[part], f"the shape {tensors.shape(pair[part])}", f"{shape}")
        a, b = tensors.read(pair["A"]).astype("f8"), tensors.read(pair["B"]).astype("f8")
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise wrong(module, "values that are not finite", "finite numbers")
        with np.errstate(all="ignore"):
            square = float(np.einsum("ij,ji->", b.T @ b, a @ a.T))
        if not math.isfinite(square):
            raise wrong(module, f"an update of the norm {square}", "a finite norm")
        found[module] = rank, _scale(config, place.known, rank) * math.sqrt(max(square, 0.0))
    return found


def _scale(config: Adapter, known: Mapping[str, Any], rank: int) -> float:
    """Return the factor of the correction at one module."""
    alpha = float(known["alpha"])
    return alpha / (math.sqrt(rank) if config.arguments.get("use_rslora") else rank)


class _Weights:
    """The tensors of one file, or of all safetensors files of a folder."""

    def __init__(self, files: list[Path]):
        self.by_name = {name: tensors for tensors in map(Tensors, files) for name in tensors.names}


def _weights(path: Path) -> _Weights:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise DataError([Problem(str(path), 0, "", "a folder without a safetensors file", "the model's weights")])
    return _Weights(files)


def _merged(name: str, rank: int, norm: float, held: _Weights, to: str, place: Place) -> Merged:
    """Return what a merge leaves of one module's update."""
    import numpy as np

    key = f"{name}.weight"
    if key not in held.by_name:
        raise UnknownName("weight", key, held.by_name, "in the weights")
    tensors = held.by_name[key]
    if tensors.shape(key) != (place.d_out, place.d_in):
        found, expected = f"the shape {tensors.shape(key)}", f"({place.d_out}, {place.d_in})"
        raise DataError([Problem(str(tensors.path), 0, shown(key), found, expected)])
    weight = tensors.read(key)
    size = FORMATS[to].size(place.d_in)
    length = float(np.linalg.norm(weight.astype("f8")))
    if not math.isfinite(length) or not length:
        raise DataError([Problem(str(tensors.path), 0, shown(key), f"the norm {length}", "finite weights")])
    if not norm:
        return Merged(name, rank, 0.0, length, 0.0, 0.0, 1.0, "kept")
    flat = np.abs(weight.reshape(-1)[: weight.size // size * size]).reshape(-1, size).max(1)
    largest = np.sort(flat[flat > 0]).astype("f8") * (math.sqrt(weight.size) / length)
    scales = tuple(float(part.mean()) for part in np.array_split(largest, SHARES) if part.size)
    rho = norm / length
    left = rounded(to, scales, size, rho)
    return Merged(name, rank, norm, length, rho, left.error, left.kept, left.verdict)


def _limits(to: str) -> tuple[float, float]:
    """Return the ratios of norms at which an update stops to be lost and starts to be kept, for normal weights."""
    block = FORMATS[to].block
    scales = (gaussian_scale(block),)

    def at(verdicts: tuple[str, ...]) -> float:
        low, high = 1e-4, 10.0
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if rounded(to, scales, block, middle).verdict in verdicts else (low, middle)
        return float(f"{low:.2g}")

    return at(("lost",)), at(("lost", "partly"))

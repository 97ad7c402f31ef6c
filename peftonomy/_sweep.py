"""Costs over arrays of hyperparameters at once, with numpy; equal, number for number, to one query after the other.

    >>> import numpy, peftonomy
    >>> ranks = numpy.array([1, 2, 4, 8])
    >>> peftonomy.load()["lora"].sweep("llama_2_7b", targets="attn.q,attn.v", r=ranks).trained
    array([ 524288, 1048576, 2097152, 4194304])

Arrays are computed twice, in 64-bit integers and in floating point. Where the two do not agree to rounding, or a number
leaves the range in which both are exact, the setting is asked again by itself, which answers or says what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._errors import UnknownName, UsageError
from ._formula import Formula
from ._measure import HELD
from ._plan import BYTES, EXACT, INDEX_BYTES, Piece, Plan
from ._table import Table
from ._values import LARGEST, coerced

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sweep", "sweep"]

CHUNK = 1 << 15
"""Settings computed together: few enough for the processor's cache."""
LEDGERS = ("trained", "stored", "stored_bits", "stored_bytes", "shared", "served", "served_bits")


@dataclass(frozen=True)
class Sweep:
    """The ledgers of `Cost` as arrays (int64) of the shape to which the given hyperparameters broadcast."""

    method: str
    model: str
    hyperparameters: dict[str, Any]
    backbone: int
    trained: NDArray[Any]
    stored: NDArray[Any]
    stored_bits: NDArray[Any]
    stored_bytes: NDArray[Any]
    shared: NDArray[Any]
    served: NDArray[Any]
    served_bits: NDArray[Any]
    _swept: tuple[str, ...] = field(repr=False, default=())

    @property
    def percent(self) -> NDArray[Any]:
        """Trained numbers in percent of the backbone's parameters."""
        percent: NDArray[Any] = 100 * self.trained / self.backbone
        return percent

    def table(self) -> Table:
        """One row per setting: the hyperparameters that vary, and the ledgers."""
        import numpy as np

        shape = self.trained.shape
        columns = {n: np.broadcast_to(self.hyperparameters[n], shape).ravel().tolist() for n in self._swept}
        columns |= {n: getattr(self, n).ravel().tolist() for n in LEDGERS}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return Table(rows, caption=f"{self.method} on {self.model}")


def sweep(plan: Plan, given: Mapping[str, Any], dtype: str = "float32") -> Sweep:
    """The costs where some of `given` are arrays. Raises UsageError as a single query with the first bad setting."""
    import numpy as np

    size = BYTES.get(dtype)
    if size is None:
        raise UnknownName("dtype", dtype, BYTES)
    values = _values(plan, given)
    swept = tuple(name for name, value in values.items() if isinstance(value, np.ndarray))
    try:
        shape = np.broadcast_shapes(*(values[name].shape for name in swept))
    except ValueError:
        raise UsageError(f"{plan.method.id}: the arrays of {', '.join(swept)} do not broadcast together") from None

    flat = {name: np.broadcast_to(values[name], shape).ravel() for name in swept}
    ledgers = {name: np.empty(math.prod(shape), int) for name in LEDGERS}
    for start in range(0, math.prod(shape), CHUNK):
        chunk = slice(start, start + CHUNK)
        _fill(plan, values | {name: array[chunk] for name, array in flat.items()}, dtype, ledgers, chunk)
    backbone, shaped = plan.inventory.backbone, {name: array.reshape(shape) for name, array in ledgers.items()}
    return Sweep(plan.method.id, backbone.id, values, backbone.parameters, **shaped, _swept=swept)


def _fill(plan: Plan, values: Mapping[str, Any], dtype: str, ledgers: Mapping[str, NDArray[Any]], at: slice) -> None:
    """Write the ledgers of a stretch of settings."""
    import numpy as np

    n, size = len(ledgers["trained"][at]), BYTES[dtype]
    arrays = {name for name, value in values.items() if isinstance(value, np.ndarray)}
    reals = {name: value.astype(float) if name in arrays else value for name, value in values.items()}
    with np.errstate(all="ignore"):
        counted, suspect = _counted(plan, values, n, int)
        checked, _ = _counted(plan, reals, n, float)
        suspect |= ~_in_domain(plan, values)
    for name, numbers in counted.items():
        suspect |= ~(np.abs(checked[name]) <= EXACT) | (np.abs(checked[name] - numbers) > 0.5)
    stored, indices, bits = (counted[kind] for kind in ("values", "indices", "bits"))
    counted |= {"stored": stored + indices, "stored_bits": bits}
    suspect |= counted["stored"] > EXACT
    counted["stored_bytes"] = stored * size + indices * INDEX_BYTES - (-bits // 8)
    for name, array in ledgers.items():
        array[at] = counted[name]
    for i in np.flatnonzero(suspect).tolist():
        one = plan.cost({name: value[i].item() if name in arrays else value for name, value in values.items()}, dtype)
        for name, array in ledgers.items():
            array[at.start + i] = getattr(one, name)


def _values(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every hyperparameter: arrays as arrays of the declared type, all else as a single query has it."""
    import numpy as np

    chosen, values = plan.named(given), dict[str, Any]()
    for name, spec in plan.method.entry.hyperparameters.items():
        raw = chosen.get(name)
        if raw is None or isinstance(raw, str) or np.ndim(raw) == 0:
            values[name] = coerced(name, spec, raw) if name in chosen else plan.default(spec)
            continue
        array = np.asarray(raw)
        if array.dtype.kind not in {"int": "iu", "float": "iuf"}.get(spec.type, ""):
            expected = {"int": "whole numbers", "float": "numbers"}.get(spec.type, "a single value")
            raise UsageError(f"hyperparameter {name}: found an array of {array.dtype}; expected {expected}")
        if array.size == 0 or not np.all(np.abs(array.astype(float)) <= LARGEST):
            raise UsageError(f"hyperparameter {name}: found an array that is empty or goes beyond 2**31")
        values[name] = array.astype(int if spec.type == "int" else float)
    return values


def _in_domain(plan: Plan, values: Mapping[str, Any]) -> Any:
    import numpy as np

    fine: Any = np.True_
    for spec in plan.method.entry.hyperparameters.values():
        if spec.domain is not None:
            fine = fine & np.asarray(_vectorised(spec.domain, plan.common | dict(values)), dtype=bool)
    return fine


def _vectorised(formula: Formula, values: Mapping[str, Any]) -> Any:
    names = tuple(sorted(formula.names))
    return formula.numpy(names)(*[values[n] for n in names])


def _counted(plan: Plan, values: Mapping[str, Any], n: int, kind: type) -> tuple[dict[str, Any], NDArray[Any]]:
    """The sums of all that is counted at `n` settings, as numbers of a kind, and where a single query would refuse."""
    import numpy as np

    arguments = plan.arguments(values, _vectorised)
    sums: dict[str, Any] = {name: np.zeros(n, kind) for name in (*HELD, "trained", "served", "served_bits")}
    suspect = np.zeros(n, bool)
    tensors: dict[str, list[_Rows]] = {}
    for piece in plan.pieces:
        measured = piece.measure
        args = arguments[piece.part]
        places = _places(plan, piece, args, n)
        fine, *numbers = measured.arrays(plan.common, piece.places.dims, *args)
        if measured.exists is not None:
            numbers = [np.where(places > 0, number, 0) for number in numbers]
        if measured.requires is not None:
            suspect |= (places > 0) & ~np.asarray(fine, bool)
        for number in numbers:
            suspect |= ~((number >= 0) & (number == np.floor(number)))
        row = _row(piece, places, [np.asarray(number).astype(kind) for number in numbers])
        tensors.setdefault(piece.name, []).append(row)
    for members in tensors.values():
        measured = members[0].piece.measure
        for row in [_gathered(plan, members, arguments[members[0].piece.part])] if measured.across else members:
            for name, number in row.shares.items():
                sums[name] += number
            if measured.tensor.served == "kept":
                masks = row.shares.get("bits", 0) > 0
                sums["served_bits"] += np.where(masks, row.numel, 0)
                sums["served"] += np.where(masks, 0, row.numel)
    return sums, suspect


@dataclass(slots=True)
class _Rows:
    """A piece with arrays put in: at how many places it is, its entries, their share of the ledgers that have one."""

    piece: Piece
    places: Any
    numel: Any
    shares: dict[str, Any]


def _places(plan: Plan, piece: Piece, args: Sequence[Any], n: int) -> Any:
    """At how many of its places a piece exists, at each of `n` settings."""
    import numpy as np

    if piece.measure.exists is None:
        return np.full(n, piece.places.n)
    if not piece.measure.layered:
        (there,) = piece.measure.there_arrays(plan.common, piece.places.dims, piece.places.dims.get("layer", 0), *args)
        return np.broadcast_to(np.asarray(there, bool) * piece.places.n, n)
    layers = np.array([*piece.places.layers])[:, None]
    (there,) = piece.measure.there_arrays(plan.common, piece.places.dims, layers, *args)
    return np.array([*piece.places.layers.values()]) @ np.broadcast_to(np.asarray(there, int), (len(layers), n))


def _row(piece: Piece, places: Any, numbers: Sequence[Any]) -> _Rows:
    measured, copies = piece.measure, places * numbers[1]
    shares: dict[str, Any] = {}
    if measured.trained is not None:
        shares["trained"] = copies * numbers[measured.trained]
    for kind, at in measured.held:
        shares[kind] = shares.get(kind, 0) + copies * numbers[at]
    return _Rows(piece, places, copies * numbers[0], shares)


def _gathered(plan: Plan, members: Sequence[_Rows], args: Sequence[Any]) -> _Rows:
    """A tensor at all its places together, with the shares that are counted over all of them."""
    import numpy as np

    measured, places = members[0].piece.measure, sum(row.places for row in members)
    numel = sum(row.numel for row in members)
    shares: dict[str, Any] = {name: sum(row.shares[name] for row in members) for name in members[0].shares}
    known = plan.common | dict(zip(measured.hyperparameters, args, strict=True)) | {"numel": numel}
    for name, formula in measured.across:
        share = np.where(places > 0, _vectorised(formula, known), 0).astype(np.asarray(numel).dtype)
        shares[name] = share + (0 if name == "trained" else shares.get(name, 0))
    return _Rows(members[0].piece, places, numel, shares)

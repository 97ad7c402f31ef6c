"""Costs over arrays of hyperparameters, with numpy. The results are exactly those of single queries.

    >>> import numpy, peftonomy
    >>> ranks = numpy.array([1, 2, 4, 8])
    >>> peftonomy.load()["lora"].sweep("llama_2_7b", targets="attn.q,attn.v", r=ranks).trained
    array([ 524288, 1048576, 2097152, 4194304])

Over several models the arrays get a first axis for the models:

    >>> peftonomy.load()["lora"].sweep(["bert_base", "gpt2"], r=ranks).trained.shape
    (2, 4)

Arrays are computed twice, in 64-bit integers and in floating point. If the two differ by more than rounding, or a
number leaves the range in which both are exact, a single query computes that setting or raises its error.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import FormulaError, UsageError, chosen, shown
from ..formula import Formula
from .measure import HELD
from .plan import BYTES, EXACT, INDEX_BYTES, Piece, Plan
from .table import Table, Tabled, axes, label
from .values import LARGEST, coerced

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Sweep", "sweep", "sweep_models"]

CHUNK = 1 << 15
"""Settings computed together: few enough for the processor's cache."""
LEDGERS = ("trained", "stored", "stored_bits", "stored_bytes", "shared", "served", "served_bits")


@dataclass(frozen=True)
class Sweep(Tabled):
    """The ledgers of `Cost` as arrays (int64) of the shape to which the given hyperparameters broadcast.

    For several models, `model` and `backbone` have an element for each, and the arrays have a first axis for them. The
    arrays are masked where a single query would raise.
    """

    method: str
    model: str | tuple[str, ...]
    hyperparameters: dict[str, Any]
    backbone: int | NDArray[Any]
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
        """Trained entries in percent of the backbone's parameters."""
        import numpy as np

        of = np.asarray(self.backbone)
        percent: NDArray[Any] = 100 * self.trained / of.reshape(of.shape + (1,) * (self.trained.ndim - of.ndim))
        return percent

    def table(self) -> Table:
        """Return one row per valid setting: the model (of several), the hyperparameters that vary, the ledgers."""
        import numpy as np

        shape = self.trained.shape
        columns: dict[str, Any] = {}
        if not isinstance(self.model, str):
            names = np.array(self.model).reshape(-1, *[1] * (len(shape) - 1))
            columns["model"] = np.broadcast_to(names, shape)
        columns |= {n: np.broadcast_to(self.hyperparameters[n], shape) for n in self._swept}
        columns |= {n: getattr(self, n) for n in LEDGERS}
        answered = ~np.ma.getmaskarray(self.trained)
        listed = {name: np.asarray(column)[answered].tolist() for name, column in columns.items()}
        rows = [dict(zip(listed, row, strict=True)) for row in zip(*listed.values(), strict=True)]
        where = self.model if isinstance(self.model, str) else f"{len(self.model)} models"
        return Table(rows, caption=f"{self.method} on {where}")

    def plot(self, ledger: str = "trained", *, ax: Any = None) -> Any:
        """Draw a line over the values of a hyperparameter, for each model and each value of the others.

        Without an array of values, draw a bar for each model. ledger: trained, stored, percent or another ledger. ax:
        the matplotlib axes to draw on. Returns the axes. Needs the notebook extra. Raises UsageError.
        """
        chosen("ledger", ledger, dict.fromkeys((*LEDGERS, "percent")))
        numbers, ax = getattr(self, ledger), axes(ax)
        if self._swept:
            self._lines(ax, numbers)
        else:
            ax.bar(self.model, numbers)
        label(ax, "y", ledger)
        ax.set_title(self.table().caption)
        return ax

    def _lines(self, ax: Any, numbers: NDArray[Any]) -> None:
        """Draw a line along the last axis for each index of the others."""
        import numpy as np

        shape = numbers.shape
        given = {name: np.asarray(self.hyperparameters[name]) for name in self._swept}
        along = next((name for name, array in given.items() if array.shape[-1] > 1), self._swept[0])
        values = {name: np.broadcast_to(array, shape) for name, array in given.items()}
        fixed = [name for name, array in given.items() if array.ndim > 1 and array.shape[-1] == 1 and name != along]
        for at in np.ndindex(shape[:-1]):
            said = [f"{name} = {values[name][at][0]}" for name in fixed]
            model = [] if isinstance(self.model, str) else [self.model[at[0]]]
            ax.plot(values[along][at], numbers[at], marker=".", label=", ".join(model + said))
        ax.set_xlabel(along)
        if len(shape) > 1:
            ax.legend()


def sweep(plan: Plan, given: Mapping[str, Any], dtype: str = "float32") -> Sweep:
    """Return the costs where some of `given` are arrays.

    Raises UsageError as a single query does at the first bad setting.
    """
    values, swept, ledgers, _ = _swept([plan], given, dtype)
    backbone = plan.inventory.backbone
    one = {name: array[0] for name, array in ledgers.items()}
    return Sweep(plan.id, backbone.id, values, backbone.parameters, **one, _swept=swept)


def sweep_models(
    models: Sequence[tuple[str, int]], plans: Sequence[Plan | None], given: Mapping[str, Any], dtype: str = "float32"
) -> Sweep:
    """Return the costs on several models, each with its id and parameters; at least one has a plan.

    Raises UsageError for a setting that is invalid on every model.
    """
    import numpy as np

    there = [i for i, plan in enumerate(plans) if plan is not None]
    laid = [plan for plan in plans if plan is not None]
    values, swept, ledgers, refused = _swept(laid, given, dtype)
    arrays = {}
    for name, array in ledgers.items():
        whole = np.ma.MaskedArray(np.zeros((len(plans), *array.shape[1:]), int), mask=True)
        whole[there] = np.ma.MaskedArray(array, refused)
        arrays[name] = whole
    ids, parameters = zip(*models, strict=True)
    return Sweep(laid[0].id, ids, values, np.array(parameters), **arrays, _swept=swept)


def _swept(
    plans: Sequence[Plan], given: Mapping[str, Any], dtype: str
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any], Any]:
    """Return all hyperparameters, the names given as arrays, the ledgers by plan and setting, and refusals."""
    import numpy as np

    chosen("dtype", dtype, BYTES)
    values, swept = _values(plans, given)
    try:
        shape = np.broadcast_shapes(*(values[name].shape for name in swept))
    except ValueError:
        raise UsageError(f"{plans[0].id}: the arrays of {', '.join(swept)} do not broadcast together") from None

    flat = {name: np.broadcast_to(values[name], shape).reshape(1, -1) for name in swept}
    ledgers = {name: np.zeros((len(plans), math.prod(shape)), int) for name in LEDGERS}
    refused = np.zeros((len(plans), math.prod(shape)), bool)
    groups, width = [*_groups(plans)], max(1, CHUNK // len(plans))
    for start in range(0, math.prod(shape), width):
        chunk = slice(start, start + width)
        here = values | {name: array[:, chunk] for name, array in flat.items()}
        _fill(plans, groups, here, dtype, {name: array[:, chunk] for name, array in ledgers.items()}, refused[:, chunk])
    shaped = {name: array.reshape(len(plans), *shape) for name, array in ledgers.items()}
    return values, swept, shaped, refused.reshape(len(plans), *shape)


def _fill(
    plans: Sequence[Plan], groups: Sequence[_Group], values: Mapping[str, Any], dtype: str,
    ledgers: Mapping[str, NDArray[Any]], refused: NDArray[Any],
) -> None:
    """Write the ledgers of a chunk of settings, and the mask of refusals. For one plan, raise the refusal."""
    import numpy as np

    n, size = refused.shape[1], BYTES[dtype]
    arrays = {name for name, value in values.items() if isinstance(value, np.ndarray)}
    reals = {name: value.astype(float) if name in arrays else value for name, value in values.items()}
    with np.errstate(all="ignore"):
        counted, suspect = _counted(plans, groups, values, n, int)
        checked, _ = _counted(plans, groups, reals, n, float)
        suspect |= ~_in_domain(plans, values)
    for name, numbers in counted.items():
        suspect |= ~(np.abs(checked[name]) <= EXACT) | (np.abs(checked[name] - numbers) > 0.5)
    stored, indices, bits = (counted[kind] for kind in ("values", "indices", "bits"))
    counted |= {"stored": stored + indices, "stored_bits": bits}
    counted["stored_bytes"] = stored * size + indices * INDEX_BYTES - (-bits // 8)
    suspect |= counted["stored_bytes"] > EXACT
    for name, array in ledgers.items():
        array[...] = counted[name]
    for at in zip(*(numbers.tolist() for numbers in np.nonzero(suspect)), strict=True):
        setting = {name: _cell(value, at).item() if name in arrays else value for name, value in values.items()}
        try:
            one = plans[at[0]].cost(setting, dtype)
        except UsageError:
            if len(plans) == 1:
                raise
            refused[at] = True
            continue
        for name, array in ledgers.items():
            array[at] = getattr(one, name)


def _cell(value: NDArray[Any], at: Sequence[int]) -> Any:
    """Return one element of a hyperparameter with one row (or one per plan) and one column (or one per setting)."""
    return value[at[0] if len(value) > 1 else 0, at[1] if value.shape[1] > 1 else 0]


def _values(plans: Sequence[Plan], given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return every hyperparameter, and the names given as arrays, which have the declared type.

    Other values are as in a single query. A default that differs between models has a row for each plan.
    """
    import numpy as np

    chosen, values, swept = plans[0].named(given), dict[str, Any](), []
    for name, spec in plans[0].entry.hyperparameters.items():
        if name not in chosen:
            values[name] = _rows_of([plan.default(spec) for plan in plans])
            continue
        raw = chosen[name]
        if masked := int(np.sum(np.ma.getmaskarray(raw))) if isinstance(raw, np.ma.MaskedArray) else 0:
            what = "masked value" if masked == 1 else "masked values"
            raise UsageError(f"hyperparameter {name}: found an array with {masked} {what}; expected none")
        expected = {"int": "whole numbers", "float": "numbers"}.get(spec.type, "a single value")
        try:
            array = np.asarray(raw)
        except ValueError:  # rows of different lengths
            raise UsageError(f"hyperparameter {name}: found {shown(raw)}; expected {expected}") from None
        if isinstance(raw, str) or array.ndim == 0:
            values[name] = coerced(name, spec, raw)
            continue
        if array.dtype.kind not in {"int": "iu", "float": "iuf"}.get(spec.type, ""):
            raise UsageError(f"hyperparameter {name}: found an array of {array.dtype}; expected {expected}")
        if array.size == 0 or not np.all(np.abs(array.astype(float)) <= LARGEST):
            raise UsageError(f"hyperparameter {name}: found an array that is empty or goes beyond 2**31")
        values[name] = array.astype(int if spec.type == "int" else float)
        swept.append(name)
    return values, tuple(swept)


def _rows_of(values: Sequence[Any]) -> Any:
    """Return one value for all, or a column if they differ."""
    import numpy as np

    return values[0] if all(value == values[0] for value in values) else np.array(values)[:, None]


def _known(plans: Sequence[Plan], names: Iterable[str]) -> dict[str, Any]:
    """Return the names that are dimensions of models, each with a row for each plan or one for all."""
    return {name: _rows_of([plan.common[name] for plan in plans]) for name in names if name in plans[0].common}


def _in_domain(plans: Sequence[Plan], values: Mapping[str, Any]) -> Any:
    import numpy as np

    fine: Any = np.True_
    for spec in plans[0].entry.hyperparameters.values():
        if spec.domain is not None:
            found = _vectorised(spec.domain, _known(plans, spec.domain.names) | dict(values))
            fine = fine & np.asarray(found, dtype=bool)
    return fine


def _vectorised(formula: Formula, values: Mapping[str, Any]) -> Any:
    names = tuple(sorted(formula.names))
    return formula.numpy(names)(*[values[n] for n in names])


def _arguments(plans: Sequence[Plan], values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return, for each part, its own hyperparameters in their declared order, as arrays or single values."""
    import numpy as np

    if len(plans[0].parts) == 1:
        return [tuple(values.values())]
    if len(plans) == 1:
        return plans[0].arguments(values, _vectorised)
    several = {name for name, value in values.items() if isinstance(value, np.ndarray) and len(value) > 1}
    each = [
        plan.arguments({name: v[i : i + 1] if name in several else v for name, v in values.items()}, _vectorised)
        for i, plan in enumerate(plans)
    ]
    return [
        tuple(
            np.concatenate(np.broadcast_arrays(*column)) if isinstance(column[0], np.ndarray) else _rows_of(column)
            for column in zip(*arguments, strict=True)
        )
        for arguments in zip(*each, strict=True)
    ]


@dataclass(slots=True)
class _Group:
    """The pieces of a tensor, the index of each one's plan, and the names for its formulas.

    known: each name has a row for each piece or one for all.
    """

    owners: NDArray[Any]
    pieces: list[Piece]
    known: dict[str, Any]


def _groups(plans: Sequence[Plan]) -> Iterator[_Group]:
    """Yield the pieces of each tensor: separately for a single plan, together for several."""
    import numpy as np

    found: dict[Any, tuple[list[int], list[Piece]]] = {}
    for i, plan in enumerate(plans):
        for number, piece in enumerate(plan.pieces):
            owners, pieces = found.setdefault(piece.name if len(plans) > 1 else number, ([], []))
            owners.append(i)
            pieces.append(piece)
    for owners, pieces in found.values():
        measured, dims = pieces[0].measure, [piece.group.dims for piece in pieces]
        everywhere = [plans[i].common for i in owners]
        sources = {name: dims if name in measured.local else everywhere for name in measured.names}
        known = {name: _rows_of([one[name] for one in source]) for name, source in sources.items()}
        yield _Group(np.array(owners), pieces, known)


def _counted(
    plans: Sequence[Plan], groups: Sequence[_Group], values: Mapping[str, Any], n: int, kind: type
) -> tuple[dict[str, Any], NDArray[Any]]:
    """Return the summed counts at `n` settings, as numbers of type `kind`, and where a single query would fail."""
    import numpy as np

    arguments = _arguments(plans, values)
    shape = len(plans), n
    sums: dict[str, Any] = {name: np.zeros(shape, kind) for name in (*HELD, "trained", "served", "served_bits")}
    suspect = np.zeros(shape, bool)
    nothing = np.repeat([[bool(plan.pieces)] for plan in plans], n, axis=1)  # is there
    tensors: dict[str, list[_Rows]] = {}
    for group in groups:
        owners, pieces, known, measured = group.owners, group.pieces, group.known, group.pieces[0].measure
        args = _of_rows(arguments[pieces[0].part], owners)
        places = _places(pieces, known, args)
        try:
            fine, *numbers = measured.arrays(known, known, *args)
        except FormulaError:  # a branch that a single query does not take divides by a number that is zero
            suspect[np.unique(owners)] = True
            continue
        if measured.exists is not None:
            numbers = [np.where(places > 0, number, 0) for number in numbers]
        bad = np.zeros((len(pieces), n), bool)
        if measured.requires is not None:
            bad |= (places > 0) & ~np.asarray(fine, bool)
        for number in numbers:
            bad |= ~((number >= 0) & (number == np.floor(number)))
        at, found = _summed(owners, np.broadcast_to(places, (len(pieces), n)))
        nothing[at] &= found == 0
        row = _row(owners, pieces[0], places, [np.asarray(number).astype(kind) for number in numbers])
        at, rows = _summed(owners, bad)
        suspect[at] |= rows > 0
        tensors.setdefault(pieces[0].name, []).append(row)
    for members in tensors.values():
        measured = members[0].piece.measure
        for row in [_gathered(plans, members, arguments)] if measured.across else members:
            if measured.tensor.served == "kept":
                masks = row.shares.get("bits", 0) > 0
                row.shares["served_bits"] = np.where(masks, row.numel, 0)
                row.shares["served"] = np.where(masks, 0, row.numel)
            for name, number in row.shares.items():
                at, rows = _summed(row.owners, number)
                sums[name][at] += rows
    return sums, suspect | nothing


def _of_rows(args: Iterable[Any], owners: NDArray[Any]) -> tuple[Any, ...]:
    """Return the arguments of plans as arguments of their pieces."""
    import numpy as np

    return tuple(arg[owners] if isinstance(arg, np.ndarray) and len(arg) > 1 else arg for arg in args)


def _summed(owners: NDArray[Any], rows: NDArray[Any]) -> tuple[Any, Any]:
    """Return the rows of pieces summed by plan, and the indices of these plans.

    owners: the plan of each piece, in order.
    """
    import numpy as np

    first = np.flatnonzero(np.diff(owners, prepend=-1))
    if len(first) == len(owners):
        return owners if len(owners) > 1 else slice(owners[0], owners[0] + 1), rows
    return owners[first], np.add.reduceat(np.broadcast_to(rows, (len(owners), rows.shape[1])), first)


@dataclass(slots=True)
class _Rows:
    """Pieces of a tensor with arrays inserted: plans, numbers of locations, entries, and their share of the ledgers.

    There is a row for each piece and a column for each setting.
    """

    owners: NDArray[Any]
    piece: Piece
    places: Any
    numel: Any
    shares: dict[str, Any]


def _places(pieces: Sequence[Piece], known: Mapping[str, Any], args: Sequence[Any]) -> Any:
    """Return the number of locations at which each piece exists."""
    import numpy as np

    measured, n = pieces[0].measure, np.array([piece.group.n for piece in pieces])[:, None]
    if measured.exists is None:
        return n
    if not measured.layered:
        (there,) = measured.there_arrays(known, known, known.get("layer", 0), *args)
        return np.asarray(there, bool) * n
    each = [piece.group.layers for piece in pieces]
    lengths = [len(layers) for layers in each]
    of = np.repeat(np.arange(len(pieces)), lengths)  # a row for each layer of each piece
    layers = np.array([*itertools.chain.from_iterable(each)])[:, None]
    times = np.array([*itertools.chain.from_iterable(map(dict.values, each))])[:, None]
    here = dict(zip(known, _of_rows(known.values(), of), strict=True))
    (there,) = measured.there_arrays(here, here, layers, *_of_rows(args, of))
    return np.add.reduceat(np.asarray(there, int) * times, np.cumsum([0, *lengths[:-1]]), axis=0)


def _row(owners: NDArray[Any], piece: Piece, places: Any, numbers: Sequence[Any]) -> _Rows:
    measured, copies = piece.measure, places * numbers[1]
    shares: dict[str, Any] = {}
    if measured.trained is not None:
        shares["trained"] = copies * numbers[measured.trained]
    for kind, at in measured.held:
        shares[kind] = shares.get(kind, 0) + copies * numbers[at]
    return _Rows(owners, piece, places, copies * numbers[0], shares)


def _gathered(plans: Sequence[Plan], members: Sequence[_Rows], arguments: Sequence[tuple[Any, ...]]) -> _Rows:
    """Return a tensor at all its locations together, with the shares that are counted over all of them."""
    import numpy as np

    def total(rows: Iterable[Any]) -> Any:
        found = [_summed(row.owners, one)[1] for row, one in zip(members, rows, strict=True)]
        return sum(found)

    piece = members[0].piece
    measured, owners = piece.measure, np.unique(members[0].owners)
    places, numel = total(row.places for row in members), total(row.numel for row in members)
    shares: dict[str, Any] = {name: total(row.shares[name] for row in members) for name in members[0].shares}
    args = _of_rows(arguments[piece.part], owners)
    known = dict(zip(measured.hyperparameters, args, strict=True)) | {"numel": numel}
    for name, formula in measured.across:
        dims = _known([plans[i] for i in owners.tolist()], formula.names - known.keys())
        share = np.where(places > 0, _vectorised(formula, dims | known), 0).astype(np.asarray(numel).dtype)
        shares[name] = share + (0 if name == "trained" else shares.get(name, 0))
    return _Rows(owners, piece, places, numel, shares)

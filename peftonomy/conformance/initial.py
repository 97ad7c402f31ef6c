"""Test the declared start of every tensor against draws under many seeds.

The method is applied to the same model repeatedly, each time with another seed. A deterministic start must match
exactly. A distribution must match in mean, spread, bounds and kurtosis over all locations of the tensor together, with
each entry standardised to mean 0 and spread 1. `computed` must be the same under every seed, and `drawn` must differ.
Neither may stand for a start that a simpler kind describes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from peftonomy import Place
from peftonomy.schema.initial import Distribution, Start

from . import tiny
from .trial import Trial

__all__ = ["Draws", "draws", "starts"]

WANTED, MOST, LEAST = 1500, 300, 4
"""The desired number of values of a tensor, and the largest and smallest number of times the method is applied."""
SIGMAS = 5.0
"""The allowed deviation of a statistic in standard errors."""
EXACT = 1e-7
ENOUGH = 300
"""The number of values from which kurtosis distinguishes a uniform from a normal distribution."""


@dataclass
class Draws:
    """All draws of one declared tensor: for each of its locations, one tensor for each seed."""

    start: Start
    own: Mapping[str, Tensor]
    """The backbone's own parameters by name."""
    places: list[tuple[Place, list[Tensor]]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(draw.numel() for _, drawn in self.places for draw in drawn)


def draws(trial: Trial) -> dict[str, Draws]:
    """Draw every declared tensor under as many seeds as needed."""
    found: dict[str, Draws] = {}
    own = tiny.plain(trial.family).state_dict()
    for seed in range(MOST):
        model = trial.make(seed)
        live = trial.state(model)
        if not found:
            found = {place.tensor: Draws(Start.parse(place.spec.init), own) for place in trial.places}
            for place in trial.places:
                found[place.tensor].places += [(place, []) for _ in range(place.copies)]
        slots = {tensor: iter(held.places) for tensor, held in found.items()}
        for place, names in zip(trial.places, trial.names(model), strict=True):
            values = [live[name].detach().double() for name in names]
            if place.copies == 1 and len(values) > 1:       # one tensor that is stored in pieces
                values = [torch.cat([value.flatten() for value in values])]
            for value in values:
                next(slots[place.tensor])[1].append(value.clone())
        if seed + 1 >= LEAST and all(held.size >= WANTED or _known(held) for held in found.values()):
            break
    return {tensor: held for tensor, held in found.items() if held.size}


def _known(held: Draws) -> bool:
    """Return True if few draws suffice, because each must equal the declared values or the first draw."""
    return held.start.kind in ("zeros", "ones", "constant", "identity", "dirac", "pretrained", "computed", "orthogonal")


def starts(trial: Trial) -> list[str]:
    """Return the problems of the declared starts; empty if all are correct."""
    return [f"{tensor}: {problem}" for tensor, held in draws(trial).items() for problem in differing(held, held.start)]


def differing(held: Draws, start: Start) -> Iterator[str]:
    """Yield the difference between the draws and a start; at most one."""
    placed = [(place, drawn) for place, drawn in held.places if drawn]
    laws = [start.at(place.known) for place, _ in placed]
    for check in (_exactly, partial(_as_computed, held.own), partial(_as_drawn, start, held.own), _orthogonal, _random):
        problem = check(placed, laws)
        if problem:
            yield problem
            return


Placed = Sequence[tuple[Place, list[Tensor]]]


def _exactly(placed: Placed, laws: Sequence[Distribution]) -> str:
    """Check that a deterministic start has its values under every seed."""
    for (_place, drawn), law in zip(placed, laws, strict=True):
        if not law.fixed:
            continue
        for draw in drawn:
            if law.kind == "identity" and draw.ndim < 2:
                return "is no matrix"
            if law.kind == "dirac" and draw.ndim not in (3, 4, 5):
                return "is no kernel of a convolution"
            wanted = _fixed(draw, law)
            off = (draw - wanted).abs().max().item() if draw.numel() else 0.0
            if off > EXACT * max(1.0, abs(law.mean) if law.kind == "constant" else 1.0):
                return f"starts up to {off:.3g} away from {law.mean:g}" if law.kind == "constant" else f"no {law.kind}"
    return ""


def _fixed(draw: Tensor, law: Distribution) -> Tensor:
    """Return the values of a deterministic start, in the shape of a draw."""
    if law.kind == "constant":
        return torch.full_like(draw, law.mean)
    if law.kind == "dirac":
        return torch.nn.init.dirac_(torch.empty_like(draw))
    return torch.eye(draw.shape[-2], draw.shape[-1], dtype=draw.dtype).expand_as(draw)


def _as_computed(own: Mapping[str, Tensor], placed: Placed, laws: Sequence[Distribution]) -> str:
    """Check that a computed start is no constant and no copy of the backbone's values, and ignores the seed."""
    mine = [(drawn, law.kind, _copied(place, drawn[0], own)) for (place, drawn), law in zip(placed, laws, strict=True)
            if law.kind in ("computed", "pretrained") and drawn[0].numel()]  # fmt: skip
    if any(not torch.equal(draw, drawn[0]) for drawn, _, _ in mine for draw in drawn):
        return "differs from seed to seed"
    if any(kind == "pretrained" and not copied for _, kind, copied in mine):
        return "is not the backbone's own"
    values = [drawn[0] for drawn, kind, _ in mine if kind == "computed"]
    if values and all(copied for _, kind, copied in mine if kind == "computed"):
        return "is the backbone's own"
    first = [v.flatten()[0] for v in values]
    alike = any(v.numel() > 1 for v in values) or len(set(map(float, first))) == 1
    if values and alike and all((v == v.flatten()[0]).all() for v in values):
        return f"is constant({first[0].item():g})"
    if values and all(v.ndim > 2 and torch.equal(v, _fixed(v, Start.parse("dirac").at({}))) for v in values):
        return "is dirac"
    return ""


def _copied(place: Place, draw: Tensor, own: Mapping[str, Tensor]) -> bool:
    """Return True if a tensor is a parameter of the backbone, or a copy of one."""
    if place.spec.selecting:
        return torch.equal(draw, own[place.path].double())
    same = [value.double() for value in own.values() if value.numel() == draw.numel()]
    return any(torch.equal(draw.reshape(value.shape), value) for value in same) or any(
        torch.equal(draw, value.double().T) for value in same if value.ndim == draw.ndim == 2
    )


def _as_drawn(start: Start, own: Mapping[str, Tensor], placed: Placed, laws: Sequence[Distribution]) -> str:
    """Check that a drawn start differs from seed to seed, and that no plain distribution describes it.

    A text that names its distribution is accepted: the parameters may come from the backbone, which formulas cannot
    use. Rows of a matrix of the backbone are accepted, whatever distribution they have.
    """
    mine = [drawn for (_, drawn), law in zip(placed, laws, strict=True) if law.kind == "drawn"]
    if not mine:
        return ""
    several = [drawn for (place, drawn), law in zip(placed, laws, strict=True)
               if law.kind == "drawn" and not _one(place)]  # fmt: skip
    if several and all(torch.equal(draw, drawn[0]) for drawn in several for draw in drawn):
        return "is the same for every seed"
    if all(any(_chosen(draw, value.double()) for value in own.values()) for drawn in mine for draw in drawn):
        return ""
    z = torch.cat([((d := torch.stack(drawn)) - d.mean()).flatten() / d.std().clamp_min(1e-30) for drawn in mine])
    alone = all(map(_independent, (drawn[0] for drawn in mine)))
    kurtosis, furthest = (z**4).mean().item() - 3, z.abs().max().item()
    if len(z) >= ENOUGH and alone and abs(kurtosis + 1.2) < 0.25 and furthest < 1.3 * math.sqrt(3):
        return "" if _named(start) else "looks uniform"
    if len(z) >= 2 * ENOUGH and alone:
        if all(_orthonormal(draw) for drawn in mine for draw in drawn):
            return "is orthogonal"
        if _named(start):
            return ""
        if abs(kurtosis) < 0.3 and abs((z**3).mean().item()) < 0.3:
            return "looks normal"
        if abs(kurtosis + 0.63) < 0.2 and furthest < 2.5:
            return "looks like a normal distribution cut at two standard deviations"
    return ""


def _one(place: Place) -> bool:
    """Return True for a single index. That of the largest value may be the same for every seed."""
    return place.count == 1 and any(form.as_ == "indices" for form in place.spec.stored)


def _chosen(draw: Tensor, matrix: Tensor) -> bool:
    """Return True if a matrix consists of rows of another one."""
    if not draw.ndim == matrix.ndim == 2 or draw.shape[1] != matrix.shape[1]:
        return False
    return bool((draw[:, None] == matrix).all(-1).any(-1).all())


def _named(start: Start) -> bool:
    """Return True if the text of a start, or of one of its branches, names a distribution."""
    return "uniform" in start.prose or "normal" in start.prose or any(map(_named, start.branches))


def _orthonormal(draw: Tensor) -> bool:
    """Return True if rows or columns, whichever are fewer, are orthogonal and of equal length."""
    if draw.ndim < 2 or min(draw.shape[-2:]) < 2:
        return False
    wide = draw if draw.shape[-2] <= draw.shape[-1] else draw.transpose(-1, -2)
    gram = wide @ wide.transpose(-1, -2)
    square = gram.flatten()[0].item()
    wanted = square * torch.eye(gram.shape[-1], dtype=gram.dtype)
    return bool((gram - wanted).abs().max() <= 1e-6 * max(1.0, square))


def _independent(draw: Tensor) -> bool:
    """Return True if the entries could be independent draws: several, all different, and not integers."""
    return draw.numel() > 1 and len(draw.unique()) == draw.numel() and not bool((draw == draw.round()).all())


def _orthogonal(placed: Placed, laws: Sequence[Distribution]) -> str:
    """Check that rows or columns, whichever are fewer, are orthonormal up to the gain, and random."""
    mine = [(drawn, law) for (_, drawn), law in zip(placed, laws, strict=True) if law.kind == "orthogonal"]
    for drawn, law in mine:
        for draw in drawn:
            if draw.ndim < 2:
                return "is no matrix"
            wide = draw if draw.shape[-2] <= draw.shape[-1] else draw.transpose(-1, -2)
            gram = wide @ wide.transpose(-1, -2)
            wanted = law.high**2 * torch.eye(gram.shape[-1], dtype=gram.dtype)
            if (gram - wanted).abs().max() > 1e-6 * max(1.0, law.high**2):
                return "is not orthonormal"
    if mine and all(torch.equal(draw, drawn[0]) for drawn, _ in mine for draw in drawn):
        return "is the same for every seed"
    if mine and all(((draw == 0) | (draw == law.high)).all() for drawn, law in mine for draw in drawn):
        return "is the identity"
    return ""


def _random(placed: Placed, laws: Sequence[Distribution]) -> str:
    """Check independent draws: mean, spread, bounds and kurtosis over all locations together."""
    mine = [(d, law) for (_, d), law in zip(placed, laws, strict=True) if not math.isnan(law.std) and not law.fixed]
    if not mine:
        return ""
    for drawn, law in mine:
        low, high = min(d.min().item() for d in drawn), max(d.max().item() for d in drawn)
        room = 1e-6 * (1 + abs(law.high)) if math.isfinite(law.high) else 0.0
        if low < law.low - room or high > law.high + room:
            return f"lies in [{low:.4g}, {high:.4g}], outside of [{law.low:.4g}, {law.high:.4g}]"
    if all(torch.equal(draw, drawn[0]) for drawn, _ in mine for draw in drawn):
        return "is the same for every seed"
    z = torch.cat([(torch.stack(drawn).flatten() - law.mean) / law.std for drawn, law in mine])
    n, known = len(z), {law.kurtosis for _, law in mine}
    kurtosis = known.pop() if len(known) == 1 else None
    if abs(z.mean().item()) > SIGMAS / math.sqrt(n):
        return f"mean off by {z.mean().item():.3g} standard deviations"
    expected = 0.0 if kurtosis is None else kurtosis
    share = SIGMAS * math.sqrt((max(expected, -1.9) + 2) / 4 / n)
    spread = z.pow(2).mean().sqrt().item()
    if abs(spread - 1) > share + 1e-6:
        return f"standard deviation {spread:.3g} times the declared one"
    found = z.pow(4).mean().item() / spread**4 - 3
    if kurtosis is not None and n >= ENOUGH and abs(found - expected) > 0.6:
        return f"kurtosis {found:.2f}, {expected:.2f} declared"
    return ""

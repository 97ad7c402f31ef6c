"""One method on one tiny model with one setting, as the input of the checks."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

import peftonomy
from peftonomy import Backbone, Cost, Formula, Place, UsageError
from peftonomy.costs.plan import Plan

from ..implementations.live import kit
from ..implementations.located import module as reference
from ..implementations.naming import Naming, ours, restore, state
from ..memory.combining import Combination, combination, passed
from . import tiny

KB = peftonomy.load()


@dataclass(frozen=True)
class Trial:
    """A method's entry and its reference module (or a broken twin of it), laid out on a tiny model."""

    method: str
    family: str
    hyperparameters: dict[str, Any]
    targets: tuple[str, ...] | None = None
    module: Any = field(default=None, compare=False)

    @cached_property
    def reference(self) -> Any:
        return self.module or reference(self.method)

    @property
    def entry(self) -> Any:
        return KB[self.method].entry

    @property
    def forward_only(self) -> bool:
        """True if a step has no backward pass: the method's own optimizer runs the forward passes."""
        return any(recipe.forward_only for recipe in self._recipes)

    @property
    def in_turns(self) -> bool:
        """True if only some layers are trained at a time."""
        return any(recipe.turns is not None for recipe in self._recipes)

    @property
    def _recipes(self) -> list[Any]:
        return [part.entry.memory for part in KB[self.method].parts if part.entry.memory is not None]

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of this trial's query to the knowledge base."""
        _, task, labels = layout(self.family)
        targets = {} if self.targets is None else {"targets": self.targets}
        return {"task": task, "num_labels": labels, **targets, **self.hyperparameters}

    @cached_property
    def plan(self) -> Plan:
        """The layout of the method on the tiny model."""
        backbone, task, labels = layout(self.family)
        return KB[self.method].plan(backbone, targets=self.targets, task=task, num_labels=labels)

    @cached_property
    def cost(self) -> Cost:
        return KB[self.method].cost(layout(self.family)[0], **self.asked)

    @cached_property
    def places(self) -> list[Place]:
        return KB[self.method].places(layout(self.family)[0], **self.asked)

    @property
    def even(self) -> bool:
        """True if the stored count is a plain sum; False for a budget that unequal locations may share unequally."""
        budgets = {p.tensor for p in self.places if any(part.count is not None for part in p.spec.stored)}
        sizes = {(p.tensor, p.count) for p in self.places if p.tensor in budgets}
        searched = self.entry.facets["budget"] == "searched"    # a searched structure may use less than the budget
        return len(sizes) == len(budgets) and not (budgets and searched)

    def moves(self, place: Place) -> tuple[bool, bool]:
        """Return whether the optimiser updates any entry of a tensor, and whether it updates all of them."""
        if isinstance(place.spec.trained, bool):
            return place.spec.trained, place.spec.trained
        rows = [row for row in self.cost.tensors if row.name == place.tensor]
        moved = sum(row.trained for row in rows)
        return moved > 0, moved == sum(row.total for row in rows)

    def applied(self, seed: int = 0) -> nn.Module:
        """Return a fresh model with the method applied."""
        model = tiny.model(self.family)
        tiny.seed(seed)
        targets = {} if self.targets is None else {"targets": self.targets}
        same = self.reference.apply(model, **self.hyperparameters, **targets) is model
        assert same, "apply returns its model"
        return model

    def make(self, seed: int = 0) -> nn.Module:
        """Return a fresh model with the method applied. It is calibrated, or inputs are combined, if the method asks.

        The same inputs are combined under every seed.
        """
        model = self.applied(seed)
        if self.entry.combines is not None and hasattr(self.reference, "combine"):
            same = self.reference.combine(model, self.inputs) is model
            assert same, "combine returns its model"
        if hasattr(self.reference, "calibrate"):
            self.reference.calibrate(model, (self.loss(model) for _ in range(2)))
        return model

    @cached_property
    def made(self) -> nn.Module:
        """A model with the method applied, which no check changes."""
        return self.make()

    @cached_property
    def combination(self) -> Combination:
        """The count of the combination. Raises UsageError if the method combines nothing."""
        return combination(KB, self.plan, self.hyperparameters, "float64")

    @cached_property
    def of(self) -> Trial:
        """The trial of the method that trains the inputs of a combination."""
        method = KB[self.entry.combines.method]
        targets = (self.targets or self.cost.targets) if method.entry.targets else None
        given = passed(KB, self.plan, self.plan.values(self.hyperparameters))
        trial = Trial(method.id, self.family, given, targets)
        return replace(trial, hyperparameters=dict(trial.cost.hyperparameters))

    @cached_property
    def inputs(self) -> list[dict[str, Tensor]]:
        """Checkpoints of several trained models, for a method that combines them."""
        found = []
        for seed in range(self.combination.inputs):
            model = self.of.make(seed)
            shake(model, seed, rare=True)
            found.append(self.of.stored(self.of.finish(model)))
        return found

    def restored(self, held: Mapping[str, Tensor]) -> nn.Module:
        """Return a fresh model with a stored checkpoint."""
        model = self.finish(self.applied())
        self.restore(model, held)
        return model

    def outputs(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            return tiny.outputs(model, self.family)

    def loss(self, model: nn.Module) -> Tensor:
        return tiny.loss(model, self.family)

    def train(self, model: nn.Module, steps: int, *, plain: bool = False) -> list[float]:
        """Take a few optimiser steps on the trained parameters. Returns the losses.

        The optimiser is the method's own or Adam; gradient descent if `plain`.

        The list is empty if nothing is trained, because the method only combines trained parts.
        """
        moving = [p for p in model.parameters() if p.requires_grad]
        if not moving:
            return []
        own = getattr(self.reference, "optimizer", None)
        if own is None or plain:
            optimiser = torch.optim.SGD(moving, lr=0.01) if plain else torch.optim.Adam(moving, lr=0.01)
        else:
            optimiser = own(model, lr=0.001 if self.forward_only else 0.01)     # along a random direction
        losses = []
        for _ in range(steps):
            if self.forward_only and not plain:
                losses.append(float(optimiser.step(lambda: self.loss(model))))
                continue
            optimiser.zero_grad()
            loss = self.loss(model)
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return [*losses, self.loss(model).item()]

    def finish(self, model: nn.Module) -> nn.Module:
        """End training as the method does."""
        if hasattr(self.reference, "finish"):
            self.reference.finish(model)
        return model

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return every parameter and buffer of a checkpoint, tied ones once, by our names."""
        return state(self.reference, model)

    def ours(self, name: str) -> str:
        """Return a live name as in a reference implementation."""
        return ours(self.reference, name)

    def live(self, model: nn.Module) -> dict[str, Tensor]:
        """Return all tensors in the model that the method added."""
        return {name: value for name, value in self.state(model).items() if f".{self.method}." in f".{name}"}

    def names(self, model: nn.Module) -> list[list[str]]:
        """Return the live tensors of each location (several for copies, or for a count without a shape)."""
        return naming(self.family).names(self.method, self.places, list(self.state(model)))

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the contents of one task's checkpoint, in the form of the finished model."""
        return naming(self.family).stored(self.reference, self.method, self.places, model)

    def restore(self, model: nn.Module, held: Mapping[str, Tensor]) -> None:
        """Copy stored tensors into a model with the method freshly applied."""
        restore(self.reference, model, held)


@functools.cache
def naming(family: str) -> Naming:
    """Return the names of methods' tensors in a tiny model."""
    return Naming(tiny.plain(family))


@functools.cache
def layout(family: str) -> tuple[Backbone, str, int]:
    """Return the backbone, task and number of labels of a tiny model."""
    parts = kit.inventory(tiny.plain(family) if family in tiny.every() else tiny.shaped(family))
    return parts.backbone, parts.task, parts.num_labels


def homes(method: str) -> list[str]:
    """Return the families on which a method is verified: those with one tower if it acts on any of them."""
    return [*tiny.CONFIGS] if any(acts(method, family) for family in tiny.CONFIGS) else [*tiny.TOWERS]


def acts(method: str, family: str) -> bool:
    """Return whether a method can be counted on a family, with its defaults or with a small setting."""
    backbone, task, labels = layout(family)
    with contextlib.suppress(UsageError):
        KB[method].cost(backbone, task=task, num_labels=labels)
        return True
    with contextlib.suppress(UsageError):
        return bool(trials(method, family))
    return False


def trials(method: str, family: str) -> list[Trial]:
    """Return two settings: small numbers at the default targets, and other numbers at the first target alone.

    More settings follow until each tensor's `when` has been false, and true at the default targets: an entry could
    declare a tensor for the first target alone. Raises UsageError if the method has no targets in the model.
    """
    first = Trial(method, family, _small(method, family, None, ints=(2, 3, 1, 4, 5, 6, 8), alike=True))
    role = first.cost.targets[:1] or None if first.entry.targets else None
    second = Trial(method, family, _small(method, family, role, ints=(3, 1, 4, 2, 5, 6, 9), alike=False), role)
    found = [first, second]
    for tensor in first.entry.tensors.values():
        for holds in (True, False):
            tried = [t for t in found if t.targets is None or not holds]
            if tensor.when is not None and not any(bool(tensor.when(t.hyperparameters)) == holds for t in tried):
                found += _switched(first, tensor.when, holds)
    return found


def _switched(trial: Trial, when: Formula, holds: bool) -> list[Trial]:
    """Return the trial with one hyperparameter changed so that the condition equals `holds`; else an empty list."""
    backbone, _, _ = layout(trial.family)
    for name in sorted(when.names):
        for value in _every(trial.entry.hyperparameters[name]):
            changed = replace(trial, hyperparameters=trial.hyperparameters | {name: value})
            if bool(when(changed.hyperparameters)) == holds:
                with contextlib.suppress(UsageError):
                    KB[trial.method].cost(backbone, **changed.asked)
                    return [changed]
    return []


def _every(spec: Any) -> Sequence[Any]:
    """Return all values of a choice or switch, and the smallest ones of a number."""
    return spec.values or ((False, True) if spec.type == "bool" else (0, 1, 2, 3))


def _small(
    method: str, family: str, targets: tuple[str, ...] | None, *, ints: tuple[int, ...], alike: bool
) -> dict[str, Any]:
    """Return the first small setting that the entry's domains and requirements accept on this model.

    If there is none, the error says what the model lacks rather than that a value is out of its domain.
    """
    backbone, _, _ = layout(family)
    specs = KB[method].entry.hyperparameters
    refusals: list[UsageError] = []
    for values in itertools.product(*(_candidates(spec, ints, alike) for spec in specs.values())):
        trial = Trial(method, family, dict(zip(specs, values, strict=True)), targets)
        try:
            KB[method].cost(backbone, **trial.asked)
            return trial.hyperparameters
        except UsageError as error:
            refusals.append(error)
    raise next((error for error in refusals if "out of its domain" not in str(error)), refusals[0])


def _candidates(spec: Any, ints: tuple[int, ...], alike: bool) -> Iterator[Any] | tuple[Any, ...]:
    if spec.type == "int":
        return ints
    if spec.type == "float":
        default = spec.default if isinstance(spec.default, int | float) else 0.5
        return (default, 0.5) if alike else (default / 2, default, 0.25)
    if spec.type == "choice":
        return tuple(spec.values) if alike else tuple(reversed(spec.values))
    return (spec.default,) if alike else (not spec.default,)


def shake(model: nn.Module, seed: int = 3, rare: bool = False) -> None:
    """Change all trained tensors from their initial values, because zeros and ones hide errors.

    rare: few of the changes are large, as after training. Their spread is the same.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                noise = noise**3 / 15**0.5 if rare else noise       # 15: the mean of the sixth powers
                parameter.add_(0.3 * noise.to(parameter.dtype))


def with_module(trial: Trial, module: Any) -> Trial:
    """Return the same trial with another module in place of the method's own."""
    return replace(trial, module=module)

"""The schema of a library's or a trainer's support: the methods that it has, since when, and on which base models.

A trainer is a program that people configure for a training run: LLaMA-Factory, axolotl, ms-swift. It is declared in
`taxonomy/trainers/<id>.yaml`, with its names for our methods and hyperparameters. Libraries declare the same facts
about their methods in `taxonomy/libraries/<id>.yaml`. A fact without an entry is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from ..files.documents import load_yaml
from .base import Argument, Citation, Entry, FormulaField, Id, Line, Name, Prose, Stem, Value, validated

__all__ = ["ASPECTS", "Ability", "Aspect", "Key", "Offer", "Recipe", "Support", "Trainer", "load_trainer"]

Aspect = Literal["quantised", "moe", "fsdp", "deepspeed"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
"""The kinds of base model, and the ways to shard it, for which support is declared."""
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$", max_length=60)]


class Ability(Entry):
    """The degree to which something is supported, with the code that decides it."""

    works: Literal["full", "partial", "none"]
    note: Line
    source: Citation


class Dated(Entry):
    """The beginning of one method in a library or a trainer."""

    since: Stem | None = None
    """The first release that contains it."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")] | None = None
    """The commit that added it."""


class Support(Dated):
    """One method in a library."""

    base: dict[Aspect, Ability] = Field(default={})
    """The support for kinds of base models."""


class Key(Entry):
    """A trainer's key for one of our hyperparameters."""

    key: Argument
    type: Literal["int", "float", "bool", "str"]
    default: Value | None = None
    """The trainer's default; null if it has none."""
    note: Line | None = None


class Offer(Dated):
    """One of our methods in a trainer."""

    base: dict[Aspect, Ability | None] = Field(default={})
    """The support for kinds of base models. Null: unknown, although `like` declares it."""
    like: Id | None = None
    """Another method of the trainer, with which this one shares all fields that it does not declare. `set` and `keys`
    are added to those of the other."""
    name: Stem | None = None
    """The trainer's name for the method, if `set` does not say it."""
    set: dict[Argument, Any] = Field(default={})
    """The trainer's keys, with values, that select the method."""
    keys: dict[Name, Key] = Field(default={})
    """Our hyperparameters with the trainer's keys."""
    write: dict[Argument, FormulaField] = Field(default={})
    """Further keys, computed from our hyperparameters."""
    fixed: dict[Name, Value] = Field(default={})
    """Our hyperparameters for which the trainer has no key, with the values that it uses. Absent if it uses the value
    of the library that it calls, as declared in the method's entry."""
    scale: FormulaField | None = None
    """The factor of the correction, by our hyperparameters."""
    type: Word | None = None
    """The type of configuration in the library that the trainer calls, if the method's entry does not name it."""
    note: Line | None = None
    fails: Line | None = None
    """The reason why this release names the method and fails with it."""
    source: Citation | None = None


class Recipe(Entry):
    """The rest of a configuration with which the trainer runs."""

    keys: dict[Argument, Any]
    """Keys with values. `{model}` in a value stands for the model's checkpoint, `{method}` for the method's id."""
    modules: Argument
    """The key that lists the names of targeted modules."""
    form: Literal["list", "commas"] = "list"
    """The form of that list: a list of YAML, or one text with commas."""
    kinds: list[Literal["encoder", "decoder", "encoder_decoder"]]
    task: Id
    """The kinds of models, and the task, that the keys are for."""
    file: Stem
    """The name of the file in messages, and the way to run it."""
    run: Line
    source: Citation


class Trainer(Entry):
    """A trainer, declared in `taxonomy/trainers/<id>.yaml`."""

    id: Id
    name: Stem
    package: Stem
    version: Stem
    source: Citation
    note: Prose
    through: Id | None = None
    """The library whose layers it uses for most methods."""
    recipe: Recipe | None = None
    """With it, `peftonomy export` writes the trainer's configuration."""
    methods: dict[Id, Offer]

    @model_validator(mode="after")
    def _linked(self) -> Self:
        for name, offer in self.methods.items():
            like = None if offer.like is None else self.methods.get(offer.like)
            if offer.like is not None and (like is None or like.like is not None):
                raise ValueError(f"method {name} is like no plain method: {offer.like}")
            if offer.source is None and (like is None or like.source is None):
                raise ValueError(f"method {name} has no source")
            if not (offer.name or self.offer(name).set):
                raise ValueError(f"method {name} has neither a name nor keys that select it")
        return self

    def offer(self, method: str) -> Offer:
        """Return a method's fields including the inherited ones."""
        own = self.methods[method]
        if own.like is None:
            return own
        above = self.methods[own.like]
        shared = {n: getattr(above, n) for n in ("scale", "type", "source", "fixed") if not getattr(own, n)}
        merged = {n: {**getattr(above, n), **getattr(own, n)} for n in ("set", "keys", "base")}
        return own.model_copy(update=shared | merged)

    def abilities(self, method: str) -> dict[Aspect, Ability]:
        """Return the support for kinds of base models with one method, as far as it is known."""
        found = self.offer(method).base if method in self.methods else {}
        return {name: one for name, one in found.items() if one is not None}

    def named(self, method: str) -> str:
        """Return the trainer's name for a method, or the keys that select it."""
        offer = self.offer(method)
        return offer.name or ", ".join(f"{key}: {_yaml(value)}" for key, value in offer.set.items())

    def citations(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield every citation with its place in the file."""
        yield ("source",), self.source
        if self.recipe is not None:
            yield ("recipe", "source"), self.recipe.source
        for method, offer in self.methods.items():
            if offer.source is not None:
                yield ("methods", method, "source"), offer.source
            yield from ((("methods", method, "base", n, "source"), one.source) for n, one in offer.base.items() if one)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_trainer(path: Path, name: str) -> Trainer:
    """Read the trainer in a file that messages call `name`. Raises DataError with every problem."""
    return validated(Trainer, load_yaml(path, name))

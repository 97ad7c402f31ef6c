"""Write a trainer's configuration: a method at a setting, on a model's modules, as YAML that the trainer reads.

    >>> import peftonomy
    >>> kb = peftonomy.load()
    >>> print(kb["lora"].export("llama_2_7b", to="axolotl", r=16).yaml, end="")
    # axolotl 0.18.0: axolotl train run.yml
    base_model: meta-llama/Llama-2-7b-hf
    datasets:
    - path: mhenrichsen/alpaca_2k_test
      type: alpaca
    output_dir: ./outputs/lora
    micro_batch_size: 2
    gradient_accumulation_steps: 4
    learning_rate: 0.0002
    adapter: lora
    lora_r: 16
    lora_alpha: 8
    lora_dropout: 0.0
    lora_target_modules:
    - q_proj
    - v_proj

Every value is written out, also where the trainer's default is equal. A value that the trainer cannot express is
refused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import UnknownName, UsageError, near
from .export import put, target_names
from .loading import checkpoint

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord
    from ..costs.plan import Plan
    from ..schema.library import Library
    from ..schema.support import Key, Offer, Trainer

__all__ = ["Run", "write_run", "writers"]


@dataclass(frozen=True)
class Run:
    """A trainer's configuration of a run with one method."""

    trainer: Trainer
    method: str
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return the keys with their values."""
        return copy.deepcopy(self.arguments)

    @property
    def yaml(self) -> str:
        """The file, with the call that runs it in the first line."""
        recipe = self.trainer.recipe
        assert recipe is not None
        head = f"# {self.trainer.name} {self.trainer.version}: {recipe.run}\n"
        return head + yaml.safe_dump(self.arguments, sort_keys=False, allow_unicode=True)

    def __repr__(self) -> str:
        return f"<{self.trainer.name} configuration of {self.method}>"


def writers(trainers: Mapping[str, Trainer]) -> list[str]:
    """Return the ids of the trainers whose configurations can be written."""
    return [key for key, trainer in trainers.items() if trainer.recipe is not None]


def write_run(method: MethodRecord, plan: Plan, given: Mapping[str, Any], trainer: Trainer) -> Run:
    """Write a trainer's configuration of a method. Raises UsageError for anything that it cannot express."""
    recipe = trainer.recipe
    if recipe is None:
        known = ", ".join(writers(method.kb.trainers))
        raise UsageError(f"to: {trainer.name} is described here without a configuration; expected one of {known}")
    if method.id not in trainer.methods:
        raise UnknownName("method", method.id, trainer.methods, f"of {trainer.name}")
    offer = trainer.offer(method.id)
    if offer.fails:
        raise UsageError(f"{trainer.name} {trainer.version} fails with {method.id}: {offer.fails}")
    library = method.kb.libraries[trainer.through or ""]
    _fits(plan, trainer)
    arguments: dict[str, Any] = {}
    words = {"model": checkpoint(plan.inventory.backbone), "method": method.id}
    said = {**recipe.keys, **offer.set, **_settings(method, plan, given, trainer, offer)}
    for name, value in said.items():
        put(arguments, name, _filled(value, words))
    names = _modules(method, plan, offer, library, trainer)
    if names:
        put(arguments, recipe.modules, ",".join(names) if recipe.form == "commas" else names)
    return Run(trainer, method.id, arguments)


def _fits(plan: Plan, trainer: Trainer) -> None:
    """Raise UsageError for a model or a task that the trainer's keys are not for."""
    recipe, inventory = trainer.recipe, plan.inventory
    assert recipe is not None
    kind = inventory.backbone.family.kind
    if kind not in recipe.kinds:
        expected = " or ".join(k.replace("_", "-") for k in recipe.kinds)
        raise UsageError(f"{trainer.name}: found a model of kind {kind.replace('_', '-')}; expected {expected}")
    if recipe.task not in (inventory.task, inventory.computed):
        raise UsageError(f"{trainer.name}: found task {inventory.task}; expected {recipe.task}")


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"{{{name}}}", word)
    return copy.deepcopy(value)


def _settings(
    method: MethodRecord, plan: Plan, given: Mapping[str, Any], trainer: Trainer, offer: Offer
) -> dict[str, Any]:
    """Return the trainer's keys for our hyperparameters. Raises UsageError for values without a key."""
    values, known = plan.values(given), {**plan.common, **plan.values(given)}
    computed = {name for formula in offer.write.values() for name in formula.names}
    entry = method.entry.implementations.get(trainer.through or "")
    for name, spec in method.entry.hyperparameters.items():
        if name in offer.keys or name in computed or name not in values:
            continue
        usual = entry.defaults if entry is not None else {}
        there = offer.fixed.get(name, usual.get(name, spec.default))
        if values[name] != there:
            close = near(name, [*offer.keys, *(key.key for key in offer.keys.values())])
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise UsageError(
                f"{trainer.name} has no key for {method.id}'s {name}: found {values[name]}, there it is {there}{hint}",
                about=[name],
            )
    written = {key.key: _typed(values[name], key, trainer, name) for name, key in offer.keys.items() if name in values}
    return written | {name: formula(known) for name, formula in offer.write.items()}


def _typed(value: Any, key: Key, trainer: Trainer, name: str) -> Any:
    """Return a value with the type of its key. Raises UsageError for a fraction where the key takes whole numbers."""
    if key.type == "int" and isinstance(value, float):
        if value != int(value):
            expected = "a whole number"
            raise UsageError(f"{trainer.name}'s {key.key}: found {name} = {value}; expected {expected}", about=[name])
        return int(value)
    return float(value) if key.type == "float" else value


def _modules(method: MethodRecord, plan: Plan, offer: Offer, library: Library, trainer: Trainer) -> list[str]:
    """Return the names of the targeted modules; none for a method without targets."""
    entry = method.entry.implementations.get(library.id)
    kind = offer.type or (entry.type if entry is not None else None)
    if kind is None and method.entry.targets is None:
        return []
    if kind is None:
        raise UsageError(f"{trainer.name}: the form in which it names the modules of {method.id} is not described here")
    return target_names(plan, library.types[kind].accepts, f"{trainer.name}'s {method.id}")

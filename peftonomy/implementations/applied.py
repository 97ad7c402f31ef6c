"""A reference implementation on a live `transformers` model: the result of `kb["lora"].apply(model, r=8)`.

Before the implementation changes the model, the entry's defaults are filled in for this model, its domains and
requirements are checked, and its counts are predicted. Needs the torch extra.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import ConfigError, DataError, Problem, UsageError, shown
from ..memory.combining import passed
from .live import kit
from .located import module
from .naming import Naming, restore

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord
    from ..costs.cost import Cost
    from ..costs.plan import Place

__all__ = ["Applied", "apply"]


class Applied:
    """A method on a model. `model` is the caller's object, changed in place.

    hyperparameters: all of them, defaults filled in. targets: roles, empty if the method has none. predicted: the cost
    by the entry.
    """

    def __init__(self, method: MethodRecord, model: nn.Module, targets: Iterable[str] | None, given: Mapping[str, Any]):
        self.method, self.model = method, model
        self._naming, self._inventory = Naming(model), kit.inventory(model)
        self._plain = [(name, p, _fingerprint(p), p.requires_grad) for name, p in model.named_parameters()]
        self._modules = set(model.modules())
        self._keys = set(model.state_dict())
        asked: dict[str, Any] = {"task": self._inventory.task, "num_labels": self._inventory.num_labels}
        if targets is not None:
            asked["targets"] = [targets] if isinstance(targets, str) else list(targets)
        backbone = self._inventory.backbone
        self.predicted: Cost = method.cost(backbone, **asked, **given)
        self.hyperparameters: dict[str, Any] = dict(self.predicted.hyperparameters)
        self.targets: tuple[str, ...] = tuple(self.predicted.targets) if method.entry.targets else ()
        self._plan = method.plan(backbone, **asked)
        self._places: list[Place] = self._plan.places(self.hyperparameters)
        roles = {"targets": self.targets} if self.targets else {}
        self._module.apply(model, **self.hyperparameters, **roles)

    @property
    def _module(self) -> ModuleType:
        return module(self.method.id)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters to update, by name: pass `.values()` to an optimiser."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def trained(self) -> int:
        """The number of parameters that require a gradient on the live model; `predicted.trained` is the entry's count.

        The two differ if a method trains chosen entries of larger tensors.
        """
        return sum(p.numel() for p in self.parameters().values())

    def calibrate(self, losses: Iterable[Tensor]) -> Applied:
        """Calibrate a method that starts from gradients or activations. Raises UsageError for other methods."""
        self._function("calibrate", "does not look at data first")(self.model, losses)
        return self

    @property
    def calibrates(self) -> bool:
        """True if the method starts from gradients or activations: call `calibrate` before training."""
        return hasattr(self._module, "calibrate")

    def combine(self, inputs: Sequence[str | Path | Mapping[str, Tensor]]) -> Applied:
        """Combine trained models or adapters: files that `save` wrote, or what they contain.

        A file is read tensor by tensor. Raises UsageError for a method that combines nothing and for another number of
        inputs, DataError for a file of another method or setting.
        """
        act, declared = self._function("combine", "combines nothing"), self.method.entry.combines
        assert declared is not None
        expected = int(declared.inputs({**self._plan.common, **self.hyperparameters}))
        if len(inputs) != expected:
            raise UsageError(f"{self.method.id}: found {len(inputs)} inputs; expected {expected}")
        setting = passed(self.method.kb, self._plan, self.hyperparameters)
        given = [one if isinstance(one, Mapping) else _Saved(Path(one), declared.method, setting) for one in inputs]
        act(self.model, given)
        return self

    def optimizer(self, **settings: Any) -> torch.optim.Optimizer:
        """Return the optimizer of the trained parameters: the method's own if it has one, else AdamW.

        settings: those of AdamW; `lr` is required. A method with several learning rates derives them from `lr`.
        """
        if hasattr(self._module, "optimizer"):
            return cast(torch.optim.Optimizer, self._module.optimizer(self.model, **settings))
        if hasattr(self._module, "parameter_groups"):
            return torch.optim.AdamW(self._module.parameter_groups(self.model, settings["lr"]), **settings)
        return torch.optim.AdamW(self.parameters().values(), **settings)

    def finish(self) -> Applied:
        """End training and remove tensors that only training needs, if there are any."""
        if hasattr(self._module, "finish"):
            self._module.finish(self.model)
        return self

    def merge(self) -> nn.Module:
        """Merge the change into the model's own weights. Raises UsageError if the method cannot be merged."""
        merged: nn.Module = self._function("merge", "cannot be merged into the weights")(self.model)
        return merged

    def state(self) -> dict[str, Tensor]:
        """Return the contents of one task's checkpoint, by name."""
        return self._naming.stored(self._module, self.method.id, self._places, self.model)

    def save(self, path: str | Path) -> Path:
        """Write `state()` to a safetensors file, with the method and its setting. Returns the path."""
        target = Path(path)
        written = {name: value.contiguous() for name, value in self.state().items()}
        save_file(written, target, metadata={"peftonomy": json.dumps(self._described())})
        return target

    def load(self, path: str | Path) -> Applied:
        """Read a file that `save` wrote. Raises DataError for a file of another method or setting."""
        source = Path(path)
        held, described = _read(source)
        mine = json.loads(json.dumps(self._described()))
        for field, found in described.items():
            if found != mine.get(field):
                raise DataError([Problem(str(source), 0, field, shown(found), shown(mine.get(field)))])
        wanted = {} if hasattr(self._module, "unpack") else self.state()
        for name, value in wanted.items():
            if name not in held or held[name].shape != value.shape:
                found = "no such tensor" if name not in held else f"shape {tuple(held[name].shape)}"
                raise DataError([Problem(str(source), 0, name, found, f"a tensor of shape {tuple(value.shape)}")])
        restore(self._module, self.model, held)
        return self

    def remove(self) -> nn.Module:
        """Remove everything that the method added, and return the original model.

        Raises UsageError if the backbone's own weights have changed since; then the original weights must be loaded
        again.
        """
        changed = [name for name, p, before, _ in self._plain if _fingerprint(p) != before]
        own = f".{self.method.id}."
        changed += [name for name in self.model.state_dict() if name not in self._keys and own not in f".{name}"]
        if changed:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise UsageError(f"{self.method.id} changed {changed[0]}{more}; load the model again to undo that")
        added = [child for child in kit.attached(self.model) if child not in self._modules]
        for child in reversed(added):       # a child attached to another child is removed first
            kit.drop(child)
        for _, parameter, _, trained in self._plain:
            parameter.requires_grad_(trained)
            parameter.grad = None
        return self.model

    def _described(self) -> dict[str, Any]:
        return {"method": self.method.id, "hyperparameters": self.hyperparameters, "targets": list(self.targets)}

    def _function(self, name: str, lacks: str) -> Any:
        if not hasattr(self._module, name):
            raise UsageError(f"{self.method.id} {lacks}")
        return getattr(self._module, name)

    def __repr__(self) -> str:
        setting = ", ".join(f"{name}={value}" for name, value in self.hyperparameters.items())
        return f"<{self.method.name} on {type(self.model).__name__}: {setting}; {self.trained:,} trained parameters>"


def _fingerprint(parameter: Tensor) -> tuple[Any, ...]:
    """Return values that change with the parameter's data. The version alone misses writes through `.data`."""
    values = parameter.detach()
    return parameter._version, tuple(values.shape), values.double().sum().item(), values.double().square().sum().item()


def apply(
    method: MethodRecord, model: Any, targets: str | Iterable[str] | None, hyperparameters: Mapping[str, Any]
) -> Applied:
    """Apply a method's reference implementation to a live model. Raises UsageError; see `Method.apply`."""
    if not isinstance(model, nn.Module) or not hasattr(model, "config"):
        raise UsageError(f"a transformers model was expected, not {shown(type(model).__name__)}")
    try:
        return Applied(method, model, targets, hyperparameters)
    except ConfigError as error:
        raise UsageError(f"{type(model).__name__} cannot be described: {error}") from None


class _Saved(Mapping[str, Tensor]):
    """A file that `Applied.save` wrote, read tensor by tensor."""

    def __init__(self, path: Path, method: str, setting: Mapping[str, Any]):
        with _opened(path) as file:
            described = _description(path, file)
            self._names = tuple(file.keys())
        wanted = {"method": method, **setting}
        for field, expected in wanted.items():
            found = described["method"] if field == "method" else described["hyperparameters"].get(field)
            if found != expected:
                raise DataError([Problem(str(path), 0, field, shown(found), shown(expected))])
        self._path = path

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise DataError([Problem(str(self._path), 0, shown(name), "no such tensor", "a tensor of this name")])
        with _opened(self._path) as file:
            return cast(Tensor, file.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises DataError for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with cast(Any, safe_open(path, framework="pt")) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise DataError([Problem(str(path), 0, "", shown(str(error)), "a safetensors file")]) from None


def _description(path: Path, file: Any) -> dict[str, Any]:
    """Return the method and the setting that `Applied.save` wrote into an open file."""
    metadata = file.metadata() or {}
    if "peftonomy" not in metadata:
        raise DataError([Problem(str(path), 0, "", "no such metadata", "a file that peftonomy saved")])
    described: dict[str, Any] = json.loads(metadata["peftonomy"])
    return described


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _description(path, file)  # noqa: SIM118

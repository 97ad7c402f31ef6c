"""Golden vectors: compare our implementation with values recorded from the authors' own code.

A vector is a small JSON file, `golden/<method>.json`. It records one run of the authors' module: inputs, weights,
the method's tensors by our names, outputs, gradients, the merged weight, the trained and frozen tensors, and
statistics of the initial values over many seeds. It does not contain the authors' code; `recipe` gives its location and
the way it was run. `compare` runs an implementation in the same way and reports one row for each recorded fact.

The fixture is a real `transformers` model with one layer, whose linear modules all map 8 features to 12 or back. If the
authors' code changes one linear module, our method is applied to the first target's module, and that module is run. For
anything else the implementation's own `probe(model, inputs)` runs and returns its outputs by name.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

import peftonomy
from peftonomy import Place

from ..implementations.live import kit
from ..implementations.located import module as reference
from ..implementations.naming import Naming, state
from .tiny import copied

__all__ = ["Row", "Statistics", "Vector", "compare", "vectors"]

FIXTURE: dict[str, Any] = {
    "class": "LlamaForCausalLM",
    "config": {
        "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 6, "intermediate_size": 12, "max_position_embeddings": 16, "attention_bias": True,
        "mlp_bias": True,
    },
}  # fmt: skip
TOLERANCE = 1e-7
"""The largest difference that counts as equal, relative to the largest value; nine digits are recorded."""
SEEDS = 60
"""The number of seeds for the statistics of initial values."""
PHASES = ("start", "output", "eval")
"""Outputs of the same probe: with initial tensors, with the recorded tensors, and with these in evaluation mode."""


@dataclass(frozen=True)
class Row:
    """One recorded fact, and whether the implementation agrees with it. `found` describes a difference."""

    name: str
    same: bool
    found: str = ""


@dataclass(frozen=True)
class Vector:
    """The values recorded from the authors' code of one method.

    setting: our hyperparameters. targets: the roles that the method acts on. model: class and config of the fixture.
    base: parameters of the fixture by name; `W` and `b` are those of the first target. inputs: `x`, `probe`, and
    further inputs of the probe. params, buffers: the method's tensors, trained and frozen, by our names; `S#1` is the
    second of several. outputs: `start`, `output`, `eval`, and further outputs of the probe by name. loss: names of
    outputs that the loss adds to sum(output * probe). grads: of that loss. after: parameters of the fixture after the
    method is applied. merged: the same after merging. trained, frozen: the method's tensors that the authors' code
    trains or freezes. parameters: the fixture's own parameters that the authors' code trains, if any. init: initial
    values of tensors, as statistics over many seeds or as values. defaults: hyperparameters of the authors' default
    run. dropout: a setting with dropout, and whether it changes the output in training mode.
    """

    method: str
    recipe: Mapping[str, Any]
    setting: Mapping[str, Any]
    targets: tuple[str, ...] = ()
    implementation: str = "official"
    model: Mapping[str, Any] = field(default_factory=lambda: FIXTURE)
    base: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    params: Mapping[str, Tensor] = field(default_factory=dict)
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    loss: tuple[str, ...] = ()
    grads: Mapping[str, Tensor] = field(default_factory=dict)
    after: Mapping[str, Tensor] = field(default_factory=dict)
    merged: Mapping[str, Tensor] = field(default_factory=dict)
    trained: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    parameters: tuple[str, ...] | None = None
    init: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    dropout: Mapping[str, Any] | None = None
    tolerance: float = TOLERANCE
    tolerance_reason: str = ""

    def runs(self, module: Any) -> bool:
        """Return True if a third-party module can be compared: for one plain linear module, or with a probe."""
        plain = self.model == FIXTURE and not hasattr(_reference(self.method), "probe")
        return plain or hasattr(module, "probe")

    @classmethod
    def load(cls, path: Path) -> Vector:
        """Read a vector. Raises TypeError for a field that does not exist."""
        data = json.loads(path.read_text(encoding="utf-8"))
        for name in ("base", "inputs", "params", "buffers", "outputs", "grads", "after", "merged"):
            data[name] = {key: _tensor(value) for key, value in data.get(name, {}).items()}
        for name in ("targets", "loss", "trained", "frozen", "parameters"):
            if data.get(name) is not None:
                data[name] = tuple(data[name])
        return cls(**data)


def _tensor(value: Mapping[str, Any]) -> Tensor:
    dtype = {"int": torch.int64, "bool": torch.bool}.get(value.get("kind", ""), torch.float64)
    return torch.tensor(value["data"], dtype=dtype).reshape(value["shape"])


def vectors(root: Path | None = None) -> dict[str, Path]:
    """Return the files of all vectors by name: a method's id, or `id--case` for a method with several."""
    folder = (root or peftonomy.load().root) / "golden"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


@dataclass(frozen=True)
class Statistics:
    """Statistics of one tensor's initial values over many seeds.

    A tensor that is the same for every seed has `values`. Any other has moments, bounds and an excess kurtosis (-1.2
    for a uniform distribution, 0 for a normal one), and `once` if all its entries are one draw.
    """

    shape: tuple[int, ...]
    n: int
    mean: float
    std: float
    low: float
    high: float
    kurtosis: float
    once: bool = False
    values: Tensor | None = None

    @classmethod
    def of(cls, draws: list[Tensor]) -> Statistics:
        """Compute the statistics of one tensor's draws under several seeds."""
        rows = torch.stack([draw.detach().double().flatten() for draw in draws])
        shape = tuple(draws[0].shape)
        same = draws[0].detach().double() if (rows == rows[0]).all() else None
        once = rows.shape[1] > 1 and bool((rows == rows[:, :1]).all())
        flat = rows[:, 0] if once else rows.flatten()
        mean, std = flat.mean(), flat.std(correction=0)
        kurtosis = (((flat - mean) / std) ** 4).mean() - 3 if std > 0 else torch.tensor(0.0)
        return cls(shape, flat.numel(), mean.item(), std.item(), flat.min().item(), flat.max().item(), kurtosis.item(),
                   once, same)  # fmt: skip


def compare(vector: Vector, module: ModuleType | Any = None, *, seeds: int = SEEDS) -> list[Row]:
    """Run an implementation as the authors' code was run. Returns one row for each recorded fact, in a fixed order.

    module: an object with `apply` and, if the method has them, `merge` and `probe`; the reference implementation if
    None.
    """
    return list(_Comparison(vector, module or _reference(vector.method)).rows(seeds))


def _reference(method: str) -> ModuleType:
    return reference(method)


class _Comparison:
    def __init__(self, vector: Vector, module: Any):
        self.vector, self.module = vector, module
        self.plain = _fixture(json.dumps(vector.model, sort_keys=True))
        self.site = kit.sites(self.plain, vector.targets[:1])[0] if vector.targets else None
        self.naming = Naming(self.plain)

    def rows(self, seeds: int) -> Iterator[Row]:
        vector = self.vector
        model = self.apply(vector.setting)
        yield from self.training(model)
        for name, wanted in vector.after.items():
            yield self.equal(f"after {name}", self.parameter(model, name), wanted)
        if "start" in vector.outputs:
            yield self.equal("start", self.probe(model.eval())["output"], vector.outputs["start"])
            model.train()
        yield from self.outputs(model)
        if vector.dropout is not None:
            yield self.dropout()
        if vector.merged:
            self.module.merge(model)
            for name, wanted in vector.merged.items():
                yield self.equal(f"merged {name}", self.parameter(model, name), wanted)
        yield from self.starts(seeds)
        yield from self.defaults()

    # The parts of a comparison

    def training(self, model: nn.Module) -> Iterator[Row]:
        """Compare the trained tensors of the method, and the trained parameters of the model."""
        live = state(self.module, model)
        for key in (*self.vector.trained, *self.vector.frozen):
            wanted = key in self.vector.trained
            names = list(self.names(model).get(key, ()))
            found = [live[name].requires_grad for name in names]
            same = bool(found) and all(value == wanted for value in found)
            says = "no such tensor" if not found else f"{'' if any(found) else 'not '}trained here"
            yield Row(f"trained {key}", same, "" if same else says)
        if self.vector.parameters is not None:
            own = set(dict(self.plain.named_parameters()))
            trained = {name for name, p in live.items() if p.requires_grad and name in own}
            differ = sorted(trained ^ set(self.vector.parameters))
            yield Row("trained parameters", not differ, ", ".join(differ))

    def outputs(self, model: nn.Module) -> Iterator[Row]:
        """Compare the probe's outputs with the recorded tensors, and the gradients of a loss over them."""
        vector = self.vector
        self.copy(model)
        model.train()
        found = self.probe(model)
        for name in (n for n in vector.outputs if n not in ("start", "eval")):
            yield self.equal(name, found.get(name), vector.outputs[name])
        if vector.grads:
            loss = (found["output"] * vector.inputs["probe"]).sum() + sum(found[name].sum() for name in vector.loss)
            model.zero_grad()
            loss.backward()
            live = state(self.module, model)
            for key, wanted in vector.grads.items():
                [name] = self.names(model)[key]
                yield self.equal(f"grad {key}", live[name].grad, wanted)
        if "eval" in vector.outputs:
            yield self.equal("eval", self.probe(model.eval())["output"], vector.outputs["eval"])

    def dropout(self) -> Row:
        """Compare whether dropout changes the output in training mode."""
        assert self.vector.dropout is not None
        model = self.apply({**self.vector.setting, **self.vector.dropout["setting"]})
        self.copy(model)
        model.train()
        draws = []
        for seed in range(8):
            torch.manual_seed(seed)
            draws.append(self.probe(model)["output"].detach())
        acts = any(not torch.equal(draws[0], draw) for draw in draws)
        same = acts == self.vector.dropout["acts"]
        return Row("dropout", same, "" if same else f"dropout {'acts' if acts else 'does not act'} here")

    def starts(self, seeds: int) -> Iterator[Row]:
        """Compare the initial values of each recorded tensor."""
        if not self.vector.init:
            return
        drawn: dict[str, list[Tensor]] = {}
        for seed in range(seeds):
            model = self.apply(self.vector.setting, seed)
            live = state(self.module, model)
            for key, names in self.names(model).items():
                if key in self.vector.init:
                    drawn.setdefault(key, []).append(live[names[0]].detach().clone())
        for key, wanted in self.vector.init.items():
            if key not in drawn:
                yield Row(f"init {key}", False, "no such tensor")
                continue
            problem = differs(Statistics.of(drawn[key]), wanted, self.vector.tolerance)
            yield Row(f"init {key}", not problem, problem)

    def defaults(self) -> Iterator[Row]:
        """Compare the defaults of the implementation's `apply` with those of the authors' default run."""
        parameters = inspect.signature(self.module.apply).parameters
        for name, wanted in self.vector.defaults.items():
            found = parameters[name].default if name in parameters else inspect.Parameter.empty
            if found is inspect.Parameter.empty:        # an implementation may have no defaults
                continue
            if isinstance(found, list | tuple) and isinstance(wanted, list):
                found = list(found)
            same = found == wanted
            yield Row(f"default {name}", same, "" if same else f"{found!r} here, {wanted!r} there")

    # Shared helpers

    def apply(self, setting: Mapping[str, Any], seed: int = 0) -> nn.Module:
        model = copied(self.based)
        torch.manual_seed(seed)
        targets = {"targets": tuple(self.vector.targets)} if self.vector.targets else {}
        self.module.apply(model, **{**self.filled, **setting}, **targets)
        return model

    @functools.cached_property
    def filled(self) -> dict[str, Any]:
        """The vector's setting, completed with the entry's defaults."""
        return dict(self.method.cost(kit.inventory(self.plain).backbone, **self.asked).hyperparameters)

    @property
    def method(self) -> peftonomy.Method:
        return peftonomy.load()[self.vector.method]

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of this comparison's query to the knowledge base."""
        parts = kit.inventory(self.plain)
        targets = {"targets": list(self.vector.targets)} if self.vector.targets else {}
        return {"task": parts.task, "num_labels": parts.num_labels, **targets, **self.vector.setting}

    @functools.cached_property
    def based(self) -> nn.Module:
        """Return the fixture with the recorded weights."""
        model = copied(self.plain)
        with torch.no_grad():
            for name, value in self.vector.base.items():
                self.parameter(model, name).copy_(value)
        return model

    def parameter(self, model: nn.Module, name: str) -> Tensor:
        """Return a parameter of the fixture by its name; `W` and `b` belong to the first target."""
        if name in ("W", "b"):
            assert self.site is not None, "W and b need targets"
            site = kit.sites(model, self.vector.targets[:1])[0]
            value = site.weight if name == "W" else site.bias
            assert value is not None
            return value
        return state(self.module, model)[name]

    def names(self, model: nn.Module) -> dict[str, list[str]]:
        """Return the live tensors of the method by the names in the vector."""
        found: dict[str, list[str]] = {}
        named = self.naming.names(self.vector.method, self.places, list(state(self.module, model)))
        for place, names in zip(self.places, named, strict=True):
            found.setdefault(place.tensor, []).extend(names)
        return {
            key: value
            for tensor, names in found.items()
            for key, value in [(tensor, names), *((f"{tensor}#{i}", [name]) for i, name in enumerate(names))]
            if value
        }

    @functools.cached_property
    def places(self) -> list[Place]:
        return self.method.places(kit.inventory(self.plain).backbone, **self.asked)

    @torch.no_grad()
    def copy(self, model: nn.Module) -> None:
        """Copy the recorded tensors of the method into the model."""
        live = state(self.module, model)
        names = self.names(model)
        for key, value in {**self.vector.params, **self.vector.buffers}.items():
            [name] = names[key]
            live[name].copy_(value.reshape(live[name].shape))

    def probe(self, model: nn.Module) -> dict[str, Tensor]:
        inputs = {name: value.clone() for name, value in self.vector.inputs.items()}
        if hasattr(self.module, "probe"):
            found = self.module.probe(model, inputs)
            return found if isinstance(found, dict) else {"output": found}
        assert self.site is not None, f"{self.vector.method} needs a probe: it has no target to run"
        return {"output": model.get_submodule(self.site.path)(inputs["x"])}

    def equal(self, name: str, found: Tensor | None, wanted: Tensor) -> Row:
        if found is None:
            return Row(name, False, "nothing here")
        if found.shape != wanted.shape:
            return Row(name, False, f"shape {tuple(found.shape)} here, {tuple(wanted.shape)} there")
        difference = (found.detach().double() - wanted.double()).abs().max().item() if wanted.numel() else 0.0
        largest = wanted.double().abs().max().item() if wanted.numel() else 0.0
        same = difference <= self.vector.tolerance * max(1.0, largest)
        return Row(name, same, "" if same else f"differs by up to {difference:.3g}")


def differs(found: Statistics, wanted: Mapping[str, Any], tolerance: float = TOLERANCE) -> str:
    """Describe the difference between initial values and the recorded ones; "" if there is none.

    The bounds follow from the numbers of draws: five standard errors for a mean, five and 1 % for a standard deviation.
    """
    if tuple(wanted["shape"]) != found.shape:
        return f"shape {found.shape} here, {tuple(wanted['shape'])} there"
    if "constant" in wanted or "values" in wanted:
        if found.values is None:
            return "random here, the same for every seed there"
        value = _tensor(wanted["values"]) if "values" in wanted else torch.full(found.shape, float(wanted["constant"]))
        mine = found.values
        if wanted.get("up_to_sign"):
            value, mine = value.abs(), mine.abs()
        off = (mine - value.double()).abs().max().item() if mine.numel() else 0.0
        return "" if off <= tolerance * max(1.0, value.abs().max().item()) else f"differs by up to {off:.3g}"
    if found.values is not None:
        return "the same for every seed here, random there"
    if bool(wanted.get("once")) != found.once:
        return "one draw for all entries here" if found.once else "one draw for all entries there"
    error = wanted["std"] * (1 / found.n + 1 / wanted["n"]) ** 0.5
    if abs(found.mean - wanted["mean"]) > 5 * error + 1e-12:
        return f"mean {found.mean:.4g} here, {wanted['mean']:.4g} there"
    share = 5 * ((max(wanted["kurtosis"], -1.2) + 2) / 4 * (1 / found.n + 1 / wanted["n"])) ** 0.5 + 0.01
    if abs(found.std / wanted["std"] - 1) > share:
        return f"standard deviation {found.std:.4g} here, {wanted['std']:.4g} there"
    uniform = [value["kurtosis"] if isinstance(value, Mapping) else value.kurtosis for value in (found, wanted)]
    if min(found.n, wanted["n"]) >= 800 and abs(uniform[0] - uniform[1]) > 0.6:
        return f"kurtosis {uniform[0]:.2f} here, {uniform[1]:.2f} there"
    return ""


@functools.cache
def _fixture(described: str) -> nn.Module:
    """Return the fixture's model, in float64, always with the same values."""
    spec = json.loads(described)
    model_class = getattr(transformers, spec["class"])
    config = model_class.config_class(**spec["config"], attn_implementation="eager", use_cache=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = model_class(config).double().eval()
    return model



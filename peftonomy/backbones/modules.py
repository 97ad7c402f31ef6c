"""One module of a model, in all layers that have it, and how roles and suffixes select modules.

Layers that are alike are one record with the list of their numbers, so the records of 126 layers are as few as those
of two.

There are two ways to select linear modules. *Roles* are the papers' words: `attn.q`, `mlp.*`, `decoder:xattn.v`; on a
fused module a role selects its slice of the output. *Suffixes* are peft's `target_modules`: they select whole modules,
exactly as in peft.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from ..schema.family import Family, Linear, ModuleSpec, Shape, Sizes

__all__ = [
    "LINEAR", "Block", "Module", "SiteGroup", "built", "in_stack", "joined", "layers_named", "means", "role_matches",
    "site_of",
]  # fmt: skip

LINEAR = ("linear", "conv1d")
"""The kinds that are linear maps: torch's Linear, and transformers' Conv1D with its transposed weight."""
INPUT_EMBEDDING = "embed.token"
"""The role of the table that token ids are looked up in."""
OUTPUT_EMBEDDING = "head.lm"
"""The role that peft's `all-linear` leaves out."""
SAVED_BY_PEFT = re.compile(r"(classifier|score)(\.|$)")
"""Modules that peft trains in full for a classification task, and hence never targets: names that end so."""
NUMBER = re.compile(r"(^|\.)\d+(\.|$)")


@dataclass(frozen=True, slots=True)
class Module:
    """A module, in all the layers that have it.

    path: its name in the `transformers` class of the task, with `{layer}` for the layer's number.
    layers: those numbers; empty for what exists once.
    kind: linear, conv1d, conv, embedding, norm or parameter (a bare tensor; `path` is the module holding it).
    d_in, d_out: features in and out. bias: whether it adds one.
    parameters: what it owns in each layer, as (name after the path, shape); a tied module owns nothing.
    slices: of a fused module, (role, start, stop) over its outputs; where these fall into several `groups` (heads that
        lie one after the other), over the outputs as they are once each role's share of every group is put together.
    head: whether it is made new for the task. pretrained: whether the published checkpoint holds it.
    """

    path: str
    role: str
    stack: str
    layers: tuple[int, ...]
    kind: str
    d_in: int
    d_out: int
    bias: bool
    parameters: tuple[tuple[str, Shape], ...]
    slices: tuple[tuple[str, int, int], ...]
    groups: int
    head: bool
    pretrained: bool

    @property
    def count(self) -> int:
        """How many such modules the model has."""
        return len(self.layers) or 1

    @property
    def numel(self) -> int:
        """Parameters owned in all layers together."""
        return self.count * sum(math.prod(shape) for _, shape in self.parameters)

    def paths(self) -> list[tuple[int | None, str]]:
        """Each single module: its layer (None if it has none) and its name."""
        if not self.layers:
            return [(None, self.path)]
        return [(n, self.path.replace("{layer}", str(n))) for n in self.layers]


@dataclass(frozen=True, slots=True)
class SiteGroup:
    """A module, or the slice of one that plays a role, in some of its layers: what a method acts on.

    start, stop: the outputs meant; d_out is their number. layers: empty for what exists once.
    """

    module: Module
    role: str
    d_in: int
    d_out: int
    start: int
    stop: int
    bias: bool
    layers: tuple[int, ...]
    stack: str

    @property
    def count(self) -> int:
        """How many such places the model has."""
        return len(self.layers) or 1

    @property
    def whole(self) -> bool:
        """Whether all outputs of the module are meant."""
        return self.d_out == self.module.d_out

    def paths(self) -> list[tuple[int | None, str]]:
        """Each single place: its layer (None if it has none) and the module's name."""
        return [(n, path) for n, path in self.module.paths() if n is None or n in self.layers]


@dataclass(frozen=True, slots=True)
class Block:
    """A part of each layer that does one thing, or the layer itself.

    kind and name: attention (`attn`, or `xattn` for cross attention), mlp, layer.
    path: the module that holds an attention's projections, or the layer, with `{layer}` for its number. A
    feed-forward block may be spread over its layer: it has "" here, but the roles with which it begins
    (`first`) and ends (`last`).
    dims: the family's sizes, and `n_layers` of this stack.
    """

    kind: str
    name: str
    stack: str
    layers: tuple[int, ...]
    path: str
    first: str
    last: str
    dims: dict[str, int]


@lru_cache(maxsize=4096)
def role_matches(pattern: str, role: str, stack: str) -> bool:
    """Whether a pattern (a role, or with `*`; a stack and a colon may stand in front) means that role."""
    wanted_stack, _, wanted = pattern.rpartition(":")
    return in_stack(wanted_stack, stack) and fnmatchcase(role, wanted)


def joined(path: str, name: str) -> str:
    """A parameter's full name, of its module's (the model's own is "") and its own."""
    return f"{path}.{name}" if path else name


def in_stack(wanted: str, stack: str) -> bool:
    """Whether a stack is meant: by its name, by what it does (`encoder` means `encoder_vision` too) or by ""."""
    return wanted in ("", stack, stack.partition("_")[0])


def means(pattern: str, site: SiteGroup) -> bool:
    fused = site.whole and bool(site.module.slices)
    return role_matches(pattern, site.role, site.stack) and not (fused and "*" in pattern)


def site_of(m: Module, layers: tuple[int, ...], role: str = "", start: int = 0, stop: int = 0) -> SiteGroup:
    """The module in some layers: all its outputs, or the slice of a role."""
    role, stop = role or m.role, stop or m.d_out
    return SiteGroup(m, role, m.d_in, stop - start, start, stop, m.bias, layers, m.stack)


def layers_named(module: Module, suffixes: Sequence[str]) -> list[int | None]:
    """The layers in which the module's name is, or ends in a dot and, one of the suffixes; [None] if it has none."""
    endings, paths = tuple(f".{suffix}" for suffix in suffixes), module.paths()
    if not any(NUMBER.search(suffix) for suffix in suffixes):  # then no suffix reaches back to the layer's number
        return [n for n, _ in paths] if f".{paths[0][1]}".endswith(endings) else []
    return [n for n, path in paths if f".{path}".endswith(endings)]


def built(
    family: Family,
    sizes: Sizes,
    task: str,
    layers: Mapping[str, int],
    stack_dims: Mapping[str, Sizes],
) -> Iterator[Module]:
    """Yield every module that exists in the task, those outside the stacks first.

    sizes: the values of the config, and `num_labels`. layers: the number of layers of each stack of the task.
    stack_dims: the dimensions of each stack where they differ from the family's.
    """
    prefix = family.tasks[task].prefix
    for spec in family.modules:
        if _exists(spec, task, sizes):
            yield _module(spec, "" if spec.outside else prefix, "", (), sizes)
    for name, n_layers in layers.items():
        stack, own = family.stacks[name], {**sizes, **stack_dims[name]}
        for spec in stack.modules:
            at = tuple(n for n in range(n_layers) if spec.where is None or spec.where(_at(n, family.layered, own)))
            if at and _exists(spec, task, own):
                yield _module(spec, f"{prefix}{stack.path}.", name, at, own)


def _at(layer: int, layered: Sequence[str], sizes: Sizes) -> Sizes:
    """What a formula sees at one layer."""
    return {**sizes, "layer": layer, **{name: layer in sizes[name] for name in layered}}


def _exists(spec: ModuleSpec, task: str, sizes: Sizes) -> bool:
    return (spec.tasks is None or task in spec.tasks) and bool(spec.when(sizes))


def _module(spec: ModuleSpec, prefix: str, stack: str, layers: tuple[int, ...], sizes: Sizes) -> Module:
    tensors = spec.tensors(sizes)
    tied = spec.tied_to is not None and spec.tied_when(sizes)
    d_in, d_out = spec.width(sizes)
    return Module(
        path=(prefix + spec.module_path).removesuffix("."),  # a tensor may belong to the layer or the model itself
        role=spec.role,
        stack=stack,
        layers=layers,
        kind=spec.kind,
        d_in=d_in,
        d_out=d_out,
        bias=any(name == "bias" for name, _ in tensors),
        parameters=tuple(t for t in tensors if not (tied and (spec.ties is None or t[0] in spec.ties))),
        slices=tuple(_slices(spec, sizes)) if isinstance(spec, Linear) else (),
        groups=spec.groups(sizes) if isinstance(spec, Linear) else 1,
        head=spec.new,
        pretrained=spec.pretrained and not spec.new,
    )


def _slices(spec: Linear, sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    start = 0
    for role, size in spec.slices.items():
        stop = start + size(sizes)
        yield role, start, stop
        start = stop

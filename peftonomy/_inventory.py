"""What a model consists of: every module with its role, and how selectors find modules in it.

Layers that are alike are kept as one record with the list of their numbers, so an inventory of 126 layers is
as small as one of two; names of single parameters are written out only when somebody asks for them.

There are two ways to point at linear modules. *Roles* are the papers' words: `attn.q`, `mlp.*`,
`decoder:xattn.v`; on a fused module a role means its slice of the output. *Suffixes* are peft's
`target_modules`: they mean whole modules, with exactly the meaning that peft gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from ._errors import UnknownName, UsageError, shown
from ._family import Linear, ModuleSpec, Shape, Sizes, Stack

if TYPE_CHECKING:
    from ._backbone import Backbone

__all__ = ["LINEAR", "Block", "Inventory", "Module", "SiteGroup", "joined", "role_matches"]

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


class Inventory:
    """All modules of a backbone as `transformers` builds it for a task. `Backbone.inventory` makes it."""

    def __init__(self, backbone: Backbone, task: str, num_labels: int):
        self.backbone, self.task, self.num_labels = backbone, task, num_labels
        self.stacks = {
            name: stack for name, stack in backbone.family.stacks.items() if stack.tasks is None or task in stack.tasks
        }
        self.modules: tuple[Module, ...] = tuple(_modules(backbone, task, num_labels, self.stacks))
        self.memo: dict[Any, Any] = {}
        """What was worked out on this inventory before, by a key of whoever asks."""

    # Counts and sizes.

    @cached_property
    def total(self) -> int:
        """All parameters, tied ones once."""
        return sum(m.numel for m in self.modules)

    @cached_property
    def head(self) -> int:
        """Those of the modules made new for the task."""
        return sum(m.numel for m in self.modules if m.head)

    @cached_property
    def dims(self) -> dict[str, int]:
        """Sizes: the first stack's, the layers of all stacks together and of each kind, the number of attentions."""
        layers = {name: self.backbone.layers[name] for name in self.stacks}
        return {
            **self.backbone.dims,
            **self.backbone.stack_dims.get(next(iter(layers), ""), {}),
            "n_layers": sum(layers.values()),
            "n_encoder_layers": sum(n for name, n in layers.items() if _in_stack("encoder", name)),
            "n_decoder_layers": sum(n for name, n in layers.items() if _in_stack("decoder", name)),
            "n_attention": sum(len(b.layers) for b in self.blocks if b.kind == "attention"),
        }

    def parameters(self) -> dict[str, Shape]:
        """Every parameter's name and shape, as `named_parameters()` of the built model has them."""
        return {
            joined(path, name): shape
            for module in self.modules
            for _, path in module.paths()
            for name, shape in module.parameters
        }

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The attention and feed-forward blocks and the layers, stack by stack."""
        return tuple(b for name, stack in self.stacks.items() for b in self._blocks(name, stack))

    def _blocks(self, name: str, stack: Stack) -> Iterator[Block]:
        layers = tuple(range(self.backbone.layers[name]))
        dims = {**self.backbone.dims, **self.backbone.stack_dims[name], "n_layers": len(layers)}
        layer = self.backbone.family.tasks[self.task].prefix + stack.path
        for attention, path in stack.attention.items():
            inside = [m for m in self.modules if m.stack == name and m.role.startswith(f"{attention}.")]
            if having := tuple(sorted({n for m in inside for n in m.layers})):
                yield Block("attention", attention, name, having, f"{layer}.{path}", "", "", dims)
        if any(m.stack == name and m.role == stack.mlp.out for m in self.modules):
            yield Block("mlp", "mlp", name, layers, "", stack.mlp.in_, stack.mlp.out, dims)
        yield Block("layer", "layer", name, layers, layer, "", "", dims)

    # Selection by role.

    def roles(self, kinds: Sequence[str] = LINEAR) -> tuple[str, ...]:
        """The roles of the modules of these kinds, and of their slices."""
        return tuple(dict.fromkeys(site.role for site in self._sites(kinds)))

    def resolve_roles(self, roles: Iterable[str], kinds: Sequence[str] = LINEAR) -> list[SiteGroup]:
        """The places that any of these roles or patterns means, each once, in the network's order.

        `attn.q` is a role, `attn.*` a pattern, `decoder:attn.q` either within one stack. A pattern takes a
        fused module apart into its slices; only the fused role itself (`attn.qkv`) means the whole of it.
        Raises UnknownName for a role (or stack), UsageError for a pattern, that nothing in this model has.
        """
        key = tuple(roles), tuple(kinds)
        if key not in self.memo:
            self.memo[key] = self._resolve(*key)
        found: list[SiteGroup] = self.memo[key]
        return found

    def has_role(self, role: str) -> bool:
        """Whether a role or pattern means any linear module, or slice of one."""
        return any(_means(role, site) for site in self._linear)

    @cached_property
    def _linear(self) -> list[SiteGroup]:
        return self._sites(LINEAR)

    def _resolve(self, roles: tuple[str, ...], kinds: tuple[str, ...]) -> list[SiteGroup]:
        sites = self._sites(kinds)
        chosen: set[int] = set()
        for pattern in roles:
            found = [i for i, site in enumerate(sites) if _means(pattern, site)]
            if not found:
                raise self._no_role(pattern, kinds)
            chosen.update(found)
        whole = {id(sites[i].module) for i in chosen if sites[i].whole}
        return [s for i, s in enumerate(sites) if i in chosen and (s.whole or id(s.module) not in whole)]

    def _sites(self, kinds: Sequence[str]) -> list[SiteGroup]:
        """Every module of these kinds, a fused one before its slices."""
        return [
            site
            for module in self.modules
            if module.kind in kinds
            for site in (
                _site(module, module.layers),
                *(_site(module, module.layers, role, start, stop) for role, start, stop in module.slices),
            )
        ]

    def _no_role(self, pattern: str, kinds: Sequence[str]) -> UsageError:
        stack, _, role = pattern.rpartition(":")
        if stack and not any(_in_stack(stack, name) for name in self.stacks):
            return UnknownName("stack", stack, self.stacks, f"in {self._name}")
        known = dict.fromkeys(site.role for site in self._sites(kinds) if _in_stack(stack, site.stack))
        wanted = "linear module" if kinds == LINEAR else " or ".join(kinds)
        other = next((m.kind for m in self.modules if role_matches(pattern, m.role, m.stack)), "")
        if other:
            found = f"role {shown(pattern)!r} of {self._name} is one of kind {other}, not a {wanted}"
            return UsageError(f"{found}; those are {', '.join(known)}")
        if "*" in role:
            return UsageError(f"no {wanted} of {self._name} has a role {shown(pattern)!r}; they are {', '.join(known)}")
        return UnknownName("role", pattern, known, f"in {self._name}")

    # Selection by peft's suffixes.

    def resolve_suffixes(self, suffixes: Sequence[str] | str) -> list[SiteGroup]:
        """The linear modules whose name is, or ends in a dot and, one of these; or "all-linear". As in peft.

        A classification task's `classifier` and `score` are never meant, and by "all-linear" neither is the
        output embedding. Other than in peft, a suffix that finds nothing is an error (UsageError) even beside
        others that find something. So is one by which peft means tensors of experts.
        """
        key = "suffixes", suffixes if isinstance(suffixes, str) else tuple(suffixes)
        if key not in self.memo:
            self.memo[key] = self._named(suffixes)
        found: list[SiteGroup] = self.memo[key]
        return found

    def _named(self, suffixes: Sequence[str] | str) -> list[SiteGroup]:
        linear = [m for m in self.modules if m.kind in LINEAR and not SAVED_BY_PEFT.search(m.path)]
        if isinstance(suffixes, str):
            if suffixes.lower() != "all-linear":
                raise UsageError(f"target modules: found {shown(suffixes)!r}; expected a list, or 'all-linear'")
            if self.backbone.family.expert_names:
                raise self._experts("all-linear")
            return [_site(m, m.layers) for m in linear if m.role != OUTPUT_EMBEDDING]
        for suffix in suffixes:
            if suffix.rpartition(".")[2] in self.backbone.family.expert_names:
                raise self._experts(suffix)
            if not any(_layers(m, [suffix]) for m in linear):
                raise self._no_suffix(suffix, linear)
        found = ((m, _layers(m, suffixes)) for m in linear)
        return [_site(m, tuple(n for n in layers if n is not None)) for m, layers in found if layers]

    def _experts(self, suffix: str) -> UsageError:
        found = f"target module {shown(suffix)!r} of {self._name} means tensors of experts in peft"
        return UsageError(f"{found}, which are no linear modules; choose roles, or other modules")

    def _no_suffix(self, suffix: str, linear: Sequence[Module]) -> UsageError:
        what, named = f"target module {shown(suffix)!r}", (m for m in self.modules if m.kind != "parameter")
        other = next((m for m in named if _layers(m, [suffix])), None)
        if other is not None and other.kind in LINEAR:
            return UsageError(f"{what} of {self._name} belongs to the task's head, which is trained in full")
        if other is not None:
            return UsageError(f"{what} of {self._name} is of kind {other.kind}, not a linear module")
        if any(f".{suffix}." in f".{m.path}" for m in self.modules):
            return UsageError(f"{what} of {self._name} holds modules and is none; name those inside it")
        known = dict.fromkeys(m.path.rpartition(".")[2] for m in linear)
        return UnknownName("target module", suffix, known, f"in {self._name}")

    @property
    def _name(self) -> str:
        return f"{self.backbone.id} (task {self.task})"

    def __repr__(self) -> str:
        return f"<Inventory of {self._name}: {self.total:,} parameters>"


@lru_cache(maxsize=4096)
def role_matches(pattern: str, role: str, stack: str) -> bool:
    """Whether a pattern (a role, or with `*`; a stack and a colon may stand in front) means that role."""
    wanted_stack, _, wanted = pattern.rpartition(":")
    return _in_stack(wanted_stack, stack) and fnmatchcase(role, wanted)


def joined(path: str, name: str) -> str:
    """A parameter's full name, of its module's (the model's own is "") and its own."""
    return f"{path}.{name}" if path else name


def _in_stack(wanted: str, stack: str) -> bool:
    """Whether a stack is meant: by its name, by what it does (`encoder` means `encoder_vision` too) or by ""."""
    return wanted in ("", stack, stack.partition("_")[0])


def _means(pattern: str, site: SiteGroup) -> bool:
    fused = site.whole and bool(site.module.slices)
    return role_matches(pattern, site.role, site.stack) and not (fused and "*" in pattern)


def _site(m: Module, layers: tuple[int, ...], role: str = "", start: int = 0, stop: int = 0) -> SiteGroup:
    """The module in some layers: all its outputs, or the slice of a role."""
    role, stop = role or m.role, stop or m.d_out
    return SiteGroup(m, role, m.d_in, stop - start, start, stop, m.bias, layers, m.stack)


def _layers(module: Module, suffixes: Sequence[str]) -> list[int | None]:
    """The layers in which the module's name is, or ends in a dot and, one of the suffixes; [None] if it has none."""
    endings, paths = tuple(f".{suffix}" for suffix in suffixes), module.paths()
    if not any(NUMBER.search(suffix) for suffix in suffixes):  # then no suffix reaches back to the layer's number
        return [n for n, _ in paths] if f".{paths[0][1]}".endswith(endings) else []
    return [n for n, path in paths if f".{path}".endswith(endings)]


def _modules(backbone: Backbone, task: str, num_labels: int, stacks: Mapping[str, Stack]) -> Iterator[Module]:
    """Every module that exists in the task, those outside stacks first."""
    family, sizes = backbone.family, {**backbone.config, "num_labels": num_labels}
    prefix = family.tasks[task].prefix
    for spec in family.modules:
        if _exists(spec, task, sizes):
            yield _module(spec, "" if spec.outside else prefix, "", (), sizes)
    for name, stack in stacks.items():
        everywhere, own = range(backbone.layers[name]), {**sizes, **backbone.stack_dims[name]}
        for spec in stack.modules:
            layers = tuple(n for n in everywhere if spec.where is None or spec.where(_at(n, family.layered, own)))
            if layers and _exists(spec, task, own):
                yield _module(spec, f"{prefix}{stack.path}.", name, layers, own)


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

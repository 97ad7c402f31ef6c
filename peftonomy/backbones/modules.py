"""Describe the modules of a model, and select them by roles and suffixes.

Equal layers share one record with the list of their numbers, so 126 layers need as few records as two.

There are two ways to select linear modules. *Roles* are the papers' names: `attn.q`, `mlp.*`, `decoder:xattn.v`. On a
fused module a role selects its slice of the output. *Suffixes* are peft's `target_modules`: they select whole modules,
exactly as in peft.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from typing import Any

from ..errors import UnknownName, UsageError, shown
from ..schema.family import Shape

__all__ = [
    "LINEAR", "Block", "Memo", "Module", "Selection", "SiteGroup", "in_stack", "joined", "role_matches", "totals",
]  # fmt: skip

LINEAR = ("linear", "conv1d")
"""The kinds of linear layer: torch's Linear, and transformers' Conv1D with its transposed weight."""
INPUT_EMBEDDING = "embed.token"
"""The role of the embedding table for token ids."""
INPUTS = frozenset({INPUT_EMBEDDING, "embed.patch", "embed.audio"})
"""The roles of the modules that read texts, images and sounds."""
OUTPUT_EMBEDDING = "head.lm"
"""The role that peft's `all-linear` excludes."""
OUTPUT_BIAS = "head.bias"
"""The role of the output embedding's bias, if it is a parameter of its own."""
SAVED_BY_PEFT = re.compile(r"(classifier|score)(\.|$)")
"""Matches the ends of module names that peft trains in full for a classification task and so never targets."""
ANSWERS_SAVED_BY_PEFT = re.compile(r"qa_outputs(\.|$)")
"""The same for question answering."""
NUMBER = re.compile(r"(^|\.)\d+(\.|$)")


@dataclass(frozen=True, slots=True)
class Module:
    """A module, in all the layers that include it.

    path: its name in the `transformers` class of the task, with `{layer}` for the layer's number.
    layers: those numbers; empty for a module outside the layers.
    kind: linear, conv1d, conv, embedding, norm or parameter (a bare tensor; `path` is the module that owns it).
    d_in, d_out: input and output features. bias: whether it has a bias.
    parameters: those that it owns in each layer, as (name after the path, shape); a tied module owns nothing.
    slices: for a fused module, (role, start, stop) over its outputs. If each slice is spread over several `groups` of
        outputs (heads in succession), the range counts the outputs after each role's parts are put together.
    head: whether it is created for the task. pretrained: whether the published checkpoint contains it.
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
        """The number of such modules in the model."""
        return len(self.layers) or 1

    @property
    def numel(self) -> int:
        """The number of parameters owned in all layers together."""
        return self.count * sum(math.prod(shape) for _, shape in self.parameters)

    def paths(self) -> list[tuple[int | None, str]]:
        """Return each single module: its layer (None if it has none) and its name."""
        if not self.layers:
            return [(None, self.path)]
        return [(n, self.path.replace("{layer}", str(n))) for n in self.layers]


@dataclass(frozen=True, slots=True)
class SiteGroup:
    """A module, or a slice of it with its own role, in some of its layers: a target of a method.

    start, stop: the range of outputs; d_out is their number. layers: empty for a module outside the layers.
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
        """The number of such locations in the model."""
        return len(self.layers) or 1

    @property
    def whole(self) -> bool:
        """True if the site covers all outputs of the module."""
        return self.d_out == self.module.d_out

    def paths(self) -> list[tuple[int | None, str]]:
        """Return each single location: its layer (None if it has none) and the module's name."""
        return [(n, path) for n, path in self.module.paths() if n is None or n in self.layers]


@dataclass(frozen=True, slots=True)
class Block:
    """A functional part of each layer, or the layer itself.

    kind and name: attention (`attn`, or `xattn` for cross attention), mlp, layer. path: the module that contains an
    attention's projections, or the layer, with `{layer}` for its number. The modules of a feed-forward block may be
    spread over its layer, so its path is "". Its first and last modules have the roles `first` and `last`. dims: the
    family's sizes, and `n_layers` of this stack.
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
    """Return True if a pattern matches a role.

    A pattern is a role, may contain `*`, and may start with a stack and a colon.
    """
    wanted_stack, _, wanted = pattern.rpartition(":")
    return in_stack(wanted_stack, stack) and fnmatchcase(role, wanted)


def joined(path: str, name: str) -> str:
    """Return a parameter's full name from its module's name ("" for the model itself) and its own."""
    return f"{path}.{name}" if path else name


def in_stack(wanted: str, stack: str) -> bool:
    """Return True if `wanted` matches a stack.

    It may be the stack's name, its function (`encoder` matches `encoder_vision` too) or "", which matches any stack.
    """
    return wanted in ("", stack, stack.partition("_")[0])


def means(pattern: str, site: SiteGroup) -> bool:
    fused = site.whole and bool(site.module.slices)
    return role_matches(pattern, site.role, site.stack) and not (fused and "*" in pattern)


def site_of(m: Module, layers: tuple[int, ...], role: str = "", start: int = 0, stop: int = 0) -> SiteGroup:
    """Return a site for a module in some layers: all its outputs, or the slice of a role."""
    role, stop = role or m.role, stop or m.d_out
    return SiteGroup(m, role, m.d_in, stop - start, start, stop, m.bias, layers, m.stack)


def layers_named(module: Module, suffixes: Sequence[str]) -> list[int | None]:
    """Return the layers in which the module's name is a suffix or ends in a dot and a suffix; [None] outside layers."""
    endings, paths = tuple(f".{suffix}" for suffix in suffixes), module.paths()
    if not any(NUMBER.search(suffix) for suffix in suffixes):  # no suffix includes the layer's number
        return [n for n, _ in paths] if f".{paths[0][1]}".endswith(endings) else []
    return [n for n, path in paths if f".{path}".endswith(endings)]


class Memo(dict[Any, Any]):
    """A cache with a limit: beyond `most` entries the oldest is removed."""

    def __init__(self, most: int):
        super().__init__()
        self.most = most

    def __setitem__(self, key: Any, value: Any) -> None:
        if len(self) >= self.most and key not in self:
            del self[next(iter(self))]
        super().__setitem__(key, value)


class Selection:
    """Modules, and the selection of linear modules by roles and suffixes.

    stacks: the names of the model's stacks. label: the model's name in messages. expert_names: the name endings that
    peft treats as experts' tensors. saved: matches the ends of module names that peft trains in full.
    """

    def __init__(
        self, modules: tuple[Module, ...], stacks: Collection[str], label: str, expert_names: Collection[str],
        saved: re.Pattern[str] = SAVED_BY_PEFT,
    ):  # fmt: skip
        self.modules, self._stack_names, self.label, self._expert_names = modules, stacks, label, expert_names
        self._saved = saved
        self.memo = Memo(4096)
        """A cache of values computed from these modules, by a key that each caller chooses."""

    def roles(self, kinds: Sequence[str] = LINEAR) -> tuple[str, ...]:
        """Return the roles of the modules of these kinds, and of their slices."""
        return tuple(dict.fromkeys(site.role for site in self._sites(kinds)))

    def resolve_roles(self, roles: Iterable[str], kinds: Sequence[str] = LINEAR) -> list[SiteGroup]:
        """Return the locations that match any of these roles or patterns, each once, in the network's order.

        `attn.q` is a role, `attn.*` a pattern, `decoder:attn.q` either within one stack. A pattern matches the slices
        of a fused module; only the fused role itself (`attn.qkv`) matches the whole module. Raises UnknownName for a
        role (or stack) that this model lacks, UsageError for a pattern without a match.
        """
        key = tuple(roles), tuple(kinds)
        if key not in self.memo:
            self.memo[key] = self._resolve(*key)
        found: list[SiteGroup] = self.memo[key]
        return found

    def has_role(self, role: str) -> bool:
        """Return True if a role or pattern matches any linear module, or a slice of one."""
        return any(means(role, site) for site in self._linear)

    @cached_property
    def _linear(self) -> list[SiteGroup]:
        return self._sites(LINEAR)

    def _resolve(self, roles: tuple[str, ...], kinds: tuple[str, ...]) -> list[SiteGroup]:
        sites = self._sites(kinds)
        chosen: set[int] = set()
        for pattern in roles:
            found = [i for i, site in enumerate(sites) if means(pattern, site)]
            if not found:
                raise self._no_role(pattern, kinds)
            chosen.update(found)
        whole = {id(sites[i].module) for i in chosen if sites[i].whole}
        return [s for i, s in enumerate(sites) if i in chosen and (s.whole or id(s.module) not in whole)]

    def _sites(self, kinds: Sequence[str]) -> list[SiteGroup]:
        """Return every module of these kinds, a fused one before its slices."""
        return [
            site
            for module in self.modules
            if module.kind in kinds
            for site in (
                site_of(module, module.layers),
                *(site_of(module, module.layers, role, start, stop) for role, start, stop in module.slices),
            )
        ]

    def _no_role(self, pattern: str, kinds: Sequence[str]) -> UsageError:
        stack, _, role = pattern.rpartition(":")
        if stack and not any(in_stack(stack, name) for name in self._stack_names):
            return UnknownName("stack", stack, self._stack_names, f"in {self.label}")
        known = dict.fromkeys(site.role for site in self._sites(kinds) if in_stack(stack, site.stack))
        wanted = "linear module" if kinds == LINEAR else " or ".join(kinds)
        other = next((m.kind for m in self.modules if role_matches(pattern, m.role, m.stack)), "")
        if other:
            found = f"role {shown(pattern)!r} of {self.label} is one of kind {other}, not a {wanted}"
            return UsageError(f"{found}; those are {', '.join(known)}")
        if "*" in role:
            return UsageError(f"no {wanted} of {self.label} has a role {shown(pattern)!r}; they are {', '.join(known)}")
        return UnknownName("role", pattern, known, f"in {self.label}")

    # Selection by peft's suffixes.

    def resolve_suffixes(self, suffixes: Sequence[str] | str) -> list[SiteGroup]:
        """Return the linear modules whose name equals one of these or ends in a dot and one of these; or "all-linear".

        The meaning is peft's. A classification task's `classifier` and `score` never match, and "all-linear" also
        excludes the output embedding. Unlike in peft, a suffix without a match is an error (UsageError) even beside
        others that match. A suffix that peft treats as experts' tensors is an error too.
        """
        key = "suffixes", suffixes if isinstance(suffixes, str) else tuple(suffixes)
        if key not in self.memo:
            self.memo[key] = self._named(suffixes)
        found: list[SiteGroup] = self.memo[key]
        return found

    def _named(self, suffixes: Sequence[str] | str) -> list[SiteGroup]:
        linear = [m for m in self.modules if m.kind in LINEAR and not self._saved.search(m.path)]
        if isinstance(suffixes, str):
            if suffixes.lower() != "all-linear":
                raise UsageError(f"target modules: found {shown(suffixes)!r}; expected a list, or 'all-linear'")
            if self._expert_names:
                raise self._experts("all-linear")
            return [site_of(m, m.layers) for m in linear if m.role != OUTPUT_EMBEDDING]
        for suffix in suffixes:
            if suffix.rpartition(".")[2] in self._expert_names:
                raise self._experts(suffix)
            if not any(layers_named(m, [suffix]) for m in linear):
                raise self._no_suffix(suffix, linear)
        found = ((m, layers_named(m, suffixes)) for m in linear)
        return [site_of(m, tuple(n for n in layers if n is not None)) for m, layers in found if layers]

    def _experts(self, suffix: str) -> UsageError:
        found = f"target module {shown(suffix)!r} of {self.label} means tensors of experts in peft"
        return UsageError(f"{found}, which are no linear modules; choose roles, or other modules")

    def _no_suffix(self, suffix: str, linear: Sequence[Module]) -> UsageError:
        what, named = f"target module {shown(suffix)!r}", (m for m in self.modules if m.kind != "parameter")
        other = next((m for m in named if layers_named(m, [suffix])), None)
        if other is not None and other.kind in LINEAR:
            return UsageError(f"{what} of {self.label} belongs to the task's head, which is trained in full")
        if other is not None:
            return UsageError(f"{what} of {self.label} is of kind {other.kind}, not a linear module")
        if any(f".{suffix}." in f".{m.path}" for m in self.modules):
            return UsageError(f"{what} of {self.label} holds modules and is none; name those inside it")
        known = dict.fromkeys(m.path.rpartition(".")[2] for m in linear)
        return UnknownName("target module", suffix, known, f"in {self.label}")


def totals(sites: Iterable[SiteGroup]) -> dict[str, int]:
    """Return the totals over all targeted linear modules that formulas may name: their number, and the widths."""
    found = [(len(site.layers) or 1, site.d_in, site.d_out) for site in sites]
    return {
        "n_sites": sum(n for n, _, _ in found),
        "max_d_in": max((d_in for _, d_in, _ in found), default=0),
        "max_d_out": max((d_out for _, _, d_out in found), default=0),
        "sum_d_in": sum(n * d_in for n, d_in, _ in found),
        "sum_d_out": sum(n * d_out for n, _, d_out in found),
    }

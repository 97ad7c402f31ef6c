"""Find the modules that a library's configuration names, by the library's own rules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from ..backbones.backbone import Inventory
from ..backbones.config import MAX_LAYERS
from ..backbones.modules import INPUT_EMBEDDING, LINEAR, OUTPUT_EMBEDDING, Module, SiteGroup
from ..costs.plan import Plan
from ..errors import ConfigError, near, shown
from ..patterns import Matcher, SlowPatternError
from .arguments import Arguments

__all__ = ["ALL_LINEAR", "STRUCTURE", "Selected", "holders_of", "matrices", "shares"]

MOST_COMPARISONS = 2_000_000
"""The largest product of the numbers of names in a configuration and of modules in the model."""
ANY_NAME = "another_module"
"""A name that no module has."""
How = Literal["match", "fullmatch", "search"]
Test = Callable[[str], Any]
ALL_LINEAR, THE_EMBEDDING = "all-linear", "input-embedding"
STRUCTURE = frozenset({
    "target_modules", "exclude_modules", "target_parameters", "layers_to_transform", "layers_pattern",
    "modules_to_save", "bias", "trainable_token_indices", "ensure_weight_tying", "layer_replication",
})  # fmt: skip
"""Arguments that select modules; they have the same meaning in every type."""


class Selected:
    """The modules that a configuration selects by name, by the library's own rules."""

    def __init__(self, arguments: Arguments, inventory: Inventory, saved: Sequence[str], *, late: bool = False):
        """`saved`: modules that the task trains in full; `late`: only after the targets have been adapted."""
        self.arguments, self.inventory, self.late = arguments, inventory, late
        values = arguments.values
        self.targets = values.get("target_modules")
        self.size = sum(module.count for module in inventory.modules)
        self.saved, self.by_task = [*self._words("modules_to_save"), *saved], bool(saved)
        self._refused()
        self.layers = self._layers()
        self.matcher = Matcher()
        self.modules = self._replicated() if values.get("layer_replication") else inventory.modules
        self.size = sum(module.count for module in self.modules)
        parents = values.get("layers_pattern")
        frame = r"(?:^|.*?\.){}\.(?P<idx>[0-9]+)\." if parents else r".*?\.{}\.(?P<idx>[0-9]+)\."
        self.layer_patterns = self.tests(parents or "[^.]*", "layers_pattern", frame, "match")
        self.leaves = [m for m in self.modules if m.kind != "parameter"]
        self.tying = self._tied() if values.get("ensure_weight_tying") else []
        if sum(m.kind == "embedding" for m in self.tying) > 1:
            reason = "false: stacks that share a table of embeddings are not counted"
            raise self.refuse("ensure_weight_tying", True, reason)
        self._excludes = self._excluded()
        self._matches = self._matcher()

    # Names

    def refuse(self, field: str, found: object, expected: str, hint: str = "") -> ConfigError:
        return self.arguments.refuse(field, found, expected, hint)

    def _words(self, argument: str) -> list[str]:
        value = self.arguments.values.get(argument)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
            raise self.refuse(argument, value, "a list of names")
        self._few(value, argument)
        return value

    def _few(self, found: Collection[Any], argument: str) -> None:
        """Raise ConfigError if it takes too long to compare every name in `found` with every module."""
        if len(found) * self.size > MOST_COMPARISONS:
            expected = f"at most {MOST_COMPARISONS // self.size:,} for a model of {self.size:,} modules"
            raise self.refuse(argument, f"{len(found):,} names", expected)

    def tests(self, found: Any, argument: str, frame: str = "{}", how: How = "fullmatch") -> list[Test]:
        """Return a predicate for each of the expressions, which replace `{}` in the frame."""
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list | Mapping):
            raise self.refuse(argument, found, "regular expressions")
        self._few(found, argument)
        return [self._test(text, argument, frame, how) for text in found]

    def _test(self, text: str, argument: str, frame: str, how: How) -> Test:
        try:
            self.matcher.compile(text)
            match = getattr(self.matcher.compile(frame.replace("{}", text)), how)
        except ValueError as error:
            raise self.refuse(argument, text, "a regular expression", str(error)) from None

        def test(name: str) -> Any:
            try:
                return match(name)
            except SlowPatternError:
                raise self.refuse(argument, text, "an expression that takes less time to match") from None

        return test

    def _layers(self) -> frozenset[int] | None:
        value = self.arguments.values.get("layers_to_transform")
        if value is None or value == []:
            return None
        numbers = value if isinstance(value, list) else [value]
        if any(type(n) is not int for n in numbers):
            raise self.refuse("layers_to_transform", value, "layer numbers")
        return frozenset(numbers)

    def _refused(self) -> None:
        """Raise ConfigError for numbers or names of layers that the library refuses beside these targets."""
        values, refuses = self.arguments.values, self.arguments.spec.refuses
        expression = isinstance(self.arguments.raw.get("target_modules"), str)
        layers, pattern = (values.get(name) for name in ("layers_to_transform", "layers_pattern"))
        expected = "nothing, because target_modules is one expression"
        if expression and layers is not None and "layers_of_expression" in refuses:
            raise self.refuse("layers_to_transform", layers, expected)
        if expression and pattern is not None and "pattern_of_expression" in refuses:
            raise self.refuse("layers_pattern", pattern, expected)
        if pattern and layers is None and "pattern_alone" in refuses:
            raise self.refuse("layers_pattern", pattern, "nothing, because layers_to_transform is absent")

    def _replicated(self) -> list[Module]:
        """Return the modules after layer replication: repeated layers share weights and get other numbers."""
        value, inventory = self.arguments.values["layer_replication"], self.inventory
        asked = value if isinstance(value, list) else [value]
        ranges = [pair for pair in asked if isinstance(pair, list | tuple) and [*map(type, pair)] == [int, int]]
        [(_, count), *others] = inventory.backbone.layers.items()
        right = len(ranges) == len(asked) and all(0 <= start < stop <= count for start, stop in ranges)
        right = right and sum(stop - start for start, stop in ranges) <= MAX_LAYERS and not others
        layers = [n for start, stop in ranges for n in range(start, stop)] if right else []
        if {*layers} != {*range(count)}:
            expected = f"ranges [first, end] that together name each of the {count} layers of one stack"
            raise self.refuse("layer_replication", value, expected)
        place = next(block.path.removesuffix(".{layer}") for block in inventory.blocks if block.kind == "layer")
        if (known := self.arguments.library.replicates) and not re.fullmatch(known, place):
            expected = f"nothing: {self.arguments.library.name} does not find the layers at {place}"
            raise self.refuse("layer_replication", value, expected)
        if self.arguments.values.get("bias", "none") != "none":
            raise self.refuse("bias", self.arguments.values["bias"], "none, because layers share weights")
        return [
            replace(m, layers=tuple(n for n, was in enumerate(layers) if was in m.layers)) if m.layers else m
            for m in inventory.modules
        ]

    def _excluded(self) -> Callable[[str], bool]:
        value = self.arguments.values.get("exclude_modules")
        names = self._words("modules_to_save") if self.late else self.saved
        saved = self.tests(names, "modules_to_save", r"(^|.*\.){}($|\..*)", "match")
        by_name = self._by_name(value, "exclude_modules") if value else lambda path: False
        return lambda path: by_name(path) or any(test(path) is not None for test in saved)

    def _by_name(self, value: Any, argument: str) -> Callable[[str], bool]:
        """Return a predicate for names.

        It matches one expression against the whole name, or a list of names or their endings.
        """
        if isinstance(value, str):
            [test] = self.tests(value, argument)
            return lambda path: test(path) is not None
        if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
            raise self.refuse(argument, value, "names of modules, or one regular expression")
        words = frozenset(value)
        return lambda path: not words.isdisjoint(_endings(path))

    def _matcher(self) -> Callable[[str], bool]:
        if isinstance(self.targets, str) and self.targets.lower() == ALL_LINEAR:
            if self.layers is None:
                return self.linear.__contains__
            return self._in_layers(self.linear.__contains__, self.layers)
        if self.targets == THE_EMBEDDING:
            tables = [m.path for m in self.leaves if m.role == INPUT_EMBEDDING and m.parameters]
            return frozenset(tables[:1]).__contains__
        if not self.targets:
            return lambda path: False
        meant = self._by_name(self.targets, "target_modules")
        if isinstance(self.targets, str) or self.layers is None:  # one expression selects in all layers
            return meant
        return self._in_layers(meant, self.layers)

    def _in_layers(self, meant: Callable[[str], bool], layers: frozenset[int]) -> Callable[[str], bool]:
        """Return a predicate for targets in some layers only; whole names are not bound to them."""
        exact = set(self.words)
        return lambda path: meant(path) and (path in exact or self._layer(path) in layers)

    @cached_property
    def linear(self) -> frozenset[str]:
        """The modules that all-linear means."""
        return frozenset(path for m in self.leaves if self._in_all_linear(m) for _, path in m.paths())

    @cached_property
    def words(self) -> list[str]:
        """The names to which the library shortens its list of targets; an empty list for an expression."""
        if isinstance(self.targets, str):
            words = sorted(self.linear) if self.targets.lower() == ALL_LINEAR else []
        else:
            words = [*dict.fromkeys(self.targets or ())]
        if len(words) < self.arguments.library.shortens:
            return words
        ends, names = tuple(f".{word}" for word in words), {*self._holders, *self._paths}
        others = {end for name in names if not f".{name}".endswith(ends) for end in _endings(name)}
        found: dict[str, None] = {}
        for word in sorted(words, key=_endings):
            for end in _endings(word):
                if end not in found and end not in others and not any(word.endswith(f".{one}") for one in found):
                    found[end] = None
                    break
        return [*found] if 0 < len(found) < len(words) else words

    @cached_property
    def _paths(self) -> frozenset[str]:
        return frozenset(path for m in self.leaves for _, path in m.paths())

    @cached_property
    def _holders(self) -> frozenset[str]:
        """The names of modules that contain modules or parameters of their own."""
        found = {path for m in self.modules if m.kind == "parameter" for _, path in m.paths()}
        found |= {path.rpartition(".")[0] for path in self._paths} - {""}
        while above := {path.rpartition(".")[0] for path in found} - found - {""}:
            found |= above
        return frozenset(found)

    def grouped(self, plan: Plan, expressions: Sequence[str]) -> Iterator[tuple[SiteGroup, int]]:
        """Yield each group of targeted modules that share tensors, as one module and their number.

        They have equal sizes and the same ending, or the same match of the first expression that matches.
        """
        groups: dict[tuple[Any, ...], tuple[SiteGroup, int]] = {}
        tests = [re.compile(expression) for expression in expressions]  # of our own files
        for site in (site for group in plan.sites for site in group):
            for _, path in site.paths():
                if tests:
                    key: tuple[Any, ...] = next((n, *m.groups()) for n, t in enumerate(tests) if (m := t.search(path)))
                    first, n = groups.get(key, (site, 0))
                    if first.d_in != site.d_in:
                        expected = f"modules of one width with {first.module.path}, which shares its tensors"
                        raise self.refuse("target_modules", path, expected)
                    groups[key] = site, n + 1
                    continue
                ends = [word for word in self.words if path.endswith(word)] or [""]
                if len(ends) > 1 and (one := self._same(plan, ends)) is None:
                    expected = "names of which one is the ending of each module's name; which one counts is random"
                    raise self.refuse("target_modules", " and ".join(ends), expected)
                key = ends[0] if len(ends) == 1 else one, site.d_in, site.d_out
                groups[key] = site, groups.get(key, (site, 0))[1] + 1
        yield from groups.values()

    def _same(self, plan: Plan, ends: Sequence[str]) -> str | None:
        """Return one of several endings of a module's name if it matters to no group which one the library takes."""
        paths = [path for group in plan.sites for site in group for _, path in site.paths()]
        meant = {frozenset(path for path in paths if path.endswith(word)) for word in ends}
        return min(ends) if len(meant) == 1 else None

    @cached_property
    def wrapped(self) -> frozenset[str]:
        """The targeted modules of a type that wraps whole modules, by default all layers."""
        if self.targets is None:
            layers = [block for block in self.inventory.blocks if block.kind == "layer"]
            return frozenset(block.path.replace("{layer}", str(n)) for block in layers for n in block.layers)
        found = {path for path in self._paths | self._holders if self.named(path)}
        inside = next((path for path in sorted(found) if any(one in found for one in holders_of(path)[:-1])), None)
        if inside is not None or not found or self.targets == ALL_LINEAR:
            expected = "names that select modules, of which none contains another"
            raise self.refuse("target_modules", inside or self.targets, expected)
        return frozenset(found)

    def _in_all_linear(self, module: Module) -> bool:
        return module.kind in LINEAR and module.role != OUTPUT_EMBEDDING

    def _layer(self, path: str) -> int | None:
        found = next((match for test in self.layer_patterns if (match := test(path)) is not None), None)
        return None if found is None else int(found["idx"])

    @property
    def parameters(self) -> Iterator[str]:
        """The names of all parameters."""
        for module in self.modules:
            for suffix, _ in module.parameters:
                yield from (f"{path}.{suffix}".lstrip(".") for _, path in module.paths())

    @property
    def names(self) -> frozenset[str]:
        """The names of all modules and parameters."""
        return self._paths | self._holders | {*self.parameters}

    def named(self, path: str) -> bool:
        """Return True if the configuration selects a module of this name."""
        return self._matches(path) and not self._excludes(path)

    # Sites

    def sites(self) -> Iterator[SiteGroup]:
        """Yield the targeted modules.

        Raises ConfigError if there are none, or if one has a kind that is not adapted.
        """
        self._named_well()
        found = [*self._targeted(), *self._parameters()]
        kinds = self.arguments.spec.accepts
        if self.arguments.spec.skips:
            if passed := [site.module.path for site in found if site.module.kind not in kinds]:
                note = f"target_modules: {self.arguments.library.name} passes over {', '.join(dict.fromkeys(passed))}."
                self.arguments.notes.append(note)
            found = [site for site in found if site.module.kind in kinds]
        if not found:
            raise self._nothing()
        for site in found:
            if site.module.kind not in (*kinds, "parameter"):
                what = f"{site.module.path}, of kind {site.module.kind}"
                raise self.refuse("target_modules", what, f"modules of kind {' or '.join(kinds)}")
            bare = site.module.kind == "parameter" and not site.module.path.endswith(".weight")
            self.arguments.limited("tensor" if bare else site.module.kind, site.module.path)
        yield from found

    def _targeted(self) -> Iterator[SiteGroup]:
        for module in self.leaves:
            if chosen := self._chosen_paths(module):
                yield self._site(module, tuple(n for n, _ in chosen if n is not None))

    def _chosen_paths(self, module: Module) -> list[tuple[int | None, str]]:
        """Return the layers and names in which a module is targeted."""
        if module in self.tying and self._targets_embeddings:
            return list(module.paths())
        return [(n, path) for n, path in module.paths() if self.named(path)]

    @cached_property
    def _targets_embeddings(self) -> bool:
        """Return True if an embedding is targeted by its common name, so that tied ones become targets together."""
        names = self.arguments.library.embedding_names
        if isinstance(self.targets, str):
            [test] = self.tests(self.targets, "target_modules")
            return any(test(name) is not None for name in names)
        return any(word.rpartition(".")[2] in names for word in self.targets or ())

    def _site(self, module: Module, layers: tuple[int, ...]) -> SiteGroup:
        d_in = module.d_in
        if module.kind == "conv":  # the first factor is a convolution with the same kernel; the second mixes channels
            d_in = math.prod(dict(module.parameters)["weight"]) // module.d_out
        return SiteGroup(
            module, module.role, d_in, module.d_out, 0, module.d_out, module.bias, layers, module.stack
        )

    def _parameters(self) -> Iterator[SiteGroup]:
        """Yield matrices targeted by their own names: a module's weight, a bare parameter, the weights of experts.

        The module of such a site has the parameter's name.
        """
        for name in self._words("target_parameters"):
            found = False
            for module in self.modules:
                for suffix, shape in module.parameters:
                    one = replace(module, path=f"{module.path}.{suffix}".lstrip("."))
                    layers = [n for n, path in one.paths() if f".{path}".endswith(f".{name}")]
                    if not layers:
                        continue
                    if len(shape) not in (2, 3):
                        found_shape = f"{one.path}, of shape {list(shape)}"
                        raise self.refuse("target_parameters", found_shape, "parameters of two or three dimensions")
                    found = True
                    owners = [path.rpartition(".")[0] for n, path in one.paths() if n in layers or n is None]
                    if module.kind != "parameter" and (twice := next(filter(self.named, owners), None)) is not None:
                        expected = f"parameters of other modules: target_modules selects {twice}"
                        raise self.refuse("target_parameters", name, expected)
                    if module.kind == "parameter":
                        one = replace(one, d_out=shape[-2], d_in=shape[-1])
                    yield self._site(replace(one, kind="parameter"), tuple(n for n in layers if n is not None))
            if not found:
                raise self.refuse("target_parameters", name, "the name of a weight, or of experts' matrices")

    def _named_well(self) -> None:
        """Note names without a match. Refuse names of modules that contain modules."""
        leaves = self._paths
        holders = set() if self.arguments.spec.skips else self._holders - leaves
        wrong = min((path for path in holders if self.named(path)), default=None)
        if wrong is not None:
            raise self.refuse("target_modules", wrong, "modules; this one contains modules, so name those")
        self.warn_of_others()
        endings = {ending for path in leaves for ending in _endings(path)}
        for word in self.targets if isinstance(self.targets, list) else ():
            if word not in endings:
                self.arguments.notes.append(f"target_modules: {shown(word)!r} means no module of the model.")

    def warn_of_others(self) -> None:
        """Note an expression that matches any name inside a module, so also those of modules without parameters."""
        if not isinstance(self.targets, str) or self.targets.lower() == ALL_LINEAR:
            return
        holders = {path.rpartition(".")[0] for path in self._paths if self.named(path)}
        if any(self.named(f"{holder}.{ANY_NAME}") for holder in holders):
            name = self.arguments.library.name
            note = f"{name} fails if the expression matches a module without parameters, such as an activation."
            self.arguments.notes.append(f"target_modules: {note}")

    def _nothing(self) -> ConfigError:
        arguments = self.arguments
        if self.targets is None:
            kind = arguments.backbone.family.model_type
            expected = f"names: {arguments.library.name} has no default for {kind}"
            return self.refuse("target_modules", "nothing", expected)
        known = sorted({m.path.rpartition(".")[2] for m in self.leaves if m.kind in arguments.spec.accepts})
        words = self.targets if isinstance(self.targets, list) else []
        matches = [match for word in words for match in near(word, known)]
        hint = f"did you mean {' or '.join(dict.fromkeys(matches))}?" if matches else ""
        expected = f"names that select at least one module; known: {', '.join(known)}"
        return self.refuse("target_modules", self.targets, expected, hint)

    def among(
        self, sites: Sequence[SiteGroup], names: Any, argument: str, inside: bool = True
    ) -> Iterator[SiteGroup]:
        """Yield the sites (with a subset of their layers) whose modules the names match, or do not match."""
        meant = self._picked(names, argument)
        for site in sites:
            layers = [n for n, path in site.paths() if meant(path) is inside]
            if layers:
                yield replace(site, layers=tuple(n for n in layers if n is not None))

    def _picked(self, names: Any, argument: str) -> Callable[[str], bool]:
        """Return a predicate for targets.

        It matches one expression against the whole name, or a list of endings or parts.
        """
        if not isinstance(names, list) or not all(isinstance(word, str) for word in names):
            return self._by_name(names, argument)
        self._few(names, argument)
        if self.arguments.spec.picks.get(argument) == "part":
            return lambda path: any(word in path for word in names)
        return lambda path: path.endswith(tuple(names))

    def _tied(self) -> list[Module]:
        """Return the modules that share one embedding table, starting with the owner; an empty list if none do."""
        tables = [m for m in self.leaves if m.kind == "embedding" and m.role == INPUT_EMBEDDING and m.parameters]
        tied = [m for m in self.leaves if shares(m)]
        return [*tables[:1], *tied] if tied else []


def shares(module: Module) -> bool:
    """Return True if the weight of a module is that of another one."""
    return module.kind in (*LINEAR, "embedding") and not any(suffix == "weight" for suffix, _ in module.parameters)


def _endings(name: str) -> list[str]:
    """Return the endings of a module's name, shortest first."""
    parts = name.split(".")
    return [".".join(parts[i:]) for i in reversed(range(len(parts)))]


def holders_of(name: str) -> list[str]:
    """Return the names of the modules that contain a module, outermost first, and its own."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def matrices(module: Module) -> int:
    """Return the number of matrices in a bare parameter."""
    [(_, shape), *others] = module.parameters or [("", ())]
    return shape[0] if module.kind == "parameter" and len(shape) == 3 and not others else 1



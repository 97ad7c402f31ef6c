"""Count what a library's configuration trains besides its method: copied modules, biases, rows of embeddings."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backbones.modules import INPUT_EMBEDDING, LINEAR, OUTPUT_BIAS, OUTPUT_EMBEDDING, Module
from ..costs.plan import Plan
from .selected import ALL_LINEAR, Selected, holders_of, shares

__all__ = ["Configured", "Extra"]

PASSED_OVER = 2
"""The library does not copy a copied module's descendant of this generation again."""


@dataclass(frozen=True, slots=True)
class Extra:
    """Parameters trained besides the method: `trained`, and the growth of the model and of the file."""

    name: str
    trained: int
    added: int
    stored: int


class Configured(Selected):
    """The modules that a configuration selects, and what it trains besides its method."""

    def extras(self, plan: Plan) -> Iterator[Extra]:
        """Yield everything that the configuration trains besides its method."""
        for module in self.modules if self.arguments.spec.children else ():
            if module.kind == "parameter" and not module.path:
                yield Extra("left trainable: parameters of the model itself", self._numel(module), 0, 0)
        yield from self._copies()
        yield from self._biases(plan)
        yield from self._tokens()
        yield from self._embeddings(plan)

    def _copies(self) -> Iterator[Extra]:
        """Yield modules that are copied, trained and saved in full."""
        if not self.saved:
            return
        copied = self._saved_well()
        found = [m for m in self.modules if any(self._saved(path) for _, path in m.paths())]
        names = {word.rpartition(".")[2] for word in self._words("modules_to_save")}
        tying = self.tying if names & {*self.arguments.library.embedding_names} else []
        if any(module in tying for module in found):  # one copy for all; the file has it once for each
            found = [tying[0], *(m for m in found if m not in tying)]
            yield from (Extra(f"tied to it: {m.path}", 0, 0, self._numel(m)) for m in tying[1:])
        for module in found:
            paths = [path for _, path in module.paths() if self._saved(path)]
            each = [(1, 1, 1)] if module in tying else [self._copied(path, copied) for path in paths]
            trained, added, stored = (sum(n) * self._numel(module) for n in zip(*each, strict=True))
            if (tied := _tied_bias(module)) and self._has_owner(module):  # copied with the parameter that it is
                if each != [(1, 1, 1)]:
                    expected = f"names that select {module.path} once, whose bias is tied"
                    raise self.refuse("modules_to_save", self.saved, expected)
                trained, added = trained - tied, added - tied
            yield Extra(f"modules_to_save: {module.path}", trained, added, stored)

    def _has_owner(self, module: Module) -> bool:
        """Return True if the parameter to which a module's bias is tied is copied with the module."""
        return any(m.role == OUTPUT_BIAS and self._saved(m.path) for m in self.modules if _tied_bias(module))

    def _copied(self, path: str, copied: Collection[str]) -> tuple[int, int, int]:
        """Return how often a module is trained, in the model besides the original, and in the file.

        A copied module inside a copied module is copied again, and the first copy is frozen. The file has both copies
        and repeats the second, except for a direct child, whose names in the file are equal. A child of a child is not
        copied again.
        """
        around = [holder for holder in reversed(holders_of(path)) if holder in copied]
        steps = around[0].count(".") - around[1].count(".") if len(around) > 1 else PASSED_OVER
        return (1, 1, 1) if steps == PASSED_OVER else (1, 2, 1 if steps == 1 else 3)

    def _saved_well(self) -> frozenset[str]:
        """Return the names of the modules that are copied.

        Raises ConfigError for names of modules that the library cannot copy, or whose copies are not counted.
        """
        ends, holders, arguments = tuple(self.saved), self._holders, self.arguments
        for name in (*(arguments.library.adds if arguments.spec.accepts else ()), *arguments.spec.adds):
            if name.endswith(ends):
                expected = f"names that {arguments.library.name} does not use for modules of its own"
                raise self.refuse("modules_to_save", f"{self.saved}, which mean {name} as well", expected)
        copied = {path for path in self._paths | holders if path.endswith(ends)}
        matrices_named = {path for site in self._parameters() for _, path in site.paths()}
        steps: dict[str, set[int]] = {}
        again = arguments.spec.wraps or arguments.values.get("bias", "none") != "none" or self.by_task
        buffers = tuple(f".{end}" for end in self.arguments.backbone.family.buffered)
        if arguments.spec.wraps and any(part.isdigit() for word in self.saved for part in word.split(".")):
            raise self.refuse("modules_to_save", self.saved, "names without the number of a layer")
        for path in sorted(copied):
            inside = f"{path}."
            within = [other for other in holders if other.startswith(inside)]
            if any(rest.isdigit() for other in self._paths | holders if other.startswith(inside)
                   and "." not in (rest := other.removeprefix(inside))):  # fmt: skip
                raise self.refuse("modules_to_save", path, "names of modules; this one is a list of modules")
            around = [holder for holder in holders_of(path) if holder in copied]
            if len(around) > 1:
                steps.setdefault(around[0], set()).add(path.count(".") - around[0].count("."))
            mixed = any(PASSED_OVER in found and len(found) > 1 for found in steps.values())
            if mixed or len(around) > (1 if again else 2):
                expected = "names of modules of which none contains another"
                raise self.refuse("modules_to_save", " in ".join(reversed(around)), expected)
            if buffers and any(f".{other}".endswith(buffers) for other in (path, *within)):
                raise self.refuse("modules_to_save", path, "modules without buffers, which are not counted")
            if arguments.spec.wraps and (path.rpartition(".")[0] in self.wrapped or any(
                f"{other}.".startswith(inside) for other in self.wrapped
            )):
                raise self.refuse("modules_to_save", path, "modules inside of layers that are not direct children")
            if arguments.spec.wraps and self.by_task and not any(
                m.head and f"{m.path}.".startswith(inside) for m in self.leaves
            ):
                raise self.refuse("modules_to_save", path, "only the head of the task, which is saved by itself")
            if any(self.named(other) for other in self._paths if other == path or other.startswith(inside)):
                raise self.refuse("modules_to_save", path, "names that end no name of a targeted module")
            if any(other.startswith(inside) for other in matrices_named):
                raise self.refuse("modules_to_save", path, "modules without a parameter of target_parameters")
        return frozenset(copied)

    def _saved(self, path: str) -> bool:
        return any(holder.endswith(tuple(self.saved)) for holder in holders_of(path)) if self.saved else False

    def _shapes(self, module: Module) -> list[tuple[int, ...]]:
        """Return the shapes of a module's parameters, including tied ones."""
        own = [*dict(module.parameters).values(), *([(tied,)] if (tied := _tied_bias(module)) else [])]
        return [(module.d_in, module.d_out), *own] if shares(module) else own

    def _numel(self, module: Module) -> int:
        return sum(map(math.prod, self._shapes(module)))

    def _biases(self, plan: Plan) -> Iterator[Extra]:
        word = self.arguments.values.get("bias", "none")
        if word == "none":
            return
        twice = frozen = tied = 0
        if word == "all":
            groups = [(m, sum(not self._saved(path) for _, path in m.paths())) for m in self.modules]
            twice = 2 * sum((m.count - n) * self._bias(m) for m, n in groups)  # frozen biases too, each by two names
            for m, n in groups:  # tied biases: their other names are in the file too; a copy freezes the parameter
                twice += (2 * m.count - n) * _tied_bias(m)
                frozen += (m.count - n) * _tied_bias(m) * (not self._has_owner(m))
        elif isinstance(word, str) and word.endswith("_only"):
            groups = [(site.module, site.count) for group in plan.sites for site in group]
            tied = sum(n * _tied_bias(m) for m, n in groups)
        else:
            raise self.refuse("bias", word, "none, all, or a word that ends in _only")
        numel = sum(n * self._bias(m) for m, n in groups) + tied
        yield Extra(f"bias: {word}", numel - frozen, 0, numel + twice)

    def _bias(self, module: Module) -> int:
        return math.prod(dict(module.parameters).get("bias", (0,)))

    def _tokens(self) -> Iterator[Extra]:
        """Yield trained rows of embeddings."""
        value = self.arguments.values.get("trainable_token_indices")
        if value is None:
            return
        tables = [m for m in self.leaves if m.kind == "embedding" and m.role == INPUT_EMBEDDING]
        if not tables and not isinstance(value, Mapping):
            raise self.refuse("trainable_token_indices", value, "nothing: the model has no token embedding")
        asked: Mapping[str, Any] = value if isinstance(value, Mapping) else {tables[0].path: value}
        tied = self._tied()
        seen: set[tuple[str | int, ...]] = set()
        shared = [m for m in tied[1:] if any(m.path.endswith(name) for name in asked)]
        if len(shared) > 1 and not any(tied[0].path.endswith(name) for name in asked):
            expected = f"{tied[0].path}, whose table several of these share"
            raise self.refuse("trainable_token_indices", [*asked], expected)
        for name, rows in asked.items():
            if name in self._words("modules_to_save"):
                raise self.refuse("trainable_token_indices", name, "a module that modules_to_save does not name")
            if not isinstance(rows, list) or any(type(n) is not int for n in rows):
                raise self.refuse("trainable_token_indices", rows, "a list of token ids")
            found = [(m, [path for _, path in m.paths() if path.endswith(name)]) for m in self.leaves]
            found = [(m, paths) for m, paths in found if paths and m.kind in (*LINEAR, "embedding")]
            if not found:
                raise self.refuse("trainable_token_indices", name, "the name of an embedding")
            for module, paths in found:
                if module.kind == "conv1d" or self._chosen_paths(module):
                    what = f"{module.path}, of kind {module.kind}"
                    expected = "an embedding or a linear module that is no target"
                    raise self.refuse("trainable_token_indices", what, expected)
                self.has_rows(module, "trainable_token_indices", rows)
                for path in [tied[0].path] if module in tied else paths:
                    if (path, *rows) not in seen:
                        seen.add((path, *rows))
                        width = module.d_out if module.kind == "embedding" else module.d_in
                        numel = len(rows) * width
                        yield Extra(f"trainable_token_indices: {path}", numel, numel, numel)

    def has_rows(self, module: Module, argument: str, rows: Sequence[int]) -> None:
        """Raise ConfigError if a module has no such row."""
        most = module.d_in if module.kind == "embedding" else module.d_out
        if any(n >= most or n < -most for n in rows):
            raise self.refuse(argument, rows, f"numbers below {most:,}, the rows of {module.path}")

    def _embeddings(self, plan: Plan) -> Iterator[Extra]:
        """Yield embeddings that are saved in full beside their adapters, because one is targeted by a common name."""
        names = set(self.arguments.library.embedding_names)
        if self.arguments.values.get("trainable_token_indices") is not None:
            return
        if isinstance(self.targets, str) and self.targets != ALL_LINEAR:
            by_name = any(m.path.rpartition(".")[2] in names and self._matches(m.path) for m in self.leaves)
        else:  # among tied modules only the owner's name remains
            tied = {m.path.rpartition(".")[2] for m in self.tying[1:]}
            by_name = bool(self.targets != ALL_LINEAR and (names - tied) & set(self.targets or ()))
        for site in (site for group in plan.sites for site in group if by_name):
            if site.role in (INPUT_EMBEDDING, OUTPUT_EMBEDDING):
                numel = self._numel(site.module)
                if self.arguments.values.get("bias", "none") != "none":  # the file has it already
                    numel -= self._bias(site.module)
                yield Extra(f"saved with its adapter: {site.module.path}", 0, 0, numel)


def _tied_bias(module: Module) -> int:
    """Return the size of a bias that is another parameter too; 0 if the module has no such bias."""
    return module.d_out if module.bias and all(suffix != "bias" for suffix, _ in module.parameters) else 0

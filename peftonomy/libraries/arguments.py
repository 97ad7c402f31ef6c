"""The arguments of a library's configuration: the values in the file, and the library's defaults for the rest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, FormulaError, near, shown

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..formula import Formula
    from ..schema.library import Library

__all__ = ["NESTED", "Arguments", "numbers"]

NESTED = "config"
"""The key of the configuration, or of its short form, in a file that was saved with an adapter."""


class Arguments:
    """The type of a configuration and all its arguments, defaults filled in. Raises ConfigError.

    source: the name of the configuration in messages. notes: sentences on arguments that were ignored or interpreted.
    """

    def __init__(self, library: Library, source: str, raw: dict[str, Any], backbone: Backbone):
        self.library, self.source, self.raw, self.backbone = library, source, raw, backbone
        self.notes: list[str] = []
        self.type = self._type()
        self.spec = library.types[self.type]
        self.filled: dict[str, int] = {}
        self.values = self._values()

    def refuse(self, field: str, found: object, expected: str, hint: str = "") -> ConfigError:
        """Return the error for a field of the configuration."""
        try:
            text = found if isinstance(found, str) else json.dumps(found, default=shown)
        except (ValueError, TypeError, RecursionError):  # no content of a file
            text = shown(found)
        return ConfigError(self.source, field, text, expected, hint)

    # The type and the values

    def _type(self) -> str:
        key, known = self.library.type_key, self.library.types
        found = self.raw.get(key)
        if isinstance(found, str) and found in known:
            return found
        matches = near(found, known) if isinstance(found, str) else []
        hint = f"did you mean {' or '.join(matches)}?" if matches else ""
        text = "nothing" if found is None else found
        raise self.refuse(key, text, f"one of {self.library.name}'s types: {', '.join(sorted(known))}", hint)

    def _values(self) -> dict[str, Any]:
        """Return every argument of the type with its given value, or else its default."""
        known = self.library.defaults(self.type)
        for name in sorted(self.raw.keys() - known.keys(), key=str):
            if self.raw[name]:
                matches = near(name, known)
                hint = f"did you mean {' or '.join(matches)}?" if matches else ""
                version = f"{self.library.name} {self.library.version}"
                raise self.refuse(name, self.raw[name], f"an argument that {self.type} has in {version}", hint)
            self.notes.append(f"{name} is an unknown argument without a value; it was ignored.")
        for name, default in known.items():
            if default is not None and name in self.raw and self.raw[name] is None and not self.spec.nullable.get(name):
                raise self.refuse(name, "null", f"a value: {self.library.name} has no null here")
        given = {name: value for name, value in self.raw.items() if name in known and value is not None}
        values = {name: given.get(name, self._default(name)) for name in known}
        for name in self.spec.needs:
            if values[name] is None:
                raise self.refuse(name, "nothing", f"a value, as {self.library.name} has no default for it")
        for name, formula in self.spec.fills.items():
            try:
                self.filled[name] = formula(self._known(values))
            except TypeError:  # a word where a number is expected
                said = {other: values[other] for other in sorted(formula.names & known.keys())}
                raise self.refuse(", ".join(said), said, f"values that give {name}") from None
            values[name] = given.get(name, self.filled[name])
            if type(values[name]) is not int or values[name] < 1:
                raise self.refuse(name, values[name], "a whole number from 1")
        self._check(values)
        for name, formula in self.spec.computes.items():
            values[name] = formula(self._known(values))
        return values

    def _about(self, formula: Formula) -> str:
        """Return the arguments that a formula is about."""
        names = dict.fromkeys(name.removeprefix("given_") for name in sorted(formula.names))
        return ", ".join(name for name in names if name in self.library.defaults(self.type))

    def limited(self, kind: str, path: str) -> None:
        """Raise ConfigError for an argument with which the library refuses a module of this kind."""
        for limit in self.spec.limits:
            if kind not in limit.kinds and limit.when(self._known(self.values)):
                about = self._about(limit.when)
                found = {name: self.values[name] for name in about.split(", ")}
                expected = f"nothing, or modules of kind {' or '.join(limit.kinds)}; {path} is of kind {kind}"
                raise self.refuse(about, found if len(found) > 1 else found[about], expected)

    def _given(self, formula: Formula) -> dict[str, Any]:
        """Return the arguments that a formula over `given_X` is about, as the configuration has them."""
        return {name: self.raw.get(name) for name in sorted(n.removeprefix("given_") for n in formula.names)}

    def _known(self, values: dict[str, Any]) -> Mapping[str, Any]:
        """Return the names of formulas over arguments: the arguments, the dimensions, and names about both."""
        return _Known(self.raw, self.backbone.config, self.backbone.inventory().dims | numbers(values))

    def _check(self, values: dict[str, Any]) -> None:
        """Raise ConfigError for values that the library itself refuses."""
        known = self._known(values)
        for formula in self.spec.requires:
            try:
                fine = formula(known)
            except FormulaError:  # a word or nothing in place of a number
                fine = False
            if not fine:
                said = {name: known[name] for name in sorted(formula.names)}
                raise self.refuse(", ".join(said), said, f"{formula.source}, which {self.library.name} requires")
        for reason, formula in self.spec.decides.items():
            said = {name: values[name] for name in sorted(formula.names & values.keys())} or self._given(formula)
            if not formula(known):
                raise self.refuse(", ".join(said), said, formula.source, reason)
        for name in self.spec.fractions:
            tables = {a: values[a] for a, p in self.spec.patterns.items() if p.sets == name}
            for argument, found in {name: values[name], **tables}.items():
                if any(isinstance(one, float) and one == 1 for one in _each(found)):
                    expected = f"1, or numbers below 1: with 1.0 {self.library.name} trains nothing"
                    raise self.refuse(argument, found, expected)
        for name, whole in self.spec.within.items():
            some, every = self.raw.get(name), self.raw.get(whole)
            if values[name] is None:
                raise self.refuse(name, "nothing", f"names: {self.library.name} has no default for this model")
            if isinstance(some, list) and isinstance(every, list) and (other := [w for w in some if w not in every]):
                raise self.refuse(name, other[0], f"one of {whole}: {', '.join(map(str, every))}")
        for name in self.spec.lists:
            value = values[name]
            if value and not (isinstance(value, Mapping) and all(isinstance(one, list) for one in value.values())):
                raise self.refuse(name, value, f"names of modules, each with a list, as {self.library.name} requires")
        for name, note in self.spec.expects.items():
            if not values[name]:
                self.notes.append(f"{name}: {note}")
        self.notes += [f"{self._about(when)}: {note}" for note, when in self.spec.remarks.items() if when(known)]
        kind = self.backbone.family.model_type
        if kind in self.spec.fails:
            raise self.refuse(self.library.type_key, self.type, f"another type for {kind}", self.spec.fails[kind])
        for name in self.spec.unfilled.get(kind, ()):
            if self.raw.get(name) is None:
                raise self.refuse(name, "nothing", f"a value, as {self.library.name} does not find it in the model")
        if self.spec.only is not None:
            table = self.library.table(self.spec.by_model[self.spec.only])
            if self.backbone.family.model_type not in table:
                found, expected = self.backbone.family.model_type, f"a model that {self.library.name} supports"
                raise self.refuse(self.library.type_key, found, f"{expected}: {', '.join(sorted(table))}")

    def _default(self, name: str) -> Any:
        if name in self.filled:
            return self.filled[name]
        found = self.library.default(self.type, name, self.backbone.family.model_type)
        if found is None and name == "target_modules" and self.spec.otherwise is not None:
            return self.spec.otherwise
        return found


class _Known(dict[str, Any]):
    """Values by name, with `given_X` (1 if the configuration has argument X, else 0) and `model_X` (the value of X in
    the model's config, or 0)."""

    def __init__(self, raw: Mapping[str, Any], config: Mapping[str, Any], values: Mapping[str, Any]):
        super().__init__(values)
        self._raw, self._config = raw, config

    def __missing__(self, name: str) -> Any:
        start, _, rest = name.partition("_")
        if start == "given":
            return int(self._raw.get(rest) is not None)
        if start == "model":
            return self._config.get(rest) or 0
        raise KeyError(name)


def _each(value: Any) -> list[Any]:
    """Return the values of a mapping, or the value itself."""
    return [*value.values()] if isinstance(value, Mapping) else [value]


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as numbers for formulas: a list or mapping as its length, None as zero."""
    return {
        name: len(value) if isinstance(value, list | Mapping) else 0 if value is None else value
        for name, value in values.items()
    }

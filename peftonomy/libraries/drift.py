"""Compare a library's file with the installed library, and write its types, arguments and defaults from there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, shown

if TYPE_CHECKING:
    from ..schema.builds import Shorthand
    from ..schema.library import Library

__all__ = ["Change", "changes", "installed", "rewritten"]

SCRIPT = Path(__file__).with_name("introspect.py")
WIDTH = 120
ARGUMENTS = re.compile(r"^    arguments: \{(.*\}|\n(      .*\n)*    \})$", re.MULTILINE)
"""A type's arguments, in one line or in lines that are indented further."""
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
AMBIGUOUS = {"none", "null", "true", "false", "yes", "no", "on", "off"}
"""Words that YAML, or a reader, could take for something other than a text."""
SECONDS = 300


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. what: its kind. ours, theirs: as JSON, "" if absent on that side."""

    what: str
    type: str
    name: str
    ours: str
    theirs: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def installed(library: Library, python: str | None = None) -> dict[str, Any]:
    """Return the description that an installed library gives of itself.

    python: the interpreter of its environment; this one if None. Raises UsageError.
    """
    if library.introspection is None:
        raise UsageError(f"{library.name}: its file does not declare how to introspect it (introspection)")
    request = {"package": library.package, **library.introspection.model_dump()}
    try:
        ran = subprocess.run(
            [python or sys.executable, str(SCRIPT), json.dumps(request)],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{library.name}: {error}") from None
    if ran.returncode:
        reason = ran.stderr.strip().rpartition("\n")[2]
        raise UsageError(f"{library.name} cannot be introspected with {python or sys.executable}: {reason}")
    try:
        found: Any = json.loads((ran.stdout.splitlines() or [""])[-1])
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"version", "types"} <= found.keys():
        raise UsageError(f"{shown(python or sys.executable)} is no Python: it did not print what {library.name} has")
    return found


def changes(library: Library, found: Mapping[str, Any]) -> Iterator[Change]:
    """Yield every difference between a library's file and the installed library."""
    if library.version != found["version"]:
        yield Change("version", "", "", library.version, found["version"])
    types: Mapping[str, Any] = found["types"]
    for name in library.types.keys() - types.keys():
        yield Change("type is gone", name, "", library.types[name].symbol, "")
    for name, theirs in types.items():
        if name not in library.types:
            yield Change("new type", name, "", "", theirs["symbol"])
            continue
        ours = library.types[name]
        if ours.symbol != theirs["symbol"]:
            yield Change("class", name, "", ours.symbol, theirs["symbol"])
        if library.introspection and library.introspection.saved and ours.saved != theirs["saved"]:
            yield Change("saved name", name, "", _json(ours.saved), _json(theirs["saved"]))
        yield from _arguments(name, library.defaults(name), theirs["arguments"])
        if library.introspection and library.introspection.nulls and {*ours.nullable} != {*theirs["nullable"]}:
            yield Change("may be null", name, "", _json(sorted(ours.nullable)), _json(sorted(theirs["nullable"])))
    yield from _shorthands(library, found["shorthands"])


def _arguments(kind: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Change]:
    for name in ours.keys() | theirs.keys():
        mine, new = (_json(side[name]) if name in side else "" for side in (ours, theirs))
        if mine != new:
            what = "new argument" if not mine else "argument is gone" if not new else "default"
            yield Change(what, kind, name, mine, new)


def _shorthands(library: Library, theirs: Mapping[str, Any]) -> Iterator[Change]:
    ours = {name: _values(library, short) for name, short in library.shorthands.items()}
    for name in ours.keys() | theirs.keys():
        mine, new = (_json(side[name]) if name in side else "" for side in (ours, theirs))
        if mine != new:
            what = "new short name" if not mine else "short name is gone" if not new else "short name"
            yield Change(what, "", name, mine, new)


def _values(library: Library, short: Shorthand) -> Any:
    if short.union:
        return [_values(library, part) for part in short.union]
    kind = str(short.type)
    saved = library.types[kind].saved
    named = {} if saved is None else {library.type_key: saved}
    return {"type": kind, "values": {**named, **library.defaults(kind), **short.set}}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


# Writing


def rewritten(library: Library, text: str, found: Mapping[str, Any]) -> str:
    """Return the text of a library's file with the installed library's version, arguments and defaults.

    New types are added with their arguments. Types that are gone stay, because entries may name them.
    """
    text = re.sub(r'(?m)^version: .*$', f'version: "{found["version"]}"', text, count=1)
    for name, theirs in found["types"].items():
        if name not in library.types:
            text = _with_type(text, name, theirs, library)
        elif list(_arguments(name, library.defaults(name), theirs["arguments"])):
            text = _with_arguments(text, name, _own(library, name, found))
    return text


def _own(library: Library, name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that a type does not inherit, in the library's order."""
    like = library.types[name].like
    above = library.arguments if like is None else found["types"][like]["arguments"]
    return _beyond(above, found["types"][name]["arguments"])


def _beyond(above: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not inherited, or that have another default."""
    return {key: value for key, value in own.items() if key not in above or _json(above[key]) != _json(value)}


def _with_arguments(text: str, name: str, arguments: Mapping[str, Any]) -> str:
    start, end = _section(text, name)
    section = ARGUMENTS.sub(lambda _: _flow(arguments), text[start:end], count=1)
    return text[:start] + section + text[end:]


def _section(text: str, name: str) -> tuple[int, int]:
    """Return where the lines of a type start and end."""
    types = text.index("\ntypes:\n")
    start = text.index(f"\n  {name}:\n", types) + 1
    following = re.compile(r"\n(?=  \S|\S)").search(text, start + len(name) + 4)
    return start, len(text) if following is None else following.start() + 1


def _with_type(text: str, name: str, theirs: Mapping[str, Any], library: Library) -> str:
    saved = f"    saved: {_scalar(theirs['saved'])}\n" if library.introspection and library.introspection.saved else ""
    arguments = _beyond(library.arguments, theirs["arguments"])
    section = f"  {name}:\n    symbol: {theirs['symbol']}\n{saved}{_flow(arguments)}\n"
    after = [other for other in library.types if other > name]
    if after and list(library.types) == sorted(library.types):
        at = _section(text, after[0])[0]
    else:
        at = max(_section(text, other)[1] for other in library.types)
    return text[:at] + section + text[at:]


def _flow(arguments: Mapping[str, Any]) -> str:
    """Return `arguments: {...}` in one line or, if that is too long, in lines of at most WIDTH characters."""
    items = [f"{name}: {_scalar(value)}" for name, value in arguments.items()]
    line = f"    arguments: {{{', '.join(items)}}}"
    if len(line) <= WIDTH:
        return line
    lines, current = ["    arguments: {"], ""
    for item in items:
        longer = f"{current} {item}," if current else f"      {item},"
        if len(longer) > WIDTH:
            lines.append(current)
            longer = f"      {item},"
        current = longer
    return "\n".join([*lines, current.removesuffix(","), "    }"])


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if PLAIN.match(value) and value.lower() not in AMBIGUOUS else json.dumps(value)
    return json.dumps(value)

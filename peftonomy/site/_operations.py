"""What the pages compute training memory with: the table of operations, and those of families and methods, as data.

One classic script results. A page loads it after `data.js`, with the scripts that mirror `peftonomy.memory`, when it
first shows memory. Lines are parsed and formulas are compiled here, once, so that the page needs no eval.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..formula import Formula
from ..memory import optimizer, program
from ..memory.rules import INPUTS, SIZE, WIDTH, Language, Rule, load_language
from ..schema.family import Family, Operations
from ..schema.memory import Act, Memory, Update
from ..schema.method import MethodEntry
from ..schema.programs import Function, Line, parse_all
from ._engine import Formulas, assigned, filled, placed
from ._site import Site

__all__ = ["script"]

EXACT = ("flops", "back")
"""Fields of a rule that are computed in JavaScript's BigInt, since operations of a step are more than 2**53."""


def script(site: Site) -> str:
    """The text of `assets/programs.js`."""
    kb, formulas = site.kb, Formulas()
    language = load_language(kb.root / "backbones" / "operations.yaml")
    parts = {method: [part.entry for part in kb[method].parts] for method in kb}
    entries = {entry.id: entry for several in parts.values() for entry in several}
    records = {
        "rules": {name: _rule(rule, formulas) for name, rule in language.rules.items()},
        "points": language.points,
        "functions": _functions(language.shared, formulas),
        "families": {
            name: _family(family, family.operations, formulas)
            | {"fixed": list(program.fixed_options(family, kb.families, language).items())}
            for name, family in kb.families.items()
            if family.operations is not None
        },
        "entries": {name: _acts(entry, language, formulas) for name, entry in entries.items()},
        "positions": {
            name: formulas.add(entry.memory.positions)
            for name, entry in entries.items()
            if entry.memory is not None and entry.memory.positions.literal != 0
        },
        "updates": {
            name: [_update(update, formulas) for update in entry.memory.updates]
            for name, entry in entries.items()
            if entry.memory is not None and entry.memory.updates
        },
        "recipes": {
            name: _recipe(entry.memory, formulas)
            for name, entry in entries.items()
            if entry.memory is not None and (entry.memory.forward_only or entry.memory.turns is not None)
        },
        "methods": {method: [entry.id for entry in several] for method, several in parts.items()},
        "constants": {
            "blocks": program.BLOCKS, "around": program.AROUND, "in_place": program.IN_PLACE,
            "pattern": program.LONGEST_PATTERN, "alike": program.ALIKE, "counter": optimizer.COUNTER,
            "turns": program.MOST_TURNS,
        },
    }  # fmt: skip
    records["varying"] = _varying(kb.families.values(), entries.values(), language, formulas)
    return assigned("peft.loadOperations", records, formulas)


def _varying(
    families: Iterable[Family], entries: Iterable[MethodEntry], language: Language, formulas: Formulas
) -> dict[str, list[str]]:
    """The names in each formula of models and methods that may differ from layer to layer, by its number."""
    functions = [*language.shared.values()]
    names = {"layer"}
    for family in families:
        if family.operations is not None:
            functions += parse_all(family.operations.functions).values()
            names |= {*family.layered}
    for entry in entries:
        for act in _known(entry) or ():
            functions += program.functions_of(act, language).values()
    found = {f.source: f for function in functions for line in function.lines for f in line.formulas()}
    return {str(formulas.add(f)): sorted(f.names) for f in found.values() if f.names & names}


def _rule(rule: Rule, formulas: Formulas) -> dict[str, Any]:
    single = [name for name in rule.sizes if name != "shape"]
    sizes = {name: _sized([getattr(rule, name)], rule, formulas, name in EXACT) for name in single}
    shape = {} if rule.shape is None else {"shape": _sized(rule.shape, rule, formulas)}
    return filled({
        "needs": rule.needs, "numbers": len(rule.numbers) or None, "optional": rule.optional or None,
        "parts": rule.parts, "width": rule.width, "like": rule.like, "passes": rule.passes, "view": rule.view,
        "through": rule.through, "lays": rule.lays, "single": rule.single, "summed": rule.summed, "alone": rule.alone,
        "free": rule.free, "bias": rule.bias, "cpu": rule.cpu,
        "live": {INPUTS.index(letter): name for letter, name in rule.live.items()},
    }) | sizes | shape  # fmt: skip


def _sized(wanted: Sequence[Formula], rule: Rule, formulas: Formulas, exact: bool = False) -> int:
    """A function of names, tensors, the output and the rule's numbers, as `peftonomy.memory.rules.Sized`; it gives a
    list for a shape, else a number, or a BigInt where it is to be exact."""
    names = sorted(frozenset[str]().union(*(formula.names for formula in wanted)))
    values = [f"{name} = {f'BigInt({_found(name, rule)})' if exact else _found(name, rule)}" for name in names]
    texts = [f.javascript() for f in wanted]
    if exact:
        texts = [re.sub(r"\b\d+\b", r"\g<0>n", text) for text in texts]
    result = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    before = f"var {', '.join(values)}; " if values else ""
    return formulas.function(f"function ($m, $x, $y, $n) {{ {before}return {result}; }}")


def _found(name: str, rule: Rule) -> str:
    """The expression that finds a name of a rule's formula."""

    def field(letter: str, what: str) -> str:
        i = INPUTS.find(letter)
        return f"$y.{what}" if i < 0 else f"($x.length > {i} ? $x[{i}].{what} : 1)"

    if size := SIZE.match(name):
        return field(size[1], f"shape[{size[2]}]")
    if name in rule.numbers:
        return f"$n[{rule.numbers.index(name)}]"
    return field(name[1:] or "y", "width") if WIDTH.match(name) else f"$m.{name}"


def _functions(functions: Mapping[str, Function], formulas: Formulas) -> dict[str, Any]:
    return {name: [f.inputs, [_line(line, formulas) for line in f.lines]] for name, f in functions.items()}


def _line(line: Line, formulas: Formulas) -> list[Any]:
    """Kind, arguments and, as far as there are any, targets, condition and shape."""
    arguments = [formulas.add(a) if isinstance(a, Formula) else a for a in line.arguments]
    shape = None if line.shape is None else formulas.each(line.shape)
    fields = [line.kind, arguments, line.targets, formulas.add(line.condition), shape]
    while not fields[-1] and fields[-1] != 0:
        fields.pop()
    return fields


def _family(family: Family, operations: Operations, formulas: Formulas) -> dict[str, Any]:
    of_family = "post_norm", "sdpa", "runs", "pixels", "buffers"
    found = {name: formulas.add(getattr(operations, name)) for name in of_family}
    outside = {spec.path: spec.outside for spec in family.modules}
    return found | {
        "like": operations.like, "functions": _functions(parse_all(operations.functions), formulas),
        "checkpointing": operations.checkpointing, "interface": operations.interface, "float32": operations.float32,
        "tied": [
            [(spec.path, spec.outside), (spec.tied_to, outside[spec.tied_to])]
            for spec in family.modules if spec.tied_to is not None
        ],
    }  # fmt: skip


def _known(entry: MethodEntry) -> Sequence[Act] | None:
    """The records of an entry's operations; None if it does not declare them."""
    try:
        return program.acts(entry)
    except UsageError:
        return None


def _acts(entry: MethodEntry, language: Language, formulas: Formulas) -> list[dict[str, Any]] | None:
    found = _known(entry)
    return None if found is None else [_act(act, language, formulas) for act in found]


def _act(act: Act, language: Language, formulas: Formulas) -> dict[str, Any]:
    return placed(act, (act.holds,), formulas) | {
        "at": act.at, "holds": formulas.add(act.holds),
        "functions": _functions(program.functions_of(act, language), formulas),
    }  # fmt: skip


def _recipe(memory: Memory, formulas: Formulas) -> dict[str, Any]:
    found = {"evaluations": formulas.add(memory.evaluations)}
    if memory.turns is not None:
        found |= {"layers": formulas.add(memory.turns.layers), "drops": formulas.add(memory.turns.drops)}
    return found


def _update(update: Update, formulas: Formulas) -> dict[str, Any]:
    return placed(update, (update.states, update.temporary, update.together), formulas) | {
        "tensors": update.tensors, "states": formulas.add(update.states), "temporary": formulas.add(update.temporary),
        "together": formulas.add(update.together),
    }  # fmt: skip

"""Check a knowledge base: apply every rule to every entry, and check the names in the other files of the tree.

The problems of all files are reported together, each with its line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogue.records import EVIDENCE, STUDIES
from ..costs.plan import BYTES
from ..errors import DataError, FormulaError, PeftonomyError, Problem, UsageError, shown
from ..files.collector import uncollected
from ..files.documents import dotted, load_yaml
from ..libraries.built import LOCAL, known_names
from ..schema.design import load_design
from ..schema.engines import Engine
from ..schema.family import Family
from ..schema.library import Library
from ..schema.runs import read_runs
from ..schema.search import load_search_words
from ..schema.settings import load_settings
from ..schema.support import Trainer
from ..serving.slots import Ask, sizes
from .evidence import recordings
from .query import select
from .query import stored as in_list

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord, Records

from .rules import RULES, Finding, Keys, closest

__all__ = ["check"]

OF_SITE: dict[str, Callable[[Path, str], object]] = {
    "settings.yaml": load_settings,
    "search.yaml": load_search_words,
}
"""The data files of the site, each with its reader."""


@uncollected()
def check(kb: Records[Any], files: Sequence[str | Path] = ()) -> list[Problem]:
    """Return every problem of the knowledge base, sorted. `files` restricts the result to some files.

    Raises DataError for a file outside the knowledge base.
    """
    problems: list[Problem] = []
    real = cache(_real)
    chosen = {_real(f) for f in files}

    def wanted(path: Path) -> bool:
        return not chosen or real(path) in chosen

    shelves = (kb.methods, kb.families, kb.models, kb.libraries, kb.trainers, kb.engines)
    paths = [shelf.path(key) for shelf in shelves for key in shelf]
    taxonomy = sorted((kb.root / "taxonomy").iterdir())
    of_site = {kb.root / "site" / name: load for name, load in OF_SITE.items()}
    runs = sorted(path for folder in (EVIDENCE, STUDIES) for path in (kb.root / folder).glob("*"))
    strangers = chosen - {real(p) for p in [*paths, *taxonomy, *runs, *of_site]}
    if strangers:
        stranger = min(strangers)
        raise DataError([Problem(stranger, 0, "", "no file of this knowledge base", f"a file below {kb.root}")])
    if unreadable := _unreadable(kb):
        return sorted(unreadable)
    for path, load in of_site.items():
        if path.is_file() and wanted(path):
            try:
                load(path, kb.shown(path))
            except DataError as error:
                problems += error.problems
    problems += [p for p in (*_evidence_problems(kb), *_study_problems(kb, wanted)) if wanted(kb.root / p.file)]
    for reference in kb.references.values():
        problems += _reference_problems(kb, reference)
    broken = set()
    for shelf in (kb.libraries, kb.trainers, kb.engines, kb.families, kb.models, kb.methods):
        for key in shelf:
            try:
                shelf[key]
            except PeftonomyError as error:
                broken.add(key)
                if wanted(shelf.path(key)):
                    problems += getattr(error, "problems", None) or [
                        Problem(kb.shown(shelf.path(key)), 1, "", str(error), "sound data")
                    ]
            else:
                if shelf is not kb.methods and wanted(shelf.path(key)):
                    problems += _record_problems(kb, shelf.path(key), shelf[key])
    unsound = _unsound(kb, broken)
    for key in kb.methods:
        if key not in broken and wanted(kb.methods.path(key)):
            problems += _entry_problems(kb[key], unsound)
    broken |= unsound.keys()
    for shelf in (kb.libraries, kb.trainers, kb.engines):
        for key in shelf:
            # Without a choice, the names of broken entries would be missing in these files.
            if key not in broken and wanted(shelf.path(key)) and (chosen or not broken):
                problems += _support_problems(kb, shelf.path(key), shelf[key])
    if not broken and not chosen:
        problems += [*_list_problems(kb), *_survey_problems(kb), *_category_problems(kb), *_gpu_problems(kb)]
        problems += [*_combination_problems(kb), *_unmerged_problems(kb), *_condition_problems(kb)]
    return sorted(set(problems))


def _real(path: str | Path) -> str:
    """Return a path without symbolic links, also of a file that does not exist. Raises DataError for no path."""
    try:
        return os.path.realpath(os.fspath(path) + "")  # no bytes
    except (TypeError, ValueError):
        raise DataError([Problem("check", 0, "", shown(path), "the path of a file")]) from None


def _unreadable(kb: Records[Any]) -> list[Problem]:
    """Return the errors that prevent reading the taxonomy, the bibliography, the golden vectors or published runs.

    Nothing else can be checked before.
    """
    problems: list[Problem] = []
    shared = (lambda: kb.taxonomy, lambda: kb.references, lambda: kb.gpus, lambda: kb.combinations, lambda: kb.evidence)
    for read in (*shared, lambda: kb.results, lambda: kb.unmerged, lambda: recordings(kb.root)):
        try:
            read()
        except DataError as error:
            problems += error.problems
    return problems or kb.references.problems()


def _unsound(kb: Records[Any], broken: set[str]) -> dict[str, str]:
    """Return the methods whose includes do not work, each with the rule that says why; "" if another entry is why."""
    from .graph import included, shortest_cycles

    graph = included(kb)
    found = dict.fromkeys(broken, "")
    for cycle in shortest_cycles(graph):
        found |= dict.fromkeys(cycle, "acyclic")
    found |= {key: "includes" for key in kb if key not in found and any(one not in kb for one in graph.successors(key))}
    todo = list(found)
    for key in todo:  # grows
        above = [one for one in (graph.predecessors(key) if key in graph else ()) if one not in found]
        found |= dict.fromkeys(above, "")
        todo += above
    return found


def _list_problems(kb: Records[Any]) -> Iterator[Problem]:
    for name, stored in kb.taxonomy.lists.items():
        try:
            if not in_list(kb, name).ids:
                yield Problem(
                    "taxonomy/lists.yaml", 0, name, "no method", "a condition that some method meets", "", "lists"
                )
        except PeftonomyError as error:
            yield Problem("taxonomy/lists.yaml", 0, name, stored.where, str(error).splitlines()[0], "", "lists")


def _survey_problems(kb: Records[Any]) -> Iterator[Problem]:
    file, categories = "taxonomy/surveys.yaml", kb.taxonomy.categories
    known = set(kb)
    for name, survey in kb.taxonomy.surveys.items():
        if survey.source.partition("#")[0] not in kb.references:
            yield Problem(file, 0, name, survey.source, "a key of taxonomy/references.bib", "", "surveys")
        for path in (path for root in survey.tree for path in root.walk()):
            node = path[-1]
            where = ".".join((name, *(n.id for n in path)))
            for method in node.methods:
                if method not in known:
                    yield Problem(
                        file, 0, where, method, "a method", closest(method, known), "surveys"
                    )
            for category in (*node.maps_to, *filter(None, [node.like])):
                if category not in categories:
                    hint = closest(category, categories)
                    yield Problem(file, 0, where, category, "a category of the tree", hint, "surveys")


def _category_problems(kb: Records[Any]) -> Iterator[Problem]:
    """Check that the tree follows the ids, and that each category has the methods that its source files there."""
    file = "taxonomy/categories.yaml"
    seen: set[str] = set()
    nodes = [(node, "") for node in kb.taxonomy.tree]
    for node, above in nodes:  # grows
        nodes += [(child, node.id) for child in node.children]
        if node.id.rpartition(".")[0] != above:
            expected = f"{above}. and a word, as it is below {above}" if above else "one word, as it is below nothing"
            yield Problem(file, 0, node.id, node.id, expected, "", "categories")
        if node.id in seen:
            yield Problem(file, 0, node.id, "the id again", "each id once", "", "categories")
        seen.add(node.id)
    placed = {m.id: m.category for m in kb.values()}
    for key, node in kb.taxonomy.categories.items():
        for method in node.methods:
            if placed.get(method) != key:
                found = placed.get(method, "no method")
                yield Problem(file, 0, f"{key}.{method}", found, key, "", "categories")


def _combination_problems(kb: Records[Any]) -> Iterator[Problem]:
    """Check that the library, the methods, the ways and the sources of combinations exist."""
    found, path = kb.combinations, kb.root / "taxonomy" / "combinations.yaml"
    if found is None:
        return
    document = load_yaml(path, kb.shown(path))
    named: list[tuple[Keys, str, str, Iterable[str]]] = [(("library",), found.library, "a library", kb.libraries)]
    named += [(keys, method, "a method", kb) for keys, method in found.methods()]
    named += [(("sums", n, "ways", w), w, "one of the ways", found.ways) for n, o in found.sums.items() for w in o.ways]
    cited = "a key of taxonomy/references.bib"
    named += [(keys, source.partition("#")[0], cited, kb.references.lines) for keys, source in found.citations()]
    for keys, name, expected, known in named:
        if name not in known:
            yield Problem(
                document.path, document.line(keys), dotted(keys), name, expected, closest(name, known), "combinations"
            )


def _unmerged_problems(kb: Records[Any]) -> Iterator[Problem]:
    """Check that the library, the methods and the sources of unmerged adapters exist."""
    found, path = kb.unmerged, kb.root / "taxonomy" / "unmerged.yaml"
    if found is None:
        return
    document, cited = load_yaml(path, kb.shown(path)), "a key of taxonomy/references.bib"
    named: list[tuple[Keys, str, str, Iterable[str]]] = [(("library",), found.library, "a library", kb.libraries)]
    named += [(("launches", method), method, "a method", kb) for method in found.launches]
    named += [(keys, source.partition("#")[0], cited, kb.references.lines) for keys, source in found.citations()]
    for keys, name, expected, known in named:
        if name not in known:
            hint = closest(name, known)
            yield Problem(document.path, document.line(keys), dotted(keys), name, expected, hint, "unmerged")


def _gpu_problems(kb: Records[Any]) -> Iterator[Problem]:
    """Check that names of GPUs are unique, and that their sources exist."""
    file, seen = kb.shown(kb.root / "taxonomy" / "gpus.yaml"), set[str]()
    for gpu in kb.gpus:
        if gpu.source.partition("#")[0] not in kb.references:
            yield Problem(file, 0, gpu.name, gpu.source, "a key of taxonomy/references.bib", "", "gpus")
        for name in (gpu.name, *gpu.aliases):
            if name.lower() in seen:
                yield Problem(file, 0, gpu.name, f"the name {name} twice", "names of one GPU each", "", "gpus")
            seen.add(name.lower())


def _evidence_problems(kb: Records[Any]) -> Iterator[Problem]:
    """Check the names in the studies, in each published run, and in our own results."""
    path = kb.root / EVIDENCE / "studies.yaml"
    document = load_yaml(path, kb.shown(path)) if kb.studies else None

    def problem(file: str, line: int, where: str, found: str, expected: str, known: Iterable[str] = ()) -> Problem:
        return Problem(file, line, where, found, expected, closest(found, known), "evidence")

    for stray in sorted(path.parent.glob("*.jsonl")):
        if stray.stem not in kb.studies:
            yield problem(kb.shown(stray), 0, "", stray.stem, "a study of studies.yaml", kb.studies)
    for key, study in kb.studies.items():
        known: dict[str, tuple[str | None, str, Iterable[str]]] = {
            "model": (study.model, "a model of the catalogue", kb.models),
            "library": (study.library, "a library", kb.libraries),
            "source": (study.source.partition("#")[0], "a key of taxonomy/references.bib", kb.references),
        }
        for field, (name, expected, names) in known.items():
            if document is not None and name is not None and name not in names:
                line = document.line((key, field))
                yield problem(document.path, line, f"{key}.{field}", name, expected, names)
        file = kb.shown(path.with_name(f"{key}.jsonl"))
        for number, run in enumerate((run for run in kb.evidence if run.study == key), start=1):
            if run.method not in kb:
                yield problem(file, number, "method", run.method, "a method", kb)
            if run.metric not in study.metrics:
                expected = f"a metric of {key}: {', '.join(study.metrics)}"
                yield problem(file, number, "metric", run.metric, expected, study.metrics)
            if run.source.partition("#")[0] not in kb.references:
                yield problem(file, number, "source", run.source, "a key of taxonomy/references.bib", kb.references)
    for key, results in kb.results.items():
        for one in results.results:
            if one.method is not None and one.method not in kb:
                file = kb.shown(kb.root / STUDIES / f"{key}.json")
                yield problem(file, 0, f"results.{one.arm}.method", one.method, "a method", kb)


def _study_problems(kb: Records[Any], wanted: Callable[[Path], bool]) -> Iterator[Problem]:
    """Check our own studies, the methods that they name, and their finished runs."""
    for path in sorted((kb.root / STUDIES).glob("*.yaml")):
        file, runs = kb.shown(path), path.with_suffix(".jsonl")
        if not wanted(path) and not wanted(runs):
            continue
        try:
            design = load_design(path, file)
            document = load_yaml(path, file)
            for keys, method in design.named():
                if method not in kb:
                    hint = closest(method, kb)
                    yield Problem(file, document.line(keys), dotted(keys), method, "a method", hint, "studies")
            for number, run in enumerate(read_runs(runs, name=kb.shown(runs)).values() if runs.exists() else (), 1):
                if (asked := run.asked.method) is not None and asked not in kb:
                    hint = closest(asked, kb)
                    yield Problem(kb.shown(runs), number, "asked.method", asked, "a method", hint, "studies")
        except DataError as error:
            yield from error.problems


def _condition_problems(kb: Records[Any]) -> Iterator[Problem]:
    """Check the conditions by which our own studies select methods."""
    for path in sorted((kb.root / STUDIES).glob("*.yaml")):
        try:
            select(kb, load_design(path).where or "")
        except DataError:  # reported already
            continue
        except UsageError as error:
            line = load_yaml(path, kb.shown(path)).line(("where",))
            yield Problem(kb.shown(path), line, "where", str(error), "a condition on methods", "", "studies")


def _reference_problems(kb: Records[Any], reference: Any) -> Iterator[Problem]:
    from ..files.bibliography import READ

    name = kb.references.name
    for needed in ("title", "author", "year"):
        if not reference.fields.get(needed):
            yield Problem(name, reference.line, reference.key, f"no {needed}", "title, author and year", "", "bibtex")
    for field, text in reference.fields.items():
        if "TODO" in text:
            found = f"{field} = {text}"
            yield Problem(name, reference.line, reference.key, found, "the finished text", "", "finished")
    if not reference.url:
        yield Problem(name, reference.line, reference.key, "no doi, eprint or https url", "one of them", "", "bibtex")
    if any(word.strip() not in READ for word in reference.read.split(",")):
        yield Problem(
            name, reference.line, reference.key, f"read = {reference.read}", f"one of {', '.join(READ)}", "", "bibtex"
        )


def _record_problems(kb: Records[Any], path: Path, record: Any) -> Iterator[Problem]:
    """Check the sources and names in a family, a model, a library or a trainer."""

    def problem(keys: Keys, found: str, expected: str, known: Iterable[str], name: str) -> Problem:
        document = load_yaml(path, kb.shown(path))
        return Problem(document.path, document.line(keys), dotted(keys), found, expected, closest(found, known), name)

    own = isinstance(record, Library | Trainer | Engine)
    cited = record.citations() if own else [(("source",), record.source)]
    for place, citation in cited:
        if citation.partition("#")[0] not in kb.references:
            yield problem(place, citation, "a key of taxonomy/references.bib", kb.references.lines, "cited")
    roles = kb.taxonomy.roles
    for keys, spec in record.specs() if isinstance(record, Family) else ():
        for role in (spec.role, *getattr(spec, "slices", {})):
            if role not in roles:
                yield problem((*keys, "role"), role, "a role of taxonomy/roles.yaml", roles, "roles")


def _support_problems(kb: Records[Any], path: Path, record: Library | Trainer | Engine) -> Iterator[Problem]:
    """Check that the methods, hyperparameters and others that a library, a trainer or an engine names exist."""
    document = load_yaml(path, kb.shown(path))
    if isinstance(record, Library):
        unknown = _unknown_in_library(kb, record)
    elif isinstance(record, Trainer):
        unknown = _unknown_in_trainer(kb, record)
    else:
        unknown = _unknown_in_engine(kb, record)
    for keys, found, expected, known in unknown:
        yield Problem(
            document.path, document.line(keys), dotted(keys), found, expected, closest(found, known), "support"
        )


Unknown = tuple[Keys, str, str, Iterable[str]]
"""A name that does not exist: its place, the name, what was expected, and the known names."""


def _unknown_in_library(kb: Records[Any], library: Library) -> Iterator[Unknown]:
    """Yield the methods, arguments and names in formulas that do not exist."""
    yield from ((("support", m), m, "a method", kb) for m in library.support if m not in kb)
    for kind, build in library.builds.items():
        if kind not in library.types:
            yield ("builds", kind), kind, "a type of the library", library.types
            continue
        arguments, everywhere = library.defaults(kind), set().union(*LOCAL.values())
        for keys, argument in build.arguments():
            if argument not in arguments:
                yield ("builds", kind, *keys), argument, f"an argument of {kind}", arguments
        for keys, formula, per in build.formulas():
            known = known_names(library, kind, per) | (everywhere if keys[0] == "let" else set())
            for name in sorted(formula.names - known):
                yield ("builds", kind, *keys), name, "a name that formulas may use here", known


def _unknown_in_engine(kb: Records[Any], engine: Engine) -> Iterator[Unknown]:
    """Yield the methods, families, roles, types and types of numbers in an engine's file that do not exist."""
    yield from ((("methods", m), m, "a method", kb) for m in engine.methods if m not in kb)
    for name, family in engine.families.items():
        if name not in kb.families:
            yield ("families", name), name, "a model_type", kb.families
        for role in family.layers:
            if role not in kb.taxonomy.roles:
                yield ("families", name, "layers", role), role, "a role of taxonomy/roles.yaml", kb.taxonomy.roles
    models = {model.family.model_type: model for model in kb.models.values()}
    ask = Ask(1, engine.ranks[0] if engine.ranks else 1)
    for name in sorted(models.keys() & engine.families.keys()):
        known = sizes(models[name].inventory("none").dims, ask) | {"d_in": 1, "d_out": 1}
        for keys, formula in engine.formulas():
            try:
                value = formula(known)
                if isinstance(value, str) or value != int(value):
                    yield keys, f"{formula.source} = {shown(value)}", f"a whole number on {models[name].id}", ()
            except FormulaError as error:
                yield keys, formula.source, f"a value on {models[name].id} ({error.message})", ()
    types = {kind for library in kb.libraries.values() for kind in library.types}
    yield from ((("saved_as",), kind, "a type of a library", types) for kind in engine.saved_as if kind not in types)
    yield from ((("dtypes",), name, "a dtype", BYTES) for name in engine.dtypes if name not in BYTES)


def _unknown_in_trainer(kb: Records[Any], trainer: Trainer) -> Iterator[Unknown]:
    """Yield the methods, hyperparameters and libraries in a trainer's file that do not exist."""
    from ..libraries.export import misplaced

    for method in trainer.methods:
        if method not in kb:
            yield ("methods", method), method, "a method", kb
            continue
        try:
            offer, settings = trainer.offer(method), kb[method].entry.hyperparameters
        except DataError:  # reported in the method's own file
            continue
        computed = [name for formula in offer.write.values() for name in formula.names]
        named = [*offer.keys, *offer.fixed, *(offer.scale.names if offer.scale else ()), *computed]
        for name in named:
            if name not in settings:
                yield ("methods", method), name, f"a hyperparameter of {method}", settings
        recipe = trainer.recipe
        said = {**(recipe.keys if recipe else {}), **offer.set, **{key.key: None for key in offer.keys.values()}}
        said |= dict.fromkeys((*offer.write, *([recipe.modules] if recipe else ())))
        for key in misplaced(said.items()):
            yield ("methods", method), key, f"a mapping as the value of {key.rpartition('.')[0]}", ()
    if trainer.through is not None and trainer.through not in kb.libraries:
        yield ("through",), trainer.through, "a library", kb.libraries
    if trainer.recipe is not None and trainer.through is None:
        yield ("recipe",), "a recipe without a library", "the field through", ()


NEEDED = ("formula-names", "includes")
"""The rules without which nothing can be counted."""


def _entry_problems(method: MethodRecord, unsound: dict[str, str]) -> Iterator[Problem]:
    document = method.document
    why = unsound.get(method.id)
    if why == "":
        needs = {include.method for include in method.entry.includes}
        missing = ", ".join(sorted(needs & unsound.keys()))
        yield Problem(
            document.path, document.line(("includes",)), "includes", f"{missing}, which has problems", "sound entries"
        )
        return
    for one in RULES if why is None else [one for one in RULES if one.name == why]:
        try:
            findings = list(one.check(method))
        except PeftonomyError as error:
            if unsound:
                continue  # the rule failed on one of those, which are reported in their own files
            findings = [Finding((), str(error).splitlines()[0], "data that this rule can check")]
        for finding in findings:
            yield _problem(method, one.name, finding)
        if findings and one.name in NEEDED:
            return  # nothing can be counted, and the other rules would only repeat this problem


def _problem(method: MethodRecord, name: str, finding: Finding) -> Problem:
    document = method.document
    line = document.line(finding.keys)
    return Problem(document.path, line, dotted(finding.keys), finding.found, finding.expected, finding.hint, name)

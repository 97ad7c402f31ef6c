"""Commands that list data: methods, models, lists, categories, deviations, published runs, citations."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import UnknownName, UsageError
from ..files import output as out
from .options import (
    Assignment,
    Whole,
    cli,
    completes,
    json_option,
    knowledge,
    method_argument,
    methods_argument,
    once,
    section,
)

if TYPE_CHECKING:
    from ..knowledge.base import KnowledgeBase, Method

GROUPS = (
    "An arm cannot be told apart from the best of its group. The order of groups holds for this model, this task and "
    "this number of steps."
)
"""The meaning of the groups of a study."""


@cli.command()
@click.option("--category", metavar="C", shell_complete=completes("categories"), help="Only methods of this category.")
@click.option(
    "--where", metavar="PREDICATE", default="", help="Only methods that match: merge == exact and year >= 2023"
)
@click.option(
    "--model",
    metavar="MODEL",
    shell_complete=completes("models"),
    help="Let --where also use trained, stored, stored_bytes, served and percent, counted on this model.",
)
@click.option("--in", "place", metavar="LIBRARY", help="Only methods that this library or trainer has.")
@click.option("--list", "stored", metavar="LIST", help="Only methods of a saved query; `peftonomy lists` prints them.")
@json_option
def methods(
    category: str | None, where: str, model: str | None, place: str | None, stored: str | None, as_json: bool
) -> None:
    """List the methods."""
    from ..knowledge.query import select
    from ..knowledge.support import provider

    kb = knowledge()
    found = select(kb, where, category, model)
    if place is not None:
        there = provider(kb, place).id
        found = found.only(m.id for m in found.methods if there in kb.facts[m.id]["library"])
    if stored is not None:
        found = found.only(kb.stored_list(stored).ids)
    if as_json:
        return out.print_json(list(found))
    rows = [(m.id, m.name, str(m.year), m.category, m.entry.summary) for m in found.methods]
    return out.print_table(("id", "name", "year", "category", "summary"), rows)


@cli.command()
@method_argument
@json_option
def show(method: str, as_json: bool) -> None:
    """Show one method's entry, and how each fact is known."""
    from ..knowledge.evidence import facts, tally
    from .equation import equation

    found = knowledge()[method]
    entry = found.entry
    if as_json:
        return out.print_json(found.record())
    known = facts(found)
    click.echo(f"{entry.name}: {entry.full_name} ({entry.year}), {entry.category}\n\n{entry.summary}\n")
    click.echo(f"{equation(entry.update)}\n{entry.where}\n")
    level = {fact.keys: fact.level.replace("_", "-") for fact in known}
    settings = [
        (n, h.type, str(h.default), h.domain.source if h.domain else "",
         level.get(("hyperparameters", n, "default"), ""), h.source, h.meaning)
        for n, h in entry.hyperparameters.items()
    ]  # fmt: skip
    section(("hyperparameter", "type", "default", "domain", "known", "source", "meaning"), settings)
    tensors = [
        (n, t.per, t.declared, t.init, level.get(("tensors", n, "init"), ""), word(t.trained),
         ", ".join(s.as_ for s in t.stored), t.served)
        for n, t in entry.tensors.items()
    ]  # fmt: skip
    section(("tensor", "per", "shape", "init", "known", "trained", "stored", "served"), tensors)
    section(("includes", "as"), [(i.method, i.as_) for i in entry.includes])
    relations = [(r.type, r.target, " ".join(r.note.split())) for r in entry.relations]
    section(("relation", "to", "why"), relations)
    section(
        ("learning rate", "used by", "model", "task", "source"),
        [
            (", ".join(f"{v:g}" for v in row["values"]), row["by"], row["model"],
             row["task"] + f" ({row['note']})" * bool(row["note"]), row["source"])
            for row in found.learning_rates
        ],
    )  # fmt: skip
    counts = ", ".join(f"{n} {name.replace('_', '-')}" for name, n in tally(known).items())
    return click.echo(f"source: {entry.source}\nfacts: {counts}")


def word(value: Any) -> str:
    """Return whether a tensor is trained as a word, or the formula for the number of its trained entries."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(getattr(getattr(value, "across", value), "source", value))


@cli.command()
@click.argument("method", metavar="[METHOD]", required=False, shell_complete=completes("methods"))
@click.option("--aspect", "aspects", metavar="NAME=VALUE", type=Assignment(), multiple=True,
              help="Describe a mechanism instead of naming a method: acts_on=weight, freezes=random; repeatable, with "
                   "several values separated by commas.")
@click.option("-n", metavar="N", type=Whole(), default=5, show_default=True, help="The number of methods.")
@click.option("--aspects", "listed", is_flag=True, help="List the aspects with their values.")
@json_option
def nearest(
    method: str | None, aspects: tuple[tuple[str, str], ...], n: int, listed: bool, as_json: bool
) -> None:
    """Find the methods nearest to a method or to a described mechanism, and say how they differ."""
    from ..knowledge.mechanism import aspects as known

    kb = knowledge()
    if listed:
        rows = [(k, f.name, ", ".join(f.values), f.meaning) for k, f in known(kb).items()]
        if as_json:
            return out.print_json({k: f.model_dump(mode="json") for k, f in known(kb).items()})
        return out.print_table(("aspect", "name", "values", "meaning"), rows)
    described = once(aspects, "--aspect")
    if method is not None and described:
        raise UsageError("METHOD and --aspect exclude each other; give one of them")
    if method is None and not described:
        raise UsageError("give a METHOD, or describe a mechanism: --aspect acts_on=weight; --aspects lists them")
    found = kb.nearest(method, n=n, **described)
    if as_json:
        return out.print_json(list(found))
    for one in found.found:
        click.echo(f"{one.method} ({one.year}), {one.likeness:.0%} alike")
        click.echo("".join(f"  {d.sentence}\n" for d in one.differences) or "  No difference.\n", nl=False)
    return None


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the models of the catalogue."""
    known = knowledge().models.values()
    if as_json:
        return out.print_json([
            {"id": m.id, "name": m.name, "family": m.family.model_type, "parameters": m.parameters,
             "tasks": list(m.tasks), "default_task": m.default_task, "source": m.source}
            for m in known
        ])  # fmt: skip
    rows = [(m.id, m.name, m.family.model_type, out.number(m.parameters), ", ".join(m.tasks)) for m in known]
    return out.print_table(("id", "name", "family", "parameters", "tasks"), rows, right=["parameters"])


@cli.command()
@json_option
def lists(as_json: bool) -> None:
    """List the saved queries, with the number of methods that match each."""
    kb = knowledge()
    known = [(name, stored, len(kb.stored_list(name))) for name, stored in kb.taxonomy.lists.items()]
    if as_json:
        return out.print_json([{"id": n, **s.model_dump(exclude_none=True), "methods": k} for n, s, k in known])
    rows = [(n, str(k), s.where + (f"  (on {s.model})" if s.model else ""), s.meaning) for n, s, k in known]
    return out.print_table(("id", "methods", "where", "meaning"), rows, right=["methods"])


@cli.command()
@json_option
def categories(as_json: bool) -> None:
    """List the tree of categories, with the number of methods in each."""
    kb = knowledge()
    placed = [m.category for m in kb.values()]
    nodes = [
        (node, sum(f"{category}.".startswith(f"{node.id}.") for category in placed))
        for node in kb.taxonomy.categories.values()
    ]
    if as_json:
        return out.print_json([n.model_dump(exclude={"children"}) | {"methods": k} for n, k in nodes])
    rows = [("  " * n.id.count(".") + n.id, n.name, str(k), n.definition) for n, k in nodes]
    return out.print_table(("id", "name", "methods", "definition"), rows, right=["methods"])


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@json_option
def deviations(methods: tuple[str, ...], as_json: bool) -> None:
    """List the differences between libraries and methods."""
    kb = knowledge()
    wanted = {kb[method].id for method in methods} or set(kb)
    rows = [row for row in kb.deviations if row["method"] in wanted]
    if as_json:
        return out.print_json(rows)
    columns = ("method", "library", "against", "about", "effect", "note")
    return out.print_table(columns, [[row[name] for name in columns] for row in rows])


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@click.option("--in", "place", metavar="LIBRARY", help="Only in this library or trainer.")
@json_option
def support(methods: tuple[str, ...], place: str | None, as_json: bool) -> None:
    """List which libraries and trainers have a method, since when, and on which base models.

    A dash stands for an unknown fact.
    """
    from ..knowledge.support import provider, records
    from ..schema.support import ASPECTS

    kb = knowledge()
    wanted = {kb[method].id for method in methods} or set(kb)
    there = None if place is None else provider(kb, place).id
    found = [r for r in records(kb) if r["method"] in wanted and there in (None, r["in"])]
    if as_json:
        return out.print_json(found)
    rows = [
        (r["method"], r["in"], r["since"] or "-", "fails" if r["fails"] else "has it",
         *(one["works"] if (one := r["base"][name]) else "-" for name in ASPECTS), r["name"],
         ", ".join(f"{ours}={key['key']}" for ours, key in r["keys"].items()))
        for r in found
    ]  # fmt: skip
    return out.print_table(("method", "in", "since", "state", *ASPECTS, "name", "keys"), rows)


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@click.option("--study", metavar="STUDY", shell_complete=completes("studies"), help="Only the runs of this study.")
@click.option("--ours", is_flag=True, help="List the results of our own studies instead. See `peftonomy bench`.")
@json_option
def evidence(methods: tuple[str, ...], study: str | None, ours: bool, as_json: bool) -> None:
    """List published training runs of methods: quality, memory, time and size."""
    kb = knowledge()
    wanted = {kb[method].id for method in methods} or set(kb)
    if ours:
        return _ours(kb, wanted, study, as_json)
    if study is not None and study not in kb.studies:
        raise UnknownName("study", study, kb.studies)
    runs = [run for run in kb.evidence if run.method in wanted and study in (None, run.study)]
    if as_json:
        return out.print_json([run.model_dump(mode="json") for run in runs])
    columns = ("study", "run", "method", "metric", "value", "trained", "peak memory", "time", "file")
    rows = [
        (run.study, run.run, run.method, run.metric, f"{run.value:.4g}", out.number(run.trained),
         "" if run.peak_bytes is None else out.binary_text(run.peak_bytes),
         "" if run.seconds is None else f"{run.seconds:,.0f} s",
         "" if run.file_bytes is None else out.bytes_text(run.file_bytes))
        for run in runs
    ]  # fmt: skip
    out.print_table(columns, rows, right=columns[4:])
    for key in dict.fromkeys(run.study for run in runs):
        click.echo(f"\n{key}: {kb.studies[key].setup} {kb.studies[key].limits}")
    return None


def _ours(kb: KnowledgeBase, wanted: Container[str], study: str | None, as_json: bool) -> None:
    """Print the results of our own studies, with 95 % intervals and groups."""
    from ..studies.own import arms

    every = kb.results
    if study is not None and study not in every:
        raise UnknownName("study", study, every)
    asked = [one for name, one in every.items() if study in (None, name)]
    found = [
        (one, result) for one in asked for result in one.results
        if result.method in wanted and result.control is None
    ]  # fmt: skip
    if as_json:
        return out.print_json([one.told(result) for one, result in found])
    columns = ("study", "group", "arm", "metric", "value", "95 %", "seeds", "rate", "trained", "ms/step", "peak",
               "predicted")  # fmt: skip
    rows = [
        (one.study, f"{row.group} of {one.groups}", row.arm, one.metric, f"{row.value:.3f}",
         f"{row.low:.3f}-{row.high:.3f}", str(len(row.seeds)), out.number(row.learning_rate), out.number(row.trained),
         "" if row.step_seconds is None else f"{1000 * row.step_seconds:.0f}",
         *("" if size is None else out.binary_text(size) for size in (row.peak_bytes, row.predicted_bytes)))
        for one, row in found
    ]  # fmt: skip
    out.print_table(columns, rows, right=[c for c in columns[1:] if c not in ("arm", "metric", "95 %")])
    for one in asked:
        click.echo(f"\n{one.study}: {one.about} {len(one.results):,} of {arms(kb, one):,} arms so far. {GROUPS}")
    for command in dict.fromkeys(one.command(row) for one, row in found):
        click.echo(f"again: {command}")
    return None


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@json_option
def combine(methods: tuple[str, ...], as_json: bool) -> None:
    """List which weighted sums of adapters are exact, and which adapters convert to LoRA at which rank."""
    kb = knowledge()
    wanted = {kb[method].id for method in methods} or set(kb)
    found = kb.combinations
    if found is None:
        raise UsageError(f"{kb.root}: no taxonomy/combinations.yaml")
    sums = {n: one for n, one in found.sums.items() if wanted & {*one.methods}}
    conversions = {n: one for n, one in found.conversions.items() if one.method in wanted}
    if as_json:
        chosen = found.model_copy(update={"sums": sums, "conversions": conversions})
        return out.print_json(chosen.model_dump(mode="json", exclude_none=True))
    rows = [("sum", one.name, *(one.ways.get(way, "-") for way in found.ways), "", one.note) for one in sums.values()]
    blank = [""] * len(found.ways)
    rows += [
        ("to lora", one.method, *([one.result, *blank[1:]]), one.rank.source if one.rank else "", one.note or "")
        for one in conversions.values()
    ]
    return out.print_table(("kind", "adapters", *found.ways, "rank", "note"), rows)


@cli.command()
@methods_argument
@click.option(
    "--all", "everything", is_flag=True, help="Print everything that the entries cite, not only the methods' papers."
)
@json_option
def cite(methods: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Print the BibTeX records to cite for methods."""
    kb = knowledge()
    keys = dict.fromkeys(key for method in methods for key in cited(kb[method], everything))
    found = [kb.references[key] for key in keys]
    if as_json:
        shown = ("key", "citation", "url", "bibtex")
        return out.print_json([{name: getattr(r, name) for name in shown} for r in found])
    return out.print_exactly("\n\n".join(r.bibtex for r in found))


def cited(method: Method, everything: bool) -> Iterator[str]:
    """Yield the BibTeX keys that an entry cites: its paper first, then, if requested, all others."""
    yield method.entry.source.partition("#")[0]
    if everything:
        yield from sorted(key for key in method.entry.cited if key in method.kb.references)

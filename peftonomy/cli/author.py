"""Commands for authors of entries: check, new, verify."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import UnknownName, UsageError
from ..files import output as out
from .options import FilePath, Whole, cli, completes, count, json_option, knowledge, section


@cli.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=FilePath(exists=True, dir_okay=False))
@json_option
def check(files: tuple[str, ...], as_json: bool) -> int:
    """Validate all files, or only those named. The exit code is 1 if there is a problem.

    With the site extra, formulas for readers are validated too.
    """
    from .. import site
    from ..knowledge.check import check as problems_of

    kb = knowledge()
    with out.progress("checking"):
        problems = problems_of(kb, files)
        chosen = {Path(file).resolve() for file in files}
        named = [key for key in kb if not chosen or kb.methods.path(key).resolve() in chosen]
        problems = sorted([*problems, *site.problems(kb, named)])
    if as_json:
        out.print_json([dataclasses.asdict(p) for p in problems])
    else:
        for problem in problems:
            click.echo(str(problem))
        where = f" in {count(len({p.file for p in problems}), 'file')}" if problems else ""
        everything = f"{count(len(kb), 'method')}, {count(len(kb.models), 'model')}"
        looked_at = count(len(files), "file") if files else everything
        click.echo(f"{looked_at}: {count(len(problems), 'problem')}{where}")
    return int(bool(problems))


@cli.command()
@click.argument("id", metavar="ID")
@click.option("--category", metavar="C", shell_complete=completes("categories"), help="Its category.")
@click.option("--year", metavar="YEAR", type=Whole(1990, 2100), help="Year of its first paper.")
@click.option("--source", metavar="KEY", help="BibTeX key of its paper; a stub is added if there is no such record.")
def new(id: str, category: str | None, year: int | None, source: str | None) -> None:  # noqa: A002
    """Write skeletons of a method's entry, module and BibTeX record."""
    from ..knowledge.scaffold import scaffold

    kb = knowledge()
    files = scaffold(kb, id, category=category, year=year, source=source)
    out.write_atomically(files)
    click.echo("\n".join(f"wrote {kb.shown(path)}" for path in files))
    click.echo(f"next: fill them in until these pass: peftonomy check methods/{id}.yaml, peftonomy verify {id}")


@cli.command()
@click.argument("library", metavar="LIBRARY")
@click.option(
    "--python", metavar="FILE", type=FilePath(exists=True, dir_okay=False),
    help="The Python of the library's environment. Default: the one that runs this command.",
)  # fmt: skip
@click.option("--write", is_flag=True, help="Write the installed types, arguments and defaults into the file.")
@json_option
def drift(library: str, python: str | None, write: bool, as_json: bool) -> int:
    """Compare a library's file with the installed library.

    The exit code is 1 if they differ, also after --write.
    """
    from ..libraries.drift import changes, installed, rewritten
    from ..libraries.export import library_called

    kb = knowledge()
    record = library_called(kb.libraries, library)
    with out.progress(f"introspecting {record.package}"):
        found = installed(record, python)
    differences = sorted(changes(record, found), key=lambda one: (one.type, one.what, one.name))
    path = kb.libraries.path(record.id)
    if write and differences:
        out.write_atomically({path: rewritten(record, path.read_text(encoding="utf-8"), found)})
    if as_json:
        out.print_json([one.to_dict() for one in differences])
        return int(bool(differences))
    rows = [(one.what, one.type, one.name, one.ours, one.theirs) for one in differences]
    section(("what", "type", "name", "file", f"{record.package} {found['version']}"), rows)
    click.echo(f"{record.package} {found['version']}: {count(len(differences), 'difference')} from {kb.shown(path)}")
    if write and differences:
        click.echo(f"wrote {kb.shown(path)}")
    return int(bool(differences))


@cli.command()
@click.argument("methods", metavar="[METHOD]...", nargs=-1, shell_complete=completes("methods"))
@click.option(
    "--implementation", metavar="MODULE:FUNCTION", help="Verify this implementation of one method instead of ours."
)
@click.option(
    "--family", "families", metavar="F", multiple=True, help="Only on the small model of this family; repeatable."
)
@click.option(
    "--junit",
    metavar="FILE",
    help="Write a JUnit XML report to this file.",
    type=FilePath(dir_okay=False, path_type=Path),
)
@json_option
def verify(
    methods: tuple[str, ...], implementation: str | None, families: tuple[str, ...], junit: Path | None, as_json: bool
) -> int:
    """Verify implementations against entries and golden vectors. Needs the torch extra.

    The exit code is 1 if there is a problem.
    """
    from importlib.util import find_spec

    kb = knowledge()
    wanted = [kb[method].id for method in methods] or list(kb)
    if implementation is not None and len(methods) != 1:
        raise UsageError("--implementation verifies one method: name it")
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        raise UsageError(f"verify needs {' and '.join(missing)}: pip install 'peftonomy[torch]'")
    with out.progress("loading torch"):
        from ..conformance import suite, tiny
    if kb.root != suite.KB.root:
        raise UsageError(f"verify runs the entries in {suite.KB.root} and cannot use those of --root")
    if unknown := [name for name in families if name not in tiny.every()]:
        raise UnknownName("small model", unknown[0], tiny.every())
    sys.path.insert(0, "")          # as `python -m` does, so that a module in the working directory is found
    module = None if implementation is None else suite.implementation(implementation)
    results: list[suite.Result] = []
    for done, method in enumerate(wanted, 1):
        with out.progress(f"verifying {method} ({done} of {len(wanted)})"):
            found = list(suite.run(suite.cases(method, module, families or None)))
        results += found
        if not as_json:
            _verified(method, found)
    if junit is not None:
        out.write_atomically({junit: suite.junit(results)})
    if as_json:
        out.print_json([result.to_dict() for result in results])
    return int(not all(result.passed for result in results))


def _verified(method: str, results: Sequence[Any]) -> None:
    """Print the problems of one method, each once with its cases, and a summary line."""
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for problem in result.problems:
            found.setdefault((result.case.what, problem), []).append(result.case.where)
    for (what, problem), where in found.items():
        more = f" and {count(len(where) - 1, 'case')} more" if len(where) > 1 else ""
        click.echo(f"{method}: {what}: {problem} ({where[0]}){more}")
    failed = sum(not result.passed for result in results)
    seconds = sum(result.seconds for result in results)
    click.echo(f"{method}: {len(results) - failed} of {count(len(results), 'check')} passed in {seconds:.1f} s")

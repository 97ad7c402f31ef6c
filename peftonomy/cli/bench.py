"""Commands of studies: `bench run`, `bench status` and `bench report`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..files import output as out
from .options import F, FilePath, Whole, cli, completes, count, json_option, knowledge, section

if TYPE_CHECKING:
    from ..schema.runs import Record
    from ..studies.jobs import Study

study_argument = click.argument("study", metavar="STUDY", type=FilePath(exists=True, dir_okay=False, path_type=Path))
NEAR = 0.03
"""The difference of a measured peak from the predicted one that counts as near, as a share."""
SHOWN = 20
"""The number of unfinished arms that are listed."""


def runs_option(command: F) -> F:
    """Add the option that names the file of runs."""
    return click.option(
        "--runs", "file", metavar="FILE", type=FilePath(dir_okay=False, path_type=Path),
        help="The file of runs. Default: beside the study, with the ending .jsonl.",
    )(command)  # fmt: skip


def only_option(command: F) -> F:
    """Add the option that selects methods."""
    return click.option("--method", "only", metavar="METHOD", multiple=True, shell_complete=completes("methods"),
                        help="Only this method; repeatable.")(command)  # fmt: skip


@cli.group()
def bench() -> None:
    """Compare methods by training them under one protocol. Needs the bench extra."""


@bench.command()
@study_argument
@click.option("--out", "file", metavar="FILE", type=FilePath(dir_okay=False, path_type=Path),
              help="Append the runs to this file. Default: beside the study, with the ending .jsonl.")  # fmt: skip
@click.option("--jobs", metavar="N", type=Whole(1, 4096), help="Runs at a time. Default: one for each core.")
@click.option("--limit", metavar="N", type=Whole(1, 10**9), help="Stop after this many runs.")
@click.option("--address", metavar="ADDRESS",
              help="Run on a Ray cluster: auto joins the one that is running, local starts one.")  # fmt: skip
@only_option
def run(
    study: Path, file: Path | None, jobs: int | None, limit: int | None, address: str | None, only: tuple[str, ...]
) -> None:
    """Run what a study still lacks.

    Each run is one line of the file, written when the run ends. Run the command again after an interruption: it
    continues where it stopped, and no run is repeated.
    """
    _needed("torch", "transformers", "scipy", "filelock")
    from ..studies.records import Runs
    from ..studies.runner import progress
    from ..studies.runner import run as run_study

    asked, path = _study(study, only), file or _beside(study)
    with Runs.open(path) as runs, out.bar(f"running {asked.design.name}") as report:
        added = run_study(asked, runs, _workers(jobs, address), limit, report)
        found = progress(asked, runs.done)
    click.echo(f"{count(added, 'run')} added to {path}: {found.ended:,} of {found.expected:,}, {found.failed:,} failed")


@bench.command()
@study_argument
@runs_option
@only_option
@json_option
def status(study: Path, file: Path | None, only: tuple[str, ...], as_json: bool) -> None:
    """Print how far a study is, with an estimate of the time that is left."""
    from dataclasses import asdict

    from ..studies.runner import progress

    done = _done(file or _beside(study))
    asked = _study(study, only, done)
    found = progress(asked, done)
    if as_json:
        return out.print_json(asdict(found) | {"refused": asked.refused})
    rows = [
        (a["arm"], f"{a['ended']} of {a['expected']}", out.number(a["failed"] or None), a["error"] or "")
        for a in found.arms if a["ended"]
    ]  # fmt: skip
    section(("arm", "runs", "failed", "last error"), rows, right=["runs", "failed"])
    section(("cannot run", "because"), list(asked.refused.items()))
    left = f", about {found.left / 3600:.1f} hours left on one core" if found.left else ""
    return click.echo(f"{found.ended:,} of {count(found.expected, 'run')}, {found.failed:,} failed{left}")


@bench.command(name="report")
@study_argument
@runs_option
@click.option("--save", "saving", is_flag=True,
              help="Write the result beside the study, with the ending .json, for the knowledge base.")  # fmt: skip
@json_option
def report_(study: Path, file: Path | None, as_json: bool, saving: bool) -> None:
    """Print the result of a study: the finished arms with intervals, differences from the baselines, and costs.

    Methods of one group cannot be told apart from the best of the group. The command refuses a study whose canary
    fails: training everything must beat training the head alone, which must beat a method with the wrong sign.
    """
    _needed("scipy")
    from ..studies.own import results, save
    from ..studies.report import report

    path = file or _beside(study)
    if saving and path != _beside(study):
        raise UsageError(f"--save: found --runs {path}; expected the runs beside the study, {_beside(study)}")
    if saving and study.suffix == ".json":
        raise UsageError(f"--save: {study} has the name of the results; rename the study to {study.stem}.yaml")
    done = _done(path)
    asked = _study(study, (), done)
    found = report(asked, done, str(path))
    if saving:
        save(results(asked, found, path), study.with_suffix(".json"))
    if as_json:
        return out.print_json(found.to_dict())
    bases = [base for base in asked.design.baselines if any(base in row.against for row in found.rows)]
    columns = ("group", "arm", found.metric, "95 %", *(name for base in bases for name in (f"vs {base}", "p")), "rate",
               "sensitivity", "trained", "ms/step", "peak", "predicted")  # fmt: skip
    rows = []
    for row in found.rows:
        against = [row.against.get(base) for base in bases]
        rows.append((
            str(row.group), row.arm, f"{row.value:.3f}", f"{row.low:.3f}-{row.high:.3f}",
            *(text for one in against for text in ((f"{one.mean:+.3f}", f"{one.p:.2g}") if one else ("", ""))),
            out.number(row.learning_rate), "" if row.sensitivity is None else f"{row.sensitivity:.2f}",
            out.number(row.trained), "" if row.step_seconds is None else f"{1000 * row.step_seconds:.0f}",
            *("" if size is None else out.binary_text(size) for size in (row.peak_bytes, row.predicted_bytes)),
        ))  # fmt: skip
    click.echo(found.about + "\n")
    section(columns, rows, right=[c for c in columns if c not in ("arm", "95 %")])
    section(("failed", "because"), list(found.failures.items()))
    section(("cannot run", "because"), list(found.refused.items()))
    more = ", ..." if len(found.unfinished) > SHOWN else ""
    if found.unfinished:
        click.echo(f"{len(found.unfinished)} not finished: {', '.join(found.unfinished[:SHOWN])}{more}")
    near, both = found.predicted(NEAR)
    click.echo(f"peak memory: measured within {NEAR:.0%} of the prediction for {near} of {both}")
    click.echo(f"one row again: peftonomy bench run {study} --method METHOD --out again.jsonl")
    return None


def _study(path: Path, only: tuple[str, ...], done: Mapping[str, Record] | None = None) -> Study:
    """Read a study. If runs have ended, their line names the examples, which need not be here."""
    from ..schema.design import load_design
    from ..studies.jobs import Study

    last = list(done.values())[-1].asked.task.revision if done else None
    return Study(knowledge(), load_design(path), path.parent, only, last)


def _beside(study: Path) -> Path:
    return study.with_suffix(".jsonl")


def _done(path: Path) -> dict[str, Record]:
    from ..schema.runs import read_runs

    if not path.exists():
        raise UsageError(f"{path}: no such file; `peftonomy bench run` writes it")
    return read_runs(path)


def _needed(*packages: str) -> None:
    """Raise UsageError if a package is missing."""
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        raise UsageError(f"bench needs {' and '.join(missing)}: pip install 'peftonomy[bench]'")


def _workers(jobs: int | None, address: str | None) -> Any:
    if address is not None:
        from ..studies.cluster import Cluster

        return Cluster(address, jobs)
    import os

    from ..studies.pool import Pool

    return Pool(jobs or os.cpu_count() or 1)

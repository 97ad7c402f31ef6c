"""Collect and run the cases that verify an implementation of a method, as in `peftonomy verify`.

A case is one check on one small model, or one golden vector. The implementation is ours (`reference_impls`) or a third
party's. It is a module with a function `apply(model, *, <hyperparameters>, targets)` that changes a `transformers`
model in place and returns it. It may also have `merge`, `combine`, `calibrate`, `finish`, `pack`, `unpack`, `probe`
and `NAMES`.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

from peftonomy import UsageError
from peftonomy.errors import near

from . import checks, golden
from .initial import starts
from .trial import KB, Trial, homes, trials, with_module

__all__ = ["KB", "Case", "Result", "cases", "implementation", "junit", "run"]

OPTIONAL = ("merge", "combine", "calibrate", "finish", "pack", "unpack", "probe", "NAMES")
"""The optional attributes of an implementation, besides `apply`."""


@dataclass(frozen=True)
class Case:
    """One thing to verify. `run` returns the problems that it finds, one line each."""

    method: str
    what: str
    where: str
    run: Callable[[], list[str]]

    def __str__(self) -> str:
        return f"{self.method}: {self.what} ({self.where})"


@dataclass(frozen=True)
class Result:
    """The result of a case: its problems; none if it passed."""

    case: Case
    problems: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data for JSON."""
        case = self.case
        return {"method": case.method, "check": case.what, "case": case.where, "passed": self.passed,
                "problems": list(self.problems), "seconds": round(self.seconds, 3)}  # fmt: skip


def implementation(place: str) -> Any:
    """Import the implementation `package.module:function` with its optional attributes. Raises UsageError."""
    name, _, function = place.partition(":")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"implementation {place}: cannot import {name}: {error}") from None
    function = function or "apply"
    apply = getattr(module, function, None)
    if not callable(apply):
        close = near(function, vars(module))
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UsageError(f"implementation {place}: {name} has no function {function}{hint}")
    rest = {name: getattr(module, name) for name in OPTIONAL if hasattr(module, name)}
    return SimpleNamespace(apply=apply, **rest)


def cases(method: str, module: Any = None, families: Iterable[str] | None = None) -> Iterator[Case]:
    """Yield every case for an implementation of the method. Raises UnknownName for an unknown method.

    module: the implementation, ours if None. families: of small models; those on which the method acts if None.
    """
    entry = KB[method].entry
    wanted = homes(method) if families is None else list(families)
    first = True
    for family in wanted:
        try:
            found = trials(method, family)
        except UsageError as error:
            if families is not None:
                raise UsageError(f"{method} is not verified on {family}: {error}") from None
            continue
        for trial in [with_module(trial, module) for trial in found]:
            label = f"{family}, {_setting(trial)}"
            for check in checks.CHECKS:
                if module is None or check not in checks.OWN:
                    yield Case(method, check.__name__, label, partial(_checked, check, trial))
        if first:
            trial = with_module(found[0], module)
            yield Case(method, "start", f"{family}, {_setting(trial)}", partial(starts, trial))
            first = False
    for name, path in golden.vectors().items():
        vector = golden.Vector.load(path)
        if vector.method == method and (module is None or vector.runs(module)):
            deviations = entry.implementations[vector.implementation].deviations
            apart = {row for deviation in deviations for row in deviation.golden}
            yield Case(method, "golden", name, partial(compared, vector, module, apart))


def _setting(trial: Trial) -> str:
    return ", ".join(f"{name}={value}" for name, value in trial.hyperparameters.items()) or "no setting"


def _checked(check: checks.Check, trial: Trial) -> list[str]:
    try:
        check(trial)
    except AssertionError as error:
        return [str(error).splitlines()[0]]
    return []


def compared(vector: golden.Vector, module: Any, apart: Container[str]) -> list[str]:
    """Return undeclared differences from the authors' code, and declared differences that do not occur."""
    rows = golden.compare(vector, module)
    wrong = [f"{row.name}: {row.found}" for row in rows if not row.same and row.name not in apart]
    if module is None:
        wrong += [f"{row.name}: equal, though declared to differ" for row in rows if row.same and row.name in apart]
    return wrong


def run(todo: Iterable[Case]) -> Iterator[Result]:
    """Yield the results one by one. An exception of the implementation is a problem of its case."""
    for case in todo:
        begin = time.perf_counter()
        try:
            problems = case.run()
        except Exception as error:
            problems = [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"]
        yield Result(case, tuple(problems), time.perf_counter() - begin)


def junit(results: Iterable[Result]) -> str:
    """Return the results as JUnit XML, one test case each."""
    found = list(results)
    root = ElementTree.Element(
        "testsuite", name="peftonomy", tests=str(len(found)), failures=str(sum(not r.passed for r in found)),
        errors="0", skipped="0", time=f"{sum(r.seconds for r in found):.3f}",
    )  # fmt: skip
    for result in found:
        case = result.case
        element = ElementTree.SubElement(
            root, "testcase", classname=f"peftonomy.{case.method}", name=f"{case.what} ({case.where})",
            time=f"{result.seconds:.3f}",
        )  # fmt: skip
        if not result.passed:
            failure = ElementTree.SubElement(element, "failure", message=result.problems[0])
            failure.text = "\n".join(result.problems)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

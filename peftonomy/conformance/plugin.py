"""A pytest plug-in that verifies an implementation, with one test for each case.

Run it with `pytest --peftonomy lora=mypackage.lora:apply`.

Your own tests can use the fixture `verify_peft`, a function of a method's id and an implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--peftonomy` to pytest."""
    about = "verify this implementation of a PEFT method against its entry in peftonomy; repeatable"
    group = parser.getgroup("peftonomy")
    group.addoption("--peftonomy", action="append", default=[], metavar="METHOD=MODULE:FUNCTION", help=about)


class CaseItem(pytest.Item):
    """One case of the conformance suite."""

    def __init__(self, *, case: Any, **known: Any):
        super().__init__(**known)
        self.case = case

    def runtest(self) -> None:
        problems = self.case.run()
        if problems:
            pytest.fail("\n".join(problems), pytrace=False)

    def reportinfo(self) -> tuple[Any, None, str]:
        return self.path, None, str(self.case)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add a test for each case of each implementation named on the command line."""
    for asked in config.getoption("--peftonomy"):
        method, equals, place = asked.partition("=")
        if not equals:
            raise pytest.UsageError(f"--peftonomy {asked}: METHOD=MODULE:FUNCTION was expected")
        from peftonomy import PeftonomyError

        from . import suite

        try:
            found = list(suite.cases(method, suite.implementation(place)))
        except PeftonomyError as error:
            raise pytest.UsageError(f"--peftonomy {asked}: {error}") from None
        items += [CaseItem.from_parent(session, name=str(case), case=case) for case in found]


@pytest.fixture
def verify_peft() -> Callable[..., None]:
    """Verify an implementation: `verify_peft("lora", "mypackage.lora:apply")`, or with the module itself.

    Fails with one line for each problem. `families` limits the small models.
    """
    from . import suite

    def verify(method: str, implementation: Any, families: tuple[str, ...] | None = None) -> None:
        module = suite.implementation(implementation) if isinstance(implementation, str) else implementation
        results = list(suite.run(suite.cases(method, module, families)))
        problems = [f"{r.case}: {problem}" for r in results for problem in r.problems]
        if problems:
            pytest.fail("\n".join(problems), pytrace=False)

    return verify

"""One deliberate error in each implementation that has a golden vector: at least 95 % are noticed.

What goes unnoticed changes no recorded number: a factor that a ranking does not see, or noise of a training step.
"""

from __future__ import annotations

import pytest

from . import errors

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_vectors_notice_deliberate_errors() -> None:
    todo = errors.one_each(1)
    assert {error.kind for error in todo} == set(errors.KINDS)
    missed = [str(error) for error in todo if not errors.notices(error)]
    assert len(missed) <= len(todo) // 20, missed

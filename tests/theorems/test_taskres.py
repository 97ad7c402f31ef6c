"""TaskRes: the residual of a class moves the scores of this class only, and its change does not depend on the text."""

from __future__ import annotations

import pytest
import torch

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import taskres

pytestmark = pytest.mark.torch


def test_a_class_is_moved_alone() -> None:
    model = taskres.apply(tiny.model("clip"))
    [child] = kit.attached(model, "taskres")
    with torch.no_grad():
        child.get_parameter("X")[1] += torch.arange(10) - 3.0
        moved = (tiny.outputs(model, "clip") - tiny.plain_outputs("clip")).abs().amax(0)
    assert float(moved[1]) > 0.1
    assert float(moved[[0, 2]].max()) < 1e-9


def test_the_change_does_not_depend_on_the_text() -> None:
    """Any two inputs of the projection get the same residual, whatever the text was."""
    model, plain = taskres.apply(tiny.model("clip"), alpha=0.5), tiny.plain("clip")
    [child] = kit.attached(model, "taskres")
    residual = child.get_parameter("X")
    with torch.no_grad():
        residual.normal_(generator=torch.Generator().manual_seed(0))
        for seed in range(2):
            x = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            f, changed = (kit.sites(m, ["head.text"])[0].module(x) for m in (plain, model))
            assert torch.allclose(changed - f, 0.5 * residual)


def test_another_number_of_texts_is_refused() -> None:
    model = taskres.apply(tiny.model("clip"))
    given = tiny.batch("clip") | {name: tiny.batch("clip")[name][:2] for name in ("input_ids", "attention_mask")}
    with pytest.raises(UsageError, match="texts: found 2; expected 3, one for each label in the model's config"):
        model(**given)

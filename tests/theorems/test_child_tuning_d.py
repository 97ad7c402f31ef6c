"""Child-tuning masks or frees every pretrained parameter, whatever the family."""

from __future__ import annotations

import pytest

import peftonomy

KB = peftonomy.load()
MODELS = {model.family.model_type: name for name, model in KB.models.items()}


@pytest.mark.parametrize("family", MODELS)
def test_the_whole_is_full_fine_tuning(family: str) -> None:
    whole = KB["child_tuning_d"].cost(MODELS[family], kept=1.0)
    assert whole.trained == KB["full_fine_tuning"].cost(MODELS[family]).trained

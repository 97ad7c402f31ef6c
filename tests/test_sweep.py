"""Costs over arrays: the same numbers as one query after the other, for every method, and the same refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import peftonomy
from peftonomy import KnowledgeBase, UsageError
from peftonomy.costs.sweep import LEDGERS


def arrays(kb: KnowledgeBase, method: str) -> dict[str, Any]:
    """Small values around the default for every number that the method takes, together in one row."""
    found: dict[str, Any] = {}
    for i, (name, spec) in enumerate(kb[method].entry.hyperparameters.items()):
        if spec.type == "int":
            base = kb[method].cost("t5_base", targets=None).hyperparameters[name]
            found[name] = np.maximum(0, int(base) + np.roll(np.arange(-3, 4), i))
        elif spec.type == "float":
            base = kb[method].cost("t5_base").hyperparameters[name]
            found[name] = float(base) * np.array([0.5, 1, 1, 0.75, 1, 0.25, 1])
    return found


@pytest.mark.parametrize("method", peftonomy.load())
@pytest.mark.parametrize("model", ["t5_base", "llama_3_2_1b"])
def test_a_sweep_is_the_scalar_path(kb: KnowledgeBase, method: str, model: str) -> None:
    """At every setting that one query answers; where it refuses one, the sweep refuses in the same words."""
    try:
        swept = arrays(kb, method)
        kb[method].plan(model)
    except UsageError:
        pytest.skip("finds nothing to act on")
    if not swept:
        pytest.skip("has no number to sweep")
    n, fine, refusals = 7, [], []
    for i in range(n):
        try:
            fine.append((i, kb[method].cost(model, **{name: array[i].item() for name, array in swept.items()})))
        except UsageError as error:
            refusals.append(str(error))
    at = [i for i, _ in fine]
    if at:
        found = kb[method].sweep(model, **{name: array[at] for name, array in swept.items()})
        for ledger in LEDGERS:
            assert getattr(found, ledger).tolist() == [getattr(cost, ledger) for _, cost in fine], ledger
    if refusals:
        with pytest.raises(UsageError) as caught:
            kb[method].sweep(model, **swept)
        assert str(caught.value) == refusals[0]


MODELS = [
    "t5_base", "llama_3_2_1b", "bert_base", "gpt2", "vit_base", "mixtral_8x7b", "distilbert_base", "swin_tiny",
    "clip_vit_b_32",
]  # fmt: skip


@pytest.mark.parametrize("method", peftonomy.load())
def test_several_models_are_asked_at_once(kb: KnowledgeBase, method: str) -> None:
    """Equal to single queries, and masked where these are refused."""
    swept: dict[str, Any] = {}
    for name, spec in kb[method].entry.hyperparameters.items():
        if spec.type == "int" and not isinstance(spec.default, str):
            swept[name] = np.maximum(0, int(spec.default) + np.arange(-2, 3))
    found = kb[method].sweep(MODELS, **swept)
    for at in np.ndindex(found.trained.shape):
        try:
            cost = kb[method].cost(MODELS[at[0]], **{name: array[at[1]].item() for name, array in swept.items()})
        except UsageError:
            assert all(getattr(found, ledger).mask[at] for ledger in LEDGERS)
        else:
            assert [getattr(found, ledger)[at] for ledger in LEDGERS] == [getattr(cost, ledger) for ledger in LEDGERS]
            assert found.percent[at] == pytest.approx(cost.percent)
    answered = [*found.table()]
    assert len(answered) == found.trained.count()
    assert {row["model"] for row in answered} <= {*MODELS}


def test_what_no_model_takes_is_one_line(kb: KnowledgeBase) -> None:
    with pytest.raises(UsageError, match="bitfit finds nothing to act on in llama_2_7b"):
        kb["bitfit"].sweep(["llama_2_7b", "t5_base"])
    with pytest.raises(UsageError, match="needs a model"):
        kb["bitfit"].sweep([])
    with pytest.raises(UsageError, match="did you mean"):
        kb["lora"].sweep(["llama_2_7b", "lama_3_8b"])
    with pytest.raises(UsageError, match="did you mean r"):
        kb["lora"].sweep(["llama_2_7b", "gpt2"], rr=[1])
    found = kb["lora"].sweep(["gpt2", "llama_2_7b"], targets="mlp.gate", r=[1, 2])
    assert found.trained.mask.tolist() == [[True, True], [False, False]]


def test_arrays_broadcast(kb: KnowledgeBase) -> None:
    found = kb["prefix_tuning"].sweep("roberta_base", prefix_length=[[1], [2]], bottleneck_size=[3, 4, 5])
    assert found.trained.shape == (2, 3)
    assert found.trained[1, 2] == kb["prefix_tuning"].cost("roberta_base", prefix_length=2, bottleneck_size=5).trained
    assert [*found.table()][5]["prefix_length"] == 2


def test_an_array_that_could_be_masked_and_is_not_is_an_array(kb: KnowledgeBase) -> None:
    found = kb["lora"].sweep("roberta_base", r=np.ma.array([1, 2], mask=[0, 0]))
    assert found.trained.tolist() == kb["lora"].sweep("roberta_base", r=[1, 2]).trained.tolist()


def test_many_settings_are_computed_in_stretches(kb: KnowledgeBase) -> None:
    ranks = np.arange(1, 70_001)
    found = kb["lora"].sweep("roberta_base", r=ranks)
    assert (found.trained == ranks * kb["lora"].cost("roberta_base", r=1).trained).all()
    assert found.percent[7] == kb["lora"].cost("roberta_base", r=8).percent


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"r": np.array([1, 0, -1])}, "lora: r = 0 is out of its domain"),
        ({"r": np.array([1.5])}, "hyperparameter r: found an array of float64; expected whole numbers"),
        ({"r": np.array([])}, "hyperparameter r: found an array"),
        ({"r": np.array([2**31 + 1])}, "empty or goes beyond"),
        ({"rr": np.array([1])}, "did you mean r"),
        ({"r": [1, 2, 3], "alpha": [1.0, 2.0]}, "do not broadcast"),
        ({"r": np.array([8, 2**31])}, "2\\*\\*53"),
        ({"dtype": "float23", "r": [1]}, "float23"),
        ({"r": np.ma.array([1, 2], mask=[0, 1])}, "hyperparameter r: found an array with 1 masked value"),
        ({"r": 8, "alpha": np.ma.array([1.0, 2.0], mask=True)}, "hyperparameter alpha: found an array with 2 masked"),
        ({"r": np.ma.masked}, "hyperparameter r: found an array with 1 masked value"),
        ({"r": [[1, 2], [3]]}, "hyperparameter r: found .*; expected whole numbers"),
    ],
)
def test_what_makes_no_sense_is_one_line(kb: KnowledgeBase, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kb["lora"].sweep("llama_3_1_405b", targets="mlp.*", **given)

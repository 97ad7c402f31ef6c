"""Methods with an update rule of their own: the optimizer's states, and refusals."""

from __future__ import annotations

import pytest

from peftonomy import KnowledgeBase, UsageError
from peftonomy.memory.asked import Asked
from peftonomy.memory.setting import Setting
from peftonomy.memory.updates import ruled

MODEL = {
    "model_type": "llama", "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 20, "max_position_embeddings": 16, "tie_word_embeddings": False,
}  # fmt: skip


def test_states_are_those_of_the_projections_and_of_adam_elsewhere(kb: KnowledgeBase) -> None:
    found = kb["galore"].memory(MODEL, batch=1, seq=4, dtype="float32", r=3)
    inside = 2 * (3 * (8 + 2 * 8) * 2 + 2 * 3 * (4 + 2 * 8) + 3 * 3 * (8 + 2 * 20))     # q and o, k and v, the mlp
    outside = 2 * (2 * 31 * 8 + 5 * 8)                                                  # embeddings, head, norms
    assert found.optimizer_states == 4 * (inside + outside) + 4 * 7                     # with a counter each
    assert kb["galore"].memory(MODEL, batch=1, seq=4, dtype="float32", r=100).optimizer_states > found.optimizer_states


def test_a_rule_of_its_own_goes_with_no_other_optimizer(kb: KnowledgeBase) -> None:
    for optimizer in ("sgd", "adamw-8bit"):
        with pytest.raises(UsageError, match=f"optimizer: found {optimizer}; galore updates by a rule of its own"):
            kb["galore"].memory(MODEL, batch=1, seq=4, optimizer=optimizer)


def test_two_rules_for_one_parameter_are_refused(kb: KnowledgeBase) -> None:
    asked = Asked(kb, kb["galore"].plan(MODEL), {}, Setting(batch=1, seq=4))
    entry = asked.plan.parts[0].entry
    assert entry.memory is not None
    assert len(ruled(asked.program, asked.values, 2)) == 7
    records = asked.plan.memo["updates"]
    asked.plan.memo["updates"] = [*records, *records]
    try:
        with pytest.raises(UsageError, match="two of its updates change"):
            ruled(asked.program, asked.values, 2)
    finally:
        asked.plan.memo["updates"] = records


def test_a_rule_for_the_methods_own_tensors_takes_the_place_of_their_moments(kb: KnowledgeBase) -> None:
    given = {"batch": 1, "seq": 4, "dtype": "mixed", "r": 2, "targets": ["attn.q", "mlp.down"], "task": "seq_cls"}
    found, plain = (kb[name].memory(MODEL, **given) for name in ("lora_pro", "lora"))
    sites, head = 2 * 8 * (8 + 20), 2 * 8                   # entries of all targeted weights, and of the head
    assert found.optimizer_states == 4 * (2 * sites + 2 * head) + 4
    assert plain.optimizer_states == 4 * (2 * 2 * 2 * (8 + 8 + 20 + 8) + 2 * head) + 4 * (8 + 1)
    assert found.gradients == plain.gradients
    assert kb["lora_pro"].memory(MODEL, **given, gpus=2, shard="ddp").optimizer_states == found.optimizer_states
    with pytest.raises(UsageError, match="shard: found fsdp; lora_pro updates by a rule of its own"):
        kb["lora_pro"].memory(MODEL, **given, gpus=2, shard="fsdp")
    with pytest.raises(UsageError, match="optimizer: found sgd; lora_pro updates by a rule of its own"):
        kb["lora_pro"].memory(MODEL, **given, optimizer="sgd")


@pytest.mark.torch
@pytest.mark.parametrize("method", ["lora_pro", "lora_rite"])
@pytest.mark.parametrize("dtype", ["float32", "mixed"])
def test_the_temporary_bytes_of_a_rule_for_the_methods_own_tensors(method: str, dtype: str) -> None:
    from .operations_kit import Case, predicted

    case = Case("llama", method, dtype, "eager", batch=1, seq=2, hyperparameters={"r": 3}, config={"vocab_size": 7})
    ours, found = predicted(case), case.simulate()
    assert ours.optimizer_states == found.optimizer_states
    assert ours.peak == pytest.approx(found.peak, rel=1e-2)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("galore", "float32"), ("galore", "bfloat16"), ("galore", "mixed"), ("apollo", "bfloat16"), ("lift", "float32"),
        ("lift", "bfloat16"),
    ],
)  # fmt: skip
def test_the_temporary_bytes_are_those_of_a_step_that_projects_anew(method: str, dtype: str) -> None:
    """Both are at their peak in the update. In bfloat16 a projection that is already replaced is counted once more."""
    from .operations_kit import Case, predicted

    sizes = {"intermediate_size": 300, "vocab_size": 7}
    for r in (3, 30):
        case = Case(
            "llama", method, dtype, "eager", batch=1, seq=2, hyperparameters={"r": r, "gap": 1}, config=sizes
        )
        ours, found = predicted(case), case.simulate()
        assert (ours.phase, found.phase) == ("optimizer", "optimizer")
        assert ours.peak == pytest.approx(found.peak, rel=2e-3 if dtype == "bfloat16" else 0)

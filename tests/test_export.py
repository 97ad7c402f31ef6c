"""What `export` writes is read again. What a library refuses, or fails on, is not written."""

from __future__ import annotations

import pytest

from peftonomy import ConfigError, KnowledgeBase, UsageError

REFUSED = [
    ("cpt", "t5_base", "peft", "task_type == 'CAUSAL_LM', which PEFT requires"),
    ("llama_adapter", "roberta_large", "peft", "adapter_layers <= n_layers, which PEFT requires"),
    ("p_tuning", "vit_base", "peft", "vocab > 0, which PEFT requires"),
    ("prefix_tuning", "distilbert_base", "peft", "token_dim: found nothing; expected a value"),
    ("lora", "opt_350m", "adapters", "found opt; expected a model of a family that AdapterHub adapters supports"),
    ("prompt_tuning", "modernbert_large", "adapters", "AdapterHub adapters has no prompt_tuning for modernbert"),
    ("dora", "gpt2", "adapters", "use_dora: found True; expected false"),
]


@pytest.mark.parametrize(("method", "model", "library", "reason"), REFUSED)
def test_a_configuration_that_the_library_refuses_is_not_written(
    kb: KnowledgeBase, method: str, model: str, library: str, reason: str
) -> None:
    with pytest.raises(UsageError) as caught:
        kb[method].export(model, to=library)
    assert str(caught.value).startswith(f"{method} on {model}: ")
    assert reason in str(caught.value)


def test_an_argument_without_a_name_is_refused(kb: KnowledgeBase) -> None:
    with pytest.raises(ConfigError, match=r"found 0,1; expected arguments such as r=16"):
        kb.adapter("pfeiffer+inv[0,1]", "bert_base")

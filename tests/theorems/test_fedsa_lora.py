"""FedSA-LoRA: after an exchange the clients differ in their second factors only. They keep half of what they train."""

from __future__ import annotations

import pytest
import torch

from peftonomy import KnowledgeBase
from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import fedsa_lora, lora

pytestmark = pytest.mark.torch
SETTING = {"tasks": 2, "r": 2, "alpha": 3.0, "dropout": 0.0}
TARGETS = ("attn.q", "mlp.up")


def test_clients_share_the_first_factor_and_keep_the_second() -> None:
    trial = Trial("fedsa_lora", "llama", SETTING, TARGETS)
    before = [trial.of.restored(one) for one in trial.inputs]
    after = [fedsa_lora.combine(trial.applied(), trial.inputs, client=i, examples=[3, 1]) for i in range(2)]
    olds = [[child for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in before]
    news = [[child for _, child in kit.at_sites(m, "fedsa_lora", lora.LoRA)] for m in after]
    for a, b, x, y in zip(*olds, *news, strict=True):
        assert torch.equal(x.A, y.A)
        assert torch.allclose(x.A, 0.75 * a.A + 0.25 * b.A)
        assert torch.equal(x.B, a.B)
        assert torch.equal(y.B, b.B)
        together = torch.cat([x.delta(), y.delta()])
        assert torch.linalg.matrix_rank(together) == 2                  # both read the same r directions of the input
        assert torch.linalg.matrix_rank(torch.cat([a.delta(), b.delta()])) == 4


def test_a_client_keeps_half_of_what_it_trains_on_square_modules(kb: KnowledgeBase) -> None:
    cost = kb["fedsa_lora"].cost("roberta_base")
    assert cost.trained == cost.stored + cost.shared == 2 * cost.stored == kb["lora"].cost("roberta_base").stored

"""VB-LoRA: pieces are mixtures of the best few vectors, and those few are enough to have the model again."""

from __future__ import annotations

import pytest
import torch

from peftonomy.conformance import checks
from peftonomy.conformance.trial import Trial
from reference_impls import vb_lora

pytestmark = pytest.mark.torch
SETTING = {"r": 2, "topk": 3, "num_vectors": 7, "vector_length": 2}


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_a_bank_larger_than_what_is_mixed(check: checks.Check) -> None:
    check(Trial("vb_lora", "bert", SETTING))


def test_a_piece_is_a_mixture_of_the_best() -> None:
    torch.manual_seed(0)
    shared = vb_lora.Shared(4, 3)
    child = vb_lora.VBLoRA(6, 9, shared, r=1, topk=2)
    with torch.no_grad():
        child.logits_A[0, 1] = torch.tensor([1.0, 5.0, -2.0, 5.0])
    a, b = child.factors()
    assert a.shape == (1, 6)
    assert b.shape == (9, 1)
    assert torch.allclose(a[0, 3:], (shared.bank[1] + shared.bank[3]) / 2)

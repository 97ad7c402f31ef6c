"""VFPT: it is VPT with a prompt that is the real part of a Fourier transform, which makes the prompt symmetric."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import vfpt, vpt

pytestmark = pytest.mark.torch


def _logits(model: nn.Module) -> Tensor:
    pixels = torch.randn(2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits: Tensor = model.eval()(pixel_values=pixels).logits
    return logits


def test_vpt_can_take_over_the_transformed_prompts() -> None:
    ours = vfpt.apply(tiny.model("vit"), prompt_length=6, fourier_share=0.7)       # 4 of 6 vectors
    theirs = vpt.apply(tiny.model("vit"), prompt_length=6, deep=True)
    for child, other in zip(kit.attached(ours, "vfpt"), kit.attached(theirs, "vpt"), strict=True):
        [p], [q] = child.parameters(), other.parameters()
        q.data = p.data.clone()
        q.data[:4] = torch.fft.fft(torch.fft.fft(p.data[:4], dim=-1), dim=-2).real
    assert torch.allclose(_logits(ours), _logits(theirs), atol=1e-5)


def test_transformed_vectors_mirror_each_other_and_one_entry_moves_all() -> None:
    p = torch.randn(1, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    read = vfpt.transformed(p, 4)[0]
    for i in range(4):
        assert torch.allclose(read[i], torch.roll(read[-i % 4].flip(-1), 1, dims=-1)), i
    assert torch.equal(read[4], p[0, 4]), "the other vector is read as it is"
    p[0, 1, 2] += 1
    moved = vfpt.transformed(p, 4)[0] - read
    phase = torch.arange(4)[:, None] / 4 + 2 * torch.arange(12) / 12
    assert torch.allclose(moved[:4], torch.cos(2 * torch.pi * phase.double()))


def test_other_models_are_refused() -> None:
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        vfpt.apply(tiny.model("bert"))

"""The sequential adapter, with frozen norms and the nonlinearity of the official code."""

from __future__ import annotations

from torch import Tensor, nn

from reference_impls import _kit as kit
from reference_impls.sequential_adapter import SequentialAdapter

from ._bottlenecks import parts, place

FAMILIES = ("bert", "roberta", "t5", "gpt2", "llama")
SETTING = {"train_norms": False}
ARGUMENTS = {"non_linearity": "gelu_new"}


def tensors(ours: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for site, child in kit.at_sites(ours, "sequential_adapter", SequentialAdapter):
        found |= parts(place(site), child)
    return found

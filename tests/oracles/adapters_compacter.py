"""Compacter, with frozen norms and the authors' approximation of the GELU."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from reference_impls import _kit as kit
from reference_impls.compacter import Compacter

from ._bottlenecks import place

FAMILIES = ("bert", "roberta", "t5", "gpt2", "llama")
SETTING = {"train_norms": False}
ARGUMENTS = {"non_linearity": "gelu_new"}
NAMES = {"W_left": "s", "W_right": "t", "b": "b"}


def tensors(ours: Any, name: str = "compacter") -> dict[str, Tensor]:
    base = ours.base_model_prefix + "." if ours.base_model is not ours else ""
    found: dict[str, Tensor] = {}
    for site, child in kit.at_sites(ours, name, Compacter):
        found[f"{base}shared_parameters.a.phm_rule"] = child.shared.A
        for theirs, mine in NAMES.items():
            found[f"{place(site)}.adapter_down.0.{theirs}"] = child.get_parameter(f"{mine}_down")
            found[f"{place(site)}.adapter_up.{theirs}"] = child.get_parameter(f"{mine}_up")
    return found

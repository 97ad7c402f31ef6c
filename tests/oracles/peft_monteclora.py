"""MonteCLoRA: peft keeps the factors as LoRA does, and the noise in a sampler that rests in evaluation."""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.monteclora import Sampled

from . import layer

SETTING = {"num_samples": 8}        # as the entry's configuration has it


def copy(ours: nn.Module, theirs: Any) -> None:
    for site, child in kit.at_sites(ours, "monteclora", Sampled):
        peft = layer(theirs, site)
        peft.lora_A["default"].weight.copy_(child.A)
        peft.lora_B["default"].weight.copy_(child.B)
        sampler = peft.lora_monteclora_sampler["default"]
        sampler.std_prior.copy_(child.rho)
        sampler.expert_weights_prior.copy_(child.kappa)

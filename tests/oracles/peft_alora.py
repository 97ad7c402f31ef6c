"""aLoRA: peft keeps the factors as LoRA does; both are told the same invocation, which the tiny batch has."""

from __future__ import annotations

from functools import partial
from typing import Any

from peft.tuners.lora.model import _alora_offsets_pre_forward_hook
from peft.tuners.lora.variants import calculate_alora_offsets
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import alora

from . import layer

FAMILIES = ("llama",)       # decoders; GPT-2's projection is fused


def copy(ours: nn.Module, theirs: Any) -> None:
    ids = tiny.batch("llama")["input_ids"]
    tokens = ids[0, 2:4].tolist()
    alora.invoke(ours, tokens)
    theirs.peft_config["default"].alora_invocation_tokens = tokens
    offsets = calculate_alora_offsets(theirs.peft_config, "default", ids)
    for site, child in kit.at_sites(ours, "alora", alora.ActivatedLoRA):
        peft = layer(theirs, site)
        peft.lora_A["default"].weight.copy_(child.A)
        peft.lora_B["default"].weight.copy_(child.B)
        peft.register_forward_pre_hook(
            partial(_alora_offsets_pre_forward_hook, alora_offsets=offsets), with_kwargs=True
        )

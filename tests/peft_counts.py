"""What peft itself counts for a configuration: the measured side of every comparison with `kb.adapter`."""

from __future__ import annotations

import copy
import warnings
from typing import Any, NamedTuple

import peft
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit


class Counts(NamedTuple):
    trained: int
    total: int
    stored: int


def plain(kind: str, settings: dict[str, Any], device: str = "meta") -> nn.Module:
    """A small model of a `transformers` class; on the meta device it has shapes and no numbers."""
    model_class = getattr(transformers, kind)
    with torch.device(device):
        model: nn.Module = model_class(model_class.config_class(**copy.deepcopy(settings)))
    return model


def question(model: nn.Module) -> tuple[Any, dict[str, Any]]:
    """Our view of the model, and the task and labels of its class."""
    parts = kit.inventory(model)
    return parts.backbone, {"task": parts.task, "num_labels": parts.num_labels}


def configured(config: dict[str, Any]) -> Any:
    """peft's configuration from the content of an adapter_config.json."""
    arguments = {name: value for name, value in config.items() if name != "peft_type"}
    return PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]](**copy.deepcopy(arguments))


def wrapped(model: nn.Module, config: dict[str, Any]) -> Any:
    """peft's model around ours."""
    with warnings.catch_warnings(), torch.device(next(model.parameters()).device):
        warnings.simplefilter("ignore")
        return peft.get_peft_model(model, configured(config))


def counts(theirs: Any) -> Counts:
    """What requires a gradient, all parameters, and the numbers in the file that it would save."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = peft.get_peft_model_state_dict(theirs)
    return Counts(
        sum(p.numel() for p in theirs.parameters() if p.requires_grad),
        sum(p.numel() for p in theirs.parameters()),
        sum(t.numel() for t in file.values()),
    )


def model_of(family: str, others: dict[str, tuple[str, dict[str, Any]]], device: str = "meta") -> nn.Module:
    return plain(*{**tiny.CONFIGS, **others}[family], device=device)

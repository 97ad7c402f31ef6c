"""peft as oracle for outputs: one module per method, `peft_<id>.py`, that says which of its tensors is which of ours.

A module has `copy(ours, theirs)`, which writes every tensor of our method into peft's model (both built already, ours
shaken away from its start). It may have `SETTING` (hyperparameters, where small ones do not suit peft) and `FAMILIES`
(those that peft supports, where that is not all), and `SINGLE` where peft starts from weights in single precision only.
What peft is configured with comes from the entry.

AdapterHub's library is asked in another environment, by `adapters_side.py`. Its modules, `adapters_<id>.py`, have
`tensors(ours)`, the library's names with our numbers, `FAMILIES`, and may have `SETTING` and `ARGUMENTS` (of the
library's configuration, beyond what the entry says).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from reference_impls import _kit as kit
from reference_impls.lora import LoRA


def layer(theirs: Any, site: kit.Site) -> Any:
    """peft's layer in the place of our site."""
    return theirs.base_model.model.get_submodule(site.path)


def factors(ours: nn.Module, theirs: Any, name: str) -> None:
    """Copy the two factors that every relative of LoRA has, into the linear maps that peft keeps them as."""
    for site, child in kit.at_sites(ours, name, LoRA):
        peft = layer(theirs, site)
        peft.lora_A["default"].weight.copy_(child.A)
        peft.lora_B["default"].weight.copy_(child.B)

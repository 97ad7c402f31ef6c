"""peft as oracle for outputs: one module per method, `peft_<id>.py`, that says which of its tensors is which of ours.

A module has `copy(ours, theirs)`, which writes every tensor of our method into peft's model (both built already, ours
shaken away from its start). It may have `SETTING` (hyperparameters, where small ones do not suit peft) and `FAMILIES`
(those that peft supports, where that is not all). What peft is configured with comes from the entry.
"""

from __future__ import annotations

from typing import Any

from reference_impls import _kit as kit


def layer(theirs: Any, site: kit.Site) -> Any:
    """peft's layer in the place of our site."""
    return theirs.base_model.model.get_submodule(site.path)

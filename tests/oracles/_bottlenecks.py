"""Where AdapterHub's library keeps a bottleneck, which differs from family to family, and what its parts are called."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from reference_impls import _kit as kit


def place(site: kit.Site) -> str:
    """The library's module for the bottleneck behind our site."""
    if ".block." in site.path:                                      # T5: the sublayer
        return site.path.rsplit(".", 2)[0] + ".adapters.a"
    if layer := re.match(r"(transformer\.h|model\.layers)\.\d+", site.path):
        which = "output" if site.role.startswith("mlp.") else "attention"
        return f"{layer[0]}.{which}_adapters.adapters.a"
    return site.path.rsplit(".", 1)[0] + ".adapters.a"              # BERT: beside the norm


def parts(path: str, child: Any) -> dict[str, Tensor]:
    names = {"down.0.weight": "W_down", "down.0.bias": "b_down", "up.weight": "W_up", "up.bias": "b_up"}
    return {f"{path}.adapter_{theirs}": getattr(child, mine) for theirs, mine in names.items()}

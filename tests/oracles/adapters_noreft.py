"""NoReFT: as LoReFT, with the same names."""

from __future__ import annotations

from functools import partial

from .adapters_loreft import FAMILIES, SETTING
from .adapters_loreft import tensors as of_reft

__all__ = ["FAMILIES", "SETTING", "tensors"]

tensors = partial(of_reft, name="noreft")

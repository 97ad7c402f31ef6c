"""Compacter++: as Compacter, in half of its places, and behind the block alone, not behind its residual too."""

from __future__ import annotations

from functools import partial

from .adapters_compacter import ARGUMENTS as NONLINEARITY
from .adapters_compacter import FAMILIES, SETTING
from .adapters_compacter import tensors as of_compacter

__all__ = ["ARGUMENTS", "FAMILIES", "SETTING", "tensors"]

ARGUMENTS = NONLINEARITY | {"original_ln_before": False}
tensors = partial(of_compacter, name="compacter_pp.base")

"""Import the kit of the reference implementations from its current location. Needs the torch extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .located import module

if TYPE_CHECKING:
    from reference_impls import _kit as kit
else:
    kit = module("_kit")

__all__ = ["kit"]

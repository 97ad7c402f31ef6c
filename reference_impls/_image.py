"""Models that read images: a check that methods for them share."""

from __future__ import annotations

from torch import nn

from peftonomy import UsageError

from . import _kit as kit

__all__ = ["require_images"]


def require_images(model: nn.Module) -> None:
    """Raise UsageError if the model has a vocabulary."""
    if vocab := kit.inventory(model).dims["vocab"]:
        raise UsageError(f"a model of images alone was expected; this one has a vocabulary of {vocab}")

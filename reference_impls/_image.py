"""Models that read images: checks and sizes that methods for them share."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from peftonomy import UsageError

from . import _kit as kit

__all__ = ["final_norm", "grid", "require_images", "require_one_width"]


def require_images(model: nn.Module) -> None:
    """Raise UsageError if the model has a vocabulary."""
    if vocab := kit.inventory(model).dims["vocab"]:
        raise UsageError(f"a model of images alone was expected; this one has a vocabulary of {vocab}")


def require_one_width(model: nn.Module) -> None:
    """Raise UsageError if the model has a vocabulary, stages of layers, or layers wider than its embedded patches."""
    require_images(model)
    dims = kit.inventory(model).dims
    if dims["n_encoders"] > 1:
        raise UsageError(f"one width in all layers was expected; this model has {dims['n_encoders']} stages of layers")
    if dims["d_embed"] != dims["d_model"]:
        found = f"the embeddings are {dims['d_embed']} wide, layers {dims['d_model']}"
        raise UsageError(f"one width in all layers was expected; {found}")


def grid(model: nn.Module) -> tuple[int, int]:
    """Return how many patches an image has from top to bottom, and from left to right."""
    config = cast(Any, model).config
    image, patch = ((size, size) if isinstance(size, int) else size for size in (config.image_size, config.patch_size))
    return image[0] // patch[0], image[1] // patch[1]


def final_norm(model: nn.Module) -> nn.Module:
    """Return the norm behind the last layer."""
    path = next(module.path for module in kit.inventory(model).modules if module.role == "norm.final")
    return model.get_submodule(path)

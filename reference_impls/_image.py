"""Models that read images: checks and sizes that methods for them share."""

from __future__ import annotations

import math
from typing import Any, cast

from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit

__all__ = [
    "READERS", "final_norm", "fold_into_readers", "grid", "norms", "prompt_bound", "require_biases", "require_images",
    "require_one_width",
]  # fmt: skip

READERS = {"attn": ("attn.q", "attn.k", "attn.v"), "mlp": ("mlp.up", "mlp.gate")}
"""By block, the roles of the projections that read its norm."""


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


def prompt_bound(model: nn.Module) -> float:
    """Return the bound of a uniform start of prompts: Xavier's, of a layer from a patch's numbers to the embedding."""
    patch = next(w.value for w in kit.weights(model) if w.role == "embed.patch" and w.value.dim() == 4)
    return math.sqrt(6 / (patch[0].numel() + kit.inventory(model).dims["d_embed"]))


def final_norm(model: nn.Module) -> nn.Module:
    """Return the norm behind the last layer."""
    path = next(module.path for module in kit.inventory(model).modules if module.role == "norm.final")
    return model.get_submodule(path)


def norms(model: nn.Module) -> dict[tuple[str, int | None, str], nn.Module]:
    """Return the norms before attentions and feed-forward blocks, by stack, layer and block."""
    return {
        (weight.stack, weight.layer, weight.role.removeprefix("norm.")): model.get_submodule(
            weight.name.rpartition(".")[0]
        )
        for weight in kit.weights(model)
        if weight.role in ("norm.attn", "norm.mlp")
    }


def require_biases(layer: kit.Block, roles: tuple[str, ...]) -> None:
    """Raise UsageError if a module of the layer with one of these roles has no bias."""
    for site in layer.sites.values():
        if site.role in roles and site.bias is None:
            raise UsageError(f"{site.path}: found no bias; expected one, into which the adapter folds")


def fold_into_readers(layer: kit.Block, roles: tuple[str, ...], change: Tensor, shift: Tensor) -> None:
    """Change the layer's modules with these roles as if their input n were n + change n + shift."""
    for role in roles:
        if role in layer.sites and (bias := layer.sites[role].bias) is not None:
            weight = layer.sites[role].weight
            bias.add_(weight @ shift)
            weight.add_(weight @ change)

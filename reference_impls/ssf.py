"""SSF: scaling and shifting your features (lian2022ssf; code_ssf#models/vision_transformer.py:ssf_ada).

    y <- gamma * y + beta

with y the output of a linear module, of a norm, or of the convolution that embeds patches.

Trained: a scale gamma and a shift beta (d_out,) behind each of these. The scale starts around one, the shift around
zero, both with a standard deviation of 0.02. All of them merge: into the weight and bias of the module before them.
"""

from typing import cast

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from ._image import require_images


class ScaleShift(kit.Child):
    """The scale and shift of one module's output. `suffix` ends the names of both."""

    def __init__(self, d: int, *, suffix: str = ""):
        super().__init__()
        self.suffix = suffix
        self.register_parameter(f"gamma{suffix}", nn.Parameter(torch.empty(d).normal_(1, 0.02)))
        self.register_parameter(f"beta{suffix}", nn.Parameter(torch.empty(d).normal_(0, 0.02)))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        """The scale and the shift."""
        return self.get_parameter(f"gamma{self.suffix}"), self.get_parameter(f"beta{self.suffix}")

    def after(self, _: Tensor, y: Tensor) -> Tensor:
        gamma, beta = self.both
        return y * gamma + beta                                     # (..., d)

    def behind_norm(self, _: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        return self.after(args[0], y).to(y.dtype)

    def behind_conv(self, _: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        gamma, beta = self.both
        shifted = y * gamma[:, None, None] + beta[:, None, None]    # (batch, d, height, width)
        return shifted.to(y.dtype)

    def into(self, weight: Tensor, bias: Tensor) -> None:
        """Change the weight and bias of the module so that they include the scale and shift."""
        gamma, beta = self.both
        weight.mul_(gamma.view(-1, *[1] * (weight.dim() - 1)))
        bias.mul_(gamma).add_(beta)


def apply(model: nn.Module, *, targets: tuple[str, ...] = ("attn.*", "mlp.*"), name: str = "ssf") -> nn.Module:
    """Freeze the model and scale and shift the output of its modules.

    Raises UsageError for a model of text, and where a module has no bias to merge the shift into.
    """
    require_images(model)
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if site.bias is None:
            raise UsageError(f"{site.path}: found no bias; expected one, into which the shift merges")
        kit.attach(site, name, ScaleShift(site.d_out))
    for weight in kit.weights(model):
        path, _, last = weight.name.rpartition(".")
        module, d = model.get_submodule(path), len(weight.value)
        if last != "weight" or not weight.pretrained:
            continue
        if weight.kind == "norm":
            child = ScaleShift(d, suffix="_norm")
            hook = module.register_forward_hook(child.behind_norm)
        elif weight.role == "embed.patch":
            child = ScaleShift(d, suffix="_patch")
            hook = module.register_forward_hook(child.behind_conv)
        else:
            continue
        kit.attach(module, f"{name}.weight", child).append(hook)
    return model


@torch.no_grad()
def merge(model: nn.Module, name: str = "ssf") -> nn.Module:
    """Put scale and shift into the modules before them."""
    for child in kit.attached(model, name):
        assert isinstance(child, ScaleShift)
        if child.site is None:
            child.into(cast(Tensor, child.host.weight), cast(Tensor, child.host.bias))
        elif child.site.bias is not None:
            child.into(child.site.weight, child.site.bias)
    kit.detach(model, name)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states: Tensor = model(pixel_values=inputs["x"]).last_hidden_state
    return states

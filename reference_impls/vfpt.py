"""VFPT: visual Fourier prompt tuning (zeng2024vfpt; code_vfpt#src/models/vit_prompt/vit_fourier.py).

    X_i <- [c_i; Re F(P_i[:m]); P_i[m:]; E_i],    m = floor(fourier_share * prompt_length)

with c_i the state of the class token before layer i, E_i those of the patches, and F the discrete Fourier transform
over both the vectors and their entries. In the shallow form only the first layer has a prompt. In the deep form every
later layer has its own, which takes the place of what the layer before computed for the prompt, as in VPT.

Trained, and kept at inference: P (prompt_length, d_embed), and if deep one D (prompt_length, d_model) before every
layer except the first. The transform of a prompt does not depend on the image.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import vpt
from ._image import prompt_bound, require_one_width
from ._prompt import behind_first


def transformed(p: Tensor, count: int) -> Tensor:
    """Replace the first vectors (batch, length, d) by the real part of their two-dimensional Fourier transform."""
    if not count:
        return p
    first = p[:, :count]
    if first.dtype in (torch.float16, torch.bfloat16):
        first = first.float()                       # torch transforms no narrower type on a CPU
    real = torch.fft.fft2(first).real.to(p.dtype)
    return torch.cat([real, p[:, count:]], dim=1) if count < p.shape[1] else real


class Prompt(vpt.Prompt):
    """The prompt in the embedded input of the first layer. count: the vectors that are transformed."""

    def __init__(self, d: int, *, count: int, **sizes: Any):
        super().__init__(d, **sizes)
        self.count = count

    def enter(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        p = transformed(self.dropout(self.P.to(x.dtype).expand(len(x), -1, -1)), self.count)
        return behind_first(x, 0, p)        # (batch, n, d) -> (batch, n + length, d)


class DeepPrompt(vpt.DeepPrompt):
    """The prompt in the input of one later layer."""

    def __init__(self, d: int, *, count: int, **sizes: Any):
        super().__init__(d, **sizes)
        self.count = count

    def change(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = args[0]
        p = transformed(self.dropout(self.D.to(h.dtype).expand(len(h), -1, -1)), self.count)
        return behind_first(h, len(self.D), p), *args[1:]       # (batch, n + length, d)


def apply(
    model: nn.Module, *, prompt_length: int = 5, fourier_share: float = 0.5, deep: bool = True, dropout: float = 0.0
) -> nn.Module:
    """Freeze the model and put prompts between its class token and its patches. Raises UsageError for other models."""
    require_one_width(model)
    d = kit.inventory(model).dims["d_embed"]
    kit.freeze(model)
    base = kit.base(model)
    sizes: dict[str, Any] = {
        "prompt_length": prompt_length, "dropout": dropout, "bound": prompt_bound(model),
        "count": math.floor(prompt_length * fourier_share),
    }  # fmt: skip
    prompt = Prompt(d, **sizes)
    hooks = kit.attach(model, "vfpt", prompt)
    hooks.append(base.embeddings.register_forward_hook(prompt.enter))
    hooks.append(base.register_forward_hook(prompt.leave))
    for layer in kit.blocks(model, "layer")[1:] if deep else ():
        child = DeepPrompt(d, **sizes)
        kit.attach(layer.module, "vfpt", child).append(layer.module.register_forward_pre_hook(child.change))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    return vpt.probe(model, inputs)

"""LLaMA-Adapter V2: parameter-efficient visual instruction model (gao2023llamaadapterv2#section-4.1).

    y = s * (W x + b)

at every linear layer, beside the gated prompts of `llama_adapter` in the uppermost layers. Prompts pass through the
frozen weights alone.

Trained: b (d_out,), zeros at first, and s (d_out,), ones at first, of each targeted module, every norm of the model,
and the prompts and gates. At inference b, s, prompts and gates remain, because LLaMA has no biases to take b. The model
starts where it was. What the paper trains of the image encoder's projection is no part of this module.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import llama_adapter


class Tuned(kit.Child):
    """The bias and the scale of one linear layer."""

    def __init__(self, d_out: int):
        super().__init__()
        self.b = nn.Parameter(torch.zeros(d_out))
        self.s = nn.Parameter(torch.ones(d_out))

    def after(self, _: Tensor, y: Tensor) -> Tensor:
        return (y + self.b) * self.s


def apply(
    model: nn.Module, *, prompt_length: int = 10, layers: int = 31, targets: tuple[str, ...] = ("attn.*", "mlp.*"),
    name: str = "llama_adapter_v2",
) -> nn.Module:  # fmt: skip
    """Freeze the model but for its norms, and give it prompts, biases and scales."""
    llama_adapter.apply(model, prompt_length=prompt_length, layers=layers, name=f"{name}.prompt")
    for site in kit.sites(model, targets):
        kit.attach(site, name, Tuned(site.d_out))
    for weight in kit.weights(model):
        if weight.kind == "norm":
            weight.value.requires_grad_(True)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the first layer on recorded inputs; for the golden vectors."""
    layer = kit.blocks(model, "layer")[0].module
    positions = inputs["cos"], inputs["sin"]
    output: Tensor = layer(inputs["x"], position_embeddings=positions, attention_mask=inputs["mask"])
    return output

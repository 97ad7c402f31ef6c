"""IPT: intrinsic prompt tuning (qin2021ipt; code_ipt#bartPrompt.py:MyBartPrompt_AE.generate_prompt_recover).

    P = W_2 tanh(W_1 z + b_1) + b_2,    X <- [P; X]

Trained: z (intrinsic_dim), the coordinates of a prompt P (prompt_length, d_embed) in a curved subspace. The subspace is
that of a decoder W_1 (decoder_width, intrinsic_dim), b_1, W_2 (prompt_length * d_embed, decoder_width), b_2, which an
autoencoder learned from the prompts of other tasks. It is given by `load`, frozen and shared by all tasks. Until `load`
it is noise, the same in every model. At inference z and the decoder are kept.
"""

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._prompt import prepend


class Coordinates(kit.Child):
    """The coordinates of the prompt, and the decoder."""

    def __init__(self, d: int, *, prompt_length: int, intrinsic_dim: int, decoder_width: int):
        super().__init__()
        self.z = nn.Parameter(0.02 * torch.randn(intrinsic_dim))
        self.shape = (prompt_length, d)
        fixed = torch.Generator().manual_seed(0)
        for number, rows, columns in ((1, decoder_width, intrinsic_dim), (2, prompt_length * d, decoder_width)):
            for name, size in ((f"W_{number}", (rows, columns)), (f"b_{number}", (rows,))):
                noise = (2 * torch.rand(size, generator=fixed) - 1) / math.sqrt(columns)
                self.register_parameter(name, nn.Parameter(noise, requires_grad=False))

    def vectors(self) -> Tensor:
        w_1, b_1, w_2, b_2 = map(self.get_parameter, ("W_1", "b_1", "W_2", "b_2"))
        h = torch.tanh(linear(self.z[None], w_1, b_1))                      # (1, decoder_width)
        return linear(h, w_2, b_2).view(self.shape)                         # (prompt_length, d_embed)


def apply(
    model: nn.Module, *, prompt_length: int = 100, intrinsic_dim: int = 250, decoder_width: int = 768,
    name: str = "ipt",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put a prompt of the subspace in front of its inputs."""
    kit.freeze(model)
    d = kit.inventory(model).dims["d_embed"]
    child = Coordinates(d, prompt_length=prompt_length, intrinsic_dim=intrinsic_dim, decoder_width=decoder_width)
    kit.attach(model, name, child).extend(prepend(model, child.vectors, prompt_length))
    return model


@torch.no_grad()
def load(model: nn.Module, decoder: Mapping[str, Tensor], name: str = "ipt") -> nn.Module:
    """Copy the decoder that other tasks trained: W_1, b_1, W_2 and b_2 by name."""
    [child] = cast(list[Coordinates], kit.attached(model, name))
    for key in ("W_1", "b_1", "W_2", "b_2"):
        child.get_parameter(key).copy_(decoder[key])
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [child] = cast(list[Coordinates], kit.attached(model, "ipt"))
    return child.vectors()

"""Residual prompt tuning (razdaibiedina2023residual; code_residual_prompts#prompt_tuner2.py:ResMLP).

    P = E + LN(W_up relu(W_down E + b_down) + b_up),    X <- [P; X]

Trained: E (prompt_length, d_embed), which starts at embeddings of tokens, and one network for all vectors, or one for
each if `separate`. Networks are stacked along the first axis of their tensors. At inference P (prompt_length, d_embed)
remains: `finish` computes it one last time and drops the rest.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from . import _kit as kit
from ._prompt import of_tokens, prepend


class ResidualPrompt(kit.Child):
    """The vectors and their network while training, its last output afterwards."""

    gain: nn.Parameter
    bias: nn.Parameter

    def __init__(self, tokens: Tensor, *, bottleneck: int, dropout: float, separate: bool, norm: bool):
        super().__init__()
        length, d = tokens.shape
        n = length if separate else 1
        self.P = nn.Parameter(torch.zeros_like(tokens), requires_grad=False)
        self.E = nn.Parameter(tokens)
        for name, width, shape in (("down", d, (n, bottleneck, d)), ("up", bottleneck, (n, d, bottleneck))):
            bound = 1 / math.sqrt(width)
            self.register_parameter(f"W_{name}", nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))
            self.register_parameter(f"b_{name}", nn.Parameter(torch.empty(shape[:2]).uniform_(-bound, bound)))
        if norm:
            self.gain = nn.Parameter(torch.ones(n, d))
            self.bias = nn.Parameter(torch.zeros(n, d))
        self.dropout = nn.Dropout(dropout)

    def vectors(self) -> Tensor:
        if not hasattr(self, "E"):
            return self.P
        down, b_down, up, b_up = map(self.get_parameter, ("W_down", "b_down", "W_up", "b_up"))
        e = self.E.view(len(down), -1, self.E.shape[1])                         # (networks, vectors of each, d)
        z = torch.relu(e @ down.transpose(1, 2) + b_down[:, None])              # (networks, vectors, bottleneck)
        z = self.dropout(z @ up.transpose(1, 2) + b_up[:, None])
        if hasattr(self, "gain"):
            z = layer_norm(z, z.shape[-1:]) * self.gain[:, None] + self.bias[:, None]
        return (e + z).view(self.E.shape)                                       # (prompt_length, d)


def apply(
    model: nn.Module, *, prompt_length: int = 10, bottleneck: int = 800, dropout: float = 0.0, separate: bool = False,
    norm: bool = True, name: str = "residual_prompt_tuning",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put a prompt in front of its inputs. Raises UsageError for a model without a vocabulary."""
    tokens = of_tokens(model, prompt_length)
    kit.freeze(model)
    child = ResidualPrompt(tokens, bottleneck=bottleneck, dropout=dropout, separate=separate, norm=norm)
    kit.attach(model, name, child).extend(prepend(model, child.vectors, prompt_length))
    return model


@torch.no_grad()
def finish(model: nn.Module, name: str = "residual_prompt_tuning") -> nn.Module:
    """Compute the prompt one last time and drop the network."""
    for child in kit.attached(model, name):
        if isinstance(child, ResidualPrompt) and hasattr(child, "E"):
            child.P.copy_(child.vectors())
            for part in {*child._parameters} - {"P"}:
                delattr(child, part)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [child] = (child for child in kit.attached(model) if isinstance(child, ResidualPrompt))
    return child.vectors()

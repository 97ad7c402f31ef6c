"""CPT: context-aware prompt tuning (blau2024cpt; hf_peft#src/peft/tuners/cpt/model.py:CPTEmbedding).

    X <- [P + D; X],    |D_i| <= epsilon_i sqrt(d_embed / 2048)

The prompt P is a context of worked examples, as the model's own embeddings have it (`context`). Trained: a shift D
(prompt_length, d_embed), zero at the start, of which every row is brought back into its ball before it is used. Rows
of labels do not move at all, those of the template have a radius of their own. At inference P + D remains: `finish`
adds the two up. Inputs are `prompt_length` positions longer.

Until a context is given, P is noise, the same in every model, and its last `labels` rows count as labels. The paper's
loss, which is also taken at the labels inside the context, decaying with their distance, is the caller's, as is every
loss here.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._prompt import prepend

TEMPLATE, INPUT, LABEL = 1, 2, 0


class Context(kit.Child):
    """The context and what has been learned on top of it."""

    def __init__(self, d_embed: int, *, prompt_length: int, labels: int, epsilon: float, format_epsilon: float):
        super().__init__()
        noise = torch.Generator().manual_seed(0)
        self.P = nn.Parameter(torch.randn(prompt_length, d_embed, generator=noise), requires_grad=False)
        self.D = nn.Parameter(torch.zeros(prompt_length, d_embed))
        self.D.register_hook(self.hold)
        unit = (d_embed / 2048) ** 0.5
        self.radii = {INPUT: epsilon * unit, TEMPLATE: format_epsilon * unit, LABEL: 0.0}
        self.kinds = [INPUT] * (prompt_length - labels) + [LABEL] * labels

    def radius(self) -> Tensor:
        return torch.tensor([[self.radii[kind]] for kind in self.kinds]).to(self.D)     # (prompt_length, 1)

    def hold(self, gradient: Tensor) -> Tensor:
        return gradient * (self.radius() > 0)                       # (prompt_length, d_embed)

    def vectors(self) -> Tensor:
        if not hasattr(self, "D"):
            return self.P
        with torch.no_grad():
            norm = self.D.norm(dim=1, keepdim=True)                 # (prompt_length, 1)
            self.D.mul_(self.radius() / norm.maximum(self.radius()).clamp(min=1e-30))
        return self.P + self.D                                      # (prompt_length, d_embed)


def apply(
    model: nn.Module, *, prompt_length: int = 64, labels: int = 4, epsilon: float = 0.2, format_epsilon: float = 0.1
) -> nn.Module:
    """Freeze the model and put a context in front of its inputs."""
    kit.freeze(model)
    child = Context(
        kit.inventory(model).dims["d_embed"],
        prompt_length=prompt_length, labels=labels, epsilon=epsilon, format_epsilon=format_epsilon,
    )  # fmt: skip
    kit.attach(model, "cpt", child).extend(prepend(model, child.vectors, prompt_length))
    return model


@torch.no_grad()
def context(model: Any, tokens: Tensor, kinds: list[int]) -> nn.Module:
    """Begin with these tokens (prompt_length,), each a part of the TEMPLATE, of an INPUT or of a LABEL."""
    [child] = cast(list[Context], kit.attached(model, "cpt"))
    child.P.copy_(model.get_input_embeddings()(tokens))
    child.kinds = list(kinds)
    return cast(nn.Module, model)


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Add the shift to the context."""
    for child in cast(list[Context], kit.attached(model, "cpt")):
        child.P.copy_(child.vectors())
        del child.D
    return model

"""MPT: multitask prompt tuning (wang2023mpt).

    X <- [P * (u v); X],    u (prompt_length, rank), v (rank, d_embed)

One prompt is shared by all tasks, and each task scales its entries by a matrix of low rank. The shared prompt is
first learned from prompts that source tasks have taught (`distillation`), then tuned on the target. Trained, and
kept at inference: P, u and v; for further tasks that share P, u and v alone. What stands before the input is just
the product, so the three can be multiplied out once training has ended.

Both factors start near zero, as in peft, and with them the prompt. peft has twice the vectors for encoder-decoders.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, mse_loss

from . import _kit as kit
from ._prompt import prepend


class MultitaskPrompt(kit.Child):
    """The shared prompt as one task sees it."""

    def __init__(self, d_embed: int, *, prompt_length: int, rank: int):
        super().__init__()
        self.P = nn.Parameter(torch.randn(prompt_length, d_embed))
        self.u = nn.Parameter(0.02 * torch.randn(prompt_length, rank))
        self.v = nn.Parameter(0.02 * torch.randn(rank, d_embed))

    def vectors(self) -> Tensor:
        return self.P * (self.u @ self.v)                           # (prompt_length, d_embed)


def apply(model: nn.Module, *, prompt_length: int = 100, rank: int = 1, name: str = "mpt") -> nn.Module:
    """Freeze the model and put the task's form of the shared prompt in front of its inputs."""
    kit.freeze(model)
    prompt = MultitaskPrompt(kit.inventory(model).dims["d_embed"], prompt_length=prompt_length, rank=rank)
    kit.attach(model, name, prompt).extend(prepend(model, prompt.vectors, prompt_length))
    return model


def distillation(logits: Tensor, taught: Tensor, state: Tensor, taught_state: Tensor) -> Tensor:
    """How far the shared prompt is from one source task's own, the teacher: in predictions and in hidden states."""
    predictions = kl_div(logits.log_softmax(-1), taught.log_softmax(-1), log_target=True, reduction="none")
    return predictions.sum(-1).mean() + mse_loss(state, taught_state)

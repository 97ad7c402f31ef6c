"""P-tuning: GPT understands, too (liu2021ptuning; code_p_tuning#LAMA/p_tuning/prompt_encoder.py:PromptEncoder).

    X <- [P; X],    P = mlp(lstm(E))  while training

A small network makes the prompt from embeddings, so that its vectors depend on one another. `encoder="lstm"`: two
bidirectional layers, `encoder_hidden` = h wide in each direction, and an MLP 2h -> 2h -> d_embed;
`encoder="mlp"`: an MLP d_embed -> h -> h -> d_embed, as in peft. Trained: E (prompt_length, d_embed) and the
network. At inference P (prompt_length, d_embed) remains: `finish` computes it one last time and drops the rest.

The official code spreads the vectors over a template, here (as in peft) they all come first; half of it also
trains the language model. Its h is d_embed / 2, peft's d_embed. For encoder-decoders peft trains twice the
embeddings and uses the first half of the result.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._prompt import prepend


class PromptEncoder(kit.Child):
    """The network while training, its last output afterwards."""

    def __init__(self, d_embed: int, *, prompt_length: int, encoder: str, encoder_hidden: int):
        super().__init__()
        self.P = nn.Parameter(torch.zeros(prompt_length, d_embed), requires_grad=False)
        self.E = nn.Parameter(torch.randn(prompt_length, d_embed))
        widths = [d_embed, encoder_hidden, encoder_hidden, d_embed]
        if encoder == "lstm":
            self.lstm = nn.LSTM(d_embed, encoder_hidden, num_layers=2, bidirectional=True)
            widths = [2 * encoder_hidden, 2 * encoder_hidden, d_embed]
        layers = [part for a, b in pairwise(widths) for part in (nn.ReLU(), nn.Linear(a, b))]
        self.mlp = nn.Sequential(*layers[1:])

    def vectors(self) -> Tensor:
        if not hasattr(self, "E"):
            return self.P
        h = self.lstm(self.E)[0] if hasattr(self, "lstm") else self.E   # (prompt_length, 2h or d_embed)
        p: Tensor = self.mlp(h)                                         # (prompt_length, d_embed)
        return p


def apply(
    model: nn.Module, *, prompt_length: int = 9, encoder: str = "lstm", encoder_hidden: int, name: str = "p_tuning"
) -> nn.Module:
    """Freeze the model and put a prompt from a network in front of its inputs."""
    kit.freeze(model)
    d_embed = kit.inventory(model).dims["d_embed"]
    prompt = PromptEncoder(d_embed, prompt_length=prompt_length, encoder=encoder, encoder_hidden=encoder_hidden)
    kit.attach(model, name, prompt).extend(prepend(model, prompt.vectors, prompt_length))
    return model


@torch.no_grad()
def finish(model: nn.Module, name: str = "p_tuning") -> nn.Module:
    """Compute the prompt one last time and drop the network."""
    for child in kit.attached(model, name):
        if isinstance(child, PromptEncoder):
            child.P.copy_(child.vectors())
            for part in {"E", "lstm", "mlp"} & {*child._parameters, *child._modules}:
                delattr(child, part)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [prompt] = (child for child in kit.attached(model, "p_tuning") if isinstance(child, PromptEncoder))
    return prompt.vectors()

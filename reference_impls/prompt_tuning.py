"""Prompt tuning: the power of scale for parameter-efficient prompt tuning (lester2021prompt#section-2).

    X <- [P; X]

Vectors stand in front of the embedded input of a frozen model; an encoder-decoder has them in its encoder, as in
the paper. Trained, and all that remains at inference: P (prompt_length, d_embed), uniform in [-0.5, 0.5] at the
start (the authors' scripts start from embeddings of the class labels and of words instead). Inputs are `prompt_length`
positions longer.

peft doubles P for encoder-decoders and uses the first half, returns logits for the prompt's positions too, and
has the classifiers of encoders read the first vector of the prompt, where they read the first real token here. On
images this is the shallow form of visual prompt tuning.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._prompt import prepend


class Prompt(kit.Child):
    """What stands in front of the input."""

    def __init__(self, d_embed: int, *, prompt_length: int):
        super().__init__()
        self.P = nn.Parameter(torch.empty(prompt_length, d_embed).uniform_(-0.5, 0.5))

    def vectors(self) -> Tensor:
        return self.P                                               # (prompt_length, d_embed)


def apply(model: nn.Module, *, prompt_length: int = 100, name: str = "prompt_tuning") -> nn.Module:
    """Freeze the model and put a prompt in front of its inputs."""
    kit.freeze(model)
    prompt = Prompt(kit.inventory(model).dims["d_embed"], prompt_length=prompt_length)
    kit.attach(model, name, prompt).extend(prepend(model, prompt.vectors, prompt_length))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors: what enters the first layer."""
    entered: list[Tensor] = []
    first = kit.blocks(model, "layer")[0].module
    handle = first.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(inputs_embeds=inputs["x"])
    handle.remove()
    return entered[0]

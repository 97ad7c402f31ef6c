"""Progressive Prompts: continual learning with soft prompts (razdaibiedina2023progressive#abstract).

    X <- [P; P_(t-1); ...; P_1; X],    with the network P = E + LN(W_up relu(W_down E + b_down) + b_up)

Every task of a sequence has a prompt, and the newest stands first. Trained, and kept at inference: the prompt P of this
task (prompt_length, d_embed), which starts at embeddings of tokens. Kept but not trained: the prompts of the older
tasks, old_P (prompt_length * (tasks - 1), d_embed), given by `load`, the newest first. Until `load` they are noise, the
same in every model. With `network` E and the network are trained instead of P, and `finish` computes P from them.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from . import _kit as kit
from ._prompt import of_tokens, prepend


class Prompts(kit.Child):
    """The prompt of this task and those of the older tasks."""

    def __init__(self, tokens: Tensor, *, tasks: int, bottleneck: int | None):
        super().__init__()
        length, d = tokens.shape
        self.P = nn.Parameter(tokens, requires_grad=bottleneck is None)
        if tasks > 1:
            noise = torch.randn(length * (tasks - 1), d, generator=torch.Generator().manual_seed(0))
            self.register_parameter("old_P", nn.Parameter(noise, requires_grad=False))
        if bottleneck is not None:
            self.E = nn.Parameter(tokens.clone())
            for name, width, rows in (("down", d, bottleneck), ("up", bottleneck, d)):
                bound = 1 / math.sqrt(width)
                self.register_parameter(f"W_{name}", nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound)))
                self.register_parameter(f"b_{name}", nn.Parameter(torch.empty(rows).uniform_(-bound, bound)))
            self.gain = nn.Parameter(torch.ones(d))
            self.bias = nn.Parameter(torch.zeros(d))

    def own(self) -> Tensor:
        """The prompt of this task, (prompt_length, d_embed)."""
        if not hasattr(self, "E"):
            return self.P
        down, b_down, up, b_up = map(self.get_parameter, ("W_down", "b_down", "W_up", "b_up"))
        z = linear(torch.relu(linear(self.E, down, b_down)), up, b_up)              # (prompt_length, d_embed)
        return self.E + layer_norm(z, self.gain.shape, self.gain, self.bias)

    def vectors(self) -> Tensor:
        own = self.own()                                            # then (prompt_length * tasks, d_embed)
        return torch.cat([own, self.get_parameter("old_P")]) if hasattr(self, "old_P") else own


def apply(
    model: nn.Module, *, prompt_length: int = 10, tasks: int = 4, network: bool = False, bottleneck: int = 800,
    name: str = "progressive_prompts",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put prompts in front of its inputs. Raises UsageError for a model without a vocabulary."""
    tokens = of_tokens(model, prompt_length)
    kit.freeze(model)
    child = Prompts(tokens, tasks=tasks, bottleneck=bottleneck if network else None)
    kit.attach(model, name, child).extend(prepend(model, child.vectors, prompt_length * tasks))
    return model


@torch.no_grad()
def load(model: nn.Module, older: Sequence[Tensor], name: str = "progressive_prompts") -> nn.Module:
    """Copy the prompts of the older tasks, each (prompt_length, d_embed), in the order of the tasks."""
    [child] = cast(list[Prompts], kit.attached(model, name))
    child.get_parameter("old_P").copy_(torch.cat(list(reversed(older))))
    return model


@torch.no_grad()
def finish(model: nn.Module, name: str = "progressive_prompts") -> nn.Module:
    """Compute the prompt one last time and drop the network."""
    for child in kit.attached(model, name):
        if isinstance(child, Prompts) and hasattr(child, "E"):
            child.P.copy_(child.own())
            for part in {*child._parameters} - {"P", "old_P"}:
                delattr(child, part)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors: the embedded input of the encoder."""
    entered: list[Tensor] = []
    first = kit.blocks(model, "layer")[0].module
    handle = first.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(inputs_embeds=inputs["x"], decoder_input_ids=torch.zeros(len(inputs["x"]), 1, dtype=torch.long))
    handle.remove()
    return entered[0]

"""SCT: salient channel tuning (zhao2023sct; code_sct#models/vision_transformer_sct.py:ChannelAdapter).

    x_J <- x_J + A x_J + b

with x the state between the attention and the feed-forward block, after the residual sum, and J the `channels` channels
of it that are largest on the task's data. Trained, and kept at inference: A (channels, channels) and b. J is stored.

`calibrate` finds J. For each class of the task, a channel has the norm of its values over all patches of all images of
the class. The channels with the largest mean over the classes are chosen. Labels are those that the model is given;
without labels, all images are one class. A starts small and not at zero, so the model starts near to where it was.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._image import require_one_width


class Scores:
    """The sums of squares of every channel of each layer's state, for each class."""

    def __init__(self) -> None:
        self.squares: dict[tuple[nn.Module, int], Tensor] = {}
        self.labels: Tensor | None = None           # of the batch at hand

    def see(self, child: nn.Module, x: Tensor) -> None:
        """Take in the states of a batch, (batch, n, d_model). The class token is left out."""
        labels = [0] * len(x) if self.labels is None else self.labels.tolist()
        for label, one in zip(labels, x[:, 1:].square().sum(1), strict=True):       # (d_model,)
            key = child, label
            self.squares[key] = self.squares[key] + one if key in self.squares else one

    def largest(self, child: nn.Module, channels: int) -> Tensor:
        """Return the channels with the largest norm over a class's patches, averaged over the classes, in order."""
        norms = [squares.sqrt() for (one, _), squares in self.squares.items() if one is child]
        return torch.stack(norms).mean(0).topk(channels).indices.sort().values      # (channels,)


class Salient(kit.Child):
    """The layer on the chosen channels of one layer's state."""

    J: Tensor

    def __init__(self, d_model: int, *, channels: int):
        super().__init__()
        self.register_buffer("J", torch.arange(channels))
        self.A = nn.Parameter(torch.empty(channels, channels))
        self.b = nn.Parameter(torch.zeros(channels))
        nn.init.trunc_normal_(self.A, std=0.02)
        self.change: Tensor | None = None
        self.scores: Scores | None = None           # only while the channels are chosen; then nothing changes

    def before(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Add the change to the input of the norm. The residual sum around the feed-forward block lacks it still."""
        x = args[0]                                                 # (batch, n, d_model)
        if self.scores is not None:
            self.scores.see(self, x)
            return args
        self.change = linear(x.index_select(-1, self.J), self.A, self.b).to(x.dtype)    # (batch, n, channels)
        return x.index_add(-1, self.J, self.change), *args[1:]

    def behind(self, h: Tensor) -> Tensor:
        if self.change is None:
            return h
        y = h.index_add(-1, self.J, self.change)                    # (batch, n, d_model)
        if self.change.requires_grad:
            self.change.register_hook(self.forget)  # the second pass of a checkpoint makes it again, and adds nothing
        self.forget()
        return y

    def forget(self, _: Tensor | None = None) -> None:
        self.change = None                                          # keeps neither memory nor graph


def apply(model: nn.Module, *, channels: int = 96, name: str = "sct") -> nn.Module:
    """Freeze the model and put a layer on some channels behind every attention; `calibrate` then chooses them.

    Raises UsageError for a model of text, and for one whose layers differ in width.
    """
    require_one_width(model)
    kit.freeze(model)
    norms = _norms(model)
    for layer in kit.blocks(model, "layer"):
        child = Salient(layer.dims["d_model"], channels=channels)
        hooks = kit.attach(layer.module, name, child)
        hooks.append(norms[layer.layer].register_forward_pre_hook(child.before))
        hooks.append(kit.on_layer_output(layer.module, child.behind))
    return model


def _norms(model: nn.Module) -> dict[int, nn.Module]:
    """Return the norm before the feed-forward block of each layer."""
    return {
        weight.layer: model.get_submodule(weight.name.rpartition(".")[0])
        for weight in kit.weights(model) if weight.role == "norm.mlp" and weight.layer is not None
    }  # fmt: skip


@torch.no_grad()
def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose the channels of every layer by the plain model's states in the losses' forward passes."""
    children = [child for child in kit.attached(model, "sct") if isinstance(child, Salient)]
    scores = Scores()

    def given(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        scores.labels = kwargs.get("labels")

    hook = model.register_forward_pre_hook(given, with_kwargs=True)
    for child in children:
        child.scores = scores
    for _ in losses:
        pass                            # only the forward passes are needed
    hook.remove()
    for child in children:
        child.scores = None
        child.J.copy_(scores.largest(child, len(child.J)))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the first layer, and choose channels for a copy by the recorded states and labels; for the golden vectors."""
    layer = kit.blocks(model, "layer")[0].module
    [child, *_] = (child for child in kit.attached(layer, "sct") if isinstance(child, Salient))
    scores = Scores()
    scores.labels = inputs["labels"]
    scores.see(child, inputs["states"])
    return {"output": layer(inputs["x"]), "chosen": scores.largest(child, len(child.J))}

"""LoFiT: localized fine-tuning on representations (yin2024lofit; code_lofit).

    phase 1: z <- (1 + A) z in every attention head, A trained;  chosen: the `heads` heads with the largest |A|
    phase 2: z <- z + v in the chosen heads, v trained

with z the output of a head, in front of the output projection of its attention.

Trained: v (head_dim) of each chosen head, as a part of one vector (d_in) in front of every output projection; the other
parts are zero. `calibrate` is a plain phase 1, one step of Adam per loss, with a penalty on the size of A. Stored: the
vectors of the chosen heads, and which heads these are. At inference they are added as in training.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _sparse as sparse


class Offset(kit.Child):
    """The vectors of one attention's heads, one after the other."""

    mask: Tensor

    def __init__(self, d_in: int, n_heads: int, *, heads: int):
        super().__init__()
        self.head_dim, self.heads = d_in // n_heads, heads
        self.scale: Tensor | None = None  # A, in phase 1 only
        self.mask = torch.ones(n_heads, dtype=torch.bool)
        self.v = nn.Parameter(torch.empty(d_in).normal_(0, 1e-3))

    def before(self, x: Tensor) -> Tensor:
        if self.scale is not None:
            return x + self.scale * x  # (..., d_in)
        return x + self.v

    @property
    def each(self) -> Tensor:
        """The vector of each head."""
        return self.v.detach().view(-1, self.head_dim)  # (heads here, head_dim)


def apply(model: nn.Module, *, heads: int = 32, targets: tuple[str, ...] = ("attn.o",)) -> nn.Module:
    """Freeze the model and put a vector in front of every output projection; `calibrate` then chooses heads."""
    kit.freeze(model)
    numbers = {(block.stack, block.layer): block.dims["n_heads"] for block in kit.blocks(model, "attention")}
    for site in kit.sites(model, targets):
        assert site.layer is not None
        kit.attach(site, "lofit", Offset(site.d_in, numbers[site.stack, site.layer], heads=heads))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor], lr: float = 5e-3, penalty: float = 5e-4) -> nn.Module:
    """Run a plain phase 1, one step of Adam per loss, and end it. penalty: the weight of the sum of |A|."""
    scales = [torch.empty_like(child.v).normal_(0, 1e-3).requires_grad_(True) for child in _children(model)]
    optimizer = torch.optim.Adam(scales, lr=lr)
    for child, scale in zip(_children(model), scales, strict=True):
        child.scale = scale
    for loss in losses:
        optimizer.zero_grad()
        (loss + penalty * torch.stack([scale.abs().sum() for scale in scales]).sum()).backward()
        optimizer.step()
    return choose(model, [scale.detach() for scale in scales])


def sizes(model: nn.Module, scales: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return the norm of A of each head, by the number of its attention."""
    return {
        str(i): torch.linalg.vector_norm(scale.view(-1, child.head_dim), dim=1)
        for i, (child, scale) in enumerate(zip(_children(model), scales, strict=True))
    }


@torch.no_grad()
def choose(model: nn.Module, scales: Iterable[Tensor]) -> nn.Module:
    """End phase 1: choose the heads with the largest A, and train only their vectors, from new values."""
    children = _children(model)
    for i, mask in sparse.choose(sizes(model, scales), children[0].heads).items():
        child = children[int(i)]
        child.scale, child.mask = None, mask
        entries = mask.repeat_interleave(child.head_dim)  # (d_in,)
        child.v.normal_(0, 1e-3).mul_(entries)
        child.v.register_hook(partial(torch.mul, entries))
    return model


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the vectors of the chosen heads, and their numbers."""
    state: dict[str, Tensor] = {}
    for i, child in enumerate(_children(model)):
        state[f"{i}.v"] = child.each[child.mask]  # (chosen here, head_dim)
        state[f"{i}.v@"] = child.mask.nonzero()[:, 0]  # (chosen here,)
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Put one task's vectors into a fresh model."""
    for i, child in enumerate(_children(model)):
        child.v.zero_().view(-1, child.head_dim)[state[f"{i}.v@"]] = state[f"{i}.v"]
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run phase 1 with a recorded A, choose by it, and run phase 2 with the vectors there are; for the vectors."""
    children, scales = _children(model), list(inputs["A"])
    for child, scale in zip(children, scales, strict=True):
        child.scale = scale
    first: Tensor = model(input_ids=inputs["x"]).logits
    kept = [child.v.detach().clone() for child in children]
    choose(model, scales)
    for child, value in zip(children, kept, strict=True):
        child.v.data.copy_(value)
    return {
        "output": model(input_ids=inputs["x"]).logits,
        "first": first,
        "norms": torch.stack([*sizes(model, scales).values()]),  # (attentions, heads)
        "mask": torch.stack([child.mask for child in children]),  # (attentions, heads)
    }


def _children(model: nn.Module) -> list[Offset]:
    return [child for _, child in kit.at_sites(model, "lofit", Offset)]

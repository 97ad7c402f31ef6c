"""Uni-LoRA: one vector is all you need (li2025unilora; code_unilora).

    h = W_0 x + B A x,    every entry of every A and B is theta_j / sqrt(n_j) for a random j that fills n_j entries

Trained: theta (theta_d_length), which belongs to the model. Frozen: the indices j of all entries of A (r, d_in) and B
(d_out, r) beside every targeted weight. Every j occurs equally often, and a seed stores the indices. The division makes
the map from theta to all entries an isometry. theta starts small and random, so the start is near the pretrained model.
At inference BA is added to W_0.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shared(kit.Child):
    """The vector, and the factor on each of its numbers."""

    scale: Tensor

    def __init__(self, index: Tensor, size: int):
        super().__init__()
        self.theta = nn.Parameter(torch.empty(size).uniform_(-0.02, 0.02))
        self.register_buffer("scale", factors(index, size), persistent=False)

    def look_up(self, index: Tensor) -> Tensor:
        return (self.theta * self.scale)[index]


def factors(index: Tensor, size: int) -> Tensor:
    """1 over the square root of how often each number is used."""
    return index.bincount(minlength=size).rsqrt()


class UniLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    index_a: Tensor
    index_b: Tensor
    shared: Shared      # not a submodule

    def __init__(self, index_a: Tensor, index_b: Tensor, shared: Shared):
        super().__init__()
        kit.share(self, shared=shared)
        self.register_buffer("index_a", index_a)
        self.register_buffer("index_b", index_b)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.shared.look_up(self.index_a), self.shared.look_up(self.index_b)     # (r, d_in), (d_out, r)
        return y + x @ a.T @ b.T                                                        # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.shared.look_up(self.index_b) @ self.shared.look_up(self.index_a)    # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 4, theta_d_length: int = 23040,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put corrections that are filled from one vector beside every targeted weight."""
    kit.freeze(model)
    sites = kit.sites(model, targets)
    sizes = [size for site in sites for size in (r * site.d_in, r * site.d_out)]
    if theta_d_length > sum(sizes):
        raise ValueError(f"theta_d_length = {theta_d_length} is more than all {sum(sizes)} entries")
    # every number equally often; the remainder goes to numbers drawn at random
    index = torch.randperm(theta_d_length)[torch.randperm(sum(sizes)) % theta_d_length]
    shared = Shared(index, theta_d_length)
    kit.attach(model, "uni_lora", shared)
    parts = iter(index.split(sizes))
    for site in sites:
        a, b = next(parts).view(r, site.d_in), next(parts).view(site.d_out, r)
        kit.attach(site, "uni_lora", UniLoRA(a.clone(), b.clone(), shared))
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "uni_lora")


@torch.no_grad()
def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs and indices; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "uni_lora", UniLoRA)
    scale = factors(torch.cat([child.index_a.flatten(), child.index_b.flatten()]), len(child.shared.theta))
    child.shared.scale.copy_(scale)
    with torch.enable_grad():
        return {"output": site.module(inputs["x"]), "scale": scale}

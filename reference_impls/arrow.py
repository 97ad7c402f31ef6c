"""Arrow: routing among a library of LoRAs (ostapenko2024arrow; code_mttl).

    h = W_0 x + (alpha / r) sum_i s_i B_i A_i x,    s = softmax(|p_i . x| / temperature) over the top_k largest

Given beside every targeted weight, frozen: A (n_experts, r, d_in) and B (n_experts, d_out, r); `load` fills in an
expert that was trained as a LoRA. Computed, not trained: p (n_experts, d_in), the first right singular vector of each
B_i A_i; `finish` computes it once the experts are loaded. At inference everything stays. peft finds p by fifteen
steps of power iteration; here it is exact. The authors' code mixes the factors before it multiplies them, unless its
lora_merge_after is set.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class Experts(kit.Child):
    """The experts beside one weight, and their directions."""

    p: Tensor

    def __init__(self, d_in: int, d_out: int, *, n_experts: int, r: int, alpha: float, top_k: int, temperature: float):
        super().__init__()
        self.A = nn.Parameter(torch.randn(n_experts, r, d_in) * d_in**-0.5, requires_grad=False)
        self.B = nn.Parameter(torch.randn(n_experts, d_out, r) * r**-0.5, requires_grad=False)
        self.register_buffer("p", self.directions())
        self.scale, self.top_k, self.temperature = alpha / r, top_k, temperature

    @torch.no_grad()
    def directions(self) -> Tensor:
        """The first right singular vectors of B A, (n_experts, d_in); with A^T = Q R the product is B R^T Q^T."""
        q, r = torch.linalg.qr(self.A.mT)                           # (n_experts, d_in, r), (n_experts, r, r)
        v = torch.linalg.svd(self.B @ r.mT, full_matrices=False).Vh[:, 0]           # (n_experts, r)
        first: Tensor = (q @ v[..., None]).squeeze(-1)
        largest = first.gather(-1, first.abs().argmax(-1, keepdim=True))
        return first * largest.sign()                               # the sign has no meaning: make it the same always

    def shares(self, x: Tensor) -> Tensor:
        """How much of each expert a token gets, (..., n_experts)."""
        near = (x @ self.p.T).abs()
        best = near.topk(self.top_k, dim=-1)
        kept = torch.full_like(near, -torch.inf).scatter(-1, best.indices, best.values)
        return (kept / self.temperature).softmax(-1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = torch.einsum("...d,nrd->...nr", x, self.A) * self.shares(x)[..., None]
        return y + self.scale * torch.einsum("...nr,nor->...o", low, self.B)


@torch.no_grad()
def load(model: nn.Module, index: int, source: nn.Module, name: str = "lora") -> nn.Module:
    """Make a trained LoRA, on another copy of the model with the same targets, the expert of this index."""
    pairs = zip(kit.at_sites(model, "arrow", Experts), kit.at_sites(source, name, lora.LoRA), strict=True)
    for (_, experts), (_, pair) in pairs:
        experts.A[index], experts.B[index] = pair.A, pair.B * (pair.scale / experts.scale)
    return finish(model)


def apply(
    model: nn.Module, *, n_experts: int = 8, r: int = 4, alpha: float = 16.0, top_k: int = 4, temperature: float = 1.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*"),
) -> nn.Module:
    """Freeze the model and put experts beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Experts(
            site.d_in, site.d_out, n_experts=n_experts, r=r, alpha=alpha, top_k=top_k, temperature=temperature
        )
        kit.attach(site, "arrow", child)
    return model


def finish(model: nn.Module) -> nn.Module:
    """Compute the directions of the present experts."""
    for _, child in kit.at_sites(model, "arrow", Experts):
        child.p.copy_(child.directions())
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs and experts; for the golden vectors. Directions are up to their signs."""
    [(site, child)] = kit.at_sites(finish(model), "arrow", Experts)
    x = inputs["x"]
    output: Tensor = site.module(x)
    return {"output": output, "mixed_factors": output, "directions": child.p.abs(), "shares": child.shares(x)}


def unpack(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take over stored experts and compute their directions."""
    model.load_state_dict(dict(state), strict=False)
    finish(model)

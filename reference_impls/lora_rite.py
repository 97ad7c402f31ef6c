"""LoRA-RITE: steps that do not depend on how a product is split into factors (yen2024lorarite; code_lora_rite).

    h = W_0 x + s B A x,    A^T = Q_A R_A,   B = Q_B R_B,   s = alpha / r
    U_A = dL/dA^T R_B^-1,   V_A <- beta_2 P V_A P^T + (1 - beta_2) U_A^T U_A / d_in,   P = Q_B^T Q_B'
    M_A <- beta_1 M_A P^T + (1 - beta_1) U_A V_A^(-1/2),   A^T <- A^T - eta M_A R_B^-T,   and likewise B with Q_A, R_A

Q_B' is Q_B of the step before. Trained: A (r, d_in) and B (d_out, r), as in LoRA. What is new is in the optimizer: Adam
in the basis of the other factor, with a matrix V (r, r) in the place of squares. The decays are bias-corrected, so that
the first step has no history. At inference nothing is left: the product is added to W_0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import lora


class LoRARite(lora.LoRA):
    """A correction with the settings of its optimizer."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, clip: float, skip: float):
        super().__init__(d_in, d_out, r=r, alpha=alpha, dropout=dropout)
        self.clip, self.skip = clip, skip


class Half(NamedTuple):
    """One factor of a pair, with the gradient (d, r) in the basis (d', r) of the other factor."""

    factor: Tensor          # A^T or B: a view (d, r)
    gradient: Tensor
    basis: Tensor
    inverse: Tensor         # of the other factor's R (r, r)


class Rite(torch.optim.AdamW):
    """AdamW for all but the factors of the corrections."""

    def __init__(self, model: nn.Module, **settings: Any):
        self.pairs = [child for _, child in kit.at_sites(model, "lora_rite", LoRARite)]
        factors = [factor for child in self.pairs for factor in (child.A, child.B)]
        own = {id(factor) for factor in factors}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
        mine: dict[str, Any] = {"params": factors, "eps": 1e-6}
        super().__init__([{"params": others}, mine], **{"weight_decay": 0.0} | settings)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = groups[:1]
        found = super().step(closure)
        self.param_groups = groups
        self.update(groups[1])
        return found

    def update(self, group: dict[str, Any]) -> None:
        """Update all factors. Their gradients are clipped together."""
        halves = [
            (factor, half)
            for child in self.pairs if child.A.grad is not None and child.B.grad is not None
            for factor, half in zip((child.A, child.B), unmagnified(child), strict=True)
        ]  # fmt: skip
        if not halves:
            return
        whole = torch.stack([half.gradient.square().sum() for _, half in halves]).sum().sqrt()
        clip = self.pairs[0].clip
        factor = (clip / whole).clamp(max=1.0) if clip > 0 else torch.ones_like(whole)
        for parameter, half in halves:
            half.gradient.mul_(factor)
            self.move(half, self.state[parameter], group)

    def move(self, half: Half, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update one factor (d, r)."""
        (_, gradient, basis, inverse), (beta_1, beta_2) = half, group["betas"]
        step = state["step"] = state.get("step", 0) + 1
        if step == 1:
            state["M"], state["Q"] = torch.zeros_like(gradient), torch.zeros_like(basis)
            state["V"] = torch.zeros_like(inverse)
        turn = basis.T @ state["Q"]                                                 # (r, r)
        state["Q"] = basis
        decay = corrected(beta_2, step)
        state["V"] = (turn @ state["V"] @ turn.T).mul_(decay).addmm_(
            gradient.T, gradient, alpha=(1 - decay) / len(gradient)
        )
        decay = corrected(beta_1, step)
        taken = gradient @ inverse_root(state["V"], group["eps"])                   # (d, r)
        state["M"] = (state["M"] @ turn.T).mul_(decay).add_(taken, alpha=1 - decay)
        half.factor.mul_(1 - group["lr"] * group["weight_decay"])
        half.factor.addmm_(state["M"], inverse.T, alpha=-group["lr"])


def unmagnified(child: LoRARite) -> tuple[Half, Half]:
    """Return both factors of a correction with their gradients in the other's basis."""
    assert child.A.grad is not None
    assert child.B.grad is not None
    (basis_a, inverse_a), (basis_b, inverse_b) = split(child.A.T), split(child.B)
    halves = (
        Half(child.A.T, child.A.grad.T @ inverse_b, basis_b, inverse_b),
        Half(child.B, child.B.grad @ inverse_a, basis_a, inverse_a),
    )
    for half in halves:
        large = half.gradient.square().mean().sqrt() > child.skip if child.skip > 0 else False
        half.gradient.masked_fill_(torch.as_tensor(large), 0.0)
    return halves


def split(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q (d, r) and the inverse of R (r, r) of a factor (d, r)."""
    q, r = torch.linalg.qr(factor.to(wide(factor)))
    return q.to(factor.dtype), torch.linalg.pinv(r).to(factor.dtype)


def inverse_root(v: Tensor, eps: float) -> Tensor:
    """Return V^(-1/2) of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(v.to(wide(v)))
    found: Tensor = (vectors / (values.clamp(min=0.0).sqrt() + eps)) @ vectors.T
    return found.to(v.dtype)


def wide(tensor: Tensor) -> torch.dtype:
    """Return the type of a tensor, or float32 if decompositions do not have it."""
    return torch.promote_types(tensor.dtype, torch.float32)


def corrected(decay: float, step: int) -> float:
    """Return a decay with which a plain average needs no bias correction. step: 1 for the first one."""
    return float(decay * (1 - decay ** (step - 1)) / (1 - decay**step))


def optimizer(model: nn.Module, **settings: Any) -> Rite:
    """Return the optimizer of everything that is trained. settings: those of AdamW, such as `lr`."""
    return Rite(model, **settings)


def apply(
    model: nn.Module, *, r: int = 8, alpha: float = 16.0, dropout: float = 0.05, clip: float = 1.0, skip: float = 0.0,
    targets: tuple[str, ...] = ("attn.q", "attn.k", "attn.v", "xattn.q", "xattn.k", "xattn.v", "mlp.up", "mlp.down"),
) -> nn.Module:
    """Freeze the model and put a low-rank correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        if r > min(site.d_in, site.d_out):
            raise ValueError(f"rank {r} is larger than that of a weight of {site.d_out} x {site.d_in}")
        child = LoRARite(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, clip=clip, skip=skip)
        kit.attach(site, "lora_rite", child)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="lora_rite")


@torch.no_grad()
def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the module on `x`, and take steps with recorded gradients from recorded factors; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "lora_rite", LoRARite)
    with torch.enable_grad():
        output: Tensor = site.module(inputs["x"])
    one = LoRARite(site.d_in, site.d_out, r=len(child.A), alpha=1.0, dropout=0.0, clip=child.clip, skip=child.skip)
    one.to(child.A)
    one.A.copy_(inputs["A"])
    one.B.copy_(inputs["B"])
    own = Rite(nn.Sequential(one), lr=inputs["lr"].item())
    own.pairs = [one]
    for one.A.grad, one.B.grad in zip(inputs["grads_A"], inputs["grads_B"], strict=True):
        own.update(own.param_groups[1])
    moments = {f"{name}_{key}": own.state[one.get_parameter(key)][name] for name in "VM" for key in "AB"}
    return {"output": output, "A": one.A, "B": one.B, **moments}

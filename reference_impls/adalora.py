"""AdaLoRA: adaptive budget allocation (zhang2023adalora#section-3).

    h = W_0 x + (alpha / r) P diag(Lambda) Q x        r = init_r; P, Q kept near orthogonal by a penalty
    S_k = s(Lambda_k) + mean_j s(P_jk) + mean_j s(Q_kj),    s = smoothed |w dL/dw| times its smoothed variation

Trained: P (d_out, r), Lambda (r), Q (r, d_in) beside every targeted weight. A training loop adds gamma *
`penalty(model)` to its loss and calls `allocate(model, budget(...))` after each optimiser step: of all triplets
(Lambda_k, P_k, Q_k) in the model, the least important lose their Lambda_k, and may win it back. `finish` cuts
down to target_r triplets per weight on average. At inference the product is added to W_0. As in the authors'
code the scale keeps the initial r; peft's names are lora_B, lora_E, lora_A.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Triplets(nn.Module):
    """The correction beside one weight, in the form of a singular value decomposition."""

    def __init__(self, d_in: int, d_out: int, *, init_r: int, target_r: int, alpha: float):
        super().__init__()
        self.P = nn.Parameter(0.02 * torch.randn(d_out, init_r))
        self.Lambda = nn.Parameter(torch.zeros(init_r))
        self.Q = nn.Parameter(0.02 * torch.randn(init_r, d_in))
        self.scale, self.target_r = alpha / init_r, target_r
        self.sensitivity = dict.fromkeys(("P", "Lambda", "Q"), torch.zeros(()))     # running averages
        self.uncertainty = dict(self.sensitivity)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = self.Lambda * (x @ self.Q.T)              # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.P.T)        # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.P * self.Lambda) @ self.Q * self.scale         # (d_out, d_in)

    def penalty(self) -> Tensor:
        """||P^T P - I||^2 + ||Q Q^T - I||^2."""
        eye = torch.eye(len(self.Lambda)).to(self.P)
        return ((self.P.T @ self.P - eye) ** 2).sum() + ((self.Q @ self.Q.T - eye) ** 2).sum()

    @torch.no_grad()
    def observe(self, beta1: float, beta2: float) -> None:
        """Take the present gradients into the running averages."""
        for name, weight in self.named_parameters():
            if weight.grad is not None:
                now, mean, spread = (weight * weight.grad).abs(), self.sensitivity[name], self.uncertainty[name]
                self.sensitivity[name] = mean = beta1 * mean + (1 - beta1) * now
                self.uncertainty[name] = beta2 * spread + (1 - beta2) * (now - mean).abs()

    def importance(self) -> Tensor:
        """S of every triplet, (r,)."""
        s = {n: (self.sensitivity[n] * self.uncertainty[n]).expand_as(w) for n, w in self.named_parameters()}
        return s["Lambda"] + s["P"].mean(0) + s["Q"].mean(1)        # (r,), from (d_out, r) and (r, d_in)

    @torch.no_grad()
    def keep(self, chosen: Tensor) -> None:
        """Drop all but the chosen triplets for good."""
        self.P.data, self.Lambda.data, self.Q.data = self.P[:, chosen], self.Lambda[chosen], self.Q[chosen]


def budget(step: int, *, initial: int, final: int, total: int, warmup: int, cooldown: int) -> int:
    """How many triplets may live at this step: all during the warm-up, then fewer by a cubic, at last `final`."""
    done = (step - warmup) / (total - warmup - cooldown)
    return final + int((initial - final) * (1 - min(max(done, 0.0), 1.0)) ** 3)


def penalty(model: nn.Module) -> Tensor:
    """How far all P and Q are from orthogonal; the paper adds 0.1 to 0.5 of it to the loss."""
    return torch.stack([child.penalty() for _, child in kit.at_sites(model, "adalora", Triplets)]).sum()


@torch.no_grad()
def allocate(model: nn.Module, budget: int, *, beta1: float = 0.85, beta2: float = 0.85) -> list[Tensor]:
    """Zero the Lambda of all but the `budget` most important triplets. Returns who stays, per site (r,)."""
    children = [child for _, child in kit.at_sites(model, "adalora", Triplets)]
    for child in children:
        child.observe(beta1, beta2)
    scores = torch.cat([child.importance() for child in children])          # (all triplets,)
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[scores.topk(budget).indices] = True
    masks = list(stays.split([len(child.Lambda) for child in children]))
    for child, mask in zip(children, masks, strict=True):
        child.Lambda.mul_(mask)
    return masks


def apply(
    model: nn.Module, *, init_r: int = 12, target_r: int = 8, alpha: float = 16.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a prunable correction beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Triplets(site.d_in, site.d_out, init_r=init_r, target_r=target_r, alpha=alpha)
        kit.attach(site, "adalora", child)
    return model


def finish(model: nn.Module) -> nn.Module:
    """Prune to the final budget, target_r triplets per weight on average, and drop the others' vectors."""
    children = [child for _, child in kit.at_sites(model, "adalora", Triplets)]
    masks = allocate(model, sum(child.target_r for child in children))
    for child, mask in zip(children, masks, strict=True):
        child.keep(mask)
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    for site, child in kit.at_sites(model, "adalora", Triplets):
        site.weight.add_(child.delta())
    kit.detach(model, "adalora")
    return model

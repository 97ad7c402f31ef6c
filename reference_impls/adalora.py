"""AdaLoRA: adaptive budget allocation (zhang2023adalora#section-3).

    h = W_0 x + alpha / (r + 0.00001) P diag(Lambda) Q x        r = init_r; P, Q kept near orthogonal by a penalty
    S_k = s(Lambda_k) + mean_j s(P_jk) + mean_j s(Q_kj),    s = smoothed |w dL/dw| times its smoothed variation

Trained: P (d_out, r), Lambda (r), Q (r, d_in) beside every targeted weight. A training loop adds gamma *
`penalty(model)` to its loss and calls `allocate(model, budget(...))` after each optimiser step: of all triplets
(Lambda_k, P_k, Q_k) in the model, the least important lose their Lambda_k, and may win it back. In the last `cooldown`
steps it calls `allocate` with observe=False, so that the choice stays as it is. `finish` cuts down to target_r
triplets per weight on average. The authors score in every step, and prune in every `mask_interval`-th only. At
inference the product is added to W_0. As in the authors' code the scale keeps the initial r, and a small number is
added to it; peft's names are lora_B, lora_E, lora_A.
"""

import copy

import torch
from torch import Tensor, nn

from . import _kit as kit


class Triplets(kit.Child):
    """The correction beside one weight, in the form of a singular value decomposition."""

    def __init__(self, d_in: int, d_out: int, *, init_r: int, target_r: int, alpha: float):
        super().__init__()
        self.P = nn.Parameter(0.02 * torch.randn(d_out, init_r))
        self.Lambda = nn.Parameter(torch.zeros(init_r))
        self.Q = nn.Parameter(0.02 * torch.randn(init_r, d_in))
        self.scale, self.target_r = alpha / (init_r + 1e-5), target_r
        self.sensitivity = dict.fromkeys(("P", "Lambda", "Q"), torch.zeros(()))     # running averages
        self.uncertainty = dict(self.sensitivity)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low = self.Lambda * (x @ self.Q.T)                          # (..., d_in) -> (..., r)
        return y + self.scale * (low @ self.P.T)                    # (..., r) -> (..., d_out)

    def delta(self) -> Tensor:
        return (self.P * self.Lambda) @ self.Q * self.scale         # (d_out, d_in)

    def observe(self, beta1: float, beta2: float) -> None:
        """Take the present gradients into the running averages."""
        for name, weight in self.named_parameters():
            if weight.grad is not None:
                now = (weight * weight.grad).abs()
                self.sensitivity[name] = beta1 * self.sensitivity[name] + (1 - beta1) * now
                spread = (now - self.sensitivity[name]).abs()
                self.uncertainty[name] = beta2 * self.uncertainty[name] + (1 - beta2) * spread

    def importance(self) -> Tensor:
        s = {n: (self.sensitivity[n] * self.uncertainty[n]).expand_as(w) for n, w in self.named_parameters()}
        return s["Lambda"] + s["P"].mean(0) + s["Q"].mean(1)        # (r,), from (d_out, r) and (r, d_in)


def triplets(model: nn.Module) -> list[Triplets]:
    """Return the corrections of the model, in the order of its modules."""
    return [child for _, child in kit.at_sites(model, "adalora", Triplets)]


def departures(model: nn.Module) -> Tensor:
    """How far P^T P and Q Q^T of every weight are from the identity: Frobenius norms, P first (2 for each weight,)."""
    grams = [gram for child in triplets(model) for gram in (child.P.T @ child.P, child.Q @ child.Q.T)]      # (r, r)
    return torch.stack([(gram - torch.eye(len(gram)).to(gram)).norm() for gram in grams])


def penalty(model: nn.Module) -> Tensor:
    """Sum of the squared departures over all weights, as in the paper; the loss adds a multiple of it."""
    return (departures(model) ** 2).sum()


def budget(step: int, *, initial: int, final: int, total: int, warmup: int, cooldown: int) -> int:
    """How many triplets may live at this step: all during the warm-up, then fewer by a cubic, at last `final`."""
    done = (step - warmup) / (total - warmup - cooldown)
    return final + int((initial - final) * (1 - min(max(done, 0.0), 1.0)) ** 3)


@torch.no_grad()
def allocate(
    model: nn.Module, budget: int, *, beta1: float = 0.85, beta2: float = 0.85, observe: bool = True
) -> list[Tensor]:
    """Zero the Lambda of all but the `budget` most important triplets. Returns the masks, per weight (r,).

    With `observe` the scores first take in the present gradients. Without it they stay as they are.
    """
    children = triplets(model)
    for child in children if observe else ():
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
    """Freeze the model and put triplets beside every targeted weight."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        child = Triplets(site.d_in, site.d_out, init_r=init_r, target_r=target_r, alpha=alpha)
        kit.attach(site, "adalora", child)
    return model


@torch.no_grad()
def finish(model: nn.Module) -> None:
    """Prune to the final budget by the scores so far, and drop the pruned triplets."""
    children = triplets(model)
    masks = allocate(model, sum(child.target_r for child in children), observe=False)
    for child, mask in zip(children, masks, strict=True):
        child.P.data, child.Lambda.data, child.Q.data = child.P[:, mask], child.Lambda[mask], child.Q[mask]


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "adalora")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [(site, child)] = kit.at_sites(model, "adalora", Triplets)
    warmup, cooldown, total = inputs["schedule"].tolist()
    plan = [
        budget(step, initial=len(child.Lambda), final=child.target_r, total=total, warmup=warmup, cooldown=cooldown)
        for step in range(1, total + 1)
    ]
    trial = copy.deepcopy(model)
    [pruned] = triplets(trial)
    kept = scores = torch.zeros(())
    for step, alive in (1, len(child.Lambda)), (2, child.target_r), (3, child.target_r):     # the third in the cooldown
        for name, weight in pruned.named_parameters():
            weight.grad = inputs[f"grad_{name}_{step}"]
        [kept] = allocate(trial, alive, observe=step < 3)
        scores = pruned.importance()
    output = model.get_submodule(site.path)(inputs["x"])
    return {
        "output": output, "departures": departures(model), "penalty": penalty(model), "schedule": torch.tensor(plan),
        "scores": scores, "kept": kept,
    }  # fmt: skip

"""AdaMix: mixture of adaptations (wang2022adamix).

    h <- h + U_k gelu(D_j h + d_j) + u_k    j, k drawn anew for each batch and layer while training
    h <- h + W_up gelu(W_down h + b_down) + b_up    afterwards, each the mean of its copies

Behind every feed-forward block there are several copies of an adapter's halves, of which each batch takes a random
one. That makes the copies different and robust, so that in the end they can be averaged. Trained: `n_experts` of D
(bottleneck, d_model) with biases, and one U or, without `share_up`, as many. Kept at inference: one adapter, the
means (`finish`; outside training the means are used before, too). A second term of the loss, `consistency`,
asks two passes with different draws to agree.

The mean of what the copies do is what their mean does in each linear map, not across the activation. Every copy
starts with draws of its own. The same with LoRA as the module is not here.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, kl_div, linear, one_hot

from . import _kit as kit

HALVES = {"W_down": "D", "b_down": "d", "W_up": "U", "b_up": "u"}


class Mixture(kit.Child):
    """The copies of one layer's adapter, and their means."""

    def __init__(self, d_model: int, *, bottleneck: int, n_experts: int, share_up: bool):
        super().__init__()
        n_up = 1 if share_up else n_experts
        self.D = nn.ParameterList(0.02 * torch.randn(bottleneck, d_model) for _ in range(n_experts))
        self.d = nn.ParameterList(torch.zeros(bottleneck) for _ in range(n_experts))
        self.U = nn.ParameterList(0.02 * torch.randn(d_model, bottleneck) for _ in range(n_up))
        self.u = nn.ParameterList(torch.zeros(d_model) for _ in range(n_up))
        for mean, copies in HALVES.items():
            setattr(self, mean, nn.Parameter(self.mean(copies), requires_grad=False))

    def copies(self, name: str) -> Tensor:
        return torch.stack([*getattr(self, name)])                  # (copies, ...)

    def mean(self, name: str) -> Tensor:
        return self.copies(name).mean(dim=0)

    def halves(self) -> list[Tensor]:
        """D, d, U and u of this pass: drawn while training, else the means."""
        if not hasattr(self, "D"):
            return [getattr(self, mean) for mean in HALVES]
        if not self.training:
            return [self.mean(name) for name in HALVES.values()]
        drawn = []
        for pair in ("Dd", "Uu"):
            n = len(getattr(self, pair[0]))
            choice = one_hot(torch.randint(n, ()), n)               # a sum, so that all copies get a gradient, if zero
            drawn += [torch.tensordot(choice.to(c), c, dims=1) for c in map(self.copies, pair)]
        return drawn

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        w_down, b_down, w_up, b_up = self.halves()
        z = gelu(linear(h, w_down, b_down))                         # (..., d_model) -> (..., bottleneck)
        return h + linear(z, w_up, b_up)                            # (..., bottleneck) -> (..., d_model)


def apply(
    model: nn.Module, *, bottleneck: int = 48, n_experts: int = 4, share_up: bool = True, name: str = "adamix"
) -> nn.Module:
    """Freeze the model and put a mixture of adapters behind every feed-forward block."""
    kit.freeze(model)
    for block in kit.blocks(model, "mlp"):
        mixture = Mixture(block.dims["d_model"], bottleneck=bottleneck, n_experts=n_experts, share_up=share_up)
        kit.attach(block.sites["mlp.down"], name, mixture)
    return model


def consistency(logits: Tensor, again: Tensor) -> Tensor:
    """How far two passes with different draws are from each other: the mean of both divergences.

    Each pass is a fixed target for the other: no gradient flows into the target of a divergence.
    """
    p, q = logits.log_softmax(-1), again.log_softmax(-1)
    there = kl_div(q, p.detach(), log_target=True, reduction="none")
    back = kl_div(p, q.detach(), log_target=True, reduction="none")
    return (there + back).sum(-1).mean() / 2


@torch.no_grad()
def finish(model: nn.Module, name: str = "adamix") -> nn.Module:
    """Average the copies and drop them."""
    for child in kit.attached(model, name):
        if isinstance(child, Mixture):
            for mean, copies in HALVES.items():
                getattr(child, mean).copy_(child.mean(copies))
            for copies in HALVES.values():
                delattr(child, copies)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    logits = inputs["logits"].requires_grad_()
    apart = consistency(logits, inputs["again"])
    [gradient] = torch.autograd.grad(apart, logits)
    torch.manual_seed(int(inputs["seed"]))
    output = kit.blocks(model, "mlp")[0].sites["mlp.down"].module(inputs["x"])
    return {"output": output, "consistency": apart, "consistency_grad": gradient}

"""FRoD: full-rank fine-tuning with rotational degrees (wan2026frod; code_frod).

    h = U (diag(lambda_l) + S) V^T x,    W_0 = U diag(lambda_l at the start) V^T,    S zero but for the numbers lambda_s

V (d_in, d_in) is common to all weights of a role, U (d_out, d_in) belongs to each, with columns of length one. Both are
frozen and come from the pretrained weights. Trained: lambda_l (d_in) and lambda_s of every targeted weight; S has its
numbers where the role's random positions say, off the diagonal. The weights and a seed give back what is frozen. At
inference the product takes the place of W_0. The authors' code adds the product to W_0 x instead.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shared(kit.Child):
    """The basis of one role, and where its weights have cross terms."""

    V: Tensor
    positions: Tensor

    def __init__(self, weights: list[Tensor], *, sparse_rate: float, regularization_alpha: float):
        super().__init__()
        self.register_buffer("V", basis(weights, regularization_alpha))
        d = len(self.V)
        n = min(max(1, int(d * d * sparse_rate)), d * (d - 1))
        chosen = torch.randperm(d * (d - 1))[:n]
        self.register_buffer("positions", chosen + chosen // d + 1)     # in a square, row by row, past the diagonal


def wide(x: Tensor) -> Tensor:
    """As a type that linear algebra has: float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def basis(weights: list[Tensor], alpha: float) -> Tensor:
    """A common basis (d_in, d_in) of the rows of several (d_out, d_in), by a joint decomposition."""
    stacked = wide(torch.cat(weights))
    if len(stacked) < stacked.shape[1]:
        right: Tensor = torch.linalg.svd(stacked)[2]
        return right.T
    q, r = torch.linalg.qr(stacked)                                     # (all rows, d_in), (d_in, d_in)
    ridge = alpha * torch.eye(len(r)).to(r)
    parts = q.split([len(weight) for weight in weights])
    mean = torch.stack([torch.linalg.inv(part.T @ part + ridge) for part in parts]).mean(0)
    directions: Tensor = r.T @ torch.linalg.eigh(mean)[1]
    return directions


class FRoD(kit.Child):
    """What takes the place of one weight of shape (d_out, d_in)."""

    U: Tensor
    site: kit.Site
    shared: Shared      # not a submodule

    def __init__(self, weight: Tensor, shared: Shared):
        super().__init__()
        kit.share(self, shared=shared)
        inside = torch.linalg.solve(wide(shared.V), wide(weight.T)).T   # (d_out, d_in)
        lengths = inside.norm(dim=0)
        self.register_buffer("U", inside / lengths.clamp(min=1e-12))
        self.lambda_l = nn.Parameter(lengths)
        self.lambda_s = nn.Parameter(torch.zeros(len(shared.positions)))

    def core(self) -> Tensor:
        flat = self.lambda_l.diag().flatten()
        return flat.index_copy(0, self.shared.positions, self.lambda_s).view_as(self.shared.V)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        change = x @ self.shared.V @ self.core().T @ self.U.T           # (..., d_in) -> (..., d_out)
        return y + change - x @ self.site.weight.T

    def weight(self) -> Tensor:
        return self.U @ self.core() @ self.shared.V.T                   # (d_out, d_in)


def apply(
    model: nn.Module, *, sparse_rate: float = 0.01, regularization_alpha: float = 0.001,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model, and write every targeted weight in the basis of its role."""
    kit.freeze(model)
    for role, sites in kit.by_role(model, targets).items():
        weights = [site.weight.detach() for site in sites]
        shared = Shared(weights, sparse_rate=sparse_rate, regularization_alpha=regularization_alpha)
        kit.attach(model, f"frod.{role.replace('.', '_')}", shared)
        for site, weight in zip(sites, weights, strict=True):
            kit.attach(site, "frod", FRoD(weight, shared))
    return model


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Put the trained weights in the place of the pretrained ones."""
    for site, child in kit.at_sites(model, "frod", FRoD):
        site.weight.copy_(child.weight())
    kit.detach(model, "frod")
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors. The replacement is U (diag + S) V^T x."""
    x = inputs["x"]
    children = list(kit.at_sites(model, "frod", FRoD))
    output = torch.cat([site.module(x) for site, _ in children], dim=-1)
    return {"output": output, "replacement": torch.cat([x @ child.weight().T for _, child in children], dim=-1)}

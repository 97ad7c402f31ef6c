"""EVA: explained variance adaptation (paischer2024eva).

    A = the first r_i principal directions of what module i reads,   h = W_0 x + (alpha / r_i) B A x
    r_i: of all directions of all modules those that explain the largest shares of their module's variance, r on average

Trained: A (r_i, d_in), found by `calibrate` on a few batches, and B (d_out, r_i), which starts at zero. No module
receives more than rho r directions; what is left of that room is zero, stays so, and goes when training has ended
(`finish`). At inference the product is added to W_0. The scale follows the module's own rank, as in the authors'
code; peft keeps alpha / r. Both update the directions batch by batch until they hold still; here the moments of all
batches are decomposed once.
"""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _starts, lora


class EVA(lora.LoRA):
    """The correction beside one weight, with room for rho r directions. Those that are not used are zero."""

    def __init__(self, d_in: int, d_out: int, *, r: int, alpha: float, dropout: float, rho: float):
        super().__init__(d_in, d_out, r=int(rho * r), alpha=alpha, dropout=dropout)
        self.r, self.alpha = r, alpha
        self.use(r)

    @property
    def rank(self) -> int:
        """How many directions are used."""
        return int(self.A.detach().any(1).sum())

    @property
    def gain(self) -> float:
        """The factor on the product: alpha over the module's own rank."""
        return self.alpha / max(self.rank, 1)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        low: Tensor = self.dropout(x) @ self.A.T                    # (..., d_in) -> (..., rho r)
        return y + self.gain * (low @ self.B.T)                     # (..., rho r) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.A * self.gain                          # (d_out, d_in)

    @torch.no_grad()
    def use(self, rank: int) -> None:
        """Use the first `rank` directions only."""
        self.A[rank:] = 0.0             # no gradient reaches these rows, nor the columns of B behind them


class Moments:
    """How what a module reads varies, over all positions seen."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def see(self, x: Tensor) -> None:
        self.count += len(x)
        self.sum = self.sum.to(x) + x.sum(0)                                            # (d_in,)
        self.squares = self.squares.to(x) + x.T @ x                                     # (d_in, d_in)

    def principal(self, n: int) -> tuple[Tensor, Tensor]:
        """The n directions of largest variance (n, d_in), and their shares of it (n,)."""
        mean = self.sum / self.count
        values, vectors = torch.linalg.eigh(self.squares / self.count - mean[:, None] * mean)
        return vectors.T.flip(0)[:n], (values.flip(0) / values.sum())[:n]


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 1.0, dropout: float = 0.0, rho: float = 2.0,
    targets: tuple[str, ...] = ("attn.*", "xattn.*", "mlp.*"),
) -> nn.Module:
    """Freeze the model and put a correction beside every targeted weight; `calibrate` then gives it its directions."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, "eva", EVA(site.d_in, site.d_out, r=r, alpha=alpha, dropout=dropout, rho=rho))
    return model


@torch.no_grad()
def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Find all directions in the inputs that the losses' forward passes show, and share the ranks out."""
    pairs = list(kit.at_sites(model, "eva", EVA))
    moments: dict[nn.Module, Moments] = {site.module: Moments() for site, _ in pairs}
    _starts.read(list(moments), losses, lambda host, x: moments[host].see(x))
    shares = []
    for site, child in pairs:
        directions, share = moments[site.module].principal(len(child.A))
        child.A.copy_(directions)
        shares.append(share)
    chosen = torch.cat(shares).argsort(descending=True, stable=True)[: sum(child.r for _, child in pairs)]
    owner = torch.arange(len(pairs)).repeat_interleave(len(shares[0]))[chosen]
    for (_, child), rank in zip(pairs, owner.bincount(minlength=len(pairs)).tolist(), strict=True):
        child.use(rank)
    return model


@torch.no_grad()
def finish(model: nn.Module) -> nn.Module:
    """Drop the directions that are not used."""
    for _, child in kit.at_sites(model, "eva", EVA):
        child.A.data, child.B.data = child.A[: child.rank].clone(), child.B[:, : child.rank].clone()
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return lora.merge(model, name="eva")


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the first module, and calibrate a copy on the recorded inputs of two; for the golden vectors."""
    output = next(site.module for site, _ in kit.at_sites(model, "eva", EVA))(inputs["x"])
    model = copy.deepcopy(model)
    up, down = (site.module for site, _ in kit.at_sites(model, "eva", EVA))
    calibrate(model, (up(inputs["x"]).sum() + down(inputs["z"]).sum() for _ in range(1)))
    first, second = (child for _, child in kit.at_sites(model, "eva", EVA))
    return {
        "output": output,
        "ranks": torch.tensor([first.rank, second.rank]), "scales": torch.tensor([first.gain, second.gain]),
        "directions_up": first.A.abs(), "directions_down": second.A.abs(),
    }

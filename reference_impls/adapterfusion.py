"""AdapterFusion: non-destructive task composition for transfer learning (pfeiffer2021adapterfusion).

    LN(h + x) <- LN(h + x + F(LN(h + x)))  where a norm follows the residual,    y <- y + F(y)  elsewhere
    F(y) = sum over n of  p_n V z_n,    z_n = W_up,n relu(W_down,n y + b_down,n) + b_up,n
    p = softmax over n of  (Q y + q) . (K z_n + k)

First, N adapters are trained, each for its own task; then they are frozen side by side, and an attention in every
layer learns how much of each a position needs. `apply` is the second stage, `adopt` takes the results of the first.
Trained: Q, K and V (d_model, d_model) with biases q and k. At inference all of it remains, the N adapters included.
V starts as the identity, `regulariser` pulls it back there.

The bias k cannot matter, as the softmax cancels it; the authors' library has it, so it is counted. The fusion stands
where the adapter of `pfeiffer_adapter` does.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._bottleneck import Bottleneck
from .pfeiffer_adapter import Placed

ADAPTER = ("W_down", "b_down", "W_up", "b_up")


class Fusion(Placed):
    """N frozen adapters of one layer, and the attention over them."""

    def __init__(self, d: int, *, adapters: int, bottleneck: int):
        super().__init__()
        trained = [Bottleneck(d, bottleneck=bottleneck) for _ in range(adapters)]
        for tensor in ADAPTER:
            values = [nn.Parameter(getattr(one, tensor).data, requires_grad=False) for one in trained]
            self.add_module(tensor, nn.ParameterList(values))
        self.Q = nn.Parameter(0.02 * torch.randn(d, d))
        self.q = nn.Parameter(torch.zeros(d))
        self.K = nn.Parameter(0.02 * torch.randn(d, d))
        self.k = nn.Parameter(torch.zeros(d))
        self.V = nn.Parameter(torch.full((d, d), 1e-6).fill_diagonal_(1.0))

    def own(self, tensor: str) -> nn.ParameterList:
        return cast(nn.ParameterList, getattr(self, tensor))

    def outputs(self, h: Tensor) -> Tensor:
        each = zip(*(self.own(tensor) for tensor in ADAPTER), strict=True)
        z = [linear(torch.relu(linear(h, down, b)), up, c) for down, b, up, c in each]      # N times (..., d)
        return torch.stack(z, dim=-2)                               # (..., N, d)

    def weights(self, h: Tensor, z: Tensor) -> Tensor:
        scores = linear(z, self.K, self.k) @ linear(h, self.Q, self.q)[..., None]           # (..., N, 1)
        return scores.squeeze(-1).softmax(dim=-1)                   # (..., N)

    def delta(self, h: Tensor) -> Tensor:
        z = self.outputs(h)
        mixed = self.weights(h, z)[..., None, :] @ linear(z, self.V)                        # (..., 1, d)
        return mixed.squeeze(-2)                                    # (..., d)


def apply(model: nn.Module, *, adapters: int = 16, bottleneck: int, name: str = "adapterfusion") -> nn.Module:
    """Freeze the model, and put a fusion of so many frozen adapters into every layer."""
    kit.freeze(model)
    for layer in kit.blocks(model, "layer"):
        child = Fusion(layer.dims["d_model"], adapters=adapters, bottleneck=bottleneck)
        kit.attach(layer.module, name, child).append(child.act(model, layer.module, layer.sites["mlp.down"].path))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    return {"output": model(**batch).last_hidden_state, "penalty": regulariser(model)}


@torch.no_grad()
def adopt(model: nn.Module, sources: Sequence[nn.Module]) -> nn.Module:
    """Take over, as its n-th adapters, those of the n-th source: models with one adapter behind each block."""
    fusions = [child for child in kit.attached(model, "adapterfusion") if isinstance(child, Fusion)]
    for n, source in enumerate(sources):
        trained = [module for module in source.modules() if isinstance(module, Bottleneck)]
        for fusion, adapter in zip(fusions, trained, strict=True):
            for tensor in ADAPTER:
                fusion.own(tensor)[n].copy_(getattr(adapter, tensor))
    return model


def regulariser(model: nn.Module) -> Tensor:
    """What training adds to the loss: 0.01 times the squared distance of every V from the identity."""
    values = [child.V for child in kit.attached(model, "adapterfusion") if isinstance(child, Fusion)]
    return 0.01 * torch.stack([(v - torch.eye(len(v)).to(v)).square().sum() for v in values]).sum()

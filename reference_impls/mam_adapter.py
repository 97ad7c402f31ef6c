"""MAM adapter: mix-and-match (he2022unified#section-4.6).

    head = attend(Q, [P_k; K], [P_v; V])    and    h = F(x) + s (W_up relu(W_down x + b_down) + b_up)

A short prefix at every attention and a wide parallel adapter at every feed-forward block: the designs that the
paper's comparison found best at each place. It is made of the two methods themselves. Trained: the MLP that emits
the prefixes (or the prefixes) and the adapters. At inference prefixes and adapters remain.

The official code builds three prefix MLPs even for encoders, which need one, and in RoBERTa a second adapter that
nothing uses; counts of tens of millions that are quoted for this method include both.
"""

from torch import nn

from . import parallel_adapter, prefix_tuning


def apply(
    model: nn.Module, *, prefix_length: int = 30, use_mlp: bool = True, mid_dim: int = 800,
    bottleneck: int = 512, scale: float = 4.0, name: str = "mam_adapter",
) -> nn.Module:
    """Freeze the model and give it both."""
    prefix_tuning.apply(
        model, prefix_length=prefix_length, use_mlp=use_mlp, mid_dim=mid_dim, name=f"{name}.prefix"
    )
    return parallel_adapter.apply(model, bottleneck=bottleneck, scale=scale, name=f"{name}.adapter")


def finish(model: nn.Module, name: str = "mam_adapter") -> nn.Module:
    """Compute the prefixes one last time and drop what emitted them."""
    return prefix_tuning.finish(model, f"{name}.prefix")


probe = parallel_adapter.probe

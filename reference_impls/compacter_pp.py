"""Compacter++: Compacter behind the feed-forward blocks only (karimi2021compacter#section-3.2).

    h <- h + W_up^T gelu(W_down^T h + b_down) + b_up,    W = sum over i of  A_i kron (s_i t_i)

The module is Compacter's; it stands in half as many places. Trained, and kept at inference: A (n, n, n), which the
whole model shares, the thin factors s and t and the biases of every adapter and, with `train_norms`, every norm.
"""

from torch import nn

from . import compacter


def apply(
    model: nn.Module, *, bottleneck: int = 24, n: int = 4, phm_rank: int = 1, train_norms: bool = True,
    targets: tuple[str, ...] = ("mlp.down",),
) -> nn.Module:
    """Freeze the model but for its norms, and put an adapter behind every feed-forward block."""
    return compacter.apply(
        model, bottleneck=bottleneck, n=n, phm_rank=phm_rank, train_norms=train_norms, targets=targets,
        name="compacter_pp.base",
    )  # fmt: skip

"""AdapterSoup: weight averaging to improve generalization of pretrained language models (chronopoulou2023adaptersoup).

    theta = 1 / l  sum over i in S of  theta_i,    h <- h + W_up relu(W_down h + b_down) + b_up  with that theta

One adapter is trained for each domain, by itself. For a domain that none was trained on, `choose` finds the l most
similar of them from embeddings of some texts, and `soup` averages their weights. `apply` is the adapter of one
domain. Trained, for each domain: W_down (bottleneck, d_model), W_up (d_model, bottleneck) and their biases; for the
new domain nothing. At inference one adapter remains, whatever l is.

The paper's other way to choose, clusters of texts, did best there; similarity is the shorter one. Adapters should
start from the same weights (give `apply` the same seed), since averaging units that do not match destroys them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from . import _kit as kit
from ._bottleneck import Bottleneck


def apply(model: nn.Module, *, bottleneck: int, name: str = "adaptersoup") -> nn.Module:
    """Freeze the model and put an adapter behind every feed-forward block."""
    kit.freeze(model)
    for block in kit.blocks(model, "mlp"):
        kit.attach(block.sites["mlp.down"], name, Bottleneck(block.dims["d_model"], bottleneck=bottleneck))
    return model


def choose(domains: Tensor, new: Tensor, *, number: int) -> list[int]:
    """The `number` domains whose texts are most similar to the new domain's.

    domains: (domains, texts, width), new: (texts, width), embeddings of some sentences of each.
    """
    means = domains.mean(dim=1)                                     # (domains, width)
    similar = cosine_similarity(means, new.mean(dim=0), dim=-1)     # (domains,)
    return similar.topk(number).indices.tolist()


@torch.no_grad()
def soup(model: nn.Module, chosen: Sequence[nn.Module], name: str = "adaptersoup") -> nn.Module:
    """Give `model` the mean of the adapters of the chosen models. All have had this method applied."""
    for mine, *others in zip(*(kit.attached(one, name) for one in (model, *chosen)), strict=True):
        for parameter, *same in zip(mine.parameters(), *(other.parameters() for other in others), strict=True):
            parameter.copy_(torch.stack(same).mean(dim=0))
    return model

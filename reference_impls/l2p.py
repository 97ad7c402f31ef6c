"""L2P: learning to prompt for continual learning (wang2022l2p; code_l2p#models/prompt.py:Prompt).

    X <- [c; P_i1; ...; P_ik; E],    {i1, ..., ik} = the k largest of cos(q(x), K_i),    loss - pull * sum of these

A pool of prompts serves all tasks. Each prompt has a key. q(x) is the last state of the class token when the plain
model reads the image. The prompts with the most similar keys enter behind the position embeddings. The head reads the
mean of their last states in place of the class token's. With `batchwise`, all images of a batch use the prompts that
most of them chose.

Trained in every task, and kept at inference: P (pool_size, prompt_length, d_model) and K (pool_size, d_model). No loss
of the task reaches K, because a choice has no derivative: only the term with `pull` trains it. Here the backward pass
adds that term's gradient, so any training loop works unchanged.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._image import final_norm, require_one_width
from ._pool import Querying, likeness, most, pulled


class Pool(Querying):
    """The prompts and their keys."""

    def __init__(self, d: int, *, pool_size: int, prompt_length: int, top_k: int, batchwise: bool, pull: float):
        super().__init__()
        self.P = nn.Parameter(torch.empty(pool_size, prompt_length, d).uniform_(0, 0.01))
        self.K = nn.Parameter(torch.empty(pool_size, d).uniform_(0, 0.01))
        self.top_k, self.batchwise, self.pull = top_k, batchwise, pull

    def choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """The prompts for each image, (batch, top_k * prompt_length, d), and the sum of their cosines, per image."""
        cosines = likeness(query, self.K)                                           # (batch, pool_size)
        chosen = most(cosines.detach(), self.top_k, together=self.batchwise)        # (batch, top_k)
        near = cosines.gather(1, chosen).sum() / len(query)
        return self.P[chosen].flatten(1, 2), near

    def enter(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        if self.reading:
            return x
        p, near = self.choose(self.query)
        p = pulled(p, near, self.pull).to(x.dtype)
        return torch.cat([x[:, :1], p, x[:, 1:]], dim=1)        # (batch, n, d) -> (batch, n + top_k * length, d)

    def leave(self, _: nn.Module, args: Any, h: Tensor) -> Tensor:
        if self.reading:
            return h
        end = 1 + self.top_k * self.P.shape[1]
        return torch.cat([h[:, 1:end].mean(dim=1, keepdim=True), h[:, end:]], dim=1)        # (batch, n, d)


def apply(
    model: nn.Module, *, pool_size: int = 10, prompt_length: int = 10, top_k: int = 4, batchwise: bool = True,
    pull: float = 1.0, name: str = "l2p",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put a pool of prompts beside it. Raises UsageError for models of other inputs."""
    require_one_width(model)
    kit.freeze(model)
    d = kit.inventory(model).dims["d_model"]
    pool = Pool(d, pool_size=pool_size, prompt_length=prompt_length, top_k=top_k, batchwise=batchwise, pull=pull)
    hooks = kit.attach(model, name, pool)
    hooks.append(pool.listen(model))
    hooks.append(kit.base(model).embeddings.register_forward_hook(pool.enter))
    hooks.append(final_norm(model).register_forward_hook(pool.leave))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [pool] = (child for child in kit.attached(model, "l2p") if isinstance(child, Pool))
    states = model(pixel_values=inputs["x"]).last_hidden_state
    _, near = pool.choose(pool.query)
    cosines = likeness(pool.query, pool.K)
    chosen = most(cosines.detach(), pool.top_k, together=pool.batchwise)
    return {"output": states[:, 0], "query": pool.query, "cosines": cosines, "chosen": chosen, "near": near}

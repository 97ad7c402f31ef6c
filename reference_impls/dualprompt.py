"""DualPrompt: complementary prompts for continual learning (wang2022dualprompt; code_l2p#models/vit.py:Encoder).

    head = attend(Q, [P_k; K], [P_v; V]),    P = G in the first g_layers layers, E_t in the e_layers layers behind them

G is one prefix for all tasks, E_t one for task t. Training uses the E_t of its own task. At inference nobody says which
task an image belongs to. The plain model reads it first, and t is the task whose key is most similar to q(x), the last
state of the class token. With `batchwise`, all images of a batch use the task that most of them chose.

Trained in task t, and kept at inference: G_k and G_v (g_length, d_kv), E_k and E_v (e_length, d_kv), and the key
(d_model,), which learns from the term pull * cos(q(x), key) alone: it is subtracted from the loss in the backward pass.
Kept but not trained: prefixes O_k and O_v (tasks - 1, e_length, d_kv) and keys (tasks - 1, d_model) of the older tasks,
given by `load`. Until then they are noise, the same in every model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit
from ._attention import widen
from ._image import require_one_width
from ._pool import Querying, by_head, likeness, most, pulled


class Keys(Querying):
    """The keys of all tasks."""

    def __init__(self, d: int, *, tasks: int, batchwise: bool, pull: float):
        super().__init__()
        self.key = nn.Parameter(torch.empty(d).uniform_(0, 0.01))
        if tasks > 1:
            self.old_keys = nn.Parameter(_noise(tasks - 1, d), requires_grad=False)
        self.batchwise, self.pull = batchwise, pull

    def cosines(self) -> Tensor:
        """The cosines of the images' queries and the keys of all tasks, this one last: (batch, tasks)."""
        keys = [self.old_keys, self.key[None]] if hasattr(self, "old_keys") else [self.key[None]]
        return likeness(self.query, torch.cat(keys))

    def task(self) -> Tensor:
        """The number of the task of each image, (batch,)."""
        return most(self.cosines().detach(), 1, together=self.batchwise)[:, 0]

    def near(self) -> Tensor:
        """The mean cosine of the images' queries and this task's key."""
        return likeness(self.query, self.key[None]).mean()


class General(kit.Child):
    """The prefix of one attention that all tasks share."""

    keys: Keys      # not a submodule

    def __init__(self, block: kit.Block, keys: Keys, *, length: int):
        super().__init__()
        kit.share(self, keys=keys)
        self.heads, d = block.dims["n_kv_heads"], block.dims["d_kv"]
        self.G_k = nn.Parameter(torch.empty(length, d).uniform_(0, 0.01))
        self.G_v = nn.Parameter(torch.empty(length, d).uniform_(0, 0.01))

    def keys_values(self) -> tuple[Tensor, Tensor]:
        if self.keys.reading:
            return by_head(self.G_k[:0], self.heads), by_head(self.G_v[:0], self.heads)
        return by_head(self.G_k, self.heads), by_head(self.G_v, self.heads)


class Expert(kit.Child):
    """The prefixes of one attention of which each task has its own."""

    keys: Keys      # not a submodule

    def __init__(self, block: kit.Block, keys: Keys, *, length: int, tasks: int, first: bool):
        super().__init__()
        kit.share(self, keys=keys)
        self.heads, d, self.first = block.dims["n_kv_heads"], block.dims["d_kv"], first
        self.E_k = nn.Parameter(torch.empty(length, d).uniform_(0, 0.01))
        self.E_v = nn.Parameter(torch.empty(length, d).uniform_(0, 0.01))
        if tasks > 1:
            self.O_k = nn.Parameter(_noise(tasks - 1, length, d), requires_grad=False)
            self.O_v = nn.Parameter(_noise(tasks - 1, length, d), requires_grad=False)

    def keys_values(self) -> tuple[Tensor, Tensor]:
        if self.keys.reading:
            return by_head(self.E_k[:0], self.heads), by_head(self.E_v[:0], self.heads)
        if self.training:
            k = pulled(self.E_k, self.keys.near(), self.keys.pull) if self.first else self.E_k
            return by_head(k, self.heads), by_head(self.E_v, self.heads)
        if not hasattr(self, "O_k"):
            return by_head(self.E_k, self.heads), by_head(self.E_v, self.heads)
        task = self.keys.task()
        k, v = (torch.cat([old, own[None]])[task] for old, own in ((self.O_k, self.E_k), (self.O_v, self.E_v)))
        return by_head(k, self.heads), by_head(v, self.heads)


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def apply(
    model: nn.Module, *, g_length: int = 5, g_layers: int = 2, e_length: int = 5, e_layers: int = 3, tasks: int = 10,
    batchwise: bool = True, pull: float = 1.0, name: str = "dualprompt",
) -> nn.Module:  # fmt: skip
    """Freeze the model and give its first attentions prefixes. Raises UsageError for a model that does not fit."""
    require_one_width(model)
    blocks = kit.blocks(model, "attention")
    general, expert = blocks[:g_layers], blocks[g_layers:][:e_layers]
    if len(expert) < e_layers:
        raise UsageError(f"{g_layers} and {e_layers} layers were expected at least; the model has {len(blocks)}")
    kit.freeze(model)
    keys = Keys(kit.inventory(model).dims["d_model"], tasks=tasks, batchwise=batchwise, pull=pull)
    kit.attach(model, name, keys).append(keys.listen(model))
    pairs: list[tuple[kit.Block, General | Expert]] = [
        *((block, General(block, keys, length=g_length)) for block in general),
        *((block, Expert(block, keys, length=e_length, tasks=tasks, first=block is expert[0])) for block in expert),
    ]
    for block, child in pairs:
        kit.attach(block.module, name, child).append(widen(model, block.module, child.keys_values))
    return model


@torch.no_grad()
def load(
    model: nn.Module, prefixes: Sequence[tuple[Tensor, Tensor]], keys: Tensor, name: str = "dualprompt"
) -> nn.Module:
    """Copy what the older tasks have trained, and start this task's prefixes at those of the last one.

    `prefixes` are the keys and values (tasks - 1, e_length, d_kv) of each layer with an expert. `keys` are
    (tasks - 1, d_model).
    """
    children = kit.attached(model, name)
    for child in children:
        if isinstance(child, Keys):
            child.old_keys.copy_(keys)
    experts = [child for child in children if isinstance(child, Expert)]
    for expert, (k, v) in zip(experts, prefixes, strict=True):
        expert.O_k.copy_(k)
        expert.O_v.copy_(v)
        expert.E_k.copy_(k[-1])
        expert.E_v.copy_(v[-1])
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states = model(pixel_values=inputs["x"]).last_hidden_state
    [keys] = (child for child in kit.attached(model, "dualprompt") if isinstance(child, Keys))
    return {"output": states[:, 0], "cosines": keys.cosines(), "task": keys.task(), "near": keys.near()}

"""E2VPT: visual prompts with keys and values, pruned (han2023e2vpt; code_e2vpt#src/models/vit_prompt/vit_prompt_VK.py).

    X_i <- [c_i; M N * P_i; E_i],    attention i: keys [K_i; keys], values [K_i; values]

with c_i the state of the class token before layer i and E_i those of the patches. M switches off whole vectors of a
prompt, N switches off pieces of each vector, the same in all layers. Piece j of n consists of the entries j, j + n,
j + 2 n, and so on. A vector that is off is zero and keeps its position.

Trained, and kept at inference: P (prompt_length, d_embed), one D (prompt_length, d_model) before every layer except the
first, and one K (kv_length, d_kv) for each attention. `calibrate` scores the prompts as they are, chooses the masks and
draws everything anew. For the authors' results, train a first run before it.
"""

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._attention import widen
from ._image import prompt_bound, require_one_width
from ._prompt import behind_first

PIECES = 4
"""At least so many pieces of a vector stay on."""


class Prompt(kit.Child):
    """The prompt of the first layer, with the masks that all prompts share.

    off: how many vectors, and how many pieces of each vector, are to be switched off. scored: the masks as numbers that
    require a gradient, while they are scored.
    """

    M: Tensor
    N: Tensor

    def __init__(self, d: int, *, prompt_length: int, pieces: int, off: tuple[int, int], bound: float, dropout: float):
        super().__init__()
        self.off, self.bound = off, bound
        self.P = nn.Parameter(torch.empty(prompt_length, d).uniform_(-bound, bound))
        self.register_buffer("M", torch.ones(prompt_length, dtype=torch.bool))
        self.register_buffer("N", torch.ones(prompt_length, pieces, dtype=torch.bool))
        self.scored: tuple[Tensor, Tensor] | None = None
        self.dropout = nn.Dropout(dropout)

    def cut(self, p: Tensor) -> Tensor:
        """Switch entries of a prompt (prompt_length, d) off."""
        times = p.shape[1] // self.N.shape[1]
        if self.scored is not None:
            m, n = self.scored
            return p * n.repeat(1, times) * m[:, None]
        return p.masked_fill(~(self.M[:, None] & self.N).repeat(1, times), 0.0)

    def insert(self, x: Tensor, p: Tensor, length: int) -> Tensor:
        """Put a prompt in place of the `length` positions behind the class token."""
        p = self.dropout(self.cut(p.to(x.dtype)).expand(len(x), -1, -1))
        return behind_first(x, length, p)       # (batch, n + length, d)

    def enter(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        return self.insert(x, self.P, 0)

    def leave(self, _: nn.Module, args: Any, output: Any) -> Any:
        h = output.last_hidden_state
        output.last_hidden_state = behind_first(h, len(self.P))        # (batch, n, d)
        return output

    def draw(self) -> None:
        self.P.data.uniform_(-self.bound, self.bound)


class DeepPrompt(kit.Child):
    """The prompt of one later layer."""

    first: Prompt       # not a submodule

    def __init__(self, d: int, first: Prompt):
        super().__init__()
        kit.share(self, first=first)
        self.D = nn.Parameter(torch.empty(len(first.P), d))
        self.draw()

    def change(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.first.insert(args[0], self.D, len(self.D)), *args[1:]

    def draw(self) -> None:
        self.D.data.uniform_(-self.first.bound, self.first.bound)


class Keys(kit.Child):
    """The vectors that one attention has as further keys, and also as values."""

    def __init__(self, n_kv_heads: int, head_dim: int, *, kv_length: int):
        super().__init__()
        self.n_kv_heads, self.bound = n_kv_heads, math.sqrt(6 / (kv_length * head_dim))
        self.K = nn.Parameter(torch.empty(kv_length, n_kv_heads * head_dim))
        self.draw()

    def draw(self) -> None:
        self.K.data.uniform_(-self.bound, self.bound)

    def keys_values(self) -> tuple[Tensor, Tensor]:
        k = self.K.unflatten(-1, (self.n_kv_heads, -1)).transpose(0, 1)     # (n_kv_heads, kv_length, head_dim)
        return k, k


def apply(
    model: nn.Module, *, prompt_length: int = 5, kv_length: int = 5, pieces: int = 16, pruned: float = 0.5,
    pruned_pieces: float = 0.5, dropout: float = 0.0,
) -> nn.Module:  # fmt: skip
    """Freeze the model, put prompts into its layers, and keys and values into its attentions.

    Raises UsageError for a model of text, and for layers of different widths.
    """
    require_one_width(model)
    d = kit.inventory(model).dims["d_embed"]
    kit.freeze(model)
    base = kit.base(model)
    bound = prompt_bound(model)
    off = min(int(prompt_length * pruned), prompt_length - 1), min(int(pieces * pruned_pieces), pieces - PIECES)
    first = Prompt(d, prompt_length=prompt_length, pieces=pieces, off=off, bound=bound, dropout=dropout)
    hooks = kit.attach(model, "e2vpt", first)
    hooks.append(base.embeddings.register_forward_hook(first.enter))
    hooks.append(base.register_forward_hook(first.leave))
    for layer in kit.blocks(model, "layer")[1:]:
        later = DeepPrompt(d, first)
        kit.attach(layer.module, "e2vpt", later).append(layer.module.register_forward_pre_hook(later.change))
    for block in kit.blocks(model, "attention"):
        keys = Keys(block.dims["n_kv_heads"], block.dims["head_dim"], kv_length=kv_length)
        kit.attach(block.module, "e2vpt", keys).append(widen(model, block.module, keys.keys_values))
    return model


def scores(model: nn.Module, losses: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the sum of the gradients of the losses by the masks M and N."""
    first = next(child for child in kit.attached(model, "e2vpt") if isinstance(child, Prompt))
    like = next(model.parameters())
    m, n = (torch.ones(mask.shape).to(like).requires_grad_() for mask in (first.M, first.N))
    first.scored = m, n
    sums = torch.zeros_like(m), torch.zeros_like(n)
    for loss in losses:
        for total, gradient in zip(sums, torch.autograd.grad(loss, (m, n)), strict=True):
            total += gradient
    first.scored = None
    return sums


@torch.no_grad()
def prune(model: nn.Module, score_m: Tensor, score_n: Tensor) -> nn.Module:
    """Switch off the vectors, and the pieces of each vector, with the smallest scores."""
    first = next(child for child in kit.attached(model, "e2vpt") if isinstance(child, Prompt))
    vectors, pieces = first.off
    first.M.fill_(True)[score_m.argsort(stable=True)[:vectors]] = False
    first.N.fill_(True).scatter_(1, score_n.argsort(dim=1, stable=True)[:, :pieces], False)
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Score the prompts as they are, choose the masks, and draw prompts, keys and values anew."""
    prune(model, *scores(model, losses))
    for child in kit.attached(model, "e2vpt"):
        if isinstance(child, Prompt | DeepPrompt | Keys):
            child.draw()
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs, and choose masks by them; for the golden vectors."""
    first = next(child for child in kit.attached(model, "e2vpt") if isinstance(child, Prompt))

    def states() -> Tensor:
        return cast(Tensor, model(pixel_values=inputs["x"]).last_hidden_state)

    held = first.M.clone(), first.N.clone()
    score = scores(model, ((states() * inputs["probe"]).sum() for _ in range(1)))
    prune(model, *score)
    chosen = first.M.double(), first.N.double()
    first.M.copy_(held[0])
    first.N.copy_(held[1])
    return {"output": states(), "score_M": score[0], "score_N": score[1], "chosen_M": chosen[0], "chosen_N": chosen[1]}

"""VB-LoRA: low-rank adaptation with vector banks (li2024vblora; code_vblora).

    h = W_0 x + B A x,    each piece of A's rows and B's columns: the topk best vectors of the bank, mixed by softmax

Trained: the bank (num_vectors, vector_length) of the model; for every targeted weight a score of every vector for
every piece, logits_A (r, d_in / b, num_vectors) and logits_B (d_out / b, r, num_vectors), b = vector_length. Stored
(`pack`): the bank, and of each piece the topk positions and all but one of the weights. At inference BA is added to
W_0. Nothing starts at zero, so the start is near the pretrained model. peft stores all scores unless told otherwise.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from . import _kit as kit


class Shared(kit.Child):
    """What all corrections are made of."""

    def __init__(self, num_vectors: int, vector_length: int):
        super().__init__()
        self.bank = nn.Parameter(torch.empty(num_vectors, vector_length).uniform_(-0.02, 0.02))


class VBLoRA(kit.Child):
    """The correction beside one weight of shape (d_out, d_in)."""

    shared: Shared      # not a submodule

    def __init__(self, d_in: int, d_out: int, shared: Shared, *, r: int, topk: int):
        super().__init__()
        n, b = shared.bank.shape
        if d_in % b or d_out % b:
            raise ValueError(f"vector_length = {b} must divide {d_in} and {d_out}")
        kit.share(self, shared=shared)
        self.logits_A = nn.Parameter(0.01 * torch.randn(r, d_in // b, n))
        self.logits_B = nn.Parameter(0.01 * torch.randn(d_out // b, r, n))
        self.topk = topk

    def mixed(self, logits: Tensor) -> Tensor:
        best, chosen = logits.topk(self.topk)                                       # (..., n) -> (..., k)
        return (best.softmax(-1)[..., None] * self.shared.bank[chosen]).sum(-2)     # (..., b)

    def factors(self) -> tuple[Tensor, Tensor]:
        a = self.mixed(self.logits_A).flatten(1)                                    # (r, d_in)
        b = self.mixed(self.logits_B).transpose(1, 2).flatten(0, 1)                 # (d_out, r)
        return a, b

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = self.factors()
        return y + x @ a.T @ b.T                                                    # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        a, b = self.factors()
        return b @ a                                                                # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 4, topk: int = 2, num_vectors: int = 90, vector_length: int = 256,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, and put corrections made from one bank beside every targeted weight."""
    kit.freeze(model)
    shared = Shared(num_vectors, vector_length)
    kit.attach(model, "vb_lora", shared)
    for site in kit.sites(model, targets):
        kit.attach(site, "vb_lora", VBLoRA(site.d_in, site.d_out, shared, r=r, topk=topk))
    return model


def _logits(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, int]]:
    for name, child in model.named_modules():
        if isinstance(child, VBLoRA):
            yield f"{name}.logits_A", child.logits_A, child.topk
            yield f"{name}.logits_B", child.logits_B, child.topk


@torch.no_grad()
def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the bank; for each piece the chosen vectors and all but the last of their weights."""
    state = {"bank": model.get_parameter("vb_lora.bank").detach().clone()}
    for name, logits, topk in _logits(model):
        best, state[f"{name}@"] = logits.topk(topk)
        state[name] = best.softmax(-1)[..., :-1]
    return state


@torch.no_grad()
def unpack(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Write one task's numbers into a model to which the method has been applied; what was not chosen is out."""
    model.get_parameter("vb_lora.bank").copy_(state["bank"])
    for name, logits, _ in _logits(model):
        weights = torch.cat([state[name], 1 - state[name].sum(-1, keepdim=True)], -1)       # (..., k)
        logits.fill_(-torch.inf).scatter_(-1, state[f"{name}@"], weights.clamp(min=0).log())
    return model


def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "vb_lora")

"""X-LoRA: mixture of low-rank adapter experts (buehler2024xlora).

    h_t = W_0 x_t + (alpha / r) sum_i s_ti B_i A_i x_t,    s_t = softmax(f(z_t) / temperature)

z are the last hidden states of the model without experts, to which every input goes first, without a gradient.
Given beside every targeted weight, frozen: A (n_experts, r, d_in) and B (n_experts, d_out, r); `load` fills in an
expert that was trained as a LoRA. Trained: the router f, `depth` linear layers of width `size`, once for the model. At
inference everything stays. In an encoder-decoder the tokens of each stack are weighed by its own last states.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from . import lora


class Router(kit.Child):
    """Reads the input with the experts asleep, and says how much of each its tokens get."""

    def __init__(self, d_model: int, n_experts: int, n_weights: int, *, depth: int, size: int, p: float, tau: float):
        super().__init__()
        self.n_experts, self.p, self.tau = n_experts, p, tau
        widths = [d_model, *[size] * (depth - 1), n_experts * n_weights]
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self.W_out, self.b_out = layers[-1].weight, layers[-1].bias
        if depth > 1:
            self.W_in, self.b_in = layers[0].weight, layers[0].bias
        self.W_mid = nn.ParameterList(layer.weight for layer in layers[1:-1])
        self.b_mid = nn.ParameterList(layer.bias for layer in layers[1:-1])
        self.reading = False
        self.shares: dict[str, Tensor] = {}     # of the present input, for each stack

    def forward(self, z: Tensor) -> Tensor:
        """(batch, length, d_model) -> (batch, length, weighed places, n_experts)."""
        inner = [(self.W_in, self.b_in), *zip(self.W_mid, self.b_mid, strict=True)] if hasattr(self, "W_in") else []
        for weight, bias in inner:
            z = nn.functional.dropout(torch.relu(linear(z, weight, bias)), self.p, self.training)
        logits = linear(z, self.W_out, self.b_out).unflatten(-1, (-1, self.n_experts))
        shares: Tensor = (logits / self.tau).softmax(-1)
        return shares

    def look(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.reading:        # this is the first pass
            return
        self.reading, self.shares = True, {}
        try:
            with torch.no_grad():
                found = model(*args, **kwargs | {"output_hidden_states": True})
        finally:
            self.reading = False
        last = self(found.get("decoder_hidden_states", found.get("hidden_states"))[-1])
        encoded = found.get("encoder_hidden_states")
        self.shares = {"decoder": last, "encoder": last if encoded is None else self(encoded[-1])}


class Experts(kit.Child):
    """The experts beside one weight; `place` is which of the router's sets of weights they follow."""

    router: Router              # not a submodule

    def __init__(self, router: Router, site: kit.Site, *, n_experts: int, r: int, alpha: float, place: int):
        super().__init__()
        kit.share(self, router=router)
        # until `load` brings the given experts, numbers that are the same for every seed stand in for them
        given = torch.Generator().manual_seed(0)
        a = torch.randn(n_experts, r, site.d_in, generator=given) * site.d_in**-0.5
        b = torch.randn(n_experts, site.d_out, r, generator=given) * r**-0.5
        self.A, self.B = nn.Parameter(a, requires_grad=False), nn.Parameter(b, requires_grad=False)
        self.scale, self.place = alpha / r, place
        self.reads = "encoder" if site.role in ("xattn.k", "xattn.v") or site.stack == "encoder" else "decoder"

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.router.reading:
            return y
        share = self.router.shares[self.reads][:, :, self.place]                    # (batch, length, n_experts)
        low = torch.einsum("bld,nrd->blnr", x, self.A) * share[..., None]
        return y + self.scale * torch.einsum("blnr,nor->blo", low, self.B)


@torch.no_grad()
def load(model: nn.Module, index: int, source: nn.Module, name: str = "lora") -> nn.Module:
    """Make a trained LoRA, on another copy of the model with the same targets, the expert of this index."""
    pairs = zip(kit.at_sites(model, "x_lora", Experts), kit.at_sites(source, name, lora.LoRA), strict=True)
    for (_, experts), (_, pair) in pairs:
        experts.A[index], experts.B[index] = pair.A, pair.B * (pair.scale / experts.scale)
    return model


def apply(
    model: nn.Module, *, n_experts: int = 4, r: int = 8, alpha: float = 8.0, layerwise: bool = False, depth: int = 1,
    size: int = 2048, dropout: float = 0.2, temperature: float = 1.0,
    targets: tuple[str, ...] = ("attn.q", "attn.v", "xattn.q", "xattn.v"),
) -> nn.Module:
    """Freeze the model, put experts beside every targeted weight and one router on the model."""
    kit.freeze(model)
    places = kit.sites(model, targets)
    d_model, n_weights = kit.inventory(model).dims["d_model"], len(places) if layerwise else 1
    router = Router(d_model, n_experts, n_weights, depth=depth, size=size, p=dropout, tau=temperature)
    for index, site in enumerate(places):
        child = Experts(router, site, n_experts=n_experts, r=r, alpha=alpha, place=index if layerwise else 0)
        kit.attach(site, "x_lora", child)
    kit.attach(model, "x_lora", router).append(model.register_forward_pre_hook(router.look, with_kwargs=True))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    output: Tensor = model(input_ids=inputs["x"]).logits
    [router] = [child for child in kit.attached(model, "x_lora") if isinstance(child, Router)]
    return {"output": output, "scalings": router.shares["decoder"]}

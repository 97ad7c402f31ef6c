"""Hyperformer++: parameter-efficient multi-task fine-tuning via shared hypernetworks (karimi2021hyperformer).

    h <- h + LN(U gelu(D h + d) + u; gain, shift),    (D, d, U, u, gain, shift) = G(I),
    I = LN(mix([z_task; l_layer; p_place]))

No adapter is trained: a hypernetwork G, one linear map for each of an adapter's parts, emits them all from embeddings
of the task, the layer and the place (behind the attention or the feed-forward block). Encoder and decoder have a
hypernetwork each; the task embeddings are common. Trained: all embeddings, the two-layer network `mix`, its norm, the
maps of G and, with `train_norms`, every norm of the model. At inference all of it remains, or one task's adapters
computed once; `task` of the attached Hypernetworks says which task the model is at.

A new task adds `embedding` numbers. Cross-attention gets no adapter, as in the official code, where the adapters of
pre-norm models likewise come before the residual is added.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from . import _kit as kit


def generator(d_in: int, d_out: int) -> nn.Linear:
    """A linear map with the official start: normal with deviation 0.01, bias zero."""
    made = nn.Linear(d_in, d_out)
    nn.init.normal_(made.weight, std=0.01)
    nn.init.zeros_(made.bias)
    return made


class Hypernetworks(kit.Child):
    """All that is trained, for every stack of the model."""

    def __init__(self, d: int, n_layers: int, stacks: Iterable[str], *, tasks: int, embedding: int, projected: int,
                 hidden: int, bottleneck: int):  # fmt: skip
        super().__init__()
        self.stacks, self.task, self.d, self.m = list(stacks), 0, d, bottleneck
        each = range(len(self.stacks))
        self.z_task = nn.Parameter(torch.randn(tasks, embedding))
        self.l_layer = nn.Parameter(torch.randn(n_layers, embedding))       # all stacks' layers, one after the other
        self.p_place = nn.ParameterList(torch.randn(2, embedding) for _ in each)
        self.mix = nn.ModuleList(
            nn.Sequential(generator(3 * embedding, hidden), nn.ReLU(), generator(hidden, projected)) for _ in each
        )
        self.norm = nn.ModuleList(nn.LayerNorm(projected, eps=1e-6) for _ in each)
        sizes = {"D": bottleneck * d, "d_": bottleneck, "U": d * bottleneck, "u_": d, "gain": d, "shift": d}
        for name, size in sizes.items():
            self.add_module(name, nn.ModuleList(generator(projected, size) for _ in each))

    def emit(self, stack: int, layer: int, place: int) -> tuple[Tensor, ...]:
        """The adapter of the present task: D (m, d), its bias (m,), U (d, m), its bias (d,), gain and shift (d,)."""
        where = torch.cat([self.z_task[self.task], self.l_layer[layer], self.p_place[stack][place]])    # (3 embedding,)
        i = self.norm[stack](self.mix[stack](where))                # (projected,)
        made = [self.get_submodule(f"{name}.{stack}")(i) for name in ("D", "d_", "U", "u_", "gain", "shift")]
        return made[0].view(self.m, self.d), made[1], made[2].view(self.d, self.m), *made[3:]


class Generated(kit.Child):
    """The adapter behind one linear map, which owns nothing."""

    source: Hypernetworks       # not a submodule

    def __init__(self, source: Hypernetworks, stack: int, layer: int, place: int):
        super().__init__()
        kit.share(self, source=source)
        self.where = stack, layer, place

    def after(self, _: Tensor, h: Tensor) -> Tensor:
        down, b_down, up, b_up, gain, shift = self.source.emit(*self.where)
        z = gelu(linear(h, down, b_down), approximate="tanh")       # (..., bottleneck)
        return h + layer_norm(linear(z, up, b_up), gain.shape, gain, shift)     # (..., d_model)


def apply(
    model: nn.Module, *, tasks: int = 8, embedding: int = 64, projected: int = 64, hidden: int = 128,
    bottleneck: int, train_norms: bool = True, name: str = "hyperformer_pp",
) -> nn.Module:
    """Freeze the model but for its norms, and let hypernetworks adapt every attention and feed-forward block."""
    kit.freeze(model)
    layers = [(block.stack, block.layer) for block in kit.blocks(model, "layer")]
    stacks = list(dict.fromkeys(stack for stack, _ in layers))
    dims = kit.inventory(model).dims
    source = Hypernetworks(
        dims["d_model"], len(layers), stacks, tasks=tasks, embedding=embedding, projected=projected, hidden=hidden,
        bottleneck=bottleneck,
    )  # fmt: skip
    kit.attach(model, name, source)
    for site in kit.sites(model, ("mlp.down", "attn.o")):
        layer = layers.index((site.stack, site.layer or 0))
        kit.attach(site, name, Generated(source, stacks.index(site.stack), layer, int(site.role == "attn.o")))
    for weight in kit.weights(model) if train_norms else ():
        if weight.kind == "norm":
            weight.value.requires_grad_(True)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors. (layers, attention and feed-forward, ...)"""
    [source] = (child for child in kit.attached(model, "hyperformer_pp") if isinstance(child, Hypernetworks))
    source.task = int(inputs["task"])
    adapters = [child for child in kit.attached(model, "hyperformer_pp") if isinstance(child, Generated)]
    pairs = zip(adapters[::2], adapters[1::2], strict=True)
    return torch.stack([torch.stack([adapter.after(inputs["x"], inputs["x"]) for adapter in pair]) for pair in pairs])

"""CODA-Prompt: decomposed attention-based prompting (smith2023codaprompt; code_coda_prompt#models/zoo.py:CodaPrompt).

    head = attend(Q, [P_k; K], [P_v; V]),    [P_k; P_v] = sum_m cos(q(x) * A_m, K_m) P_m

In the first layers an image has a prefix of its own: a sum of components, in proportions that depend on the image. q(x)
is the last state of the class token when the plain model reads the image. A_m decides which of its features count for
component m, and the key K_m is what they are compared with. The proportions are no probabilities: they may be negative.

Trained in one task, and kept at inference, at every attention of the first `layers` layers: the components of this
task, P (components, prompt_length, d_kv), K and A (components, d_model). Half of a component is keys, the other half
values. Kept but not trained: the components of the older tasks, old_P, old_K and old_A, given by `load`, which are part
of the sum. New components start orthogonal to all older ones, each of length one. Until `load` the older ones are
orthogonal too, the same in every model.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from peftonomy import UsageError

from . import _kit as kit
from ._attention import widen
from ._image import require_one_width
from ._pool import Querying, by_head

LEAST = 1e-4
"""The share of a draw that its orthogonal part must have."""


class Query(Querying):
    """What the plain model computes for an image."""


class Components(kit.Child):
    """The components of one attention."""

    query: Query        # not a submodule
    P: nn.Parameter

    def __init__(self, block: kit.Block, query: Query, *, components: int, prompt_length: int, tasks: int):
        super().__init__()
        kit.share(self, query=query)
        dims, older = block.dims, components * (tasks - 1)
        self.heads, self.n_keys = dims["n_kv_heads"], prompt_length // 2
        shapes = {"P": (prompt_length, dims["d_kv"]), "K": (dims["d_model"],), "A": (dims["d_model"],)}
        fixed = torch.Generator().manual_seed(0)
        for name, shape in shapes.items():
            old = behind(torch.empty(0, *shape), older, fixed)
            if older:
                self.register_parameter(f"old_{name}", nn.Parameter(old, requires_grad=False))
            self.register_parameter(name, nn.Parameter(behind(old, components)))

    def parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """P, K and A: of the older tasks, if there are any, and of this one."""
        for start in ("old_", "") if hasattr(self, "old_P") else ("",):
            p, k, a = (self.get_parameter(f"{start}{name}") for name in "PKA")
            yield p, k, a

    def prefix(self, query: Tensor) -> Tensor:
        """The prefix of each image, (batch, prompt_length, d_kv)."""
        # The parts are summed apart: a gradient of both together would stay as long as that of P.
        terms = [(weights(query, k, a) @ p.flatten(1)).view(-1, *p.shape[1:]) for p, k, a in self.parts()]
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    def keys_values(self) -> tuple[Tensor, Tensor]:
        if self.query.reading:
            nothing = by_head(self.P[0, :0], self.heads)
            return nothing, nothing
        p = self.prefix(self.query.query)
        return by_head(p[:, : self.n_keys], self.heads), by_head(p[:, self.n_keys :], self.heads)


def weights(query: Tensor, keys: Tensor, attention: Tensor) -> Tensor:
    """The weights of components for each image, (batch, components)."""
    seen = normalize(query[:, None] * attention, dim=-1)                            # (batch, components, d_model)
    return (seen * normalize(keys, dim=-1)).sum(-1)


@torch.no_grad()
def behind(old: Tensor, number: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw components that are orthogonal to the old ones and to each other, each of length one (Gram-Schmidt).

    Draws again if nearly nothing but rounding is left, as where a seed gives the older components once more.
    """
    rows, made = list(old.flatten(1).double()), list[Tensor]()
    while len(made) < number:
        drawn = torch.randn(old.shape[1:].numel(), generator=generator).double()
        new = drawn - sum((drawn @ row) / (row @ row) * row for row in rows)
        if new.norm() > LEAST * drawn.norm():
            made.append(new / new.norm())
            rows.append(made[-1])
    return torch.stack(made).view(number, *old.shape[1:]).to(old) if made else old


def apply(
    model: nn.Module, *, components: int = 10, prompt_length: int = 8, layers: int = 5, tasks: int = 10,
    name: str = "coda_prompt",
) -> nn.Module:  # fmt: skip
    """Freeze the model and give its first attentions components. Raises UsageError for a model that does not fit."""
    require_one_width(model)
    d = kit.inventory(model).dims["d_model"]
    if components * tasks > d:
        raise UsageError(f"at most {d} components were expected, since they are orthogonal; found {components * tasks}")
    kit.freeze(model)
    query = Query()
    kit.attach(model, name, query).append(query.listen(model))
    for block in kit.blocks(model, "attention")[:layers]:
        child = Components(block, query, components=components, prompt_length=prompt_length, tasks=tasks)
        kit.attach(block.module, name, child).append(widen(model, block.module, child.keys_values))
    return model


@torch.no_grad()
def load(model: nn.Module, older: Sequence[Mapping[str, Tensor]], name: str = "coda_prompt") -> nn.Module:
    """Copy the components P, K and A of the older tasks into each attention, and start the new ones behind them."""
    places = [child for child in kit.attached(model, name) if isinstance(child, Components)]
    for child, given in zip(places, older, strict=True):
        for key, value in given.items():
            child.get_parameter(f"old_{key}").copy_(value)
            own = child.get_parameter(key)
            own.copy_(behind(value.float().cpu(), len(own)))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    states = model(pixel_values=inputs["x"]).last_hidden_state
    [place] = [child for child in kit.attached(model, "coda_prompt") if isinstance(child, Components)]
    query = place.query.query
    return {"output": states[:, 0], "query": query, "prefix": place.prefix(query)}

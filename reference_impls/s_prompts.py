"""S-Prompts: domain-incremental learning (wang2022sprompts; code_s_prompts#methods/sprompt.py:SPrompts).

    X <- [c; P; E] in training,    X <- [c; P_s; E] at inference,    s = argmin_t min_k |q(x) / |q(x)| - K_tk|_1

Every domain has a prompt, between the embedded class token c and the embedded patches E. q(x) is the last state of the
class token when the plain model reads the image. Each domain also has `centres` means of q(x) / |q(x)| over its
training images, found by K-means. At inference an image gets the prompt of the domain with the nearest of them.

Trained: the prompt P (prompt_length, d_model) of this domain. Kept, and not trained: its means K (centres, d_model),
which `calibrate` finds, and the prompts old_P (tasks - 1, prompt_length, d_model) and means old_K (tasks - 1, centres,
d_model) of the older domains, given by `load`. Until `load` these are noise, the same in every model.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from . import _kit as kit
from ._image import require_one_width
from ._pool import Querying
from ._prompt import behind_first

STEPS = 100
"""The steps of K-means."""


class Domains(Querying):
    """The prompt of this domain, those of the older domains, and the means that choose among them."""

    collected: list[Tensor] | None = None

    def __init__(self, d: int, *, prompt_length: int, tasks: int, centres: int):
        super().__init__()
        bound = 1 / math.sqrt(d)
        self.P = nn.Parameter(torch.empty(prompt_length, d).uniform_(-bound, bound))
        self.K = nn.Parameter(torch.zeros(centres, d), requires_grad=False)
        if tasks > 1:
            fixed = torch.Generator().manual_seed(0)
            for name, length in (("old_P", prompt_length), ("old_K", centres)):
                noise = torch.empty(tasks - 1, length, d).uniform_(1, 2, generator=fixed)  # far from normalized states
                self.register_parameter(name, nn.Parameter(noise, requires_grad=False))

    def of_all(self, name: str) -> Tensor:
        """The tensors of all domains, the newest last, (tasks, length, d_model)."""
        own = self.get_parameter(name)[None]
        return torch.cat([self.get_parameter(f"old_{name}"), own]) if hasattr(self, f"old_{name}") else own

    def choose(self, query: Tensor) -> Tensor:
        """The number of each image's domain, (batch,)."""
        apart = (normalize(query, dim=-1)[:, None, None] - self.of_all("K")).abs().sum(dim=-1)
        return apart.amin(dim=-1).argmin(dim=-1)                                # (batch, tasks, centres) -> (batch,)

    def _ask(self, base: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run the plain model where its state is needed: not in training."""
        if self.reading or (self.training and self.collected is None):
            return
        super()._ask(base, args, kwargs)
        if self.collected is not None:
            self.collected.append(normalize(self.query, dim=-1))

    def enter(self, _: nn.Module, args: Any, x: Tensor) -> Tensor:
        if self.reading:
            return x
        p = self.P[None] if self.training else self.of_all("P")[self.choose(self.query)]
        p = p.to(x.dtype).expand(len(x), -1, -1)
        return behind_first(x, 0, p)        # (batch, n + prompt_length, d_model)

    def leave(self, _: nn.Module, args: Any, output: Any) -> Any:
        if not self.reading:
            h = output.last_hidden_state
            output.last_hidden_state = behind_first(h, len(self.P))
        return output


def apply(
    model: nn.Module, *, prompt_length: int = 10, tasks: int = 7, centres: int = 5, name: str = "s_prompts"
) -> nn.Module:
    """Freeze the model and put prompts between its class token and its patches. Raises UsageError for other models."""
    require_one_width(model)
    kit.freeze(model)
    child = Domains(kit.inventory(model).dims["d_model"], prompt_length=prompt_length, tasks=tasks, centres=centres)
    base = kit.base(model)
    hooks = kit.attach(model, name, child)
    hooks.append(child.listen(model))
    hooks.append(base.embeddings.register_forward_hook(child.enter))
    hooks.append(base.register_forward_hook(child.leave))
    return model


def calibrate(model: nn.Module, losses: Iterator[Tensor], name: str = "s_prompts") -> nn.Module:
    """Find the means of this domain from its images."""
    [child] = cast(list[Domains], kit.attached(model, name))
    child.collected = []
    for _ in losses:
        pass
    states, child.collected = torch.cat(child.collected), None
    del child.query
    with torch.no_grad():
        child.K.copy_(means(states, len(child.K)))
    return model


def means(x: Tensor, n: int) -> Tensor:
    """Return the n means of K-means, (images, d) -> (n, d). They start at images that are far from each other.

    A mean that is nearest to no image stays where it is. Of fewer than n images some are repeated.
    """
    found = x[:1]
    for _ in range(n - 1):
        farthest = torch.cdist(x, found).amin(dim=1).argmax(dim=0, keepdim=True)
        found = torch.cat([found, x.index_select(0, farthest)])
    for _ in range(STEPS):
        nearest = one_hot(torch.cdist(x, found).argmin(dim=1), n).to(x.dtype)           # (images, n)
        counts = nearest.sum(dim=0)[:, None]
        found = torch.where(counts > 0, nearest.T @ x / counts.clamp(min=1), found)
    return found


@torch.no_grad()
def load(model: nn.Module, older: Sequence[tuple[Tensor, Tensor]], name: str = "s_prompts") -> nn.Module:
    """Copy the prompt (prompt_length, d_model) and the means (centres, d_model) of each older domain."""
    [child] = cast(list[Domains], kit.attached(model, name))
    for number, (prompt, found) in enumerate(older):
        child.get_parameter("old_P")[number].copy_(prompt)
        child.get_parameter("old_K")[number].copy_(found)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors: as in training, and then at inference."""
    [child] = (child for child in kit.attached(model, "s_prompts") if isinstance(child, Domains))
    was = model.training
    trained = model.train()(pixel_values=inputs["x"]).last_hidden_state[:, 0]
    served = model.eval()(pixel_values=inputs["x"]).last_hidden_state[:, 0]
    model.train(was)
    return {"output": trained, "served": served, "chosen": child.choose(child.query)}

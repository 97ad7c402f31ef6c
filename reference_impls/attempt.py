"""ATTEMPT: attentional mixtures of soft prompts (asai2022attempt).

    X <- [P + sum_j a_j P_j; X],    a = softmax_j(max(P_j) . g / temperature),    g = LN(W_up silu(W_down max(X)))

Every input gets a prompt of its own: a mixture of frozen prompts that were trained on other tasks, and of the one
that is trained now, which is also added whole. What is mixed is decided by the input: its largest value in each
dimension goes through a bottleneck and is compared with the same of each prompt. Trained, and kept at inference: the
task's prompt P, which starts as the first source prompt, and the bottleneck. Kept but not trained: the source prompts
S, given by `load`, which many tasks share, and the gain and bias of the norm, which stay at one and zero. Until `load`
the source prompts are noise, the same in every model.

Padding does not count for the maximum here; in the authors' code it does. Several tasks can share the bottleneck.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, pad, silu
from torch.utils.hooks import RemovableHandle

from . import _kit as kit
from ._prompt import cached, prepend, reader


class Attempt(kit.Child):
    """The prompts, and what chooses among them."""

    def __init__(self, d_embed: int, *, prompt_length: int, n_sources: int, bottleneck: int, temperature: float):
        super().__init__()
        fixed = torch.Generator().manual_seed(0)
        noise = [torch.randn(prompt_length, d_embed, generator=fixed) for _ in range(n_sources)]
        self.S = nn.ParameterList(nn.Parameter(p, requires_grad=False) for p in noise)
        self.P = nn.Parameter(noise[0].clone())
        self.W_down = nn.Parameter(0.01 * torch.randn(bottleneck, d_embed))
        self.W_up = nn.Parameter(0.01 * torch.randn(d_embed, bottleneck))
        self.gain = nn.Parameter(torch.ones(d_embed), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(d_embed), requires_grad=False)
        self.temperature = temperature

    def vectors(self) -> Tensor:
        return self.P                                               # (prompt_length, d_embed)

    def weigh(self, x: Tensor, present: Tensor) -> Tensor:
        largest = x.masked_fill(~present[..., None], -torch.inf).amax(dim=1)            # (batch, d_embed)
        z = linear(silu(linear(largest, self.W_down)), self.W_up)                       # (batch, d_embed)
        g = layer_norm(z, self.gain.shape, self.gain, self.bias)                        # (batch, d_embed)
        keys = torch.stack([p.amax(dim=0) for p in (*self.S, self.P)])                  # (n_sources + 1, d_embed)
        return torch.softmax(g @ keys.T / self.temperature, dim=-1)                     # (batch, n_sources + 1)

    def mixed(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        """The embedded input, (batch, length + n, d_embed), with its own prompt in the place of P."""
        n = len(self.P)
        x = embedded[:, n:]
        present = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask[:, n:].bool()
        a = self.weigh(x.detach(), present.to(x.device))       # a slice of what P is in, but the tokens' part
        prompts = torch.stack([*self.S, self.P])                                # (n_sources + 1, length, d_embed)
        mixture = torch.einsum("bj,jld->bld", a, prompts)                       # (batch, length, d_embed)
        return torch.cat([(mixture + self.P).to(x.dtype), x], dim=1)


def apply(
    model: nn.Module, *, prompt_length: int = 100, n_sources: int = 6, bottleneck: int = 100,
    temperature: float = 2087.0, name: str = "attempt",
) -> nn.Module:
    """Freeze the model and put a mixture of prompts in front of its inputs."""
    kit.freeze(model)
    prompts = Attempt(
        kit.inventory(model).dims["d_embed"],
        prompt_length=prompt_length, n_sources=n_sources, bottleneck=bottleneck, temperature=temperature,
    )  # fmt: skip
    hooks = kit.attach(model, name, prompts)
    hooks += prepend(model, prompts.vectors, prompt_length)        # P makes room; the mixture then takes its place
    hooks.append(_mix(kit.base(model), prompts))
    return model


@torch.no_grad()
def load(model: nn.Module, sources: Sequence[Tensor], name: str = "attempt") -> nn.Module:
    """Copy the prompts of the source tasks, each (prompt_length, d_embed), and start the task's own at the first."""
    [child] = cast(list[Attempt], kit.attached(model, name))
    for mine, source in zip(child.S, sources, strict=True):
        mine.copy_(source)
    child.P.copy_(child.S[0])
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [child] = cast(list[Attempt], kit.attached(model, "attempt"))
    n = len(child.P)
    embedded = pad(inputs["x"], (0, 0, n, 0))                                   # (batch, length + n, d_embed)
    padded = child.mixed(embedded, pad(inputs["mask"], (n, 0), value=1))
    return {"output": child.mixed(embedded, None), "padded": padded[:, :n]}


def _mix(base: Any, prompts: Attempt) -> RemovableHandle:
    """After `prepend` has acted on the stack that owns the token embeddings, or on the embedded patches."""
    if base.main_input_name != "input_ids":
        handle = base.embeddings.register_forward_hook(partial(_patches, prompts.mixed))
    else:
        handle = reader(base).register_forward_pre_hook(partial(_tokens, prompts.mixed), with_kwargs=True)
    return cast(RemovableHandle, handle)


def _tokens(mixed: Any, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not cached(kwargs):                          # else the prompt is in the cache already
        kwargs["inputs_embeds"] = mixed(kwargs["inputs_embeds"], kwargs.get("attention_mask"))
    return args, kwargs


def _patches(mixed: Any, _: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
    return cast(Tensor, mixed(embedded, None))

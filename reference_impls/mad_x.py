"""MAD-X: an adapter-based framework for multi-task cross-lingual transfer (pfeiffer2020madx).

    y <- T(L(y)),    L, T: y + W_up relu(W_down y + b_down) + b_up        and        e <- inv(e) at the embeddings
    with a norm behind the residual:  r <- h + x,  then r <- r + A(LN(r)) with A of L and of T,  LN(r) goes on

In every layer a language adapter L and on it a task adapter T, placed as in `pfeiffer_adapter`, and an invertible
adapter on the token embeddings, whose inverse comes before the output embedding. First phase, `language`: L and the
invertible adapter are trained on text of one language. Second, `task`: they are frozen, T is trained in a language
that has labelled data. Then `swap_language` puts in the parts of another language, for which the task has no data at
all. At inference all of it remains.

The invertible adapter is a NICE coupling, y1 = x1 + F(x2), y2 = x2 + G(y1), with two-layer networks F and G on the
halves of each vector. The authors' library puts the coupling behind all embeddings, positions and norm included; here
it acts on those of tokens (or patches) alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from .pfeiffer_adapter import Placed


def two_layers(d_in: int, width: int, d_out: int) -> nn.Sequential:
    """A bottleneck with AdapterHub's start: normal with deviation 0.02, biases zero."""
    first, second = nn.Linear(d_in, width), nn.Linear(width, d_out)
    for part in (first, second):
        nn.init.normal_(part.weight, std=0.02)
        nn.init.zeros_(part.bias)
    return nn.Sequential(first, nn.ReLU(), second)


class Coupling(kit.Child):
    """The invertible adapter."""

    def __init__(self, d: int, *, width: int):
        super().__init__()
        self.halves = d // 2, d - d // 2
        self.F = two_layers(self.halves[1], width, self.halves[0])
        self.G = two_layers(self.halves[0], width, self.halves[1])

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.split(self.halves, dim=-1)                       # (..., d // 2) and (..., the rest)
        y1 = x1 + self.F(x2)
        return torch.cat([y1, x2 + self.G(y1)], dim=-1)             # (..., d)

    def inverse(self, y: Tensor) -> Tensor:
        y1, y2 = y.split(self.halves, dim=-1)
        x2 = y2 - self.G(y1)
        return torch.cat([y1 - self.F(x2), x2], dim=-1)             # (..., d)

    def enter(self, embedding: nn.Module, args: Any, e: Tensor) -> Tensor:
        return self.forward(e)                                      # (batch, n, d)

    def leave(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.inverse(args[0]), *args[1:]                     # (batch, n, d)


class Stack(Placed):
    """A language adapter (`L`) and, in the second phase, a task adapter (`T`) on it."""

    def __init__(self, d: int, widths: dict[str, int], *, frozen: str):
        super().__init__()
        self.kinds = list(widths)
        for kind, width in widths.items():
            start: dict[str, Callable[..., Tensor]] = {"W": torch.randn, "b": torch.zeros}
            shapes = {"W_down": (width, d), "b_down": (width,), "W_up": (d, width), "b_up": (d,)}
            for name, shape in shapes.items():
                value = nn.Parameter(0.02 * start[name[0]](shape), requires_grad=kind not in frozen)
                self.register_parameter(f"{kind}_{name}", value)

    def change(self, kind: str, h: Tensor) -> Tensor:
        """What one of the adapters adds."""
        down, b, up, c = (self.get_parameter(f"{kind}_{n}") for n in ("W_down", "b_down", "W_up", "b_up"))
        return linear(torch.relu(linear(h, down, b)), up, c)   # (..., d) -> (..., width) -> (..., d)

    def behind(self, y: Tensor) -> Tensor:
        for kind in self.kinds:
            y = y + self.change(kind, y)
        return y                                                    # (batch, n, d_model)

    def around(self, norm: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Any:
        r = args[0]                                                 # of block and residual
        for kind in self.kinds:
            r = r + self.change(kind, z)
            z = norm.forward(r)                                     # past this hook
        return z                                                    # (batch, n, d_model)


def apply(
    model: nn.Module, *, language_bottleneck: int, task_bottleneck: int, invertible: bool = True,
    invertible_width: int, phase: str = "task", name: str = "mad_x",
) -> nn.Module:
    """Freeze the model and put in what one phase needs; only that phase's part is trained."""
    kit.freeze(model)
    widths = {"L": language_bottleneck} | ({"T": task_bottleneck} if phase == "task" else {})
    frozen = "L" if phase == "task" else ""
    for layer in kit.blocks(model, "layer"):
        child = Stack(layer.dims["d_model"], widths, frozen=frozen)
        kit.attach(layer.module, name, child).append(child.act(model, layer.module, layer.sites["mlp.down"].path))
    if invertible:
        coupling = Coupling(kit.inventory(model).dims["d_embed"], width=invertible_width)
        coupling.requires_grad_(phase == "language")
        kit.attach(model, name, coupling).extend(around(model, coupling))
    return model


def around(model: Any, coupling: Coupling) -> list[Any]:
    """Put the coupling behind the token embeddings of every stack, and its inverse before the output embedding.

    A stack that reads sounds begins with a convolution and has none.
    """
    base = kit.base(model)
    stacks = [base.encoder, base.decoder] if hasattr(base, "encoder") and hasattr(base, "decoder") else [base]
    tables = dict.fromkeys(stack.get_input_embeddings() for stack in stacks)
    hooks = [table.register_forward_hook(coupling.enter) for table in tables if not isinstance(table, nn.Conv1d)]
    head = model.get_output_embeddings()
    return hooks + ([] if head is None else [head.register_forward_pre_hook(coupling.leave)])


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states


@torch.no_grad()
def swap_language(model: nn.Module, other: nn.Module, name: str = "mad_x") -> nn.Module:
    """Replace the language's parts by those of `other`, a model with this method in either phase."""
    for mine, theirs in zip(kit.attached(model, name), kit.attached(other, name), strict=True):
        values = dict(theirs.named_parameters())
        for tensor, parameter in mine.named_parameters():
            if not tensor.startswith("T_"):
                parameter.copy_(values[tensor])
    return model

"""IDPG: instance-dependent prompt generation (wu2022idpg; code_idpg#fairseq/modules/transformer_sentence_encoder.py).

    p(q, b) = gelu(q W_down + b_down) W_up + b,    W = sum_i kron(S_i, A_i)
    X <- [c; p(q(x), P); X],    and if deep H_i <- H_i + p(c_i, D_i) before every later layer i

q(x) is the last state of the first token when the plain model reads the input. c is the embedded first token, c_i its
state before layer i, and H_i the states of the prompt. Trained, and kept at inference: one network for all layers, in
S_down (n, n, n), A_down (n, d_model / n, bottleneck / n), b_down (bottleneck), S_up and A_up, the bias P
(prompt_length, d_model) at the input, and a bias D of the same shape before every later layer.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from peftonomy import UsageError

from . import _kit as kit
from ._pool import Querying
from ._prompt import behind_first, by_name


class Generator(Querying):
    """The network, and the prompt at the input."""

    def __init__(self, d: int, *, prompt_length: int, bottleneck: int, n: int, dropout: float):
        super().__init__()
        for name, rows, columns in (("down", d, bottleneck), ("up", bottleneck, prompt_length * d)):
            self.register_parameter(f"S_{name}", nn.Parameter(0.05 * torch.randn(n, n, n)))
            self.register_parameter(f"A_{name}", nn.Parameter(0.05 * torch.randn(n, rows // n, columns // n)))
        self.b_down = nn.Parameter(0.05 * torch.randn(bottleneck))
        self.P = nn.Parameter(torch.empty(prompt_length, d).uniform_(-0.5, 0.5))
        self.dropout = nn.Dropout(dropout)

    def weight(self, name: str) -> Tensor:
        """The sum of the Kronecker products, (d_in, d_out)."""
        s, a = self.get_parameter(f"S_{name}"), self.get_parameter(f"A_{name}")
        (_, rows, columns), (_, r, c) = s.shape, a.shape
        w = s.flatten(1).T @ a.flatten(1)                                   # (n * n, r * c)
        return w.view(rows, columns, r, c).transpose(1, 2).reshape(rows * r, columns * c)

    def generated(self, q: Tensor, bias: Tensor) -> Tensor:
        """The prompt of each input, from (batch, d_model) to (batch, prompt_length, d_model)."""
        z: Tensor = q.to(self.P.dtype)[:, None] @ self.weight("down") + self.b_down      # (batch, 1, bottleneck)
        z = self.dropout(gelu(z)) @ self.weight("up") + bias.view(1, 1, -1)      # (batch, 1, prompt_length * d_model)
        return z.view(len(q), *bias.shape)

    def enter(self, base: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.reading:
            return args, kwargs
        given, n = by_name(base, args, kwargs), len(self.P)
        tokens = given.pop("input_ids", None)
        x = given["inputs_embeds"] if tokens is None else base.get_input_embeddings()(tokens)
        p = self.generated(self.dropout(self.query), self.P).to(x.dtype)
        given["inputs_embeds"] = torch.cat([x[:, :1], p, x[:, 1:]], dim=1)      # (batch, prompt_length + n, d_model)
        if "attention_mask" in given:
            given["attention_mask"] = pad(given["attention_mask"], (n, 0), value=1)
        if "token_type_ids" in given:
            given["token_type_ids"] = pad(given["token_type_ids"], (n, 0))
        if "position_ids" in given:
            moved = given["position_ids"]
            first = moved[:, :1] + torch.arange(n + 1, device=moved.device)
            given["position_ids"] = torch.cat([first, moved[:, 1:] + n], dim=1)
        return (), given

    def leave(self, _: nn.Module, args: Any, output: Any) -> Any:
        if not self.reading:
            h = output.last_hidden_state
            output.last_hidden_state = behind_first(h, len(self.P))      # (batch, n, d_model)
        return output


class Bias(kit.Child):
    """The bias of one later layer."""

    generator: Generator        # not a submodule

    def __init__(self, generator: Generator):
        super().__init__()
        kit.share(self, generator=generator)
        self.D = nn.Parameter(torch.empty(generator.P.shape).uniform_(-0.5, 0.5))

    def change(self, _: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.generator.reading:
            return args
        h, n = args[0], len(self.D)
        p = h[:, 1 : n + 1] + self.generator.generated(h[:, 0], self.D).to(h.dtype)
        return behind_first(h, n, p), *args[1:]


def apply(
    model: nn.Module, *, prompt_length: int = 5, bottleneck: int = 16, n: int = 16, deep: bool = True,
    dropout: float = 0.1, name: str = "idpg",
) -> nn.Module:  # fmt: skip
    """Freeze the model and generate a prompt for each input. Raises UsageError for other models than text encoders."""
    dims = kit.inventory(model).dims
    if not dims["vocab"] or dims["n_encoders"] != 1 or dims["n_decoder_layers"] or dims["d_embed"] != dims["d_model"]:
        raise UsageError("an encoder of texts with one width in all layers was expected: its first token is read")
    if dims["d_model"] % n or bottleneck % n:
        raise UsageError(f"widths that {n} divides were expected; found {dims['d_model']} and {bottleneck}")
    kit.freeze(model)
    sizes = {"prompt_length": prompt_length, "bottleneck": bottleneck, "n": n}
    generator = Generator(dims["d_model"], dropout=dropout, **sizes)
    base = kit.base(model)
    hooks = kit.attach(model, name, generator)
    hooks.append(generator.listen(model))
    hooks.append(base.register_forward_pre_hook(generator.enter, with_kwargs=True))
    hooks.append(base.register_forward_hook(generator.leave))
    for layer in kit.blocks(model, "layer")[1:] if deep else ():
        child = Bias(generator)
        kit.attach(layer.module, name, child).append(layer.module.register_forward_pre_hook(child.change))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [child] = (child for child in kit.attached(model, "idpg") if isinstance(child, Generator))
    states = model(input_ids=inputs["ids"]).last_hidden_state
    return {"output": states, "query": child.query, "prompt": child.generated(child.query, child.P)}

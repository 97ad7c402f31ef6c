"""ShadowPEFT: a shadow network beside a decoder (li2026shadowpeft).

    s_0 = M(x);    h <- h + alpha U_l D_l (h - s_l),    h <- layer_l(h);    s_{l+1} = (1 - g) s_l + g T_l(h)

The shadow M is the backbone's own architecture with `shadow_layers` layers and fresh weights; only the token
embeddings are the backbone's. What it makes of the input travels along the layers: the difference between the two
states corrects the input of each, and a gate g = sigmoid(G_l(h)) moves the shadow on. T and G have one hidden layer
of `gate_width` (0: r) with GELU; the last layer has none, since nothing reads the shadow after it. Trained, and kept
at inference: M, D, U, T, G. U starts at zero, and so does the correction.

peft also drops out part of the difference in training, and has the shadow predict by itself for a part of the loss. A
cache is refused: the shadow would need its own.
"""

import copy
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import gelu, linear

from peftonomy import UsageError

from . import _kit as kit
from ._doubles import Double

ENDS = ("norm.embed", "embed.position", "norm.final")


class Step(kit.Child):
    """What one layer has: the correction before it, and behind it what moves the shadow on."""

    def __init__(self, d_model: int, r: int, width: int, alpha: float, last: bool):
        super().__init__()
        self.alpha, self.last = alpha, last
        self.D, self.U = nn.Parameter(0.02 * torch.randn(r, d_model)), nn.Parameter(torch.zeros(d_model, r))
        if not last:
            self.T_in, self.b_T_in = nn.Linear(d_model, width).parameters()
            self.T_out, self.b_T_out = nn.Linear(width, d_model).parameters()
            self.G_in, self.b_G_in = nn.Linear(d_model, width).parameters()
            self.G_out, self.b_G_out = nn.Linear(width, d_model).parameters()

    def correct(self, h: Tensor, s: Tensor) -> Tensor:
        return h + self.alpha * linear(linear(h - s, self.D), self.U)           # (batch, n, d_model)

    def move(self, s: Tensor, h: Tensor) -> Tensor:
        t = linear(gelu(linear(h, self.T_in, self.b_T_in)), self.T_out, self.b_T_out)
        g = linear(gelu(linear(h, self.G_in, self.b_G_in)), self.G_out, self.b_G_out)
        return torch.lerp(s, t.to(s.dtype), torch.sigmoid(g).to(s.dtype))       # (batch, n, d_model)


class Shadow(kit.Child):
    """The shadow network, and its state while the backbone runs.

    `own` are its parameters, by their names in the backbone's body: each lives beside the one that it doubles. `frame`
    is the architecture, without numbers.
    """

    frame: nn.Module            # not a submodule

    def __init__(self, own: dict[str, Double], frame: nn.Module):
        super().__init__()
        self.own = own          # not submodules
        kit.share(self, frame=frame.to("meta"))
        self.s: Tensor | None = None

    def begin(self, body: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        if cache is not None and cache.get_seq_length() > 0:
            raise NotImplementedError("the shadow keeps no cache: generate with use_cache=False")
        given = {k: kwargs.get(k) for k in ("input_ids", "inputs_embeds", "attention_mask", "position_ids")}
        if args:
            given["input_ids"] = args[0]
        live = {**dict(body.named_parameters()), **dict(body.named_buffers())}
        named = [name for name, _ in (*self.frame.named_parameters(), *self.frame.named_buffers())]
        own = {name: value for name, double in self.own.items() for value in double.parameters()}
        numbers = {name: own.get(name, live[name]) for name in named}
        said = {name: value for name, value in given.items() if value is not None}
        self.frame.train(self.training)
        self.s = functional_call(self.frame, numbers, (), {**said, "use_cache": False}).last_hidden_state

    def correct(self, step: Step, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert self.s is not None
        if args:
            return (step.correct(args[0], self.s), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": step.correct(kwargs["hidden_states"], self.s)}

    def move(self, step: Step, _: nn.Module, args: Any, output: Any) -> None:
        assert self.s is not None
        h = output[0] if isinstance(output, tuple) else output                  # (batch, n, d_model)
        self.s = None if step.last else step.move(self.s, h)                    # keeps no graph


def apply(
    model: nn.Module, *, r: int = 16, alpha: float = 0.1, gate_width: int = 10, shadow_layers: int = 1,
    name: str = "shadow_peft",
) -> nn.Module:
    """Freeze the model and run a shadow beside it. Raises UsageError where the model has an encoder."""
    layers = kit.blocks(model, "layer")
    if kit.inventory(model).dims["n_encoder_layers"]:
        raise UsageError("a shadow follows a decoder; this model has an encoder")
    kit.freeze(model)
    body = model.get_submodule(layers[0].path.rpartition(".")[0].rpartition(".")[0])    # what runs the layers
    frame = _shallow(body, shadow_layers)
    shadow = Shadow(_doubles(model, body, frame, shadow_layers, name), frame)
    kit.attach(model, name, shadow).append(body.register_forward_pre_hook(shadow.begin, with_kwargs=True))
    for layer in layers:
        step = Step(layer.dims["d_model"], r, gate_width or r, alpha, layer is layers[-1])
        kit.attach(layer.module, name, step).extend([
            layer.module.register_forward_pre_hook(partial(shadow.correct, step), with_kwargs=True),
            layer.module.register_forward_hook(partial(shadow.move, step)),
        ])
    return model


def _shallow(body: nn.Module, n_layers: int) -> nn.Module:
    """A new model of the body's class with fewer layers."""
    config = copy.deepcopy(cast(Any, body).config)
    config.num_hidden_layers = n_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:n_layers]
    return type(body)(config)


def _doubles(
    model: nn.Module, body: nn.Module, frame: nn.Module, n_layers: int, name: str
) -> dict[str, Double]:
    """The shadow's parameters, each attached beside the backbone's that it doubles."""
    fresh, names = dict(frame.named_parameters()), {id(p): n for n, p in body.named_parameters()}
    doubles: dict[str, Double] = {}
    for weight in kit.weights(model):
        inside = weight.layer is not None and weight.layer < n_layers
        if inside or weight.role in ENDS:
            path, _, suffix = weight.name.rpartition(".")
            key = names[id(weight.value)]
            name_here = "M" if inside else "M_positions" if weight.role == "embed.position" else "M_norms"
            doubles[key] = Double(name_here, fresh[key])
            kit.attach(model.get_submodule(path), f"{name}.{suffix}", doubles[key])
    return doubles


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the second layer's step alone on the recorded states `x` and `s`; for the golden vectors."""
    _, step, *_ = (child for child in kit.attached(model, "shadow_peft") if isinstance(child, Step))
    return {"output": step.correct(inputs["x"], inputs["s"]), "moved": step.move(inputs["s"], inputs["x"])}

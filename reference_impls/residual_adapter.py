"""Residual adapter: exploring versatile generative language model (lin2020vglm, code_vglm).

    h <- h + W_up relu(W_down LN(h) + b_down) + b_up

One bottleneck behind each whole layer, with a layer norm of its own. Trained: its gain and shift (d_model), W_down
(bottleneck, d_model), W_up (d_model, bottleneck) and their biases. At inference all of it remains. Nothing starts at
zero, so the model starts near to where it was, not there.

The paper's second trained part, embeddings for a few new tokens that mark a task and its segments, is left to the
caller's vocabulary. The official code puts the adapter where this does: behind both residuals of a GPT-2 block.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from . import _kit as kit


class ResidualAdapter(kit.Child):
    """The adapter behind one layer."""

    def __init__(self, d_model: int, *, bottleneck: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.shift = nn.Parameter(torch.zeros(d_model))
        self.W_down = nn.Parameter(0.02 * torch.randn(bottleneck, d_model))
        self.b_down = nn.Parameter(torch.zeros(bottleneck))
        self.W_up = nn.Parameter(0.02 * torch.randn(d_model, bottleneck))
        self.b_up = nn.Parameter(torch.zeros(d_model))

    def behind(self, h: Tensor) -> Tensor:
        normed = layer_norm(h, self.gain.shape, self.gain, self.shift)      # (batch, n, d_model)
        z = torch.relu(linear(normed, self.W_down, self.b_down))            # (batch, n, bottleneck)
        return h + linear(z, self.W_up, self.b_up)                          # (batch, n, d_model)


def apply(model: nn.Module, *, bottleneck: int = 100, name: str = "residual_adapter") -> nn.Module:
    """Freeze the model and put an adapter behind every layer."""
    kit.freeze(model)
    for layer in kit.blocks(model, "layer"):
        adapter = ResidualAdapter(layer.dims["d_model"], bottleneck=bottleneck)
        kit.attach(layer.module, name, adapter).append(kit.on_layer_output(layer.module, adapter.behind))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states

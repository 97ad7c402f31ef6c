"""Invertible adapter: a coupling at the embeddings, undone before the output (pfeiffer2020madx).

    e <- [e_1 + F(e_2); e_2 + G(e_1 + F(e_2))],    F, G: W_2 relu(W_1 x + b_1) + b_2

What tokens mean differs between languages and domains. This changes their embeddings on the way in, and what the
output embedding reads by the exact inverse on the way out, since both share one table. Trained, and kept at
inference: two networks with a hidden layer `width` wide, one from each half of the vector to the other.

It is the part of MAD-X that sits at the embeddings, alone. The authors' library puts it behind all embeddings,
positions and norm included; here it acts on those of tokens (or patches).
"""

from torch import Tensor, nn

from . import _kit as kit
from .mad_x import Coupling, around


def apply(model: nn.Module, *, width: int) -> nn.Module:
    """Freeze the model and put the coupling behind its token embeddings, its inverse before the output embedding."""
    kit.freeze(model)
    coupling = Coupling(kit.inventory(model).dims["d_embed"], width=width)
    kit.attach(model, "invertible_adapter", coupling).extend(around(model, coupling))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Run the method alone on recorded inputs; for the golden vectors."""
    batch = {key: value for key, value in inputs.items() if key != "probe"}
    states: Tensor = model(**batch).last_hidden_state
    return states

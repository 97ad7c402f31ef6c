"""Cross-attention tuning: train what connects the two languages of a translator (gheini2021xattn; code_xattn).

    theta <- theta - eta g    for theta in cross-attention, its norm and the embeddings;    all else frozen

Trained: queries, keys, values and output of every cross-attention, the norm beside it and, with `embeddings`, the
tables of tokens and positions, the norms behind them and an output embedding that is not the tokens' table. At
inference the weights are where they always were.

The authors also train the embeddings of one language only, drawn anew, on models with a table for each language. A
model without cross-attention has nothing to train.
"""

from torch import Tensor, nn

from . import _kit as kit

EMBEDDINGS = "embed.token", "embed.position", "norm.embed", "head.lm"


def apply(model: nn.Module, *, embeddings: bool = True) -> nn.Module:
    """Let the optimiser move cross-attention and, if asked, the embeddings."""
    kit.freeze(model)
    weights = kit.weights(model)
    connecting = [w for w in weights if w.role.startswith("xattn.") or w.role == "norm.xattn"]
    for weight in [*connecting, *(w for w in weights if embeddings and connecting and w.role in EMBEDDINGS)]:
        weight.value.requires_grad_(True)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens of both languages; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"], decoder_input_ids=inputs["decoder_input_ids"]).logits
    return {"output": logits}                                       # (batch, n, vocab)

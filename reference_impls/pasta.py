"""PASTA: parameter-efficient tuning with special token adaptation (yang2023pasta).

    h_i <- h_i + v_p    before each layer, where token i is the p-th special token;    h_i <- h_i elsewhere

The special tokens, [CLS] and [SEP] in BERT, mean nothing by themselves, and much of the attention goes to them. Only
their states are changed, by one trained vector for each of them and each layer. Trained, and kept at inference: v
(n_special, d_model) in every layer.

Which tokens are special the tokenizer knows: give the model its `special_tokens_mask` with the input ids. Without
one, the first token and the last `n_special` - 1 that are not padding are taken for special. The authors
look for BERT's two token numbers. Their vectors start as the model starts its embeddings, not at zero, and have
the dropout of the model's hidden states.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import _kit as kit


class Vectors(kit.Child):
    """The vectors of one layer."""

    tokens: "Tokens"            # not a submodule

    def __init__(self, d_model: int, tokens: "Tokens", *, n_special: int, dropout: float):
        super().__init__()
        kit.share(self, tokens=tokens)
        self.v = nn.Parameter(0.02 * torch.randn(n_special, d_model))
        self.dropout = nn.Dropout(dropout)

    def enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if not args:
            return args, kwargs | {"hidden_states": self.add(kwargs["hidden_states"])}
        return (self.add(args[0]), *args[1:]), kwargs

    def add(self, h: Tensor) -> Tensor:
        where = self.tokens.places(h, len(self.v)).to(h.dtype)      # (batch, n, n_special)
        added: Tensor = self.dropout(where @ self.v)                # (batch, n, n_special) -> (batch, n, d_model)
        return h + added


class Tokens(kit.Child):
    """What is known of the tokens that a stack now reads."""

    def __init__(self, prefix: str):
        super().__init__()
        self.prefix = prefix
        self.special: Tensor | None = None
        self.present: Tensor | None = None

    def look(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self.special = kwargs.pop(f"{self.prefix}special_tokens_mask", None)
        self.present = kwargs.get(f"{self.prefix}attention_mask")
        return args, kwargs

    def places(self, h: Tensor, n_special: int) -> Tensor:
        """Which of the special tokens stands where: (batch, n, n_special)."""
        if self.special is not None:
            number = self.special.cumsum(1) * self.special          # (batch, n): p at the p-th special token, else 0
        else:
            everywhere = torch.ones(h.shape[:2], dtype=torch.long, device=h.device)
            present = everywhere if self.present is None else self.present
            first, rest = present.cumsum(1) * present, present.flip(1).cumsum(1).flip(1) * present
            number = torch.where(first == 1, 1, torch.where(rest < n_special, n_special + 1 - rest, 0) * present)
        return number[..., None] == torch.arange(1, n_special + 1, device=number.device)


def apply(model: nn.Module, *, n_special: int = 2, dropout: float = 0.1, name: str = "pasta") -> nn.Module:
    """Freeze the model and give each layer a vector for each special token."""
    kit.freeze(model)
    two = hasattr(kit.base(model), "decoder")
    tokens = {stack: Tokens("decoder_" if two and stack == "decoder" else "") for stack in ("encoder", "decoder")}
    for block in kit.blocks(model, "layer"):
        vectors = Vectors(block.dims["d_model"], tokens[block.stack], n_special=n_special, dropout=dropout)
        hooks = kit.attach(block.module, name, vectors)
        hooks.append(block.module.register_forward_pre_hook(vectors.enter, with_kwargs=True))
        if block.layer == 0:
            hooks.append(model.register_forward_pre_hook(vectors.tokens.look, with_kwargs=True))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the model on recorded tokens and their special tokens' mask; for the golden vectors."""
    logits: Tensor = model(input_ids=inputs["input_ids"], special_tokens_mask=inputs["special"]).logits
    return {"output": logits}                                       # (batch, labels)

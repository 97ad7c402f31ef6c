"""TPT: token-wise prompt tuning (wu2023tpt; code_tpt#models.py:MergeT5Single).

    X <- [B_i1; ...; B_ik; P; X],    {i1 < ... < ik} = the k largest of B max(X)

A bank B holds single vectors of prompts. Every input gets those k = top_k of them that have the largest product with
max(X), the largest value of the embedded input in each dimension, in the order of the bank. A prompt P, the same for
all inputs, follows. Trained, and kept at inference: B (bank_size, d_embed), which many tasks have trained before and
`load` gives, and P (prompt_length, d_embed), which starts at embeddings of tokens. Until `load` the bank is noise, the
same in every model. The choice has no gradient. Padding does not count for the maximum here.
"""

from typing import cast

import torch
from torch import Tensor, nn

from . import _kit as kit
from ._prompt import of_tokens, prepend_each


class Bank(kit.Child):
    """The bank and the prompt."""

    def __init__(self, tokens: Tensor, *, bank_size: int, top_k: int):
        super().__init__()
        fixed = torch.Generator().manual_seed(0)
        self.B = nn.Parameter(torch.randn(bank_size, tokens.shape[1], generator=fixed))
        self.P = nn.Parameter(tokens)
        self.top_k = top_k

    @torch.no_grad()
    def choose(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The numbers of each input's vectors, (batch, top_k), from its embeddings (batch, n, d_embed)."""
        if mask is not None:
            x = x.masked_fill(~mask[..., None].bool(), -torch.inf)
        scores = x.amax(dim=1).to(self.B.dtype) @ self.B.T                      # (batch, bank_size)
        return scores.topk(self.top_k, dim=-1).indices.sort(dim=-1).values

    def prompts(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        chosen = self.B[self.choose(embedded, mask)]                            # (batch, top_k, d_embed)
        return torch.cat([chosen, self.P.expand(len(chosen), -1, -1)], dim=1)   # (batch, top_k + prompt_length, d)


def apply(
    model: nn.Module, *, prompt_length: int = 100, bank_size: int = 600, top_k: int = 100,
    name: str = "token_wise_prompt_tuning",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put vectors of a bank in front of its inputs. Raises UsageError without a vocabulary."""
    tokens = of_tokens(model, prompt_length)
    kit.freeze(model)
    child = Bank(tokens, bank_size=bank_size, top_k=top_k)
    kit.attach(model, name, child).extend(prepend_each(model, child.prompts, top_k + prompt_length))
    return model


@torch.no_grad()
def load(model: nn.Module, bank: Tensor, name: str = "token_wise_prompt_tuning") -> nn.Module:
    """Copy a bank (bank_size, d_embed) that other tasks trained."""
    [child] = cast(list[Bank], kit.attached(model, name))
    child.B.copy_(bank)
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors: what enters the first layer, and the choice."""
    entered: list[Tensor] = []
    first = kit.blocks(model, "layer")[0].module
    handle = first.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    model(inputs_embeds=inputs["x"], decoder_input_ids=torch.zeros(len(inputs["x"]), 1, dtype=torch.long))
    handle.remove()
    [child] = cast(list[Bank], kit.attached(model, "token_wise_prompt_tuning"))
    return {"output": entered[0], "chosen": child.choose(inputs["x"], None)}

"""SMoP: sparse mixture-of-prompts (choi2023smop; code_smop#peft_models/tuners/prompt_routing.py).

    X <- [sum_(i in top k) a_i P_i; X],    a = softmax(z (1 + noise * e)),    z = W mean(X)

Every input gets the prompt with the largest probability, times that probability, or the sum of the `top_k` largest. e
is standard normal and drawn in training only. Trained, and kept at inference: the prompts P (n_prompts, prompt_length,
d_embed), and the router W (n_prompts, d_embed). Padding does not count for the mean.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from . import _kit as kit
from ._prompt import prepend_each


class Prompts(kit.Child):
    """The prompts and their router."""

    def __init__(self, d: int, *, prompt_length: int, n_prompts: int, top_k: int, noise: float, dropout: float):
        super().__init__()
        self.P = nn.Parameter(torch.randn(n_prompts, prompt_length, d))
        self.W = nn.Parameter(nn.init.orthogonal_(torch.empty(n_prompts, d)))
        self.top_k, self.noise = top_k, noise
        self.dropout = nn.Dropout(dropout)

    def probabilities(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        """The probability of each prompt for each input, (batch, 1, n_prompts)."""
        n = embedded.shape[:2]
        present = torch.ones(n, device=embedded.device) if mask is None else mask
        present = present[:, None].to(embedded.dtype)                               # (batch, 1, n)
        total = present @ embedded.detach()         # no gradient, even where transformers lets one begin at the tokens
        mean = total / present.sum(-1, keepdim=True).clamp(min=1)                   # (batch, 1, d)
        z = linear(mean.to(self.W.dtype), self.W)                                   # (batch, 1, n_prompts)
        if self.training and self.noise:
            z = z + self.noise * torch.randn_like(z) * z.detach()
        return torch.softmax(self.dropout(z), dim=-1)

    def vectors(self, embedded: Tensor, mask: Tensor | None) -> Tensor:
        a = self.probabilities(embedded, mask)
        chosen = a.detach().topk(self.top_k, dim=-1).indices                        # (batch, 1, top_k)
        prompts = self.P[chosen[:, 0]].flatten(2)                                   # (batch, top_k, length * d)
        mixed: Tensor = a.gather(-1, chosen) @ prompts                              # (batch, 1, length * d)
        return mixed.view(len(embedded), *self.P.shape[1:])                         # (batch, prompt_length, d)


def apply(
    model: nn.Module, *, prompt_length: int = 5, n_prompts: int = 4, top_k: int = 1, noise: float = 1.0,
    dropout: float = 0.0, name: str = "smop",
) -> nn.Module:  # fmt: skip
    """Freeze the model and put one of several prompts in front of each of its inputs."""
    kit.freeze(model)
    child = Prompts(
        kit.inventory(model).dims["d_embed"],
        prompt_length=prompt_length, n_prompts=n_prompts, top_k=top_k, noise=noise, dropout=dropout,
    )  # fmt: skip
    kit.attach(model, name, child).extend(prepend_each(model, child.vectors, prompt_length))
    return model


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors."""
    [child] = (child for child in kit.attached(model, "smop") if isinstance(child, Prompts))
    found = {"output": child.vectors(inputs["x"], inputs["mask"])}
    if "batch_x" in inputs:
        found["batch"] = child.vectors(inputs["batch_x"], inputs["batch_mask"])
    return found

"""SPoT: soft prompt transfer (vu2022spot).

    P <- P_s,    s = argmax_s cos(e_s, e),    e the mean of the vectors of a prompt after few steps

A prompt for a new task begins where the prompt of an older task ended, and is then tuned like any other. Which older
task helps is read off early prompts: a short first run on the new task gives a prompt, and it is compared with the
prompts that the source tasks had after as many steps. P_s is the best prompt of the closest source task. Trained, and
kept at inference: P, as in prompt tuning, of which this is a start. Early and best prompts of the source tasks are
needed only for the choice.

`start` puts a source prompt in, `nearest` chooses it, `similarity` compares: of the means over the vectors, or the
mean over all pairs of vectors. The official code has the start only, from a prompt's file.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from . import _kit as kit
from . import prompt_tuning


def apply(model: nn.Module, *, prompt_length: int = 100, name: str = "spot") -> nn.Module:
    """Freeze the model and put a prompt in front of its inputs; `start` then gives it its first value."""
    return prompt_tuning.apply(model, prompt_length=prompt_length, name=f"{name}.prompt")


def prompt(model: nn.Module, name: str = "spot") -> nn.Parameter:
    """The prompt of this model, (prompt_length, d_embed)."""
    [child] = kit.attached(model, f"{name}.prompt")
    assert isinstance(child, prompt_tuning.Prompt)
    return child.P


@torch.no_grad()
def start(model: nn.Module, source: Tensor, name: str = "spot") -> nn.Module:
    """Begin at a source prompt."""
    prompt(model, name).copy_(source)
    return model


def similarity(a: Tensor, b: Tensor, *, per_token: bool = False) -> float:
    """How alike two tasks are, by the cosine of their prompts: of the mean vectors, or averaged over all pairs."""
    if per_token:
        return (normalize(a, dim=-1) @ normalize(b, dim=-1).T).mean().item()
    return torch.cosine_similarity(a.mean(dim=0), b.mean(dim=0), dim=0).item()


def nearest(target: Tensor, sources: Mapping[str, Tensor], *, per_token: bool = False) -> Sequence[str]:
    """The names of the source tasks, the most similar first; all prompts are those after the same number of steps."""
    return sorted(sources, key=lambda task: -similarity(target, sources[task], per_token=per_token))


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Run the method alone on recorded inputs; for the golden vectors: what enters the first layer."""
    begun = start(copy.deepcopy(model), inputs["source"])
    return {"output": prompt_tuning.probe(model, inputs), "started": prompt_tuning.probe(begun, inputs)}

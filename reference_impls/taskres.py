"""TaskRes: task residual for tuning vision-language models (yu2023taskres; code_taskres#trainers/taskres.py).

    t_i <- t_i + alpha X_i

with t_i the features of the text of class i, behind the projection to the shared space, before they are normalised.

Trained: X (classes, d), zero at the start. Its rows belong to the texts in the order in which the model gets them;
their number is the config's `num_labels`. Nothing of the towers needs a gradient. The sum is the classifier, which is
all that inference needs of the text tower.
"""

import torch
from torch import Tensor, nn

from peftonomy import UsageError

from . import _kit as kit


class Residual(kit.Child):
    """The residual of each class."""

    def __init__(self, labels: int, d: int, *, alpha: float):
        super().__init__()
        self.X = nn.Parameter(torch.zeros(labels, d))
        self.alpha = alpha

    def after(self, _: Tensor, t: Tensor) -> Tensor:
        if len(t) != len(self.X):
            raise UsageError(f"texts: found {len(t)}; expected {len(self.X)}, one for each label in the model's config")
        return t + self.alpha * self.X                              # (classes, d)


def apply(
    model: nn.Module, *, alpha: float = 0.5, targets: tuple[str, ...] = ("head.text",), name: str = "taskres"
) -> nn.Module:
    """Freeze the model and add a residual to the features of each label's text. Raises UsageError without texts."""
    parts = kit.inventory(model)
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, Residual(parts.num_labels, site.d_out, alpha=alpha))
    return model

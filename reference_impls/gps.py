"""GPS: gradient-based parameter selection (zhang2023gps; code_gps).

    theta <- theta - eta M * g,    M = 1 at the k largest |G| of each neuron;    G = sum of gradients over the data

Trained: for every output of a linear layer, and of the embedding of patches, the k weights whose summed gradient is
largest, chosen once by `calibrate`, and all biases of these modules. Stored: those weights with their positions, and
the biases. At inference the weights are where they always were.

The gradients are those of any loss that `calibrate` is given. The authors take `contrastive`, a loss on the last state
of the class token, because the head is random before training.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from . import _kit as kit
from . import _recorded as recorded
from . import _sparse as sparse

NEURONS = "attn.", "xattn.", "mlp.", "moe.shared.", "merge", "conv", "pooler", "embed.audio", "embed.patch"


class Chosen(sparse.Sparse):
    """The masks of the trained weights, `k` for each neuron."""

    def __init__(self, k: int):
        super().__init__(0.0)
        self.k = k


def neurons(model: nn.Module) -> list[kit.Weight]:
    """Return the parameters of modules whose outputs are neurons: weights and biases."""
    weights = [w for w in kit.weights(model) if w.pretrained and w.role.startswith(NEURONS)]
    return [w for w in weights if w.name.endswith(".bias") or w.kind in ("linear", "conv1d", "conv")]


def apply(model: nn.Module, *, k: int = 1) -> nn.Module:
    """Free the weights and biases of all neurons; `calibrate` then masks the weights."""
    kit.freeze(model)
    for weight in neurons(model):
        weight.value.requires_grad_(True)
    kit.attach(model, "gps", Chosen(k))
    return model


def calibrate(model: nn.Module, losses: Iterable[Tensor]) -> nn.Module:
    """Choose k weights of each neuron by the sum of the losses' gradients, and let only these move."""
    weights = [w for w in neurons(model) if not w.name.endswith(".bias")]
    total = [torch.zeros_like(w.value) for w in weights]
    for loss in losses:
        for summed, gradient in zip(total, torch.autograd.grad(loss, [w.value for w in weights]), strict=True):
            summed += gradient
    child = sparse.of(model, "gps")
    assert isinstance(child, Chosen)
    masks = {w.name: largest(w, g.abs(), child.k) for w, g in zip(weights, total, strict=True)}
    return sparse.only(model, "gps", masks)


def largest(weight: kit.Weight, scores: Tensor, k: int) -> Tensor:
    """Return a mask that is true at the k largest scores of each output."""
    by_output = scores.T if weight.kind == "conv1d" else scores.flatten(1)                  # (d_out, inputs)
    chosen = torch.zeros_like(by_output, dtype=torch.bool)
    chosen.scatter_(1, by_output.topk(min(k, by_output.shape[1]), dim=1).indices, value=True)
    return chosen.T.contiguous() if weight.kind == "conv1d" else chosen.view_as(scores)


def contrastive(features: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Return the supervised contrastive loss of features (views, batch, d), without a head."""
    views, batch, _ = features.shape
    unit = nn.functional.normalize(features, dim=-1).flatten(0, 1)                          # (views batch, d)
    same = (labels[:, None] == labels).repeat(views, views)                                 # (views batch, views batch)
    other = ~torch.eye(views * batch, dtype=torch.bool, device=unit.device)
    logits = unit @ unit.T / temperature
    logged = logits - logits.masked_fill(~other, -torch.inf).logsumexp(1, keepdim=True)
    positive = same & other
    return -((logged * positive).sum(1) / positive.sum(1)).mean()


def probe(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Choose by the contrastive loss of recorded views, and mask a recorded gradient; for the golden vectors."""
    images, labels = inputs["images"], inputs["labels"]             # (batches, views, size, ...), (batches, size)
    body = kit.base(model)
    last = [body(pixel_values=x.flatten(0, 1)).last_hidden_state[:, 0] for x in images]
    losses = [contrastive(h.unflatten(0, x.shape[:2]), y) for h, x, y in zip(last, images, labels, strict=True)]
    calibrate(model, losses)
    model.zero_grad()
    model(pixel_values=images[0, 0], labels=labels[0]).loss.backward()
    gradients = {w.name: w.value.grad for w in neurons(model) if w.value.grad is not None}
    return {
        "losses": torch.stack(losses),                                      # (batches,)
        "mask": recorded.flat(sparse.of(model, "gps").masks),               # (all weights,)
        "output": recorded.flat(gradients),                                 # (all weights and biases,)
    }


def pack(model: nn.Module) -> dict[str, Tensor]:
    """What one task stores: the chosen weights with their positions, and the biases."""
    return sparse.pack(model, "gps", [w.name for w in neurons(model) if w.name.endswith(".bias")])


def unpack(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Write one task's numbers into the pretrained model."""
    return sparse.unpack(model, state)

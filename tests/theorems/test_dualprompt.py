"""DualPrompt: training uses the expert of its own task, and inference that of the nearest key."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from peftonomy import UsageError
from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import dualprompt

pytestmark = pytest.mark.torch
SIZES: dict[str, Any] = {"g_length": 2, "g_layers": 1, "e_length": 3, "e_layers": 1, "tasks": 3, "batchwise": False}


def _parts(model: torch.nn.Module) -> tuple[dualprompt.Keys, dualprompt.Expert]:
    """Return the keys and the one expert, with numbers large enough to matter."""
    children = kit.attached(model, "dualprompt")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for child in children:
            for parameter in child.parameters(recurse=False):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    [keys] = [child for child in children if isinstance(child, dualprompt.Keys)]
    [expert] = [child for child in children if isinstance(child, dualprompt.Expert)]
    return keys, expert


def _pixels() -> Tensor:
    return torch.randn(3, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_inference_uses_the_expert_of_the_nearest_key() -> None:
    model = dualprompt.apply(tiny.model("vit"), **SIZES).eval()
    keys, expert = _parts(model)
    pixels = _pixels()
    model(pixel_values=pixels)
    queries = keys.query
    with torch.no_grad():       # the first image is of the second task, the others of the first and of the present one
        keys.old_keys[1], keys.old_keys[0], keys.key[:] = queries[0], queries[1], queries[2]
    assert keys.task().tolist() == [1, 0, 2]
    found = model(pixel_values=pixels).logits

    alone = dualprompt.apply(tiny.model("vit"), **SIZES | {"tasks": 1}).eval()
    _, own = _parts(alone)
    children = [child for one in (model, alone) for child in kit.attached(one, "dualprompt")]
    given, general = (child for child in children if isinstance(child, dualprompt.General))
    general.load_state_dict(given.state_dict())
    prefixes = [(expert.O_k[1], expert.O_v[1]), (expert.O_k[0], expert.O_v[0]), (expert.E_k, expert.E_v)]
    for image, (k, v) in enumerate(prefixes):
        own.E_k.data, own.E_v.data = k.data, v.data
        assert torch.allclose(alone(pixel_values=pixels[image : image + 1]).logits, found[image : image + 1], atol=1e-5)


def test_training_leaves_other_tasks_out_and_pulls_the_key() -> None:
    model = dualprompt.apply(tiny.model("vit"), **SIZES, pull=0.25).train()
    keys, expert = _parts(model)
    logits = model(pixel_values=_pixels()).logits
    logits.square().sum().backward()
    key = keys.key.detach().clone().requires_grad_()
    (-0.25 * torch.cosine_similarity(keys.query, key[None], dim=-1).mean()).backward()
    assert keys.key.grad is not None
    assert torch.allclose(keys.key.grad, key.grad), "whatever the loss of the task is"      # type: ignore[arg-type]
    for other in (expert.O_k, expert.O_v, keys.old_keys):
        assert other.grad is None
        other.data.fill_(9.0)
    assert torch.equal(model(pixel_values=_pixels()).logits, logits)


def test_a_new_task_starts_from_the_one_before() -> None:
    model = dualprompt.apply(tiny.model("vit"), **SIZES)
    k, v, old = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 12), (2, 3, 12), (2, 12)))
    dualprompt.load(model, [(k, v)], old)
    [expert] = [child for child in kit.attached(model, "dualprompt") if isinstance(child, dualprompt.Expert)]
    assert torch.equal(expert.E_k, k[-1])
    assert torch.equal(expert.E_v, v[-1])


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="2 and 3 layers were expected at least; the model has 2"):
        dualprompt.apply(tiny.model("vit"))
    with pytest.raises(UsageError, match="a model of images alone was expected"):
        dualprompt.apply(tiny.model("bert"))

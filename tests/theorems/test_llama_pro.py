"""LLaMA Pro: the model is one with more layers, and a cache holds the keys and values of these."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
import transformers
from torch import Tensor, nn

from peftonomy import UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.checks import shake
from reference_impls import _kit as kit
from reference_impls import llama_pro
from tests.knowledge import KB

pytestmark = pytest.mark.torch
LAYERS = {"llama": "model.layers", "gpt2": "transformer.h"}


def expanded(model: nn.Module, family: str, every: int) -> nn.Module:
    """Return a plain model of the same class with more layers, which has the layers and the copies in turn."""
    kind, settings = tiny.CONFIGS[family]
    depth = "num_hidden_layers" if family == "llama" else "n_layer"
    longer = tiny.built(kind, settings | {depth: settings[depth] + settings[depth] // every})
    longer.load_state_dict(tiny.plain(family).state_dict(), strict=False)
    copies = {child.number: child.layer for child in kit.attached(model) if isinstance(child, llama_pro.Copy)}
    states: list[dict[str, Tensor]] = []
    for n, layer in enumerate(model.get_submodule(LAYERS[family]).children()):
        own = {name: value for name, value in layer.state_dict().items() if "llama_pro" not in name}
        states += [own, *([copies[n].state_dict()] if n in copies else [])]
    for one, state in zip(longer.get_submodule(LAYERS[family]).children(), states, strict=True):
        one.load_state_dict(state)
    return longer


@pytest.mark.parametrize(("family", "every"), [("llama", 1), ("llama", 2), ("gpt2", 1)])
def test_it_is_a_model_with_more_layers(family: str, every: int) -> None:
    model = llama_pro.apply(tiny.model(family), every=every)
    with torch.no_grad():
        before = tiny.outputs(model, family)
        assert torch.allclose(before, tiny.outputs(tiny.plain(family), family), atol=tiny.TOLERANCE)
        shake(model)
        found = tiny.outputs(model, family)
        assert torch.allclose(found, tiny.outputs(expanded(model, family, every), family), atol=tiny.TOLERANCE)
    assert not torch.allclose(found, before, atol=0.1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_cache_holds_what_the_copies_need(family: str) -> None:
    model = cast(Any, llama_pro.apply(tiny.model(family), every=1))
    shake(model)
    ids = tiny.batch(family)["input_ids"][:1]
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        first = model(input_ids=ids[:, :4], cache=cache, use_cache=True).logits
        rest = model(input_ids=ids[:, 4:], cache=cache, use_cache=True).logits
    assert torch.allclose(torch.cat([first, rest], dim=1), whole, atol=tiny.TOLERANCE)
    assert len(cache.layers) == 4


def test_the_first_step_changes_only_the_output_projections() -> None:
    model = llama_pro.apply(tiny.model("llama"), every=2)
    tiny.loss(model, "llama").backward()
    moved = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad and p.grad.abs().max()}
    assert moved == {"Z"}


def test_checkpoints_recompute_the_copies() -> None:
    grads = []
    for checkpointing in (False, True):
        model = cast(Any, llama_pro.apply(tiny.model("llama"), every=1).train())
        shake(model)
        if checkpointing:
            model.activation_checkpointing_enable()
        tiny.loss(model, "llama").backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))


def test_a_copy_has_every_parameter_of_its_layer() -> None:
    """In every family of decoders, whatever its layers have besides attention and feed-forward block."""
    models = {model.family.model_type: model for model in map(KB.backbone, KB.models) if model.family.kind == "decoder"}
    assert len(models) > 20
    for model in models.values():
        modules = [m for m in model.inventory("none").modules if m.layers]
        copied = sum(
            math.prod(shape) * sum((layer + 1) % 4 == 0 for layer in m.layers)
            for m in modules for _, shape in m.parameters
        )  # fmt: skip
        assert KB["llama_pro"].cost(model, task="none").trained == copied > 0, model.id


def test_an_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="this model has an encoder"):
        llama_pro.apply(tiny.model("t5"))

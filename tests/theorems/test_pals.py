"""PALs: beside each layer runs an attention in a narrow space, and all layers share the matrices into it and back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import pals

pytestmark = pytest.mark.torch


def adapted(*, freeze: bool = False) -> nn.Module:
    model = tiny.model("bert")
    torch.manual_seed(0)
    pals.apply(model, bottleneck=6, heads=3, dropout=0.0, freeze=freeze)
    for child in kit.attached(model, "pals"):
        for parameter in child.parameters():
            parameter.data.normal_(std=0.5)
    return model.eval()


def narrow(model: nn.Module) -> list[pals.Attention]:
    return [child for child in kit.attached(model, "pals") if isinstance(child, pals.Attention)]


def test_it_is_torchs_attention_without_an_output_matrix_and_an_activation_follows() -> None:
    first = narrow(adapted())[0]
    shared = first.shared
    theirs = nn.MultiheadAttention(6, 3, batch_first=True).to(first.W_q)
    theirs.load_state_dict({
        "in_proj_weight": torch.cat([first.W_q, first.W_k, first.W_v]),
        "in_proj_bias": torch.cat([first.b_q, first.b_k, first.b_v]),
        "out_proj.weight": torch.eye(6), "out_proj.bias": torch.zeros(6),
    })  # fmt: skip
    x = torch.randn(2, 5, shared.W_down.shape[1]).to(first.W_q)
    z = x @ shared.W_down.T + shared.b_down
    hidden = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    wanted = nn.functional.gelu(theirs(z, z, z, key_padding_mask=hidden)[0] @ shared.W_up.T + shared.b_up)
    mask = torch.zeros(2, 1, 1, 5).to(x).masked_fill(hidden[:, None, None], -1e30)
    assert torch.allclose(first.extra(x, mask), wanted, atol=1e-6)


def test_every_layer_adds_its_own_output_before_the_norm() -> None:
    """With the pieces of the plain model, layer by layer."""
    model, plain = adapted(), tiny.model("bert").eval()
    ids = torch.randint(3, 37, (2, 6))
    with torch.no_grad():
        x = plain.base_model.embeddings(input_ids=ids)  # type: ignore[operator, union-attr]
        for layer, child in zip(kit.blocks(plain, "layer"), narrow(model), strict=True):
            block = layer.module
            a = block.attention(x)[0]  # type: ignore[operator]
            extra = child.extra(x, None)
            x = block.output(block.intermediate(a), a + extra)  # type: ignore[operator]
        states = model.base_model(input_ids=ids).last_hidden_state  # type: ignore[operator]
    assert torch.allclose(states, x, atol=1e-6)


def test_all_layers_share_one_pair_of_matrices() -> None:
    model = adapted()
    layers = narrow(model)
    assert len(layers) > 1
    assert len({id(child.shared) for child in layers}) == 1
    names = [name for name, _ in model.named_parameters() if "pals" in name]
    assert sum(name.endswith(("W_down", "W_up")) for name in names) == 2
    assert sum(name.endswith("W_q") for name in names) == len(layers)


def changed(model: nn.Module, parameter: Tensor) -> bool:
    ids = torch.arange(3, 11)[None]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        parameter.add_(1.0)
        after = model(input_ids=ids).logits
        parameter.sub_(1.0)
    return not torch.allclose(before, after)


def test_a_task_without_an_output_leaves_the_shared_model_as_it_is() -> None:
    """Two tasks with parts of their own run the same trained model."""
    model, plain = adapted(), tiny.model("bert").eval()
    ids = torch.arange(3, 11)[None]
    shared = narrow(model)[0].shared
    with torch.no_grad():
        shared.W_up.zero_()
        shared.b_up.zero_()
        assert torch.allclose(model(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-6)
        assert not changed(model, narrow(model)[0].W_v)
        shared.W_up.normal_()
        assert changed(model, narrow(model)[0].W_v)


@pytest.mark.parametrize("freeze", [False, True])
def test_the_shared_model_is_trained_or_only_its_norms(freeze: bool) -> None:
    model = adapted(freeze=freeze)
    kinds = {weight.kind for weight in kit.weights(model) if weight.value.requires_grad}
    assert kinds == ({"norm"} if freeze else {"embedding", "linear", "norm"})
    assert all(p.requires_grad for child in kit.attached(model, "pals") for p in child.parameters())


def test_padding_is_not_seen() -> None:
    model = adapted()
    ids, mask = torch.randint(3, 37, (1, 8)), torch.tensor([[1] * 5 + [0] * 3])
    with torch.no_grad():
        long = model(input_ids=ids, attention_mask=mask).logits
        short = model(input_ids=ids[:, :5]).logits
    assert torch.allclose(long, short, atol=1e-6)


def test_checkpoints_give_the_same_gradients_and_nothing_is_kept() -> None:
    ids = torch.randint(3, 37, (2, 6))
    found = []
    for checkpointing in (False, True):
        model = adapted()
        if checkpointing:
            model.activation_checkpointing_enable()  # type: ignore[operator]
            model.train()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        model(input_ids=ids).logits.square().sum().backward()
        found.append([narrow(model)[0].shared.W_down.grad, *(child.W_q.grad for child in narrow(model))])
        assert all(child.x is None for child in narrow(model))
    for plain, again in zip(*found, strict=True):
        assert plain is not None
        assert again is not None
        assert torch.allclose(plain, again, atol=1e-5)

"""Extra keys and extra positions against attention written out by hand, the models' own caches, and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import mam_adapter, p_tuning, prefix_tuning, prompt_tuning

pytestmark = pytest.mark.torch
LENGTH = 3
METHODS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "prefix_tuning": lambda model: prefix_tuning.apply(model, prefix_length=LENGTH, use_mlp=False),
    "prompt_tuning": lambda model: prompt_tuning.apply(model, prompt_length=LENGTH),
    "p_tuning": lambda model: p_tuning.apply(model, prompt_length=LENGTH, encoder="mlp", encoder_hidden=4),
}
TEXT = ("bert", "roberta", "t5", "gpt2", "llama")


def adapted(method: str, family: str) -> Any:
    torch.manual_seed(7)
    return METHODS[method](tiny.model(family))


def generator(method: str, family: str) -> Any:
    """As `adapted`, but with as many layers in T5's decoder as in its encoder: `generate` miscounts others."""
    if family != "t5":
        return adapted(method, family)
    torch.manual_seed(7)
    config = transformers.T5Config(**tiny.CONFIGS["t5"][1] | {"num_decoder_layers": 2})
    return METHODS[method](transformers.T5ForConditionalGeneration(config).double().eval())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
def test_a_cache_changes_nothing(family: str, method: str) -> None:
    """Generation is the same with and without a cache, in a batch with padding on the left."""
    model = generator(method, family)
    ids = tiny.batch(family)["input_ids"][:2]
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    a, b = (
        model.generate(ids, attention_mask=mask, use_cache=cache, return_dict_in_generate=True, **settings)
        for cache in (True, False)
    )
    assert torch.equal(a.sequences, b.sequences)
    assert (torch.stack(a.logits) - torch.stack(b.logits)).abs().max() < tiny.TOLERANCE


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("embedded", [False, True], ids=["tokens", "embedded"])
def test_a_later_part_of_the_input_has_no_prompt(method: str, embedded: bool) -> None:
    """The rest of an input, with the first part in the cache, has as many outputs as it has tokens."""
    model = adapted(method, "llama")
    ids = tiny.batch("llama")["input_ids"][:, :5]
    name, given = ("inputs_embeds", model.get_input_embeddings()(ids)) if embedded else ("input_ids", ids)
    whole = model(**{name: given}).logits
    begun = model(**{name: given[:, :3]}, use_cache=True)
    rest = model(**{name: given[:, 3:]}, cache=begun.cache, use_cache=True)
    assert torch.allclose(torch.cat([begun.logits, rest.logits], dim=1), whole)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", TEXT)
def test_padding_changes_nothing(family: str, method: str) -> None:
    """Real tokens do not notice how much padding follows them."""
    model = adapted(method, family)
    batch = tiny.batch(family)
    longer = batch | {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 4), value=1),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (0, 4)),
    }

    def answer(inputs: dict[str, Tensor]) -> Tensor:
        found = model(**inputs)
        values: Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
        return values[inputs["attention_mask"].bool()] if family in ("roberta", "gpt2", "llama") else values

    assert (answer(longer) - answer(batch)).abs().max() < tiny.TOLERANCE
    unmasked = longer | {"attention_mask": torch.ones_like(longer["attention_mask"])}
    if family in ("bert", "t5"):        # whose answer is as long as before
        assert (answer(unmasked) - answer(batch)).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", [*TEXT, "vit"])
def test_detaching_restores_the_model(family: str, method: str) -> None:
    """Taken down again, nothing of it is left; before, it made a difference and kept the shape of the answer."""
    model, wanted = adapted(method, family), tiny.outputs(tiny.model(family), family)
    changed = tiny.outputs(model, family)
    assert changed.shape == wanted.shape
    assert (changed - wanted).abs().max() > 1e-3
    kit.detach(model, method)
    assert (tiny.outputs(model, family) - wanted).abs().max() < tiny.TOLERANCE


def by_hand(q: Tensor, k: Tensor, v: Tensor, p_k: Tensor, p_v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """One softmax over the prefix, which no bias touches, and the keys. All but bias are (..., positions, head_dim)."""
    scores = torch.cat([scale * q @ p_k.mT, scale * q @ k.mT + bias], dim=-1)
    return scores.softmax(-1) @ torch.cat([p_v.expand(len(v), -1, -1, -1), v], dim=2)


@pytest.mark.parametrize(
    ("family", "path", "source"),
    [
        ("bert", "bert.encoder.layer.1.attention.self", ""),
        ("vit", "vit.layers.0.attention", ""),
        ("t5", "encoder.block.0.layer.0.SelfAttention", ""),
        ("t5", "decoder.block.0.layer.0.SelfAttention", ""),
        ("t5", "decoder.block.2.layer.1.EncDecAttention", "key_value_states"),
    ],
)
def test_a_prefix_is_attended_to(family: str, path: str, source: str) -> None:
    """The output of an attention equals the formula with its prefix, masks and position biases."""
    model = adapted("prefix_tuning", family)
    block = next(b for b in kit.blocks(model, "attention") if b.path == path)
    (prefix,) = kit.attached(block.module, "prefix_tuning")
    calls: list[tuple[Tensor, Tensor]] = []
    heads: list[Tensor] = []

    def record(_: nn.Module, args: Any, kwargs: Any, __: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        calls.append((x, kwargs.get(source, x)))

    block.module.register_forward_hook(record, with_kwargs=True)
    name = block.name
    block.sites[f"{name}.o"].module.register_forward_pre_hook(lambda _, args: heads.append(args[0]))
    tiny.outputs(model, family)
    (x, y), found = calls[0], heads[0]

    def split(role: str, z: Tensor) -> Tensor:
        site = block.sites[f"{name}.{role}"]
        return site.module(z).unflatten(-1, (block.dims["n_heads"], -1)).transpose(1, 2)

    n, m = x.shape[1], y.shape[1]
    bias = torch.zeros(1, 1, n, m, dtype=torch.float64)
    mask = tiny.batch(family).get("attention_mask")
    if mask is not None and m == mask.shape[1]:
        bias = bias.masked_fill(~mask.bool()[:, None, None], -torch.inf)
    if path.startswith("decoder") and not source:
        bias = bias + torch.full((n, m), -torch.inf, dtype=torch.float64).triu(1)
    if family == "t5" and not source:
        bias = bias + block.module.compute_bias(n, m)
    scale = 1.0 if family == "t5" else block.dims["head_dim"] ** -0.5
    p_k, p_v = prefix.keys_values()

    def distance(p_k: Tensor, p_v: Tensor, bias: Tensor) -> float:
        wanted = by_hand(split("q", x), split("k", y), split("v", y), p_k, p_v, bias, scale)
        return (wanted.transpose(1, 2).flatten(2) - found).abs().max().item()

    assert distance(p_k, p_v, bias) < tiny.TOLERANCE
    assert distance(p_v, p_k, bias) > 1e-3          # the comparison sees a wrong prefix
    assert distance(p_k, p_v, bias + 0.5) > 1e-3    # and a bias that reaches the keys but not the prefix


def test_prefixes_add_up() -> None:
    """Two methods may widen the same attention: the keys of both are seen."""
    model = adapted("prefix_tuning", "llama")
    mam_adapter.apply(model, prefix_length=2, use_mlp=False, bottleneck=2)
    extra = model.get_submodule("model.layers.0.self_attn").extra_keys_values
    assert sorted(keys_values()[0].shape[1] for keys_values in extra.values()) == [2, LENGTH]
    assert tiny.outputs(model, "llama").isfinite().all()


def test_an_attention_of_its_own_is_refused() -> None:
    """DeBERTa computes attention in its own way; one line says so, and the model stays as it was."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20}
    model = transformers.DebertaV2Model(transformers.DebertaV2Config(**sizes, vocab_size=37))
    with pytest.raises(TypeError, match="DisentangledSelfAttention does not go through the attention interface"):
        prefix_tuning.apply(model, prefix_length=2)
    prompt_tuning.apply(model, prompt_length=2)
    assert model(torch.tensor([[5, 6, 7]])).last_hidden_state.shape == (1, 3, 12)

"""peft as oracle for the prompt methods: the same trained counts, and the same outputs once weights are copied over.

Where peft differs, the difference is a deviation of the entry, and a test here shows that it is there.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import cartridges, cpt, mpt, p_tuning, prefix_tuning, prompt_tuning, warp
from tests import families
from tests import families_decoders as decoders

from .knowledge import KB

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*(past_key_values|is_gradient_checkpointing)"),
]
LENGTH, HIDDEN = 3, 5
TASKS = {
    "bert": "FEATURE_EXTRACTION", "roberta": "FEATURE_EXTRACTION",
    "t5": "SEQ_2_SEQ_LM", "gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM",
}  # fmt: skip
DECODERS = ("gpt2", "llama")
NARROW = {name: (families.TINY | decoders.TINY)[name] for name in ("electra", "albert", "opt")}
"""Models whose vectors of tokens are narrower than their layers."""
P_TUNING = {"prompt_length": LENGTH, "encoder_hidden": HIDDEN}
BESIDE_TOKENS: dict[str, dict[str, Any]] = {
    "prompt_tuning": {"prompt_length": LENGTH}, "p_tuning": P_TUNING, "mpt": {"prompt_length": LENGTH},
    "cpt": {"prompt_length": LENGTH, "labels": 0}, "spot": {"prompt_length": LENGTH},
    "attempt": {"prompt_length": LENGTH, "n_sources": 2, "bottleneck": 4}, "invertible_adapter": {"width": 2},
    "mad_x": {"language_bottleneck": 3, "task_bottleneck": 2, "invertible_width": 2},
}  # fmt: skip
"""What acts on the vectors of tokens, with small settings."""
PREFIX = {"prefix_length": LENGTH, "mid_dim": HIDDEN}


def base(family: str) -> nn.Module:
    """The tiny model that peft is given too; for encoders without their head."""
    model = tiny.model(family)
    return model.bert if family == "bert" else model


def theirs(family: str, config: Callable[..., Any], **settings: Any) -> nn.Module:
    """peft's model, its own weights random and in float64 like the model's."""
    torch.manual_seed(5)
    settings |= {"task_type": TASKS[family], "num_virtual_tokens": LENGTH}
    model: nn.Module = peft.get_peft_model(base(family), config(**settings))
    return model.double().eval()


def trained(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def answer(model: nn.Module, family: str, **more: Any) -> Tensor:
    """Logits or hidden states at the real tokens, whatever stands in front of them."""
    batch = tiny.batch(family)
    with torch.no_grad():
        found = model(**batch, **more)
    values: Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    if family == "t5":
        return values
    return values[:, values.shape[1] - batch["input_ids"].shape[1] :][batch["attention_mask"].bool()]


def cost(method: str, model: nn.Module, **hyperparameters: Any) -> int:
    parts = kit.inventory(model)
    return KB[method].cost(parts.backbone, task=parts.task, num_labels=parts.num_labels, **hyperparameters).trained


def encoder(model: nn.Module) -> Any:
    return model.prompt_encoder["default"]


def agree(ours: Tensor, peft_says: Tensor) -> bool:
    return bool((ours - peft_says).abs().max() < tiny.TOLERANCE)


@pytest.mark.parametrize("family", TASKS)
def test_prompt_tuning(family: str) -> None:
    """Equal counts and outputs; for encoder-decoders peft allocates twice the vectors and uses the first half."""
    reference, model = theirs(family, peft.PromptTuningConfig), prompt_tuning.apply(base(family), prompt_length=LENGTH)
    copies = 2 if family == "t5" else 1
    assert trained(reference) == copies * trained(model) == copies * cost("prompt_tuning", model, prompt_length=LENGTH)
    assert not agree(answer(model, family), answer(reference, family))
    model.prompt_tuning.P.data.copy_(encoder(reference).embedding.weight[:LENGTH])
    assert agree(answer(model, family), answer(reference, family))


@pytest.mark.parametrize("kind", ["lstm", "mlp"])
@pytest.mark.parametrize("family", TASKS)
def test_p_tuning(family: str, kind: str) -> None:
    """Equal counts and outputs, while training and after; for encoder-decoders peft doubles the embeddings."""
    settings = {"encoder_reparameterization_type": kind.upper(), "encoder_hidden_size": HIDDEN}
    reference = theirs(family, peft.PromptEncoderConfig, **settings)
    model = p_tuning.apply(base(family), encoder=kind, **P_TUNING)
    d_model = kit.inventory(model).dims["d_model"]
    extra = LENGTH * d_model if family == "t5" else 0
    assert trained(reference) - extra == trained(model) == cost("p_tuning", model, encoder=kind, **P_TUNING)
    ours, source = model.p_tuning, encoder(reference)
    ours.E.data.copy_(source.embedding.weight[:LENGTH])
    ours.mlp.load_state_dict(source.mlp_head.state_dict())
    if kind == "lstm":
        ours.lstm.load_state_dict(source.lstm_head.state_dict())
        if family == "t5":      # peft's LSTM reads the unused half as well, so its first half is another
            assert not agree(answer(model, family), answer(reference, family))
            return
    assert agree(answer(model, family), answer(reference, family))
    p_tuning.finish(model)
    assert agree(answer(model, family), answer(reference, family))
    assert not trained(model)


@pytest.mark.parametrize("family", DECODERS)
def test_prefix_tuning(family: str) -> None:
    """Equal counts, and equal outputs once real tokens stand at the positions where peft's cache puts them."""
    reference = theirs(family, peft.PrefixTuningConfig)
    model = prefix_tuning.apply(base(family), use_mlp=False, **PREFIX)
    assert trained(reference) == trained(model) == cost("prefix_tuning", model, use_mlp=False, **PREFIX)
    prefixes = kit.attached(model, "prefix_tuning")
    values = encoder(reference).embedding.weight.detach().unflatten(1, (len(prefixes), 2, -1))
    for i, prefix in enumerate(prefixes):
        prefix.P_k.data.copy_(values[:, i, 0])
        prefix.P_v.data.copy_(values[:, i, 1])
    moved = torch.arange(LENGTH, LENGTH + 7)[None]
    assert agree(answer(model, family, position_ids=moved), answer(reference, family))
    assert not agree(answer(model, family), answer(reference, family))


def test_prefix_tuning_with_mlp() -> None:
    """Equal while the MLP emits the prefixes, and after it has been dropped."""
    reference = theirs("gpt2", peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=HIDDEN)
    model = prefix_tuning.apply(base("gpt2"), **PREFIX)
    assert trained(reference) == trained(model) == cost("prefix_tuning", model, **PREFIX)
    ours, source = model.prefix_tuning, encoder(reference)
    pairs = {
        ours.E: source.embedding.weight,
        ours.W_1: source.transform[0].weight, ours.b_1: source.transform[0].bias,
        ours.W_2: source.transform[2].weight, ours.b_2: source.transform[2].bias,
    }  # fmt: skip
    for mine, other in pairs.items():
        mine.data.copy_(other)
    moved = torch.arange(LENGTH, LENGTH + 7)[None]
    wanted = answer(reference, "gpt2")
    assert agree(answer(model, "gpt2", position_ids=moved), wanted)
    prefix_tuning.finish(model)
    assert agree(answer(model, "gpt2", position_ids=moved), wanted)


def test_prefix_tuning_with_mlp_and_grouped_keys() -> None:
    """peft's embedding is as narrow as the keys where those are grouped; the paper's is as wide as the model."""
    reference = theirs("llama", peft.PrefixTuningConfig, prefix_projection=True, encoder_hidden_size=HIDDEN)
    model = prefix_tuning.apply(base("llama"), **PREFIX)
    dims = kit.inventory(model).dims
    assert trained(model) - trained(reference) == (LENGTH + HIDDEN) * (dims["d_model"] - dims["d_kv"])


def test_prefix_tuning_of_encoder_decoders() -> None:
    """peft: the decoder's self-attention only, a prefix for each layer of the encoder, as wide as the model."""
    reference = theirs("t5", peft.PrefixTuningConfig)
    model = prefix_tuning.apply(base("t5"), use_mlp=False, **PREFIX)
    dims = kit.inventory(model).dims
    assert trained(reference) == LENGTH * 2 * dims["n_encoder_layers"] * dims["d_model"]
    assert trained(model) == LENGTH * 2 * dims["n_attention"] * dims["d_kv"]


def test_prefix_tuning_of_encoders() -> None:
    """peft needs a cache, which the encoder's classes do not take; here it works (see the behaviour suite)."""
    config = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH)
    model = peft.get_peft_model(tiny.model("bert"), config)
    with pytest.raises(ValueError, match="does not support past key values"):
        model(**tiny.batch("bert"))


@pytest.mark.parametrize("family", DECODERS)
def test_mpt(family: str) -> None:
    """Equal counts and outputs for one task. peft's classes for other tasks lose the ids of tasks on the way."""
    reference = theirs(family, peft.MultitaskPromptTuningConfig, num_ranks=2)
    model = mpt.apply(base(family), prompt_length=LENGTH, rank=2)
    assert trained(reference) == trained(model) == cost("mpt", model, prompt_length=LENGTH, rank=2)
    task = torch.zeros(len(tiny.batch(family)["input_ids"]), dtype=torch.long)
    assert not agree(answer(model, family), answer(reference, family, task_ids=task))
    source = encoder(reference)
    model.mpt.P.data.copy_(source.embedding.weight[:LENGTH])
    model.mpt.u.data.copy_(source.prefix_task_cols[0, :LENGTH])
    model.mpt.v.data.copy_(source.prefix_task_rows[0])
    assert agree(answer(model, family), answer(reference, family, task_ids=task))


@pytest.mark.parametrize("family", DECODERS)
def test_cpt(family: str) -> None:
    """Equal outputs before and after both were moved out of their balls, and brought back into them."""
    tokens, kinds = [5, 9, 30], [1, 2, 4]
    reference = theirs(family, peft.CPTConfig, cpt_token_ids=tokens, cpt_tokens_type_mask=kinds)
    model = cpt.apply(base(family), prompt_length=LENGTH, labels=1, epsilon=0.1)
    cpt.context(model, torch.tensor(tokens), [cpt.TEMPLATE, cpt.INPUT, cpt.LABEL])
    assert trained(reference) == LENGTH * kit.inventory(model).dims["d_model"]
    assert agree(answer(model, family), answer(reference, family, labels=None))
    shift = torch.randn_like(model.cpt.D)
    model.cpt.D.data.copy_(shift)
    encoder(reference).delta_embedding.weight.data.copy_(shift)
    assert agree(answer(model, family), answer(reference, family, labels=None))
    assert model.cpt.D.norm(dim=1).max() < 0.1


@pytest.mark.parametrize("family", DECODERS)
def test_cartridges(family: str) -> None:
    """Equal counts, and equal outputs once real tokens stand at the positions where peft's cache puts them."""
    reference = theirs(family, peft.CartridgeConfig)
    model = cartridges.apply(base(family), prefix_length=LENGTH)
    assert trained(reference) == trained(model) == cost("cartridges", model, prefix_length=LENGTH)
    children = kit.attached(model, "cartridges")
    values = encoder(reference).weight.detach().unflatten(1, (len(children), 2, -1))
    for i, child in enumerate(children):
        for j, which in enumerate("kv"):
            first, rest = child.parts(which)
            first.data.copy_(values[:1, i, j])
            rest.data.copy_(values[1:, i, j])
    moved = torch.arange(LENGTH, LENGTH + 7)[None]
    assert agree(answer(model, family, position_ids=moved), answer(reference, family))
    assert not agree(answer(model, family), answer(reference, family))


@pytest.mark.parametrize("method", [prompt_tuning, p_tuning])
def test_classification_reads_the_first_real_token(method: Any) -> None:
    """In peft the pooler reads position 0, a prompt vector; here it reads the first real token."""
    torch.manual_seed(5)
    settings = {"prompt_length": LENGTH} if method is prompt_tuning else P_TUNING
    model = method.apply(tiny.model("bert"), **settings)
    seen: list[Tensor] = []
    model.bert.pooler.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    ours = tiny.outputs(model, "bert")
    config = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH)
    reference = peft.get_peft_model(tiny.model("bert"), config).double().eval()
    encoder(reference).embedding.weight.data.copy_(kit.attached(model, method.__name__.split(".")[-1])[0].vectors())
    reference.base_model.bert.pooler.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        logits = reference(**tiny.batch("bert")).logits
    mine, other = seen
    assert agree(mine[:, 0], other[:, LENGTH])
    assert not agree(ours, logits)


def test_copies_are_independent() -> None:
    """A deep copy has its own prompt: what guards all comparisons above against sharing one."""
    model = prompt_tuning.apply(base("gpt2"), prompt_length=LENGTH)
    twin = copy.deepcopy(model)
    twin.prompt_tuning.P.data.neg_()
    assert not agree(answer(model, "gpt2"), answer(twin, "gpt2"))


def narrow(family: str) -> nn.Module:
    """A model with narrow vectors of tokens, which can read the texts that are BERT's."""
    kind, settings = NARROW[family]
    return tiny.built(kind, settings | {"vocab_size": 37})


@pytest.mark.parametrize(
    ("method", "family"),
    [(prompt_tuning, "electra"), (prompt_tuning, "albert"), (prompt_tuning, "opt"), (p_tuning, "albert"), (mpt, "opt")],
)
def test_narrow_vectors_of_tokens(method: Any, family: str) -> None:
    """Equal counts and outputs once peft is told their width. Untold it takes the layers', and fails."""
    plain, name = narrow(family), method.__name__.rpartition(".")[2]
    task = "CAUSAL_LM" if family == "opt" else "FEATURE_EXTRACTION"
    plain = plain if family == "opt" else plain.base_model
    dims, library = kit.inventory(plain).dims, KB[name].entry.implementations["hf_peft"]
    ours = P_TUNING | {"encoder": "mlp"} if method is p_tuning else {"prompt_length": LENGTH}
    settings = {library.rename[key]: value for key, value in ours.items()} | {"task_type": task}
    settings |= {"encoder_reparameterization_type": "MLP"} if method is p_tuning else {}
    more = {"task_ids": torch.zeros(4, dtype=torch.long)} if method is mpt else {}
    torch.manual_seed(5)
    untold, told = (
        peft.get_peft_model(copy.deepcopy(plain), getattr(peft, library.symbol)(**settings, **width)).double().eval()
        for width in ({}, {key: formula(dims) for key, formula in library.write.items()})
    )
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        answer(untold, "bert", **more)
    model = method.apply(plain, **ours)
    assert trained(told) == trained(model) == cost(name, model, **ours) < trained(untold)
    source, [child] = encoder(told), kit.attached(model, name)
    assert not agree(answer(model, "bert"), answer(told, "bert", **more))
    if method is p_tuning:
        child.E.data.copy_(source.embedding.weight)
        child.mlp.load_state_dict(source.mlp_head.state_dict())
    else:
        child.P.data.copy_(source.embedding.weight)
    if method is mpt:
        child.u.data.copy_(source.prefix_task_cols[0])
        child.v.data.copy_(source.prefix_task_rows[0])
    assert agree(answer(model, "bert"), answer(told, "bert", **more))


def test_cpt_and_narrow_vectors_of_tokens() -> None:
    """peft overwrites the width that it is told."""
    config = peft.CPTConfig(task_type="CAUSAL_LM", cpt_token_ids=[5, 9, 30], token_dim=7)
    reference = peft.get_peft_model(narrow("opt"), config).double().eval()
    assert trained(reference) == LENGTH * kit.inventory(narrow("opt")).dims["d_model"]
    with pytest.raises(RuntimeError):
        answer(reference, "bert", labels=None)


@pytest.mark.parametrize("family", NARROW)
@pytest.mark.parametrize("method", BESIDE_TOKENS)
def test_as_wide_as_the_vectors_of_tokens(method: str, family: str) -> None:
    """What acts on the vectors of tokens has their width, and the model runs."""
    model, given, ours = narrow(family), tiny.batch("bert"), BESIDE_TOKENS[method]
    before = model(**given).logits
    importlib.import_module(f"reference_impls.{method}").apply(model, **ours)
    assert trained(model) == cost(method, model, **ours)
    after = model(**given).logits
    assert after.shape == before.shape
    assert not torch.equal(after, before)


def test_a_pooler_that_gets_one_vector_gets_a_real_one() -> None:
    """ALBERT hands its pooler the first vector of what its layers give out, by then without the prompt."""
    model = narrow("albert")
    prompt_tuning.apply(model, prompt_length=LENGTH)
    seen: list[Tensor] = []
    model.albert.pooler.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    states = model.albert(**tiny.batch("bert")).last_hidden_state
    assert states.shape[1] == tiny.batch("bert")["input_ids"].shape[1]
    assert torch.equal(seen[0], states[:, 0])


@pytest.mark.parametrize("family", ["electra", "albert"])
def test_classes_are_as_wide_as_the_layers(family: str) -> None:
    """Only the prompt is as wide as the vectors of tokens: classes are compared with states."""
    model = warp.apply(narrow(family), prompt_length=LENGTH, n_classes=2)
    assert trained(model) == cost("warp", model, prompt_length=LENGTH, n_classes=2)
    assert model(**tiny.batch("bert")).logits.shape == (4, 2)

"""The cost engine on a small model whose numbers fit in the head, against counts done by hand here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import peftonomy
from peftonomy import Cost, DataError, KnowledgeBase, UnknownName, UsageError

T5 = {
    "model_type": "t5", "vocab_size": 37, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2,
    "num_decoder_layers": 3, "num_heads": 3,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "vocab_size": 37, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16}
BERT = {
    "model_type": "bert", "vocab_size": 37, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 3,
    "intermediate_size": 20, "max_position_embeddings": 16, "type_vocab_size": 2,
}  # fmt: skip

HEAD = """
id: example
name: Example
full_name: An example for tests
year: 2024
category: additive.adapter
facets: {}
summary: Adds what the test at hand declares.
description: Nothing more.
source: editors
update: "h"
where: Where the test says.
properties: {identity_at_init: none}
"""
TARGETS = "targets: {default: [attn.q, attn.v, xattn.q], allowed: ['attn.*', 'xattn.*', 'mlp.*'], source: editors}\n"


@pytest.fixture
def write(tmp_path: Path, root: Path) -> Callable[..., KnowledgeBase]:
    """Writes entries into a tree of their own and loads it."""
    for folder in ("taxonomy", "backbones"):
        shutil.copytree(root / folder, tmp_path / folder)
    (tmp_path / "methods").mkdir()

    def made(**entries: str) -> KnowledgeBase:
        for name, body in entries.items():
            text = HEAD.replace("id: example", f"id: {name}") + body
            (tmp_path / "methods" / f"{name}.yaml").write_text(text)
        return peftonomy.load(tmp_path)

    return made


def tensor(scope: str, **fields: Any) -> str:
    base = {"per": scope, "init": "zeros", "trained": "true", "stored": "values", "served": "kept"} | fields
    return "{" + ", ".join(f"{k}: {v}" for k, v in base.items()) + "}"


def hyperparameters(**specs: str) -> str:
    return "hyperparameters:\n" + "".join(f"  {n}: {{{s}, meaning: {n}, source: editors}}\n" for n, s in specs.items())


def rows(cost: Cost) -> list[tuple[str, tuple[int, ...] | None, int]]:
    return [(t.name, t.shape, t.sites) for t in cost.tensors]


def test_values_of_a_choice_are_in_lower_case(write: Callable[..., KnowledgeBase]) -> None:
    """Users' values are read so: one with a capital letter would never be found."""
    choice = hyperparameters(kind="type: choice, default: QR, values: [QR, relu]")
    with pytest.raises(DataError, match="value QR of a choice has capital letters"):
        write(example=choice + f"tensors: {{A: {tensor('model', shape='[2]')}}}")["example"].cost(BERT)


def test_sites_by_role_in_every_stack(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(example=TARGETS + f"tensors: {{A: {tensor('site', shape='[d_out, d_in]')}}}")
    cost = kb["example"].cost(T5)
    # 2 encoder and 3 decoder layers with q and v, 3 with cross q; inner width 3 * 5 = 15
    assert rows(cost) == [("A", (15, 12), 2 * 2 + 2 * 3 + 3)]
    assert cost.trained == 15 * 12 * 13
    assert kb["example"].cost(T5, targets=["decoder:attn.q"]).tensors[0].sites == 3
    assert kb["example"].cost(T5, targets="mlp.up").trained == 20 * 12 * 5


def test_a_role_on_a_fused_module_is_its_slice_and_a_suffix_the_whole(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(example=TARGETS + f"tensors: {{A: {tensor('site', shape='[d_out, d_in]')}}}")
    assert rows(kb["example"].cost(GPT2)) == [("A", (12, 12), 4)]
    assert rows(kb["example"].cost(GPT2, target_modules=["c_attn"])) == [("A", (36, 12), 2)]
    places = kb["example"].places(GPT2, targets="attn.v")
    assert [(p.path, p.start, p.stop, p.layer) for p in places] == [
        ("transformer.h.0.attn.c_attn", 24, 36, 0),
        ("transformer.h.1.attn.c_attn", 24, 36, 1),
    ]


@pytest.mark.parametrize(
    ("scope", "shape", "expected"),
    [
        ("model", "[n_layers, n_encoder_layers, n_decoder_layers, n_attention]", [((5, 2, 3, 8), 1)]),
        ("layer", "[d_model, n_layers]", [((12, 2), 2), ((12, 3), 3)]),
        ("attention", "[n_heads, head_dim, cross + 1]", [((3, 5, 1), 5), ((3, 5, 2), 3)]),
        ("mlp", "[d_ff]", [((20,), 5)]),
        ("attention", "[layer + 1]", [((1,), 3), ((2,), 3), ((3,), 2)]),
    ],
)
def test_block_scopes(
    write: Callable[..., KnowledgeBase], scope: str, shape: str, expected: list[tuple[tuple[int, ...], int]]
) -> None:
    cost = write(example=f"tensors: {{A: {tensor(scope, shape=shape)}}}")["example"].cost(T5)
    assert sorted((t.shape, t.sites) for t in cost.tensors) == expected


def test_selecting_scopes_take_the_backbone_s_own_parameters(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(
        whole=f"tensors: {{theta: {tensor('weight', served='merged')}}}",
        biases=f"tensors: {{b: {tensor('bias', served='merged')}}}",
        norms=f"tensors: {{g: {tensor('norm', served='merged')}}}",
        beside=f"tensors: {{delta: {tensor('bias', count='numel')}}}",
        some=f"tensors: {{g: {tensor('weight', roles='[mlp.up]', served='merged')}}}",
    )
    backbone = kb.backbone(BERT)
    assert kb["whole"].cost(backbone).trained == backbone.parameters
    assert kb["whole"].cost(backbone, task="seq_cls").trained == backbone.parameters
    assert kb["whole"].cost(backbone, task="seq_cls").head == 12 * 2 + 2
    assert kb["biases"].cost(backbone).trained == 3 * (4 * 12 + 20 + 12 + 2 * 12) + 12 + 12
    assert kb["norms"].cost(backbone).trained == 2 * 12 * (1 + 2 * 3)
    assert kb["some"].cost(backbone).trained == 3 * (12 * 20 + 20)
    assert kb["whole"].cost(backbone).served == 0
    assert kb["beside"].cost(backbone).served == kb["biases"].cost(backbone).trained
    assert kb["beside"].cost(backbone).tensors[0].shape is None
    assert {p.path for p in kb["some"].places(backbone)} >= {"encoder.layer.0.intermediate.dense.bias"}


def test_a_tensor_exists_where_its_condition_holds(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(
        example=hyperparameters(skip="type: int, default: 1")
        + "tensors: {A: "
        + tensor("layer", shape="[d_model]", **{"if": "layer >= skip and skip < 3"})
        + "}"
    )
    assert kb["example"].cost(BERT).trained == 2 * 12
    assert kb["example"].cost(BERT, skip=0).trained == 3 * 12
    with pytest.raises(UsageError, match="^example finds nothing to act on in .* with these hyperparameters$"):
        kb["example"].cost(BERT, skip=3)
    with pytest.raises(UsageError, match="with these hyperparameters$"):
        kb["example"].memory(BERT, skip=3, batch=1, seq=8)


def test_three_ledgers_bits_positions_and_seeds(write: Callable[..., KnowledgeBase]) -> None:
    pairs = "[{as: values, count: 10}, {as: indices, count: 10}]"
    kb = write(
        example="tensors:\n"
        f"  mask: {tensor('model', shape='[100]', stored='bits')}\n"
        f"  frozen: {tensor('model', shape='[7]', trained='false', stored='seed', served='merged')}\n"
        f"  encoder: {tensor('model', count='1000', stored='none', served='absent')}\n"
        f"  sparse: {tensor('model', shape='[50]', trained='10', stored=pairs, served='merged')}\n"
        f"  many: {tensor('model', shape='[2, 3]', copies='4')}\n"
    )
    cost = kb["example"].cost(BERT, dtype="bfloat16")
    assert (cost.trained, cost.stored, cost.stored_bits, cost.served) == (100 + 1000 + 10 + 24, 20 + 24, 100, 24)
    assert cost.stored_bytes == 2 * (10 + 24) + 4 * 10 + 13
    assert sum(t.trained for t in cost.tensors) == cost.trained
    assert sum(t.stored for t in cost.tensors) == cost.stored
    assert sum(t.served for t in cost.tensors) == cost.served


def test_a_share_across_all_places(write: Callable[..., KnowledgeBase]) -> None:
    share = "{across: floor(kept * numel)}"
    kb = write(
        example=hyperparameters(kept="type: float, default: 0.3")
        + "tensors: {w: "
        + tensor("bias", trained=share, stored="{as: values, across: 'floor(kept * numel)'}", served="merged")
        + "}"
    )
    numel = 3 * (4 * 12 + 20 + 12 + 2 * 12) + 12 + 12
    cost = kb["example"].cost(BERT)
    assert cost.trained == cost.stored == int(0.3 * numel)
    assert sum(t.trained for t in cost.tensors) == cost.trained
    assert cost.tensors[0].count == numel


def test_includes_rename_and_set(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(
        inner=hyperparameters(a="type: int, default: 2", b="type: int, default: 3", c="type: int, default: 5")
        + f"tensors: {{A: {tensor('model', shape='[a, b, c]')}}}",
        example=hyperparameters(size="type: int, default: 7")
        + "includes:\n  - {method: inner, as: x, rename: {a: size}, set: {b: 'size + d_model'}}\n"
        "  - {method: inner, as: y}",
    )
    assert rows(kb["example"].cost(BERT)) == [("x.A", (7, 19, 5), 1), ("y.A", (2, 3, 5), 1)]
    assert kb["example"].cost(BERT, size=1).trained == 1 * 13 * 5 + 30


def test_base_storage(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(
        example=f"tensors: {{A: {tensor('model', shape='[1]')}}}\n"
        "base_storage:\n  codes: {roles: [mlp.up], count: numel, bits: 4}\n"
        "  scale: {roles: [mlp.up], count: 'ceil(numel / 64)', bits: 8}\n"
    )
    backbone = kb.backbone(BERT)
    cost = kb["example"].cost(backbone, dtype="float16")
    assert cost.base_bytes == 2 * (backbone.parameters - 3 * 240) + 3 * (120 + 4)


def test_bad_questions_are_one_line(write: Callable[..., KnowledgeBase]) -> None:
    kb = write(
        example=hyperparameters(
            r="type: int, default: 4, domain: 1 <= r and r <= d_model",
            s="type: float, default: 1.0",
            kind="type: choice, default: one, values: [one, two]",
            flag="type: bool, default: true",
        )
        + TARGETS
        + f"tensors: {{A: {tensor('site', shape='[r, d_in]', requires='d_in % r == 0')}}}",
        plain=f"tensors: {{A: {tensor('model', shape='[1]')}}}",
        half=f"tensors: {{A: {tensor('model', shape='[d_model / 5]')}}}",
        huge=f"tensors: {{A: {tensor('model', count='(backbone * 10**8) ** 2')}}}",
    )
    method = kb["example"]
    asked: list[tuple[dict[str, Any], str]] = [
        ({"r": 0}, "example: r = 0 is out of its domain 1 <= r and r <= d_model"),
        ({"r": 5}, "example: tensor A at attn.q requires d_in % r == 0; found d_in = 12, r = 5"),
        ({"r": "many"}, "hyperparameter r: found 'many'; expected a whole number"),
        ({"r": 2.5}, "hyperparameter r: found '2.5'; expected a whole number"),
        ({"r": True}, "hyperparameter r: found 'True'; expected a whole number"),
        ({"r": 10**12}, "hyperparameter r = 1000000000000 is beyond 2**31"),
        ({"r": "9" * 400}, "expected a whole number"),
        ({"s": float("nan")}, "hyperparameter s: found 'nan'; expected a number"),
        ({"kind": "tow"}, "unknown value of kind 'tow'; did you mean two"),
        ({"flag": "maybe"}, "hyperparameter flag: found 'maybe'; expected true or false"),
        ({"rr": 3}, "unknown hyperparameter 'rr' of example; did you mean r?"),
        ({"targets": "attn.qq"}, "did you mean attn.q"),
        ({"targets": ""}, "expected roles or suffixes"),
        ({"targets": "pooler"}, "example cannot target role 'pooler'; allowed: attn.*, xattn.*, mlp.*"),
        ({"targets": "attn.q", "target_modules": ["query"]}, "not both"),
        ({"dtype": "float33"}, "unknown dtype 'float33'; did you mean float32"),
        ({"task": "causal"}, "causal_lm"),
    ]
    for question, message in asked:
        with pytest.raises(UsageError) as caught:
            method.cost(BERT, **question)
        assert message in str(caught.value), question
        assert "\n" not in str(caught.value)
    for name, message in [
        ("half", "half: tensor A: its size is 2.4, not a whole number"),
        ("huge", "not a count between 0 and 2**53"),
    ]:
        with pytest.raises(UsageError) as caught:
            kb[name].cost(BERT)
        assert message in str(caught.value)
    with pytest.raises(UsageError, match="plain has no targets"):
        kb["plain"].cost(BERT, targets="attn.q")
    with pytest.raises(UnknownName, match="unknown method 'exampel'; did you mean example"):
        kb["exampel"]
    with pytest.raises(UnknownName, match=r"unknown model 'bert_bsae' .*; did you mean bert_base"):
        method.cost("bert_bsae")


def test_text_values_mean_what_native_ones_mean(kb: KnowledgeBase) -> None:
    assert kb["lora"].cost("bert_base", r="4") == kb["lora"].cost("bert_base", r=4)


def test_a_library_s_word_is_accepted(kb: KnowledgeBase) -> None:
    assert kb["lora"].cost("bert_base", lora_alpha=4).hyperparameters["alpha"] == 4
    with pytest.raises(UsageError, match="alpha is given twice"):
        kb["lora"].cost("bert_base", lora_alpha=4, alpha=4)


def test_costs_become_tables(kb: KnowledgeBase) -> None:
    cost = kb["lora"].cost("bert_base")
    assert "<table>" in cost._repr_html_()
    assert list(cost.to_frame()["name"]) == ["A", "B"]
    assert cost.to_dict()["tensors"][0]["shape"] == [8, 768]


def test_a_tree_without_its_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder taxonomy/"):
        peftonomy.load(tmp_path)


def test_a_tensor_per_role_is_shared_by_the_layers(write: Callable[..., KnowledgeBase]) -> None:
    shape = "[n_sharing, d_in + d_out, max_d_in, max_d_out, sum_d_in, sum_d_out]"
    targets = "targets: {default: [attn.q, mlp.up], allowed: ['*'], source: editors}\n"
    kb = write(example=targets + f"tensors: {{A: {tensor('role', shape=shape)}}}")
    cost = kb["example"].cost(BERT)
    assert [(t.roles, t.shape, t.sites) for t in cost.tensors] == [
        (("attn.q",), (3, 24, 12, 20, 72, 96), 1),
        (("mlp.up",), (3, 32, 12, 20, 72, 96), 1),
    ]

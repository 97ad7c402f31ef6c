"""The engine of the site's tools, in an embedded V8: it reads configs, finds targets, counts and solves like Python."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

import peftonomy
from peftonomy import ConfigError, KnowledgeBase, PeftonomyError, UsageError
from peftonomy.backbones.backbone import Backbone
from peftonomy.knowledge import size as _size
from tests import families as more
from tests import families_decoders as decoders
from tests.engine_kit import ask, started

from .grid import drawn

Answer = dict[str, Any]
ROOT = Path(__file__).parent.parent
LEDGERS = (
    "trained", "stored", "stored_bits", "stored_bytes", "served", "head", "backbone", "base_bytes", "percent", "task",
)  # fmt: skip
TENSOR = (
    "name", "per", "shape", "count", "sites", "total", "trained", "stored", "stored_bits", "served", "served_bits",
    "roles",
)  # fmt: skip

# Small configs of every family; the numbers are odd and unequal, so that no two sizes can be mixed up.
BERT = {
    "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 20, "max_position_embeddings": 17,
}  # fmt: skip
LLAMA = {
    "vocab_size": 31, "hidden_size": 24, "intermediate_size": 34, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
VIT = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 20}
GPT2 = {"vocab_size": 31, "n_positions": 17, "n_embd": 12, "n_layer": 3, "n_head": 4}
T5 = {"vocab_size": 31, "d_model": 10, "d_kv": 3, "d_ff": 22, "num_layers": 2, "num_heads": 4, "num_decoder_layers": 3}
RELATIVE: Answer = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
TINY: dict[str, Answer] = {
    "bert": BERT, "roberta": BERT, "deberta-v2": BERT | RELATIVE, "t5": T5, "gpt2": GPT2, "llama": LLAMA,
    "mistral": LLAMA, "qwen2": LLAMA, "vit": VIT,
    **{model_type: config for model_type, (_, config) in more.TINY.items()},
    **{model_type: config for model_type, (_, config) in decoders.TINY.items()},
}  # fmt: skip
VARIANTS: list[tuple[str, Answer]] = [
    ("bert", {"add_cross_attention": True, "is_decoder": True, "type_vocab_size": 5, "tie_word_embeddings": False}),
    ("deberta-v2", {"position_buckets": 5, "share_att_key": True, "norm_rel_ebd": "layer_norm"}),
    ("deberta-v2", {"pos_att_type": "P2C | c2p", "embedding_size": 7, "conv_kernel_size": 3, "conv_groups": 2}),
    ("deberta-v2", {"pos_att_type": None, "position_biased_input": False, "type_vocab_size": 2}),
    ("t5", {"feed_forward_proj": "gated-gelu"}),
    ("t5", {"feed_forward_proj": "relu", "num_decoder_layers": None}),
    ("gpt2", {"n_inner": None, "add_cross_attention": True, "tie_word_embeddings": False}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 5}),
    ("qwen2", {"num_key_value_heads": None}),
    ("vit", {"image_size": [64, 48], "patch_size": [8, 16], "qkv_bias": False, "pooler_output_size": 9}),
    ("vit", {"image_size": [64], "patch_size": 8}),
    ("vit", {"image_size": 7, "patch_size": 8}),
    ("xlm-roberta", {"tie_word_embeddings": False}),
    ("electra", {"embedding_size": 12, "tie_word_embeddings": False}),
    ("bart", {"tie_word_embeddings": False}),
    ("whisper", {"use_weighted_layer_sum": True}),
    ("clip", {"text_config": None}),
    ("clip", {"vision_config": {}}),
    ("clip", {"vision_config": [1, 2]}),
    ("dinov2", {"use_swiglu_ffn": True, "use_mask_token": False}),
    ("swin", {"mlp_ratio": 3, "use_absolute_embeddings": True}),
    ("swin", {"depths": [1, 2, 3]}),
    *decoders.VARIANTS,
    ("bloom", {"hidden_size": None, "n_embed": 36, "n_layer": None, "num_hidden_layers": 2}),
    ("qwen2_moe", {"mlp_only_layers": [1, -1, 10**20]}),
    ("qwen2_moe", {"mlp_only_layers": [1.0]}),
    ("qwen2_moe", {"mlp_only_layers": [True]}),
    *((family, {"per_layer_config": {}, "unknown": {"deep": [1, {"x": None}]}}) for family in TINY),
]
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 12, 60, 12.0, 1.5, 2.5e-7, 10**9, 10**9 + 1, 10**20, "12", "", "it's \"x\"\u202e\n", [], [3],
    [3, 5], ["gated", 7], {"a": 1},
)  # fmt: skip
TEXTS = (
    "", "[]", "7", "null", "{", '{"model_type"}', '{"model_type": "bert",}', '{"a": 1 "b": 2}', '{"a": 1, "a": 2}',
    '{"a": NaN}', '{"a": 01}', '{"a": "\n"}', '{"a": "\\x"}', '{"a": 1} x', "[" * 5000, '{"a": .5}', '{"a": tru}',
    "{'a': 1}", '{"a": 1e}', '{"a": -}', "\ufeff{}",
)  # fmt: skip


@pytest.fixture(scope="module")
def engine(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with started(kb) as context:
        context.eval(INVENTORY)
        yield context


INVENTORY = (
    "function inventory(options, task, labels) {"
    "  try { var o = JSON.parse(options), b = peft.backbone(o);"
    "  var i = peft.modules(Object.assign({ task: task, num_labels: labels || 3 }, o));"
    "  return JSON.stringify({ parameters: b.parameters, dims: i.dims, total: i.total, head: i.head,"
    "    layers: b.layers,"
    "    modules: i.modules.map(m => [m.path, m.role, m.stack, m.n, m.kind, m.d_in, m.d_out, m.bias, m.parameters,"
    "      m.slices, m.head, m.pretrained]),"
    "    blocks: i.blocks.map(b => [b.kind, b.name, b.stack, b.n, b.dims]) }); }"
    "  catch (e) { return JSON.stringify({ problem: e.message, user: !!e.user }); } }"
)


# Configs.


def configs() -> Iterator[Answer]:
    """Good and bad ones: every family, its variants, and each key taken away or given each odd value."""
    for family, base in TINY.items():
        yield {"model_type": family, **base}
    for family, change in VARIANTS:
        yield {"model_type": family, **TINY[family], **change}
    for key in ("llama ", "lama", "", None, 3, [], {"x": 1}):
        yield {"model_type": key, **LLAMA}
    yield LLAMA


def broken(kb: KnowledgeBase, family: str) -> Iterator[Answer]:
    base = {"model_type": family, **TINY[family]}
    yield base | {"per_layer_config": {"0": {}}}
    for name, spec in kb.families[family].config.items():
        *outer, key = (spec.key or name).split(".")
        for changed in ({}, *({key: value} for value in ODD)):
            if not outer:
                yield {k: v for k, v in base.items() if k != key} | changed
            else:
                yield base | {outer[0]: {k: v for k, v in base[outer[0]].items() if k != key} | changed}
        if outer:
            yield from (base | {outer[0]: value} for value in ODD)


def differential(kb: KnowledgeBase, engine: MiniRacer, config: Answer) -> str:
    """Compare one config; the outcome in a word."""
    theirs = json.loads(engine.call("inventory", json.dumps({"config": json.dumps(config)}), None))
    problem, backbone = "", None
    try:
        backbone = Backbone.from_config(config, families=kb.families)
    except ConfigError as error:
        problem = str(error).partition("; did you mean")[0]
    if backbone is None:
        assert theirs.get("user"), (config, theirs)
        assert theirs["problem"] == problem, config
        assert "\n" not in theirs["problem"]
        return "refused"
    for task in backbone.tasks:
        if backbone.inventory(task, labels(backbone, task)).total > 2**53:  # JavaScript rounds so large a new head
            continue
        asked = json.dumps({"config": json.dumps(config)})
        found = json.loads(engine.call("inventory", asked, task, labels(backbone, task)))
        assert found == plain(backbone, task), (config, task)
    return "counted"


def labels(backbone: Backbone, task: str) -> int:
    """The number of labels that a task is tried with: three, or the only one that its class takes."""
    return backbone.family.tasks[task].labels or 3


def plain(backbone: Backbone, task: str) -> Answer:
    inventory = backbone.inventory(task, labels(backbone, task))
    modules = [
        [m.path, m.role, m.stack, m.count, m.kind, m.d_in, m.d_out, m.bias, m.parameters, m.slices, m.head,
         m.pretrained]
        for m in inventory.modules
    ]  # fmt: skip
    blocks = [[b.kind, b.name, b.stack, len(b.layers), b.dims] for b in inventory.blocks]
    answer: Answer = json.loads(json.dumps({
        "parameters": backbone.parameters, "dims": inventory.dims, "total": inventory.total, "head": inventory.head,
        "layers": backbone.layers, "modules": modules, "blocks": blocks,
    }))  # fmt: skip
    return answer


def test_a_config_is_read_as_python_reads_it(kb: KnowledgeBase, engine: MiniRacer) -> None:
    outcomes = [differential(kb, engine, config) for config in configs()]
    assert outcomes.count("counted") > 20
    assert outcomes.count("refused") > 5


@pytest.mark.slow
@pytest.mark.parametrize("family", TINY)
def test_whatever_is_wrong_is_the_same_line(kb: KnowledgeBase, engine: MiniRacer, family: str) -> None:
    """In a sample of the changes; `make grid` takes all."""
    outcomes = [differential(kb, engine, config) for config in drawn(family, broken(kb, family), 150)]
    assert outcomes.count("counted") > 1
    assert outcomes.count("refused") > 30


def test_every_family_is_tried(kb: KnowledgeBase) -> None:
    covered = set(TINY)
    assert covered <= set(kb.families)
    assert {m.family.model_type for m in kb.models.values()} - covered <= {"xlm-roberta"}


def test_catalogued_models_have_the_same_modules(kb: KnowledgeBase, engine: MiniRacer) -> None:
    for key, model in kb.models.items():
        for task in model.tasks:
            found = json.loads(engine.call("inventory", json.dumps({"model": key}), task, labels(model, task)))
            assert found == plain(model, task)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_json_is_refused_in_a_line(kb: KnowledgeBase, engine: MiniRacer, text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError):
        Backbone.from_config(tmp_path, families=kb.families)
    found = ask(engine, "cost", "lora", {"config": text})
    assert found["user"]
    assert "\n" not in found["problem"]
    assert found["problem"].startswith("config")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_hidden_layers": 10_001}, "at most 10,000"),
        ({"vocab_size": 10**9, "hidden_size": 10**9, "num_attention_heads": 1}, r"at most 2\*\*53"),
    ],
)
def test_sizes_are_bounded(kb: KnowledgeBase, engine: MiniRacer, change: Answer, expected: str) -> None:
    config = {"model_type": "bert", **BERT, **change}
    with pytest.raises(ConfigError, match=expected):
        Backbone.from_config(config, families=kb.families)
    assert differential(kb, engine, config) == "refused"


def test_an_address_carries_what_is_read(kb: KnowledgeBase, engine: MiniRacer) -> None:
    for config in configs():
        long = config | {"architectures": ["X"], "torch_dtype": "bfloat16", "rope": {"a": [1.5]}}
        if differential(kb, engine, long) == "counted":
            short = json.loads(ask(engine, "reduced", json.dumps(long)))
            specs = kb.families[long["model_type"]].config.items()
            keys = {label.split(".")[0] for n, k in specs for label in (k.key or n, *k.aliases)}
            assert set(short) <= {"model_type", *keys}
            a, b = (Backbone.from_config(c, families=kb.families) for c in (long, short))
            assert a.config == b.config


# Counts on configs of one's own, and targets by name.


def python_cost(kb: KnowledgeBase, method: str, model: Any, question: Answer) -> Answer:
    given = {k: question[k] for k in ("task", "num_labels", "targets", "target_modules", "dtype") if k in question}
    try:
        cost = kb[method].cost(model, **given, **question.get("values", {}))
    except PeftonomyError as error:
        return {"problem": str(error)}
    return cost.to_dict() | {"served_bits": sum(t.served_bits for t in cost.tensors)}


def compare(kb: KnowledgeBase, engine: MiniRacer, method: str, model: Any, question: Answer) -> bool:
    named = {"model": model} if isinstance(model, str) else {"config": json.dumps(model)}
    ours, python = ask(engine, "cost", method, named | question), python_cost(kb, method, model, question)
    assert ("problem" in ours) == ("problem" in python), (method, model, question, ours, python)
    if "problem" in python:
        assert ours["user"], (method, model, question, ours)
        return False
    assert {k: ours[k] for k in (*LEDGERS, "served_bits")} == {k: python[k] for k in (*LEDGERS, "served_bits")}
    assert [[t[k] for k in TENSOR] for t in ours["tensors"]] == [[t[k] for k in TENSOR] for t in python["tensors"]]
    check_layers(ours)
    return True


def check_layers(cost: Answer) -> None:
    """What the layers have, and what is outside of them, adds up."""
    for key, total in (("trained", "trained"), ("stored", "stored"), ("bits", "stored_bits"), ("served", "served")):
        n = sum(row[key] * (1 if row["from"] is None else row["to"] - row["from"] + 1) for row in cost["layers"])
        assert n == pytest.approx(cost[total], rel=1e-12), key


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "method" in metafunc.fixturenames:
        metafunc.parametrize("method", list(peftonomy.load(ROOT)))


def test_a_combination_is_counted_as_in_python(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """Every method that combines, at each number of inputs, and the refusal of one that does not."""
    answers = 0
    combining = [method for method in kb if kb[method].entry.combines is not None]
    models = ["roberta_base", "llama_2_7b", {"model_type": "t5", **T5}, {"model_type": "gpt2", **GPT2}]
    for method, model, dtype in itertools.product([*combining, "lora"], models, ("bfloat16", "float32")):
        counts = [n for n, h in kb[method].entry.hyperparameters.items() if h.type == "int"]
        for given in [{}, *({name: number} for name in counts for number in (0, 1, 3, 40))]:
            named = {"model": model} if isinstance(model, str) else {"config": json.dumps(model)}
            ours = ask(engine, "combination", method, named | {"dtype": dtype, "values": given})
            try:
                theirs = kb[method].combination(model, dtype=dtype, **given).to_dict()
            except PeftonomyError:
                assert ours["user"], (method, model, given, ours)
                continue
            assert {**ours, "model": theirs["model"], "dtype": dtype} == theirs, (method, model, given)
            answers += 1
    assert answers > 20 * len(combining)


HOMES = ("roberta_base", "roberta_large", "llama_2_7b", "vit_base", "clip_vit_b_32")
"""Public models of which each method acts on one."""


@pytest.mark.slow
def test_a_pasted_config_is_counted_as_in_python(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    """On a quarter of the families, which are others for each method (`make grid`: on all)."""
    questions: list[Answer] = [{}, {"task": "seq_cls", "num_labels": 5}, {"dtype": "float16"}]
    done = [
        compare(kb, engine, method, {"model_type": family, **config}, question)
        for family, config in drawn(method, TINY.items(), 14)
        for question in questions
    ]
    done.append(any(compare(kb, engine, method, model, {}) for model in HOMES))
    assert any(done)


@pytest.mark.parametrize("family", TINY)
def test_every_task_is_counted_as_in_python(kb: KnowledgeBase, engine: MiniRacer, family: str) -> None:
    """Also by its earlier name, with a number of labels that some classes refuse, and with names of modules."""
    config = {"model_type": family, **TINY[family]}
    tasks = [*kb.families[family].tasks, "seq_cls"]
    for method, task, labels in itertools.product(("lora", "bitfit", "linear_probing"), tasks, ({}, {"num_labels": 5})):
        compare(kb, engine, method, config, {"task": task, **labels})
        if method == "lora":
            compare(kb, engine, method, config, {"task": task, "target_modules": "all-linear", **labels})


SUFFIXES = {
    "llama_3_2_1b": (["q_proj"], ["q_proj", "v_proj"], ["self_attn.o_proj"], ["1.self_attn.q_proj", "k_proj"]),
    "roberta_base": (["query", "value"], ["dense"], ["output.dense"], ["layer.3.output.dense"], ["attention"]),
    "t5_small": (["q", "v"], ["wi"], ["SelfAttention.q"], ["EncDecAttention.q", "wo"], ["1.layer.0.SelfAttention.k"]),
    "gpt2": (["c_attn"], ["c_proj"], ["attn.c_proj", "c_fc"], ["wte"]),
    "vit_base": (["q_proj", "fc1"], ["projection"]),
}  # fmt: skip
WRONG: tuple[Any, ...] = ("all-linear", ["q_proj"], ["nonsense"], ["lm_head"], ["classifier"], ["norm"], ["layer"])


@pytest.mark.parametrize("model", SUFFIXES)
def test_names_find_what_they_find_in_python(kb: KnowledgeBase, engine: MiniRacer, model: str, method: str) -> None:
    """Suffixes and all-linear, with the tasks that have heads: the same sites, or both refuse."""
    chosen = [*SUFFIXES[model], *WRONG] if method in ("lora", "adalora") else [*SUFFIXES[model][:2], "all-linear"]
    for modules, task in itertools.product(chosen, (None, "seq_cls")):
        compare(kb, engine, method, model, {"target_modules": modules} | ({"task": task} if task else {}))


@pytest.mark.parametrize("model", ["llama_3_2_1b", "t5_small", "gpt2", "roberta_base"])
def test_names_for_peft_mean_the_roles_they_stand_for(kb: KnowledgeBase, engine: MiniRacer, model: str) -> None:
    for targets in (["attn.q"], ["attn.q", "attn.v"], ["attn.*"], ["mlp.*"], ["attn.*", "mlp.*"], ["decoder:attn.q"]):
        try:
            plan = kb["lora"].plan(model, targets=targets)
        except UsageError:
            continue
        names = ask(engine, "suffixes", "lora", {"model": model, "targets": targets})
        if names is not None:
            found = kb.models[model].inventory().resolve_suffixes(names)
            wanted = [(s.module.path, s.layers) for s in plan.sites[0]]
            assert [(s.module.path, s.layers) for s in found] == wanted


VALUES: tuple[Any, ...] = ("8", " 8 ", "+8", "1_6", "8.0", "0x10", "", "x", "1e3", ".5", "5.", "true", "True", "0", "1",
                           "no", "99999999999", "-3", "inf", "nan", True, 8, 2.5, "1e400")  # fmt: skip


def test_typed_values_are_taken_as_in_python(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """Of hyperparameters with the same name, type and domain, one."""
    tried = set()
    for method in kb.values():
        for name, spec in method.entry.hyperparameters.items():
            kind = name, spec.type, spec.domain and str(spec.domain), str(spec.values)
            if kind in tried:
                continue
            tried.add(kind)
            words = [*(spec.values or []), *(w.upper() for w in spec.values or [])]
            for value in [*VALUES, *words] if method.id in ("lora", "prefix_tuning", "p_tuning") else VALUES[:9]:
                if spec.type != "choice" or isinstance(value, str):
                    compare(kb, engine, method.id, "roberta_base", {"values": {name: value}})


# Budgets.


BUDGETS = (0, 1000, 50_000, 1_000_000, 5_000_000, 10_000_000, 123_456_789, 10**11)
PLACES: tuple[Any, ...] = ("roberta_base", "llama_3_8b", {"model_type": "t5", **T5}, {"model_type": "llama", **LLAMA})


def fits(cost: peftonomy.Cost, budget: Answer) -> bool:
    trained, size = budget.get("trained"), budget.get("bytes")
    return (trained is None or cost.trained <= trained) and (size is None or cost.stored_bytes <= size)


@pytest.mark.slow
def test_the_largest_setting_that_fits_is_found_exactly(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    """It fits; and by brute force over what follows and a sample beyond, nothing larger does. `make grid` takes all."""
    for model, budget in drawn(method, itertools.product(PLACES, BUDGETS), 10):
        limits = [{"trained": budget}] + ([{"bytes": budget, "trained": 4 * budget}] if budget > 10**6 else [])
        for limit in limits:
            check_largest(kb, engine, method, model, limit)


def check_largest(kb: KnowledgeBase, engine: MiniRacer, method: str, model: Any, limit: Answer) -> None:
    options = {"model": model} if isinstance(model, str) else {"config": json.dumps(model)}
    found, plan = ask(engine, "largest", method, options, limit), None
    try:
        plan = kb[method].plan(model)
        plan.cost({})
    except UsageError:
        assert found.get("user") or found.get("name"), (found, model)
        if plan is None or "problem" in found:
            return
    if "problem" in found:
        raise AssertionError((method, model, limit, found))
    name, value = found["name"], found["value"]
    answer = found.get("cost") or found["least"]
    cost = plan.cost({name: value} if name else {})
    assert (cost.trained, cost.stored_bytes) == (answer["trained"], answer["stored_bytes"])
    assert fits(cost, limit) == ("cost" in found)
    if not name:
        return
    if "least" in found:  # then nothing is allowed below it, and it is too much already
        assert all(not allowed(plan, {name: n}) for n in range(value))
        return
    draw = random.Random(f"{method}{model}{limit}")
    more = {*range(value + 1, value + 60), *(draw.randint(value + 1, 4 * value + 100) for _ in range(40)), 2 * value}
    for larger in more - {value}:
        assert not (allowed(plan, {name: larger}) and fits(plan.cost({name: larger}), limit)), larger


def allowed(plan: Any, values: Answer) -> bool:
    try:
        plan.cost(values)
    except UsageError:
        return False
    return True


def test_holes_in_what_is_allowed_are_stepped_over(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """Where only divisors are allowed, the largest divisor is found, far below what the budget alone would admit."""
    engine.eval(
        "var spec = peft.data.methods.lora.parts[0], was = [spec.hyperparameters[0].domain, spec.bounds];"
        "peft.data.formulas.push(function (n) { return mod(n.d_model, n.r) === 0; });"
        "spec.hyperparameters[0].domain = peft.data.formulas.length - 1"
    )
    try:
        for budget in (10**5, 3 * 10**6, 10**7, 10**9):
            options = {"model": "roberta_base"}
            found = ask(engine, "largest", "lora", options, {"trained": budget})
            divisors = [r for r in range(1, 769) if 768 % r == 0]
            assert found["value"] == max(r for r in divisors if kb["lora"].cost("roberta_base", r=r).trained <= budget)
    finally:
        engine.eval("spec.hyperparameters[0].domain = was[0]")


def test_sizes_are_derived_from_what_counts_depend_on(kb: KnowledgeBase) -> None:
    expected = {
        "lora": "r", "adalora": "init_r", "prefix_tuning": "prefix_length", "prompt_tuning": "prompt_length", "ia3": "",
    }  # fmt: skip
    assert {m: _size.hyperparameter(kb[m], ["llama_2_7b", "roberta_base"]) for m in expected} == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [("10M", 10**7), ("2.5 k", 2500), ("1,000,000", 10**6), ("1e6", 10**6), ("20 MB", 2 * 10**7), ("1_000", 1000),
     ("7b", 7 * 10**9), ("", None), (" ", None), ("x", math.nan), ("10 apples", math.nan), ("-5", math.nan), ("5.", 5)],
)  # fmt: skip
def test_budgets_are_read(engine: MiniRacer, text: str, number: float | None) -> None:
    found = engine.eval(f"String(peft.quantity({json.dumps(text)}))")
    assert found == ("null" if number is None else "NaN" if math.isnan(number) else str(number))


def test_patterns_mean_what_they_mean_in_python(engine: MiniRacer, kb: KnowledgeBase) -> None:
    roles = {m.role for m in kb.models["t5_base"].inventory().modules}
    patterns = {p for m in kb.values() if m.entry.targets for p in m.entry.targets.allowed}
    for pattern in patterns:
        found = {r for r in ask(engine, "roles", "lora", {"model": "t5_base"}) if fnmatchcase(r, pattern)}
        assert found <= roles

"""Hostile entries and configurations: each mistake is reported once, with its reason, and nothing takes long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx
import pytest
import yaml

import peftonomy
from peftonomy import Backbone, ConfigError, KnowledgeBase, PeftonomyError, Problem, UsageError
from peftonomy.backbones import infer
from peftonomy.knowledge.graph import shortest_cycles
from peftonomy.memory.setting import Setting
from tests.trees import small_tree

Data = dict[str, Any]


def grown(root: Path, tmp_path: Path, methods: dict[str, Callable[[Data], Any]]) -> KnowledgeBase:
    """Return a small tree with copies of `lora`, each changed."""
    tree = small_tree(root, tmp_path, "lora")
    plain = yaml.safe_load((tree / "methods" / "lora.yaml").read_text())
    kept = {"claims", "relations", "shares", "closed_forms", "implementations", "pitfalls"}
    for name, change in methods.items():
        data = {key: value for key, value in plain.items() if key not in kept} | {"id": name}
        change(data)
        (tree / "methods" / f"{name}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return peftonomy.load(tree)


def problems_of(kb: KnowledgeBase) -> list[Problem]:
    """Return the problems of all files but that of `lora`, which needs models that the tree lacks."""
    return [problem for problem in peftonomy.check(kb) if problem.file != "methods/lora.yaml"]


def includes(*methods: str) -> Callable[[Data], Any]:
    return lambda data: data.update(includes=[{"method": method, "as": method} for method in methods])


def descends(*methods: str) -> Callable[[Data], Any]:
    relations = [{"type": "derives_from", "target": m, "note": "Because.", "source": "editors"} for m in methods]
    return lambda data: data.update(relations=relations)


def test_a_ring_of_includes_is_told_once_with_the_chain(root: Path, tmp_path: Path) -> None:
    names = [f"m{n:02}" for n in range(12)]
    ring = {name: includes(names[(n + 1) % 12]) for n, name in enumerate(names)}
    kb = grown(root, tmp_path, ring | {"zz": includes("m00")})
    problems = [p for p in problems_of(kb) if p.file.startswith("methods/")]
    assert [(p.file, p.rule) for p in problems] == [("methods/m00.yaml", "acyclic"), ("methods/zz.yaml", "")]
    assert problems[0].found == " -> ".join([*names, "m00"])
    assert problems[1].found == "m00, which has problems"
    with pytest.raises(PeftonomyError, match="its includes never end: m03 -> m04 -> m05"):
        kb["m03"].cost("roberta_base")


def test_entries_that_include_all_before_them_are_refused_quickly(root: Path, tmp_path: Path) -> None:
    names = [f"m{n:02}" for n in range(22)]
    kb = grown(root, tmp_path, {name: includes(*names[:n]) for n, name in enumerate(names)})
    problems = [p for p in problems_of(kb) if p.file == "methods/m21.yaml"]
    assert {p.rule for p in problems} - {"symbols"} == {"counted"}
    with pytest.raises(PeftonomyError, match="found more than 50 includes of includes"):
        kb["m21"].cost("roberta_base")


def test_an_include_of_nothing_is_told_once(root: Path, tmp_path: Path) -> None:
    kb = grown(root, tmp_path, {"m0": includes("lroa"), "m1": includes("m0")})
    problems = [(p.file, p.rule, p.found, p.hint) for p in problems_of(kb)]
    assert problems == [
        ("methods/m0.yaml", "includes", "lroa", "did you mean lora?"),
        ("methods/m1.yaml", "", "m0, which has problems", ""),
    ]


def test_methods_that_all_descend_from_each_other_are_told_once(root: Path, tmp_path: Path) -> None:
    names = [f"m{n}" for n in range(9)]
    kb = grown(root, tmp_path, {name: descends(*(other for other in names if other != name)) for name in names})
    found = [p.found for p in problems_of(kb) if p.rule == "acyclic"]
    assert found == ["m0 -> m1 -> m0"]


def test_cycles_are_shortest_and_one_for_each_part() -> None:
    edges = [("b", "c"), ("c", "a"), ("a", "b"), ("a", "d"), ("d", "d"), ("e", "f"), ("f", "g"), ("g", "e"), ("f", "e")]
    assert shortest_cycles(networkx.DiGraph(edges)) == [["a", "b", "c"], ["d"], ["e", "f"]]
    assert shortest_cycles(networkx.complete_graph([str(n) for n in range(60)], networkx.DiGraph())) == [["0", "1"]]


def test_a_type_that_a_library_lacks_is_refused(root: Path, tmp_path: Path) -> None:
    known = {"hf_peft": {"type": "LORAX", "symbol": "peft.LoraConfig", "source": "editors"}}
    kb = grown(root, tmp_path, {"m0": lambda data: data.update(implementations=known)})
    assert [p.hint for p in problems_of(kb) if p.rule == "configurations"] == ["did you mean LORA or XLORA or GLORA?"]
    with pytest.raises(PeftonomyError, match="unknown type of PEFT 'LORAX'; did you mean LORA"):
        kb["m0"].export("roberta_base")


def test_arguments_and_formulas_without_a_meaning_in_a_library_are_refused(root: Path, tmp_path: Path) -> None:
    peft = {"type": "LORA", "symbol": "LoraConfig", "source": "editors"}
    nested = {"set": {"eva_config": "x"}, "rename": {"r": "eva_config.rho"}}
    counts = {"rename": {"r": "r", "alpha": "lora_alpha"}, "added": "numel", "holds": ["d_inn > r"]}
    kb = grown(root, tmp_path, {
        "m0": lambda data: data.update(implementations={"hf_peft": peft | nested}),
        "m1": lambda data: data.update(implementations={"hf_peft": peft | counts}),
    })  # fmt: skip
    assert [(p.field, p.found, p.expected) for p in problems_of(kb) if p.rule == "configurations"] == [
        ("implementations.hf_peft.rename.r", "eva_config.rho", "a mapping as the value of eva_config"),
        ("implementations.hf_peft.added", "numel in 'numel'", "a name for formulas about PEFT"),
        ("implementations.hf_peft.holds[0]", "d_inn in 'd_inn > r'", "a name for formulas about PEFT"),
    ]
    with pytest.raises(PeftonomyError, match="eva_config.rho: found x for eva_config; expected a mapping"):
        kb["m0"].export("roberta_base")
    path = kb.root / "taxonomy" / "trainers" / "axolotl.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("    micro_batch_size: 2\n", "    base_model.x: 2\n", 1), encoding="utf-8")
    found = [(p.found, p.expected) for p in peftonomy.check(peftonomy.load(kb.root), [path]) if "mapping" in p.expected]
    assert found == [("base_model.x", "a mapping as the value of base_model")]


def test_a_formula_without_a_value_refuses_this_model_alone(root: Path, tmp_path: Path) -> None:
    """`check` accepts an entry that counts on one model, so every question must refuse the others in one line."""
    nothing = "1 // n_decoder_layers >= 0"      # has no value on an encoder
    peft = {"type": "LORA", "symbol": "LoraConfig", "source": "editors", "rename": {"r": "r", "alpha": "lora_alpha"}}
    remarks = {"remarks": {"It has {n} decoder layers.": "1 // n_decoder_layers"}}
    kb = grown(root, tmp_path, {
        "m0": lambda data: data["properties"].update(inference_positions="1 // n_decoder_layers"),
        "m1": lambda data: data.update(implementations={"hf_peft": peft | remarks}),
        "m2": lambda data: data["memory"]["operations"][0].update({"if": nothing}),
    })  # fmt: skip
    assert [p for p in problems_of(kb) if p.file.startswith("methods/")] == []
    questions: dict[str, Callable[[str], Any]] = {
        "m0": kb["m0"].serving,
        "m1": lambda model: kb.adapter(kb["m1"].export(model).to_dict(), model, method="m1"),
        "m2": lambda model: kb["m2"].memory(model, batch=1, seq=8),
        "m2 once": lambda model: kb["m2"].on(model).training.once({}, Setting(1, 8)),
    }
    for name, ask in questions.items():
        with pytest.raises(PeftonomyError, match="has no value here: .* by zero") as refused:
            ask("roberta_base")
        assert isinstance(refused.value, UsageError | ConfigError), name
        assert "\n" not in str(refused.value)
        ask("t5_base")


def test_a_reason_from_elsewhere_is_printed_without_control_characters() -> None:
    problem = Problem("m0.yaml", 1, "update", "\0", "a formula in TeX", "unexpected character '\0'\n")
    assert str(problem) == r"m0.yaml:1: update: found \x00; expected a formula in TeX; unexpected character '\x00'\n"


def test_what_a_library_builds_names_only_what_exists(root: Path, tmp_path: Path) -> None:
    kb = grown(root, tmp_path, {})
    path = kb.root / "taxonomy" / "libraries" / "adapters.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ("not vera or", "not verra or"), ("skips: leave_out", "skips: leav_out"),
        ("\n  PromptTuningConfig:\n    n", "\n  PromptTuningConfg:\n    n"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    found = [p for p in peftonomy.check(kb, [path]) if p.field.startswith("builds")]
    assert {p.found: p.hint.partition(" or ")[0].rstrip("?") for p in found} == {
        "verra": "did you mean vera", "leav_out": "did you mean leave_out",
        "PromptTuningConfg": "did you mean PromptTuningConfig",
    }  # fmt: skip


def test_a_relation_of_no_type_is_refused(root: Path, tmp_path: Path) -> None:
    kb = grown(root, tmp_path, {"m0": descends("lora")})
    path = kb.methods.path("m0")
    path.write_text(path.read_text().replace("derives_from", "derives_fron"))
    assert [p.hint for p in problems_of(kb) if p.rule == "relations"] == ["did you mean derives_from?"]
    with pytest.raises(PeftonomyError, match="unknown relation type 'derives_fron'; did you mean derives_from"):
        kb.graph.related("m0")


def test_a_category_outside_its_parent_is_reported(root: Path, tmp_path: Path) -> None:
    kb = grown(root, tmp_path, {})
    path = kb.root / "taxonomy" / "categories.yaml"
    extra = "categories:\n  - {id: x.y, name: X, definition: D., source: editors}\n"
    path.write_text(path.read_text().replace("categories:\n", extra, 1))
    (kb.methods.path("lora")).unlink()
    kb = peftonomy.load(kb.root)
    assert ("x.y", "one word, as it is below nothing") in [(p.found, p.expected) for p in peftonomy.check(kb)]
    assert "category:x.y" in kb.graph.export("dot")


LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip


@pytest.mark.slow
def test_an_export_for_many_layers_names_the_same_modules(kb: KnowledgeBase) -> None:
    model = Backbone.from_config(LLAMA | {"num_hidden_layers": 10_000}, families=kb.families)
    written = kb["lora"].export(model, targets=["attn.q", "mlp.up"]).to_dict()
    assert written["target_modules"] == ["q_proj", "up_proj"]
    assert kb.adapter(written, model).cost.trained == kb["lora"].cost(model, targets=["attn.q", "mlp.up"]).trained


def test_inventories_of_many_heads_are_not_all_kept(kb: KnowledgeBase) -> None:
    model = kb.models["gpt2"]
    for labels in range(1, 100):
        model.inventory("seq_cls", labels)
    assert len(model._inventories) <= 16


@pytest.mark.torch
@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "convnext", "depths": [3, 3, 10**9, 3]},
        {"model_type": "cvt", "depth": [1, 10**9, 10]},
        {"model_type": "switch_transformers", "num_experts": 10**9},
        {"model_type": "big_bird", "num_hidden_layers": 9_999},
    ],
)
def test_a_model_of_too_many_modules_is_not_built(kb: KnowledgeBase, config: dict[str, Any]) -> None:
    with pytest.raises(PeftonomyError, match="more than"):
        kb["lora"].cost(config)
    assert not infer._built.cache_info().currsize > 16


CALLS: dict[str, Callable[[KnowledgeBase], object]] = {
    "method": lambda kb: kb[["lora"]],  # type: ignore[index]
    "model": lambda kb: kb["lora"].cost(3),  # type: ignore[arg-type]
    "model of bytes": lambda kb: kb["lora"].cost(b"gpt2"),  # type: ignore[arg-type]
    "targets": lambda kb: kb["lora"].cost("gpt2", targets=3),  # type: ignore[arg-type]
    "target in a list": lambda kb: kb["lora"].cost("gpt2", targets=[["attn.q"]]),  # type: ignore[list-item]
    "target_modules": lambda kb: kb["lora"].cost("gpt2", target_modules=3),  # type: ignore[arg-type]
    "task": lambda kb: kb["lora"].cost("gpt2", task=[]),  # type: ignore[arg-type]
    "num_labels": lambda kb: kb["lora"].cost("gpt2", task="seq_cls", num_labels=[1]),  # type: ignore[arg-type]
    "large num_labels": lambda kb: kb["lora"].cost("gpt2", task="seq_cls", num_labels=10**5000),
    "dtype": lambda kb: kb["lora"].cost("gpt2", dtype=[]),  # type: ignore[arg-type]
    "dtype of a sweep": lambda kb: kb["lora"].sweep("gpt2", r=[8], dtype=[]),
    "large hyperparameter": lambda kb: kb["lora"].cost("gpt2", r=10**5000),
    "large array": lambda kb: kb["lora"].sweep("gpt2", r=[10**5000]),
    "ragged array": lambda kb: kb["lora"].sweep("gpt2", r=[[1, 2], [3]]),
    "large batch": lambda kb: kb["lora"].memory("gpt2", batch=10**5000, seq=1),
    "optimizer": lambda kb: kb["lora"].memory("gpt2", batch=1, seq=1, optimizer=[]),
    "quantized": lambda kb: kb["lora"].memory("gpt2", batch=1, seq=1, quantized=[]),
    "gpu": lambda kb: kb["lora"].fit("gpt2", gpu=None),
    "large gpu": lambda kb: kb["lora"].fit("gpt2", gpu=10**5000),
    "configuration": lambda kb: kb.adapter(3, "gpt2"),  # type: ignore[arg-type]
    "keys of a configuration": lambda kb: kb.adapter({"peft_type": "LORA", 3: 4, "x": 5}, "gpt2"),  # type: ignore[dict-item]
    "root": lambda kb: peftonomy.load(3),  # type: ignore[arg-type]
    "file": lambda kb: peftonomy.check(kb, [3]),  # type: ignore[list-item]
    "underscore": lambda kb: kb["lora"].cost("gpt2", r="1_000"),
    "digits of another script": lambda kb: kb["lora"].cost("gpt2", r="\u0661\u0662"),
    "underscore in a number": lambda kb: kb["lora"].cost("gpt2", alpha="1_0.5"),
    "number of another script": lambda kb: kb["lora"].cost("gpt2", alpha="\u0661"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_foreign_value_is_refused_in_a_short_line(kb: KnowledgeBase, call: str) -> None:
    with pytest.raises(PeftonomyError) as caught:
        CALLS[call](kb)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.torch
def test_a_config_that_contains_itself_is_refused(kb: KnowledgeBase) -> None:
    config: dict[str, Any] = {"model_type": "flaubert"}
    config["inner"] = config
    with pytest.raises(PeftonomyError, match="found values that no config.json can have"):
        kb["lora"].cost(config)


NUMBERS = [
    "cost lora --model gpt2 --num-labels 1_0",
    "memory lora --model gpt2 --batch 1_0 --seq 8",
    "memory lora --model gpt2 --batch 8 --seq \u0661",
    "new x --year 2_024",
    "site serve --port 8_000",
]


@pytest.mark.parametrize("line", NUMBERS)
def test_whole_numbers_are_in_ascii_digits(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    from peftonomy.cli.main import main

    assert main(line.split()) == 2
    assert "is not a whole number." in capsys.readouterr().err


BROKEN = [
    ({"after x y": "return mmm x"}, "unknown name mmm"),
    ({"after x y": "a = first_half y"}, "found first_half in 'a = first_half y'"),
    ({"after x y": "a = mm x .Z"}, "found .Z in 'a = mm x .Z'; expected one of A, B, "),
    ({"after x y": "share s"}, "in 'share s': found 1 arguments; expected 2"),
    ({"after x y": "a = loop 2 nowhere y"}, "found nowhere in 'a = loop 2 nowhere y'"),
    ({"after x y": "share s x"}, "operations of m0 in "),
    ({"after x y": "a = nth 2 2"}, "operations of m0 in "),
]


@pytest.mark.parametrize(("functions", "found"), BROKEN)
def test_a_line_that_computes_nothing_is_reported(
    root: Path, tmp_path: Path, functions: dict[str, str], found: str
) -> None:
    """The memory of a step is refused in one line, and `check` names the line."""
    memory = {"operations": [{"per": "site", "functions": functions}]}
    kb = grown(root, tmp_path, {"m0": lambda data: data.update(memory=memory)})
    assert any(found in str(p) for p in problems_of(kb)), [str(p) for p in problems_of(kb)]
    with pytest.raises(PeftonomyError) as caught:
        kb["m0"].memory("roberta_base", batch=1, seq=8)
    assert "\n" not in str(caught.value)


def test_a_default_without_a_value_on_a_model_is_refused(root: Path, tmp_path: Path) -> None:
    kb = grown(root, tmp_path, {"m0": lambda data: data["hyperparameters"]["r"].update(default="8 // (12 - n_layers)")})
    with pytest.raises(UsageError, match="m0: a default has no value on roberta_base: .*modulo by zero"):
        kb["m0"].cost("roberta_base")

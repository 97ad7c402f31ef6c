"""The command line, seen from outside: what it prints, whole."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import peftonomy
from peftonomy.knowledge.evidence import facts, tally
from tests.answers import ANSWERS

from .cli_kit import (
    LLAMA,
    Run,
    assert_one_line,
    process,
)

# Answers


@pytest.mark.parametrize(("line", "expected"), ANSWERS)
def test_answers(run: Run, line: str, expected: dict[str, int]) -> None:
    result = run(f"{line} --json")
    printed = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert {name: printed[name] for name in expected} == expected


def test_cost_json_is_one_object_with_the_fields_of_the_contract(run: Run) -> None:
    printed = json.loads(run("cost lora --model llama_2_7b --set r=8 --targets attn.q,attn.v --json").out)
    assert printed["method"] == "lora"
    assert printed["model"] == "llama_2_7b"
    assert printed["hyperparameters"]["r"] == 8
    assert printed["targets"] == ["attn.q", "attn.v"]
    assert printed["backbone"] == 6_738_415_616
    assert printed["head"] == 0
    assert printed["percent"] == 100 * 4_194_304 / 6_738_415_616
    assert printed["stored_bytes"] == 4 * printed["stored"]
    for tensor in printed["tensors"]:
        assert tensor["count"] * tensor["sites"] == tensor["total"]
    assert sum(t["total"] for t in printed["tensors"]) == printed["trained"]


def test_cost_as_text_is_printed_whole(run: Run) -> None:
    result = run("cost lora --model llama_2_7b --set r=8 --set alpha=16 --targets attn.q,attn.v")
    assert result.out.splitlines() == [
        "lora on llama_2_7b, task causal_lm",
        "r = 8, alpha = 16.0, dropout = 0.0, lora_bias = False",
        "targets attn.q, attn.v",
        "",
        "             parameters",
        "trained       4,194,304  0.06224 % of the backbone",
        "stored        4,194,304  16.8 MB in float32",
        "served                0  beyond the backbone, at inference",
        "backbone  6,738,415,616  27 GB in float32",
        "",
        "tensor  per      shape  sites      total    trained     stored  served  roles",
        "A       site  8 x 4096     64  2,097,152  2,097,152  2,097,152       0  attn.q, attn.v",
        "B       site  4096 x 8     64  2,097,152  2,097,152  2,097,152       0  attn.q, attn.v",
    ]


ADAPTER = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 32, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"v_proj": 4}, "modules_to_save": ["lm_head"], "layers_to_transform": [0, 1], "use_dora": False,
}  # fmt: skip


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter_config.json: a good one, changed as asked."""

    def written(**changes: object) -> Path:
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(ADAPTER | changes))
        return path

    return written


def test_a_configuration_as_text_is_printed_whole(run: Run, adapter: Callable[..., Path]) -> None:
    result = run(f"cost --adapter-config {adapter()} --model llama_3_2_3b")
    assert result.out.splitlines() == [
        "lora on llama_3_2_3b, task causal_lm",
        "r = 32, alpha = 64.0, dropout = 0.0, lora_bias = False",
        "targets attn.q, attn.v",
        "",
        "             parameters",
        "trained         425,984  0.01326 % of the backbone",
        "stored          425,984  1.7 MB in float32",
        "served                0  beyond the backbone, at inference",
        "backbone  3,212,749,824  12.9 GB in float32",
        "",
        "tensor  per       shape  sites    total  trained   stored  served  roles",
        "A       site  32 x 3072      2  196,608  196,608  196,608       0  attn.q",
        "A       site   4 x 3072      2   24,576   24,576   24,576       0  attn.v",
        "B       site  3072 x 32      2  196,608  196,608  196,608       0  attn.q",
        "B       site   1024 x 4      2    8,192    8,192    8,192       0  attn.v",
        "",
        "PEFT 0.21.2, LORA, reports",
        "                             parameters",
        "trained                     394,428,416",
        "total                     3,607,178,240",
        "file                        394,428,416  1.58 GB in float32",
        "modules_to_save: lm_head    394,002,432  of them",
        "",
        "v_proj: r = 4",
        *(
            f"differs in {d.effect}: {' '.join(d.note.split())}"
            for d in peftonomy.load()["lora"].entry.implementations["hf_peft"].deviations
        ),
    ]


def test_a_configuration_as_json(run: Run, adapter: Callable[..., Path]) -> None:
    path = adapter()
    printed = json.loads(run(f"cost --adapter-config {path} --model llama_3_2_3b --json").out)
    assert (printed["method"], printed["library"], printed["type"]) == ("lora", "hf_peft", "LORA")
    assert printed["trained"] == 425_984
    assert printed["reported"]["trained"] == 425_984 + 394_002_432
    assert printed["patterns"] == {"v_proj": {"r": 4}}
    folder = json.loads(run(f"cost --adapter-config {path.parent} --model llama_3_2_3b --json").out)
    assert folder == printed


WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    "no such type": ({"peft_type": "LROA"}, "LROA", "LORA"),
    "no type": ({"peft_type": None}, "peft_type", "LORA"),
    "no such argument": ({"lora_alfa": 3}, "lora_alfa", "lora_alpha"),
    "not understood": ({"use_dora": "maybe"}, "use_dora", "false"),
    "no such module": ({"target_modules": ["q_porj"], "rank_pattern": {}}, "q_porj", "q_proj"),
    "a module of modules": ({"target_modules": ["self_attn"]}, "self_attn", "contains modules"),
    "of another kind": ({"target_modules": ["input_layernorm"]}, "norm", "linear"),
    "no expression": ({"target_modules": "(q_proj", "layers_to_transform": None}, "(q_proj", "regular expression"),
    "no names": ({"target_modules": [1]}, "target_modules", "names"),
    "layers of an expression": ({"target_modules": ".*q_proj"}, "layers_to_transform", "expression"),
    "no layers": ({"layers_to_transform": ["one"]}, "layers_to_transform", "numbers"),
    "out of its domain": ({"r": 0}, "r = 0", "r >= 1"),
    "no number": ({"r": "many"}, "many", "a whole number"),
    "no number for a site": ({"rank_pattern": {"v_proj": "many"}}, "rank_pattern.v_proj", "a whole number"),
    "no task": ({"task_type": "CAUSAL"}, "CAUSAL", "CAUSAL_LM"),
    "no bias": ({"bias": "some"}, "bias", "none"),
    "no tokens": ({"trainable_token_indices": ["a"]}, "trainable_token_indices", "token ids"),
    "no weight": ({"target_parameters": ["norm.weight"]}, "norm.weight", "two or three dimensions"),
    "layers that do not exist": ({"layer_replication": [[0, 99]]}, "layer_replication", "each of the 28 layers"),
    "layers of nothing": ({"layer_replication": ["all"]}, "layer_replication", "ranges"),
    "biases of shared layers": ({"layer_replication": [[0, 28], [0, 1]], "bias": "all"}, "bias", "share weights"),
    "nothing is left": ({"exclude_modules": ["q_proj", "v_proj"]}, "target_modules", "at least one module"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_a_configuration_that_cannot_be_counted_is_one_line(run: Run, adapter: Callable[..., Path], case: str) -> None:
    changes, found, hint = WRONG[case]
    path = adapter(**changes)
    result = run(f"cost --adapter-config {path} --model llama_3_2_3b")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert "adapter_config.json" in result.err
    assert found in result.err
    assert hint in result.err


def test_a_configuration_and_settings_exclude_each_other(run: Run, adapter: Callable[..., Path]) -> None:
    for option in ("--set r=2", "--targets attn.q", "--target-modules q_proj"):
        result = run(f"cost --adapter-config {adapter()} --model llama_3_2_3b {option}")
        assert result.code == 2
        assert_one_line(result.err)
        assert option.split()[0] in result.err


def test_an_export_as_text_is_printed_whole(run: Run) -> None:
    assert run("export lora --model llama_2_7b --set r=4 --targets attn.q,mlp.*").out.splitlines() == [
        "import peft",
        "",
        "config = peft.LoraConfig(",
        '    task_type="CAUSAL_LM",',
        "    r=4,",
        "    lora_alpha=8,",
        "    lora_dropout=0.0,",
        "    lora_bias=False,",
        '    target_modules=["down_proj", "gate_proj", "q_proj", "up_proj"],',
        ")",
        "model = peft.get_peft_model(model, config)",
        "",
        "adapter_config.json",
        "{",
        '  "peft_type": "LORA",',
        '  "task_type": "CAUSAL_LM",',
        '  "r": 4,',
        '  "lora_alpha": 8,',
        '  "lora_dropout": 0.0,',
        '  "lora_bias": false,',
        '  "target_modules": [',
        '    "down_proj",',
        '    "gate_proj",',
        '    "q_proj",',
        '    "up_proj"',
        "  ]",
        "}",
    ]


def test_a_configuration_of_configurations_is_exported(run: Run) -> None:
    result = run("export mam_adapter --to adapters --model bert_base --set prefix_length=5 --set bottleneck=48")
    code, _, file = result.out.partition("adapter_config.json")
    assert "adapter=adapters.ParBnConfig(scaling=4.0, reduction_factor=16)" in code
    parts = json.loads(file)
    assert parts["architecture"] == "union"
    assert [part["architecture"] for part in parts["configs"]] == ["prefix_tuning", None]
    assert parts["configs"][0]["prefix_length"] == 5


def test_what_is_exported_reads_back_at_the_same_cost(run: Run, tmp_path: Path) -> None:
    asked = "lora --model llama_2_7b --set r=4 --targets attn.q,mlp.down"
    path = tmp_path / "adapter_config.json"
    path.write_text(run(f"export {asked} --to peft --json").out)
    read = json.loads(run(f"cost --adapter-config {path} --model llama_2_7b --json").out)
    counted = json.loads(run(f"cost {asked} --json").out)
    assert {name: read[name] for name in counted} == counted


def readme_examples(root: Path) -> Iterator[tuple[str, str]]:
    """Commands of the README with the output that it shows for them."""
    for block in re.findall(r"```console\n(.*?)```", (root / "README.md").read_text(), re.DOTALL):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = example.partition("\n")
            if command.startswith("peftonomy ") and output:
                yield command.removeprefix("peftonomy "), output


def test_the_readme_shows_what_is_printed(run: Run, root: Path) -> None:
    examples = list(readme_examples(root))
    assert len(examples) >= 2
    for line, output in examples:
        assert run(line).out == output
    failures, tried = doctest.testfile(str(root / "README.md"), module_relative=False)
    assert (failures, tried > 0) == (0, True)


def test_target_modules_mean_what_peft_means(run: Run) -> None:
    def trained(targets: str) -> int:
        found: int = json.loads(run(f"cost lora --model llama_2_7b --set r=8 {targets} --json").out)["trained"]
        return found

    assert trained("--targets attn.q,attn.v") == trained("--target-modules q_proj,v_proj") == 4_194_304
    assert trained("--target-modules all-linear") == 19_988_480


def test_a_library_s_word_for_a_hyperparameter_is_understood(run: Run) -> None:
    printed = json.loads(run("cost lora --model bert_base --set lora_alpha=4 --json").out)
    assert printed["hyperparameters"]["alpha"] == 4


def test_a_new_task_head_is_counted_apart(run: Run) -> None:
    printed = json.loads(run("cost bitfit --model roberta_base --task seq_cls --num-labels 3 --json").out)
    assert printed["trained"] == 102_144
    assert printed["head"] == 768 * 768 + 768 + 3 * 768 + 3


def test_a_config_json_answers_as_the_catalogue_does(run: Run, kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    model = kb.models["llama_3_2_3b"]
    assert model.file is not None
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": model.family.model_type, **model.file.config}))
    for method in ("lora", "ia3", "prompt_tuning"):
        from_file = json.loads(run(f"cost {method} --model {path} --json").out)
        catalogued = json.loads(run(f"cost {method} --model llama_3_2_3b --json").out)
        assert from_file | {"model": ""} == catalogued | {"model": ""}


HUB = "meta-llama/Llama-3.1-8B"
WITH_A_MODEL = [
    "cost lora", "compare lora ia3", "memory lora --batch 1 --seq 8", "fit lora --gpu 24GiB", "export lora",
    "methods --where trained~<~1000000",
]  # fmt: skip


@pytest.mark.parametrize("line", WITH_A_MODEL)
def test_a_name_on_the_hub_is_the_model_of_the_catalogue(run: Run, line: str) -> None:
    by_id = run(f"{line} --model llama_3_1_8b --json")
    assert by_id.code == 0
    assert run(f"{line} --model {HUB} --json") == by_id
    assert run(f"{line} --model {HUB.upper()} --json") == by_id


def test_a_configuration_is_read_for_a_model_on_the_hub(run: Run, adapter: Callable[..., Path]) -> None:
    line = f"cost --adapter-config {adapter()} --json --model"
    assert run(f"{line} meta-llama/Llama-3.2-3B") == run(f"{line} llama_3_2_3b")


def test_a_folder_goes_before_a_name_on_the_hub(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / HUB).mkdir(parents=True)
    (tmp_path / HUB / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    printed = json.loads(run(f"cost lora --model {HUB} --json").out)
    assert (printed["model"], printed["backbone"] < 10**6) == (HUB, True)


def test_compare_gives_each_method_what_it_knows(run: Run) -> None:
    line = "compare lora bitfit ia3 --model roberta_base --set r=2 --set lora.alpha=4 --json"
    lora, bitfit, ia3 = json.loads(run(line).out)
    assert lora["hyperparameters"]["r"] == 2
    assert lora["hyperparameters"]["alpha"] == 4
    assert (bitfit["method"], bitfit["trained"]) == ("bitfit", 102_144)
    assert ia3["method"] == "ia3"


def test_a_setting_of_one_method_goes_before_that_of_all(run: Run) -> None:
    for line in ("--set lora.r=4 --set r=5", "--set r=5 --set lora.r=4"):
        lora, dora = json.loads(run(f"compare lora dora --model roberta_base {line} --json").out)
        assert (lora["hyperparameters"]["r"], dora["hyperparameters"]["r"]) == (4, 5)
    line = "compare lora --model roberta_base --set alpha=5 --set lora.lora_alpha=4 --json"
    assert json.loads(run(line).out)[0]["hyperparameters"]["alpha"] == 4
    line = "fit lora dora --model roberta_base --gpu 24GiB --set r=5 --set lora.r=4 --json"
    found = {f["method"]: f["memory"]["hyperparameters"]["r"] for f in json.loads(run(line).out)}
    assert found == {"lora": 4, "dora": 5}


def test_compare_as_text_has_a_line_a_method(run: Run) -> None:
    lines = run("compare lora bitfit --model roberta_base --set r=8").out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["method", "trained", "percent", "stored"],
        ["lora", "294,912", "0.2366", "294,912"],
        ["bitfit", "102,144", "0.08195", "102,144"],
    ]


LISTING = [
    "methods", "models", "categories", "evidence", "evidence lora", "deviations", "deviations lora", "show lora",
    "show mam_adapter",
    "export lora --model llama_2_7b",
    "cost lora --model gpt2", "compare lora --model gpt2", "cite lora", "cite lora --all", "check methods/lora.yaml",
]  # fmt: skip


@pytest.mark.slow
def test_show_says_how_facts_are_known(run: Run, kb: peftonomy.KnowledgeBase) -> None:
    printed = run("show lora").out
    known = facts(kb["lora"])
    for fact in known:
        if fact.keys[0] == "hyperparameters":
            [row] = [line for line in printed.splitlines() if line.split()[:1] == [fact.keys[1]]]
            assert fact.level.replace("_", "-") in row.split()
    counts = [f"{n} {name.replace('_', '-')}" for name, n in tally(known).items()]
    assert printed.splitlines()[-1] == f"facts: {', '.join(counts)}"


@pytest.mark.parametrize("line", LISTING)
def test_every_command_has_json_and_text(run: Run, line: str) -> None:
    text, data = run(line), run(f"{line} --json")
    assert (text.code, data.code, text.err, data.err) == (0, 0, "", "")
    assert text.out.strip()
    assert bool(json.loads(data.out)) == (not line.startswith("check"))


def test_stored_lists(run: Run, kb: peftonomy.KnowledgeBase) -> None:
    counted = {entry["id"]: entry["methods"] for entry in json.loads(run("lists --json").out)}
    assert counted == {name: len(kb.stored_list(name)) for name in kb.taxonomy.lists}
    found = [m["id"] for m in json.loads(run("methods --list mergeable --where year~<~2022 --json").out)]
    assert found == [i for i in kb.stored_list("mergeable").ids if kb[i].year < 2022]


def test_methods_are_found_by_predicate(run: Run, kb: peftonomy.KnowledgeBase) -> None:
    found = {m["id"] for m in json.loads(run("methods --where merge~==~exact~and~year~<=~2021 --json").out)}
    assert found == {m.id for m in kb.values() if m.merge == "exact" and m.year <= 2021}
    assert "lora" in found
    below = {m["id"] for m in json.loads(run("methods --category reparameterized --json").out)}
    assert below == {m.id for m in kb.values() if m.category.startswith("reparameterized")}
    assert "lora" in below


def test_deviations_are_a_table(run: Run, kb: peftonomy.KnowledgeBase) -> None:
    rows = json.loads(run("deviations --json").out)
    assert rows == list(kb.deviations)
    assert len(rows) == sum(len(i.deviations) for m in kb.values() for i in m.entry.implementations.values())
    assert {row["effect"] for row in rows} == {"counts", "outputs", "none"}
    assert {row["method"] for row in json.loads(run("deviations lora adalora --json").out)} == {"lora", "adalora"}
    first, *_ = run("deviations adalora").out.splitlines()
    assert first.split() == ["method", "library", "against", "about", "effect", "note"]


def test_cite_prints_each_record_once(run: Run) -> None:
    out = run("cite lora lora qlora").out
    assert out.count("@") == 2
    assert out.count("hu2022lora") == 1
    assert "read" not in out


FORMATS = [("json", "{"), ("graphml", "<"), ("dot", "digraph"), ("mermaid", "graph")]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "start"), FORMATS)
def test_the_graph_in_four_formats(run: Run, tmp_path: Path, form: str, start: str) -> None:
    assert run(f"graph --format {form}").out.startswith(start)
    assert run(f"graph --format {form} --output {tmp_path}/graph").out == ""
    assert (tmp_path / "graph").read_text().startswith(start)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run: Run, shell: str) -> None:
    assert "_PEFTONOMY_COMPLETE" in run(f"completion {shell}").out


COMPLETED = [
    ("verif", {"verify"}),
    ("cost lora_g", {"lora_ga"}),
    ("cost lora --model llama_3_2", {"llama_3_2_1b", "llama_3_2_3b"}),
    ("methods --category hyb", {"hybrid", "hybrid.manual_combination", "hybrid.automatic_combination"}),
]


@pytest.mark.parametrize(("words", "expected"), COMPLETED)
def test_completion_knows_commands_methods_and_models(words: str, expected: set[str]) -> None:
    asked = {
        "_PEFTONOMY_COMPLETE": "bash_complete",
        "COMP_WORDS": f"peftonomy {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    done = subprocess.run(process(), env=os.environ | asked, capture_output=True, text=True, check=True)
    assert {line.partition(",")[2] for line in done.stdout.splitlines()} == expected

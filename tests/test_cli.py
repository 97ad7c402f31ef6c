"""The command line, seen from outside: what it prints, whole, and what it says to a mistake."""

from __future__ import annotations

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import peftonomy
from peftonomy.cli import browse
from peftonomy.cli import main as _cli
from peftonomy.files.output import write_atomically
from tests.answers import ANSWERS
from tests.trees import small_tree


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[[str], Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: one string of arguments, split at blanks (`~` stands for one)."""

    def called(line: str) -> Result:
        code = _cli.main([word.replace("~", " ") for word in line.split()])
        return Result(code, *capsys.readouterr())

    return called


@pytest.fixture
def tree(root: Path, tmp_path: Path) -> Path:
    """A copy of the data that a test may spoil."""
    for name in ("taxonomy", "methods", "backbones", "reference_impls"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def process(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "peftonomy", *arguments]


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
        "                numbers",
        "trained       4,194,304  0.06224 % of the backbone",
        "stored        4,194,304  16.8 MB in float32",
        "served                0  beyond the backbone, at inference",
        "backbone  6,738,415,616  27 GB as the method holds it",
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
        "                numbers",
        "trained         425,984  0.01326 % of the backbone",
        "stored          425,984  1.7 MB in float32",
        "served                0  beyond the backbone, at inference",
        "backbone  3,212,749,824  12.9 GB as the method holds it",
        "",
        "tensor  per       shape  sites    total  trained   stored  served  roles",
        "A       site  32 x 3072      2  196,608  196,608  196,608       0  attn.q",
        "A       site   4 x 3072      2   24,576   24,576   24,576       0  attn.v",
        "B       site  3072 x 32      2  196,608  196,608  196,608       0  attn.q",
        "B       site   1024 x 4      2    8,192    8,192    8,192       0  attn.v",
        "",
        "PEFT 0.21.2, LORA, reports",
        "                                numbers",
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
    "a module of modules": ({"target_modules": ["self_attn"]}, "self_attn", "inside"),
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
    "no tokens": ({"trainable_token_indices": ["a"]}, "trainable_token_indices", "numbers"),
    "no weight": ({"target_parameters": ["norm.weight"]}, "norm.weight", "linear"),
    "layers that do not exist": ({"layer_replication": [[0, 99]]}, "layer_replication", "each of the 28 layers"),
    "layers of nothing": ({"layer_replication": ["all"]}, "layer_replication", "ranges"),
    "biases of shared layers": ({"layer_replication": [[0, 28], [0, 1]], "bias": "all"}, "bias", "share weights"),
    "nothing is left": ({"exclude_modules": ["q_proj", "v_proj"]}, "target_modules", "act on"),
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
    "methods", "models", "categories", "deviations", "deviations lora", "show lora", "show mam_adapter",
    "export lora --model llama_2_7b",
    "cost lora --model gpt2", "compare lora --model gpt2", "cite lora", "cite lora --all", "check",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("line", LISTING)
def test_every_command_has_json_and_text(run: Run, line: str) -> None:
    text, data = run(line), run(f"{line} --json")
    assert (text.code, data.code, text.err, data.err) == (0, 0, "", "")
    assert text.out.strip()
    assert bool(json.loads(data.out)) == (line != "check")


def test_stored_lists(run: Run, kb: peftonomy.KnowledgeBase) -> None:
    counted = {entry["id"]: entry["methods"] for entry in json.loads(run("lists --json").out)}
    assert counted == {name: len(kb.stored_list(name)) for name in kb.taxonomy.lists}
    found = [m["id"] for m in json.loads(run("methods --list mergeable --where year~<~2022 --json").out)]
    assert found == [i for i in kb.stored_list("mergeable").ids if kb[i].year < 2022]


def test_methods_are_found_by_predicate(run: Run, kb: peftonomy.KnowledgeBase) -> None:
    found = {m["id"] for m in json.loads(run("methods --where merge~==~exact~and~year~<=~2021 --json").out)}
    assert found == {m.id for m in kb.values() if m.entry.properties.merge == "exact" and m.year <= 2021}
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
    ("cost lora_", {"lora_fa", "lora_ga", "lora_plus"}),
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


# Mistakes: one line on stderr, nothing on stdout


MISTAKES = {
    "cost lroa --model llama_2_7b": (2, "unknown method 'lroa'", "lora"),
    "cost lora --model lama_2_7b": (2, "unknown model 'lama_2_7b'", "llama_2_7b"),
    "cost lora --model meta-llama/Llama-3.1-8": (2, "unknown model 'meta-llama/Llama-3.1-8'", "Llama-3.1-8B"),
    "cost lora --model meta-lama/llama-3.1-8b": (2, "unknown model", "meta-llama/Llama-3.1-8B"),
    "fit lora --gpu 24GiB --model nobody/knows": (2, "unknown model 'nobody/knows'", "a path to a config.json"),
    "cost lora --model ./nobody/knows": (1, "nobody/knows", "No such file"),
    "cost lora --model llama_2_7b --set alfa=1": (2, "unknown hyperparameter 'alfa'", "alpha"),
    "cost lora --model llama_2_7b --targets attn.query": (2, "attn.query", "attn.q"),
    "cost lora --model llama_2_7b --targets xattn.q": (2, "xattn.q", "llama_2_7b"),
    "cost lora --model llama_2_7b --targets attn.q,,attn.v": (2, "--targets", "empty word"),
    "cost lora --model llama_2_7b --target-modules q_porj": (2, "q_porj", "q_proj"),
    "cost lora --model llama_2_7b --targets attn.q --target-modules q_proj": (2, "--targets", "--target-modules"),
    "cost bitfit --model llama_2_7b --targets attn.q": (2, "bitfit", "no targets"),
    "cost lora --model llama_2_7b --set r=0": (2, "r = 0", "r >= 1"),
    "cost lora --model llama_2_7b --set r=-3": (2, "r = -3", "r >= 1"),
    "cost lora --model llama_2_7b --set r=8.5": (2, "'8.5'", "a whole number"),
    "cost lora --model llama_2_7b --set r=1e3": (2, "'1e3'", "a whole number"),
    "cost lora --model llama_2_7b --set r=99999999999999999999": (2, "r", "99999999999999999999"),
    "cost lora --model llama_2_7b --set alpha=nan": (2, "'nan'", "a number"),
    "cost lora --model llama_2_7b --set r": (2, "'r'", "name=value"),
    "cost lora --model llama_2_7b --set r=8 --set r=9": (2, "r", "given twice"),
    "cost lora --model llama_2_7b --set model=x": (2, "unknown hyperparameter 'model'", ""),
    "cost lora --model llama_2_7b --task seq_cl": (2, "unknown task 'seq_cl'", "seq_cls"),
    "cost lora --model llama_2_7b --task seq_cls --num-labels 0": (2, "0", "1"),
    "cost lora --model llama_2_7b --num-labels two": (2, "--num-labels", "'two'"),
    "cost lora --model llama_2_7b --dtype float31": (2, "unknown dtype 'float31'", "float32"),
    "cost lora --modle llama_2_7b": (2, "--modle", "--model"),
    "cost lora": (2, "Missing option", "--model"),
    "cost": (2, "Missing argument", "METHOD"),
    "csot lora --model llama_2_7b": (2, "csot", "cost"),
    "deviations lroa": (2, "unknown method 'lroa'", "lora"),
    "export lora --model llama_2_7b --to peff": (2, "unknown library 'peff'", "peft"),
    "export bitfit --model bert_base": (2, "PEFT has no configuration that makes bitfit", "bias='all'"),
    "export lora --model gpt2": (2, "attn.q is a slice of attn.qkv", "target that"),
    "export lora --model llama_2_7b --set rr=2": (2, "unknown hyperparameter 'rr'", "r"),
    "cost --adapter-config /no/such.json --model llama_2_7b": (2, "/no/such.json", "does not exist"),
    "compare lora bitfit --model roberta_base --set rr=2": (2, "unknown hyperparameter 'rr'", "r"),
    "compare lora lroa --model roberta_base": (2, "unknown method 'lroa'", "lora"),
    "show lroa": (2, "unknown method 'lroa'", "lora"),
    "cite lroa": (2, "unknown method 'lroa'", "lora"),
    "verify lroa": (2, "unknown method 'lroa'", "lora"),
    "methods --where yaer>=2023": (2, "unknown field 'yaer'", "year"),
    "methods --where trained~>~0 --model nope": (2, "unknown model 'nope'", "config.json"),
    "methods --where trained~>~0 --model lama_2_7b": (2, "unknown model 'lama_2_7b'", "llama_2_7b"),
    "methods --model lama_2_7b": (2, "unknown model 'lama_2_7b'", "llama_2_7b"),
    "methods --where stores~<~3": (2, "stores has several values", "== or !="),
    "methods --where year~<~2000~and~3~>=~stores": (2, "stores has several values", "== or !="),
    "methods --where stores~==~3": (2, "stores has words", "found 3"),
    "methods --where merge~>~3": (2, "merge has words", "found 3"),
    "fit lora --model gpt2 --gpu 24GiB --set rr=64": (2, "unknown hyperparameter 'rr'", "r"),
    "fit lora ia3 --model gpt2 --gpu 24GiB --set ia3.r=64": (2, "unknown hyperparameter 'ia3.r'", "of these methods"),
    "fit --model gpt2 --gpu 24GiB --set rankk=64": (2, "unknown hyperparameter 'rankk'", "of these methods"),
    "fit lora --model gpt2 --gpu 24GiB --solve r --set r=8": (2, "r is given", "--solve"),
    "fit lora --model gpt2 --gpu 24GiB --solve r --set lora.r=8": (2, "r is given", "--solve"),
    "compare lora ia3 --model gpt2 --set lora.r=4 --set lora.r=5": (2, "--set lora.r", "given twice"),
    "compare lora ia3 --model gpt2 --set alpha=4 --set lora_alpha=5": (2, "alpha", "given twice"),
    "methods --list mergable": (2, "unknown list 'mergable'", "mergeable"),
    "methods --where merge~==~exakt": (2, "exakt", "exact"),
    "methods --where year~>=": (2, "year >=", "column"),
    "methods --category additiv": (2, "unknown category 'additiv'", "additive"),
    "graph --format dott": (2, "'dott'", "dot"),
    "graph --format dot --output /no/such/folder/graph.dot": (1, "/no/such/folder", "No such file"),
    "new Not-An-Id": (2, "'Not-An-Id'", "snake_case"),
    "new lambda": (2, "'lambda'", "snake_case"),
    "new lora": (2, "methods/lora.yaml", "exists"),
    "new fresh --category additiv": (2, "unknown category 'additiv'", "additive"),
    "check /no/such/file.yaml": (2, "/no/such/file.yaml", "does not exist"),
    "check README.md": (1, "README.md", "no file of this knowledge base"),
    "--root /no/such/folder methods": (2, "/no/such/folder", "does not exist"),
    "completion tcsh": (2, "'tcsh'", "bash"),
    "site serve --port 99999": (2, "99999", "65535"),
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(root)
    code, found, hint = MISTAKES[line]
    result = run(line)
    assert (result.code, result.out) == (code, "")
    assert_one_line(result.err)
    assert found in result.err
    assert hint in result.err


def assert_one_line(text: str) -> None:
    assert text.startswith("error: ")
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text


LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 100,
}  # fmt: skip
CONFIGS: dict[str, tuple[str, str]] = {
    "no-config": ("", "JSON"),
    "not-json": ("hidden_size: 64", "JSON"),
    "not-an-object": ("[1, 2]", "object"),
    "not-utf-8": ("\udcff", "utf-8"),
    "nested": ("[" * 100_000, ""),
    "huge": (json.dumps(LLAMA | {"x": "y" * 2_000_000}), "bytes"),
    "no-model-type": (json.dumps({k: v for k, v in LLAMA.items() if k != "model_type"}), "model_type"),
    "unknown-model-type": (json.dumps(LLAMA | {"model_type": "lama"}), "llama"),
    "a-key-is-missing": (json.dumps({k: v for k, v in LLAMA.items() if k != "hidden_size"}), "hidden_size"),
    "negative": (json.dumps(LLAMA | {"hidden_size": -64}), "hidden_size"),
    "zero": (json.dumps(LLAMA | {"num_hidden_layers": 0}), "num_hidden_layers"),
    "absurd": (json.dumps(LLAMA | {"hidden_size": 10**15, "num_hidden_layers": 10**9}), ""),
    "enormous": (json.dumps(LLAMA | {"vocab_size": 1}).replace(": 1}", ": " + "9" * 5_000 + "}"), ""),
    "text": (json.dumps(LLAMA | {"hidden_size": "64"}), "hidden_size"),
    "fraction": (json.dumps(LLAMA | {"hidden_size": 64.5}), "hidden_size"),
    "boolean": (json.dumps(LLAMA | {"hidden_size": True}), "hidden_size"),
    "infinite": (json.dumps(LLAMA | {"hidden_size": float("inf")}), ""),
    "heads-do-not-divide": (json.dumps(LLAMA | {"num_attention_heads": 5}), "num_attention_heads"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_json_that_cannot_be_counted_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    text, hint = CONFIGS[name]
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    result = run(f"cost lora --model {path}")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert hint in result.err


@pytest.mark.parametrize("name", ["missing.json", "folder.json"])
def test_a_config_that_is_no_file_is_one_line(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.json").mkdir()
    result = run(f"cost lora --model {tmp_path / name}")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert name in result.err


# Checking a tree


def spoil(path: Path, old: str, new: str) -> int:
    """Replace the first `old` in a file; the line it stands on."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


@pytest.mark.slow
def test_a_sound_tree_has_no_problem(run: Run, tree: Path, kb: peftonomy.KnowledgeBase) -> None:
    result = run(f"--root {tree} check")
    assert result == Result(0, f"{len(kb)} methods, {len(kb.models)} models: 0 problems\n", "")


SPOILT = {
    "a duplicate key": ("year:", "year: 2021\nyear:", "year"),
    "a tab": ("year:", "\tyear:", "tab"),
    "an anchor": ("year:", "x: &a [a]\nyear:", "anchor"),
    "an unquoted trap": ("merge: exact", "merge: no", "no"),
    "a wrong type": ("year: 2021", "year: soon", "year"),
    "an unknown field": ("year:", "yaer: 2021\nyear:", "did you mean year"),
    "a missing field": ("year: 2021\n", "", "year"),
    "a dangling citation": ("source: hu2022lora", "source: hu2022lara", "did you mean hu2022lora"),
    "an unknown category": ("low_rank_decomposition", "low_rank_decompositions", "low_rank_decomposition"),
    "attribute access": ('"r >= 1"', '"r.real >= 1"', "column"),
    "a call of an unknown name": ('"r >= 1"', '"open(r) >= 1"', "column"),
    "a tower of powers": ('"r >= 1"', '"r >= 9**9**9"', "column"),
    "ten thousand terms": ('"r >= 1"', f'"r >= {"+".join(["1"] * 10_000)}"', "domain"),
    "deep nesting": ('"r >= 1"', f'"r >= {"(" * 500}1{")" * 500}"', "domain"),
    "an unknown name in a formula": ('"d_in"', '"d_inn"', "did you mean d_in"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_entry_is_reported_with_file_and_line(run: Run, root: Path, tmp_path: Path, what: str) -> None:
    old, new, hint = SPOILT[what]
    tree = small_tree(root, tmp_path, "lora")
    entry = tree / "methods" / "lora.yaml"
    line = spoil(entry, old, new)
    result = run(f"--root {tree} check {entry}")
    assert (result.code, result.err) == (1, "")
    problems = result.out.splitlines()[:-1]
    lines = {int(p.split(":")[1]) for p in problems if p.startswith("methods/lora.yaml:")}
    assert problems, "no problem was found"
    assert len(lines) == len({p.split(":")[1] for p in problems})
    assert lines & {1, line, line + 1}
    assert any(hint in p for p in problems)
    assert result.out.splitlines()[-1].startswith("1 file: ")


@pytest.mark.slow
def test_all_problems_of_a_file_come_at_once(run: Run, tree: Path) -> None:
    entry = tree / "methods" / "lora.yaml"
    for old, new in (("year: 2021", "year: soon"), ("facets:", "fasets:"), ('"r >= 1"', '"r >= open(1)"')):
        spoil(entry, old, new)
    problems = run(f"--root {tree} check {entry}").out.splitlines()[:-1]
    assert len(problems) >= 3
    numbers = [int(p.split(":")[1]) for p in problems]
    assert numbers == sorted(numbers)


@pytest.mark.slow
def test_dangling_relations_and_cycles_are_found(run: Run, tree: Path) -> None:
    def related(target: str) -> str:
        return f"relations:\n  - {{type: derives_from, target: {target}, note: Because., source: editors}}\n"

    lora, adalora = (tree / "methods" / f"{name}.yaml" for name in ("lora", "adalora"))
    spoil(lora, "relations:\n", related("adalroa"))
    assert "did you mean adalora" in run(f"--root {tree} check {lora}").out
    spoil(lora, "adalroa", "adalora")
    spoil(lora, "year: 2021", "year: 2023")
    out = run(f"--root {tree} check {lora} {adalora}").out
    assert "adalora -> lora -> adalora" in out


@pytest.mark.slow
def test_an_unreadable_tree_is_one_line_elsewhere(run: Run, tree: Path) -> None:
    spoil(tree / "methods" / "lora.yaml", "year: 2021", "year: soon")
    spoil(tree / "methods" / "lora.yaml", "facets:", "fasets:")
    result = run(f"--root {tree} cost lora --model llama_2_7b")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert "methods/lora.yaml:" in result.err
    assert "more: peftonomy check)" in result.err


@pytest.mark.slow
def test_check_as_json_has_the_parts_of_each_problem(run: Run, tree: Path) -> None:
    line = spoil(tree / "methods" / "lora.yaml", "year: 2021", "year: soon")
    result = run(f"--root {tree} check --json")
    assert result.code == 1
    places = [(p["file"], p["line"], p["field"]) for p in json.loads(result.out)]
    assert ("methods/lora.yaml", line, "year") in places


# Adding a method


@pytest.mark.slow
def test_new_writes_a_skeleton_once(run: Run, tree: Path) -> None:
    bibliography = (tree / "taxonomy" / "references.bib").read_text()
    result = run(f"--root {tree} new my_method --category additive.adapter --year 2025")
    assert result.code == 0
    assert result.out.splitlines()[:3] == [
        "wrote methods/my_method.yaml",
        "wrote reference_impls/my_method.py",
        "wrote taxonomy/references.bib",
    ]
    entry, module = tree / "methods" / "my_method.yaml", tree / "reference_impls" / "my_method.py"
    assert (tree / "taxonomy" / "references.bib").read_text().startswith(bibliography.rstrip())
    compile(module.read_text(), str(module), "exec")
    before = entry.read_text()
    again = run(f"--root {tree} new my_method")
    assert again.code == 2
    assert "methods/my_method.yaml exists already" in again.err
    assert entry.read_text() == before


@pytest.mark.slow
def test_a_skeleton_names_every_field_and_is_not_yet_sound(run: Run, tree: Path) -> None:
    run(f"--root {tree} new my_method --category additive.adapter")
    text = (tree / "methods" / "my_method.yaml").read_text()
    from peftonomy.schema.method import MethodEntry

    for name in MethodEntry.model_fields:
        assert f"\n{name}:" in f"\n{text}" or f"\n# {name}:" in text
    problems = run(f"--root {tree} check").out.splitlines()[:-1]
    assert {p.partition(":")[0] for p in problems} == {"methods/my_method.yaml", "taxonomy/references.bib"}
    assert {p.rpartition(" ")[2] for p in problems} == {"[finished]", "[cited]", "[facets]"}
    assert any("summary: found TODO" in p for p in problems)


SEVENTEENTH = """\
id: my_method
name: My Method
full_name: A method of mine
year: 2025
category: reparameterized.low_rank_decomposition
facets: {facets}
summary: Learns one number for every output of the weights it targets.
description: |
  Scales outputs.
source: me2025mine
update: "h = g * (W_0 x)"
where: on the outputs of targeted weights
hyperparameters:
  k: {type: int, domain: "k >= 1", default: 2, meaning: how many, source: me2025mine}
targets: {default: [attn.q], allowed: ["attn.*"], source: me2025mine}
tensors:
  g: {per: site, shape: ["k", "d_out"], init: ones, trained: true, stored: values, served: merged}
properties: {identity_at_init: exact, merge: exact}
relations:
  - {type: derives_from, target: lora, note: Because., source: me2025mine}
"""
RECORD = """
@article{me2025mine,
  title  = {Mine},
  author = {Me, Myself},
  year   = {2025},
  eprint = {2501.00001},
  read   = {paper},
}
"""


@pytest.mark.slow
def test_one_entry_one_module_and_one_record_make_a_method(run: Run, tree: Path) -> None:
    facets = {name: next(iter(facet.values)) for name, facet in peftonomy.load(tree).taxonomy.facets.items()}
    answered = "{" + ", ".join(f"{name}: {word}" for name, word in facets.items()) + "}"
    (tree / "methods" / "my_method.yaml").write_text(SEVENTEENTH.replace("{facets}", answered))
    (tree / "reference_impls" / "my_method.py").write_text('"""Mine (me2025mine)."""\n')
    with (tree / "taxonomy" / "references.bib").open("a") as file:
        file.write(RECORD)
    assert run(f"--root {tree} check").code == 0
    printed = json.loads(run(f"--root {tree} cost my_method --model llama_2_7b --json").out)
    assert printed["trained"] == 2 * 4096 * 32
    assert "my_method" in run(f"--root {tree} methods").out
    assert "me2025mine" in run(f"--root {tree} cite my_method").out
    assert "method:my_method" in run(f"--root {tree} graph --format dot").out
    assert peftonomy.load(tree).graph.parents("my_method") == ["lora"]


# Being a good process


@pytest.mark.slow
def test_the_environment_names_another_tree(run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "methods" / "bitfit.yaml").unlink()
    monkeypatch.setenv("PEFTONOMY_ROOT", str(tree))
    assert "\nbitfit " not in run("methods").out
    assert "\nbitfit " in run(f"--root {Path(__file__).parent.parent} methods").out


def test_a_reader_that_goes_away_is_no_error() -> None:
    for line in (["methods"], ["cost", "lora", "--model", "llama_2_7b", "--json"]):
        with subprocess.Popen(process(*line), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""


def test_ctrl_c_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(browse, "knowledge", interrupted)
    result = run("methods")
    assert result.code == 130
    assert (result.out.strip(), result.err.strip()) == ("", "")


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    first, folder = tmp_path / "first", tmp_path / "folder"
    folder.mkdir()
    first.write_text("before")
    with pytest.raises(IsADirectoryError):
        write_atomically({first: "after", folder: "no file"})
    assert first.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "folder"]


def test_a_file_is_replaced_and_keeps_its_mode(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "graph.dot"
    path.write_text("before")
    path.chmod(0o640)
    assert run(f"graph --format dot -o {path}").code == 0
    assert path.read_text().startswith("digraph")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_written_through(run: Run, tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "target.dot", tmp_path / "link.dot"
    if there:
        target.write_text("before")
    link.symlink_to("target.dot")
    assert run(f"graph --format dot -o {link}").code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("digraph")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically({pipe: "written"})
    assert os.read(reader, 100) == b"written"
    os.close(reader)
    assert pipe.is_fifo()


def test_standard_output_is_a_file_to_write_to() -> None:
    line = process("graph", "--format", "dot", "-o", "/dev/stdout")
    written = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert written.startswith("digraph")
    assert written.endswith("}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_one_line_that_names_the_file(run: Run) -> None:
    result = run("graph --format dot -o /dev/full")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert "/dev/full: No space left" in result.err
    assert Path("/dev/full").is_char_device()


def test_a_table_is_drawn_on_a_terminal_and_plain_in_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run("models").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    drawn = run("models").out
    assert "─" in drawn
    assert "─" not in plain
    assert "bert_base" in drawn


HEAVY = ("torch", "transformers", "peft", "numpy", "networkx", "rich", "sympy", "mkdocs", "bibtexparser")


def test_a_cost_query_loads_nothing_heavy() -> None:
    code = f"""
import sys
from peftonomy.cli.main import main
code = main(["cost", "lora", "--model", "llama_2_7b"])
print(code, sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_process_that_holds_the_math_engine_ends(root: Path) -> None:
    """The embedded V8 waits for ever at exit unless it was closed."""
    code = f"""
from pathlib import Path
from peftonomy.site._tex import Tex
held = Tex(Path({str(root)!r}, "site/vendor/katex/katex.min.js"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

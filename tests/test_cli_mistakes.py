"""Mistakes on the command line: one line on stderr, nothing on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .cli_kit import (
    LLAMA,
    Run,
    assert_one_line,
)

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
    "evidence lroa": (2, "unknown method 'lroa'", "lora"),
    "evidence lora --study hf_peft_metamath": (2, "unknown study", "hf_peft_metamathqa"),
    "deviations lroa": (2, "unknown method 'lroa'", "lora"),
    "export lora --model llama_2_7b --to peff": (2, "unknown library 'peff'", "peft"),
    "export bitfit --model bert_base": (2, "PEFT has no configuration that makes bitfit", "bias='all'"),
    "export lora --model gpt2": (2, "attn.q is a slice of attn.qkv", "target that"),
    "export bd_lora --model albert_large_v2": (2, "no name selects", "layers.0.ffn alone"),
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
    "fit lora --model gpt2 --gpu 24GiB --solve r --set r=8": (2, "both given and solved for", "give one"),
    "fit lora --model gpt2 --gpu 24GiB --solve r --set lora.r=8": (2, "both given and solved for", "give one"),
    f"fit lora --model gpt2 --gpu {'9' * 400}GiB": (2, "gpu: found '9999", "a size such as 24GiB"),
    "fit lora --model gpt2 --gpu 1_0GiB": (2, "gpu: found '1_0GiB'", "a size such as 24GiB"),
    "fit lora --model gpt2 --gpu ٣GiB": (2, "gpu: found '٣GiB'", "a size such as 24GiB"),
    "fit lora --model gpt2 --gpu 0.00GB": (2, "gpu: found '0.00GB'", "a size such as 24GiB"),
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
    "bench report \ud800((": (2, "'\\\\ud800((' is no path", "STUDY"),
    "merge-check --model gpt2 --to nf4 \ud800": (2, "'\\\\ud800' is no path", "ADAPTER"),
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
CONFIGS: dict[str, tuple[str, str]] = {
    "no-config": ("", "JSON"),
    "not-json": ("hidden_size: 64", "JSON"),
    "not-an-object": ("[1, 2]", "object"),
    "not-utf-8": ("\udcff", "bytes that are not UTF-8"),
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


LONG = ("unknown-model-type",)
"""Those for which `transformers` is imported."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else ()) for n in CONFIGS])
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

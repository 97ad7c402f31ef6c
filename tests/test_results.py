"""Results of our own studies: commands, the guided choice in Python and on the page, pages and tables."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import peftonomy
from peftonomy import KnowledgeBase, UsageError
from peftonomy.schema.results import load_results
from peftonomy.site import _engine, _measured
from peftonomy.site._method import method_page
from peftonomy.site._site import Site
from peftonomy.studies.own import save

from .cli_kit import Run, assert_one_line
from .engine_kit import ask, started
from .studies_kit import published


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("results") / "base")


@pytest.fixture(scope="module")
def own(base: Path) -> KnowledgeBase:
    return peftonomy.load(base)


def test_commands_and_files(base: Path, own: KnowledgeBase, run: Run, tmp_path: Path) -> None:
    printed = run(f"--root {base} evidence lora --ours").out
    assert "A small model reads digits. 6 of 6 arms so far." in printed
    assert "again: peftonomy bench run studies/tiny.yaml --method lora --out again.jsonl" in printed
    found = json.loads(run(f"--root {base} evidence lora --ours --study tiny --json").out)
    assert [(one["arm"], one["group"], one["groups"]) for one in found] == [("lora", 2, 4), ("lora@1000", 2, 4)]
    assert_one_line(run(f"--root {base} evidence --ours --study tinny").err)
    again = tmp_path / "tiny.json"
    save(own.results["tiny"], again)
    assert again.read_bytes() == (base / "studies" / "tiny.json").read_bytes()
    sound = again.read_text(encoding="utf-8")
    # pages draw both
    for old, new in (('"lora@1000"', '"lora@many"'), ('"step_seconds": 0.1', '"step_seconds": -0.1')):
        again.write_text(sound.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(peftonomy.DataError, match="expected"):
            load_results(again, "x.json", "x.jsonl")
    again.write_text(sound, encoding="utf-8")
    (tmp_path / "tiny.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(peftonomy.DataError, match="found a digest of other runs; expected the digest of x.jsonl; run"):
        load_results(again, "x.json", "x.jsonl")


@pytest.mark.slow
def test_groups_rank_and_may_be_left_out(own: KnowledgeBase) -> None:
    choice = own.choose("roberta_base", gpu="T4", by="ours", n=4)
    assert [c.ours[1].group if c.ours else None for c in choice.found] == [1, 1, 2, None]
    # equal in a group: the one that more libraries have comes first, whatever its mean
    assert [c.method for c in choice.found[:3]] == ["ia3", "bitfit", "lora"]
    assert own.choose("roberta_base", gpu="T4", n=1).found[0].method == "lora"
    with pytest.raises(UsageError, match="by: none of our own studies has a model of the kind of gpt2"):
        own.choose("gpt2", gpu="T4", by="ours")
    with started(own, *_engine.SCRIPTS, "choices", "chooser") as engine:
        setting = {"batch": 1, "seq": 512, "dtype": "bfloat16", "optimizer": "adamw", "checkpointing": False,
                   "attention": "sdpa", "quantized": None}  # fmt: skip
        wishes = {"gpu": choice.gpu, "setting": setting, "by": "ours"}
        found = ask(engine, "choose", {"model": "roberta_base"}, wishes, 4, [])
        assert [(c["method"], c["ours"]) for c in found["found"]] == [
            (c.method, c.to_dict()["ours"]) for c in choice.found
        ]
        assert ask(engine, "choose", {"model": "gpt2"}, wishes, 4, [])["user"]


def test_pages_and_tables(own: KnowledgeBase) -> None:
    site = Site(own, "")
    (every,), (one,) = _measured.ours(site), _measured.ours(site, own["lora"])
    assert (every["finished"], every["arms"], every["controls"], every["groups"]) == (6, 6, 2, 4)
    assert [row["name"] for row in every["rows"]][-2:] == ["Head alone", "Updates with the wrong sign"]
    assert [row["name"] for row in one["rows"]] == ["LoRA", "LoRA, at most 1,000 parameters"]
    assert one["rows"][0]["command"].endswith("--method lora --out again.jsonl")
    for chart in every["charts"]:
        drawn = ElementTree.fromstring(chart["picture"])
        assert sum("error" in e.get("class", "") for e in drawn.iter()) == 4    # no bar for a control
    best = _measured.beaten_by_none([r for r in own.results["tiny"].results if r.control is None], "trained")
    assert [r.arm for r in best] == ["ia3"]
    (table,) = _measured.tables(site)
    rows = list(csv.DictReader(io.StringIO(table[1])))
    assert table[0] == "results/tiny.csv"
    assert [(row["arm"], float(row["seed_2"]), row["lora_p"]) for row in rows[:3]] == [
        ("ia3", 0.7, "0.5"), ("bitfit", 0.69, "0.5"), ("lora", 0.5, ""),
    ]  # fmt: skip
    rates = method_page(site, own["lora"]).partition("{ #learning-rates }")[2]
    assert "From 0.0001 to 0.01." in rates
    assert re.search(r'data-value="0.0005">0.0005</th><td>[^<]* authors</td><td>RoBERTa base</td>', rates)
    assert own["lora"].learning_rates[-1] == {
        "values": [0.01], "by": "ours", "model": "bert", "task": "A small model reads digits.",
        "note": "the best of 0.01", "source": "studies/tiny.yaml",
    }  # fmt: skip
    page = _measured.measured_page(site)
    assert "<strong>6 of 6 arms so far</strong>, 2 of them controls" in page

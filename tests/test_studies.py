"""Studies: the design, the runs that are due, the file of runs, workers, statistics, and a tiny study as a whole."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import peftonomy
from peftonomy import DataError, UsageError
from peftonomy.schema.design import Task, load_design
from peftonomy.schema.runs import Record, read_runs
from peftonomy.studies.jobs import FROZEN, REVERSED, Job, Study, model_place
from peftonomy.studies.own import arms, results
from peftonomy.studies.parts import images, read_task
from peftonomy.studies.pool import Died, Pool
from peftonomy.studies.records import Runs
from peftonomy.studies.report import report
from peftonomy.studies.runner import TRIES, as_work, progress
from peftonomy.studies.runner import run as run_study
from peftonomy.studies.statistics import groups, holm, paired, surpasses

from .cli_kit import Run, assert_one_line, process
from .guides_kit import blocks, commands, same
from .studies_kit import beside, squared

pytestmark = pytest.mark.torch
TINY = Path(__file__).parent.parent / "studies" / "tiny.yaml"


@pytest.fixture(scope="module")
def study(kb: peftonomy.KnowledgeBase) -> Study:
    return Study(kb, load_design(TINY), TINY.parent)


# The design


def edited(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text, path = TINY.read_text(encoding="utf-8"), tmp_path / "edited.yaml"
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    return path


WRONG = {
    "a near match": ("record:", "recrod:", "did you mean record?"),
    "two models": ("model:\n", "model:\n  package: some\n", "found package and config"),
    "a place of another kind": ("kind: digits", "kind: digits\n  file: x.jsonl", "file belongs to the kind lines"),
    "a length of images": ("kind: digits", "kind: turned_digits", "seq: no length was expected for images"),
    "no length": ("seq: 32\n", "", "seq: a length was expected"),
    "a pretrained checkpoint": (
        "  config:",
        "  pretraining: {kind: mnist, steps: 1, batch: 1, learning_rate: 0.1}\n  checkpoint: x\nset:\n  lora:",
        "pretraining belongs to config",
    ),
    "words without a prompt": ("kind: digits", "kind: digits\n  words: {'0': zero, '1': one}", "words and prompt"),
    "words for tokens": (
        "kind: digits", "kind: digits\n  prompt: 'Digit {text}:'\n  words: {'0': zero, '1': one}", "a kind of texts",
    ),
    "no rate of the head": ("head_rate: 0.05\n", "", "head_rate: missing"),
    "a file of llama.cpp": (
        "model:\n  config:", "model:\n  package: x\n  gguf: y.gguf\nset:\n  lora:", "a config.json was expected",
    ),
    "a seed in both": ("  seed: 1000", "  seed: 1", "must not be one of the seeds of the test"),
    "a rising rung": ("    - share: 0.5", "    - share: 0.5\n    - {share: 1.0, keep: 2}", "fewer than 2 rates"),
    "one seed": ("seeds: [0, 1]", "seeds: [0]", "seeds"),
    "an unknown method": ("methods: [lora,", "methods: [lorra,", "did you mean lora"),
    "a number as text": ("batch: 16", 'batch: "16"', "batch"),
    "one example": ("test: 400", "test: 1", "at least 2 examples"),
    "too few examples": ("test: 400", "test: 4000", "the task has 1,797 examples"),
    "an unknown method with a setting": ("seeds:", "set: {ia4: {}}\nseeds:", "did you mean ia3"),
    "a missing package": ("  config:", "  package: no_such_package\nset:\n  lora:", "which is not installed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_study_is_refused_in_one_line(run: Run, tmp_path: Path, what: str) -> None:
    old, new, expected = WRONG[what]
    result = run(f"bench run {edited(tmp_path, (old, new))} --limit 1 --out {tmp_path / 'runs.jsonl'}")
    assert result.code in (1, 2)
    assert_one_line(result.err)
    assert expected in result.err
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_budget_is_solved_for(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    asked = Study(kb, load_design(edited(tmp_path, ("seeds:", "budgets: [600]\nseeds:"))), tmp_path)
    settings = {arm.name: arm.setting for arm in asked.arms if "@" in arm.name}
    assert settings == {"lora@600": {"r": 2}}       # 2 matrices in 2 layers, each with r x (32 + 32)
    assert asked.refused["ia3@600"] == "ia3 has no size to solve for"


def test_a_query_selects_the_most_used_first(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    changed = edited(tmp_path, ("methods: [lora, full_fine_tuning, ia3, bitfit]", 'where: ""'))
    asked = Study(kb, load_design(changed), tmp_path)
    names = [arm.name for arm in asked.arms]
    assert names[:4] == [FROZEN, "lora", REVERSED, "full_fine_tuning"]
    assert len(names) + len(asked.refused) == len(kb) + 2
    assert "trains nothing" in asked.refused["arrow"]
    assert "without a backward pass" in asked.refused["mezo"]


# The runs that are due


def record(job: Job, value: float | None, error: str | None = None, **fields: Any) -> dict[str, Any]:
    right = [i < (value or 0) * 400 for i in range(400)]
    answers = None if value is None or job.split != "test" else np.packbits(right).tobytes().hex()
    return {
        "run": job.key, "study": "tiny", "arm": job.arm.name, "rung": job.rung, "learning_rate": job.rate,
        "asked": job.asked, "metric": "accuracy", "value": value, "loss": None if value is None else 1 - value,
        "answers": answers, "error": error, "curve": None, "trained": 1, "stored": 1, "stored_bytes": 4, "head": 1,
        "step_seconds": 0.1, "seconds": 6.0, "peak_bytes": None, "predicted_bytes": None, "model": "0" * 16,
        "sizes": {"train": 1197, "validation": 200, "test": 400}, "commonest": 0.1, "versions": {}, "hardware": {},
        "started": "2026-01-01T00:00:00+00:00", **fields,
    }  # fmt: skip


def done(**values: Any) -> Record:
    return Record.model_validate(values)


def test_halving_hands_on_the_best_rates(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    changed = edited(
        tmp_path, ("rates: [0.005, 0.02]", "rates: [0.1, 0.2, 0.3, 0.4]"),
        ("- share: 0.5", "- share: 0.5\n    - {share: 1.0, keep: 2}"),
    )  # fmt: skip
    asked = Study(kb, load_design(changed), tmp_path, ["ia3"])
    (arm,) = asked.wanted
    found: dict[str, Record] = {}
    first = asked.due(found)
    assert [(job.rate, job.steps, job.split) for job in first] == [(r, 50, "validation") for r in (0.1, 0.2, 0.3, 0.4)]
    for job, value in zip(first, (0.5, 0.9, None, 0.7), strict=True):
        found[job.key] = done(**record(job, value, None if value else "the loss is nan in step 3"))
    second = asked.due(found)
    assert [(job.rate, job.steps) for job in second] == [(0.2, 100), (0.4, 100)]
    found |= {job.key: done(**record(job, value)) for job, value in zip(second, (0.6, 0.8), strict=True)}
    assert [(job.rate, job.seed, job.split) for job in asked.due(found)] == [(0.4, 0, "test"), (0.4, 1, "test")]
    assert asked.expected(arm) == 4 + 2 + 2
    state = progress(asked, found)
    assert (state.ended, state.failed, state.expected) == (6, 1, 8)
    found = {job.key: done(**record(job, None, "RuntimeError: no")) for job in first}
    assert asked.due(found) == []       # failed at every rate
    assert progress(asked, found).expected == 4


def test_a_key_depends_on_all_that_changes_a_result(study: Study, kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    keys = {job.key for job in study.due({})}
    assert len(keys) == len(study.due({}))
    for change in (("batch: 16", "batch: 8"), ("hidden_size: 32", "hidden_size: 64"), ("test: 400", "test: 300"),
                   ("head_rate: 0.05", "head_rate: 0.06"), ("steps: 100", "steps: 40")):  # fmt: skip
        other = Study(kb, load_design(edited(tmp_path, change)), tmp_path)
        assert not keys & {job.key for job in other.due({})}
    same = Study(kb, load_design(edited(tmp_path, ("name: tiny", "name: other"))), tmp_path)
    assert keys == {job.key for job in same.due({})}


# The file of runs


def test_a_half_line_is_removed_and_a_run_is_there_once(study: Study, tmp_path: Path) -> None:
    path, (one, two, *_) = tmp_path / "runs.jsonl", study.due({})
    with Runs.open(path) as runs:
        runs.add(record(one, 0.5))
        with pytest.raises(ValueError, match="is there"):
            runs.add(record(one, 0.5))
        with pytest.raises(UsageError, match="another process writes"), Runs.open(path):
            pass
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100])
    with pytest.raises(DataError, match="line"):
        read_runs(path)
    with Runs.open(path) as runs:
        assert list(runs.done) == [one.key]
        runs.add(record(two, 0.25))
    assert path.read_bytes().startswith(whole)
    assert list(read_runs(path)) == [one.key, two.key]
    path.write_bytes(whole + whole)
    with pytest.raises(DataError, match=rf"{one.key} again \(line 1\)"):
        read_runs(path)


EDITED = {
    "another value": (lambda run: run.update(value=0.25), "value: 0.5, the share of right answers, was expected"),
    "other answers": (lambda run: run.update(answers="ff" + run["answers"][2:-2] + "ff"), "the share of right answers"),
    "too few answers": (lambda run: run.update(answers=run["answers"][2:]), "a bit for each example"),
    "no answers": (lambda run: run.update(answers=None), "a bit for each example"),
    "other sizes": (lambda run: run["sizes"].update(test=399), "a bit for each example"),
    "another seed": (lambda run: run["asked"].update(seed=7), "which is the digest of `asked`"),
    "another rate": (lambda run: run.update(learning_rate=0.5), "learning_rate: None, as in `asked`"),
    "a missing setting": (lambda run: run["asked"].pop("batch"), "asked.batch: found nothing"),
    "no revision": (lambda run: run["asked"]["task"].pop("revision"), "asked.task.revision: found nothing"),
    "a value and an error": (lambda run: run.update(error="no"), "either an error, or a value and a loss"),
    "a negative time": (lambda run: run.update(seconds=-1.0), "greater than or equal to 0"),
}


@pytest.mark.parametrize("what", EDITED)
def test_a_line_that_contradicts_itself_is_refused(study: Study, run: Run, tmp_path: Path, what: str) -> None:
    """Otherwise `bench report` and `evidence --ours` would differ, or fail."""
    path, (job, *_) = tmp_path / "runs.jsonl", (job for job in study.due({}) if job.split == "test")
    line = record(job, 0.5)
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert list(read_runs(path)) == [job.key]
    change, expected = EDITED[what]
    line = json.loads(json.dumps(line))
    change(line)
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    result = run(f"bench status {TINY} --runs {path}")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert expected in result.err


def test_a_text_of_a_run_may_have_every_character(study: Study, tmp_path: Path) -> None:
    path, (job, *_) = tmp_path / "runs.jsonl", study.due({})
    error = "one\u2028two\x85three\x0cfour"
    with Runs.open(path) as runs:
        runs.add(record(job, None, error))
    assert [one.error for one in read_runs(path).values()] == [error]
    path.write_text(path.read_text(encoding="utf-8").replace('"head": 1', '"head": 1e999'), encoding="utf-8")
    with pytest.raises(DataError, match="beyond the range of numbers"):
        read_runs(path)


@pytest.mark.parametrize("content", ["my notes", "first\nsecond", '{"a": 1}', '{"a": 1}\n{"b"', "x: 1\n{y"])
def test_no_line_of_a_foreign_file_is_removed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError), Runs.open(path):
        pass
    assert path.read_text(encoding="utf-8") == content


def test_results_never_replace_the_study(run: Run, tmp_path: Path) -> None:
    study = tmp_path / "tiny.json"
    study.write_text("{}", encoding="utf-8")
    result = run(f"bench report {study} --save")
    assert (result.code, result.out) == (2, "")
    assert "rename the study to tiny.yaml" in result.err
    assert study.read_text(encoding="utf-8") == "{}"


def test_check_reads_our_studies(study: Study, root: Path, tmp_path: Path) -> None:
    """`evidence --ours` and the site read them, so that `check` must find what they would not accept."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for path in root.iterdir():
        if path.name not in ("studies", ".git"):
            (tmp_path / path.name).symlink_to(path)
    text = TINY.read_text(encoding="utf-8").replace("bitfit", "bitfitt").replace("reversed: lora", "reversed: lra")
    (folder / "tiny.yaml").write_text(text + "where: yeer > 2000\n", encoding="utf-8")
    job = study.due({})[0]
    lines = [record(job, 0.5), record(job, 0.5) | {"run": "0" * 16}]
    (folder / "tiny.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    kb = peftonomy.load(tmp_path)
    found = [str(one) for one in peftonomy.check(kb)]
    assert [one.partition(";")[0] for one in found] == [
        "studies/tiny.jsonl:2: found a mapping of 26",
        "studies/tiny.yaml:20: methods[3]: found bitfitt",
        "studies/tiny.yaml:24: canary.reversed: found lra",
        "studies/tiny.yaml:36: where: found unknown field 'yeer'",
    ]
    assert len(peftonomy.check(kb, [folder / "tiny.yaml"])) == 2


# Workers


def test_a_killed_worker_loses_only_its_run(tmp_path: Path) -> None:
    pool, found = Pool(2, squared), dict[str, Any]()
    try:
        pool.start("killed", {"number": 2, "file": str(tmp_path / "killed")})
        pool.start("other", {"number": 3})
        assert pool.free == 0
        while len(found) < 2:
            found |= dict(pool.ended())
        assert isinstance(found["killed"], Died)
        assert "-9" in str(found["killed"])
        assert found["other"] == {"square": 9}
        pool.start("killed", {"number": 2, "file": str(tmp_path / "killed")})
        assert pool.ended() == [("killed", {"square": 4})]
    finally:
        pool.close()


class Scripted:
    """Workers that answer at once, from a function of the job."""

    def __init__(self, answer: Any):
        self.answer, self.started, self.free = answer, list[str](), 1

    def start(self, key: str, given: Mapping[str, Any]) -> None:
        self.started.append(key)
        self.given = given

    def ended(self) -> list[Any]:
        return [(self.started[-1], self.answer(self.given["job"]))]

    def close(self) -> None:
        self.closed = True


def test_a_run_whose_workers_die_is_a_failure(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    asked = Study(kb, load_design(TINY), TINY.parent, ["ia3"])
    workers = Scripted(lambda job: Died("a worker ended with code -9"))
    with Runs.open(tmp_path / "runs.jsonl") as runs:
        assert run_study(asked, runs, workers, limit=1) == 1
        assert workers.started == [asked.due({})[0].key] * TRIES
        (found,) = runs.done.values()
        assert found.error == "a worker ended with code -9, 3 times"
        with pytest.raises(DataError):
            run_study(asked, runs, Scripted(lambda job: DataError([])))


# Statistics


def test_paired_differences() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    a, b = ((rng.random((3, 500)) < 0.9 * hard) * 1.0 for _ in range(2))
    better = (rng.random((3, 500)) < np.minimum(hard + 0.1, 1)) * 1.0
    assert paired(a, b).p > 0.05
    assert paired(better, b).p < 0.001
    found, back = paired(better, b), paired(b, better)
    assert (found.mean, found.low, found.p) == pytest.approx((-back.mean, -back.high, back.p))
    assert paired(a, a).p == 1
    unstable = b.copy()
    unstable[0] = 1.0       # one seed alone is better: seeds differ too much to say so of the method
    assert paired(unstable, b).mean > 0.1
    assert paired(unstable, b).p > 0.05
    assert not surpasses(unstable, b)
    assert not surpasses(b, unstable)
    assert surpasses(better, b)
    assert surpasses(np.ones((2, 9)), np.zeros((2, 9)))
    assert groups({"a": a, "b": b, "better": better}) == {"better": 1, "a": 2, "b": 2}
    assert holm([0.2]) == [0.2]


def test_the_share_of_false_alarms_is_that_of_the_level() -> None:
    rng, alarms = np.random.default_rng(1), 0
    for _ in range(400):
        hard, shift = rng.random(100), rng.normal(0, 0.05, (2, 3, 1))
        a, b = ((rng.random((3, 100)) < hard + s) * 1.0 for s in shift)
        alarms += paired(a, b).p < 0.05
    assert alarms < 400 * 0.08


# A whole study


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the tiny study, killed once on the way."""
    path = tmp_path_factory.mktemp("study") / "runs.jsonl"
    command = process("bench", "run", str(TINY), "--out", str(path), "--jobs", "2")
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while (not path.exists() or path.read_bytes().count(b"\n") < 3) and first.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = path.read_bytes()
    with path.open("ab") as file:
        file.write(kept[:50])
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert again.stderr == ""
    assert again.stdout.endswith(": 20 of 20, 0 failed\n")
    assert path.read_bytes().startswith(kept)
    return path


@pytest.mark.slow
@pytest.mark.xdist_group("study")
def test_a_killed_study_resumes(finished: Path, run: Run) -> None:
    lines = [json.loads(line) for line in finished.read_text(encoding="utf-8").splitlines()]
    assert len({line["run"] for line in lines}) == len(lines) == 20
    assert {line["error"] for line in lines} == {None}
    assert run(f"bench run {TINY} --out {finished}").out.startswith("0 runs added")
    assert run(f"bench status {TINY} --runs {finished}").out.endswith("20 of 20 runs, 0 failed\n")


@pytest.mark.slow
@pytest.mark.xdist_group("study")
def test_the_guide_shows_what_is_printed(finished: Path, root: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.parent)
    yaml, *consoles = blocks(root, "study")
    assert (yaml.kind, yaml.text) == ("yaml", TINY.read_text(encoding="utf-8"))
    Path(yaml.title).write_text(yaml.text, encoding="utf-8")
    (examples,) = (list(commands(block.text)) for block in consoles)
    assert [command.split()[2] for command, _ in examples] == ["run", "status", "report"]
    for command, output in examples:
        printed = run(command.removeprefix("peftonomy ")).out
        assert same(output.replace("20 runs added", "0 runs added"), printed), printed


@pytest.mark.slow
@pytest.mark.xdist_group("study")
def test_the_same_seed_gives_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "again.jsonl"
    command = process("bench", "run", str(TINY), "--out", str(other), "--jobs", "1", "--method", "ia3")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    first, again = read_runs(finished), read_runs(other)
    assert len(again) == 4
    for key, found in again.items():
        for field in ("value", "loss", "answers", "curve", "model", "peak_bytes"):
            assert getattr(found, field) == getattr(first[key], field)


@pytest.mark.slow
@pytest.mark.xdist_group("study")
def test_the_report_and_its_canary(finished: Path, study: Study, run: Run, tmp_path: Path) -> None:
    found = report(study, read_runs(finished), "runs.jsonl")
    rows = {row.arm: row for row in found.rows}
    assert found.rows[0].arm == "full_fine_tuning"
    assert rows["full_fine_tuning"].value > rows[FROZEN].value + 0.1 > rows[REVERSED].value + 0.1
    assert rows["full_fine_tuning"].group == 1
    assert (found.failures, found.refused, found.unfinished) == ({}, {}, [])
    for row in found.rows:
        assert row.low <= row.value <= row.high
        assert row.peak_bytes == row.predicted_bytes
        assert (row.peak_bytes is None) == (row.control is not None)
    assert rows["lora"].trained == 2048
    assert list(rows["lora"].curve) == study.design.tuning.rates
    assert found.predicted(0.0) == (4, 4)
    assert set(rows["lora"].against) == {"full_fine_tuning"}
    printed = run(f"bench report {TINY} --runs {finished}")
    assert printed.code == 0
    assert all(name in printed.out for name in rows)

    base = beside(tmp_path / "base")
    shutil.copy(TINY, base / "studies")
    shutil.copy(finished, base / "studies" / "tiny.jsonl")
    copy = base / "studies" / "tiny.yaml"
    assert run(f"bench report {copy} --save").out == printed.out.replace(str(TINY), str(copy))
    own = peftonomy.load(base).results["tiny"]
    assert (own.kind, arms(peftonomy.load(base), own)) == ("encoder", 6)
    assert {one.arm: (one.value, one.low, one.group) for one in own.results} == {
        arm: (row.value, row.low, row.group) for arm, row in rows.items()
    }
    assert_one_line(run(f"bench report {TINY} --runs {finished} --save").err)

    spoilt, lines = tmp_path / "spoilt.jsonl", [json.loads(line) for line in finished.read_text().splitlines()]
    answers = {(line["arm"], line["asked"]["seed"]): (line["answers"], line["value"]) for line in lines}
    for line in lines:
        if line["arm"] in (FROZEN, REVERSED) and line["answers"]:
            other = REVERSED if line["arm"] == FROZEN else FROZEN
            line["answers"], line["value"] = answers[other, line["asked"]["seed"]]
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused = run(f"bench report {TINY} --runs {spoilt}")
    assert refused.code == 1
    assert_one_line(refused.err)
    assert "canary" in refused.err
    assert "expected frozen to be better than reversed" in refused.err
    spoilt.write_text("".join(json.dumps(line) + "\n" for line in lines if line["arm"] != FROZEN))
    assert "canary frozen: found unfinished runs" in run(f"bench report {TINY} --runs {spoilt}").err


def test_our_studies_are_sound(kb: peftonomy.KnowledgeBase, root: Path) -> None:
    names = {load_design(path).name for path in (root / "studies").glob("*.yaml")}
    assert names >= {"decoder", "encoder", "tiny", "vision"}
    encoder = load_design(root / "studies" / "encoder.yaml")
    counted, shipped = kb.backbone(encoder.configuration or {}), kb.backbone(model_place(encoder, root / "studies"))
    assert (counted.parameters, counted.inventory().dims) == (shipped.parameters, shipped.inventory().dims)
    for name, one in kb.results.items():
        path = root / "studies" / f"{name}.yaml"
        design, done = load_design(path), read_runs(path.with_suffix(".jsonl"))
        study = Study(kb, design, path.parent, (), [*done.values()][-1].asked.task.revision)
        assert results(study, report(study, done, ""), path.with_suffix(".jsonl")) == one


# One run, on a saved model and texts


def test_a_run_on_texts(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from peftonomy.studies.training import run as train

    words = [f"w{i}" for i in range(20)]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForSequenceClassification(BertConfig(vocab_size=25, **sizes)).save_pretrained(tmp_path / "model")
    lines = [{"text": f"{a} {b}", "label": "even" if i % 2 else "odd"} for i, a in enumerate(words) for b in words]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "lines.jsonl").write_text(text)
    config = TINY.read_text(encoding="utf-8").partition("model:\n")[2].partition("task:")[0]
    design = load_design(edited(
        tmp_path, (config, "  checkpoint: model\n"), ("kind: digits", "kind: lines\n  file: lines.jsonl"),
        ("validation: 200", "validation: 50"), ("test: 400", "test: 50"), ("seq: 32", "seq: 6"),
    ))  # fmt: skip
    asked = Study(kb, design, tmp_path)
    assert asked.task.sizes == {"train": 300, "validation": 50, "test": 50}
    (job, *_) = asked.first_round(asked.arms[1])
    with Runs.open(tmp_path / "runs.jsonl") as runs:
        found = runs.add(train(as_work(asked, job)))
        assert (found.arm, found.error, found.answers, found.trained) == ("lora", None, None, 2048)
        assert found.value is not None
        assert len(found.curve or ()) == 50
        assert found.head == 2 * 32 + 2
    wrong = replace(job, arm=replace(job.arm, setting={"r": 0}))
    with Runs.open(tmp_path / "runs.jsonl") as runs:
        failed = runs.add(train(as_work(asked, wrong)))
        assert failed.value is None
        assert (failed.error or "").startswith("UsageError: lora: r")
    (tmp_path / "lines.jsonl").write_text(text + text)
    with pytest.raises(DataError, match=r"lines.jsonl:401: text: found the text again"):
        _ = Study(kb, design, tmp_path).task


def test_a_language_model_answers_with_a_word(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    """The loss is that of the word alone, and an answer is right if its word is the likeliest of the words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from peftonomy.studies.training import Place
    from peftonomy.studies.training import run as train

    names = ["<unk>", "Is", "it", ":", "yes", "no", *(words := [f"w{i}" for i in range(20)])]
    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>").save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(names), **sizes)).save_pretrained(tmp_path / "model")
    lines = [{"text": f"{a} {b}", "label": f"l{i % 3}"} for i, a in enumerate(words) for b in words]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = TINY.read_text(encoding="utf-8").partition("model:\n")[2].partition("task:")[0]
    task = "kind: lines\n  file: lines.jsonl\n  words: {l0: 'yes', l1: 'no'}\n  prompt: 'Is {text} it:'"
    changes = (
        (config, "  checkpoint: model\n"), ("kind: digits", task), ("validation: 200", "validation: 20"),
        ("test: 400", "test: 50"), ("head_rate: 0.05\n", ""), ("steps: 100", "steps: 60"),
        ("rates: [0.005, 0.02]", "rates: [0.02]"),
    )  # fmt: skip
    design = load_design(edited(tmp_path, *changes, ("seq: 32", "seq: 7")))
    asked = Study(kb, design, tmp_path)
    assert asked.task.sizes == {"train": 280 - 70, "validation": 20, "test": 50}     # the third label is left out
    place = Place(str(kb.root), design, tmp_path)
    batch = place.batch("test", [0, 1])
    targets = asked.task.targets["test"][:2]
    for i in range(2):
        text = asked.task.inputs["test"][i]
        shown = [names[token] for token in batch["input_ids"][i].tolist()]
        answer = asked.task.names[targets[i]]
        assert shown == ["Is", *str(text).split(), "it", ":", answer, "<unk>"]
        assert batch["labels"][i].tolist() == [-100] * 5 + [names.index(answer), -100]
    jobs = asked.tests(asked.arms[1], {one.key: done(**record(one, 0.5)) for one in asked.first_round(asked.arms[1])})
    with Runs.open(tmp_path / "runs.jsonl") as runs:
        found = runs.add(train(as_work(asked, jobs[0])))
        assert (found.error, found.head, found.peak_bytes) == (None, 0, found.predicted_bytes)
        assert (found.value or 0) > 0.9     # each first word has one label
        frozen = runs.add(train(as_work(asked, asked.tests(asked.arms[0], {})[0])))
        assert (frozen.error, frozen.step_seconds, frozen.trained) == (None, None, None)
        assert (frozen.value or 0) < 0.8
    short = load_design(edited(tmp_path, *changes, ("seq: 32", "seq: 4")))
    with pytest.raises(UsageError, match="seq: found 4; prompt, a token of the text and word take 5"):
        Place(str(kb.root), short, tmp_path).batch("test", [0])


def test_a_run_on_images(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    """The body is pretrained the same way in every worker, and a run does not change it."""
    from peftonomy.studies.training import Place
    from peftonomy.studies.training import run as train

    text = TINY.read_text(encoding="utf-8")
    config = text.partition("model:\n")[2].partition("task:")[0]
    sizes = "image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 32, intermediate_size: 64"
    vit = f"  config: {{model_type: vit, {sizes}, num_hidden_layers: 2, num_attention_heads: 2}}\n"
    pretraining = "  pretraining: {kind: turned_digits, steps: 5, batch: 16, learning_rate: 0.01}\n"
    design = load_design(edited(
        tmp_path, (config, vit + pretraining), ("kind: digits", "kind: turned_digits"), ("seq: 32\n", ""),
        ("steps: 100", "steps: 4"),
    ))  # fmt: skip
    asked = Study(kb, design, tmp_path)
    assert asked.task.sizes == {"train": 4 * 1797 - 600, "validation": 200, "test": 400}
    assert asked.task.labels == 40
    tuned = {one.key: done(**record(one, 0.5)) for one in asked.first_round(asked.arms[1])}
    (job, *_) = asked.tests(asked.arms[1], tuned)
    with Runs.open(tmp_path / "runs.jsonl") as runs:
        found = runs.add(train(as_work(asked, job)))
    assert (found.arm, found.error, found.trained, found.head) == ("lora", None, 2048, 40 * 33)
    assert found.peak_bytes == found.predicted_bytes
    assert (found.peak_bytes or 0) > 0
    fresh = Place(str(kb.root), design, tmp_path)
    assert fresh.digest == found.model
    other = design.model_copy(update={"model": design.model.model_copy(update={"pretraining": None})})
    assert Place(str(kb.root), other, tmp_path).digest != found.model
    assert {job.key for job in Study(kb, other, tmp_path).due({})}.isdisjoint(job.key for job in asked.due({}))
    cut = load_design(edited(tmp_path, (config, vit), ("kind: digits", "kind: turned_digits"), ("seq: 32\n", ""),
                             ("test: 400", "test: 401")))  # fmt: skip
    with pytest.raises(UsageError, match="the turns of one image are in two splits"):
        _ = Study(kb, cut, tmp_path).task


def test_images_of_mnist_are_like_the_digits() -> None:
    """The means of one set's digits name images of the other, and best the right way up: they have one form."""
    sets = {}
    for kind in ("mnist", "turned_digits"):
        held = [(image, label) for _, image, label in images(kind) if kind == "mnist" or label.endswith("turned 0")]
        sets[kind] = np.array([image for image, _ in held]), np.array([int(label[0]) for _, label in held])
    (here, names), (there, known) = sets["mnist"], sets["turned_digits"]
    assert (here.shape, there.shape, here.min(), here.max()) == ((5000, 8, 8), (1797, 8, 8), 0, 16)
    means = np.array([there[known == digit].mean(axis=0) for digit in range(10)])
    ways = [np.rot90(way, turn, (1, 2)) for way in (here, here[:, :, ::-1]) for turn in range(4)]
    right = [(((way[:, None] - means) ** 2).sum(axis=(2, 3)).argmin(axis=1) == names).mean() for way in ways]
    assert right[0] > max(0.35, 1.25 * max(right[1:]))      # the hands differ: a tenth would be chance


def test_definitions_of_wordnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines in WordNet's format: its licence, a top noun, nouns and a verb."""
    noun = "  1 This software and database\n{0} 03 n 01 entity 0 000 | that which exists  \n" + "".join(
        f"{{{i}}} {5 + i:02} n 02 beast 0 animal 1 001 @ 00000000 n 0000 | a living; thing {i}; \"an example; of\"  \n"
        for i in range(1, 5)
    )
    (tmp_path / "data.noun").write_text(noun.format(*(f"{i:08}" for i in range(5))))
    verb = "00000009 38 v 01 go 0 001 @ 00000000 v 0000 01 + 02 00 | move; \"he goes\"  \n"
    (tmp_path / "data.verb").write_text(verb)
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path))
    asked = Task.model_validate({"kind": "wordnet", "folder": "nowhere", "validation": 1, "test": 1})
    task = read_task(asked, tmp_path)
    texts = {text for split in task.inputs.values() for text in split}
    assert texts == {"move", *(f"a living; thing {i}" for i in range(1, 5))}
    assert (task.labels, task.sizes) == (5, {"train": 3, "validation": 1, "test": 1})
    monkeypatch.delenv("WNSEARCHDIR")
    with pytest.raises(DataError, match=r"install wordnet-base"):
        read_task(asked, tmp_path)

"""The page of memory: every case of the tables stands on it, with the error that the prediction has now."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from benchmarks import published
from peftonomy import KnowledgeBase
from peftonomy.files.output import binary_text
from peftonomy.site import _memory
from peftonomy.site._site import Site
from tests.test_memory import WORST

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent / "benchmarks" / "memory"
FILES = FOLDER / "simulated.tsv", FOLDER / "families.tsv"


class Tables(HTMLParser):
    """The rows of every table by the name of its region, each a list of texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self._region, self._inside = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("role") == "region":
            self._region = str(given["aria-label"])
            self.found[self._region] = []
        elif tag == "tr" and self._region:
            self.found[self._region].append([])
        elif tag in ("td", "th") and self._region:
            self.found[self._region][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")
        self._region = "" if tag == "table" else self._region

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[self._region][-1][-1] += data


@pytest.fixture(scope="module")
def page(kb: KnowledgeBase) -> str:
    return _memory.memory_page(Site(kb))


@pytest.fixture(scope="module")
def tables(page: str) -> dict[str, list[list[str]]]:
    return {name: [[text.strip() for text in row] for row in rows[1:]] for name, rows in Tables(page).found.items()}


def percent(text: str) -> float:
    return float(text.removesuffix(" %").replace("−", "-"))


def test_no_simulated_case_is_dropped(kb: KnowledgeBase, tables: dict[str, list[list[str]]]) -> None:
    rows = [row for file in FILES for row in published.read(file)]
    here = [row for row in rows if row["method"] in kb and row["model"] in kb.models]
    cases = set(map(_memory.case, here))
    compared, apart = tables["Predicted against simulated"], tables["Steps that are not compared"]
    assert len(compared) + len(apart) == len(cases)
    assert all(row[-1] for row in apart)
    sizes = [abs(percent(row[5])) for row in compared]
    assert sizes == sorted(sizes, reverse=True)
    assert all(row[6] for row in compared if abs(percent(row[5])) > 100 * WORST), "each with its reason"


def test_a_step_without_a_stored_prediction_is_not_compared(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = FILES[0].read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / FILES[0].name).write_text("".join(text[:2]), encoding="utf-8")
    monkeypatch.setattr(_memory, "FOLDER", tmp_path)
    found = Tables(_memory.memory_page(Site(kb))).found
    assert [row[-1].strip() for row in found["Steps that are not compared"][1:]] == ["no prediction is stored for it"]


def test_predictions_are_those_of_now(kb: KnowledgeBase, tables: dict[str, list[list[str]]]) -> None:
    row = next(r for r in published.read(FILES[0]) if r["method"] == "lora" and r["model"] == "llama_2_7b")
    memory = kb["lora"].memory(
        "llama_2_7b", batch=int(row["batch"]), seq=int(row["seq"]), dtype=row["dtype"], attention=row["attends"],
        checkpointing=row["checkpointing"] == "True", optimizer=row["optimizer"],
    )  # fmt: skip
    shown = [r[3:] for r in tables["Predicted against simulated"] if r[:2] == ["LoRA", "Llama 2 7B"]]
    simulated = int(row["peak"])
    error = 100 * (memory.peak / simulated - 1)
    assert [binary_text(memory.peak), binary_text(simulated)] in [r[:2] for r in shown]
    assert any(percent(r[2]) == pytest.approx(error, abs=0.006) for r in shown)


def test_every_published_run_is_there(tables: dict[str, list[list[str]]], kb: KnowledgeBase) -> None:
    rows = {row[0]: row for row in tables["Predicted against published runs"]}
    predictions = {row["run"]: row for row in published.read(published.TABLE)}
    for run in published.runs(kb):
        row, found = rows.pop(run.run), predictions[run.run]
        assert row[3] == binary_text(run.peak_bytes or 0)
        assert (row[5] != "–") == bool(found["predicted_peak"])
        assert found["predicted_peak"] or row[6] == found["note"]
    assert rows == {}


def test_the_table_of_published_runs_is_what_the_forms_say(kb: KnowledgeBase) -> None:
    kept = published.read(published.TABLE)
    now = [{c: str(row.get(c, "")) for c in published.COLUMNS} for row in published.compared(kb)]
    assert kept == now, "python -m benchmarks.published writes it anew"


def test_ranks_are_correlated_as_in_the_benchmark(page: str, kb: KnowledgeBase) -> None:
    peaks = {run.run: run.peak_bytes for run in published.runs(kb)}
    known = [row for row in published.read(published.TABLE) if row["predicted_peak"]]
    pair = [int(row["predicted_peak"]) for row in known], [peaks[row["run"]] for row in known]
    assert f"rank correlation of {spearmanr(*pair).statistic:.2f}" in page


def test_a_reason_stands_by_what_is_further_off(page: str) -> None:
    for row in published.read(FOLDER / "exceptions.tsv"):
        if row["table"] == "operations":  # no page compares these yet
            continue
        assert row["reason"] in re.sub("&#39;", "'", page)


def test_without_tables_there_is_still_a_page(kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "FOLDER", Path("nowhere"))
    page = _memory.memory_page(Site(kb))
    assert "What is compared with what" in page
    assert "<table" not in page

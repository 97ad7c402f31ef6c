"""What a notebook shows: tables, data frames and plots."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from peftonomy import KnowledgeBase, UsageError
from peftonomy.costs import table
from peftonomy.costs.table import Table

RANKS = [1, 2, 4, 8]


def test_every_result_is_a_table(kb: KnowledgeBase) -> None:
    lora = kb["lora"].on("gpt2")
    memory = lora.memory(batch=1, seq=64)
    for result, text in (
        (lora.cost(r=8), "<td>A</td>"),
        (memory, f"{memory.peak:,} bytes"),
        (lora.fit(gpu="8GiB"), "<td>checkpointing</td>"),
        (lora.sweep(r=RANKS), "lora on gpt2"),
        (kb.costs(["lora", "ia3"], "gpt2"), "<td>ia3</td>"),
        (kb.query("year == 2021"), "<td>lora</td>"),
        (kb.compare("lora", "vera"), "VeRA"),
        (kb["lora"], "<td>alpha</td>"),
        (kb, f"{len(kb)} methods, {len(kb.models)} models"),
    ):
        html = result._repr_html_()
        assert "<table>" in html
        assert text in html


def test_text_is_escaped() -> None:
    html = Table([{"<b>": "<script>"}], caption="a & b")._repr_html_()
    assert "<script>" not in html
    assert "<th>&lt;b&gt;</th>" in html
    assert "a &amp; b" in html


def test_a_long_table_says_what_it_leaves_out() -> None:
    html = Table([{"n": n} for n in range(table.DISPLAYED + 5)])._repr_html_()
    assert html.count("<tr>") == table.DISPLAYED + 1
    assert "and 5 more rows" in html


def test_results_become_data_frames(kb: KnowledgeBase) -> None:
    lora = kb["lora"]
    swept = lora.sweep(["gpt2", "bert_base"], r=RANKS)
    frame = swept.to_pandas()
    assert frame["trained"].tolist() == swept.trained.ravel().tolist()
    assert frame["model"].unique().tolist() == ["gpt2", "bert_base"]
    compared = kb.costs(["lora", "ia3"], "gpt2", **{"lora.r": 2}).to_pandas()
    assert compared["trained"].tolist() == [lora.cost("gpt2", r=2).trained, kb["ia3"].cost("gpt2").trained]
    assert lora.cost("gpt2").to_pandas()["name"].tolist() == ["A", "B"]
    assert kb.query("year == 2021").to_pandas()["id"].tolist() == kb.query("year == 2021").ids
    memory = lora.memory("gpt2", batch=1, seq=8)
    assert memory.to_pandas()["bytes"].sum() == memory.peak


def test_plots_show_the_numbers(kb: KnowledgeBase) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    swept = kb["lora"].sweep(["gpt2", "bert_base"], r=RANKS)
    ax = swept.plot()
    assert [line.get_label() for line in ax.lines] == ["gpt2", "bert_base"]
    for line, numbers in zip(ax.lines, swept.trained, strict=True):
        assert line.get_xdata().tolist() == RANKS
        assert line.get_ydata().tolist() == numbers.tolist()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("r", "trained")
    grid = kb["prefix_tuning"].sweep("roberta_base", prefix_length=[[1], [2]], bottleneck_size=[3, 4, 5])
    lines = grid.plot("stored_bytes").lines
    assert [line.get_label() for line in lines] == ["prefix_length = 1", "prefix_length = 2"]
    assert np.array([line.get_ydata() for line in lines]).tolist() == grid.stored_bytes.tolist()
    bars = kb["lora"].sweep(["gpt2", "bert_base"], r=8).plot("percent", ax=pyplot.figure().subplots())
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(
        [kb["lora"].cost(model, r=8).percent for model in ("gpt2", "bert_base")]
    )
    compared = kb.costs(["lora", "ia3"], "gpt2")
    assert [bar.get_width() for bar in compared.plot().patches] == [cost.trained for cost in compared.costs]
    for refused in (swept, compared):
        with pytest.raises(UsageError, match="unknown ledger 'traned'; did you mean trained"):
            refused.plot("traned")
    pyplot.close("all")


@pytest.mark.parametrize("library", ["pandas", "matplotlib"])
def test_a_missing_library_is_one_line(kb: KnowledgeBase, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    swept = kb["lora"].sweep("gpt2", r=RANKS)
    with pytest.raises(UsageError, match=rf"needs {library}: pip install 'peftonomy\[notebook\]'"):
        swept.to_pandas() if library == "pandas" else swept.plot()


def test_a_comparison_refuses_what_no_method_has(kb: KnowledgeBase) -> None:
    with pytest.raises(UsageError, match="unknown hyperparameter 'rr' of these methods"):
        kb.costs(["lora", "ia3"], "gpt2", rr=3)
    with pytest.raises(UsageError, match="methods: found lora; expected a list of ids"):
        kb.costs("lora", "gpt2")
    with pytest.raises(UsageError, match="unknown method 'lroa'"):
        kb.costs(["lroa"], "gpt2")

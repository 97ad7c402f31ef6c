"""Pictures that the build draws: their numbers are those of the knowledge base, and each says itself in words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from markupsafe import Markup

from peftonomy import KnowledgeBase
from peftonomy.knowledge.legend import legend, unexplained
from peftonomy.site import _architectures, _equation, _gallery, _kin, _layers, _measured, _plot, _scale
from peftonomy.site._site import Site

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def site(kb: KnowledgeBase) -> Site:
    return Site(kb)


def tree(picture: Markup) -> ElementTree.Element:
    """The parsed picture, which has words for those who do not see it."""
    root = ElementTree.fromstring(picture)
    assert root.get("aria-label")
    return root


def test_every_symbol_of_every_update_rule_is_explained(site: Site) -> None:
    for method in site.kb.values():
        assert unexplained(method) == [], method.id
        shown = _equation.equation(site, method)
        numbers = {n for found in re.findall(r'data-symbol="([\d ]+)"', shown["html"]) for n in found.split()}
        assert numbers == {str(line["number"]) for line in shown["legend"]}
        assert all(str(line["meaning"]) for line in shown["legend"])
        tensors = {part.prefix + name for part in method.parts for name in part.entry.tensors}
        assert {t["name"] for line in shown["legend"] for t in line["tensors"]} == _equation.marks(method).keys()
        assert _equation.marks(method).keys() <= tensors


def test_a_symbol_is_read_with_its_subscript(site: Site) -> None:
    found = {symbol.tex: symbol for symbol in legend(site.kb["hyperformer_pp"])}
    assert found[r"z_\tau"].tensors == ("z_task",)
    assert found["U"].meaning == "generated up-projection"
    assert {"W_0", r"\alpha", "r"} <= {symbol.tex for symbol in legend(site.kb["lora"])}


def test_tensors_are_drawn_to_scale(site: Site) -> None:
    scale = _scale.to_scale(site, site.kb["lora"])
    assert scale is not None
    assert [(r["name"], r["size"], r["places"]) for r in scale["rows"]] == [
        ("weight", "4,096 × 4,096", "64"), ("A", "8 × 4,096", "64"), ("B", "4,096 × 8", "64"),
    ]  # fmt: skip
    boxes = [g.find(f"{SVG}rect") for g in tree(scale["picture"]).findall(f"{SVG}g")]
    sides = [(float(b.get("width", 0)), float(b.get("height", 0))) for b in boxes if b is not None]
    assert sides == [(_scale.EDGE, _scale.EDGE), (_scale.EDGE, _scale.LEAST), (_scale.LEAST, _scale.EDGE)]
    for method in site.kb.values():
        found = _scale.to_scale(site, method)
        if found is not None:
            tree(found["picture"])
            counted = {t.name for t in method.cost(found["model"]).tensors}
            assert {row["name"] for row in found["rows"]} == counted | ({"weight"} & {r["name"] for r in found["rows"]})


def test_layers_add_up_to_what_is_trained(site: Site) -> None:
    drawn = _layers.by_layer(site, site.kb["adapterdrop"])
    assert drawn is not None
    titles = [title.text or "" for title in tree(drawn["picture"]).iter(f"{SVG}title")]
    drawn_in_all = sum(int(title.rpartition(": ")[2].replace(",", "")) for title in titles)
    assert drawn_in_all == site.kb["adapterdrop"].cost(site.examples[0]).trained
    flat = _layers.by_layer(site, site.kb["lora"])
    assert flat is not None
    assert "131,072 parameters in every layer" in flat["text"]


def test_nothing_beats_a_run_on_the_line(site: Site) -> None:
    for study, known in site.kb.studies.items():
        for name, metric in known.metrics.items():
            runs = [r for r in site.kb.evidence if (r.study, r.metric) == (study, name) and r.peak_bytes]
            front = _measured.pareto(runs, "peak_bytes", metric)
            for run in runs:
                beaten = [f for f in front if (f.peak_bytes or 0) <= (run.peak_bytes or 0) and f.value >= run.value]
                assert beaten, run.run
            for chart in _measured.charts(site, study, name):
                tree(chart["picture"])
    rows = [row for view in _measured.of_method(site, site.kb["lora"]) for row in view["rows"]]
    assert {row["run"] for row in rows} == {run.run for run in site.kb["lora"].evidence}


def test_pictures_of_all_methods(site: Site) -> None:
    for picture in _gallery.home(site):
        tree(picture["picture"])
    added = _gallery.additions(site)
    in_years = [m["id"] for _, methods in added["years"] for m in methods]
    in_classes = [m["id"] for group in added["classes"] for m in group["methods"]]
    assert sorted(in_years) == sorted(in_classes)
    assert added["n"] == len(in_years)
    for survey in site.kb.taxonomy.surveys:
        tree(_gallery.flow(site, survey))
    page = _architectures.architectures_page(site)
    assert "bitfit finds nothing to act on" in page
    assert page.count('class="library"') > 50


def test_descendants_are_grouped_and_the_picture_stays_small(site: Site) -> None:
    boxes = tree(_kin.kin(site, site.kb["lora"])).findall(f".//{SVG}rect")
    assert 1 < len(boxes) <= _kin.MOST


def test_axes_have_round_values() -> None:
    axis = _plot.Axis("memory", lambda v: f"{v:g}", unit=2**30)
    assert [axis.text(v) for v in axis.ticks(axis.ends([18.3 * 2**30, 37 * 2**30]))] == ["20", "25", "30", "35"]
    logs = _plot.Axis("parameters", _plot.short, log=True)
    assert [logs.text(v) for v in logs.ticks(logs.ends([80, 3e9]))] == ["100", "10k", "1M", "100M"]

"""The filters of the taxonomy, names that several methods share, and journeys of a reader in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from peftonomy import KnowledgeBase

from .browser_kit import FOUND, PHONE, built, search, served, watch
from .test_browser_planner import press, tab_to
from .test_browser_policy import violations
from .test_site_names import sharing
from .trees import small_tree

pytestmark = pytest.mark.browser

KEPT = "peft-graph [data-id]:not(.off)"


@pytest.fixture
def phone(browser: Browser) -> Iterator[Page]:
    """A narrow screen whose console must stay empty, with a clipboard."""
    context = browser.new_context(viewport=PHONE, permissions=["clipboard-read", "clipboard-write"])  # type: ignore[arg-type]
    page = context.new_page()
    complaints = watch(page)
    yield page
    context.close()
    assert complaints == []


def kept(page: Page) -> set[str]:
    return set(page.locator(KEPT).evaluate_all("nodes => nodes.map(n => n.dataset.id)"))


# The taxonomy.


def test_facet_years_and_class_narrow_the_picture_and_stay_in_the_address(
    watched: Page, address: str, kb: KnowledgeBase
) -> None:
    watched.goto(f"{address}taxonomy.html")
    everything = kept(watched)
    assert set(kb) <= everything
    watched.get_by_label("From", exact=True).select_option("2022")
    watched.get_by_label("To", exact=True).select_option("2023")
    years = {m.id for m in kb.values() if 2022 <= m.year <= 2023}
    assert kept(watched) & set(kb) == years
    watched.get_by_text("Facets", exact=True).click()
    watched.get_by_label("Merges into the weights").select_option("exact")
    merging = {m for m in years if kb[m].merge == "exact"}
    assert kept(watched) == merging
    watched.get_by_label("Class in a survey").select_option("han2024/reparameterized")
    paths = {m: kb.taxonomy.surveys["han2024"].filed(m) for m in merging}
    filed = {m for m, found in paths.items() if any(path[0].id == "reparameterized" for path in found)}
    assert filed
    assert filed < merging
    assert kept(watched) == filed
    expect(watched.locator("[data-graph-found]")).to_contain_text(f"{len(filed)} of ")
    watched.get_by_label("Relations").select_option("modifies")
    ends = "edges => edges.map(e => [e.dataset.from, e.dataset.to])"
    edges = watched.locator("peft-graph .edge:not(.off)").evaluate_all(ends)
    assert all(a in filed and b in filed for a, b in edges)
    assert parse_qs(urlsplit(watched.url).query) == {
        "from": ["2022"], "to": ["2023"], "merge": ["exact"], "class": ["han2024/reparameterized"],
        "type": ["modifies"],
    }  # fmt: skip
    watched.reload()  # the address alone gives the same picture
    assert kept(watched) == filed
    expect(watched.get_by_label("Merges into the weights")).to_be_visible()
    watched.locator("#pf-graph-form").get_by_role("button", name="Clear").click()
    expect(watched.locator("[data-graph-found]")).to_have_text("")
    assert kept(watched) == everything
    assert "?" not in watched.url


@pytest.mark.parametrize("query", ["", "merge=exact", "q=lora", "class=peftonomy/additive"])
def test_the_list_keeps_what_the_picture_keeps(watched: Page, address: str, kb: KnowledgeBase, query: str) -> None:
    watched.goto(f"{address}taxonomy.html?{query}")
    listed = watched.locator(".pf-tree [data-leaf]:visible").evaluate_all("ls => ls.map(l => l.dataset.leaf)")
    assert {i for ids in listed for i in ids.split()} >= kept(watched)
    assert {ids for ids in listed if ids in kb} == kept(watched) & set(kb)


def test_a_question_that_nothing_answers_says_so(watched: Page, address: str) -> None:
    watched.goto(f"{address}taxonomy.html?q=nosuchmethod")
    expect(watched.locator("[data-graph-found]")).to_have_text("No method answers to all of this.")
    assert kept(watched) == set()
    watched.goto(f"{address}taxonomy.html?class=no/such&merge=perhaps")  # an old address asks nothing
    assert len(kept(watched)) > 0


def test_the_filters_work_by_keyboard(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}taxonomy.html")
    tab_to(watched, "From")
    watched.keyboard.type("2024")
    wanted = {m.id for m in kb.values() if m.year >= 2024}
    assert kept(watched) & set(kb) == wanted
    tab_to(watched, "Facets")
    press(watched, "Enter")
    tab_to(watched, "Merges into the weights")
    press(watched, "Shift+Tab")
    stops = []
    for _ in range(60 + len(kb)):
        press(watched, "Tab")
        if found := watched.evaluate("document.activeElement.closest('svg') && document.activeElement.dataset.id"):
            stops.append(found)
    assert set(stops) == wanted  # what is dimmed is no stop


def test_without_script_there_is_the_whole_picture(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}taxonomy.html?merge=exact")
    assert page.locator(KEPT).count() >= len(kb)
    expect(page.locator("#pf-graph-form")).to_be_hidden()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, scheme: Any) -> None:
    for size in ({"width": 1280, "height": 900}, PHONE):
        context = browser.new_context(color_scheme=scheme, viewport=size, reduced_motion="reduce")  # type: ignore[arg-type]
        page = context.new_page()
        for path in ("taxonomy.html?merge=exact&from=2022", "names.html", "contribute.html"):
            page.goto(address + path)
            assert violations(page, colours=scheme == "dark") == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], path
        context.close()


# Names that several methods share.


def test_a_shared_name_shows_all_that_have_it(browser: Browser, root: Path, tmp_path: Path) -> None:
    few = small_tree(root, tmp_path / "few", "lora", "mam_adapter", "prefix_tuning", "parallel_adapter")
    (tmp_path / "tree").mkdir()
    kb = sharing(few, tmp_path / "tree")
    out = built(tmp_path / "out", tmp_path / "tree")
    context = browser.new_context()
    page = context.new_page()
    complaints = watch(page)
    for address in served(out):
        page.goto(f"{address}methods/index.html")
        note = page.locator("[data-shared] [data-key]:visible")
        expect(note).to_have_count(0)
        page.get_by_label("Filter by name, idea or year").fill("Mix-IT")
        expect(note).to_have_count(1)
        expect(note).to_contain_text(f"LoRA ({kb['lora'].year}, Reparameterized fine-tuning")
        expect(note).to_contain_text(f"MAM Adapter ({kb['mam_adapter'].year}, Hybrid fine-tuning")
        shown = page.locator("tr[data-facets]:visible").evaluate_all("rows => rows.map(r => r.dataset.id)")
        assert set(shown) == {"lora", "mam_adapter"}
        page.get_by_label("Filter by name, idea or year").fill("mix-its")
        expect(note).to_have_count(0)
        page.goto(f"{address}index.html")
        search(page, "Mix-it")
        found = page.locator(FOUND).locator("strong").all_inner_texts()
        assert {kb[m].name for m in ("lora", "mam_adapter")} <= set(found[:3])
        break
    assert complaints == []
    context.close()


# Journeys 4 to 6 of a reader; the first three are with the tools.


def lineage(kb: KnowledgeBase, start: str) -> list[str]:
    """The way up by the first parent that has an entry."""
    way = [start]
    while parents := [key for key in kb.graph.parents(way[-1]) if key in kb]:
        way.append(parents[0])
    return way


def test_from_a_paper_id_to_its_method_its_root_and_its_citation(
    browser: Browser, address: str, kb: KnowledgeBase
) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints = watch(page)
    page.goto(f"{address}index.html")
    page.get_by_role("link", name="Methods", exact=True).first.click()
    page.get_by_label("Filter by name, idea or year").fill("2106.09685")
    rows = page.locator("tr[data-facets]:visible")
    expect(rows).to_have_count(1)
    rows.locator("th a").click()
    expect(page).to_have_url(re.compile(r"/methods/lora\.html$"))
    expect(page.locator("h1")).to_have_text(re.compile("LoRA"))
    for method in lineage(kb, "lora")[1:]:
        page.locator(f'.pf-kin a[href="{method}.html"]').click()
        expect(page).to_have_url(re.compile(rf"/methods/{method}\.html"))
    root = lineage(kb, "lora")[-1]
    assert root in kb.graph.roots("lora")
    page.get_by_role("button", name="Copy BibTeX").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    key = kb[root].entry.source.partition("#")[0]
    assert page.evaluate("navigator.clipboard.readText()") == kb.references[key].bibtex.strip()
    context.close()
    assert complaints == []


def test_the_same_by_keyboard_on_a_phone(phone: Page, address: str, kb: KnowledgeBase) -> None:
    """Journey 7: the Tab key, letters and Enter, from the home page to the copied citation."""
    phone.goto(f"{address}index.html")
    tab_to(phone, "Menu")
    press(phone, "Enter")
    tab_to_link(phone, "methods/index.html")
    press(phone, "Enter")
    expect(phone).to_have_url(re.compile(r"/methods/index\.html$"))
    tab_to(phone, "Filter by name, idea or year")
    phone.keyboard.type("2106.09685")
    expect(phone.locator("tr[data-facets]:visible")).to_have_count(1)
    tab_to(phone, "LoRA")
    press(phone, "Enter")
    expect(phone).to_have_url(re.compile(r"/methods/lora\.html$"))
    for method in lineage(kb, "lora")[1:]:
        tab_to_link(phone, f"{method}.html")
        press(phone, "Enter")
        expect(phone).to_have_url(re.compile(rf"/methods/{method}\.html"))
    tab_to(phone, "Copy BibTeX")
    press(phone, "Enter")
    root = lineage(kb, "lora")[-1]
    key = kb[root].entry.source.partition("#")[0]
    expect(phone.locator(":focus")).to_have_text("Copied")
    assert phone.evaluate("navigator.clipboard.readText()") == kb.references[key].bibtex.strip()
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def tab_to_link(page: Page, href: str) -> None:
    for _ in range(400):
        press(page, "Tab")
        if page.evaluate("document.activeElement.getAttribute('href')") == href:
            return
    raise AssertionError(f"Tab never reaches {href}")

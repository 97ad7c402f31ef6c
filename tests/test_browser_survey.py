"""The survey, the crosswalk, lists, years, facets and the finder in a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from peftonomy import KnowledgeBase, UsageError
from peftonomy.site import _surveys

from .browser_kit import PHONE, watch
from .test_browser_policy import violations

pytestmark = pytest.mark.browser

KINDS = (
    "survey.html", "crosswalk.html", "timeline.html", "matrix.html", "lists/index.html", "lists/mergeable.html",
    "methods/index.html", "methods/mam_adapter.html", "methods/lst.html", "models/index.html", "deviations.html",
    "support.html", "serving.html", "merging.html",
)  # fmt: skip
SHOWN = "tr[data-facets]:visible"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_keep_quiet(browser: Browser, address: str, scheme: Any) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    complaints = watch(page)
    for path in KINDS:
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        assert page.locator("h1").count() == 1, path
    assert complaints == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    for path in (*KINDS, "methods/index.html?q=nothing&most=many", "methods/lora.html", "methods/propetl.html"):
        page.goto(address + path)
        assert violations(page, colours=scheme == "dark") == [], path
    context.close()


def test_links_and_anchors_of_the_built_pages_resolve(site: Path) -> None:
    anchors: dict[Path, set[str]] = {}
    broken = []
    for path in KINDS:
        page = site / path
        for href in re.findall(r'href="([^"]+)"', page.read_text(encoding="utf-8")):
            if re.match(r"(https?:|mailto:|data:)", href):
                continue
            target, _, anchor = href.replace("&amp;", "&").partition("#")
            file = (page.parent / target.partition("?")[0]).resolve() if target.partition("?")[0] else page
            if not file.is_file():
                broken.append((path, href))
            elif anchor and file.suffix == ".html":
                known = anchors.setdefault(file, set(re.findall(r'\bid="([^"]+)"', file.read_text(encoding="utf-8"))))
                if anchor not in known:
                    broken.append((path, href))
    assert broken == []


# The crosswalk.


@pytest.mark.parametrize("script", [True, False])
def test_only_disagreements_are_left_even_without_script(
    browser: Browser, address: str, kb: KnowledgeBase, script: bool
) -> None:
    context = browser.new_context(java_script_enabled=script)
    page = context.new_page()
    page.goto(f"{address}crosswalk.html")
    rows = page.locator(".pf-crosswalk tbody tr")
    crossed = _surveys.crosswalk(kb)
    assert rows.count() == len(crossed)
    page.get_by_label("Only where a survey differs").check()
    wanted = [r["name"] for r in crossed if any(p["stands"] == "differs" for p in r["filed"])]
    left = page.locator(".pf-crosswalk tbody tr:visible th")
    expect(left).to_have_count(len(wanted))
    assert [text.rsplit(" ", 1)[0].strip() for text in left.all_inner_texts()] == wanted
    context.close()


def test_from_a_method_to_its_row_of_the_crosswalk(watched: Page, address: str) -> None:
    watched.goto(f"{address}methods/compacter.html#surveys")
    expect(watched.get_by_text("differs from here").first).to_be_visible()
    watched.get_by_role("link", name="The same for all methods").click()
    expect(watched).to_have_url(re.compile(r"crosswalk\.html#compacter$"))
    expect(watched.locator("tr:target th")).to_contain_text("Compacter")


# The survey.


def test_a_row_of_the_survey_leads_to_its_method_and_back(watched: Page, address: str) -> None:
    watched.goto(f"{address}survey.html#ia3-survey_t5_base")
    row = watched.locator("tr:target")
    expect(row).to_contain_text("0.07M")
    expect(row).to_contain_text("129,024")
    expect(row).to_contain_text("second-hand")
    row.get_by_role("link", name="(IA)³").click()
    expect(watched).to_have_url(re.compile(r"methods/ia3\.html#claim-survey_t5_base$"))


# Pictures.


def test_the_lineage_is_followed_to_its_root(watched: Page, address: str, kb: KnowledgeBase) -> None:
    at, steps = "qlora", 0
    watched.goto(f"{address}methods/{at}.html#relations")
    while parents := [key for key in kb.graph.parents(at) if key in kb]:
        at, steps = parents[0], steps + 1
        watched.locator(f'.pf-kin a[href="{at}.html"]').press("Enter")
        expect(watched).to_have_url(re.compile(rf"/methods/{at}\.html"))
    assert at in kb.graph.roots("qlora")
    assert steps > 1


def test_marks_of_the_block_lie_inside_it_and_do_not_collide(watched: Page, address: str, kb: KnowledgeBase) -> None:
    inside = """() => {
        const svg = document.querySelector(".pf-where__picture svg"), frame = svg.getBoundingClientRect();
        return [...svg.querySelectorAll("rect, circle, path, text")].every(e => {
            const b = e.getBoundingClientRect();
            return b.left >= frame.left - 2 && b.right <= frame.right + 2
                && b.top >= frame.top - 2 && b.bottom <= frame.bottom + 2;
        });
    }"""
    for method in ("lora", "bitfit", "lst", "mam_adapter", "compacter", "warp", "residual_adapter", "threshold_mask"):
        watched.goto(f"{address}methods/{method}.html")
        assert watched.evaluate(inside), method


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_have_contrast_in_both_colours(browser: Browser, address: str, scheme: Any) -> None:
    """Names in the pictures stand out from the ground they lie on."""
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(f"{address}methods/lora.html")
    light = """selector => {
        const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const of = c => {
            const n = c.match(/[\\d.]+/g).slice(0, 3).map(v => linear(v / 255));
            return .2126 * n[0] + .7152 * n[1] + .0722 * n[2];
        };
        const text = of(getComputedStyle(document.querySelector(selector)).fill);
        const ground = of(getComputedStyle(document.querySelector(".pf-where__picture")).backgroundColor);
        return (Math.max(text, ground) + .05) / (Math.min(text, ground) + .05);
    }"""
    for selector in (".pf-block .frozen text", ".pf-block text.op", ".pf-kin .year", ".pf-kin a text"):
        assert page.evaluate(light, selector) >= 4.5, selector
    context.close()


def test_the_timeline_opens_a_method(watched: Page, address: str) -> None:
    watched.goto(f"{address}timeline.html")
    watched.locator(".pf-lanes a[href='methods/lora.html'] text").click()
    expect(watched).to_have_url(re.compile(r"/methods/lora\.html$"))


def test_a_cell_of_the_matrix_opens_the_finder(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}matrix.html")
    watched.locator(".pf-matrix a[href*='category=partial.bias_update&acts_on=bias']").click()
    wanted = sorted(m.name for m in kb.values() if m.category == "partial.bias_update")
    rows = watched.locator(SHOWN)
    expect(rows).to_have_count(len(wanted))
    assert sorted(rows.locator("th").all_inner_texts()) == wanted
    expect(watched.get_by_label("Acts on")).to_be_visible()  # the question stands where it can be changed


# The finder.


@pytest.mark.parametrize(
    ("words", "method", "most"),
    [("2106.09685", "lora", 1), ("IA3", "ia3", 20), ("(IA)^3", "ia3", 20), ("Houlsby", "sequential_adapter", 20),
     ("bottleneck", "sequential_adapter", 20), ("low-rank", "lora", 0.4)],
)  # fmt: skip
def test_other_names_find_the_method(
    watched: Page, address: str, kb: KnowledgeBase, words: str, method: str, most: float
) -> None:
    """most: the methods that are shown, or their share of all."""
    watched.goto(f"{address}methods/index.html")
    watched.get_by_label("Filter by name, idea or year").fill(words)
    expect(watched.locator(f"tr[data-id={method}]")).to_be_visible()
    assert watched.locator(SHOWN).count() <= (most if most >= 1 else most * len(kb))


def test_facets_narrow_the_table_and_stay_in_the_address(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """A method that merges, trains less than five millions on Llama 3 8B, and came after 2022."""
    watched.goto(f"{address}methods/index.html")
    watched.get_by_label("Merges into the weights").select_option("exact")
    watched.get_by_label("From").select_option("2023")
    watched.get_by_label("Trains at most").fill("5M")
    watched.get_by_label("On model").select_option("llama_3_8b")
    wanted = {
        m.id: m.cost("llama_3_8b").trained for m in kb.query("merge == exact and year >= 2023").methods if fits(m)
    }
    rows = watched.locator(SHOWN)
    expect(rows).to_have_count(len(wanted))
    for _ in range(2):
        ids = rows.evaluate_all("rows => rows.map(r => r.dataset.id)")
        shown = dict(zip(ids, rows.locator("td:last-child").all_inner_texts(), strict=True))
        assert {k: int(v.replace(",", "")) for k, v in shown.items()} == wanted
        assert wanted
        assert re.search(r"\?.*merge=exact", watched.url)
        watched.reload()  # the address alone gives the same answer
        expect(rows).to_have_count(len(wanted))
    watched.locator(".pf-finder").get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(len(kb))
    assert "?" not in watched.url


def fits(method: Any) -> bool:
    try:
        return bool(method.cost("llama_3_8b").trained <= 5_000_000)
    except UsageError:
        return False


def test_models_are_found_by_name_architecture_kind_and_size(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}models/index.html?family=llama&most=8B")
    wanted = {k for k, m in kb.models.items() if m.family.model_type == "llama" and m.parameters <= 8e9}
    expect(watched.locator("[data-found]")).to_have_text(f"{len(wanted)} of {len(kb.models)} models")
    assert {r.get_attribute("data-id") for r in watched.locator(SHOWN).all()} == wanted
    watched.get_by_label("Filter by name or id").fill("code")
    assert [r.get_attribute("data-id") for r in watched.locator(SHOWN).all()] == ["code_llama_7b"]
    watched.locator("peft-finder button[type=reset]").click()
    watched.get_by_label("Kind").select_option("encoder_decoder")
    kinds = [k for k, m in kb.models.items() if m.family.kind == "encoder_decoder"]
    expect(watched.locator(SHOWN)).to_have_count(len(kinds))
    expect(watched.locator("#llama")).to_be_hidden()


def test_the_matrix_of_support_narrows_to_one_trainer(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(address + "support.html")
    shown = watched.locator("#pf-support tbody tr:visible")
    expect(shown).to_have_count(len({row["method"] for row in kb.support}))
    watched.get_by_label("Library or trainer").select_option("axolotl")
    expect(shown).to_have_count(len(kb.trainers["axolotl"].methods))
    expect(watched.locator("#pf-support thead th:visible")).to_have_count(2)
    watched.get_by_label("Supports").select_option("moe")
    abilities = {m: kb.trainers["axolotl"].abilities(m).get("moe") for m in kb.trainers["axolotl"].methods}
    able = [m for m, one in abilities.items() if one is not None and one.works != "none"]
    expect(shown).to_have_count(len(able))
    watched.get_by_label("Filter").fill("rslora")
    expect(shown).to_have_count(1)
    cell = shown.locator("td:visible")
    expect(cell.get_by_role("link", name="0.5.0")).to_have_attribute(
        "href", re.compile(r"https://github.com/axolotl-ai-cloud/axolotl/blob/[0-9a-f]{12}/src/axolotl/.*peft.py")
    )


def test_a_question_that_nothing_answers_says_so(watched: Page, address: str) -> None:
    watched.goto(f"{address}methods/index.html?q=nosuchmethod")
    expect(watched.locator("[data-found]")).to_have_text("No method answers to all of this.")
    field = watched.get_by_label("Trains at most")
    field.fill("many")
    expect(field).to_have_attribute("aria-invalid", "true")


def test_the_finder_works_by_keyboard_on_a_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    complaints = watch(page)
    page.goto(f"{address}methods/index.html")
    page.get_by_label("Filter by name, idea or year").focus()
    page.keyboard.type("2106.09685")
    link = page.locator("tr[data-id=lora] th a")
    expect(page.locator(SHOWN)).to_have_count(1)  # on a narrow screen rows are no table rows, and hide all the same
    expect(link).to_be_visible()
    link.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/methods/lora\.html"))
    assert complaints == []
    context.close()


def test_without_script_there_is_the_whole_table(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}methods/index.html")
    expect(page.locator(SHOWN)).to_have_count(len(kb))
    expect(page.locator(".pf-finder")).to_be_hidden()
    page.goto(f"{address}methods/lora.html")
    expect(page.locator(".pf-block").first).to_be_visible()
    expect(page.locator(".pf-kin a").first).to_be_visible()
    context.close()

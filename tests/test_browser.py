"""The built site in a real browser: it answers as Python does, works without network or script, and keeps quiet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from peftonomy import KnowledgeBase, UsageError

from .browser_kit import FOUND, PHONE, built, search, watch
from .test_site import HOSTILE
from .trees import small_tree

pytestmark = pytest.mark.browser

MODELS = ("roberta_base", "t5_base", "llama_3_8b")
KINDS = (
    "index.html", "methods/index.html", "methods/lora.html", "categories/additive.html", "models/index.html",
    "models/t5_base.html", "taxonomy.html", "calculator.html", "references.html", "api.html", "about.html", "404.html",
    "compare.html", "planner.html", "idea.html", "memory.html", "reference/index.html", "reference/python.html",
    "guides/add.html",
)  # fmt: skip
"""One page of each kind."""
LOOKED_AT = """() => {
    const spilled = [...document.querySelectorAll("article *")]
        .filter(e => e.clientHeight && e.scrollHeight > e.clientHeight + 8)
        .filter(e => !e.closest("tr, .katex, .katex-display, svg"))
        .filter(e => getComputedStyle(e).overflowY === "visible" && getComputedStyle(e).display !== "inline")
        .map(e => e.tagName + "." + e.className);
    return [document.querySelectorAll("h1").length, document.documentElement.scrollWidth, spilled];
}"""
"""Headings, width, and what is higher than its box, so that it lies over what follows. (A cell over several rows is
higher than its row.)"""
ANSWERED = """models => models.map(model => {
    const tool = document.querySelector("peft-calculator"), choice = tool.querySelector("[data-field=model] input");
    choice.value = model;
    choice.dispatchEvent(new Event("input"));
    const shown = name => Number(tool.querySelector(`[data-out=${name}]`).textContent.replaceAll(",", ""));
    if (tool.querySelector("[role=alert]")) return null;
    return Object.fromEntries(["trained", "stored", "served", "backbone"].map(name => [name, shown(name)]));
})"""
"""For each model what a method's calculator says, null where it says that there is no answer."""
CUT = """() => [...document.querySelectorAll("article *")]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible")
    .filter(e => !e.closest(".katex, svg, .pf-visually-hidden"))
    .map(e => [e.getAttribute("aria-label") || e.className, /local/.test(getComputedStyle(e).backgroundAttachment)])"""
"""What is wider than its box, and whether a shadow at the edge tells so (its cover moves with the content)."""
LEDGERS = ("Per tensor", "Per layer", "Tensors", "Cost at the default setting")
DESKTOP = {"width": 1280, "height": 900}
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Wait until the page is drawn at its new size."""
CALCULATES = "() => document.querySelector('peft-calculator').ready"
REPORT_REFUSALS = "addEventListener('securitypolicyviolation', e => console.error('refused ' + e.violatedDirective))"


# Every page.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["methods", "models", ""])
def test_every_page_is_quiet_and_fits_a_phone(
    browser: Browser, address: str, site: Path, kb: KnowledgeBase, kind: str
) -> None:
    """All in one visit of each: no message, nothing refused by the policy, one heading, no wider than a phone.

    And nothing lies over what follows it. On a method's page the calculator answers as Python does, and on a desktop no
    column of a ledger is cut off, and what else is wider than its box shows it.
    """
    context = browser.new_context(viewport=PHONE)  # type: ignore[arg-type]
    context.add_init_script(REPORT_REFUSALS)
    page = context.new_page()
    complaints, wrong, cut, counted = watch(page), {}, {}, 0
    for path in sorted(site.rglob("*.html")):
        folder = path.parent.relative_to(site).as_posix()
        if (folder if folder in ("methods", "models") else "") != kind:
            continue
        method = path.stem if kind == "methods" and path.stem in kb else None
        page.goto(f"{address}{path.relative_to(site).as_posix()}#calculator")
        if method:
            page.wait_for_function(CALCULATES)
        headings, width, spilled = page.evaluate(LOOKED_AT)
        if headings != 1 or width > PHONE["width"] or spilled:
            wrong[path.name] = headings, width, spilled
        if method:
            page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
            page.evaluate(DRAWN)
            counted += page.get_by_role("region", name="Per tensor").count()
            if found := [name for name, shown in page.evaluate(CUT) if name in LEDGERS or not shown]:
                cut[method] = found
            page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            assert page.evaluate(ANSWERED, MODELS) == [ledgers(kb, method, model) for model in MODELS], method
    context.close()
    assert complaints == []
    assert (wrong, cut) == ({}, {})
    assert kind != "methods" or counted > len(kb) / 2


def ledgers(kb: KnowledgeBase, method: str, model: str) -> dict[str, int] | None:
    try:
        cost = kb[method].cost(model)
    except UsageError:
        return None
    return {name: getattr(cost, name) for name in ("trained", "stored", "served", "backbone")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_kind_of_page_overflows_a_phone(browser: Browser, address: str, scheme: Any) -> None:
    context = browser.new_context(viewport=PHONE, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    complaints = watch(page)
    for path in KINDS:
        page.goto(f"{address}{path}#calculator")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
    assert complaints == []
    context.close()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE])
def test_what_is_wider_than_its_box_shows_it(browser: Browser, address: str, viewport: Any) -> None:
    context = browser.new_context(viewport=viewport)
    page, found = context.new_page(), {}
    for path in (*KINDS, "contribute.html", "matrix.html", "methods/mad_x.html", "methods/osf.html"):
        page.goto(f"{address}{path}#calculator")
        page.wait_for_load_state("networkidle")
        found[path] = page.evaluate(CUT)
    context.close()
    assert found["methods/osf.html"]
    assert {path: [name for name, shown in cut if not shown] for path, cut in found.items()} == {p: [] for p in found}
    if viewport == DESKTOP:
        assert found["contribute.html"] == []


def test_the_head_of_a_page_fits_every_width(page: Page, address: str) -> None:
    page.goto(address + "about.html")
    for width in range(320, 1500, 20):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width


def test_the_colours_follow_the_system_and_the_switch(browser: Browser, address: str) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(address + "methods/lora.html")
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "slate")
    page.get_by_title("Switch to light colours").click()
    expect(page.locator("body")).to_have_attribute("data-md-color-scheme", "default")
    context.close()


# Search. `test_site_search` asks its ranking; these tests use its dialog.


def first_found(page: Page) -> str:
    return page.locator(FOUND).first.locator("strong").inner_text()


@pytest.mark.parametrize("width", [390, 768, 1024, 1219, 1220, 1280, 1920])
def test_search_results_lie_inside_the_window(browser: Browser, address: str, width: int) -> None:
    """At every width the results are readable, and the first one opens with a click."""
    height = 800
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page = context.new_page()
    complaints = watch(page)
    page.goto(address)
    search(page, "low rank")
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["y"] >= 0
    assert box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= height
    assert box["width"] >= min(width, 600)
    assert box["height"] > height / 2
    assert page.evaluate(SPILLED) == []
    page.locator(FOUND).first.click()
    expect(page).to_have_url(re.compile(r"/methods/lora\.html"))
    context.close()
    assert complaints == []


SPILLED = """() => [...document.querySelectorAll(".pf-search *")]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map(e => e.className)"""


@pytest.mark.parametrize("way", ["server", "folder"])
def test_search_is_used_by_keyboard(watched: Page, address: str, site: Path, way: str) -> None:
    """Keys open it, move in it, follow a result and close it, and the list is always that of the field's text."""
    watched.goto(address if way == "server" else (site / "index.html").as_uri())
    field, state = watched.get_by_role("combobox", name="Search"), watched.get_by_role("status")
    watched.keyboard.press("/")
    expect(field).to_be_focused()
    expect(state).to_contain_text("Methods, models")
    for words, name in (("t", ""), ("t-few", "(IA)³"), ("vera", "VeRA"), ("xqzzwv", ""), ("bit fit", "BitFit")):
        field.fill(words)
        if name:
            expect(watched.locator(FOUND).first.locator("strong")).to_have_text(name)
            expect(state).to_have_text(re.compile(r"^\d+ results?$"))
    field.press_sequentially("s")
    field.press("Backspace")
    assert first_found(watched) == "BitFit"  # at once: nothing answers later
    options = watched.get_by_role("option")
    expect(options.first).to_have_attribute("aria-selected", "true")
    watched.keyboard.press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    expect(options.first).to_have_attribute("aria-selected", "false")
    expect(field).to_have_attribute("aria-activedescendant", options.nth(1).get_attribute("id") or "")
    watched.keyboard.press("ArrowUp")
    watched.keyboard.press("ArrowUp")
    expect(options.last).to_have_attribute("aria-selected", "true")
    watched.keyboard.press("Escape")
    expect(watched.get_by_role("dialog")).to_have_count(0)
    watched.keyboard.press("Control+k")
    expect(field).to_be_focused()
    field.fill("prefixtuning")
    watched.keyboard.press("Enter")
    expect(watched).to_have_url(re.compile(r"/methods/prefix_tuning\.html"))
    watched.wait_for_load_state()
    watched.keyboard.press("/")
    field.fill("low rank")
    expect(watched.locator(FOUND).first).to_be_visible()
    watched.get_by_role("button", name="Close the search").click()
    expect(watched.get_by_role("dialog")).to_have_count(0)


def test_search_is_fetched_when_it_is_opened(page: Page, address: str) -> None:
    """What is typed before it arrives is searched once it does."""
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url.rpartition("/")[2]))
    held: list[Route] = []
    page.route("**/search-data.js", lambda route: held.append(route))
    page.goto(address)
    assert not {"minisearch.js", "search.js", "search-data.js"} & set(asked)
    page.keyboard.press("/")
    page.keyboard.type("adalora")
    expect(page.get_by_role("status")).to_have_text("Loading…")
    held[0].continue_()
    expect(page.locator(FOUND).first.locator("strong")).to_have_text("AdaLoRA")
    assert {"minisearch.js", "search.js", "search-data.js"} <= set(asked)


# The calculator.


def number(page: Page, name: str) -> int:
    return int(page.locator(f"[data-out={name}]").inner_text().replace(",", ""))


def test_a_setting_is_typed_kept_in_the_address_and_read_from_it(
    watched: Page, address: str, kb: KnowledgeBase
) -> None:
    watched.goto(f"{address}methods/lora.html#calculator")
    watched.get_by_label("Model", exact=True).fill("llama_3_8b")
    watched.get_by_label("r", exact=True).fill("16")
    watched.get_by_role("checkbox", name="attn.o").check()
    cost = kb["lora"].cost("llama_3_8b", r=16, targets=["attn.q", "attn.v", "attn.o"])
    assert number(watched, "trained") == cost.trained
    assert "model=llama_3_8b" in watched.url
    assert "r=16" in watched.url
    watched.reload()
    assert number(watched, "trained") == cost.trained
    expect(watched.get_by_label("r", exact=True)).to_have_value("16")


def test_a_value_outside_its_domain_is_refused_at_its_field(watched: Page, address: str) -> None:
    watched.goto(f"{address}methods/lora.html#calculator")
    field = watched.get_by_label("r", exact=True)
    field.fill("0")
    expect(watched.get_by_role("alert")).to_contain_text("r >= 1")
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("4")
    expect(watched.get_by_role("alert")).to_have_count(0)
    expect(field).to_have_attribute("aria-invalid", "false")


def test_a_classification_head_is_counted_apart(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model=roberta_base&task=seq_cls&labels=5")
    cost = kb["lora"].cost("roberta_base", task="seq_cls", num_labels=5)
    assert (number(watched, "head"), number(watched, "trained")) == (cost.head, cost.trained)


def test_the_copied_command_says_what_is_shown(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model=gpt2_xl&r=4&targets=attn.q")
    expect(watched.locator(".pf-command").first).to_have_text(
        "peftonomy cost lora --model gpt2_xl --set r=4 --targets attn.q"
    )


# The taxonomy.


def test_a_node_of_the_graph_opens_its_page(watched: Page, address: str) -> None:
    watched.goto(f"{address}taxonomy.html")
    watched.locator("peft-graph a[data-id=lora] text").click()
    expect(watched).to_have_url(re.compile(r"/methods/lora\.html$"))


def test_the_graph_is_walked_by_keyboard(watched: Page, address: str) -> None:
    watched.goto(f"{address}taxonomy.html")
    watched.locator("peft-graph a[data-id=lora]").focus()
    expect(watched.locator("[data-graph-panel]")).to_contain_text("is modified by AdaLoRA")
    expect(watched.locator(".edge.from, .edge.to").first).to_be_attached()
    watched.keyboard.press("ArrowRight")
    focused = watched.evaluate("document.activeElement.dataset.id")
    assert focused
    assert focused != "lora"
    watched.keyboard.press("Enter")
    expect(watched).to_have_url(re.compile(rf"/methods/{focused}\.html$"))


def test_the_graph_is_searched_and_filtered(watched: Page, address: str) -> None:
    watched.goto(f"{address}taxonomy.html")
    watched.get_by_label("Find a method").fill("adalora")
    expect(watched.locator("peft-graph a.on")).to_have_attribute("data-id", "adalora")
    watched.get_by_label("Find a method").fill("")
    watched.get_by_label("Relations").select_option("combines")
    kept = watched.locator("peft-graph .edge:not(.off)")
    assert set(kept.evaluate_all("es => es.map(e => e.dataset.type)")) == {"combines"}


def test_every_line_of_reference_code_has_an_address(watched: Page, address: str, root: Path) -> None:
    watched.goto(f"{address}methods/lora.html")
    lines = (root / "reference_impls" / "lora.py").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert watched.locator('.highlight span[id^="line-"]').count() == len(lines)
    watched.locator(".highlight .linenos").nth(4).dispatch_event("click")    # its number is generated content
    assert watched.url.endswith("#line-0-5")


def test_a_model_s_page_is_filled_with_every_method(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """The few methods that stand in the page give the same numbers; the others come when the table is reached."""
    watched.goto(f"{address}models/t5_base.html")
    rows = watched.locator("peft-costs tbody tr")
    written = numbers(rows.all_inner_texts())
    rows.first.scroll_into_view_if_needed()
    expect(rows).to_have_count(len(kb))
    shown = numbers(rows.all_inner_texts())
    assert written
    assert written.items() <= shown.items()
    assert shown == {m.name: f"{m.cost('t5_base').trained:,}" for m in kb.values() if answers(m, "t5_base")}


def numbers(rows: list[str]) -> dict[str, str]:
    """Method -> what it trains, in the rows that say a number."""
    cells = [row.split("\t") for row in rows]
    return {name.strip(): trained for name, _, trained, *rest in cells if rest}


def answers(method: Any, model: str) -> bool:
    try:
        method.cost(model)
    except UsageError:
        return False
    return True


def test_lists_are_filtered(watched: Page, address: str) -> None:
    watched.goto(f"{address}methods/index.html")
    watched.get_by_label("Filter by name, idea or year").fill("2023 lora")
    rows = watched.locator(".pf-methods tbody tr:not(.pf-group):visible")
    expect(rows.first).to_be_visible()
    assert all("2023" in text for text in rows.all_inner_texts())


# Small things.


def test_bibtex_is_copied(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{address}methods/lora.html")
    page.get_by_role("button", name="Copy BibTeX").first.click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    key = kb["lora"].entry.source.partition("#")[0]
    assert page.evaluate("navigator.clipboard.readText()") == kb.references[key].bibtex.strip()
    context.close()


def test_the_menu_of_a_phone_opens_by_keyboard(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(f"{address}methods/lora.html")
    page.get_by_role("button", name="Menu").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".md-nav--primary").get_by_role("link", name="Calculator")).to_be_in_viewport()
    context.close()


def test_pages_read_without_script(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}methods/lora.html")
    model = "llama_2_7b"
    expect(page.locator("peft-calculator table")).to_contain_text(f"{kb['lora'].cost(model).trained:,}")
    expect(page.locator(".katex").first).to_be_visible()
    page.goto(f"{address}taxonomy.html")
    expect(page.locator(".pf-tree").get_by_role("link", name="LoRA", exact=True)).to_be_visible()
    context.close()


def test_it_works_from_a_folder_without_server_or_network(watched: Page, site: Path, kb: KnowledgeBase) -> None:
    watched.context.set_offline(True)
    watched.goto((site / "index.html").as_uri())
    search(watched, "low rank")
    watched.locator(FOUND).first.click()
    watched.locator("peft-calculator").scroll_into_view_if_needed()
    watched.get_by_label("Model", exact=True).fill("t5_base")
    assert number(watched, "trained") == kb["lora"].cost("t5_base").trained


def test_hostile_entries_run_nothing(page: Page, root: Path, tmp_path: Path) -> None:
    """A name, a place and a description full of markup show as text, in pages, search, graph and calculator."""
    name = "<img src=x onerror=alert(3)>"
    lines = (
        (r"^name:.*$", f'name: "{name}"'),
        (r"^where:.*$", f"where: {HOSTILE!r}"),
        (r"^full_name:.*$", f"full_name: {HOSTILE!r}"),
        (r"^aliases:.*$", f'aliases: ["{name}"]'),
    )
    entry = small_tree(root, tmp_path / "tree", "lora", "adalora") / "methods" / "lora.yaml"
    for pattern, line in lines:
        text, n = re.subn(pattern, lambda _, line=line: line, entry.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert n == 1, pattern
        entry.write_text(text, encoding="utf-8")
    out = built(tmp_path / "out", tmp_path / "tree")
    dialogs: list[str] = []
    page.on("dialog", lambda d: (dialogs.append(d.message), d.dismiss()))
    complaints = watch(page)
    for path in ("index.html", "methods/lora.html", "taxonomy.html#lora", "calculator.html", "methods/adalora.html"):
        page.goto(f"{(out / path.partition('#')[0]).as_uri()}{'#lora' if '#' in path else ''}")
        assert page.locator("img[src=x]").count() == 0, path
    page.goto((out / "methods" / "lora.html").as_uri())
    expect(page.locator("h1")).to_contain_text(name)
    expect(page.locator(".pf-subtitle")).to_contain_text(HOSTILE[:25])
    page.goto((out / "index.html").as_uri())
    search(page, "onerror")
    assert first_found(page) == name
    assert page.locator("img[src=x]").count() == 0
    assert (dialogs, complaints) == ([], [])


# The build.


@pytest.mark.slow
def test_two_builds_are_equal_to_the_byte(site: Path, root: Path, tmp_path: Path) -> None:
    again = built(tmp_path / "again", root)
    files = {p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file()}
    assert files == {p.relative_to(again).as_posix() for p in again.rglob("*") if p.is_file()}
    assert [f for f in sorted(files) if (site / f).read_bytes() != (again / f).read_bytes()] == []

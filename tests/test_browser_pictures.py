"""The legend of an equation, folded relations, sorted tables and pictures as a reader uses them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from peftonomy import KnowledgeBase

pytestmark = pytest.mark.browser


def test_a_symbol_marks_its_meaning_and_its_tensor(watched: Page, address: str) -> None:
    watched.goto(f"{address}methods/hyperformer_pp.html")
    line = watched.locator(".pf-symbols li", has=watched.get_by_role("link", name="z_task"))
    number = line.get_attribute("data-symbol")
    sign = watched.locator(f'.pf-equation .katex-html [data-symbol="{number}"]')
    row = watched.locator("#tensor-z_task")
    sign.hover()
    for marked in (line, sign, row):
        expect(marked).to_have_class(r"is-marked" if marked is not sign else "enclosing is-marked")
    watched.locator("h1").hover()
    expect(row).not_to_have_class("is-marked")
    line.get_by_role("link").focus()
    expect(sign).to_have_class("enclosing is-marked")
    watched.keyboard.press("Enter")
    expect(watched).to_have_url(f"{address}methods/hyperformer_pp.html#tensor-z_task")


def test_descendants_are_folded_by_category(watched: Page, address: str) -> None:
    watched.goto(f"{address}methods/lora.html")
    groups = watched.locator("details.pf-relations")
    closed = [group for group in groups.all() if group.get_attribute("open") is None]
    assert len(closed) > 5
    link = closed[0].locator("a").first
    expect(link).to_be_hidden()
    watched.goto(f"{address}methods/lora.html#{closed[0].get_attribute('id')}")
    expect(link).to_be_visible()


def test_a_table_sorts_by_keyboard(watched: Page, address: str) -> None:
    watched.goto(f"{address}measured.html")
    table = watched.get_by_role("region", name="Runs of PEFT method comparison, MetaMathQA").locator("table")

    def column(n: int) -> list[str]:
        return table.locator(f"tbody tr > :nth-child({n})").all_inner_texts()

    before = column(5)
    head = table.get_by_role("button", name="Trained")
    head.focus()
    watched.keyboard.press("Enter")
    expect(table.get_by_role("columnheader", name="Trained")).to_have_attribute("aria-sort", "descending")
    numbers = [int(text.replace(",", "")) for text in column(5)]
    assert numbers == sorted(numbers, reverse=True)
    assert sorted(before) == sorted(column(5))
    watched.keyboard.press("Enter")
    assert [int(text.replace(",", "")) for text in column(5)] == numbers[::-1] or numbers[0] > numbers[-1]
    expect(table.get_by_role("columnheader", name="Trained")).to_have_attribute("aria-sort", "ascending")
    table.get_by_role("button", name="Method").click()
    names = [name.strip().lower() for name in column(1)]
    assert names == sorted(names)


def test_categories_of_results_hide_and_show(watched: Page, address: str) -> None:
    watched.goto(f"{address}measured.html")
    part = watched.locator("[data-filtered]").first
    key = part.locator(".pf-key").first
    name = key.inner_text().strip()
    hue = key.locator("i").get_attribute("class")
    rows, points = part.locator(f"tr[data-hue='{(hue or '').removeprefix('hue-')}']"), part.locator(f"svg .dot.{hue}")
    assert name
    assert rows.count() > 0
    assert points.count() > 0
    for pressed, hidden in (("false", True), ("true", False)):
        key.click()
        expect(key).to_have_attribute("aria-pressed", pressed)
        for found in (rows.first, points.first):
            if hidden:
                expect(found).to_be_hidden()
            else:
                expect(found).to_be_visible()


def test_pictures_fit_a_phone(watched: Page, address: str) -> None:
    watched.set_viewport_size({"width": 390, "height": 800})
    for name in ("index", "measured", "architectures", "timeline", "taxonomy", "survey", "crosswalk", "methods/lora"):
        watched.goto(f"{address}{name}.html")
        assert watched.evaluate("document.documentElement.scrollWidth") <= 390, name
        sizes = watched.evaluate(
            """[...document.querySelectorAll("svg.pf-chart text, svg.pf-scale text")].map(
                t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)"""
        )
        assert all(size > 8 for size in sizes), name
    watched.goto(f"{address}timeline.html")
    expect(watched.locator("svg.pf-lanes")).to_be_visible()
    watched.goto(f"{address}taxonomy.html")
    expect(watched.locator("peft-graph svg")).to_be_visible()


def test_the_calculator_draws_the_cost_against_the_rank(watched: Page, address: str, kb: KnowledgeBase) -> None:
    fetched: list[str] = []
    watched.on("request", lambda request: fetched.append(request.url))
    watched.goto(f"{address}calculator.html?method=lora&model=llama_3_8b&r=12")
    watched.get_by_text("Trained against r", exact=True).wait_for()
    assert not any("plot" in url for url in fetched)
    watched.get_by_text("Trained against r", exact=True).click()
    picture = watched.locator(".pf-curve svg[aria-label]")
    for rank in (12, 64):
        watched.get_by_label("r", exact=True).first.fill(str(rank))
        trained = kb["lora"].cost("llama_3_8b", r=rank).trained
        expect(picture).to_have_attribute("aria-label", re.compile(f"at {rank} it trains {trained:,}"))
    watched.locator(".pf-curve").get_by_text("As a table").click()
    row = watched.locator(".pf-curve tr", has_text="64 (now)")
    expect(row.locator("td")).to_have_text(f"{kb['lora'].cost('llama_3_8b', r=64).trained:,}")


def test_what_was_unfolded_stays_so_when_the_answer_changes_at_once(watched: Page, address: str) -> None:
    """A browser tells of the unfolding after the click. The next answer may come before that."""
    watched.goto(f"{address}calculator.html?method=lora&model=llama_3_8b&r=12")
    for summary in ("Per layer", "Trained against r"):
        watched.get_by_text(summary, exact=True).wait_for()
        watched.get_by_label("r", exact=True).first.evaluate(
            """(field, summary) => {
                [...document.querySelectorAll("summary")].find(s => s.textContent === summary).click();
                field.value = String(Number(field.value) + 1);
                field.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            summary,
        )
        details = watched.locator("details", has=watched.get_by_text(summary, exact=True))
        expect(details).to_have_attribute("open", "")
    expect(watched.locator(".pf-curve svg[aria-label]")).to_have_attribute("aria-label", re.compile("at 14 it trains"))
    expect(watched.locator(".pf-layers td").first).to_be_visible()

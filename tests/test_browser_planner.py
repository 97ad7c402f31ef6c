"""The planner as a reader uses it, and all tools by keyboard alone, on a phone and from a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from peftonomy import KnowledgeBase
from peftonomy.backbones.backbone import Backbone
from peftonomy.files.output import binary_text
from peftonomy.memory.fit import largest
from peftonomy.memory.gpus import gpu_bytes
from peftonomy.memory.setting import Setting

from .browser_kit import PHONE, watch
from .tools_kit import (
    CONFIG,
    TOOLS,
    cells,
    field,
    out,
)

pytestmark = pytest.mark.browser


# Planner.


def test_a_method_is_found_by_what_it_must_do(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """Journey 1: merges, trains under 5 M on llama-3-8b, came after 2022."""
    watched.goto(address)
    watched.locator(".pf-doorway a[href='planner.html']").click()
    field(watched, "Model").select_option("llama_3_8b")
    field(watched, "Trained at most").fill("5M")
    watched.get_by_role("checkbox", name="merges into the weights").check()
    field(watched, "From year").fill("2023")
    expect(watched.locator("[data-fits=lora]")).to_have_count(0)
    found = watched.locator("[data-fits]").evaluate_all("rows => rows.map(r => r.dataset.fits)")
    assert found
    for method in found:
        assert kb[method].merge == "exact"
        assert kb[method].year >= 2023
    expect(watched.locator("[data-out-of=lora]")).to_contain_text("is from 2021")
    expect(watched.locator("[data-out-of=adalora]")).to_contain_text("at its smallest, init_r = 8")
    again = watched.url
    assert "merge=1" in again
    assert "since=2023" in again
    watched.goto("about:blank")
    watched.goto(again)
    link = watched.locator("[data-fits] td a").first
    expect(link).to_be_visible()
    link.click()
    expect(watched).to_have_url(re.compile(r"calculator\.html\?method="))
    assert out(watched, "trained") <= 5_000_000


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("calculator.html?model=lama_3_8b", ["model 'lama_3_8b', which is not known here; did you mean llama_3_8b,"]),
        ("calculator.html?method=lroa&r=8", ["method 'lroa', which is not known here; did you mean loha, lora, "]),
        ("calculator.html?method=lora&rank=8", ["the field 'rank'"]),
        ("calculator.html?method=lora&targets=attn.q,attn.x", ["the target 'attn.x'"]),
        ("calculator.html?model=gpt2&task=xyz&precision=fp8", ["task 'xyz'", "precision 'fp8'"]),
        ("methods/lora.html?method=ia3&h=lora", ["the field 'method'"]),
        ("compare.html?methods=lora,iaa3&sort=traind", ["the method 'iaa3'", "did you mean trained"]),
        ("compare.html?methods=lora,ia3,vera,oft,boft,hra,poly", ["asks for 7 methods; shown are the first 6."]),
        ("planner.html?library=pefft&merge=yes", ["merge 'yes', which is not known here; known: 0, 1.", "hf_peft"]),
        ("methods/index.html?merge=exakt&yeer=1", ["did you mean exact", "the field 'yeer'"]),
        ("taxonomy.html?type=<b>x</b>", ["type '<b>x</b>'"]),
    ],
)  # fmt: skip
def test_what_an_address_asks_in_vain_is_told(watched: Page, address: str, asked: str, told: list[str]) -> None:
    """In a line each, until the first change writes an address that means something; the page works meanwhile."""
    watched.goto(address + asked)
    lines = watched.locator(".pf-odd p")
    expect(lines).to_have_count(len(told))
    for line, words in zip(lines.all(), told, strict=True):
        expect(line).to_contain_text(words)


def test_an_address_without_fault_is_told_nothing(watched: Page, address: str) -> None:
    for asked in (
        "calculator.html?method=lora&model=gpt2&task=seq_cls&labels=3&r=4&targets=attn.q&batch=2&precision=float32",
        "compare.html?methods=lora,ia3&lora.r=4&budget=1M&diff=1&sort=trained&desc=1&checkpointing=1",
        "planner.html?trained=5M&gpu=24+GiB&solve=seq&merge=1&since=2022&library=any&order=trained",
        "methods/index.html?q=lora&h=rank",
    ):
        watched.goto(address + asked)
        expect(watched.locator("[data-field=model], [data-found]").first).to_be_attached()
        assert watched.locator(".pf-odd").count() == 0, asked
    watched.goto(address + "calculator.html?model=lama")
    expect(watched.locator(".pf-odd")).to_have_count(1)
    watched.get_by_label("Batch").fill("2")
    expect(watched.locator(".pf-odd")).to_have_count(0)


def test_a_senseless_budget_is_told(watched: Page, address: str) -> None:
    watched.goto(f"{address}planner.html")
    field(watched, "Trained at most").fill("much")
    expect(watched.get_by_role("alert")).to_contain_text("A budget is a number")
    expect(field(watched, "Trained at most")).to_have_attribute("aria-invalid", "true")
    field(watched, "Trained at most").fill("1k")
    field(watched, "Checkpoint at most").fill("1 kB")
    expect(watched.locator("[data-out=fits]")).to_be_visible()


def test_what_fits_near_its_default_comes_first(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}planner.html?model=llama_3_8b&trained=5M")
    row = watched.locator("[data-fits=lora]")
    expect(row).to_contain_text("r = 11")
    expect(row).to_contain_text(f"default {kb['lora'].entry.hyperparameters['r'].default}")
    listed = "rows => rows.map(row => row.dataset.fits)"
    order = watched.locator("[data-fits]").evaluate_all(listed)
    assert order.index("ia3") < order.index("lora") < order.index("vera") < order.index("lorahub")
    watched.get_by_label("Ranked by").select_option("trained")
    again = watched.locator("[data-fits]").evaluate_all(listed)
    assert again.index("lorahub") < again.index("lora")
    assert set(again) == set(order)
    assert "order=trained" in watched.url


def test_a_gpu_holds_what_fit_says(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}planner.html?model=llama_2_7b&trained=")
    field(watched, "GPU memory at most").fill("much")
    expect(watched.get_by_role("alert")).to_contain_text("GPU memory is a size")
    field(watched, "GPU memory at most").fill("24 GiB")
    watched.get_by_text("Training step", exact=True).click()
    field(watched, "Length").fill("1024")
    setting, gpu = Setting(1, 1024), gpu_bytes("24GiB")
    found = {m: largest(kb[m].on("llama_2_7b").training, {}, setting, "batch", gpu) for m in ("lora", "ia3")}
    for method, fit in found.items():
        row = watched.locator(f"[data-fits={method}]")
        expect(row.locator(".pf-fit").first).to_have_text(f"{fit.value:,}")
        assert fit.memory is not None
        expect(row.locator(".pf-fit").last).to_have_text(binary_text(fit.memory.peak + fit.memory.gpu_extra))
    expect(watched.locator("[data-out-of=full_fine_tuning]")).to_contain_text("on a GPU with batch 1")
    expect(watched.locator("code").filter(has_text="peftonomy fit")).to_have_text(
        "peftonomy fit --model llama_2_7b --gpu 24GiB --seq 1024"
    )
    again = watched.url
    watched.goto("about:blank")
    watched.goto(again)
    watched.locator("[data-fits=lora] td a").click()
    expect(watched).to_have_url(re.compile(r"calculator\.html\?method=lora"))
    memory = found["lora"].memory
    assert memory is not None
    assert out(watched, "peak") == memory.peak


# By keyboard alone, on a narrow screen.


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def tab_to(page: Page, label: str) -> None:
    """Move with the Tab key until the control of that name has the focus."""
    for _ in range(400):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "() => { const e = document.activeElement; const l = e.labels && e.labels[0];"
            " return (e.getAttribute('aria-label') || (l && l.firstChild.textContent) || e.textContent || '').trim(); }"
        )
        if name == label:
            return
    raise AssertionError(f"Tab never reaches {label}")


def test_the_tools_work_by_keyboard_on_a_phone(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    """Journeys 1 to 3 without a pointer."""
    context = browser.new_context(viewport=PHONE, accept_downloads=True)  # type: ignore[arg-type]
    page = context.new_page()
    complaints = watch(page)
    page.goto(f"{address}planner.html?model=llama_3_8b")
    tab_to(page, "Trained at most")
    press(page, "Control+a")
    page.keyboard.type("5M")
    tab_to(page, "merges into the weights")
    press(page, "Space")
    tab_to(page, "From year")
    page.keyboard.type("2023")
    expect(page.locator("[data-out-of=lora]")).to_contain_text("is from 2021")
    expect(page.locator("[data-fits]").first).to_be_attached()

    page.goto(f"{address}calculator.html")
    tab_to(page, "Model")
    press(page, "Home")
    expect(field(page, "config.json")).to_be_visible()
    tab_to(page, "config.json")
    page.keyboard.insert_text(json.dumps(CONFIG))
    tab_to(page, "r")
    press(page, "Control+a")
    page.keyboard.type("24")
    backbone = Backbone.from_config(CONFIG, families=kb.families)
    assert out(page, "trained") == kb["lora"].cost(backbone, r=24).trained

    page.goto(f"{address}compare.html?methods=lora&model=roberta_base")
    for name in ("AdaLoRA", "BitFit", "Prompt Tuning", "Prefix-Tuning"):
        tab_to(page, "Add a method (up to 6)")
        page.keyboard.type(name)
        press(page, "Enter")
    assert len(cells(page, "trained")) == 5
    tab_to(page, "only what differs")
    press(page, "Space")
    tab_to(page, "Stored▸")
    press(page, "Enter")
    expect(page.locator("[data-row=stored] th")).to_have_attribute("aria-sort", "ascending")
    assert page.evaluate("document.activeElement.textContent") == "Stored▴"
    with page.expect_download():
        tab_to(page, "Download CSV")
        press(page, "Enter")
    for path in TOOLS:
        page.goto(address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
    context.close()
    assert complaints == []


def test_the_tools_work_from_a_folder_without_network(watched: Page, site: Path, kb: KnowledgeBase) -> None:
    watched.context.set_offline(True)
    watched.goto((site / "compare.html").as_uri() + "?methods=lora,ia3&model=t5_base&budget=1M")
    assert cells(watched, "setting")[0].startswith("r = ")
    watched.goto((site / "planner.html").as_uri() + "?trained=1M&model=t5_base")
    expect(watched.locator("[data-fits]").first).to_be_visible()
    watched.goto((site / "calculator.html").as_uri() + "?method=lora&model=t5_base&r=3")
    assert out(watched, "trained") == kb["lora"].cost("t5_base", r=3).trained


def test_pages_of_tools_read_without_script(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}compare.html")
    expect(page.locator("peft-compare table")).to_contain_text(f"{kb['lora'].cost('roberta_base').trained:,}")
    page.goto(f"{address}planner.html")
    expect(page.locator("peft-planner")).to_contain_text("This needs scripts")
    context.close()

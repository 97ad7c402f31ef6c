"""The guided choice as a reader uses it, and all tools by keyboard alone, on a phone and from a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from peftonomy import KnowledgeBase
from peftonomy.backbones.backbone import Backbone
from peftonomy.files.output import binary_text

from .browser_kit import PHONE, watch
from .tools_kit import (
    CONFIG,
    TOOLS,
    cells,
    field,
    out,
)

pytestmark = pytest.mark.browser


# The guided choice.


def test_a_method_is_chosen_with_what_makes_it_fit(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """24 GB, Llama 3.1 8B, 2,048 tokens: three fields, and the page says that checkpointing makes it fit."""
    watched.goto(address)
    watched.locator(".pf-doorway a[href='planner.html']").click()
    field(watched, "Model").fill("meta-llama/Meta-Llama-3.1-8B-Instruct")
    field(watched, "GPU").fill("24 GiB")
    field(watched, "Length").fill("2048")
    choice = kb.choose("llama_3_1_8b", gpu="24GiB", seq=2048)
    said = "LoRA fits Llama 3.1 8B on 24 GiB with gradient checkpointing."
    expect(watched.locator(".pf-decision")).to_have_text(said)
    expect(watched.locator("[data-field=model] small")).to_contain_text("Counted as Llama 3.1 8B")
    cards = watched.locator("[data-choice]")
    assert cards.evaluate_all("all => all.map(c => c.dataset.choice)") == [c.method for c in choice.found]
    first = cards.first
    steps = [binary_text(bytes_) for bytes_ in choice.found[0].steps]
    expect(first.locator(".is-used .pf-bars__value")).to_have_text([f"{steps[0]}, too much", steps[1]])
    expect(first.locator(".pf-choice__why")).to_contain_text(f"Gradient checkpointing: {steps[0]} → {steps[1]}.")
    first.get_by_text("Code for PEFT").click()
    assert first.locator(".pf-command").inner_text().strip() == choice.found[0].code
    expect(watched.locator("[data-refused=full_fine_tuning]")).to_contain_text("trains all parameters of the model")
    expect(watched.locator(".pf-choice__command")).to_have_text(
        "peftonomy choose --model llama_3_1_8b --gpu '24 GiB' --batch 1 --seq 2048"
    )
    again = watched.url
    watched.goto("about:blank")
    watched.goto(again)
    expect(watched.locator(".pf-decision")).to_have_text(said)
    watched.get_by_role("button", name="Show more").click()
    expect(cards).to_have_count(10)
    cards.first.locator("dd a").click()
    expect(watched).to_have_url(re.compile(r"calculator\.html\?method=lora.*checkpointing=1"))
    assert out(watched, "peak") == choice.found[0].memory.peak


def test_requirements_and_wrong_answers(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}planner.html?model=roberta_base&seq=128&batch=32")
    watched.get_by_role("button", name="T4").click()
    expect(field(watched, "GPU")).to_have_value("T4")
    watched.get_by_role("checkbox", name="merges into the weights").check()
    field(watched, "In a library or trainer").select_option("adapters")
    field(watched, "Rank by").select_option("stored")
    watched.get_by_text("More settings").click()
    field(watched, "Trained at most").fill("0.1%")
    choice = kb.choose(
        "roberta_base", gpu="T4", seq=128, batch=32, merge=True, library="adapters", by="stored", trained="0.1%"
    )
    cards = watched.locator("[data-choice]")
    expect(cards.first).to_have_attribute("data-choice", choice.found[0].method)
    assert cards.evaluate_all("all => all.map(c => c.dataset.choice)") == [c.method for c in choice.found]
    for text in ("need=mergeable", "library=adapters", "by=stored", "trained=0.1"):
        assert text in watched.url
    for label, wrong, told in (
        ("Trained at most", "much", "Write 10M, 250k, 1e6, or 0.1% of the model."),
        ("GPU", "A100", "This may be A100 80GB or A100 40GB."),
        ("GPU", "big one", "Give a size such as 24 GiB, or a name"),
        ("Batch", "x", "A whole number from 1."),
    ):
        before = field(watched, label).input_value()
        field(watched, label).fill(wrong)
        expect(watched.locator(".pf-field", has=field(watched, label)).locator("small")).to_contain_text(told)
        expect(field(watched, label)).to_have_attribute("aria-invalid", "true")
        field(watched, label).fill(before)
        expect(field(watched, label)).to_have_attribute("aria-invalid", "false")
        expect(cards.first).to_be_visible()
    watched.goto(f"{address}planner.html?model=llama_3_1_8b&seq=2048&gpu=8GiB")
    refused = kb.choose("llama_3_1_8b", gpu="8GiB", seq=2048).refused[0]
    expect(watched.locator("[data-refused=lora]")).to_contain_text("such GPUs fit it with fsdp and the optimizer adamw")
    assert refused.reasons[-1] in watched.locator(f"[data-refused={refused.method}]").inner_text()
    field(watched, "GPUs").fill("4")
    field(watched, "Shared with").select_option("fsdp")
    first = kb.choose("llama_3_1_8b", gpu="8GiB", seq=2048, gpus=4, n=1).found[0]
    expect(watched.locator(".pf-decision")).to_contain_text("on 8 GiB each of 4 GPUs with")
    expect(cards.first).to_contain_text(f"{binary_text(first.bytes)}of 8 GiB, on each GPU")
    expect(watched.locator(".pf-choice__command")).to_contain_text("--gpus 4")
    cards.first.locator("dd a").click()
    expect(watched.get_by_label("GPUs")).to_have_value("4")
    assert out(watched, "peak") == first.memory.peak


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("llama 2 7b", "Llama 2 7B"), ("FacebookAI/roberta-base", "RoBERTa base"),
        ("NousResearch/Llama-2-7b-hf", "Llama 2 7B"),
        ("unsloth/llama-3.1-8b-bnb-4bit", "Llama 3.1 8B"), ("gemma", "Several models"), ("zzz", "No model here"),
    ],
)  # fmt: skip
def test_a_model_is_found_by_any_of_its_names(watched: Page, address: str, text: str, said: str) -> None:
    watched.goto(f"{address}planner.html?gpu=H100&seq=64")
    expect(watched.locator(".pf-decision")).to_be_visible()
    field(watched, "Model").fill(text)
    found = watched.locator(".pf-decision" if "model" not in said else "[data-field=model] small")
    expect(found).to_contain_text(said)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("calculator.html?model=lama_3_8b", ["model 'lama_3_8b', which is not known here; did you mean llama_3_8b,"]),
        ("calculator.html?method=lroa&r=8", ["method 'lroa', which is not known here; did you mean loha, lora, "]),
        ("calculator.html?method=lora&rank=8", ["the field 'rank'"]),
        ("calculator.html?method=lora&targets=attn.q,attn.x", ["the target 'attn.x'"]),
        ("calculator.html?model=gpt2&task=xyz&precision=fp8", ["task 'xyz'", "precision 'fp8'"]),
        ("methods/lora.html?method=ia3", ["the field 'method'"]),
        ("calculator.html?model=vit_base&seq=197", ["a length of 197; ViT base"]),
        ("compare.html?methods=lora,iaa3&sort=traind", ["the method 'iaa3'", "did you mean trained"]),
        ("compare.html?methods=lora,ia3,vera,oft,boft,hra,poly", ["asks for 7 methods; shown are the first 6."]),
        ("planner.html?library=pefft&need=mergable", ["did you mean mergeable", "hf_peft"]),
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
        "planner.html?trained=5M&gpu=24+GiB&need=mergeable,side_by_side&library=any&by=memory&anywhere=1&batch=2",
        "methods/index.html?q=lora",
    ):
        watched.goto(address + asked)
        expect(watched.locator("[data-field=model], [data-found]").first).to_be_attached()
        assert watched.locator(".pf-odd").count() == 0, asked
    watched.goto(address + "calculator.html?model=lama")
    expect(watched.locator(".pf-odd")).to_have_count(1)
    watched.get_by_label("Batch").fill("2")
    expect(watched.locator(".pf-odd")).to_have_count(0)


# The nearest methods.


def test_the_methods_near_an_idea_are_found(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """Describe a mechanism, and get the nearest methods with their differences; the address keeps the description."""
    watched.set_viewport_size(PHONE)    # type: ignore[arg-type]
    watched.goto(f"{address}compare.html")
    watched.get_by_role("link", name="whether it is new").click()
    idea = {"acts_on": "weight", "trains": "vector", "freezes": "random", "sharing": "layers"}
    words = ("weight matrices", "vectors", "random tensors", "several layers")
    for aspect, word in zip(idea, words, strict=True):
        watched.locator(f"[data-aspect={aspect}]").get_by_role("checkbox", name=word, exact=True).press("Space")
    found = kb.nearest(**idea, n=6).found
    near = watched.locator("[data-near]")
    assert near.evaluate_all("all => all.map(n => n.dataset.near)") == [n.method for n in found]
    for method in found:
        said = watched.locator(f"[data-near={method.method}] .pf-differences li").all_inner_texts()
        assert said == [f"{d.name}: {d.sentence}" for d in method.differences]
    again = watched.url
    watched.goto("about:blank")
    watched.goto(again)
    expect(near.first).to_have_attribute("data-near", found[0].method)
    watched.get_by_label("Begin with a method").fill("VeRA")
    watched.keyboard.press("Tab")
    expect(watched.get_by_role("status").filter(has_text=re.compile("ha(s|ve) all of this."))).to_be_visible()
    expect(watched.locator("[data-near=vera]")).to_be_visible()
    assert watched.locator("[data-near=vera] .pf-differences li").count() == 0
    assert watched.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


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
    page.goto(f"{address}planner.html")
    for label, text in (("Model", "Llama 3.1 8B"), ("GPU", "24 GB"), ("Length", "2048")):
        tab_to(page, label)
        press(page, "Control+a")
        page.keyboard.type(text)
    expect(page.locator(".pf-decision")).to_contain_text("with gradient checkpointing")
    tab_to(page, "merges into the weights")
    press(page, "Space")
    expect(page.locator("[data-choice=qlora]")).to_have_count(0)
    expect(page.locator("[data-choice]").first).to_be_attached()

    page.goto(f"{address}calculator.html")
    tab_to(page, "Model")
    press(page, "Control+a")
    page.keyboard.type("no such model")
    expect(page.locator("[data-field=model] small")).to_contain_text("No model here has this name")
    expect(page.locator("[data-out=trained]")).to_have_count(0)
    tab_to(page, "Paste a config.json instead")
    press(page, "Enter")
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
    expect(watched.locator(".pf-card .katex").first).to_be_attached()
    watched.goto((site / "planner.html").as_uri() + "?gpu=T4&model=t5_base")
    expect(watched.locator("[data-choice]").first).to_be_visible()
    watched.goto((site / "calculator.html").as_uri() + "?method=lora&model=t5_base&r=3")
    assert out(watched, "trained") == kb["lora"].cost("t5_base", r=3).trained


def test_pages_of_tools_read_without_script(browser: Browser, address: str, kb: KnowledgeBase) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}compare.html")
    expect(page.locator("peft-compare table")).to_contain_text(f"{kb['lora'].cost('llama_3_1_8b').trained:,}")
    page.goto(f"{address}planner.html")
    expect(page.locator("peft-choose")).to_contain_text("This page needs scripts")
    context.close()

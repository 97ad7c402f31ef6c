"""Calculator, compare and planner as a reader uses them; the security policy; and axe over every kind of page."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import peft
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from peftonomy import KnowledgeBase
from peftonomy.backbones.backbone import Backbone
from peftonomy.cli import main as _cli
from peftonomy.files.output import binary_text
from peftonomy.memory.fit import gpu_bytes, largest
from peftonomy.memory.model import PARTS, Setting

from .browser_kit import PHONE, watch
from .test_browser import KINDS as PLAIN_KINDS
from .test_browser import REPORT_REFUSALS

pytestmark = pytest.mark.browser

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
TOOLS = ("calculator.html", "compare.html", "planner.html")
KINDS = (
    "index.html", "methods/index.html", "methods/lora.html", "categories/additive.html", "models/t5_base.html",
    "taxonomy.html", "api.html", "about.html",
    "calculator.html?method=lora&model=pasted", "calculator.html?model=llama_3_8b&modules=all-linear&r=0",
    "compare.html?methods=lora,ia3,prefix_tuning&model=roberta_base&sort=trained&budget=1M",
    "planner.html?trained=5M&merge=1&gpu=24GiB", "memory.html",
)  # fmt: skip
"""Every kind of page, the tools in more than one state. (Lists and the survey are looked at in their own module.)"""
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 2048,
    "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
    "rms_norm_eps": 1e-05, "torch_dtype": "bfloat16",
}  # fmt: skip


def out(page: Page, name: str) -> int:
    return int(page.locator(f"[data-out={name}]").inner_text().replace(",", ""))


def field(page: Page, label: str) -> Locator:
    return page.get_by_label(label, exact=True)


@pytest.fixture
def clipboard(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints = watch(page)
    yield page
    context.close()
    assert complaints == []


# The calculator.


def test_a_pasted_config_is_counted(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """Journey 2: LoRA and AdaLoRA at three ranks on a config of one's own."""
    watched.goto(address)
    watched.locator(".pf-doorway a[href='calculator.html']").click()
    field(watched, "Model").select_option(label="A config.json of yours")
    field(watched, "config.json").fill(json.dumps(CONFIG, indent=2))
    backbone = Backbone.from_config(CONFIG, families=kb.families)
    expect(watched.locator("[data-field=config] small")).to_contain_text(f"{backbone.parameters:,} parameters")
    for method, name in (("lora", "r"), ("adalora", "init_r")):
        field(watched, "Method").select_option(method)
        for rank in (8, 12, 64):
            field(watched, name).fill(str(rank))
            assert out(watched, "trained") == kb[method].cost(backbone, **{name: rank}).trained
    again = watched.url
    watched.goto("about:blank")
    watched.goto(again)
    assert out(watched, "trained") == kb["adalora"].cost(backbone, init_r=64).trained
    assert out(watched, "backbone") == backbone.parameters


def test_a_wrong_config_is_told_in_one_line(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?model=pasted")
    box, note = field(watched, "config.json"), watched.locator("[data-field=config] small")
    for text, message in (
        ('{"model_type": "llama"}', "config: vocab_size: found nothing; expected a whole number"),
        ('{"model_type": "lama"}', "config: model_type: found 'lama'; expected a family that is described"),
        ('{"model_type": "llama",}', "on line 1, column 24"),
        ('{"model_type": "<img src=x onerror=alert(1)>"}', "found '<img src=x onerror=alert(1)>'"),
    ):
        box.fill(text)
        expect(note).to_contain_text(message)
        expect(box).to_have_attribute("aria-invalid", "true")
    assert watched.locator("img[src=x]").count() == 0


def test_a_paste_keeps_its_place_while_typing(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?model=pasted")
    box = field(watched, "config.json")
    box.fill(json.dumps(CONFIG))
    box.evaluate("b => b.setSelectionRange(3, 3)")
    box.press_sequentially("x")
    assert box.evaluate("b => [b.selectionStart, document.activeElement === b]") == [4, True]


def test_modules_are_named_as_in_peft(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model=llama_3_8b")
    watched.get_by_role("button", name="by module name").click()
    watched.get_by_role("checkbox", name="all-linear").check()
    assert out(watched, "trained") == kb["lora"].cost("llama_3_8b", target_modules="all-linear").trained
    field(watched, "Module names, as peft's target_modules").fill("q_proj, 3.self_attn.v_proj")
    wanted = kb["lora"].cost("llama_3_8b", target_modules=["q_proj", "3.self_attn.v_proj"]).trained
    assert out(watched, "trained") == wanted
    watched.reload()
    assert out(watched, "trained") == wanted
    expect(watched.locator(".pf-command").first).to_contain_text("--target-modules q_proj,3.self_attn.v_proj")
    field(watched, "Module names, as peft's target_modules").fill("q_proj, nonsense")
    expect(watched.get_by_role("alert")).to_contain_text("has no linear module named nonsense")
    watched.get_by_role("button", name="by role").click()
    assert out(watched, "trained") == kb["lora"].cost("llama_3_8b").trained


ALL_ROLES = "attn.q,attn.k,attn.v,attn.o,mlp.gate,mlp.up,mlp.down"


def asked(page: Page, name: str) -> str | None:
    """What the address says of a field."""
    return parse_qs(urlsplit(page.url).query).get(name, [None])[0]


def test_naming_targets_another_way_keeps_them(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """By role, by name and back: the same modules each time, and in the end the very same address."""
    watched.goto(f"{address}calculator.html?method=lora&model=llama_2_7b&r=16&targets={ALL_ROLES}")
    roles, names = (watched.get_by_role("button", name=f"by {n}") for n in ("role", "module name"))
    wanted = kb["lora"].cost("llama_2_7b", r=16, target_modules="all-linear").trained
    assert out(watched, "trained") == wanted == 39_976_960
    for _ in range(2):
        names.click()
        assert out(watched, "trained") == wanted
        assert asked(watched, "modules") == "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
        expect(watched.get_by_role("checkbox", name="gate_proj")).to_be_checked()
        roles.click()
        assert out(watched, "trained") == wanted
        assert (asked(watched, "targets"), asked(watched, "modules")) == (ALL_ROLES, None)
        expect(watched.get_by_role("checkbox", name="mlp.gate")).to_be_checked()
    names.click()
    watched.get_by_role("checkbox", name="gate_proj").uncheck()
    fewer = out(watched, "trained")
    roles.click()
    assert out(watched, "trained") == fewer < wanted
    expect(watched.get_by_role("checkbox", name="mlp.gate")).not_to_be_checked()


def test_default_targets_are_the_defaults_again(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model=llama_2_7b")
    trained = out(watched, "trained")
    watched.get_by_role("button", name="by module name").click()
    expect(field(watched, "Module names, as peft's target_modules")).to_have_value("q_proj, v_proj")
    assert out(watched, "trained") == trained
    watched.get_by_role("button", name="by role").click()
    assert (asked(watched, "targets"), asked(watched, "modules")) == (None, None)
    watched.get_by_role("button", name="by module name").click()
    field(watched, "Model").select_option("t5_base")    # which has no q_proj
    watched.get_by_role("button", name="by role").click()
    expect(watched.get_by_role("checkbox", name="xattn.q")).to_be_checked()


def test_targets_without_another_name_stay(watched: Page, address: str) -> None:
    """A slice of a fused module has no name in peft, and some layers have no role: both are counted until replaced."""
    watched.goto(f"{address}calculator.html?method=lora&model=gpt2&targets=attn.q")
    trained, note = out(watched, "trained"), watched.locator("[data-kept]")
    watched.get_by_role("button", name="by module name").click()
    assert (out(watched, "trained"), asked(watched, "targets")) == (trained, "attn.q")
    expect(note).to_have_text("No module names mean exactly attn.q here. Counted until you name modules.")
    watched.get_by_role("checkbox", name="c_attn").check()
    assert (asked(watched, "targets"), asked(watched, "modules")) == (None, "c_attn")
    expect(note).to_have_text("")
    fused = out(watched, "trained")
    watched.get_by_role("button", name="by role").click()
    assert out(watched, "trained") == fused
    expect(watched.get_by_role("checkbox", name="attn.qkv")).to_be_checked()
    watched.goto(f"{address}calculator.html?method=lora&model=llama_2_7b&modules=3.self_attn.v_proj")
    trained = out(watched, "trained")
    watched.get_by_role("button", name="by role").click()
    assert (out(watched, "trained"), asked(watched, "modules")) == (trained, "3.self_attn.v_proj")
    expect(note).to_have_text("No roles mean exactly 3.self_attn.v_proj here. Counted until you choose roles.")
    watched.get_by_role("checkbox", name="attn.o").check()
    assert (asked(watched, "targets"), asked(watched, "modules")) == ("attn.o", None)


@pytest.mark.parametrize("model", ["llama_2_7b", "gpt2", "roberta_base", "t5_base"])
def test_all_linear_is_one_click(watched: Page, address: str, kb: KnowledgeBase, model: str) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model={model}")
    usual = out(watched, "trained")
    watched.get_by_role("checkbox", name="all-linear").check()
    assert out(watched, "trained") == kb["lora"].cost(model, target_modules="all-linear").trained
    watched.get_by_role("checkbox", name="all-linear").uncheck()
    assert out(watched, "trained") == usual


SWITCHED = """methods => {
    const tool = document.querySelector("peft-calculator"), state = tool.state, wrong = [];
    const count = () => peft.cost(state.method, tool.question()).trained;
    const said = () => JSON.stringify([state.targets, state.modules]);
    let n = 0;
    for (const method of methods) for (const model of Object.keys(peft.data.models)) {
        Object.assign(state, { method, model, values: {}, task: null });
        const roles = peft.roles(method, { model }), name = peft.endings({ model })[0];
        const every = [[null, null], [roles, null], [roles.slice(0, 1), null], [null, "all-linear"], [null, [name]]];
        for (const asked of every) {
            [state.targets, state.modules] = asked;
            state.named = asked[1] !== null;
            let before;
            try { before = count(); } catch (error) { if (!error.user) throw error; continue; }
            const words = said();
            tool.rename(!state.named);
            const there = count();
            tool.rename(!state.named);
            if (there !== before || said() !== words) wrong.push([method, model, asked, before, there]);
            n++;
        }
    }
    return [n, wrong];
}"""


def test_targets_are_kept_on_every_model(page: Page, address: str, kb: KnowledgeBase) -> None:
    page.goto(f"{address}calculator.html")
    switched, wrong = page.evaluate(SWITCHED, ["lora", "ia3"])
    assert wrong == []
    assert switched > 4 * len(kb.models)


def test_layers_are_listed(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model=llama_3_8b&modules=q_proj,3.self_attn.v_proj")
    watched.get_by_text("Per layer").click()
    rows = watched.locator(".pf-layers tbody tr")
    assert [r.split("\t")[0] for r in rows.all_inner_texts()] == ["decoder 0–2", "decoder 3", "decoder 4–31"]


def test_copied_code_gives_what_is_shown(clipboard: Page, address: str, kb: KnowledgeBase) -> None:
    page = clipboard
    page.goto(f"{address}calculator.html?method=lora&model=llama_3_8b&r=16&alpha=32&targets=attn.q&dtype=bfloat16")
    trained = out(page, "trained")
    cost = page.locator(".pf-calc").first
    cost.get_by_role("button", name="Python").click()
    cost.get_by_role("button", name="Copy", exact=True).click()
    scope: dict[str, Any] = {}
    exec(page.evaluate("navigator.clipboard.readText()"), scope)
    assert (scope["cost"].trained, scope["cost"].dtype) == (trained, "bfloat16")
    cost.get_by_role("button", name="peft", exact=True).click()
    cost.get_by_role("button", name="Copy", exact=True).click()
    exec(page.evaluate("navigator.clipboard.readText()"), scope)
    config = scope["config"]
    assert (config.r, config.lora_alpha, config.target_modules) == (16, 32, {"q_proj"})


@pytest.mark.filterwarnings("ignore:aLoRA is currently only supported")
@pytest.mark.filterwarnings("ignore:No value was provided for")     # files that X-LoRA needs and nobody has here
def test_every_peft_call_is_one_that_peft_takes(page: Page, address: str, kb: KnowledgeBase) -> None:
    page.goto(f"{address}calculator.html")
    script = """ids => { const c = document.querySelector("peft-calculator"); return ids.map(([id, model]) => {
        Object.assign(c.state, { method: id, model: model, values: {}, targets: null, modules: null, task: null });
        return c.peft(); }); }"""
    asked = [(m, model) for m in kb for model in ("llama_3_2_1b", "t5_small", "roberta_base")]
    codes = dict(zip(asked, page.evaluate(script, asked), strict=True))
    made = {key: code for key, code in codes.items() if code}
    assert {"lora", "adalora", "ia3", "prefix_tuning", "prompt_tuning"} <= {m for m, _ in made}
    for key, code in made.items():
        if "CPTConfig" in code and "CAUSAL_LM" not in code:
            continue  # peft has it for causal models only
        scope: dict[str, Any] = {}
        exec(code, scope)
        assert isinstance(scope["config"], peft.PeftConfig), key


def test_memory_of_a_step_is_that_of_python(
    clipboard: Page, address: str, kb: KnowledgeBase, capsys: pytest.CaptureFixture[str]
) -> None:
    page = clipboard
    page.goto(f"{address}calculator.html?method=lora&model=llama_3_8b&r=16")
    parts = ("peak", *PARTS)
    field(page, "Batch").fill("4")
    field(page, "Length").fill("1000")
    field(page, "Optimizer").select_option("adafactor")
    field(page, "Frozen matrices").select_option("nf4")
    page.get_by_role("checkbox", name="gradient checkpointing").check()
    given: dict[str, Any] = {"optimizer": "adafactor", "quantized": "nf4", "checkpointing": True}
    found = kb["lora"].memory("llama_3_8b", batch=4, seq=1000, r=16, **given)
    for _ in range(2):
        assert {name: out(page, name) for name in parts} == {name: getattr(found, name) for name in parts}
        expect(page.locator("[data-out=phase]")).to_have_text(found.phase)
        page.reload()
    step = page.locator(".pf-step")
    step.get_by_role("button", name="Copy", exact=True).click()
    line = page.evaluate("navigator.clipboard.readText()")
    assert _cli.main([*shlex.split(line)[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peak"] == found.peak
    step.get_by_role("button", name="Python").click()
    step.get_by_role("button", name="Copy", exact=True).click()
    scope: dict[str, Any] = {}
    exec(page.evaluate("navigator.clipboard.readText()"), scope)
    assert scope["memory"] == found


def test_memory_that_is_not_known_is_told_in_one_line(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?method=lora&model=llama_2_7b&seq=4097")
    told = watched.locator(".pf-step").get_by_role("status")
    expect(told).to_have_text("seq: found 4,097; Llama 2 7B has 4,096 positions")
    expect(field(watched, "Length")).to_have_attribute("aria-invalid", "true")
    field(watched, "Length").fill("4 k")
    expect(told).to_have_text("seq: found 4 k; expected a whole number from 1")
    field(watched, "Length").fill("4096")
    assert out(watched, "peak") > 0


# Compare.


def test_five_methods_are_compared_and_taken_along(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """Journey 3."""
    watched.goto(address)
    watched.locator(".pf-doorway a[href='compare.html']").click()
    expect(watched.locator("[data-remove]").first).to_be_visible()
    while watched.locator("[data-remove]").count():
        watched.locator("[data-remove]").first.click()
    methods = ("lora", "adalora", "ia3", "prefix_tuning", "prompt_tuning")
    for method in methods:
        field(watched, "Add a method (up to 6)").fill(kb[method].name)
        watched.keyboard.press("Enter")
    field(watched, "Model").select_option("t5_base")
    costs = {m: kb[m].cost("t5_base") for m in methods}
    assert cells(watched, "trained") == [f"{costs[m].trained:,}" for m in methods]
    watched.get_by_role("button", name="Trained", exact=True).click()
    expect(watched.locator("[data-row=trained] th")).to_have_attribute("aria-sort", "ascending")
    ordered = sorted(methods, key=lambda m: costs[m].trained)
    assert cells(watched, "trained") == [f"{costs[m].trained:,}" for m in ordered]
    with watched.expect_download() as download:
        watched.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
    assert [(r["id"], int(r["trained"]), int(r["stored_bytes"])) for r in rows] == [
        (m, costs[m].trained, costs[m].stored_bytes) for m in ordered
    ]
    with watched.expect_download() as download:
        watched.get_by_role("button", name="Download LaTeX").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert text.count(r" \\") == 6
    assert f"{costs['lora'].trained:,}" in text
    again = watched.url
    watched.goto("about:blank")
    watched.goto(again)
    assert cells(watched, "trained") == [f"{costs[m].trained:,}" for m in ordered]


def cells(page: Page, row: str) -> list[str]:
    return [c.strip() for c in page.locator(f"[data-row={row}] td").all_inner_texts()]


def test_the_same_budget_gives_the_largest_settings(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}compare.html?methods=lora,prompt_tuning,adalora&model=llama_3_8b")
    watched.get_by_role("checkbox", name="the same budget for all").check()
    field(watched, "Trained in each").fill("10M")
    assert cells(watched, "setting")[0].startswith("r = 23")
    assert kb["lora"].cost("llama_3_8b", r=23).trained <= 10_000_000 < kb["lora"].cost("llama_3_8b", r=24).trained
    assert "trains 20,973,312 at its smallest (init_r = 8)" in cells(watched, "trained")[2]
    assert "budget=10M" in watched.url


def test_only_what_differs_is_shown(watched: Page, address: str) -> None:
    watched.goto(f"{address}compare.html?methods=lora,lora_fa&model=llama_3_8b")
    everything = watched.locator("[data-row]").count()
    watched.get_by_role("checkbox", name="only what differs").check()
    assert 1 < watched.locator("[data-row]").count() < everything
    for row in watched.locator("[data-row]:not([data-row=setting])").all():
        texts = row.locator("td").all_inner_texts()
        assert len(set(texts)) > 1, texts


def test_a_column_has_its_own_setting(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}compare.html?methods=lora,adalora&model=roberta_base")
    box = field(watched, "r of LoRA")
    box.fill("")
    box.press_sequentially("32")
    assert cells(watched, "trained")[0] == f"{kb['lora'].cost('roberta_base', r=32).trained:,}"
    assert "lora.r=32" in watched.url
    box.fill("0")
    assert "r >= 1" in cells(watched, "trained")[0]
    expect(field(watched, "r of LoRA")).to_be_focused()


def test_the_picture_says_in_words_what_it_shows(watched: Page, address: str, kb: KnowledgeBase) -> None:
    watched.goto(f"{address}compare.html?methods=lora,prompt_tuning&model=roberta_base&seq=128")
    told = watched.locator(".pf-plot > svg").first.get_attribute("aria-label") or ""
    assert f"LoRA: {kb['lora'].cost('roberta_base').trained:,} trained" in told
    assert watched.locator(".pf-plot > svg .mark").count() == 6
    told = watched.locator(".pf-plot--memory > svg").get_attribute("aria-label") or ""
    peak = kb["lora"].memory("roberta_base", batch=1, seq=128).peak
    assert f"LoRA: {binary_text(peak)}, of which" in told
    assert watched.locator(".pf-plot--memory > svg rect").count() == 2 * len(PARTS)


DRAWN = """() => [...document.querySelectorAll(".pf-plot > svg")].map(svg => ({
    scale: svg.getScreenCTM().a, width: svg.getBoundingClientRect().width,
    letters: [...new Set([...svg.querySelectorAll("text")].map(t => parseFloat(getComputedStyle(t).fontSize)))],
}))"""
"""How each chart is drawn: its scale on the screen, its width, and the sizes of its letters at scale 1."""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_charts_keep_their_size_whatever_changes(browser: Browser, address: str, width: int) -> None:
    """After methods are added and removed, and settings and the window change, a chart is drawn at its own scale."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    complaints = watch(page)
    page.goto(f"{address}compare.html?methods=lora,ia3&model=roberta_base")
    expect(page.locator(".pf-plot > svg")).to_have_count(2)
    first = page.evaluate(DRAWN)
    assert all(chart["scale"] == pytest.approx(1, abs=0.02) and max(chart["letters"]) < 13 for chart in first), first
    field(page, "Add a method (up to 6)").fill("BitFit")
    page.keyboard.press("Enter")
    expect(page.locator("[data-remove]")).to_have_count(3)
    assert page.evaluate(DRAWN) == first
    field(page, "r of LoRA").fill("32")
    assert page.evaluate(DRAWN) == first
    field(page, "Model").select_option("t5_base")
    assert page.evaluate(DRAWN) == first
    page.get_by_role("button", name="Remove BitFit").click()
    expect(page.locator("[data-remove]")).to_have_count(2)
    assert page.evaluate(DRAWN) == first
    page.get_by_role("checkbox", name="the same budget for all").check()
    assert page.evaluate(DRAWN) == first
    page.get_by_text("Training step", exact=True).click()
    field(page, "Length").fill("none")
    expect(page.locator(".pf-plot--memory")).to_be_hidden()
    field(page, "Length").fill("512")
    assert page.evaluate(DRAWN) == first
    page.set_viewport_size({"width": width - 60, "height": 900})
    page.wait_for_function(f"({DRAWN})().every(c => c.width < {first[0]['width']} && Math.abs(c.scale - 1) < 0.02)")
    context.close()
    assert complaints == []


def test_memory_is_compared_at_the_chosen_step(watched: Page, address: str, kb: KnowledgeBase) -> None:
    methods = ("lora", "full_fine_tuning", "ia3")
    watched.goto(f"{address}compare.html?methods={','.join(methods)}&model=llama_2_7b&lora.r=64")
    watched.get_by_text("Training step", exact=True).click()
    field(watched, "Batch").fill("2")
    watched.get_by_role("checkbox", name="gradient checkpointing").check()
    given: dict[str, Any] = {"batch": 2, "seq": 512, "checkpointing": True}
    memories = {m: kb[m].memory("llama_2_7b", **given, **({"r": 64} if m == "lora" else {})) for m in methods}
    assert cells(watched, "peak") == [binary_text(memories[m].peak) for m in methods]
    watched.get_by_role("button", name="Peak memory").click()
    ordered = sorted(methods, key=lambda m: memories[m].peak)
    assert cells(watched, "activations") == [binary_text(memories[m].activations) for m in ordered]
    with watched.expect_download() as download:
        watched.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
    for row in rows:
        assert {p: int(row[f"{p}_bytes"]) for p in PARTS} == {p: getattr(memories[row["id"]], p) for p in PARTS}
        assert (row["step_batch"], row["step_checkpointing"]) == ("2", "true")
    with watched.expect_download() as download:
        watched.get_by_role("button", name="Download LaTeX").click()
    assert binary_text(memories["lora"].peak) in download.value.path().read_text(encoding="utf-8")
    watched.reload()
    assert cells(watched, "peak") == [binary_text(memories[m].peak) for m in ordered]


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
        assert kb[method].entry.properties.merge == "exact"
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
    found = {m: largest(kb[m].on("llama_2_7b").step, {}, setting, "batch", gpu) for m in ("lora", "ia3")}
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


# The security policy.


def test_every_page_has_a_strict_policy_first(site: Path) -> None:
    for path in sorted(site.rglob("*.html")):
        head = path.read_text(encoding="utf-8")
        policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', head)
        assert policy, path
        assert policy.start() < head.find("<script"), path
        rules = dict(rule.strip().partition(" ")[::2] for rule in policy[1].split(";"))
        assert re.fullmatch(r"'self'( 'sha256-[\w+/=]+')*", rules["script-src"]), path
        assert rules["default-src"] == rules["object-src"] == rules["base-uri"] == "'none'"
        assert "unsafe-eval" not in policy[1]
        assert not re.search(r"https?:|\*", policy[1])
        assert not re.search(r"<[^>]+\son\w+=", re.sub(r"<script.*?</script>", "", head, flags=re.DOTALL)), path


def test_the_policy_refuses_nothing_of_ours_in_a_folder(watched: Page, site: Path) -> None:
    """One page of each kind; every page from a server is visited in `test_browser`."""
    watched.add_init_script(REPORT_REFUSALS)
    for name in PLAIN_KINDS:
        if name != "404.html":  # which only a server shows, from any depth
            watched.goto((site / name).as_uri())


@pytest.mark.parametrize("way", ["server", "folder"])
def test_the_policy_refuses_what_is_put_in(page: Page, address: str, site: Path, way: str) -> None:
    refused: list[str] = []
    page.on("console", lambda m: refused.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(f"{address}methods/lora.html" if way == "server" else (site / "methods" / "lora.html").as_uri())
    page.evaluate("""() => {
        const inline = document.createElement("script");
        inline.textContent = "window.hacked = 1";
        document.body.append(inline);
        const foreign = document.createElement("script");
        foreign.src = "https://example.org/x.js";
        document.body.append(foreign);
        const box = document.createElement("div");
        box.innerHTML = '<img src="data:," onerror="window.hacked = 2">'
            + '<a id="x" href="javascript:window.hacked=3">x</a>'
            + '<iframe srcdoc="<script>parent.hacked = 4</script>"></iframe><object data="x.swf"></object>';
        document.body.append(box);
        document.getElementById("x").click();
    }""")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert len(refused) >= 4, refused


# Accessibility.


def violations(page: Page, *, colours: bool = False) -> list[tuple[str, list[str]]]:
    """What axe finds wrong, or wrong with the colours only."""
    if not page.evaluate("typeof axe === 'object'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if colours:
        options["runOnly"] = {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [(v["id"], [n["html"][:160] for n in v["nodes"]][:4]) for v in found["violations"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", KINDS)
def test_axe_finds_nothing(browser: Browser, address: str, path: str, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(address + path)
    page.wait_for_timeout(200)
    for details in page.locator("peft-calculator details").all():
        details.locator("summary").click()
    assert violations(page, colours=scheme == "dark") == []     # the rest is the same in both
    context.close()


def test_axe_finds_nothing_on_a_phone(browser: Browser, address: str) -> None:
    context = browser.new_context(viewport=PHONE)  # type: ignore[arg-type]
    page = context.new_page()
    for path in KINDS[-4:]:
        page.goto(address + path)
        page.wait_for_timeout(200)
        assert violations(page) == [], path
    context.close()


def test_axe_can_find_something(page: Page, address: str) -> None:
    page.goto(f"{address}about.html")
    page.evaluate("document.querySelector('.md-search').removeAttribute('aria-label')")
    assert violations(page)

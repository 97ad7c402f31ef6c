"""The calculator and Compare as a reader uses them."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from typing import Any
from urllib.parse import parse_qs, urlsplit

import peft
import pytest
from playwright.sync_api import Browser, Page, expect

from peftonomy import KnowledgeBase
from peftonomy.backbones.backbone import Backbone
from peftonomy.cli import main as _cli
from peftonomy.files.output import binary_text
from peftonomy.memory.setting import PARTS
from peftonomy.memory.sharding import SHARD, RankMemory
from peftonomy.site._engine import SCRIPTS

from .browser_kit import watch
from .tools_kit import (
    CONFIG,
    cells,
    field,
    out,
)

pytestmark = pytest.mark.browser


# The calculator.


def test_a_pasted_config_is_counted(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """Journey 2: LoRA and AdaLoRA at three ranks on a config of one's own."""
    watched.goto(address)
    watched.locator(".pf-doorway a[href='calculator.html']").click()
    watched.get_by_role("button", name="Paste a config.json instead").click()
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
    field(watched, "Model").fill("t5_base")    # which has no q_proj
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
    field(page, "Optimizer").select_option("adamw")
    field(page, "GPUs").fill("8")
    for shard in SHARD:
        field(page, "Shared with").select_option(shard)
        rank = kb["lora"].memory("llama_3_8b", batch=4, seq=1000, r=16, **given | {"optimizer": "adamw"},
                                 gpus=8, shard=shard)  # fmt: skip
        page.reload()
        assert {name: out(page, name) for name in RankMemory.parts} == {n: getattr(rank, n) for n in RankMemory.parts}
        assert out(page, "peak") == rank.peak
    step.get_by_text("Options of FSDP").click()
    field(page, "Gradients reduced in").select_option("float32")
    refused = "reduce_dtype has no meaning for shard zero1; it is an option of fsdp"
    expect(step.get_by_role("status")).to_have_text(refused)
    field(page, "Shared with").select_option("fsdp")
    field(page, "After a layer's forward pass").select_option("no")
    field(page, "NF4 is held in").select_option("uint8")
    options: dict[str, Any] = {"reshard_after_forward": False, "reduce_dtype": "float32", "quant_storage": "uint8"}
    rank = kb["lora"].memory(
        "llama_3_8b", batch=4, seq=1000, r=16, **given | {"optimizer": "adamw"}, gpus=8, **options
    )
    page.reload()
    assert out(page, "peak") == rank.peak
    step.get_by_role("button", name="Copy", exact=True).click()
    assert _cli.main([*shlex.split(page.evaluate("navigator.clipboard.readText()"))[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peak"] == rank.peak
    step.get_by_role("button", name="Python").click()
    step.get_by_role("button", name="Copy", exact=True).click()
    exec(page.evaluate("navigator.clipboard.readText()"), scope)
    assert scope["memory"] == rank


def test_what_memory_needs_is_fetched_when_a_page_shows_it(watched: Page, address: str) -> None:
    fetched: list[str] = []
    watched.on("request", lambda request: fetched.append(request.url.rsplit("/", 1)[-1]))
    for asked in ("index.html", "methods/lora.html", "planner.html"):
        watched.goto(address + asked)
        watched.wait_for_load_state("networkidle")
    assert "data.js" in fetched
    assert not {f"{name}.js" for name in SCRIPTS}.intersection(fetched)
    watched.goto(f"{address}methods/lora.html#calculator")
    watched.locator(".pf-step").scroll_into_view_if_needed()
    assert out(watched, "peak") > 0
    assert {f"{name}.js" for name in SCRIPTS} <= {*fetched}


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


def test_a_combination_has_no_training_step(watched: Page, address: str) -> None:
    watched.goto(f"{address}calculator.html?method=ties_merging&model=gpt2")
    wanted = re.compile(r"TIES-Merging trains nothing, so it has no training step. It combines \d results of Full")
    watched.locator(".pf-step", has_text=wanted).wait_for()
    assert not watched.get_by_role("form", name="Training step").is_visible()
    watched.goto(f"{address}calculator.html?method=lora&model=gpt2")
    watched.get_by_role("form", name="Training step").wait_for()


def test_five_methods_are_compared_and_taken_along(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """Journey 3."""
    watched.goto(address)
    watched.locator(".pf-doorway a[href='compare.html']").click()
    expect(watched.locator("[data-remove]")).to_have_count(2)
    watched.get_by_role("button", name="Clear all").click()
    expect(watched.locator("[data-remove]")).to_have_count(0)
    methods = ("lora", "adalora", "ia3", "prefix_tuning", "prompt_tuning")
    for method in methods:
        field(watched, "Add a method (up to 6)").fill(kb[method].name)
        watched.keyboard.press("Enter")
    field(watched, "Model").fill("t5_base")
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


def test_methods_are_compared_in_words(watched: Page, address: str, kb: KnowledgeBase) -> None:
    """VeRA and LoRA-FA: each difference in a sentence, and beside the numbers what each of them does."""
    watched.goto(f"{address}compare.html?methods=vera,lora_fa")
    said = watched.locator(".pf-differences li")
    expect(said).to_have_text([f"{d.name}: {d.sentence}" for d in kb.compare("vera", "lora_fa").differences])
    expect(said.filter(has_text="shared by all targeted modules; LoRA-FA freezes")).to_have_count(1)
    for method in ("vera", "lora_fa"):
        card = watched.locator(f"[data-card={method}]")
        expect(card.locator(".pf-equation .katex").first).to_be_visible()
        expect(card.get_by_role("img", name="Where in a transformer block it acts")).to_be_visible()
        expect(card).to_contain_text(kb[method].entry.summary)
        expect(card.get_by_text(re.compile(r"^\d+ deviations of implementations$"))).to_be_visible()
    field(watched, "Add a method (up to 6)").fill("LoRA")
    watched.keyboard.press("Enter")
    expect(said.first).to_contain_text("; LoRA ")
    field(watched, "Add a method (up to 6)").fill("DoRA")
    watched.keyboard.press("Enter")
    expect(watched.locator(".pf-inwords summary").filter(has_text="VeRA and DoRA")).to_be_visible()


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


def drawn_as(page: Page, wanted: list[dict[str, Any]]) -> None:
    """Wait until the charts are drawn as wanted. A page draws in a later frame than it reads."""
    page.wait_for_function(f"wanted => JSON.stringify(({DRAWN})()) === JSON.stringify(wanted)", arg=wanted)


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
    drawn_as(page, first)
    field(page, "r of LoRA").fill("32")
    drawn_as(page, first)
    field(page, "Model").fill("t5_base")
    drawn_as(page, first)
    page.get_by_role("button", name="Remove BitFit").click()
    expect(page.locator("[data-remove]")).to_have_count(2)
    drawn_as(page, first)
    page.get_by_role("checkbox", name="the same budget for all").check()
    drawn_as(page, first)
    page.get_by_text("Training step", exact=True).click()
    field(page, "Length").fill("none")
    expect(page.locator(".pf-plot--memory")).to_be_hidden()
    field(page, "Length").fill("512")
    drawn_as(page, first)
    page.set_viewport_size({"width": width - 60, "height": 900})
    smaller = f"() => ({DRAWN})().every(c => c.width < {first[0]['width']} && Math.abs(c.scale - 1) < 0.02)"
    page.wait_for_function(smaller)     # a function: the page's policy forbids to evaluate an expression again
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

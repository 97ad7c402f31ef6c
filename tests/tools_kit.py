"""What tests of the site's tools share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page

from .browser_kit import watch

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
TOOLS = ("calculator.html", "compare.html", "planner.html")
KINDS = (
    "index.html", "methods/index.html", "methods/lora.html", "categories/additive.html", "models/t5_base.html",
    "taxonomy.html", "api.html", "about.html",
    "calculator.html?method=lora&model=pasted", "calculator.html?model=llama_3_8b&modules=all-linear&r=0",
    "compare.html?methods=lora,ia3,prefix_tuning&model=roberta_base&sort=trained&budget=1M",
    "planner.html?gpu=24+GiB&seq=2048&trained=5M&need=mergeable", "memory.html",
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


def cells(page: Page, row: str) -> list[str]:
    return [c.strip() for c in page.locator(f"[data-row={row}] td").all_inner_texts()]

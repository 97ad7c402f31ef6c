"""The group `address`: queries and fragments of the site's pages, opened in a browser."""

from __future__ import annotations

import random
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, quote_plus

from . import kit
from .kit import Case, World

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STEP = (
    "batch", "seq", "checkpointing", "optimizer", "attention", "quantized", "dtype", "weight", "task", "labels",
    "config",
)  # fmt: skip
PAGES: dict[str, tuple[str, ...]] = {
    "calculator.html": ("method", "model", "targets", "modules", "r", "alpha", *STEP),
    "compare.html": ("methods", "model", "budget", "diff", "sort", "desc", "lora.r", "targets", *STEP),
    "planner.html": ("gpu", "model", "need", "library", "trained", "by", "anywhere", *STEP),
    "idea.html": ("acts_on", "freezes", "like", "targets"),
    "methods/index.html": ("where", "model", "category", "sort", "q", "library"),
    "methods/lora.html": ("model", "r", "targets", *STEP), "taxonomy.html": ("by", "q"),
    "memory.html": ("model", *STEP),
    "models/bert_base.html": ("sort",), "survey.html": ("q",), "index.html": ("q",), "names.html": ("q",),
}  # fmt: skip
"""Pages with the fields of their addresses, and others that they might have."""
TOOLS = ("calculator.html", "compare.html", "planner.html", "idea.html")
TEXTS = (
    "constructor", "__proto__", "toString", "hasOwnProperty", "lora.__proto__", "<img src=x onerror=alert(1)>", "lora",
    "lora,ia3", "ia3,lora,lora,lroa", "gpt2", "bert_base", "pasted", "24 GiB", "1e400", "-0", "1.5", "mergeable",
    "all-linear", '{"model_type": "llama"}', '{"model_type": "constructor"}', '{"__proto__": {"x": 1}}', "[" * 2_000,
    "(a+)+$", "%", "%00",
)  # fmt: skip


class Tab(NamedTuple):
    """A page of a browser, the address of the site, and what the page has complained of."""

    page: Page
    address: str
    complaints: list[str]


def tab(folder: Path, stack: ExitStack) -> Tab:
    """Build the site, serve it and open a browser, until the stack closes."""
    from playwright.sync_api import sync_playwright

    from ..browser_kit import built, served, watch

    name = next(filter(None, map(shutil.which, BROWSERS)))
    serving = served(built(folder, kit.ROOT))
    address = next(serving)
    stack.callback(lambda: next(serving, None))
    browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=name)
    stack.callback(browser.close)
    page = browser.new_page()
    return Tab(page, address, watch(page))


def address(rng: random.Random, world: World) -> Case:
    """Open a page at a strange address. It must neither fail nor run anything, and must report unknown words."""
    if "tab" not in world.__dict__:
        world.__dict__["tab"] = tab(world.folder / "site", world.stack)
    return opened(world.__dict__["tab"], drawn(rng, world))


def drawn(rng: random.Random, world: World) -> str:
    """Return the end of an address."""
    page = rng.choice([*PAGES, *TOOLS, *TOOLS])
    fields = rng.sample(PAGES[page], rng.randint(1, min(4, len(PAGES[page]))))
    pairs = [(field, _value(rng, world)) for field in fields]
    if rng.random() < 0.2:
        pairs.append((rng.choice(["x", "__proto__", "constructor", kit.misspelt(rng, "model") or "x"]), "1"))
    asked = "&".join(f"{quote_plus(name)}={quote_plus(value.encode('utf-8', 'replace'))}" for name, value in pairs)
    if rng.random() < 0.1:
        asked += rng.choice(["&", "=", "&&=", "%", "%E0%A4%A", "#%E0%A4%A", "#<script>", "#lora"])
    elif rng.random() < 0.15:
        asked += "#" + quote(_value(rng, world).encode("utf-8", "replace"))
    return f"{page}?{asked}"


def _value(rng: random.Random, world: World) -> str:
    one = rng.choice((*TEXTS, *TEXTS, rng.choice([*world.kb]), rng.choice(world.small), *kit.TEXTS))
    return (kit.misspelt(rng, one) if rng.random() < 0.1 else one)[:3_000]


def opened(where: Tab, end: str) -> Case:
    """Open an address and judge the page."""
    page, complaints = where.page, where.complaints
    complaints.clear()
    dialogs: list[str] = []

    def noted(dialog: object) -> None:
        dialogs.append("a dialog")
        dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", noted)
    page.goto("about:blank")
    try:
        page.goto(where.address + end)
        page.wait_for_load_state("networkidle")
        shown = page.locator("main").first.inner_text()
        injected = page.locator("main img[src=x], main iframe, main [onerror], main [onclick]").count()
    except Exception as error:  # of playwright
        return Case(end, [f"the page does not answer: {str(error)[:200]}"])
    finally:
        page.remove_listener("dialog", noted)
    problems = [f"complaint: {one[:200]}" for one in complaints] + dialogs
    problems += ["the page holds what was written in the address"] * bool(injected)
    for word in ("undefined", "NaN", "[object", "function ("):
        if word in shown and word not in end:
            problems.append(f"wrong answer: the page shows {word!r}: {shown[max(0, shown.index(word) - 60):][:120]!r}")
    if end.startswith(TOOLS) and ("?x=" in end or "&x=" in end) and not page.locator(".pf-odd").count():
        problems.append("wrong answer: the page does not report an unknown field")
    return Case(end[:600], problems)

"""How long a keystroke keeps the tools of the site busy, and until the next frame is painted.

`python benchmarks/keystrokes.py` prints a table. The site is built and opened from its folder in a headless Chromium
(CHROMIUM names it); each field of a tool is typed into twenty times. A screen that is drawn 60 times a second leaves
16.7 ms. What a tool fetches when it is first used is there before the clock starts.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile

from playwright.sync_api import Page, sync_playwright

import peftonomy
from peftonomy.site import build

NUMBERS = [str(n) for n in range(4, 24)]
WORDS = ["l", "lo", "low", "low r", "low ra", "low ran", "low rank", "adapter", "prefix", "quantised", "mixture"]
ASKED = (  # page, field, what is typed
    ("calculator.html?method=lora&model=llama_3_1_405b", "peft-calculator input.pf-input", NUMBERS),
    ("methods/full_fine_tuning.html?model=t0_11b&task=seq_cls", "peft-calculator input.pf-input", NUMBERS),
    ("compare.html?methods=lora,adalora,prefix_tuning,ia3,bitfit,warp&budget=10M", "peft-compare .pf-input", NUMBERS),
    ("planner.html?gpu=24+GiB", "peft-choose .pf-input", NUMBERS),
    ("index.html", ".pf-search__field", WORDS),
    ("methods/index.html", "main input[type=search]", WORDS),
    ("taxonomy.html", "#pf-graph-find", WORDS),
    ("references.html", "[data-filter]", WORDS),
    ("deviations.html", "[data-filter]", WORDS),
    ("memory.html", "[data-filter]", WORDS),
)
TYPE = """async ([selector, texts]) => {
    const fields = [...document.querySelectorAll(selector)].filter(f => f.tagName === "INPUT");
    const input = fields.find(f => f.value) || fields[0];
    const painted = () => new Promise(done => requestAnimationFrame(() => {
        const channel = new MessageChannel();
        channel.port1.onmessage = done;
        channel.port2.postMessage(0);
    }));
    const busy = [], shown = [];
    for (const text of texts) {
        await painted();
        input.value = text;
        const start = performance.now();
        input.dispatchEvent(new Event("input", { bubbles: true }));
        busy.push(performance.now() - start);
        await painted();
        shown.push(performance.now() - start);
    }
    return [busy, shown];
}"""
"""Milliseconds from each event until its handlers have returned, and until the next frame has been painted."""


def typed(page: Page, address: str, field: str, texts: list[str]) -> tuple[list[float], list[float]]:
    """The times of all keystrokes in one field."""
    page.goto(address, wait_until="networkidle")
    if field.startswith(".pf-search"):
        page.keyboard.press("/")
        page.locator(field).fill("a")
        page.locator(".pf-found").first.wait_for()
    busy, shown = page.evaluate(TYPE, [field, texts])
    return busy, shown


def main() -> None:
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = build(peftonomy.load(), folder)
        page = playwright.chromium.launch(executable_path=chromium).new_page()
        print(f"{platform.machine()}, {os.cpu_count()} cores\n\n| tool | busy | longest | next paint | longest |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for asked, field, texts in ASKED:
            cells = [f"{f(t):.1f} ms" for t in typed(page, f"{site.as_uri()}/{asked}", field, texts) for f in STATED]
            print(f"| `{asked}` | {' | '.join(cells)} |", flush=True)


STATED = (statistics.median, max)

if __name__ == "__main__":
    main()

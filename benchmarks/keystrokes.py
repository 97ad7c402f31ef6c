"""How long a keystroke keeps the tools of the site busy: `python benchmarks/keystrokes.py` prints a table.

The site is built and opened in a headless Chromium (CHROMIUM names it); a first number is typed forty times anew in
each tool. A screen that is drawn 60 times a second leaves 16.7 ms.
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

ASKED = (
    "calculator.html?method=lora&model=llama_3_1_405b",
    "methods/full_fine_tuning.html?model=t0_11b&task=seq_cls",
    "compare.html?methods=lora,adalora,prefix_tuning,ia3,bitfit,warp&budget=10M",
    "planner.html?gpu=24+GiB",
)
TYPE = """() => {
    const tool = document.querySelector("peft-calculator, peft-compare, peft-choose"), times = [];
    const fields = [...tool.querySelectorAll(".pf-input")].filter(f => f.tagName === "INPUT" && f.value);
    const input = fields[0] || tool.querySelector("input.pf-input");
    for (let i = 0; i < 40; i++) {
        input.value = String(4 + i);
        const start = performance.now();
        input.dispatchEvent(new Event("input", { bubbles: true }));
        times.push(performance.now() - start);
    }
    return times;
}"""
"""Milliseconds from each event until its handlers have returned."""


def typed(page: Page, address: str) -> tuple[float, float]:
    """Median and longest of the keystrokes in the tool of a page."""
    page.goto(address)
    times = page.evaluate(TYPE)
    return statistics.median(times), max(times)


def main() -> None:
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = build(peftonomy.load(), folder)
        page = playwright.chromium.launch(executable_path=chromium).new_page()
        print(f"{platform.machine()}, {os.cpu_count()} cores\n\n| tool | median | longest |\n| --- | ---: | ---: |")
        for asked in ASKED:
            middle, longest = typed(page, f"{site.as_uri()}/{asked}")
            print(f"| `{asked}` | {middle:.1f} ms | {longest:.1f} ms |", flush=True)


if __name__ == "__main__":
    main()

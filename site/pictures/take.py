"""Take the README's pictures: build the site, open it in a headless Chromium, save small PNGs beside this file.

Run by `make pictures`; CHROMIUM names the browser.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import peftonomy
from peftonomy.site import build

HERE = Path(__file__).parent
SHOTS = [  # file, page, colours, width, height
    ("home.png", "index.html", "light", 1280, 820),
    ("calculator.png", "methods/lora.html#calculator", "light", 1280, 820),
    ("taxonomy.png", "taxonomy.html#lora", "dark", 1280, 1400),
    ("phone.png", "methods/adalora.html", "dark", 390, 780),
]


def take(browser: Browser, site: Path, name: str, page: str, scheme: str, width: int, height: int) -> Path:
    """One picture of one page of the built site, opened from its file."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    try:
        tab = context.new_page()
        tab.goto(f"{site.as_uri()}/{page}", wait_until="networkidle")
        tab.evaluate("document.fonts.ready")
        tab.wait_for_timeout(300)
        tab.screenshot(path=HERE / name)
    finally:
        context.close()
    return HERE / name


def main() -> None:
    """Take all pictures and print their paths."""
    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        site = build(peftonomy.load(HERE.parent.parent), folder)
        browser = playwright.chromium.launch(executable_path=chromium)
        for name, page, scheme, width, height in SHOTS:
            print(take(browser, site, name, page, scheme, width, height))
        browser.close()


if __name__ == "__main__":
    main()

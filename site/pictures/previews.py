"""Draw the pictures that links to the site show, one per kind of page, with a headless Chromium.

Run by `make pictures` after a change of the name, the colours or the taxonomy; CHROMIUM names the browser. They are
committed in `site/assets/previews`, since a build has no browser. They hold no number, which could grow old.
"""

from __future__ import annotations

import os
import shutil
from html import escape
from pathlib import Path

from playwright.sync_api import sync_playwright

import peftonomy
from peftonomy.site._lists import picture
from peftonomy.site._site import PREVIEWS, Site

ASSETS = Path(__file__).parents[1] / "assets"
SIZE = {"width": 1200, "height": 630}
SAID = {
    "home": "Fine-tuning methods, counted to the last parameter",
    "method": "A method: its tensors, its counts and what they rest on",
    "model": "A model: every parameter by module, and every method on it",
    "tool": "A calculator for parameter-efficient fine-tuning",
    "page": "A knowledge base of parameter-efficient fine-tuning",
}
STYLE = """
* { margin: 0; box-sizing: border-box }
body { width: 1200px; height: 630px; display: grid; grid-template-columns: 1fr 520px; gap: 40px; align-items: center;
    padding: 60px 50px 60px 80px; overflow: hidden }
h1 { font: 600 36px Card; color: var(--pf-accent); margin-bottom: 28px }
p { font: 600 64px/1.08 Card; letter-spacing: -.02em; color: var(--pf-ink); text-wrap: balance }
.pf-radial { width: 520px; height: auto }
"""


def page(site: Site, said: str) -> str:
    """The document that is photographed."""
    sheet = (ASSETS / "peftonomy.css").as_uri(), (ASSETS / "overview.css").as_uri()
    font = (ASSETS.parent / "vendor" / "fonts" / "source-serif-4.woff2").as_uri()
    face = f'@font-face {{ font-family: "Card"; src: url({font}); font-weight: 200 900 }}'
    links = "".join(f'<link rel="stylesheet" href="{address}">' for address in sheet)
    body = f"<main><h1>peftonomy</h1><p>{escape(said)}</p></main>{picture(site, labels=False)}"
    return f'<meta charset="utf-8">{links}<style>{face}{STYLE}</style><body data-md-color-scheme="default">{body}'


def main() -> None:
    site, chromium = Site(peftonomy.load()), shutil.which(os.environ.get("CHROMIUM", "chromium"))
    assert {*PREVIEWS.values(), "page"} == {*SAID}
    (ASSETS / "previews").mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        tab = playwright.chromium.launch(executable_path=chromium).new_page(viewport=SIZE)  # type: ignore[arg-type]
        for kind, said in SAID.items():
            source = ASSETS / "previews" / f"{kind}.html"
            source.write_text(page(site, said), encoding="utf-8")
            tab.goto(source.as_uri(), wait_until="networkidle")
            tab.evaluate("document.fonts.ready")
            tab.screenshot(path=ASSETS / "previews" / f"{kind}.jpg", type="jpeg", quality=82)
            source.unlink()


if __name__ == "__main__":
    main()

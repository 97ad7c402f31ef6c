"""The security policy of every page, and axe over every kind of page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from .browser_kit import PHONE, search
from .test_browser import KINDS as PLAIN_KINDS
from .test_browser import REPORT_REFUSALS
from .tools_kit import AXE, KINDS

pytestmark = pytest.mark.browser


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
    page.goto(address + path, wait_until="networkidle")
    for details in page.locator("peft-calculator details").all():
        details.locator("summary").click()
    assert violations(page, colours=scheme == "dark") == []     # the rest is the same in both
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_search(browser: Browser, address: str, scheme: Any) -> None:
    context = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.goto(address)
    search(page, "low rank")
    assert violations(page) == []
    page.get_by_role("combobox", name="Search").fill("")
    assert violations(page) == []
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
    page.evaluate("document.querySelector('.pf-searchopen').removeAttribute('aria-label')")
    page.evaluate("document.querySelector('.pf-searchopen').replaceChildren()")
    assert violations(page)

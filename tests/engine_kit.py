"""The site's engine in an embedded V8, to be asked as the page asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from py_mini_racer import MiniRacer

from peftonomy import KnowledgeBase
from peftonomy.site import _engine
from peftonomy.site._site import Site

ASSETS = Path(__file__).parent.parent / "site" / "assets"
ASK = (
    "function ask(name, given) {"
    "  try { return JSON.stringify(peft[name].apply(null, JSON.parse(given)),"
    "      (key, value) => typeof value === 'bigint' ? value.toString() : value); }"
    "  catch (e) { return JSON.stringify({ problem: e.message, user: !!e.user }); } }"
)


@contextmanager
def started(kb: KnowledgeBase, *scripts: str) -> Iterator[MiniRacer]:
    """These scripts of the site's with the data of a knowledge base."""
    context = MiniRacer()
    for name in scripts:
        context.eval((ASSETS / f"{name}.js").read_text(encoding="utf-8"))
    context.eval(_engine.script(Site(kb)))
    context.eval(ASK)
    try:
        yield context
    finally:
        context.close()


def ask(engine: MiniRacer, name: str, *given: Any) -> Any:
    """What a function of the engine answers; a refusal has a `problem`, and says whether it is the user's."""
    return json.loads(engine.call("ask", name, json.dumps(given)))

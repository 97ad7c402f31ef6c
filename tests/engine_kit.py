"""The site's engine in an embedded V8, to be asked as the page asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from py_mini_racer import MiniRacer

from peftonomy import KnowledgeBase
from peftonomy.site import _engine, _operations
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
    """The site's engine with the data of a knowledge base, and these scripts of the site's."""
    context, site = MiniRacer(), Site(kb)
    made = {"data": _engine.script, "programs": _operations.script}
    for name in ("engine", "data", *scripts):
        text = made[name](site) if name in made else (ASSETS / f"{name}.js").read_text(encoding="utf-8")
        context.eval(text)
    context.eval(ASK)
    try:
        yield context
    finally:
        context.close()


def ask(engine: MiniRacer, name: str, *given: Any) -> Any:
    """What a function of the engine answers; a refusal has a `problem`, and says whether it is the user's."""
    return json.loads(engine.call("ask", name, json.dumps(given)))

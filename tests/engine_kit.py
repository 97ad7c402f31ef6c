"""The site's engine in an embedded V8, to be asked as the page asks it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from py_mini_racer import MiniRacer

from peftonomy import KnowledgeBase, PeftonomyError
from peftonomy.memory.setting import Setting
from peftonomy.memory.sharding import OPTIONS, sharding
from peftonomy.site import _choices, _engine, _operations, _scripts
from peftonomy.site._site import Site

Answer = dict[str, Any]
SITE = Path(__file__).parent.parent / "site"
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
    made = {"data": _engine.script, "programs": _operations.script, "choices": _choices.script}
    bundles = _scripts.bundles(SITE)
    for name in ("engine", "data", *scripts):
        if name in made:
            text = made[name](site)
        elif name in bundles:
            text = bundles[name]
        else:
            text = (SITE / "assets" / f"{name}.js").read_text(encoding="utf-8")
        context.eval(text)
    context.eval(ASK)
    try:
        yield context
    finally:
        context.close()


def ask(engine: MiniRacer, name: str, *given: Any) -> Any:
    """What a function of the engine answers; a refusal has a `problem`, and says whether it is the user's."""
    return json.loads(engine.call("ask", name, json.dumps(given)))


# Memory.


def python(kb: KnowledgeBase, method: str, model: Any, more: Answer, setting: Answer) -> Answer:
    """Python's answer, as plain data, or its refusal. A step of one GPU is run: to derive its form takes longer."""
    where = {name: value for name, value in more.items() if name != "values"}
    try:
        shared = sharding(**{name: setting.get(name) for name in OPTIONS})
        step = Setting(**{name: value for name, value in setting.items() if name not in OPTIONS})
        training = kb[method].on(model, **where).training.shared(shared)
        memory = (training.memory if shared else training.once)(more.get("values", {}), step)
    except PeftonomyError as error:
        return {"problem": str(error)}
    answer: Answer = json.loads(json.dumps(memory.to_dict()))
    return answer


def differential(
    kb: KnowledgeBase, engine: MiniRacer, method: str, model: Any, more: Answer, setting: Answer
) -> Answer:
    """Compare one question; Python's answer. A model that reads no tokens is asked without a length."""
    if isinstance(model, dict) and "task" in model:
        model, more = {k: v for k, v in model.items() if k != "task"}, {"task": model["task"], **more}
    with suppress(PeftonomyError):
        backbone = kb.backbone(model)
        if not backbone.inventory(more.get("task", backbone.trained_task)).reads_tokens:
            setting = setting | {"seq": None}
    options = {"model": model} if isinstance(model, str) else {"config": json.dumps(model)}
    ours = ask(engine, "memory", method, options | more, setting)
    theirs = python(kb, method, model, more, setting)
    assert ("problem" in ours) == ("problem" in theirs), (method, model, more, setting, ours, theirs)
    if "problem" in theirs:
        assert ours["user"], (method, model, more, setting, ours)
        assert "\n" not in ours["problem"]
        return theirs
    ours |= ours.pop("setting") | {"model": theirs["model"]}
    ours |= {name: int(ours[name]) for name in ("forward_flops", "step_flops")}
    assert ours == theirs, (method, model, more, setting)
    return theirs


def named(kb: KnowledgeBase, text: str) -> str:
    """The page calls methods and models by their names."""
    names = {**{m.id: m.name for m in kb.values()}, **{k: m.name for k, m in kb.models.items()}}
    return re.sub(r"\b(\w+)(?= (?:has|trains|does not|stores)\b)", lambda found: names.get(found[1], found[1]), text)


def changed(kb: KnowledgeBase, method: str, draw: random.Random) -> Answer:
    """Hyperparameters of which one or two differ from the default, within their types."""
    specs = kb[method].entry.hyperparameters
    values: Answer = {}
    for name in draw.sample(sorted(specs), min(len(specs), draw.choice((0, 1, 2)))):
        spec = specs[name]
        of_type = {"bool": (True, False), "int": (1, 2, 3, 6), "float": (0.0, 0.1, 1.0)}
        values[name] = draw.choice(spec.values or of_type[spec.type])
    return values

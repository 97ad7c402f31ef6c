"""The group `agreement`: one question, asked in every way that has an answer. The numbers must be equal."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Iterator
from typing import Any

from peftonomy import PeftonomyError, UsageError
from peftonomy.cli import assistant
from peftonomy.memory.setting import ATTENTION, OPTIMIZERS
from peftonomy.site import _api

from ..engine_kit import ask, differential
from .kit import Case, World, command

LEDGERS = (
    "trained", "stored", "stored_bits", "stored_bytes", "served", "served_bits", "head", "backbone", "base_bytes",
)  # fmt: skip
"""The numbers of the page's answer that are compared."""


def agreement(rng: random.Random, world: World) -> Case:
    """Ask for counts and for the memory of a step: the command line, Python, the API, an assistant and the page."""
    kb = world.kb
    method, other = rng.sample([*kb], 2)
    model = rng.choice(world.small if rng.random() < 0.8 else [*kb.models])
    values = dict(_values(rng, kb[method]))
    place: dict[str, Any] = {}
    if rng.random() < 0.3:
        place["task"] = rng.choice(["none", *kb.models[model].tasks])
        place["num_labels"] = rng.choice([2, 5])
    if kb[method].entry.targets and rng.random() < 0.3:
        place["targets"] = rng.sample(["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"], 2)
    kind = {"dtype": "bfloat16"} if rng.random() < 0.3 else {}
    words = ["--model", model, *_words({**place, **kind})]
    settings = [word for name, value in values.items() for word in ("--set", f"{name}={_text(value)}")]
    line = ["cost", method, *words, *settings, "--json"]
    asked = {"model": model, **place, **kind, **({"set": values} if values else {})}
    result, problems = command(line, kb)
    cost = json.loads(result.out) if result.code == 0 else None
    answers = {
        "python": _plain(lambda: kb[method].on(model, **place).cost(**kind, **values).to_dict()),
        "mcp": _plain(lambda: assistant.answer(kb, "cost", {"method": method, **asked})),
    }
    if not place and not kind and not values:
        answers["api"] = _plain(lambda: next(iter(_api.method_record(kb[method], [model])["costs"]), None))
    if cost is not None:
        own = [f"{method}.{word}" if "=" in word else word for word in settings]
        compared, more = command(["compare", method, other, *words, *own, "--json"], kb)
        problems += more
        if compared.code == 0:
            answers["compare"] = next((row for row in json.loads(compared.out) if row["method"] == method), None)
    more = {"values": values} if values else {}
    shown = ask(world.engine, "cost", method, {"model": model, **place, **kind, **more})
    answers["page"] = None if "problem" in shown else {**(cost or {}), **{name: shown[name] for name in LEDGERS}}
    problems += [f"wrong answer: {name} says {_difference(cost, one)}" for name, one in answers.items() if one != cost]
    if cost is not None:
        problems += _swept(kb[method], model, place, kind, values, cost)
        problems += _stepped(rng, world, method, model, place, values, cost)
    return Case(shlex.join(line), problems, result.code)


def _values(rng: random.Random, method: Any) -> Iterator[tuple[str, Any]]:
    """Yield up to two hyperparameters with a value that is likely to be accepted."""
    specs = method.entry.hyperparameters
    for name in rng.sample([*specs], min(len(specs), rng.choice((0, 0, 1, 2)))):
        spec = specs[name]
        if spec.values:
            yield name, rng.choice(spec.values)
        elif spec.type == "bool":
            yield name, rng.random() < 0.5
        elif spec.type == "int":
            yield name, rng.choice([1, 2, 4, 8, 16, 64])
        elif spec.type == "float":
            yield name, rng.choice([0.1, 0.5, 1.0, 16.0])


def _words(given: dict[str, Any]) -> list[str]:
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def _plain(call: Any) -> Any:
    """Return the answer as plain data, or None if it is refused."""
    try:
        return json.loads(json.dumps(call()))
    except (UsageError, assistant.Refused):
        return None


def _difference(one: Any, other: Any) -> str:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return f"{str(other)[:80]} instead of {str(one)[:80]}"
    return str({key: (other.get(key), one.get(key)) for key in one | other if other.get(key) != one.get(key)})[:300]


def _swept(method: Any, model: str, place: Any, kind: Any, values: Any, cost: Any) -> Iterator[str]:
    arrays = {n: [v, v] for n, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    if arrays:
        found = method.sweep(model, **place, **kind, **values | arrays)
        for name in ("trained", "stored_bytes", "served"):
            if {*getattr(found, name).ravel().tolist()} != {cost[name]}:
                yield f"wrong answer: a sweep has {name} {getattr(found, name).ravel().tolist()} for {cost[name]}"


def _stepped(
    rng: random.Random, world: World, method: str, model: str, place: Any, values: Any, cost: Any
) -> Iterator[str]:
    """Yield the differences of the answers about a training step."""
    kb = world.kb
    step = {"batch": rng.choice([1, 3]), "seq": rng.choice([8, 100]), "checkpointing": rng.random() < 0.3,
            "optimizer": rng.choice([*OPTIMIZERS]), "attention": rng.choice([*ATTENTION])}  # fmt: skip
    try:
        memory = kb[method].on(model, **place).memory(**step, **values)
    except PeftonomyError:
        memory = None
    asked = {"method": method, "model": model, **place, **step, **({"set": values} if values else {})}
    answers = {"mcp": _plain(lambda: assistant.answer(kb, "memory", asked))}
    expected = None if memory is None else json.loads(json.dumps(memory.to_dict()))
    yield from (f"wrong answer: {n} says {_difference(expected, one)}" for n, one in answers.items() if one != expected)
    more = {**place, **({"values": values} if values else {})}
    try:
        differential(kb, world.engine, method, model, more, step)
    except AssertionError as error:
        yield f"wrong answer: the page differs: {error!s:.300}"
    if memory is None:
        return
    if place.get("task") != memory.task:    # a step needs a loss, and so a head
        cost = kb[method].on(model, **{**place, "task": memory.task}).cost(**values).to_dict()
    specs = [place.spec for place in kb[method].places(model, **values)]
    whole = all(isinstance(spec.trained, bool) for spec in specs)   # otherwise the optimizer also has the rest
    if memory.trained < cost["trained"] + cost["head"] or (whole and memory.trained != cost["trained"] + cost["head"]):
        yield f"wrong answer: memory trains {memory.trained}, and cost {cost['trained']} and a head of {cost['head']}"
    size = memory.peak + memory.gpu_extra
    rest = {name: value for name, value in step.items() if name != "batch"}
    for gpu, fits in ((size, True), (size - 1, False)):
        found = kb[method].on(model, **place).fit(gpu=gpu, solve="batch", **rest, **values)
        if ((found.value or 0) >= step["batch"]) is not fits:
            yield f"wrong answer: a step of {size} bytes needs a batch of {step['batch']}, and {found.value} fits {gpu}"

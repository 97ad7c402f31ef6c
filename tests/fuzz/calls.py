"""The groups `python` and `assistant`: calls of the public interface, and of the tools of `peftonomy mcp`."""

from __future__ import annotations

import inspect
import json
import pickle
import random
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import peftonomy
from peftonomy import PeftonomyError
from peftonomy.cli import assistant
from peftonomy.errors import shown
from peftonomy.knowledge.base import MethodOn
from peftonomy.site import _reference

from . import kit
from .kit import TEXTS, VALUES, Case, World, last_line, misspelt

# Python

Strange = Callable[[], Any]


def python(rng: random.Random, world: World) -> Case:
    """Call the public interface with right and strange arguments. Only its own errors may come, and each pickles."""

    def strange() -> Any:
        return rng.choice((*VALUES, *TEXTS, object(), b"x", 1j, {1}, 10**5_000, print))

    if rng.random() < 0.5:
        return _drawn(rng, world, strange)
    kb = world.kb
    method = kb[rng.choice([*kb])]
    specs = method.entry.hyperparameters
    given: dict[str, Any] = {}
    for name in rng.sample([*specs], min(len(specs), rng.choice((0, 1, 2)))):
        given[name] = rng.choice([strange(), strange(), 1, 8, 0.5, True])
    where = {name: strange() for name in ("targets", "target_modules", "task", "num_labels") if rng.random() < 0.1}
    dtype = {"dtype": strange()} if rng.random() < 0.1 else {}
    model = strange() if rng.random() < 0.15 else rng.choice(world.small)
    step = {"batch": strange() if rng.random() < 0.2 else 2, "seq": strange() if rng.random() < 0.2 else 16}
    arrays = {name: [value, value] for name, value in given.items()}
    call = rng.choice([
        lambda: method.cost(model, **where, **dtype, **given),
        lambda: method.cost(model, **where, **dtype, **given),
        lambda: method.memory(model, **step, **where, **dtype, **given),
        lambda: method.fit(model, gpu=rng.choice([10**10, "24GiB", strange()]), **where, **given),
        lambda: method.export(model, to=rng.choice(["peft", "adapters", strange()]), **where, **given),
        lambda: method.places(model, **where, **given), lambda: method.sweep(model, **where, **dtype, **arrays),
        lambda: method.sweep([model, strange()], **where, **arrays), lambda: kb[strange()],
        lambda: kb.models[strange()],
        lambda: kb.query(strange()), lambda: kb.query("year > 2000", category=strange()),
        lambda: kb.stored_list(strange()),
        lambda: kb.adapter(strange(), model), lambda: kb.backbone(strange()),
        lambda: peftonomy.Formula.parse(strange()),
        lambda: kb.adapter({"peft_type": strange(), "r": strange(), "target_modules": strange()}, model),
        lambda: peftonomy.load(strange()), lambda: peftonomy.check(kb, [strange()]), lambda: kb.graph.export(strange()),
        lambda: method.apply(strange(), **given), lambda: peftonomy.Backbone.from_config(strange(),
        families=kb.families),
    ])  # fmt: skip
    told = " ".join(shown(one) for one in (method.id, model, where, dtype, step, given))
    found, problems = judged(call)
    single = all(isinstance(value, int | float | str | None) for value in given.values())
    if not problems and type(found).__name__ == "Sweep" and isinstance(found.model, str) and arrays and single:
        one = method.cost(model, **where, **dtype, **given)
        if set(found.trained.ravel().tolist()) != {one.trained}:
            problems.append(f"wrong answer: {found.trained.tolist()} in a sweep, {one.trained} alone")
    return Case(told, problems)


def judged(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return the result of a call, and what it breaks."""
    try:
        return call(), []
    except PeftonomyError as error:
        again = pickle.loads(pickle.dumps(error))
        problems = [] if str(again) == str(error) else ["an error that does not pickle"]
        return error, [*problems, *kit.message(f"error: {str(error).replace(chr(10), ' ')}\n")]
    except (RecursionError, MemoryError, Exception):
        return None, [f"foreign error: {last_line()}"]


NEEDED = {"gpu": 10**10, "seq": 8, "stage": 2}
"""Values of arguments without a default; any other one is 1."""
SPECIAL = ("__getitem__", "__contains__", "__repr__", "__len__", "_repr_html_")
OTHERS = {
    "apply", "plot", "default", "shape", "beyond", "together", "over", "together_numpy", "numpy", "sympy", "inventory",
    "each", "rows", "arguments", "base_bytes",
}  # fmt: skip
"""Methods that run a live model or draw, or whose arguments are objects of the package."""


def public(thing: Any) -> dict[str, Callable[..., Any]]:
    """Return the public methods of an object that the package defines."""
    kind = type(thing)
    names = [name for name in dir(kind) if not name.startswith("_") or name in SPECIAL]
    found = {name: inspect.getattr_static(kind, name) for name in names if name not in OTHERS}
    documented = kind.__name__ in _documented() or isinstance(thing, Mapping)
    if not isinstance(thing, Mapping):
        found.pop("__getitem__", None)      # a sequence's, with Python's own errors
    ours = [
        n for n, f in found.items()
        if documented and inspect.isfunction(f) and f.__module__.startswith("peftonomy") and (f.__doc__ or n in SPECIAL)
    ]
    return {name: getattr(thing, name) for name in ours}


@cache
def _documented() -> set[str]:
    """Return the names of the classes in the reference."""
    return {str(one["name"]) for several in _reference._documented() for one in several}


def _drawn(rng: random.Random, world: World, strange: Strange) -> Case:
    """Call any public method of the knowledge base or a method, then methods of the results, with strange arguments."""
    kb = world.kb
    method = kb[rng.choice([*kb])]
    thing: Any = rng.choice([kb, method, lambda: method.on(rng.choice(world.small)), kb.graph, kb.models])
    thing, told, problems = thing() if inspect.isfunction(thing) else thing, list[str](), list[str]()
    for _ in range(3):
        calls = public(thing)
        if not calls or problems or not type(thing).__module__.startswith("peftonomy"):
            break
        name = rng.choice(sorted(calls))
        words, named = _arguments(rng, world, calls[name], method, strange)
        told.append(f"{type(thing).__name__}.{name}(*{shown(words)}, **{shown(named)})")
        thing, problems = judged(lambda call=calls[name], words=words, named=named: call(*words, **named))
        if isinstance(thing, Exception):
            break
    return Case(" -> ".join(told), problems)


def _arguments(
    rng: random.Random, world: World, call: Callable[..., Any], method: Any, strange: Strange
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments for a call: right ones by their names, or strange ones."""
    kb, words, named = world.kb, list[Any](), dict[str, Any]()
    right: dict[str, list[Any]] = {
        "model": world.small, "method": [*kb], "methods": [["lora", "ia3"], [method.id]], "gpu": ["24GiB", 10**10],
        "batch": [1, 4], "seq": [8, 512], "task": [None, "none", "seq_cls"], "dtype": ["float32", "bfloat16"],
        "where": ["year > 2020", ""], "category": [None, *kb.taxonomy.categories], "targets": [None, "attn.q"],
        "target_modules": [None, "all-linear"], "num_labels": [2, 3], "to": ["peft", "adapters", "axolotl"],
        "library": [None, *kb.libraries], "n": [1, 5], "solve": ["batch", "seq"], "optimizer": ["adamw", "sgd"],
        "attention": ["sdpa", "eager"], "quantized": [None, "nf4"], "config": ["lora[r=8]", {"peft_type": "LORA"}],
        "needs": [[], ["mergeable"]], "by": ["memory", "libraries"], "trained": [None, "10M", 10**6],
        "key": [*kb], "form": ["dot", "json"], "ids": [["lora"]], "name": [*kb.taxonomy.lists],
    }  # fmt: skip
    for name, parameter in inspect.signature(call).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            for hyper in rng.sample([*method.entry.hyperparameters], min(1, len(method.entry.hyperparameters))):
                named |= {hyper: rng.choice([1, 8, strange()])} if rng.random() < 0.5 else {}
            behind = getattr(MethodOn, call.__name__, None)  # a shortcut takes the arguments of that
            required = inspect.signature(behind).parameters.values() if inspect.isfunction(behind) else ()
            needed = {p.name: strange() if rng.random() < 0.2 else NEEDED.get(p.name, 1)
                      for p in required if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
            odd = {rng.choice(["dtype", "checkpointing", "xx"]): strange()} if rng.random() < 0.1 else {}
            named |= needed | odd
        elif parameter.kind is parameter.VAR_POSITIONAL:
            words += rng.choice([[method.id, "lora"], ["lora", "ia3", "dora"], [strange()], []])
        elif parameter.default is parameter.empty or rng.random() < 0.25:
            value = rng.choice(right[name]) if name in right and rng.random() < 0.7 else strange()
            if parameter.kind is parameter.KEYWORD_ONLY:
                named[name] = value
            else:
                words.append(value) if not named else named.update({name: value})
    return words, named


# The tools of `peftonomy mcp`


def tool(rng: random.Random, world: World) -> Case:
    """Call a tool as an assistant does, with arguments of the schema and strange ones. The answer is JSON."""
    kb, tools = world.kb, assistant.tools()
    name = rng.choice([*tools])
    properties = assistant.schema(tools[name])["properties"]
    right: dict[str, list[Any]] = {
        "method": [*kb], "methods": [["lora"], ["lora", "ia3"]], "model": world.small, "gpu": ["24GiB"],
        "set": [{"r": 4}],
        "aspect": [{"acts_on": "weight"}, {"freezes": ["random"]}], "where": ["year > 2020"], "targets": [["attn.q"]],
        "adapter_config": [{"peft_type": "LORA", "target_modules": ["query"]}, "lora[r=2]"], "batch": [1], "seq": [8],
        "list": [*kb.taxonomy.lists], "category": [*kb.taxonomy.categories], "library": [*kb.libraries],
    }  # fmt: skip
    needed = assistant.schema(tools[name])["required"]
    given: dict[str, Any] = {}
    for key in properties:
        if key in needed or key == "methods" or rng.random() < 0.3:
            known = key in right and rng.random() < 0.8
            given[key] = rng.choice(right[key] if known else (*VALUES, *TEXTS))
    if rng.random() < 0.15:
        given[misspelt(rng, rng.choice([*properties, "x"])) or "x"] = rng.choice((*VALUES, *TEXTS))
    if name == "fit" and not given.get("methods"):
        given["methods"] = ["lora"]
    given.pop("simulate", None)
    called = misspelt(rng, name) if rng.random() < 0.05 else name
    told = f"{called} {shown(given)}"
    try:
        json.dumps(assistant.answer(kb, called, given), ensure_ascii=False).encode()
    except assistant.Refused as refused:
        text = str(refused)
        return Case(told, [] if text.startswith("Usage: ") else [*kit.message(f"error: {text}\n")], 1)
    except Exception:
        return Case(told, [f"traceback: {last_line()}"])
    return Case(told, [], 0)

"""The group `command`: lines of the command line."""

from __future__ import annotations

import itertools
import json
import random
import re
import shlex
from collections.abc import Iterator
from typing import Any

import click

from peftonomy.cli.main import cli
from peftonomy.knowledge.choose import PRIORITIES
from peftonomy.memory.setting import OPTIMIZERS

from . import kit
from .kit import Case, World, command, misspelt, text

ELSEWHERE = {"serve", "mcp", "verify", "drift", "new", "build", "pages", "run"}
"""The commands that write files, serve or run code. The groups `process` and `site` run them."""


def leaves(group: click.Group = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command, with the words that name it."""
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from leaves(found, (*above, name))
        else:
            yield (*above, name), found


def command_line(rng: random.Random, world: World) -> Case:
    """Draw a command with right, misspelt and hostile words. Answers are compared with Python's."""
    words = _command(rng, world) if rng.random() < 0.5 else declared(rng, world)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(len(words) + 1)
        match rng.randrange(5):
            case 0:
                words.insert(at, text(rng))
            case 1 if words:
                words[at - 1] = text(rng)
            case 2 if words:
                words[at - 1] = misspelt(rng, words[at - 1])
            case 3 if words:
                del words[at - 1]
            case _ if words:
                words.insert(at, words[at - 1])
    words = [word.replace("\0", "\\0") for word in words if not word.startswith(("--root", "--out", "-o", "--junit"))]
    if (ELSEWHERE | {"--simulate"}) & {*words}:
        words = ["show", *words[1:]]
    if words[:1] == ["fit"] and not world.kb.keys() & {*words}:  # all methods take more than `LIMIT`
        words.append(rng.choice([*world.kb]))
    result, problems = command(words, world.kb)
    if result.code == 0 and "--help" not in words and "-h" not in words:
        problems += _compared(words, result.out, world)
    return Case(shlex.join(words), problems, result.code)


def _command(rng: random.Random, world: World) -> list[str]:
    kb = world.kb
    method, others = rng.choice([*kb]), rng.sample([*kb], 2)
    model = rng.choice(world.small if rng.random() < 0.9 else [*kb.models])
    words = ["--model", model]
    specs = kb[method].entry.hyperparameters
    for name in rng.sample([*specs], min(len(specs), rng.choice((0, 0, 1, 2)))):
        spec = specs[name]
        known = {
            "int": ["0", "1", "2", "8", "64", "7"],
            "float": ["0.0", "0.5", "1", "16.0", "-1"],
            "bool": ["true", "false"],
        }
        words += ["--set", f"{name}={rng.choice(known.get(spec.type) or spec.values or ['x'])}"]
    if kb[method].entry.targets and rng.random() < 0.3:
        words += ["--targets", ",".join(rng.sample(["attn.q", "attn.v", "attn.o", "mlp.up", "mlp.down", "attn.*"], 2))]
    if rng.random() < 0.2:
        words += [
            "--task",
            rng.choice(["none", "causal_lm", "seq_cls"]),
            "--num-labels",
            rng.choice(["2", "3", "1000"]),
        ]
    if rng.random() < 0.2:
        words += ["--dtype", rng.choice(["float32", "bfloat16", "float16", "float64"])]
    step = ["--batch", rng.choice(["1", "4"]), "--seq", rng.choice(["1", "128", "512"])]
    if rng.random() < 0.3:
        step += rng.choice(
            [["--checkpointing"], ["--attention", "eager"], ["--quantized", "nf4"], ["--optimizer", "sgd"]]
        )
    out = ["--json"] if rng.random() < 0.6 else []
    predicate = rng.choice(["year", "trained", "merge", "category", "stores", "library", "sharing"])
    predicate += rng.choice([" > ", " < ", " == ", " != ", " >= ", "%", "*", " and "])
    predicate += rng.choice(
        ["2023", "exact", "0", "'additive.*'", "values", "year", "1 / 0", "10 ** 400", "name * 99999999"]
    )
    return rng.choice([
        ["cost", method, *words, *out], ["cost", method, *words, *out], ["cost", method, *words, "--json"],
        ["memory", method, *words, *step, *out],
        ["fit", method, *words, "--gpu", rng.choice(["24GiB", "80GB", "1kB", "0.5 GiB"]), *step[2:], *out],
        ["compare", method, *others, *words, *out],
        ["export", method, "--to", rng.choice(["peft", "adapters"]), *words, *out],
        ["show", method, *out], ["cite", method, *others, *rng.choice([[], ["--all"]]), *out],
        ["methods", "--where", predicate, *rng.choice([[], ["--model", model]]), *out],
        ["methods", "--where", f"year {rng.choice(['<', '<=', '==', '!=', '>', '>='])} {rng.randint(2018, 2027)}",
        "--json"],
        ["methods", "--category", rng.choice([*kb.taxonomy.categories]), *out],
        ["methods", "--list", rng.choice([*kb.taxonomy.lists]), *out],
        ["models", *out], ["lists", *out], ["categories", *out], ["deviations", method, *out],
        ["graph", "--format", rng.choice(["json", "graphml", "dot", "mermaid"])],
        ["completion", rng.choice(["bash", "zsh", "fish"])], ["--version"], [], ["site"],
    ])  # fmt: skip


def declared(rng: random.Random, world: World) -> list[str]:
    """Draw a command with arguments and options as the command line declares them."""
    path, found = rng.choice([(path, one) for path, one in leaves() if path[-1] not in ELSEWHERE])
    method = world.kb[rng.choice([*world.kb])]
    words, rest = [*path], list[str]()
    for param in found.params:
        several = param.nargs == -1 or getattr(param, "multiple", False)
        wanted = param.required or (param.name == "methods" and rng.random() < 0.95)
        times = rng.choice((1, 1, 2) if several else (1,)) if wanted or rng.random() < 0.25 else 0
        for _ in range(times):
            if isinstance(param, click.Argument):
                rest.append(given(rng, param, world, method.id))
            elif getattr(param, "is_flag", False):
                words.append(param.opts[-1])
            else:
                words += [rng.choice(param.opts), given(rng, param, world, method.id)]
    return [*words, *rest]


def given(rng: random.Random, param: click.Parameter, world: World, method: str) -> str:
    """Return a value of a parameter: by its metavar, or any hostile text."""
    kb = world.kb
    if isinstance(param.type, click.Choice):
        return str(rng.choice(param.type.choices))
    pools: dict[str, list[str]] = {
        "METHOD": [method, method, *kb], "MODEL": world.small, "GPU": ["24GiB", *(gpu.name for gpu in kb.gpus)],
        "N": ["0", "1", "2", "8", "100", "4096", "1000000", "-1", "10M", "0.1%", "1e6"],
        "DTYPE": ["float32", "bfloat16", "mixed"], "TASK": ["none", "causal_lm", "seq_cls"],
        "LIST": [*kb.taxonomy.lists], "LIBRARY": [*kb.libraries, *kb.trainers, "any", "peft"],
        "PRIORITY": [*PRIORITIES], "KIND": ["sdpa", "eager", "nf4", "int8"],
        "NAME": ["batch", "seq", "r", *OPTIMIZERS, *kb[method].entry.hyperparameters],
        "STUDY": [*kb.studies], "C": [*kb.taxonomy.categories], "ROLES": ["attn.q", "attn.q,attn.v", "mlp.*", "*"],
        "NAMES": ["query", "q_proj,v_proj", "all-linear", "c_attn", "3.attention"],
        "PREDICATE": ["year > 2020", "merge == exact and year >= 2023", "trained < 10 ** 6", "name * 3 == 1"],
    }  # fmt: skip
    metavar = str(param.metavar).strip("[].")
    if metavar == "NAME=VALUE" and param.name == "settings":
        name = rng.choice([*kb[method].entry.hyperparameters, "r"])
        return f"{name}={rng.choice(['1', '8', '0', '0.5', 'true', '7', '-1', text(rng)])}"
    if metavar == "NAME=VALUE":
        name, facet = rng.choice([*kb.taxonomy.facets.items(), *kb.taxonomy.derived.items()])
        return f"{name}={','.join(rng.sample([*facet.values], 1))}"
    if metavar == "FILE":
        files = [str(kb.methods.path(method)), str(world.folder), "/dev/null", "/nowhere/x.json"]
        return rng.choice([*files, "lora[r=8]", "houlsby"])
    return rng.choice(pools[metavar]) if metavar in pools and rng.random() < 0.95 else text(rng)


def _compared(words: list[str], out: str, world: World) -> Iterator[str]:
    """Compare an answer in JSON with an independent one."""
    if not (words and out.startswith(("{", "["))) or "--json" not in words:
        return
    try:
        found = json.loads(out)
    except ValueError as error:
        yield f"wrong answer: no JSON: {error}"
        return
    if words[0] == "cost" and "method" in found:
        where = {"task": found["task"], "num_labels": _option(words, "--num-labels", 2)}
        if found.get("targets") and "--targets" in words:
            where["targets"] = tuple(w.strip() for w in str(_option(words, "--targets", "")).split(","))
        if "--target-modules" in words:
            return
        on = world.kb[found["method"]].on(str(_option(words, "--model", "")), **where)
        again = on.cost(dtype=found["dtype"], **found["hyperparameters"])
        if again.trained != found["trained"] or again.stored_bytes != found["stored_bytes"]:
            yield f"wrong answer: {found['trained']} trained, in Python {again.trained}"
        for name, given in _settings(words):
            name = name.rpartition(".")[2]
            kept = found["hyperparameters"].get(name)
            if kept is not None and not isinstance(kept, bool | str) and float(given) != kept:
                yield f"wrong answer: {name} = {kept} for {given!r}"
        yield from kit.recount(again, on.places(**found["hyperparameters"]))
    if words[0] == "fit" and len(found) == 1 and found[0]["value"] and not found[0]["limited"]:
        memory = found[0]["memory"]
        if memory["peak"] + memory["gpu_extra_estimate"] > found[0]["gpu"]:
            yield f"wrong answer: {found[0]['value']} does not fit"
    condition = re.fullmatch(r"year (<=|>=|==|!=|<|>) (\d{4})", str(_option(words, "--where", "")))
    if words[0] == "methods" and condition and len(words) == 4:
        expected = {m.id for m in world.kb.values() if eval(f"{m.year} {condition[1]} {condition[2]}")}  # two numbers
        if {row["id"] for row in found} != expected:
            yield "wrong answer: other methods than Python compares"


def _option(words: list[str], name: str, default: Any) -> Any:
    """Return the last value of an option, as click does."""
    at = max((i for i, word in enumerate(words[:-1]) if word == name), default=None)
    return default if at is None else type(default)(words[at + 1]) if isinstance(default, int) else words[at + 1]


def _settings(words: list[str]) -> Iterator[tuple[str, str]]:
    for one, other in itertools.pairwise(words):
        if one == "--set":
            name, _, given = other.partition("=")
            yield name.strip(), given.strip()

"""Configurations of AdapterHub's library at random: the library's own counts, or a refusal that names the argument.

    python -m tests.test_adapters_at_random --seed 1 --cases 2000

Types, arguments and their defaults come from the library's dataclasses. Each configuration is written as a user writes
it (a short name with arguments), as the library saves it, or as a union, and is built on a small model of a family and
task. Only a count that differs is an error. The summary shows how many configurations are equal and refused.

A few values have another type than the library's field declares, such as a text for a boolean. The library does not
check types, and we refuse such a value by its argument. These cases are counted apart, as mistyped.
"""

from __future__ import annotations

import argparse
import collections.abc
import functools
import json
import os
import random
import re
import subprocess
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError

from peftonomy import ConfigError, PeftonomyError, UsageError
from peftonomy.conformance import tiny
from peftonomy.schema.builds import Kind

from . import shapes  # noqa: F401 (adds families)
from .knowledge import KB

pytestmark = [pytest.mark.torch, pytest.mark.xdist_group("adapters")]
ROOT = Path(__file__).parent.parent
SIDE = ROOT / "tests/oracles/adapters_side.py"
PYTHON = Path(os.environ.get("ADAPTERS_PYTHON", ROOT / ".venv-adapters/bin/python"))
LIBRARY = KB.libraries["adapters"]
SAMPLE = 250
MORE = {"deberta-v2": {"max_position_embeddings": 17}}
"""Keys that a config.json has and the tiny models leave at their defaults."""
TINY = {**tiny.CONFIGS, **tiny.SHAPES}
SIZES = {name: sizes | MORE.get(name, {}) for name, (_, sizes) in TINY.items() if name in KB.families}
FAMILIES = [name for name in SIZES if name in LIBRARY.hosts]
OTHER_FAMILIES = ["opt", "clip", "swin", "mixtral"]
"""Families that the library or its description here does not have."""
WORDS = sorted({word for build in LIBRARY.builds.values() for kinds in build.values.values() for word in kinds
                if word not in typing.get_args(Kind)})  # fmt: skip
Case = dict[str, Any]


@functools.cache
def fields() -> dict[str, Any]:
    """The library's configuration classes, from the library itself."""
    ran = subprocess.run([str(PYTHON), str(SIDE), "FIELDS"], capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@functools.cache
def declared(hint: str) -> TypeAdapter[Any]:
    """The type that a field of the library declares, from its text."""
    text = re.sub(r"<class '(\w+)'>", r"\1", hint)
    made = type("Made", (), {"__annotations__": {"value": text}})
    names = {"typing": typing, "collections": collections}
    return TypeAdapter(typing.get_type_hints(made, names)["value"], config=ConfigDict(strict=True))


def fits(value: Any, hint: str) -> bool:
    """True if a value has the declared type; a whole number is also a float."""
    try:
        declared(hint).validate_python(value)
    except ValidationError:
        return False
    return True


class Draw:
    """Draws configurations from one random generator."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.names = [name for name, short in LIBRARY.shorthands.items() if not short.union]
        self.classes = [name for name, kind in fields().items() if name in LIBRARY.types]
        self.mistyped: list[str] = []

    def case(self) -> Case:
        family = self.random.choice(FAMILIES if self.random.random() < 0.97 else OTHER_FAMILIES)
        task = self.random.choice([*KB.families[family].tasks])
        form = self.random.choice(["short", "short", "saved", "saved", "nested", "union", "union short", "name"])
        self.mistyped = []
        load = getattr(self, form.replace(" ", "_"))()
        return {"family": family, "task": task, "load": load, "mistyped": self.mistyped}

    def short(self) -> str:
        name = self.random.choice(self.names)
        kind = str(LIBRARY.shorthands[name].type)
        own = self.changed(kind)
        return f"{name}[{', '.join(f'{key}={value!r}' for key, value in own.items())}]" if own else name

    def name(self) -> str:
        return self.random.choice([*LIBRARY.shorthands])

    def saved(self) -> dict[str, Any]:
        kind = self.random.choice(self.classes)
        known = {name: default for name, (_, default) in fields()[kind]["fields"].items()}
        return {"architecture": fields()[kind]["architecture"]} | known | self.changed(kind)

    def nested(self) -> dict[str, Any]:
        """A saved configuration with some keys left out."""
        whole = self.saved()
        return {name: value for name, value in whole.items() if name == "architecture" or self.random.random() < 0.9}

    def union(self) -> dict[str, Any]:
        return {"architecture": "union", "configs": [self.saved() for _ in range(self.random.choice([2, 2, 3]))]}

    def union_short(self) -> str:
        return "|".join(self.short() for _ in range(self.random.choice([2, 2, 3])))

    def changed(self, kind: str) -> dict[str, Any]:
        """Some arguments of a class, with values of their types."""
        own = fields()[kind]["fields"]
        required = [name for name, (_, default) in own.items() if default is None and kind in ("BnConfig", "ReftConfig")
                    and name in LIBRARY.types[kind].needs]  # fmt: skip
        chosen = self.random.sample([*own], min(len(own), self.random.choice([0, 1, 1, 2, 2, 3, 5])))
        values = {name: self.value(name, own[name][0]) for name in dict.fromkeys([*required, *chosen])}
        self.mistyped += [name for name, value in values.items() if not fits(value, own[name][0])]
        return values

    def value(self, name: str, hint: str) -> Any:
        pick, base = self.random, LIBRARY.builds
        if pick.random() < 0.02:
            return pick.choice([None, "junk", -1, 0, 1.5, [], True])
        if "Mapping" in hint and pick.random() < 0.15:
            return {str(pick.randrange(4)): pick.choice([2, 4, 3.0]), "default": pick.choice([2, 4])}
        if "List[int]" in hint:
            return "all" if "Literal" in hint and pick.random() < 0.4 else pick.sample(range(6), pick.randrange(4))
        if "List[str]" in hint:
            return pick.sample(["q", "k", "v", "o"], pick.randrange(1, 4))
        if "bool" in hint and not ("str" in hint and pick.random() < 0.2):
            return pick.random() < 0.5
        if "str" in hint and not ("float" in hint and pick.random() < 0.5):
            words = [word for build in base.values() for word in build.values.get(name, ())
                     if word == "null" or word not in typing.get_args(Kind)]  # fmt: skip
            word = pick.choice(words) if words and pick.random() < 0.99 else pick.choice(WORDS)
            return None if word == "null" else word
        if "Mapping" in hint:
            return pick.choice([1, 2, 3, 4, 6, 16, 2.0, 1.7, 0.5])
        if "float" in hint:
            return pick.choice([0.1, 0.5, 0.3, 0.0, 1.0, 2.0] if pick.random() < 0.9 else [2, 8.0, 16, 1.7])
        return pick.choice([1, 2, 3, 4, 6, 12])


def asked(cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """The library's answers, from one run of it."""
    folder.mkdir(parents=True, exist_ok=True)
    requests = [
        {"model": KB.families[case["family"]].tasks[case["task"]].class_, "sizes": sizes(case), "load": case["load"]}
        for case in cases
    ]
    torch.save(requests, folder / "random_request.pt")
    call = [str(PYTHON), str(SIDE), str(folder / "random_request.pt"), str(folder / "random_answer.pt")]
    ran = subprocess.run(call, capture_output=True, text=True, timeout=3600, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: list[dict[str, Any]] = torch.load(folder / "random_answer.pt")
    return found


def sizes(case: Case) -> dict[str, Any]:
    """The config's keys. Transformers 4, which the library pins, and 5 disagree about T5's untied head."""
    tied = {"tie_word_embeddings": True} if KB.families[case["family"]].kind == "encoder_decoder" else {}
    return SIZES[case["family"]] | tied | {"num_labels": 2}


def ours(case: Case) -> dict[str, Any]:
    """Our answer: the three counts, or the argument and the reason of the refusal."""
    config = {**sizes(case), "model_type": case["family"]}
    try:
        found = KB.adapter(case["load"], config, library="adapters", task=case["task"])
        _ = found.cost.trained
    except ConfigError as error:
        return {"refused": error.problems[0].field, "reason": str(error)}
    except PeftonomyError as error:
        return {"refused": "", "reason": str(error)}
    counts = found.reported
    return {"trained": counts.trained, "total": counts.total, "stored": counts.stored, "notes": list(found.notes)}


def verdict(mine: dict[str, Any], theirs: dict[str, Any], mistyped: list[str]) -> str:
    """One of: equal, refused, mistyped, both refuse, wrong, answered (only the library refuses), named (we say so)."""
    if "refused" in mine:
        if not mine["refused"]:
            return "unnamed"
        return "both refuse" if "refused" in theirs else "mistyped" if mine["refused"] in mistyped else "refused"
    if "refused" in theirs:
        return "named" if any("needs the package" in note for note in mine["notes"]) else "answered"
    return "equal" if all(mine[name] == theirs[name] for name in ("trained", "total", "stored")) else "wrong"


def compared(seed: int, count: int, folder: Path) -> list[tuple[str, Case, dict[str, Any], dict[str, Any]]]:
    draw = Draw(seed)
    cases = [draw.case() for _ in range(count)]
    found = []
    for case, theirs in zip(cases, asked(cases, folder), strict=True):
        mine = ours(case)
        found.append((verdict(mine, theirs, case["mistyped"]), case, mine, theirs))
    return found


def kind(load: Any) -> str:
    """The type of a configuration in the library's file, or `union`."""
    if isinstance(load, str):
        short = LIBRARY.shorthands.get(load.partition("[")[0])
        if "|" in load or short is None or short.union:
            return "union"
        return str(LIBRARY.type_saved_as(LIBRARY.types[str(short.type)].saved))
    word = load.get("architecture")
    return "union" if word == "union" else str(LIBRARY.type_saved_as(word))


def table(found: list[tuple[str, Case, dict[str, Any], dict[str, Any]]]) -> list[str]:
    """The verdicts by type, as a Markdown table."""
    words = ("equal", "refused", "wrong", "mistyped", "both refuse", "named", "answered", "unnamed")
    counts = Counter((kind(case["load"]), word) for word, case, *_ in found)
    kinds = sorted({name for name, _ in counts})
    rows = [f"| {name} | {' | '.join(str(counts[name, word]) for word in words)} |" for name in kinds]
    return [f"| type | {' | '.join(words)} |", "|---|" + "--:|" * len(words), *rows]


FINE = {"equal", "refused", "mistyped", "both refuse", "named"}


@pytest.fixture(scope="module", autouse=True)
def environment() -> None:
    """The library's environment, which a developer may do without and CI may not."""
    if not PYTHON.exists():
        absent = f"{PYTHON} is not there: `make test` builds it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(absent)


def test_equal_or_refused_with_a_reason(tmp_path: Path) -> None:
    found = compared(int(os.environ.get("PYTEST_SEED", "7")), SAMPLE, tmp_path)
    assert [one for one in found if one[0] not in FINE] == []
    counts = Counter(word for word, *_ in found)
    accepted = counts["equal"] + counts["refused"]
    assert counts["equal"] >= 0.8 * accepted, "most configurations that the library accepts must be answered"


EXPORTED = [method for method in KB.methods if (found := KB[method].entry.implementations.get("adapters")) is not None
            and (found.type or found.unites)]  # fmt: skip


@pytest.mark.parametrize("method", EXPORTED)
@pytest.mark.parametrize("model", ["bert_base", "llama_2_7b", "t5_base"])
def test_what_is_exported_is_read_as_the_same_method(method: str, model: str) -> None:
    """Except DiReFT, whose file the library itself reads as NoReFT."""
    built = {"train_norms": False, "matrix": "singular_values"}     # the library has no other
    same = {name: value for name, value in built.items() if name in KB[method].entry.hyperparameters}
    roles = [f"{part}.{name}" for part in ("attn", "xattn") for name in ("q", "v")]
    there = [role for role in roles if KB.backbone(model).inventory().has_role(role)]
    targets = {"targets": there} if method == "mtl_lora" else {}
    if method == "prompt_tuning" and model != "bert_base":
        with pytest.raises(UsageError, match="has no prompt_tuning"):
            KB[method].export(model, to="adapters", **targets, **same)
        return
    saved = KB[method].export(model, to="adapters", **targets, **same).to_dict()
    found = KB.adapter(saved, model, library="adapters")
    expected = "noreft" if method == "direft" else method
    assert found.method.id == expected
    assert found.cost.trained == KB[expected].cost(model, **targets, **same).trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--show", type=int, default=20)
    parser.add_argument("--reasons", type=int, default=0)
    parser.add_argument("--only", default="wrong,answered,unnamed")
    chosen = parser.parse_args()
    found = compared(chosen.seed, chosen.cases, ROOT / "build/adapters")
    for word, case, mine, theirs in [one for one in found if one[0] in chosen.only.split(",")][: chosen.show]:
        print(word, json.dumps(case), mine, theirs, sep="\n  ")
    reasons = Counter((word, mine.get("refused"), theirs.get("refused", "")[:60]) for word, _, mine, theirs in found)
    for reason, number in reasons.most_common(chosen.reasons):
        print(number, *reason, sep="\t")
    print(*table(found), sep="\n")
    print(f"seed {chosen.seed}:", dict(Counter(word for word, *_ in found)))


if __name__ == "__main__":
    main()

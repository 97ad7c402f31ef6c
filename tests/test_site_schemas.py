"""Every file of the API is what its JSON Schema says, and the schemas name all that is written."""

from __future__ import annotations

import copy
import json
from fnmatch import fnmatch
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from peftonomy.site._api import FILES
from peftonomy.site._schemas import SCHEMAS

pytestmark = pytest.mark.slow

ROOT = "api/v1/"


@pytest.fixture(scope="module")
def answers(made: dict[str, str | bytes]) -> dict[str, Any]:
    return {p.removeprefix(ROOT): json.loads(t) for p, t in made.items() if p.startswith(ROOT)}


def closed(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, dict):
        more = {"additionalProperties": False} if "properties" in schema and "type" in schema else {}
        return {k: closed(v) for k, v in schema.items()} | more
    return [closed(s) for s in schema] if isinstance(schema, list) else schema


def described(answers: dict[str, Any], kind: str) -> dict[str, Any]:
    """What the schema of a kind describes, by a name for messages."""
    pattern = SCHEMAS[kind][1].replace("<id>", "*")
    if pattern:
        return {p: a for p, a in answers.items() if fnmatch(p, pattern)}
    records = {p: a["method"] for p, a in answers.items() if p.startswith("methods/")}
    if kind == "cost":
        return {f"{p} {c['model']}": c for p, r in records.items() for c in r["costs"]}
    derived = ("evidence", "measured", "results", "known_rates", "related", "costs")
    return {p: {k: v for k, v in r.items() if k not in derived} for p, r in records.items()}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_file_is_what_its_schema_says(answers: dict[str, Any], kind: str) -> None:
    schema = answers[f"schema/{kind}.json"]
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(closed(schema))
    found = described(answers, kind)
    assert found
    wrong = {p: e.message[:300] for p, a in found.items() for e in validator.iter_errors(a)}
    assert wrong == {}


def test_every_file_has_a_schema(answers: dict[str, Any]) -> None:
    patterns = [path.replace("<id>", "*") for _, path in SCHEMAS.values() if path]
    assert [p for p in answers if not p.startswith("schema/") and not any(fnmatch(p, q) for q in patterns)] == []
    assert {path for _, path in SCHEMAS.values() if path} | {"schema/<kind>.json"} == set(FILES)


def test_a_wrong_file_is_refused(answers: dict[str, Any]) -> None:
    """What the schemas are for: a missing field, a wrong type, and (closed) a field too many."""
    schema = answers["schema/method_file.json"]
    good = answers["methods/lora.json"]
    for change in (
        lambda m: m.pop("costs"),
        lambda m: m.update(year="2021"),
        lambda m: m["costs"][0].update(trained=1.5),
        lambda m: m["related"][0].update(surprise=1),
    ):
        bad = copy.deepcopy(good)
        change(bad["method"])
        assert not Draft202012Validator(closed(schema)).is_valid(bad)
    assert Draft202012Validator(schema).is_valid(good)


def test_the_api_page_links_every_schema_and_an_example(made: dict[str, str | bytes]) -> None:
    page = str(made["api.md"])
    for kind in SCHEMAS:
        row = next(line for line in page.splitlines() if f'href="{ROOT}schema/{kind}.json"' in line and "<td>" in line)
        example = row.rpartition('href="')[2].partition('"')[0]
        assert example in made

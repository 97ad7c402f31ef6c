"""A sample of `make fuzz`, and the promise of `check`: every command works on an entry that it accepts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import fuzz
from .fuzz import entries, tasks

SAMPLE = {"command": 60, "config": 40, "adapter": 40, "python": 60, "entry": 6, "text": 6, "site": 4, "process": 3}
"""The number of cases of each group. Those of the last groups take long."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> fuzz.World:
    return fuzz.World(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@pytest.mark.parametrize("group", SAMPLE)
def test_a_sample_shows_no_problem(world: fuzz.World, group: str) -> None:
    names = [f"{group}:0:{number}" for number in range(SAMPLE[group])]
    assert [(name, p) for name in names for p in fuzz.run_case(fuzz.GROUPS[group], name, world).problems] == []


@pytest.mark.slow
@settings(
    max_examples=20, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data())
def test_every_command_works_on_an_entry_that_check_accepts(world: fuzz.World, data: st.DataObject) -> None:
    """The entry is drawn from the schema: fields dropped, added, and filled with values of their types or others."""
    method = data.draw(st.sampled_from([*world.kb]))
    rng = data.draw(st.randoms(use_true_random=False))
    content = entries.written(entries.drawn(rng, world.kb, method))
    tree = world.folder / "tree"
    kb = entries.reread(world.kb, tree, method, content)
    try:
        assert tasks.judged(kb, method, data.draw(st.sampled_from(world.small)), content).problems == []
    finally:
        entries.restore(world.kb, tree, method)


# The fuzzer notices what it is for


def broken(*_: object) -> None:
    raise ZeroDivisionError


def loud(*_: object) -> None:
    print("an answer")
    raise fuzz.kit.peftonomy.UsageError("no answer")


def stuck(*_: object) -> None:
    while True:
        pass


MISTAKES = [(broken, "traceback"), (loud, "stdout beside an error"), (stuck, "hang")]


@pytest.mark.parametrize(("command", "problem"), MISTAKES)
def test_a_mistake_of_the_command_line_is_noticed(
    world: fuzz.World, monkeypatch: pytest.MonkeyPatch, command: object, problem: str
) -> None:
    monkeypatch.setattr("peftonomy.cli.browse.knowledge", command)
    monkeypatch.setattr(fuzz.kit, "LIMIT", 0.2)

    def generate(rng: random.Random, world: fuzz.World) -> fuzz.Case:
        return fuzz.Case("", fuzz.kit.command(["models"], world.kb)[1])

    assert [p.partition(":")[0] for p in fuzz.run_case(generate, "models:0:0", world).problems] == [problem]


def test_a_wrong_answer_is_noticed(world: fuzz.World) -> None:
    line = ["cost", "lora", "--model", "bert_base", "--set", "r=8", "--json"]
    out = fuzz.kit.command(line, world.kb)[0].out
    assert [*tasks._compared(line, out, world)] == []
    assert [*tasks._compared(line, out.replace('"r": 8', '"r": 4'), world)] != []
    found = world.kb["lora"].cost("bert_base")
    places = world.kb["lora"].places("bert_base")
    assert [*fuzz.kit.recount(found, places)] == []
    assert [*fuzz.kit.recount(found, places[1:])] != []


@pytest.mark.parametrize("page", ["<script>a</script>", "<b onclick='a'>", "[a](javascript:b)", "# a {: onclick='b' }"])
def test_what_runs_in_a_page_is_noticed(page: str) -> None:
    assert [*tasks._inert(f"---\n---\n{page}\n")] != []


def test_an_entry_of_the_checkout_stays_the_same_when_written(world: fuzz.World, tmp_path: Path) -> None:
    """Otherwise an entry drawn would differ in more than its changes."""
    for method in list(world.kb)[::20]:
        content = entries.written(world.kb[method].document.data)
        assert entries.reread(world.kb, tmp_path / method, method, content)[method].entry == world.kb[method].entry

"""A sample of `make fuzz`, and the promise of `check`: every command works on an entry that it accepts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from . import fuzz
from .browser_kit import watch
from .fuzz import addresses, calls, entries, lines, processes, trees

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SAMPLE = {
    "command": 60, "config": 40, "adapter": 40, "python": 60, "assistant": 40, "agreement": 12, "entry": 6, "text": 6,
    "site": 4, "process": 3,
}  # fmt: skip
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
        assert trees.judged(kb, method, data.draw(st.sampled_from(world.small)), content).problems == []
    finally:
        entries.restore(world.kb, tree, method)


@pytest.mark.browser
def test_pages_take_strange_addresses(world: fuzz.World, browser: Browser, address: str) -> None:
    """Those that have failed, and a sample."""
    page = browser.new_page()
    tab = addresses.Tab(page, address, watch(page))
    ends = [
        "planner.html?gpu=24+GiB&need=toString", "taxonomy.html#%E0%A4%A", "taxonomy.html#constructor",
        "methods/lora.html?r=1#%", *(addresses.drawn(random.Random(n), world) for n in range(8)),
    ]  # fmt: skip
    assert [(end, found.problems) for end in ends if (found := addresses.opened(tab, end)).problems] == []
    page.close()


# The fuzzer draws everything, and notices what it is for


def test_every_command_and_every_option_is_drawn(world: fuzz.World) -> None:
    """A new command belongs to a group without a change of the fuzzer, or this test names it."""
    rng = random.Random(0)
    drawn = [lines.declared(rng, world) for _ in range(1200)]
    every = [*drawn, *(line.split() for line in processes.LINES), ["site", "pages"]]  # the group `site` runs the last
    assert [path for path, _ in lines.leaves() if not any(path == (*words[: len(path)],) for words in every)] == []
    found = [command for path, command in lines.leaves() if path[-1] not in lines.ELSEWHERE]
    options = {name for command in found for param in command.params for name in param.opts if name.startswith("-")}
    assert options - {word for words in drawn for word in words} == set()
    assert {"costs", "choose", "adapter", "compare", "nearest", "query"} <= calls.public(world.kb).keys()


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
    assert [*lines._compared(line, out, world)] == []
    assert [*lines._compared(line, out.replace('"r": 8', '"r": 4'), world)] != []
    found = world.kb["lora"].cost("bert_base")
    places = world.kb["lora"].places("bert_base")
    assert [*fuzz.kit.recount(found, places)] == []
    assert [*fuzz.kit.recount(found, places[1:])] != []


@pytest.mark.parametrize("page", ["<script>a</script>", "<b onclick='a'>", "[a](javascript:b)", "# a {: onclick='b' }"])
def test_what_runs_in_a_page_is_noticed(page: str) -> None:
    assert [*trees._inert(f"---\n---\n{page}\n")] != []


def test_check_accepts_the_small_tree(tmp_path: Path) -> None:
    """Otherwise no case of `text` and `site` would show that a command fails on what `check` accepts."""
    trees._small(tmp_path)
    assert fuzz.kit.command(["--root", str(tmp_path), "check"])[0].code == 0


def test_an_entry_of_the_checkout_stays_the_same_when_written(world: fuzz.World, tmp_path: Path) -> None:
    """Otherwise an entry drawn would differ in more than its changes."""
    for method in list(world.kb)[::20]:
        content = entries.written(world.kb[method].document.data)
        kb = entries.reread(world.kb, tmp_path / method, method, content)
        assert kb[method].entry == world.kb[method].entry
    assert fuzz.kit.command(["check", str(kb.methods.path(method))], kb)[0].code == 0, "no case would be accepted"

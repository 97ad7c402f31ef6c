"""Memory by lists of operations: against simulated steps of tiny models, to the byte, and of public ones."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

import peftonomy
from benchmarks import published
from peftonomy import DataError, UsageError
from peftonomy.memory.answer import remembered
from peftonomy.memory.model import Memory, Setting
from peftonomy.memory.program import compressed, padded
from peftonomy.memory.step import Step
from peftonomy.schema.programs import parse
from tests.operations_kit import Case, predicted

KB = peftonomy.load()
FAMILIES = sorted(name for name, family in KB.families.items() if family.operations is not None)
METHODS = sorted(
    name for name, method in KB.items()
    if all(part.entry.memory is not None and part.entry.memory.operations is not None for part in method.parts)
)  # fmt: skip
PLAIN = ("full_fine_tuning", "bitfit")
"""Methods that train parameters of the backbone only, and compute nothing of their own."""
HOMES = ("roberta", "llama", "t5")
SETTINGS: dict[str, dict[str, Any]] = {
    "eager": {"attention": "eager"}, "sdpa": {}, "checkpointing": {"checkpointing": True, "dtype": "bfloat16"},
    "mixed": {"dtype": "mixed", "attention": "eager"}, "one sequence": {"batch": 1},
}  # fmt: skip
EXCEPTIONS = {
    row["value"]: row["reason"]
    for row in published.read(published.TABLE.parent / "exceptions.tsv")
    if row["table"] == "operations"
}
"""Cases whose bytes differ from those of a simulated step (`METHOD FAMILY SETTING`, or `METHOD MODEL` of a public
model), each with the reason."""
MEDIAN, WORST, TINY = 1e-4, 1e-2, 2e-2


def home(method: str) -> str:
    """The first of the homes on which a method finds something to act on."""
    for family in HOMES:
        try:
            KB[method].cost(Case(family, method).model)
        except UsageError:
            continue
        return family
    raise AssertionError(method)


def cases() -> Iterator[tuple[str, str, str]]:
    """Every family with two methods, and every method on its home."""
    for family in FAMILIES:
        for setting in SETTINGS:
            yield family, "full_fine_tuning", setting
            yield family, "lora", setting
    for method in (*METHODS, *PLAIN):
        if method != "lora":
            for setting in ("eager", "checkpointing", "mixed"):
                yield home(method), method, setting


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(("family", "method", "setting"), sorted(set(cases())))
def test_bytes_kept_are_those_of_a_simulated_step(family: str, method: str, setting: str) -> None:
    case = Case(family, method, **SETTINGS[setting])
    ours, found = predicted(case), case.simulate()
    assert (ours.kept == found.kept) != (f"{method} {family} {setting}" in EXCEPTIONS), (ours.kept, found.kept)
    assert ours.peak == pytest.approx(found.peak, rel=TINY)
    assert (ours.trained, ours.optimizer_states) == (found.trained, found.optimizer_states)
    if ours.setting.attention == "eager":
        assert (ours.forward_flops, ours.step_flops) == (found.forward_flops, found.step_flops)


def public() -> list[tuple[dict[str, str], Memory]]:
    """The simulated steps of public models that operations can be asked about, with what they say."""
    lines = (published.TABLE.parent / "simulated.tsv").read_text(encoding="utf-8").splitlines()
    found = []
    for row in csv.DictReader(lines, delimiter="\t"):
        known = row["method"] in METHODS or row["method"] in PLAIN
        if row["refused"] or not known or KB.models[row["model"]].family.model_type not in FAMILIES:
            continue
        targets = tuple(row["targets"].split(",")) if row["targets"] else None
        plan = KB[row["method"]].plan(row["model"], task=row["task"], targets=targets)
        setting = Setting(
            int(row["batch"]), int(row["seq"]), row["dtype"], row["optimizer"], row["checkpointing"] == "True",
            row["attends"],
        )  # fmt: skip
        found.append((row, remembered(KB, plan, {}, setting)))
    return found


def test_peaks_of_public_models_are_the_simulated() -> None:
    errors = []
    for row, memory in public():
        error = abs(memory.peak / int(row["peak"]) - 1)
        listed = f"{row['method']} {row['model']}" in EXCEPTIONS
        assert (error <= WORST) != listed, (row, memory.peak)
        errors += [] if listed else [error]
    assert len(errors) >= 50
    assert statistics.median(errors) <= MEDIAN


def test_operations_of_public_models_are_those_counted() -> None:
    for row, memory in public():
        if row["attends"] == "eager" and row["forward_flops"]:
            assert memory.forward_flops == int(row["forward_flops"]), row
            assert memory.step_flops == int(row["step_flops"]), row


def test_a_tensor_more_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: with all that is kept counted twice, every family is off."""
    right = {family: predicted(Case(family, "lora")).kept for family in FAMILIES}
    keep = Step._keep

    def twice(self: Step, rule: Any, inputs: Any, numbers: Any, outputs: Any) -> None:
        keep(self, rule, inputs, numbers, outputs)
        if self.recording and self.tape.records:
            self.tape.records[-1].kept.append(self.tape.new(8))  # type: ignore[union-attr]

    monkeypatch.setattr(Step, "_keep", twice)
    assert all(predicted(Case(family, "lora")).kept > right[family] for family in FAMILIES)


# The language


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        ("f x", "", "no line; at least one was expected"),
        ("F-x", "same x", "a name and the names"),
        ("f x", "y = mm x ]", "in 'y = mm x ]': formula"),
        ("f x", "y[1, 2] = mm x", "found 2 sizes; expected 3"),
        ("f x", "1y = mm x", "found '1y'; expected a name"),
    ],
)
def test_a_line_that_makes_no_sense(head: str, body: str, message: str) -> None:
    with pytest.raises(ValueError, match="function") as caught:
        parse(head, body)
    assert message in str(caught.value)


def test_a_line_is_read() -> None:
    (line,) = parse("f x W", "a > 0 and b: y[a0, 1, 2*r] = mm x .A? attn.q 2*r   # why").lines
    assert (line.targets, line.kind) == (("y",), "mm")
    assert line.condition is not None
    assert line.condition.source == "a > 0 and b"
    assert [str(a) for a in line.arguments[:3]] == ["x", ".A?", "attn.q"]
    assert line.shape is not None
    assert [size.source for size in line.shape] == ["a0", "1", "2*r"]


@pytest.mark.parametrize(
    ("keys", "groups"),
    [
        ("a", [([0], 0)]),
        ("aaa", [([0], 0), ([1], 0), ([2], 0)]),
        ("aaaaaa", [([0], 0), ([1], 3), ([5], 0)]),
        ("xabababab", [([0], 0), ([1, 2], 0), ([3, 4], 1), ([7, 8], 0)]),
    ],
)
def test_layers_that_are_alike_are_counted(keys: str, groups: list[tuple[list[int], int]]) -> None:
    assert compressed(keys) == groups
    assert sum(len(numbers) * (1 + more) for numbers, more in groups) == len(keys)


@pytest.mark.parametrize("family", FAMILIES)
def test_counted_layers_are_as_run(family: str) -> None:
    """Bytes kept and operations of a step are the same whether every layer is run or alike ones only count."""
    asked = Case(family, "lora").asked()
    found = []
    for whole in (False, True):
        step = Step(asked.program, asked.flags(whole))
        loss = step.run()
        kept = step.tape.now
        step.back(loss)
        found.append((kept, step.tape.peak, step.tape.flops, step.tape.now))
    assert found[0] == found[1]


def test_sizes_are_three() -> None:
    assert [padded(shape) for shape in [(), (2,), (2, 3), (2, 3, 5, 7)]] == [(1, 1, 1), (1, 1, 2), (1, 2, 3), (6, 5, 7)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("y = mmm x", "unknown operation mmm; did you mean mm?"),
        ("y = mm x attn.qq", "unknown name attn.qq; did you mean attn.q"),
        ("hidden_sise > 1: y = mm x attn.q", "unknown name 'hidden_sise'"),
        ("y = dropout x", "found 0 numbers; expected 1: p"),
        ("y z = mm x attn.q", "found 1 results; expected 2"),
        ("y = mm x .A", "no tensor .A here"),
    ],
)
def test_a_mistake_in_operations_is_one_line(line: str, message: str) -> None:
    asked = Case("llama", "lora").asked()
    asked.model.functions["mlp"] = parse("mlp x", line)
    with pytest.raises(DataError) as caught:
        Step(asked.program, asked.flags()).run()
    assert message in str(caught.value)
    assert "operations of llama" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_who_says_nothing_is_refused() -> None:
    silent = next(name for name, family in KB.families.items() if family.operations is None)
    model = next(m for m in KB.models.values() if m.family.model_type == silent)
    plan = KB["full_fine_tuning"].plan(model, task=None)
    with pytest.raises(UsageError, match="does not say yet which operations"):
        remembered(KB, plan, {}, Setting(1, 8))


def test_a_tensor_that_is_several_parameters_is_updated_as_several() -> None:
    """SparseAdapter declares its two matrices as one tensor: AdamW counts the steps of each."""
    case = Case("roberta", "sparseadapter", targets=("mlp.down",), hyperparameters={"bottleneck": 7})
    asked = case.asked()
    step = Step(asked.program, asked.flags())
    step.run()
    shapes = [t.shape for t in asked.trained(step) if t.number == case.model["num_hidden_layers"]]
    d = case.model["hidden_size"]
    assert [(7, d), (d, 7)] == [shape for shape in shapes if len(shape) == 2]


def test_a_method_without_targets_acts_on_modules_of_its_roles() -> None:
    asked = Case("gpt2", "parallel_adapter").asked()
    names = {path.rpartition(".")[2] for _, path in asked.program.hooks}
    assert names == {"c_fc", "c_proj"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("w = part A 0 r d_in", "found no such part; expected a tensor of the method's own, a number and sizes"),
        ("w = part .A 0", "found no such part"),
        ("w = part .C 0 r d_in", "no tensor .C here"),
    ],
)
def test_a_part_that_makes_no_sense(line: str, message: str) -> None:
    asked = Case("llama", "lora").asked()
    for hooks in asked.program.hooks.values():
        for hook in hooks:
            hook.function = parse("after x y", line)
    with pytest.raises(DataError, match=message):
        Step(asked.program, asked.flags()).run()

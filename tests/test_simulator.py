"""The simulator: what it says of a training step is what a real one on the CPU allocates."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from benchmarks import _truth as truth
from peftonomy import UsageError
from peftonomy.cli.main import main
from reference_impls import _simulate
from reference_impls._simulate import Memory, simulate
from tests.knowledge import KB
from tests.operations_kit import Case, predicted, tiny

from .grid import WHOLE, drawn

pytestmark = pytest.mark.torch
LLAMA = truth.MODELS["llama"]
ROOT = Path(__file__).parent.parent
TABLE = ROOT / "benchmarks/memory/truth.tsv"
ROWS = list(csv.DictReader(TABLE.read_text().splitlines(), delimiter="\t"))
SAMPLE = [
    ("lora", "llama", "sdpa", True),
    ("lora", "roberta", "eager", False),
    ("full_fine_tuning", "llama", "eager", True),
    ("full_fine_tuning", "t5", "sdpa", False),
    ("bitfit", "roberta", "sdpa", False),
    ("ia3", "t5", "eager", False),
    ("sequential_adapter", "roberta", "sdpa", True),
    ("prompt_tuning", "llama", "sdpa", False),
    ("llama_adapter", "llama", "eager", False),
    ("lora_fa", "llama", "eager", False),
    ("hadamard_adapter", "roberta", "eager", False),
]


def case(method: str, model: str, attention: str, checkpointing: bool) -> dict[str, Any]:
    return {"method": method, "model": model, "attention": attention, "checkpointing": checkpointing}


def small(method: str, **changes: Any) -> _simulate.Simulation:
    return simulate(KB, method, LLAMA, **({"batch": 2, "seq": 16} | changes))


# Against real steps


@pytest.mark.parametrize("of", SAMPLE, ids=lambda of: "-".join(map(str, of)))
def test_a_simulated_peak_is_the_profiled_one(of: tuple[str, str, str, bool]) -> None:
    found = truth.compare(KB, case(*of))
    assert found.simulated == found.counted
    assert abs(found.error) < truth.TOLERANCE


CASES = [case(r["method"], r["model"], r["attention"], r["checkpointing"] == "True") for r in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("of", drawn("table", CASES, len(CASES) // 8), ids=str)
def test_cases_of_the_table_are_as_they_were(of: dict[str, Any]) -> None:
    """An eighth of them; `make grid` takes all."""
    found = truth.compare(KB, of)
    assert found.simulated == found.counted
    assert truth.explained(of["method"], found.error, found.inside)


def test_the_table_shows_what_was_promised() -> None:
    close = [row for row in ROWS if abs(float(row["error"])) < truth.TOLERANCE]
    assert len(close) >= 150
    sides = {"model": truth.MODELS, "attention": _simulate.ATTENTION, "checkpointing": ("False", "True")}
    for name, values in sides.items():
        shares = Counter(row[name] for row in close)
        assert all(shares[value] > 10 for value in values)
    assert all(row["simulated"] == row["counted"] for row in ROWS)
    assert all(truth.explained(row["method"], float(row["error"]), row["inside"]) for row in ROWS)


def test_parts_and_operations_are_those_of_a_real_step() -> None:
    setup = _simulate.Setup.of(
        KB, "lora", LLAMA, batch=2, seq=16, dtype="float32", optimizer="adamw", checkpointing=False, attention="eager",
        targets=None, task=None, hyperparameters={},
    )  # fmt: skip
    with _simulate.fake():
        simulated = _simulate.measured(setup)
    assert simulated == _simulate.measured(setup)


DROPOUT = {
    family: names
    for family, found in KB.families.items()
    if (names := sorted(key.key or name for name, key in found.config.items() if "dropout" in name or "pdrop" in name))
}
"""The keys with which the config.json of a family says where there is dropout."""


@pytest.mark.slow
@pytest.mark.parametrize("family", DROPOUT)
def test_dropout_is_that_of_the_config(family: str) -> None:
    """With each probability alone the bytes kept are those of a simulated step, or the key is refused."""
    none = dict.fromkeys(DROPOUT[family], 0.0)
    dtype = tiny(family).get("simulated_in", "float32")
    for name in ("", *none):
        config = none | ({name: 0.1} if name else {})
        case = Case(family, "full_fine_tuning", dtype=dtype, attention="eager", config=config)
        operations = KB.families[family].operations
        assert operations is not None
        if name in operations.fixed and 0.1 not in operations.fixed[name]:
            with pytest.raises(UsageError, match=name):
                predicted(case)
        else:
            assert predicted(case).kept in case.saved(), name


# What is counted


def test_a_view_costs_nothing_and_a_release_is_noticed() -> None:
    with Memory() as memory:
        held = torch.zeros(100)
        assert memory.begin() == 400
        memory.mark("weights")
        made = held + 1             # 800
        part = made[:10].view(5, 2)
        del made                    # the view holds it
        other = part * 2            # 840
        del part, other
        memory.ends("forward")
        torch.zeros(50)             # 600
        memory.ends("backward")
    parts, peaks = memory.account()
    assert peaks == {"forward": 840, "backward": 600}
    assert parts == dict.fromkeys(_simulate.PARTS, 0) | {"weights": 400, "temporaries": 440}


def test_the_parts_are_the_peak() -> None:
    found = small("lora", dtype="float32", attention="eager")
    assert sum(getattr(found, part) for part in _simulate.PARTS) == found.peak == max(found.peaks.values())
    assert found.trained == KB["lora"].cost(LLAMA).trained
    assert found.kept <= found.peaks["forward"] - found.before + 3 * 2 * 16 * 8


@pytest.mark.parametrize(("optimizer", "copies"), [("adamw", 2), ("sgd", 0)])
def test_states_of_the_optimizer(optimizer: str, copies: int) -> None:
    found = small("full_fine_tuning", optimizer=optimizer, dtype="float32")
    counts = 4 * len(KB["full_fine_tuning"].places(LLAMA)) if copies else 0
    assert found.optimizer_states == copies * 4 * found.trained + counts


def test_what_changes_the_peak() -> None:
    plain = small("lora", batch=4, seq=64)
    assert small("lora", batch=4, seq=64, checkpointing=True).peak < plain.peak
    assert small("lora", batch=4, seq=64, dtype="float32").peak > plain.peak
    assert small("lora", batch=4, seq=64, attention="eager").peak > plain.peak
    assert small("lora", batch=4, seq=64, dtype="mixed").optimizer_states > plain.optimizer_states
    assert small("lora", batch=4, seq=64, r=64).peak > plain.peak
    full = small("full_fine_tuning")
    assert small("full_fine_tuning", optimizer="adamw-foreach").peak > full.peak


def test_floating_point_operations_of_a_forward_pass() -> None:
    found = small("lora", attention="eager", r=4)
    n, layers, d, ff, kv, vocab = 32, 2, 192, 448, 64, 2000
    linear = layers * (2 * d * d + 2 * d * kv + 3 * d * ff) + d * vocab
    lora = layers * 4 * ((d + d) + (d + kv))        # A and B of queries and of values
    attention = layers * 2 * d * 16                 # scores and mixtures, each over 16 positions
    assert found.forward_flops == 2 * n * (linear + lora + attention)
    # behind the forward pass the gradients of activations, but not before the first trained tensors
    assert 1.9 * found.forward_flops < found.step_flops < 2 * found.forward_flops


def test_nothing_stays_patched() -> None:
    before = nn.functional.dropout, nn.functional.scaled_dot_product_attention, nn.Module._apply, torch.randint
    with pytest.raises(ZeroDivisionError), _simulate.fake(), _simulate.conventions():
        1 / 0  # noqa: B018
    small("lora")
    assert before == (
        nn.functional.dropout, nn.functional.scaled_dot_product_attention, nn.Module._apply, torch.randint
    )  # fmt: skip
    assert torch.get_default_dtype() == torch.float32


# The most memory of this program alone: `ru_maxrss` begins at that of the process that started it.
LARGE = """
import pathlib
import re
import sys
import peftonomy
from reference_impls._simulate import simulate

kb = peftonomy.load()
model = kb.models["llama_3_1_405b"]
wide = {"num_hidden_layers": 8, "hidden_size": 65536, "intermediate_size": 212992}
few = model if "whole" in sys.argv else {"model_type": "llama"} | model.file.config | wide
assert simulate(kb, "lora", few, batch=1, seq=512).weights > 2 * 405e9
peak = re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())
print(peak[1])
"""


@pytest.mark.slow
def test_a_model_of_405_billion_parameters_takes_little_memory() -> None:
    """In a process of its own, imports included; with few wide layers, or with its own (`make grid`)."""
    command = [sys.executable, "-c", LARGE, *["whole"] * WHOLE]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert int(found.stdout) < 2**20


# Mistakes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 0}, "batch: found 0; expected a whole number from 1"),
        ({"batch": 1.5}, "batch: found 1.5; expected a whole number from 1"),
        ({"seq": -1}, "seq: found -1; expected a whole number from 1"),
        ({"seq": 513}, "seq: found 513; config has 512 positions"),
        ({"dtype": "float8"}, "unknown dtype 'float8'; "),
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv'; did you mean adamw"),
        ({"attention": "flash"}, "unknown attention 'flash'; known: eager, sdpa"),
        ({"task": "none"}, "task: found none; expected one of causal_lm, masked_lm, token_cls, seq_cls, zero_shot"),
        ({"task": "song"}, "unknown task 'song'"),
        ({"rank": 4}, "unknown hyperparameter 'rank'"),
    ],
)
def test_a_mistake_is_one_clear_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        small("lora", **given)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_checkpointing_is_refused_where_transformers_lacks_it() -> None:
    for family in KB.families.values():
        classes = [getattr(transformers, task.class_) for task in family.tasks.values()]
        has = {class_.supports_gradient_checkpointing for class_ in classes}
        assert family.operations is not None
        assert has == {True} or not family.operations.checkpointing, family.model_type
    for asked in (partial(simulate, KB, "lora"), KB["lora"].memory):
        with pytest.raises(UsageError, match="^checkpointing: transformers does not have it for ALBERT"):
            asked("albert_base_v2", batch=2, seq=16, checkpointing=True)


def test_what_a_reference_implementation_refuses_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "deberta_v3_xsmall", "--batch", "2", "--seq", "16", "--simulate"]
    assert main(["memory", "prefix_tuning", *words]) == 2
    said, told = capsys.readouterr()
    assert said == ""
    assert told.startswith("error: --simulate failed for prefix_tuning on deberta_v3_xsmall: ")
    assert told.count("\n") == 1


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["memory", "lora", "--model", "roberta_base", "--batch", "2", "--seq", "16", "--simulate", *words])
    return code, *capsys.readouterr()


def test_the_command_line_asks_the_simulator(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = ask(capsys, "--set", "r=4", "--json")
    found = simulate(KB, "lora", "roberta_base", batch=2, seq=16, r=4)
    assert (code, json.loads(said)) == (0, json.loads(json.dumps(found.to_dict())))
    _, said, _ = ask(capsys, "--set", "r=4")
    assert f"{found.peak:,}" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "batch=3"], "error: unknown hyperparameter 'batch' of lora; "),
        (["--quantized", "nf4"], "error: --simulate takes neither --quantized nor --target-modules"),
        (["--optimizer", "adafactor"], "error: unknown optimizer 'adafactor'; "),
    ],
)
def test_a_mistake_on_the_command_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, _, complaint = ask(capsys, *words)
    assert (code, complaint.count("\n")) == (2, 1)
    assert complaint.startswith(message)


# Twins: a comparison that could not fail would show nothing.


def test_another_step_has_another_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    of = case("lora", "roberta", "eager", False)
    right = truth.compare(KB, of)
    monkeypatch.setattr(_simulate, "_dropout", lambda x, p=0.5, training=True, inplace=False: x)
    wrong = truth.compare(KB, of)
    assert abs(wrong.simulated / right.profiled - 1) > 10 * truth.TOLERANCE

"""Memory by operations, held against a simulated step: `python -m tests.operations_kit FAMILY METHOD [SETTING...]`.

Prints bytes kept and peaks of both, and where they differ what each keeps, by size. Settings are `dtype=float32`,
`eager`, `checkpointing`, `batch=2`, `seq=8`, `task=seq_cls`, `targets=attn.q,attn.v`, hyperparameters (`r=4`), and keys
of the config (`config.hidden_dropout_prob=0.0`); `peak` lists what is alive at the peak as well.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from peftonomy import UsageError
from peftonomy.backbones.backbone import Inventory
from peftonomy.memory.answer import Asked, check_length
from peftonomy.memory.setting import Memory, Setting
from peftonomy.memory.step import Step
from tests.knowledge import KB

__all__ = ["FITTING", "Case", "by_operations", "length", "predicted", "simulated"]


CONFIGS = Path(__file__).parent / "data" / "operations"
"""By family, the config.json of a tiny model: with layers enough that some are counted and not run (five), and sizes
that are nowhere equal by chance. Its `task`, if it has one, is the task that is trained. `simulated_in` is the only
type of numbers in which torch simulates the family: its meta kernel of `_grouped_mm` refuses all but bfloat16."""


FITTING: dict[str, dict[str, Any]] = {
    "adamss": {"r": 7, "num_subspaces": 3}, "fourierft": {"n_frequency": 9},
    "intrinsic_said": {"d": 100}, "krona": {"a1": 4, "a2": 3}, "krona_b": {"a1": 4, "a2": 3}, "miss": {"r": 5},
    "miss_mini": {"r": 5, "mini_r": 4}, "psoft": {"r": 5}, "randlora": {"r": 5},
    "shira": {"r": 3}, "uni_lora": {"theta_d_length": 50}, "vb_lora": {"vector_length": 6},
    "waveft": {"n_frequency": 9}, "qa_lora": {"r": 4, "group": 4},
    "abba": {"r1": 4, "r2": 3}, "mora": {"r": 2},
    "attempt": {"prompt_length": 8}, "cpt": {"prompt_length": 8}, "mpt": {"prompt_length": 8},
    "prompt_tuning": {"prompt_length": 8}, "galore": {"r": 4}, "apollo": {"r": 4},
    "hyperformer_pp": {"bottleneck": 3}, "adapterdrop": {"n_drop": 2}, "diablo": {"n": 4}, "ether": {"n": 2},
    "ether_plus": {"n": 2},
    "coda_prompt": {"components": 2, "prompt_length": 4, "tasks": 3},
}  # fmt: skip
"""By method, hyperparameters for tiny models that show more than those that `fitting` finds."""
SMALL: dict[str, tuple[Any, ...]] = {"int": (4, 5, 3, 2, 6, 7, 8, 1), "float": (0.2, 0.5)}
"""The values that `fitting` tries."""


@cache
def tiny(family: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CONFIGS / f"{family}.json").read_text(encoding="utf-8"))
    return found


def configured(family: str) -> dict[str, Any]:
    """Return the config.json of a family's tiny model."""
    return {"model_type": family, **{k: v for k, v in tiny(family).items() if k not in ("task", "simulated_in")}}


def length(model: Inventory, seq: int) -> int | None:
    """Return the length of a sequence of a model of text, None for one that reads no tokens."""
    return seq if model.reads_tokens else None


@cache
def fitting(family: str, method: str) -> dict[str, Any]:
    """Return hyperparameters for a tiny model: as few as possible, where a method's defaults are too large."""
    if method in FITTING:
        return FITTING[method]
    tried = {name: SMALL[spec.type] for name, spec in KB[method].entry.hyperparameters.items() if spec.type in SMALL}
    model = KB.backbone(configured(family))
    for number in range(min(len(tried), 2) + 1):
        for chosen in itertools.combinations(tried, number):
            for values in itertools.product(*(tried[name] for name in chosen)):
                given = dict(zip(chosen, values, strict=True))
                with contextlib.suppress(UsageError):
                    KB[method].cost(model, **given)
                    plan = KB[method].plan(model)
                    check_length(plan, plan.values(given), Setting(2, length(plan.inventory, 8)))
                    return given
    return {}


@dataclass
class Case:
    """A method on a tiny model of a family, and how it is trained."""

    family: str
    method: str
    dtype: str = "float32"
    attention: str = "sdpa"
    checkpointing: bool = False
    optimizer: str = "adamw"
    batch: int = 2
    seq: int = 8
    task: str = ""
    targets: tuple[str, ...] | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hyperparameters = {**fitting(self.family, self.method), **self.hyperparameters}

    @property
    def model(self) -> dict[str, Any]:
        """The config.json."""
        return configured(self.family) | self.config

    @property
    def trains(self) -> str:
        """The task: the family's own or, where that has no loss, classification."""
        default: str = KB.backbone(self.model).default_task
        own: str = self.task or tiny(self.family).get("task", "")
        return own or ("seq_cls" if default == "none" else default)

    def asked(self) -> Asked:
        """The question, as operations answer it."""
        plan = KB[self.method].plan(
            KB.backbone(self.model), task=self.trains, targets=self.targets
        )  # fmt: skip
        seq = length(plan.inventory, self.seq)
        setting = Setting(self.batch, seq, self.dtype, self.optimizer, self.checkpointing, self.attention)
        check_length(plan, plan.values(self.hyperparameters), setting)
        return Asked(KB, plan, self.hyperparameters, setting)

    def simulate(self) -> Any:
        """The same step, simulated."""
        from reference_impls import _simulate

        with _simulate.fake():
            return _simulate.measured(self.setup())

    def run(self) -> Any:
        """The same step on real tensors; None where the CPU lacks an operation or needs other values."""
        import torch

        from reference_impls import _simulate

        torch.manual_seed(0)
        try:
            return _simulate.measured(self.setup())
        except (RuntimeError, IndexError):
            return None

    def saved(self) -> Iterator[int]:
        """Yield the bytes between the passes of the same step: on real tensors, and then simulated."""
        from reference_impls import _simulate

        with contextlib.suppress(RuntimeError, IndexError):
            yield _simulate.saved(self.setup())
        with _simulate.fake():
            yield _simulate.saved(self.setup())

    def setup(self) -> Any:
        """What a step is run for."""
        from reference_impls import _simulate

        warnings.simplefilter("ignore")
        seq = length(KB.backbone(self.model).inventory(self.trains), self.seq)
        return _simulate.Setup.of(
            KB, self.method, self.model, batch=self.batch, seq=seq, dtype=self.dtype,
            optimizer=self.optimizer, checkpointing=self.checkpointing, attention=self.attention,
            targets=self.targets, task=self.trains, hyperparameters=self.hyperparameters,
        )  # fmt: skip


def predicted(case: Case) -> Memory:
    """What operations say of a case."""
    return case.asked().memory()


Alive = Counter[tuple[int, str]]
"""How many storages of so many bytes are alive, each with what made it."""


def by_operations(case: Case) -> tuple[Alive, Alive]:
    """The storages that the forward pass leaves, and those alive at the peak of both passes; every layer is run."""
    asked = case.asked()
    step = Step(asked.program, asked.flags(whole=True))
    step.tape.log = log = []
    loss = step.run()
    kept = Counter((s.bytes, s.origin) for s, sign in log if sign > 0 and s.holders > 0 and s.bytes)
    step.back(loss)
    return kept, highest([((s.bytes, s.origin), sign) for s, sign in log])


def highest(log: list[tuple[tuple[int, str], int]]) -> Alive:
    """What was alive when most was."""
    now = most = at = 0
    for i, ((size, _), sign) in enumerate(log):
        now += sign * size
        if now > most:
            most, at = now, i
    alive: Alive = Counter()
    for key, sign in log[: at + 1]:
        alive[key] += sign
    return alive


def simulated(case: Case) -> tuple[Any, Alive, Alive]:
    """A simulated step, the storages that its forward pass leaves, and those alive at the peak before the update."""
    import torch

    from reference_impls import _simulate

    left: Alive = Counter()
    peak: Alive = Counter()

    class Listing(_simulate.Memory):
        """Notes which operation made each storage."""

        def __init__(self) -> None:
            super().__init__()
            self.made: dict[int, str] = {}
            self.batch: set[int] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            back = "backward " if torch._C._current_autograd_node() is not None else ""
            self.current = f"{back}{func} {[tuple(a.shape) for a in args if hasattr(a, 'shape')]}"
            return super().__torch_dispatch__(func, types, args, kwargs)

        def _see(self, storage: Any) -> None:
            new = storage._cdata not in self._live
            super()._see(storage)
            if new:
                self.made[id(self._live[storage._cdata][0])] = self.current

        def mark(self, part: str, tensors: Any = None) -> int:
            found = super().mark(part, tensors)
            if part == "activations":
                blocks = [block for block, _ in self._live.values() if block.part == "activations"]
                if tensors is not None:
                    self.batch = {id(block) for block in blocks}
                else:
                    left.update((b.size, self.made.get(id(b), "")) for b in blocks if id(b) not in self.batch)
            return found

        def account(self) -> Any:
            log = self._log[: max(end for phase, end in self._ends if phase != "optimizer")]
            peak.update(highest([((b.size, self.made.get(id(b), "")), sign) for b, sign in log]))
            return super().account()

    before = _simulate.Memory
    _simulate.Memory = Listing  # type: ignore[misc]
    try:
        return case.simulate(), left, peak
    finally:
        _simulate.Memory = before  # type: ignore[misc]


def compared(what: str, ours: Alive, theirs: Alive) -> None:
    """Print where two counts of storages differ, by size."""
    sizes = Counter[int]()
    for sign, counts in ((1, ours), (-1, theirs)):
        for (size, _), number in counts.items():
            sizes[size] += sign * number
    for size, number in sorted(sizes.items(), reverse=True):
        if number:
            print(f"\n{what}: {size:,} bytes: operations have {abs(number)} {'more' if number > 0 else 'fewer'}")
            for title, counts in (("operations: ", ours), ("simulated:  ", theirs)):
                made = [f"{n} x {origin}" for (s, origin), n in counts.items() if s == size and n]
                print(f"  {title}" + "\n              ".join(made))


def read(words: list[str]) -> Case:
    """A case from words of the command line."""
    family, method, *settings = words
    case = Case(family, method)
    for word in settings:
        name, equals, text = word.partition("=")
        value: Any = text
        try:
            value = json.loads(text) if equals else True
        except json.JSONDecodeError:
            value = text
        if name == "eager":
            case.attention = "eager"
        elif name.startswith("config."):
            case.config[name.removeprefix("config.")] = value
        elif name == "targets":
            case.targets = tuple(text.split(","))
        elif hasattr(case, name):
            setattr(case, name, value)
        else:
            case.hyperparameters[name] = value
    return case


def main(words: list[str]) -> None:
    case = read([word for word in words if word != "peak"])
    found, left, peak = simulated(case)
    ours = predicted(case)
    print(f"kept  {ours.kept:>12,} operations {found.kept:>12,} simulated {ours.kept - found.kept:>+10,}")
    print(f"peak  {ours.peak:>12,} operations {found.peak:>12,} simulated {ours.peak / found.peak - 1:>+10.4%}")
    print(f"      {ours.phase} operations, {found.phase} simulated; simulated {found.peaks}, before {found.before}")
    for name in ("weights", "optimizer_states", "trained", "forward_flops", "step_flops"):
        a, b = getattr(ours, name), getattr(found, name)
        print(f"{name:16} {a:>16,} {b:>16,}" + (f" {a - b:>+12,}" if a != b else ""))
    mine, most = by_operations(case)
    compared("kept", mine, left)
    if "peak" in words:
        compared("at the peak", most, peak)


if __name__ == "__main__":
    main(sys.argv[1:])

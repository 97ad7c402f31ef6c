"""How fast peftonomy answers, beside what one would run instead: `python benchmarks/run.py` prints a table.

Both sides of a ratio are timed in the same run, and the best of the repeats counts: whatever else the machine
does can only slow a run down. Every warm query asks for another rank, so that no answer is remembered.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import peftonomy
from peftonomy.costs.plan import Plan
from peftonomy.costs.sweep import sweep_models
from peftonomy.memory.answer import Asked, Training
from peftonomy.memory.setting import Setting

METHOD, MODEL, RANK = "lora", "llama_2_7b", 8
WIDE = "llama_3_2_1b"
"""The model on which every method of peft is wrapped: wide enough for all defaults, and quick to build."""
QUERIES = 2_000


def main() -> None:
    kb = peftonomy.load()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | peftonomy | instead | ratio |\n| --- | ---: | ---: | ---: |")
    warm = warm_query(kb)
    built, wrapped = peft_on_meta(kb)
    row(f"warm cost of {METHOD} on {MODEL}; `get_peft_model` on a meta-device model", warm, wrapped)
    row("the same, with the construction of that model", warm, built + wrapped)
    row("cold command line; `python -c 'import peft'`", *cold_start())
    row(f"warm memory of a step of {METHOD} on {MODEL}; the same step, simulated", *memory_of_a_step(kb))
    row("the same memory, from a form; running the step of operations", *by_forms(kb))
    row("the first question about it, which derives a form; running the step of operations", *first_question(kb))
    ratios = every_method(kb)
    middle = sorted(ratios, key=lambda pair: pair[1] / pair[0])[len(ratios) // 2]
    row(f"the median of {len(ratios)} methods of peft on {WIDE}, each at its defaults; `get_peft_model` alone", *middle)
    for part in (3, 1):
        answered, refused, *taken = everything(kb, part)
        share = "all" if part == 1 else f"every {part}rd"
        said = f"{share} models, all methods, three settings: {answered:,} answers, {refused:,} that do not fit"
        row(f"{said}; the same, one query after the other", *taken)
    for method in ("lora", "prefix_tuning", "adapterdrop"):
        row(f"a setting of {method} in a sweep of a million", sweep(kb, method), None)
    row("`peftonomy site build`", site_build())


def row(what: str, ours: float, theirs: float | None = None) -> None:
    instead = " | "
    if theirs is not None:
        ratio = theirs / ours
        instead = f"{duration(theirs)} | {ratio:,.{0 if ratio >= 100 else 1}f} x"
    print(f"| {what} | {duration(ours)} | {instead} |", flush=True)


def duration(seconds: float) -> str:
    """A time with three digits and its unit."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))
    unit, size = next((pair for pair in units if seconds >= pair[1]), units[-1])
    return f"{seconds / size:.3g} {unit}"


def seconds(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def warm_query(kb: peftonomy.KnowledgeBase) -> float:
    """Seconds of one query in a program that has asked before."""
    method = kb[METHOD]
    method.cost(MODEL, r=RANK)
    ranks = itertools.cycle(range(1, 1_025))

    def ask() -> None:
        for _ in range(QUERIES):
            method.cost(MODEL, r=next(ranks))

    return min(seconds(ask) for _ in range(5)) / QUERIES


def peft_on_meta(kb: peftonomy.KnowledgeBase) -> tuple[float, float]:
    """Seconds to build the model on the meta device, and to wrap it with peft; the counts must agree."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft's affair, not ours
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    backbone = kb.models[MODEL]
    config = AutoConfig.for_model(backbone.family.model_type, **backbone.config)
    wanted = kb[METHOD].cost(MODEL, r=RANK).trained

    def build() -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    def once() -> tuple[float, float]:
        start = time.perf_counter()
        model = build()
        middle = time.perf_counter()
        lora = LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"])
        wrapped = get_peft_model(model, lora, low_cpu_mem_usage=True)
        end = time.perf_counter()
        trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
        assert trained == wanted, f"peft trains {trained:,}, peftonomy says {wanted:,}"
        return middle - start, end - middle

    once()
    runs = [once() for _ in range(5)]
    return min(b for b, _ in runs), min(w for _, w in runs)


def memory_of_a_step(kb: peftonomy.KnowledgeBase) -> tuple[float, float]:
    """Seconds of a prediction, and of two steps on fake tensors; the peaks must agree."""
    from reference_impls._simulate import simulate

    method = kb[METHOD]
    step: dict[str, Any] = {"batch": 1, "seq": 512}
    ranks = itertools.cycle(range(1, 1_025))

    def ask() -> None:
        for _ in range(QUERIES):
            method.memory(MODEL, r=next(ranks), **step)

    simulated = simulate(kb, METHOD, MODEL, **step).peak
    predicted = method.memory(MODEL, **step).peak
    assert abs(predicted / simulated - 1) < 0.01, f"{predicted:,} bytes predicted, {simulated:,} simulated"
    return min(seconds(ask) for _ in range(3)) / QUERIES, seconds(lambda: simulate(kb, METHOD, MODEL, **step))


def by_forms(kb: peftonomy.KnowledgeBase) -> tuple[float, float]:
    """Seconds of a closed form, and of running the step of operations that it is derived from; both must agree."""
    training = kb[METHOD].on(MODEL).training
    ranks = itertools.cycle(range(1, 65))
    settings = itertools.cycle([Setting(batch, seq) for batch in (2, 3, 8) for seq in (128, 512, 1024)])

    def ours() -> None:
        for _ in range(QUERIES):
            training.memory({"r": next(ranks)}, next(settings))

    def theirs() -> None:
        for _ in range(QUERIES // 100):
            Asked(kb, training.plan, {"r": next(ranks)}, next(settings)).memory()

    setting = next(settings)
    assert training.memory({}, setting) == Asked(kb, training.plan, {}, setting).memory()
    return min(seconds(ours) for _ in range(3)) / QUERIES, min(seconds(theirs) for _ in range(3)) / (QUERIES // 100)


def first_question(kb: peftonomy.KnowledgeBase) -> tuple[float, float]:
    """Processor seconds of a question about which nothing is remembered, and of one that runs the step instead."""
    plan, setting = kb[METHOD].on(MODEL).training.plan, Setting(2, 512)

    def fresh(ask: Callable[[], Any]) -> float:
        plan.memo.clear()
        start = time.process_time()
        ask()
        return time.process_time() - start

    ours = min(fresh(lambda: Training(kb, plan).memory({}, setting)) for _ in range(20))
    return ours, min(fresh(lambda: Asked(kb, plan, {}, setting).memory()) for _ in range(20))


def cold_start() -> tuple[float, float]:
    """Seconds of a whole process: our command line answering, and Python importing peft."""
    ours = [sys.executable, "-m", "peftonomy", "cost", METHOD, "--model", MODEL]
    theirs = [sys.executable, "-c", "import peft"]
    runs = [(process(ours), process(theirs)) for _ in range(5)]
    return min(a for a, _ in runs), min(b for _, b in runs)


def process(command: list[str]) -> float:
    """Seconds of a process that may keep the bytecode of our modules, as those of libraries are kept."""
    found = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=found))


def every_method(kb: peftonomy.KnowledgeBase) -> list[tuple[float, float]]:
    """For every method that peft has and can put on a model without numbers: seconds of our query, and of peft's."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    backbone = kb.models[WIDE]
    config = AutoConfig.for_model(backbone.family.model_type, **backbone.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = []
    for method in kb.values():
        library = method.entry.implementations.get("hf_peft")
        if library is None or not library.type:
            continue
        defaults: dict[str, Any] = dict(library.defaults)
        ask = functools.partial(method.cost, WIDE, **defaults)
        try:
            said = method.export(WIDE, **defaults).to_dict()
            ask()
        except peftonomy.UsageError:  # it has no place in this model, or peft no argument for it
            continue
        with contextlib.suppress(Exception):  # peft's: it needs numbers, data or a further library
            theirs = min(wrapping(copy.deepcopy(model), copy.deepcopy(said)) for _ in range(3))
            found.append((min(seconds(ask) for _ in range(200)), theirs))
    return found


def wrapping(model: Any, said: dict[str, Any]) -> float:
    """Seconds that `get_peft_model` takes with a saved configuration, on the meta device."""
    import torch
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kind = PEFT_TYPE_TO_CONFIG_MAPPING[said.pop("peft_type")]
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return seconds(lambda: get_peft_model(model, kind(**said), low_cpu_mem_usage=True))


def everything(kb: peftonomy.KnowledgeBase, part: int) -> tuple[int, int, float, float]:
    """Answers, refusals, seconds at once and one by one, for all methods at three settings on one of so many models.

    The settings are once, twice and three times the default of a method's first whole number, if it has one. The files
    have been read before, and nothing is remembered from pass to pass but what belongs to a model.
    """
    import numpy as np

    inventories = [kb.models[model].inventory() for model in [*kb.models][::part]]
    models = [(inventory.backbone.id, inventory.backbone.parameters) for inventory in inventories]

    def laid() -> Iterator[tuple[list[Plan | None], str | None, Any]]:
        for method in kb.values():
            plans = [plan(method, inventory) for inventory in inventories]
            first = next(found for found in plans if found is not None)
            size = next((n for n, spec in method.entry.hyperparameters.items() if spec.type == "int"), None)
            yield plans, size, size and np.array([1, 2, 3]) * first.default(method.entry.hyperparameters[size])

    def at_once() -> Iterator[Any]:
        for plans, size, sizes in laid():
            yield sweep_models(models, plans, {} if size is None else {size: sizes}).trained

    def one_by_one() -> Iterator[int]:
        for plans, size, sizes in laid():
            settings = [{}] if size is None else [{size: value} for value in sizes.tolist()]
            for found, setting in itertools.product(filter(None, plans), settings):
                with contextlib.suppress(peftonomy.UsageError):
                    yield found.cost(setting).trained

    def plan(method: peftonomy.Method, inventory: Any) -> Plan | None:
        try:
            return Plan(method.parts, inventory)
        except peftonomy.UsageError:
            return None

    found = [*at_once()]
    answered = sum(int(trained.count()) for trained in found)
    assert sum(int(trained.sum()) for trained in found) == sum(one_by_one())
    quick = min(seconds(lambda: deque(at_once(), 0)) for _ in range(3))
    slow = min(seconds(lambda: deque(one_by_one(), 0)) for _ in range(3))
    return answered, sum(trained.size for trained in found) - answered, quick, slow


def sweep(kb: peftonomy.KnowledgeBase, method: str) -> float:
    """Seconds for one setting when a million values of the first whole number are asked for at once."""
    import numpy as np

    size = next(n for n, s in kb[method].entry.hyperparameters.items() if s.type == "int")
    given: dict[str, Any] = {size: np.arange(1_000_000) % 8 + 1}
    return min(seconds(lambda: kb[method].sweep(MODEL, **given)) for _ in range(3)) / 1_000_000


def site_build() -> float:
    with tempfile.TemporaryDirectory() as folder:
        return process([sys.executable, "-m", "peftonomy", "site", "build", "--out", f"{folder}/site"])


if __name__ == "__main__":
    main()

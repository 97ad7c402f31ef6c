"""How fast peftonomy answers, beside what one would run instead: `python benchmarks/run.py` prints a table.

Both sides of a ratio are timed in the same run, and the best of the repeats counts: whatever else the machine
does can only slow a run down. Every warm query asks for another rank, so that no answer is remembered.
"""

from __future__ import annotations

import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import peftonomy

METHOD, MODEL, RANK = "lora", "llama_2_7b", 8
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
    answered, refused, seconds = everything(kb)
    row(f"all methods on all models: {answered} answers, {refused} that do not fit", seconds)
    row("`peftonomy site build`", site_build())


def row(what: str, ours: float, theirs: float | None = None) -> None:
    instead = " | "
    if theirs is not None:
        ratio = theirs / ours
        instead = f"{duration(theirs)} | {ratio:,.{0 if ratio >= 100 else 1}f} x"
    print(f"| {what} | {duration(ours)} | {instead} |", flush=True)


def duration(seconds: float) -> str:
    """A time with three digits and its unit."""
    units = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
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


def cold_start() -> tuple[float, float]:
    """Seconds of a whole process: our command line answering, and Python importing peft."""
    ours = [sys.executable, "-m", "peftonomy", "cost", METHOD, "--model", MODEL]
    theirs = [sys.executable, "-c", "import peft"]
    runs = [(process(ours), process(theirs)) for _ in range(5)]
    return min(a for a, _ in runs), min(b for _, b in runs)


def process(command: list[str]) -> float:
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def everything(kb: peftonomy.KnowledgeBase) -> tuple[int, int, float]:
    """Answers, refusals (a method with no place in a model) and seconds for all methods on all models."""

    def ask() -> Iterator[bool]:
        for method, model in itertools.product(kb.methods.values(), kb.models):
            try:
                method.cost(model)
                yield True
            except peftonomy.UsageError:
                yield False

    answers = list(ask())
    return sum(answers), answers.count(False), min(seconds(lambda: list(ask())) for _ in range(3))


def site_build() -> float:
    with tempfile.TemporaryDirectory() as folder:
        return process([sys.executable, "-m", "peftonomy", "site", "build", "--out", f"{folder}/site"])


if __name__ == "__main__":
    main()

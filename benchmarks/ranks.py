"""Several GPUs: predictions held against FSDP2's own code on fake tensors, and that against two real processes.

    python benchmarks/ranks.py random SEED MODELS SETTINGS [SECONDS]
    python benchmarks/ranks.py check SEED MODELS
    python benchmarks/ranks.py real [CASES]
    python benchmarks/ranks.py report

random: draw models with a method and several settings each, simulate them, and append to ranks/random.tsv. The tensors
are small and are allocated, which is faster than fake ones; check: compare the two. real: run two gloo processes on
this machine, and append to ranks/real.tsv. report: compare both files with the predictions of today.

A row of random.tsv holds a setting and what the simulation found, and no prediction, so that `report` needs no torch.
"""

from __future__ import annotations

import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peftonomy
from peftonomy import UsageError
from peftonomy.memory.setting import Setting
from peftonomy.memory.sharding import RankMemory, Sharding

FOLDER = Path(__file__).parent / "ranks"
RANDOM, REAL = FOLDER / "random.tsv", FOLDER / "real.tsv"
KB = peftonomy.load()
Case = dict[str, Any]
STEP = ("batch", "seq", "dtype", "optimizer", "checkpointing", "attention")
SHARED = ("gpus", "reshard_after_forward", "reduce_dtype")
PEAKS = ("peak_forward", "peak_backward", "peak_optimizer")
VARIED = ("batch", "seq", "reshard_after_forward")
"""What differs between settings of the same drawn model."""
FIELDS = ("seed", "index", "family", "method", *SHARED, *STEP, "hyperparameters", "config", "peak", *PEAKS, "refused")
REAL_FIELDS = (
    "shard", "family", "method", *SHARED, *STEP, "hyperparameters", "config", "peak", "other", "simulated"
)  # fmt: skip
OFTEN = ("lora", "full_fine_tuning")
METHODS = (
    "dora", "rslora", "pissa", "lora_fa", "adalora", "vera", "ia3", "sequential_adapter", "parallel_adapter",
    "prompt_tuning", "p_tuning", "prefix_tuning", "bitfit", "ln_tuning", "oft", "boft", "hra", "fourierft", "loha",
    "lokr", "krona", "compacter", "hadamard_adapter", "mam_adapter", "lora_xs", "delora", "road", "miss", "randlora",
    "hira", "vb_lora", "dylora", "lora_plus", "unipelt", "moslora", "mora", "loreft", "red", "s_bitfit",
    "pfeiffer_adapter",
)  # fmt: skip
"""Methods that are drawn besides."""
FROZEN = {
    "p_tuning": "its implementation stores frozen tensors as parameters, which FSDP2 shards; a prediction counts the "
    "frozen tensors of a method whole on every rank, as buffers",
}  # fmt: skip
"""Methods whose predictions may be further off, and why."""
GPUS = (2, 2, 3, 4, 4, 5, 7, 8, 8, 12, 16, 32, 64)


def configs(draw: random.Random) -> dict[str, Case]:
    """Return a small model of each family. Sizes are drawn so that rows seldom divide."""
    heads = draw.choice((2, 4, 8))
    d = heads * draw.choice((8, 16, 20, 32))
    f, vocab = 8 * draw.randrange(d // 4, 5 * d // 8), draw.randrange(200, 4000)
    layers = draw.choice((2, 2, 2, 2, 2, 5))
    decoder = {
        "vocab_size": vocab, "hidden_size": d, "intermediate_size": f, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": draw.choice((heads, heads // 2)),
        "max_position_embeddings": 512, "tie_word_embeddings": False,
    }  # fmt: skip
    encoder = {name: value for name, value in decoder.items() if name not in ("num_key_value_heads",)}
    return {
        "llama": decoder,
        "qwen2": decoder | {"tie_word_embeddings": True},
        "mistral": decoder | {"sliding_window": None},
        "mixtral": decoder | {"num_local_experts": draw.choice((4, 8)), "num_experts_per_tok": 2},
        "roberta": encoder | {"max_position_embeddings": 514},
        "bert": encoder,
        "gpt2": {"vocab_size": vocab, "n_embd": d, "n_inner": f, "n_layer": layers, "n_head": heads,
                 "n_positions": 512},
        "t5": {"vocab_size": vocab, "d_model": d, "d_kv": d // heads, "d_ff": f, "num_layers": layers,
               "num_heads": heads},
        "bart": {"vocab_size": vocab, "d_model": d, "encoder_ffn_dim": f, "decoder_ffn_dim": f,
                 "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads,
                 "decoder_attention_heads": heads, "max_position_embeddings": 512},
    }  # fmt: skip


def drawn(seed: int, settings: int) -> Iterator[list[Case]]:
    """Yield models without end, each with a method and so many settings."""
    draw = random.Random(seed)
    while True:
        family, config = draw.choice([*configs(draw).items()])
        method = draw.choice((*OFTEN, *(draw.choice(METHODS) for _ in range(3))))
        given = {"r": draw.choice((1, 3, 4, 8, 16, 33))} if "r" in KB[method].entry.hyperparameters else {}
        case: Case = {
            "family": family, "method": method, "gpus": draw.choice(GPUS),
            "reduce_dtype": draw.choice((None, None, "float32")),
            "dtype": "bfloat16" if family == "mixtral" else draw.choice(("bfloat16", "bfloat16", "float32", "mixed")),
            "optimizer": draw.choice(("adamw", "adamw", "adamw-foreach", "sgd")),
            "checkpointing": draw.random() < 0.35, "attention": draw.choice(("sdpa", "sdpa", "eager")),
            "hyperparameters": given, "config": {"model_type": family, **config},
        }  # fmt: skip
        yield [
            case | {"batch": draw.choice((1, 2, 3)), "seq": draw.choice((16, 33, 48, 65, 128)),
                    "reshard_after_forward": draw.random() < 0.75}
            for _ in range(settings)
        ]  # fmt: skip


def predicted(case: Mapping[str, Any], shard: str = "fsdp") -> RankMemory:
    """Return our prediction for a case."""
    setting = Setting(**{name: case[name] for name in STEP})
    training = KB[case["method"]].on(KB.backbone(case["config"])).training
    options = {name: case[name] for name in SHARED} if shard == "fsdp" else {"gpus": case["gpus"]}
    found = training.shared(Sharding(shard=shard, **options)).memory(case["hyperparameters"], setting)
    assert isinstance(found, RankMemory)
    return found


def simulated(*cases: Case, allocate: bool = False) -> list[Case]:
    """Simulate cases that differ in VARIED only. Returns the peaks, or the reason why the first cannot be run.

    allocate: on real tensors, which take the same bytes (`check` compares).
    """
    from reference_impls import _shard

    case, *others = cases
    given = {name: case[name] for name in (*STEP, *SHARED)}
    more = [tuple(other[name] for name in VARIED) for other in others]
    try:
        found = _shard.several(
            KB, case["method"], case["config"], more, allocate=allocate, **given, **case["hyperparameters"]
        )
    except Exception as error:      # whatever torch, transformers or a method raises: the row tells it
        return [{"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}]
    return [{"peak": one.peak, **{f"peak_{phase}": size for phase, size in one.peaks.items()}} for one in found]


def at_random(seed: int, models: int, settings: int, limit: float) -> None:
    """Append rows until so many models of this seed are done, or the time is over."""
    warnings.simplefilter("ignore")
    end = time.monotonic() + limit
    done = len({row["index"] for row in rows(RANDOM) if row["seed"] == str(seed)})
    for index, several in enumerate(drawn(seed, settings)):
        if index >= models or time.monotonic() > end:
            break
        if index >= done:
            peaks = simulated(*several, allocate=True)
            if "refused" in peaks[0]:   # a CPU lacks some operations, which fake tensors do not run
                peaks = simulated(*several)
            for case, found in zip(several, peaks, strict=False):
                append(RANDOM, FIELDS, {"seed": seed, "index": index, **case, **found})


def check(seed: int, models: int) -> None:
    """Print whether fake and real tensors take the same bytes, for so many models."""
    warnings.simplefilter("ignore")
    equal = [simulated(*several) == simulated(*several, allocate=True)
             for several, _ in zip(drawn(seed, 1), range(models), strict=False)]  # fmt: skip
    print(f"fake and real tensors: {sum(equal)} of {len(equal)} equal")


def append(path: Path, fields: tuple[str, ...], row: Case) -> None:
    new = not path.exists()
    path.parent.mkdir(exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields, delimiter="\t", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()})


def rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(), delimiter="\t", quotechar='"'))


def parsed(row: Mapping[str, str]) -> Case:
    """Return a row with its values in place of their texts."""
    texts = ("family", "method", "dtype", "optimizer", "attention", "refused", "shard", "reduce_dtype")
    found = {name: value if name in texts else json.loads(value or "null") for name, value in row.items()}
    return found | {"reduce_dtype": None if row["reduce_dtype"] == "null" else row["reduce_dtype"]}


# Real runs


REAL_CASES: tuple[tuple[str, str, Case], ...] = tuple(
    [
        ("fsdp", method, {"checkpointing": ckpt, "reshard_after_forward": reshard, "dtype": dtype})
        for method in ("lora", "full_fine_tuning", "ia3")
        for ckpt in (False, True) for reshard in (False, True) for dtype in ("bfloat16", "float32")
    ]
    + [("fsdp", method, {"family": family})
       for family in ("t5", "roberta", "gpt2") for method in ("lora", "full_fine_tuning")]
    + [(shard, method, {"dtype": dtype, "checkpointing": ckpt})
       for shard in ("ddp", "zero1") for method in ("lora", "full_fine_tuning")
       for dtype in ("float32", "bfloat16") for ckpt in (False, True)]
)  # fmt: skip


def real_case(method: str, changes: Case) -> Case:
    family = changes.get("family", "llama")
    config = {"model_type": family, **configs(random.Random(3))[family]}
    plain: Case = {
        "family": family, "method": method, "gpus": 2, "reshard_after_forward": True, "reduce_dtype": None, "batch": 2,
        "seq": 48, "dtype": "float32", "optimizer": "adamw", "checkpointing": False, "attention": "sdpa",
        "hyperparameters": {}, "config": config,
    }  # fmt: skip
    return plain | changes


def measured(cases: Sequence[tuple[str, Case]]) -> Iterator[tuple[int, int]]:
    """Run cases in two processes, and yield the peaks of both ranks."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "rank", f"{folder}/store", json.dumps(cases)]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        ranks = [
            subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment)
            for rank in range(2)
        ]  # fmt: skip
        try:
            for _ in cases:
                yield peak_of(ranks[0]), peak_of(ranks[1])
        finally:
            for one in ranks:
                one.kill()
                one.communicate()


def peak_of(rank: subprocess.Popen[str]) -> int:
    """Return the next peak that a rank prints."""
    assert rank.stdout is not None
    for line in rank.stdout:
        if line.startswith("peak "):
            return int(line.removeprefix("peak "))
    raise RuntimeError("a rank ended before its last case")


def as_rank(store: str, cases: Sequence[tuple[str, Case]], rank: int) -> None:
    """Run steps as one of two ranks and print their peaks."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    from reference_impls import _shard, _simulate

    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for shard, case in cases:
        torch.manual_seed(0)
        setup = _simulate.Setup.of(
            KB, case["method"], case["config"], **{name: case[name] for name in STEP}, targets=None, task=None,
            hyperparameters=case["hyperparameters"],
        )  # fmt: skip
        if shard == "fsdp":
            paths = _shard.layer_paths(KB, case["config"], setup.question.task)
            (found,) = _shard.measured(setup, paths, mesh, _shard.Sharded(*(case[name] for name in SHARED)))
        else:
            found = _shard.replicated(setup, divides=shard == "zero1")
        print("peak", found.peak, flush=True)
    dist.destroy_process_group()


def real(most: int) -> None:
    """Append rows for so many further cases."""
    done = len(rows(REAL))
    cases = [(shard, real_case(method, changes)) for shard, method, changes in REAL_CASES[done : done + most]]
    for (shard, case), (peak, other) in zip(cases, measured(cases), strict=True):
        (found,) = simulated(case) if shard == "fsdp" else [{}]
        append(REAL, REAL_FIELDS, {
            "shard": shard, **case, "peak": peak, "other": other, "simulated": found.get("peak")
        })  # fmt: skip


# Comparison


def report() -> None:
    """Print how the predictions of today compare with both files."""
    errors: list[tuple[float, Case]] = []
    outcomes: Counter[str] = Counter()
    for case in map(parsed, rows(RANDOM)):
        try:
            found = predicted(case).peak
        except UsageError as error:
            outcomes["refused by both" if case["refused"] else "refused by us"] += 1
            if not case["refused"]:
                print("refused by us:", case["method"], case["family"], error)
            continue
        if case["refused"]:
            outcomes["not run by torch"] += 1
            continue
        errors.append((abs(found - case["peak"]) / case["peak"], case))
    print(dict(outcomes), "compared:", len(errors), "methods:", len({c["method"] for _, c in errors}))
    for method, reason in FROZEN.items():
        apart = [error for error, case in errors if case["method"] == method]
        print(f"left out: {len(apart)} of {method}, at most {max(apart, default=0):.2%} off: {reason}")
    errors = [one for one in errors if one[1]["method"] not in FROZEN]
    sizes = sorted(error for error, _ in errors)
    if sizes:
        within = {level: sum(e <= level for e in sizes) for level in (0.0, 1e-4, 0.005, 0.01, 0.03)}
        print(f"median {statistics.median(sizes):.5%}, 95th {sizes[int(0.95 * len(sizes))]:.3%}, worst {sizes[-1]:.3%}")
        print("equal to the byte, within 0.01, 0.5, 1 and 3 %:", *within.values())
    for off, case in sorted(errors, key=lambda one: -one[0])[:40]:
        if off > 0.003:
            print(f"{off:.2%}", *(case[name] for name in FIELDS[:12]), case["hyperparameters"])
    for shard in ("fsdp", "ddp", "zero1"):
        cases = [case for case in map(parsed, rows(REAL)) if case["shard"] == shard]
        if not cases:
            continue
        equal = sum(c["simulated"] == c["peak"] for c in cases)
        cases = [c for c in cases if shard != "fsdp" or c["simulated"] == c["peak"]]
        most = max(abs(predicted(c, shard).peak / max(c["peak"], c["other"]) - 1) for c in cases)
        told = f", equal to the simulation: {equal}" if shard == "fsdp" else ""
        print(f"real {shard}: {len(cases)} runs, predictions within {most:.4%}{told}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["random", seed, models, settings, *seconds]:
            at_random(int(seed), int(models), int(settings), float(seconds[0]) if seconds else float("inf"))
        case ["check", seed, models]:
            check(int(seed), int(models))
        case ["real", *most]:
            real(int(most[0]) if most else len(REAL_CASES))
        case ["rank", store, text, rank]:
            as_rank(store, json.loads(text), int(rank))
        case ["report"]:
            report()
        case _:
            sys.exit(__doc__)

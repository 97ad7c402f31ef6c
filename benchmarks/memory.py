"""Training memory, simulated and measured: `python benchmarks/memory.py WHAT [SECONDS]`, or `... entry METHOD...`.

simulate: what one training step of a method's reference implementation takes on a public model
(`reference_impls/_simulate.py`), in memory/simulated.tsv. A case that a method refuses is a row with its reason.
families: the same of few methods on the smallest model of every family that says how its layers compute, cut down to
four layers, in memory/families.tsv. large: of seven methods on models that many use, in memory/simulated.tsv too.
settings: with other optimizers and types of numbers, there as well.
entry: the first case of each of these methods, among the rows that the tests read, in place of the one there.
stale: the rows whose hyperparameters are no longer the entry's defaults, in their place.
predict: the predictions for all simulated rows, in memory/predicted.tsv. Run it after a prediction changes; what
simulates rows runs it too.
truth: simulated against measured on the CPU, for small models (`_truth.py`), in memory/truth.tsv.
Otherwise rows that are there stay: a run that was stopped goes on where it ended.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import dataclasses
import gc
import itertools
import json
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peftonomy
from peftonomy import UsageError
from peftonomy.costs.plan import Plan
from peftonomy.memory.answer import Training
from peftonomy.memory.setting import Setting
from peftonomy.site import _memory as page

FOLDER = Path(__file__).parent / "memory"
SIMULATED, FAMILIES, TRUTH = (FOLDER / f"{name}.tsv" for name in ("simulated", "families", "truth"))
PREDICTED = FOLDER / page.PREDICTED
KB = peftonomy.load()
Case = dict[str, Any]
Answer = Callable[[Case], Case]
ASKED = ("method", "model", "batch", "seq", "dtype", "attention", "checkpointing", "optimizer", "targets")
FOUND = (
    "task", "attends", "peak", "phase", "weights", "gradients", "optimizer_states", "activations", "temporaries",
    "before", "kept", "peak_forward", "peak_backward", "peak_optimizer", "trained", "forward_flops", "step_flops",
    "hyperparameters", "seconds", "refused",
)  # fmt: skip

PLAIN: dict[str, Any] = {
    "dtype": "bfloat16", "attention": "sdpa", "checkpointing": False, "optimizer": "adamw", "targets": "",
}  # fmt: skip
SMALL: dict[str, Any] = PLAIN | {"dtype": "float32", "attention": "eager"}
HOMES: dict[str, dict[str, Any]] = {
    "roberta_large": SMALL | {"batch": 8, "seq": 128},
    "llama_2_7b": PLAIN | {"batch": 1, "seq": 512},
    "t5_base": SMALL | {"batch": 8, "seq": 128},
}
"""The models that every method is tried on, each with its first case."""
IMAGES: dict[str, dict[str, Any]] = {"vit_base": SMALL | {"batch": 8, "seq": None}}
"""The same for methods that act on models of images only."""
CORE = (
    "full_fine_tuning", "lora", "bitfit", "ia3", "sequential_adapter", "prompt_tuning", "prefix_tuning", "lst",
    "lora_fa", "dora", "compacter", "parallel_adapter", "p_tuning", "adalora", "krona", "qlora", "diff_pruning",
    "fish_mask", "mam_adapter", "hadamard_adapter", "unipelt", "llama_adapter", "velora",
)  # fmt: skip
"""Methods from every part of the taxonomy, on the whole grid."""
PAIRS = {
    "roberta_large": [(8, 128), (32, 128), (4, 512), (16, 256)],
    "t5_base": [(8, 128), (32, 64), (4, 512), (16, 256)],
    "llama_2_7b": [(1, 512), (4, 512), (1, 2048), (2, 1024)],
    "llama_2_13b": [(1, 512)], "llama_3_8b": [(1, 512), (1, 2048)], "qwen2_5_7b": [(1, 512), (1, 2048)],
}  # fmt: skip

WIDE = ("intrinsic_said", "c3a", "pvera", "randlora", "s3delta_m", "threshold_mask")
"""Methods besides, of whose numbers much is made, in float32 where precision is mixed."""
LARGE = ("mixtral_8x7b", "llama_3_8b", "qwen2_5_7b", "llama_2_13b")
LARGE_METHODS = ("lora", "full_fine_tuning", "ia3", "lora_fa", "dora", "sequential_adapter", "prompt_tuning")
LAYERS = 4
CHANGES: tuple[dict[str, Any], ...] = (
    {"method": "lora"}, {"method": "full_fine_tuning", "attention": "eager"},
    {"method": "lora", "attention": "eager", "checkpointing": True},
)  # fmt: skip
OF_FAMILY = (
    "task", "attends", "peak", "phase", "kept", "weights", "trained", "forward_flops", "step_flops", "config",
    "refused",
)  # fmt: skip


def cases(kb: peftonomy.KnowledgeBase) -> Iterator[Case]:
    """The grid, in the order of what is wanted first."""
    for model, method in itertools.product(HOMES, CORE):
        yield {"method": method, "model": model, **HOMES[model]}
    for method in kb:
        home = first_home(kb, method)
        yield {"method": method, "model": home, **(HOMES | IMAGES)[home]}
    for i, method, model in itertools.product(range(4), CORE, PAIRS):
        for batch, seq in PAIRS[model][i : i + 1]:
            base = HOMES.get(model, PLAIN) | {"method": method, "model": model, "batch": batch, "seq": seq}
            yield base
            if i == 0:
                yield base | {"checkpointing": True}
            if i == 1:
                yield base | {"attention": "sdpa" if base["attention"] == "eager" else "eager"}
    yield from setting_cases(kb)
    for method, pattern in itertools.product(("lora", "lora_fa", "dora"), ("attn.*,mlp.*", "attn.q,attn.v")):
        for model in HOMES:
            yield HOMES[model] | {"method": method, "model": model, "targets": pattern}
    for model in ("llama_2_70b", "llama_3_1_405b"):
        yield PLAIN | {"method": "lora", "model": model, "batch": 1, "seq": 512}


def setting_cases(kb: peftonomy.KnowledgeBase) -> Iterator[Case]:
    """Other optimizers, and other types of numbers; mixed precision with every method of the grid."""
    for method in ("lora", "full_fine_tuning", "ia3", "sequential_adapter"):
        for change in ({"optimizer": "adamw-foreach"}, {"optimizer": "sgd"}, {"dtype": "float32"}, {"dtype": "mixed"}):
            yield HOMES["llama_2_7b"] | {"method": method, "model": "llama_2_7b", **change}
    for method, model in itertools.product(CORE, ("roberta_large", "t5_base")):
        yield HOMES[model] | {"method": method, "model": model, "dtype": "mixed"}
    for method in WIDE:
        yield HOMES["roberta_large"] | {"method": method, "model": "roberta_large", "dtype": "mixed"}


def large_cases() -> Iterator[Case]:
    """A few methods on models that many use."""
    for method, model in itertools.product(LARGE_METHODS, LARGE):
        yield PLAIN | {"method": method, "model": model, "batch": 1, "seq": 512}
    for method in ("lora", "full_fine_tuning", "bitfit", "adalora", "sequential_adapter"):
        yield SMALL | {"method": method, "model": "deberta_v3_base", "batch": 8, "seq": 128}


def family_cases(kb: peftonomy.KnowledgeBase) -> Iterator[Case]:
    """Every family's smallest model, cut short: attention written out and fused, with and without checkpointing."""
    smallest: dict[str, peftonomy.Backbone] = {}
    for model in kb.models.values():
        best = smallest.get(model.family.model_type)
        if model.family.operations is not None and (best is None or model.parameters < best.parameters):
            smallest[model.family.model_type] = model
    for change in CHANGES:
        for model in smallest.values():
            assert model.family.operations is not None
            if change.get("checkpointing") and not model.family.operations.checkpointing:
                continue
            seq = 128 if model.inventory(model.trained_task).reads_tokens else None
            yield PLAIN | {"model": model.id, "layers": LAYERS, "batch": 2, "seq": seq} | change


def shortened(model: peftonomy.Backbone, layers: int) -> dict[str, Any]:
    """The model's config with so many layers in each stack."""
    assert model.file is not None
    raw = copy.deepcopy({**model.file.config, "model_type": model.family.model_type})
    for name in sorted({name for stack in model.family.stacks.values() for name in stack.layers.names}):
        key = model.family.config[name]
        for alias in key.aliases:
            raw.pop(alias, None)
        *outer, last = (key.key or name).split(".")
        place: Any = raw
        at: Any = last
        for part in outer:
            place = place.setdefault(part, {})
        if key.item is not None:
            place, at = place[last], key.item
        place[at] = layers
    return raw


def families(limit: float) -> None:
    from huggingface_hub.errors import StrictDataclassClassValidationError

    from reference_impls import _simulate

    def answer(case: Case) -> Case:
        model = KB.models[case["model"]]
        config = shortened(model, case["layers"])
        given = {name: value for name, value in case.items() if name not in ("model", "layers", "targets")}
        try:
            try:
                found = _simulate.simulate(KB, model=config, **given).to_dict()
            except StrictDataclassClassValidationError:  # its other keys do not go with so few
                assert model.file is not None
                config = {**model.file.config, "model_type": model.family.model_type}
                found = _simulate.simulate(KB, model=config, **given).to_dict()
        except (UsageError, ValueError, RuntimeError) as error:
            return {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        return {name: found[name] for name in OF_FAMILY if name in found} | {"config": json.dumps(config)}

    grow(FAMILIES, (*ASKED, "layers"), OF_FAMILY, family_cases(KB), answer, limit)


def first_home(kb: peftonomy.KnowledgeBase, method: str) -> str:
    """The first of the homes on which the method finds something to act on."""
    for model in HOMES | IMAGES:
        with contextlib.suppress(UsageError):
            kb[method].cost(model)
            return model
    return next(iter(HOMES))


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t")) if path.exists() else []


def written(value: Any) -> str:
    """Return a value as it stands in a table."""
    return "" if value is None else str(value)


def grow(
    path: Path, asked: Sequence[str], found: Sequence[str], cases: Iterable[Case], answer: Answer, limit: float
) -> None:
    """Append a row for every case that has none, for so many seconds."""
    warnings.simplefilter("ignore")
    gc.freeze()         # what was imported stays: no collection need look at it
    end = time.monotonic() + limit
    path.parent.mkdir(exist_ok=True)
    rows = _rows(path)
    done = {tuple(row[name] for name in asked) for row in rows}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, (*asked, *found), delimiter="\t", lineterminator="\n")
        if not rows:
            writer.writeheader()
        for case in cases:
            key = tuple(written(case[name]) for name in asked)
            if key in done:
                continue
            if time.monotonic() > end:
                break
            done.add(key)
            row = case | answer(case)
            writer.writerow(row)
            file.flush()
            print(*row.values(), flush=True)
    print(f"most memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def simulate(limit: float) -> None:
    grow(SIMULATED, ASKED, FOUND, cases(KB), simulated, limit)


def large(limit: float) -> None:
    grow(SIMULATED, ASKED, FOUND, large_cases(), simulated, limit)


def settings(limit: float) -> None:
    grow(SIMULATED, ASKED, FOUND, setting_cases(KB), simulated, limit)


def entry(methods: Sequence[str]) -> None:
    homes = {method: first_home(KB, method) for method in methods}
    replace([(HOMES | IMAGES)[model] | {"method": method, "model": model} for method, model in homes.items()])


def stale() -> None:
    """Simulate again the rows whose hyperparameters are no longer the entry's defaults, one by one."""
    for row in _rows(SIMULATED):
        if is_stale(row):
            case: Case = {name: row[name] for name in ASKED}
            numbers = {"batch": int(row["batch"]), "seq": page.length(row)}
            replace([case | numbers | {"checkpointing": row["checkpointing"] == "True"}])


def is_stale(row: Mapping[str, str]) -> bool:
    """Whether a row was simulated with other hyperparameters than the entry's defaults are today."""
    if row["refused"]:
        return False
    targets = row["targets"].split(",") if row["targets"] else None
    plan = KB[row["method"]].on(row["model"], task=row["task"], targets=targets).plan
    return bool(json.loads(row["hyperparameters"] or "null") != json.loads(json.dumps(plan.values({}))))


def replace(again: Sequence[Case]) -> None:
    """Simulate these cases and put the rows in place of those that are there."""
    keys = [[written(case[name]) for name in ASKED] for case in again]
    found = [case | simulated(case) for case in again]      # before any row goes
    print(*(" ".join(map(str, row.values())) for row in found), sep="\n", flush=True)
    rows = [row for row in _rows(SIMULATED) if [row[name] for name in ASKED] not in keys]
    whole = SIMULATED.with_suffix(".part")
    with whole.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*ASKED, *FOUND), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *found])
    whole.replace(SIMULATED)


def simulated(case: Case) -> Case:
    from reference_impls import _simulate

    start = time.perf_counter()
    targets = case["targets"].split(",") if case["targets"] else None
    try:
        found = _simulate.simulate(KB, **(case | {"targets": targets})).to_dict()
    except (UsageError, ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        return {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    found |= {f"peak_{phase}": size for phase, size in found["peaks"].items()}
    found["hyperparameters"] = json.dumps(found["hyperparameters"])
    found["seconds"] = round(time.perf_counter() - start, 1)
    return {name: found[name] for name in FOUND if name in found}


def predict() -> None:
    """Write the predictions anew."""
    with PREDICTED.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*page.CASE, "predicted_peak"), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(predictions())


def predictions() -> Iterator[Case]:
    """Yield the prediction for each simulated step, in the order of the tables."""
    trainings: dict[tuple[str, ...], Training] = {}
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for row in itertools.chain(_rows(SIMULATED), _rows(FAMILIES)):
        if not row["refused"]:
            rows.setdefault(page.case(row), row)
    for key, row in rows.items():
        of = row["method"], row["model"], row["task"], row.get("config", ""), row["targets"]
        if of not in trainings:
            trainings[of] = training(row)
        setting = Setting(
            int(row["batch"]), page.length(row), row["dtype"], row["optimizer"], row["checkpointing"] == "True",
            row["attends"],
        )  # fmt: skip
        given = json.loads(row.get("hyperparameters") or "{}")
        yield dict(zip(page.CASE, key, strict=True)) | {"predicted_peak": trainings[of].once(given, setting).peak}


def training(row: Mapping[str, str]) -> Training:
    """Return the training of a row's method on its model."""
    config = row.get("config", "")  # of a model that was cut down to a few layers
    model = KB.backbone(json.loads(config)) if config else KB.models[row["model"]]
    targets = tuple(row["targets"].split(",")) if row["targets"] else None
    return Training(KB, Plan(KB[row["method"]].parts, model.inventory(row["task"]), targets))


def truth(limit: float) -> None:
    import _truth

    def answer(case: Case) -> Case:
        found = _truth.compare(KB, case)
        return {**dataclasses.asdict(found), "error": f"{found.error:.6f}"}

    others = sorted(set(KB) - set(CORE))
    every = itertools.chain(_truth.cases(CORE, KB), _truth.cases(others, KB))
    grow(TRUTH, _truth.ASKED, _truth.FOUND, every, answer, limit)


if __name__ == "__main__":
    commands = {"simulate": simulate, "large": large, "settings": settings, "families": families, "truth": truth}
    if sys.argv[1] == "entry":
        entry(sys.argv[2:])
    elif sys.argv[1] == "stale":
        stale()
    elif sys.argv[1] != "predict":
        commands[sys.argv[1]](float(sys.argv[2]) if len(sys.argv) > 2 else float("inf"))
    if sys.argv[1] != "truth":
        predict()

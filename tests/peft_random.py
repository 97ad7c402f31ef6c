"""Draw configurations of peft at random, and compare the answers of `kb.adapter` with peft itself.

    python -m tests.peft_random --seeds 1-3 8 --cases 4000 [--type LORA] [--case 1:17] [--every] [--write] [--keep DIR]

Every argument of a type comes from the fields of its dataclass: names, types and defaults. A case has one of these
outcomes. `equal`: the same counts. `refused`: peft accepts the configuration and we refuse an argument by name. `both`:
peft refuses it, and so do we. `word`: peft refuses it, and our answer has a note that says so. `wrong`: anything else.
Each case is asked twice: as a user writes it, and as peft saves it.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import enum
import functools
import io
import json
import random
import re
import types
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import nn

from peftonomy import ConfigError, PeftonomyError
from peftonomy.conformance import tiny
from peftonomy.libraries.selected import STRUCTURE
from tests.families import OTHERS
from tests.families import TINY as ENCODERS
from tests.families_decoders import TINY as DECODERS
from tests.knowledge import KB
from tests.peft_counts import Counts, configured, counts, plain, question, wrapped

PEFT = KB.libraries["hf_peft"]
CONFIGS = {str(getattr(kind, "value", kind)): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
FAMILIES = {**tiny.CONFIGS, **OTHERS, **ENCODERS, **DECODERS}
CLASSES = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSequenceClassification", "Model",
    "ForTokenClassification", "ForQuestionAnswering", "ForImageClassification",
)  # fmt: skip
ELSEWHERE = {
    "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",  # no choice
    "megatron_config", "megatron_core", "runtime_config", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "arrow_config", "adapters", "tokenizer_name_or_path", "tokenizer_kwargs", "prompt_tuning_init",
    "prompt_tuning_init_text", "prompt_tuning_init_state_dict_path", "target_svd_config", "alora_invocation_tokens",
    "shadow_model", "velora_config",
}
OF_FILES = {"XLORA"}
"""Types that are made of adapters which were trained before; `test_oracles_counts` has them."""
RARE = {
    "token_dim", "num_layers", "num_attention_heads", "hidden_size", "use_dynamic_rank", "boft_n_butterfly_factor",
    "n_splits", "subspace_rank",
}  # fmt: skip
"""Arguments that are taken from the model, or that no one changes."""  # fmt: skip
"""Arguments that need data, files or another library, which no test has at hand."""
WORDS = ("equal", "refused", "both", "word", "wrong")
"""The outcomes."""
README = Path(__file__).parents[1] / "benchmarks" / "README.md"
START, END = "<!-- written by tests.peft_random -->", "<!-- end -->"
INTEGERS = (1, 2, 2, 3, 4, 4, 5, 6, 8, 8, 12)
FLOATS = (0.05, 0.1, 0.3, 0.5, 0.9)
FITTING: dict[str, dict[str, tuple[Any, ...]]] = {
    "ADALORA": {"total_step": (10, 1000)}, "ADAMSS": {"r": (2, 4, 8)}, "C3A": {"block_size": (1, 2, 3, 4, 6)},
    "BOFT": {"boft_block_size": (0, 2, 3, 4), "boft_block_num": (0, 0, 1, 2, 3)}, "CPT": {"task_type": ("CAUSAL_LM",)},
    "FOURIERFT": {"n_frequency": (2, 5, 20)}, "HRA": {"r": (2, 2, 4, 4, 6, 6, 8, 8, 8, 10, 12, 3)},
    "MISS": {"r": (1, 2, 4)}, "OFT": {"oft_block_size": (0, 2, 3, 4, 8), "r": (0, 0, 2, 3, 4)},
    "PSOFT": {"r": (2, 3, 4)}, "ROAD": {"group_size": (2, 4, 6)}, "SHIRA": {"r": (1, 2, 3)},
    "TRAINABLE_TOKENS": {"token_indices": ([1], [0, 2, 3])}, "UNILORA": {"theta_d_length": (2, 8, 64)},
    "VBLORA": {"vector_length": (1, 2, 3, 4)}, "WAVEFT": {"n_frequency": (2, 5, 20)},
}  # fmt: skip
"""Values without which a type does not fit small models, or is refused by peft."""


class Case(NamedTuple):
    """A model by family, class and settings, and a configuration as a user writes it."""

    family: str
    kind: str
    settings: dict[str, Any]
    config: dict[str, Any]


Theirs = tuple[Counts, dict[str, Any]] | str
"""The counts of peft and the configuration that it saves; or its refusal."""


class Outcome(NamedTuple):
    word: str
    detail: str
    ours: Any
    theirs: Any


# Models


@functools.cache
def classes(family: str) -> list[str]:
    """The classes of a family for tasks that its description has."""
    named = FAMILIES[family][0]
    [stem] = [named.removesuffix(end) for end in sorted(CLASSES, key=len, reverse=True) if named.endswith(end)][:1]
    found = []
    for end in CLASSES:
        kind = getattr(transformers, stem + end, None)
        described = KB.families.get(KB.backbone(config_of(named, FAMILIES[family][1])).family.model_type)
        if kind is None or described is None:
            continue
        with contextlib.suppress(PeftonomyError, KeyError):
            if described.task_of(stem + end) is not None:
                found.append(stem + end)
    return found or [named]


def config_of(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = getattr(transformers, kind).config_class(**copy.deepcopy(settings))
    return json.loads(json.dumps(config.to_dict(), default=str))


@functools.lru_cache(maxsize=400)
def _base(kind: str, settings: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return plain(kind, json.loads(settings), "cpu")


def base(case: Case) -> nn.Module:
    """A model of its own for each case."""
    model = copy.deepcopy(_base(case.kind, json.dumps(case.settings, sort_keys=True)))
    model.config.name_or_path = ""
    return model


# Values


def drawn(rng: random.Random, only: str | None = None) -> tuple[Case, Theirs]:
    """Draw a model, a type and values of its arguments, and what peft makes of it.

    Most configurations that peft refuses are drawn again, because the others say more.
    """
    peft_type = only or rng.choice([name for name in CONFIGS if name not in OF_FILES])
    table = PEFT.types[peft_type].by_model.get("target_modules")
    known = [family for family in FAMILIES if table is None or family_type(family) in PEFT.table(table)]
    family = rng.choice(known if rng.random() < 0.4 else [*FAMILIES])
    kind = rng.choice(classes(family)) if rng.random() < 0.6 else FAMILIES[family][0]
    settings = dict(FAMILIES[family][1])
    if rng.random() < 0.3:
        settings["tie_word_embeddings"] = rng.random() < 0.5
    names = Names(_base(kind, json.dumps(settings, sort_keys=True)))
    for _ in range(6):
        case = Case(family, kind, settings, {"peft_type": peft_type, **dict(_arguments(rng, peft_type, names))})
        answer = theirs(case)
        if isinstance(answer, tuple) or rng.random() < 0.15:
            break
    return case, answer


@functools.cache
def family_type(family: str) -> str:
    named, settings = FAMILIES[family]
    return str(config_of(named, settings)["model_type"])


class Names:
    """The names in a model from which arguments are drawn."""

    def __init__(self, model: nn.Module):
        modules = dict(model.named_modules())
        self.linear = [n for n, m in modules.items() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"]
        self.leaves = [n for n, m in modules.items() if n and not [*m.children()] and [*m.parameters()]]
        self.blocks = [n for n, m in modules.items() if n and [*m.children()] and [*m.parameters()]]
        self.tables = [n for n, m in modules.items() if isinstance(m, nn.Embedding)]
        self.words = [n for n in self.tables if re.search("embed_tokens|word_embeddings|wte|shared|embed_in", n)]
        self.norms = [n for n in self.leaves if "norm" in n.lower() or "ln_" in n]
        self.parameters = [n for n, p in model.named_parameters() if p.ndim > 1]
        self.layers = sorted({int(n) for name in self.linear for n in re.findall(r"\.(\d+)\.", name)}) or [0]
        self.task = model.config.architectures

    def own(self, accepts: list[str]) -> list[str]:
        """The modules of a type that is for norms or embeddings only."""
        return {("norm",): self.norms, ("embedding",): self.words}.get(tuple(accepts), [])

    def ends(self, rng: random.Random, paths: list[str], count: int) -> list[str]:
        """Some of the names, mostly by their last part."""
        found = []
        for path in (rng.choice(paths) for _ in range(count)):
            parts = path.split(".")
            found.append(".".join(parts[-rng.choice((1, 1, 1, 1, 2, 3, len(parts))):]))
        return [*dict.fromkeys(found)]

    def expression(self, rng: random.Random, paths: list[str]) -> str:
        path = rng.choice(paths)
        end = path.rpartition(".")[2]
        other = rng.choice(paths).rpartition(".")[2]
        any_layer = re.sub(r"\.\d+\.", r".\\d+.", re.escape(path).replace(r"\_", "_"))
        return rng.choice((
            rf".*\.{end}", rf".*\.({end}|{other})", rf".*{end}$", any_layer, rf"(.*\.)?{end}",
            rf".*\.{rng.choice(self.layers)}\..*{end}", rf".*({end}|{other}).*",
        ))  # fmt: skip


def _arguments(rng: random.Random, peft_type: str, names: Names) -> Iterator[tuple[str, Any]]:
    config = CONFIGS[peft_type]
    fields = [f for f in dataclasses.fields(config) if f.init and f.name not in ELSEWHERE]
    hints = typing.get_type_hints(config)
    plain_fields = [f for f in fields if f.name not in _NAMED and (f.name not in RARE or rng.random() < 0.05)]
    changed = {f.name for f in rng.sample(plain_fields, min(len(plain_fields), rng.choice((0, 1, 1, 2, 3))))}
    needed = set(PEFT.types[peft_type].needs)
    if rng.random() < 0.6:
        changed |= {f.name for f in fields if f.name in ("r", "init_r")}
    fitting = FITTING.get(peft_type, {})
    prompts = hasattr(config, "num_transformer_submodules")
    own_kinds = PEFT.types[peft_type].accepts
    for field in fields:
        if field.name in fitting and rng.random() < 0.9:
            yield field.name, rng.choice(fitting[field.name])
        elif field.name in _NAMED:
            how, often = _NAMED[field.name]
            if field.name == "target_modules" and (own := names.own(own_kinds)) and rng.random() < 0.97:
                if rng.random() < 0.8:
                    yield field.name, names.ends(rng, own, rng.choice((1, 2)))
            elif field.name in STRUCTURE - {"modules_to_save"} and not own_kinds and rng.random() < 0.95:
                continue  # whole layers, by default all of them
            elif rng.random() < (0.85 if prompts and field.name == "task_type" else often):
                yield field.name, how(rng, names)
        elif field.name in changed and rng.random() < 0.005:  # few types allow null
            yield field.name, None
        elif field.name in changed | needed:
            known = _value(rng, hints[field.name], field.name, names)
            if known is not None and not (known == 0 and field.name in needed):
                yield field.name, known


def _value(rng: random.Random, hint: Any, name: str, names: Names) -> Any:
    """A value of a type; None if there is none to draw."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [one for one in inner if one is not type(None)]
        return _value(rng, rng.choice(options), name, names)
    if origin is typing.Literal:
        return rng.choice(inner)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return rng.choice([one.value for one in hint])
    if dataclasses.is_dataclass(hint):
        inside = typing.get_type_hints(hint)
        made = {f.name: _value(rng, inside[f.name], f.name, names) for f in dataclasses.fields(hint)
                if f.init and rng.random() < 0.5}
        return {n: v for n, v in made.items() if v is not None}
    if hint is bool:
        return rng.random() < 0.5
    if hint is int:
        return rng.choice(INTEGERS)
    if hint is float:
        return rng.choice(FLOATS)
    if origin is dict or hint is dict:
        if not name.endswith("_pattern"):
            return None
        keys = rng.sample((*names.ends(rng, names.linear, 2), names.expression(rng, names.linear)), rng.choice((1, 2)))
        return {key: rng.choice(INTEGERS) for key in keys}
    if origin is list and inner == (int,):
        return [rng.choice(INTEGERS) for _ in range(rng.choice((1, 2, 3)))]
    if origin is list and inner == (str,):
        return names.ends(rng, names.linear, rng.choice((1, 2)))
    return None


def _targets(rng: random.Random, names: Names) -> Any:
    choice = rng.random()
    if choice < 0.15:
        return "all-linear"
    if choice < 0.7:
        return names.ends(rng, names.linear, rng.choice((1, 2, 3)))
    if choice < 0.85:
        return names.expression(rng, names.linear)
    if choice < 0.95:
        return [*names.ends(rng, names.linear, 2), *names.ends(rng, names.leaves, 1)]
    if choice < 0.98:
        return [*names.ends(rng, names.linear, 1), "no_such"]
    return names.ends(rng, names.blocks, 1)


def _some(rng: random.Random, names: Names) -> Any:
    if rng.random() < 0.4:
        return names.expression(rng, names.linear)
    return names.ends(rng, names.linear, rng.choice((1, 2)))


def _saved(rng: random.Random, names: Names) -> list[str]:
    some = (names.leaves, names.leaves, names.leaves[-2:], names.linear, names.blocks, names.tables or names.leaves)
    return names.ends(rng, rng.choice(some), rng.choice((1, 1, 2)))


def _layers(rng: random.Random, names: Names) -> Any:
    return rng.choice((rng.choice(names.layers), rng.sample(names.layers, rng.randint(1, len(names.layers)))))


def _patterns(rng: random.Random, names: Names) -> Any:
    parts = [*{part for name in names.linear for part in re.findall(r"([^.]+)\.\d+\.", name)}] or ["layers"]
    return rng.choice((rng.choice(parts), [rng.choice(parts)], [rng.choice(parts), "layers"]))


def _rows(rng: random.Random, names: Names) -> Any:
    rows = rng.sample(range(20), rng.choice((1, 2, 3)))
    if rng.random() < 0.5 or not names.tables:
        return rows
    paths = rng.sample(names.tables, 1) + rng.sample(names.leaves[-1:], rng.choice((0, 0, 1)))
    return {path.rpartition(".")[2]: rows for path in paths}


_NAMED: dict[str, tuple[Any, float]] = {
    "target_modules": (_targets, 0.7),
    "exclude_modules": (_some, 0.15),
    "feedforward_modules": (_some, 0.4),
    "modules_to_save": (_saved, 0.25),
    "layers_to_transform": (_layers, 0.12),
    "layers_pattern": (_patterns, 0.08),
    "bias": (lambda rng, _: rng.choice(("none", "all", "lora_only", "boft_only", "oft_only", "hra_only")), 0.12),
    "task_type": (lambda rng, _: rng.choice((
        "CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")), 0.3),
    "target_parameters": (lambda rng, names: names.ends(rng, names.parameters, 1), 0.04),
    "trainable_token_indices": (_rows, 0.06),
    "token_indices": (lambda rng, _: rng.sample(range(20), rng.choice((1, 2, 3))), 0.9),
    "layer_replication": (lambda rng, names: rng.choice(([[0, 2], [1, 2]], [[0, 1], [0, 2]], [[0, 3], [1, 3]])), 0.03),
    "ensure_weight_tying": (lambda rng, _: True, 0.06),
    "cpt_token_ids": (lambda rng, _: [rng.randint(0, 20) for _ in range(rng.choice((1, 3, 5)))], 0.9),
    "cpt_mask": (lambda rng, _: None, 0.0),
    "cpt_tokens_type_mask": (lambda rng, _: None, 0.0),
}  # fmt: skip
"""Arguments that select modules or rows, which are drawn from the names in the model, and how often."""


# Answers


def theirs(case: Case) -> Theirs:
    """The counts of peft, and the configuration as it saves it; or the first line of its refusal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            configured(case.config)
            model = wrapped(base(case), case.config)
            found = counts(model)
            saved = model.peft_config["default"].to_dict()
        except Exception as error:
            return f"{type(error).__name__}: {error}".split("\n")[0][:200]
    return found, json.loads(json.dumps(saved, default=lambda v: sorted(v) if isinstance(v, set) else str(v)))


def ours(case: Case, config: dict[str, Any]) -> tuple[Counts, tuple[str, ...]]:
    backbone, asked = question(_base(case.kind, json.dumps(case.settings, sort_keys=True)))
    adapter = KB.adapter(config, backbone, **asked)
    found = adapter.reported
    return Counts(found.trained, found.total, found.stored), adapter.notes


def outcomes(case: Case, answer: Theirs) -> dict[str, Outcome]:
    """The outcome as the user writes the configuration, and, if peft accepts it, as peft saves it."""
    if isinstance(answer, str):
        return {"written": _outcome(case, case.config, None, answer)}
    known, saved = answer
    try:
        configured(saved)
    except (TypeError, ValueError) as error:  # peft does not read what it has saved
        return {"written": _outcome(case, case.config, known, ""), "saved": _outcome(case, saved, None, str(error))}
    found = {"written": _outcome(case, case.config, known, ""), "saved": _outcome(case, saved, known, "")}
    if found["saved"].word in ("wrong", "refused"):  # what peft saves may mean something else when it reads it
        again = theirs(case._replace(config=saved))
        read = (None, again) if isinstance(again, str) else (again[0], "")
        found["saved"] = _outcome(case, saved, *read)
    return found


def _outcome(case: Case, config: dict[str, Any], known: Counts | None, refusal: str) -> Outcome:
    try:
        found, notes = ours(case, config)
    except ConfigError as error:
        [problem] = error.problems
        word = ("refused" if known else "both") if problem.field else "wrong"
        return Outcome(word, f"{problem.field or 'no argument'}: {problem}", None, known or refusal)
    except Exception as error:
        return Outcome("wrong", f"{type(error).__name__}: {error}"[:300], None, known or refusal)
    if known is None:
        said = [note for note in notes if PEFT.name in note]
        return Outcome("word" if said else "wrong", "; ".join(said) or "peft refuses", found, refusal)
    if found == known:
        return Outcome("equal", "", found, known)
    differ = [name for name in Counts._fields if getattr(found, name) != getattr(known, name)]
    return Outcome("wrong", f"{', '.join(differ)} differ", found, known)


def cases(
    seed: int, number: int, only: str | None = None, start: int = 0
) -> Iterator[tuple[str, Case, Theirs]]:
    """Yield cases with their names, by which `--case` finds them again."""
    for n in range(start, start + number):
        name = f"{seed}:{n}" if only is None else f"{seed}:{n}:{only}"
        yield name, *drawn(random.Random(name), only)


def kept(seed: int, number: int, only: str | None, folder: Path | None) -> Iterator[tuple[str, Case, Theirs]]:
    """Yield cases with peft's answers. A folder keeps them, so that only our side runs again after a change."""
    if folder is None:
        yield from cases(seed, number, only)
        return
    path = folder / f"{seed}-{number}{f'-{only}' if only else ''}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([*cases(seed, number, only)]), encoding="utf-8")
    for name, case, answer in json.loads(path.read_text(encoding="utf-8")):
        found: Theirs = answer if isinstance(answer, str) else (Counts(*answer[0]), answer[1])
        yield name, Case(*case), found


def counted(
    seed: int, number: int, only: str | None, every: bool, folder: Path | None
) -> dict[str, collections.Counter[str]]:
    """Return the numbers of outcomes by type, and print the wrong cases."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    table: dict[str, collections.Counter[str]] = {}
    shown: set[tuple[str, ...]] = set()
    for name, case, answer in kept(seed, number, only, folder):
        kind = case.config["peft_type"]
        for form, outcome in outcomes(case, answer).items():
            table.setdefault(kind, collections.Counter())[outcome.word] += 1
            key = (kind, form, outcome.word, outcome.detail.split(":")[0])
            asked = outcome.word == "wrong" or (every and outcome.word == "refused")
            if asked and (every or key not in shown):
                shown.add(key)
                tied = case.settings.get("tie_word_embeddings")
                model = (case.family, case.kind) if tied is None else (case.family, case.kind, f"tied {tied}")
                print(outcome.word, name, *model, form, outcome.detail, outcome.ours, outcome.theirs,
                      json.dumps(case.config), sep=" | ", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", nargs="+", default=["1"], help="numbers, or ranges such as 1-20")
    parser.add_argument("--cases", type=int, default=1000, help="with each seed")
    parser.add_argument("--type", choices=[*CONFIGS])
    parser.add_argument("--case", help="show one case, such as 1:17")
    parser.add_argument("--write", action="store_true", help="put the counts into benchmarks/README.md")
    parser.add_argument("--every", action="store_true", help="show every wrong case and every refusal")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep peft's answers here, and use those kept")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.case:
        only = given.case.split(":")[2:]
        case, answer = drawn(random.Random(given.case), *only)
        print(json.dumps(case._asdict(), indent=1))
        print(*outcomes(case, answer).items(), sep="\n")
        return
    table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    ends = [[int(end) for end in word.split("-")] for word in given.seeds]
    seeds = [seed for one in ends for seed in range(one[0], one[-1] + 1)]
    with concurrent.futures.ProcessPoolExecutor(min(len(seeds), given.processes)) as processes:
        asked = [processes.submit(counted, seed, given.cases, given.type, given.every, given.keep) for seed in seeds]
        for found in concurrent.futures.as_completed(asked):
            for kind, words in found.result().items():
                table[kind] += words
    rows = [("type", *WORDS)]
    rows += [(kind, *(str(table[kind][word]) for word in WORDS)) for kind in sorted(table)]
    rows += [("all", *(f"{sum(row[word] for row in table.values()):,}" for word in WORDS))]
    if given.write:
        written(rows, given.seeds, given.cases * len(seeds))
    print(*(f"{kind:24}" + "".join(f"{number:>9}" for number in numbers) for kind, *numbers in rows), sep="\n")


def written(rows: list[tuple[str, ...]], seeds: list[str], number: int) -> None:
    """Put the counts by type into the page of the benchmarks."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "| --- |" + " ---: |" * len(WORDS))
    head = f"{number:,} configurations with the seeds {', '.join(seeds)}, peft {PEFT.version}:"
    before, _, rest = README.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{START}\n{head}\n\n" + "\n".join(lines) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

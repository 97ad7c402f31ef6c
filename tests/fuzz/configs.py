"""The groups `config` and `adapter`: a model's config.json, and saved configurations of libraries."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Iterator
from typing import Any

from peftonomy import PeftonomyError
from peftonomy.backbones.backbone import Backbone

from . import kit
from .kit import TEXTS, VALUES, Case, World, command, misspelt, spoilt

# A model's config.json

KEYS = ("rope_scaling", "num_experts", "quantization_config", "auto_map", "torch_dtype", "pruned_heads", "id2label",
"tie_word_embeddings",
        "text_config", "architectures", "num_labels", "per_layer_config")  # fmt: skip


def config(rng: random.Random, world: World) -> Case:
    """Draw a config.json near one of the catalogue. The same content in another order must give the same answer."""
    model = world.kb.models[rng.choice([*world.kb.models])]
    right = {"model_type": model.family.model_type} | dict(model.file.config if model.file else {})
    raw: dict[str, Any] = json.loads(json.dumps(right))
    wrong: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        key = rng.choice([*raw, *KEYS])
        match rng.randrange(5):
            case 0:
                raw.pop(key, None)
            case 1:
                raw[misspelt(rng, key) or "x"] = raw.get(key)
            case 2 if isinstance(raw.get(key), int) and not isinstance(raw.get(key), bool):
                raw[key] += rng.choice((-1, 1, 64, -(10**9), 10**12))
            case _:
                raw[key] = rng.choice(VALUES)
                ours = model.family.config.get(key)
                if ours is not None and ours.type == "int" and type(raw[key]) not in (int, type(None)):
                    wrong.append(key)
    wrong = [key for key in wrong if key in raw and type(raw[key]) not in (int, type(None))]
    content = json.dumps(raw).encode()
    if rng.random() < 0.2:
        content = spoilt(
            rng, json.dumps(raw, indent=1).encode(), tuple(t.encode("utf-8", "surrogatepass") for t in TEXTS)
        )
        wrong = []
    path = world.folder / "config.json"
    path.write_bytes(content)
    method = rng.choice([*world.kb])
    result, problems = command(["cost", method, "--model", str(path), "--json"], world.kb)
    if result.code == 0:
        if wrong:
            problems.append(f"wrong answer: {wrong[0]} = {raw[wrong[0]]!r} was accepted")
        keys = list(json.loads(content.decode()).items())
        rng.shuffle(keys)
        try:
            again = world.kb[method].cost(dict(keys))
        except PeftonomyError as error:
            problems.append(f"wrong answer: with the keys in another order there is none: {error}")
        else:
            if again.trained != json.loads(result.out)["trained"]:
                problems.append(f"wrong answer: {again.trained} trained with the keys in another order")
            problems += kit.recount(again, world.kb[method].places(dict(keys)))
    return Case(f"{method} {content[:1000]!r}", problems, result.code)


# A library's adapter_config.json

PATTERNS = (r"layers?\.(\d)\.", r".*\.(q|v)(uery|alue)?(_proj)?", r".*", r"(a+)+X", r"([a-z0-9_.]+)+X",
"x{99999999999999999999}",
            "[[:alpha:]]", "(?P<idx>x)", r".*attn.*", "(", "[", r"\1", "a{,5}", "(?i:QUERY)", r".*\.dense",
            "a" * 5_000)  # fmt: skip
PLACES = ("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_pattern",
          "layers_to_transform", "target_parameters", "trainable_token_indices", "layer_replication", "bias",
          "ensure_weight_tying", "peft_type", "task_type", "r", "lora_alpha", "base_model_name_or_path")  # fmt: skip


def adapter(rng: random.Random, world: World) -> Case:
    """Draw a configuration near one that `export` writes. An unchanged one must give back the method's cost."""
    if rng.random() < 0.15:
        return _short(rng, world)
    where = rng.choice(("hf_peft", "hf_peft", "adapters"))
    method, model = world.kb[rng.choice(world.exportable[where])], rng.choice(world.small)
    library = world.kb.libraries[where]
    try:
        raw: dict[str, Any] = json.loads(json.dumps(method.export(model, to=where).to_dict()))
        entry = method.entry.implementations[where]  # a default without an argument there is the library's
        fixed = {name: value for name, value in entry.defaults.items() if name not in entry.rename}
        expected: int | None = method.cost(model, **fixed).trained
    except PeftonomyError:
        raw, expected = {library.type_key: rng.choice([*library.types]), "r": 8, "target_modules": ["query", "q"]}, None
    changes = rng.choice((0, 1, 1, 2))
    for _ in range(changes):
        key = rng.choice([*raw, *(PLACES if where == "hf_peft" else library.defaults(rng.choice([*library.types])))])
        match rng.randrange(4):
            case 0:
                raw.pop(key, None)
            case 1:
                raw[misspelt(rng, key) or "x"] = raw.get(key)
            case 2:
                pattern = rng.choice(PATTERNS)
                raw[key] = rng.choice([pattern, [pattern], {pattern: rng.choice((1, 4, 8, "8", None))}])
            case _:
                raw[key] = rng.choice(VALUES)
    content = json.dumps(raw).encode()
    if rng.random() < 0.1:
        content, changes = spoilt(rng, json.dumps(raw, indent=1).encode(), (b"[", b"NaN", b"\xff", b'"x": 1,')), 1
    path = world.folder / "adapter_config.json"
    path.write_bytes(content)
    words = ["cost", "--adapter-config", str(path), "--model", model, "--json"]
    if rng.random() < 0.5:
        words.insert(1, method.id)
    result, problems = command(words, world.kb)
    if result.code == 0:
        found = json.loads(result.out)
        if not changes and expected is not None and found["method"] == method.id and found["trained"] != expected:
            problems.append(f"wrong answer: {found['trained']} trained, and {expected} before the export")
        if (
            isinstance(raw.get("target_modules"), str)
            and changes
            and raw.get("peft_type") == "LORA"
        ):
            problems += _matched(raw, found, world.kb.backbone(model))
    elif not changes and expected is not None and method.id in words and result.code == 1:
        problems.append(f"wrong answer: an exported configuration is refused: {result.err[:300]}")
    return Case(f"{shlex.join(words)} {content[:1000]!r}", problems, result.code)


def _short(rng: random.Random, world: World) -> Case:
    """Draw a short name of a configuration, as a library's functions take it."""
    names = [name for library in world.kb.libraries.values() for name in library.shorthands]
    word = rng.choice([*names, "lora", "prefix_tuning|parallel", "a" * 3_000])
    for _ in range(rng.choice((0, 1, 1, 2))):
        key = rng.choice(["r", "alpha", "reduction_factor", "prefix_length", "leave_out", "x", kit.text(rng)])
        value = rng.choice(["8", "[0,1]", "{}", "None", "True", "1e9", "__import__('os')", "-1", kit.text(rng)])
        word += rng.choice([f"[{key}={value}]", f"[{key}={value}", f"|{word}", f"[{key}={value},{key}={value}]", value])
    word = (misspelt(rng, word) if rng.random() < 0.2 else word).replace("\0", "")
    words = ["cost", f"--adapter-config={word}", "--model", rng.choice(world.small), "--json"]
    result, problems = command(words, world.kb)
    return Case(shlex.join(words), problems, result.code)


def _matched(raw: dict[str, Any], found: dict[str, Any], backbone: Backbone) -> Iterator[str]:
    """Compare the number of targeted modules with Python's own matching, where nothing else selects modules."""
    pattern = raw["target_modules"]
    if {*raw} & {"exclude_modules", "layers_to_transform", "modules_to_save", "layer_replication"} or "+)+" in pattern:
        return
    if pattern.lower() == "all-linear" or not pattern or pattern == "input-embedding":
        return
    modules = [m for m in backbone.inventory(found["task"]).modules if m.kind != "parameter"]
    expected = sum(re.fullmatch(pattern, path) is not None for m in modules for _, path in m.paths())
    counted = [tensor["sites"] for tensor in found["tensors"] if tensor["name"] == "A"]
    if counted and sum(counted) != expected:
        yield f"wrong answer: {sum(counted)} modules match {pattern!r}, and {expected} in Python"

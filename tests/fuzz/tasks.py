"""The groups of cases. Each function draws one case and judges it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markdown

import peftonomy
from peftonomy import KnowledgeBase, PeftonomyError
from peftonomy.backbones.backbone import Backbone
from peftonomy.errors import shown
from peftonomy.site import preview

from . import entries, kit
from .kit import ROOT, TEXTS, VALUES, Case, Problems, World, command, last_line, misspelt, spoilt, text

# The command line


def command_line(rng: random.Random, world: World) -> Case:
    """Draw a command with right, misspelt and hostile words. Answers are compared with Python's."""
    words = _command(rng, world)
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        at = rng.randrange(len(words) + 1)
        match rng.randrange(5):
            case 0:
                words.insert(at, text(rng))
            case 1 if words:
                words[at - 1] = text(rng)
            case 2 if words:
                words[at - 1] = misspelt(rng, words[at - 1])
            case 3 if words:
                del words[at - 1]
            case _ if words:
                words.insert(at, words[at - 1])
    words = [word.replace("\0", "\\0") for word in words if not word.startswith(("--root", "--out", "-o", "--junit"))]
    if {"serve", "verify", "new", "--simulate", "build", "pages"} & {*words}:  # other groups write and serve
        words = ["show", *words[1:]]
    result, problems = command(words, world.kb)
    if result.code == 0 and "--help" not in words and "-h" not in words:
        problems += _compared(words, result.out, world)
    return Case(shlex.join(words), problems, result.code)


def _command(rng: random.Random, world: World) -> list[str]:
    kb = world.kb
    method, others = rng.choice([*kb]), rng.sample([*kb], 2)
    model = rng.choice(world.small if rng.random() < 0.9 else [*kb.models])
    words = ["--model", model]
    specs = kb[method].entry.hyperparameters
    for name in rng.sample([*specs], min(len(specs), rng.choice((0, 0, 1, 2)))):
        spec = specs[name]
        known = {
            "int": ["0", "1", "2", "8", "64", "7"],
            "float": ["0.0", "0.5", "1", "16.0", "-1"],
            "bool": ["true", "false"],
        }
        words += ["--set", f"{name}={rng.choice(known.get(spec.type) or spec.values or ['x'])}"]
    if kb[method].entry.targets and rng.random() < 0.3:
        words += ["--targets", ",".join(rng.sample(["attn.q", "attn.v", "attn.o", "mlp.up", "mlp.down", "attn.*"], 2))]
    if rng.random() < 0.2:
        words += [
            "--task",
            rng.choice(["none", "causal_lm", "seq_cls"]),
            "--num-labels",
            rng.choice(["2", "3", "1000"]),
        ]
    if rng.random() < 0.2:
        words += ["--dtype", rng.choice(["float32", "bfloat16", "float16", "float64"])]
    step = ["--batch", rng.choice(["1", "4"]), "--seq", rng.choice(["1", "128", "512"])]
    if rng.random() < 0.3:
        step += rng.choice(
            [["--checkpointing"], ["--attention", "eager"], ["--quantized", "nf4"], ["--optimizer", "sgd"]]
        )
    out = ["--json"] if rng.random() < 0.6 else []
    predicate = rng.choice(["year", "trained", "merge", "category", "stores", "library", "sharing"])
    predicate += rng.choice([" > ", " < ", " == ", " != ", " >= ", "%", "*", " and "])
    predicate += rng.choice(
        ["2023", "exact", "0", "'additive.*'", "values", "year", "1 / 0", "10 ** 400", "name * 99999999"]
    )
    return rng.choice([
        ["cost", method, *words, *out], ["cost", method, *words, *out], ["cost", method, *words, "--json"],
        ["memory", method, *words, *step, *out],
        ["fit", method, *words, "--gpu", rng.choice(["24GiB", "80GB", "1kB", "0.5 GiB"]), *step[2:], *out],
        ["compare", method, *others, *words, *out],
        ["export", method, "--to", rng.choice(["peft", "adapters"]), *words, *out],
        ["show", method, *out], ["cite", method, *others, *rng.choice([[], ["--all"]]), *out],
        ["methods", "--where", predicate, *rng.choice([[], ["--model", model]]), *out],
        ["methods", "--where", f"year {rng.choice(['<', '<=', '==', '!=', '>', '>='])} {rng.randint(2018, 2027)}",
        "--json"],
        ["methods", "--category", rng.choice([*kb.taxonomy.categories]), *out],
        ["methods", "--list", rng.choice([*kb.taxonomy.lists]), *out],
        ["models", *out], ["lists", *out], ["categories", *out], ["deviations", method, *out],
        ["graph", "--format", rng.choice(["json", "graphml", "dot", "mermaid"])],
        ["completion", rng.choice(["bash", "zsh", "fish"])], ["--version"], [], ["site"],
    ])  # fmt: skip


def _compared(words: list[str], out: str, world: World) -> Iterator[str]:
    """Compare an answer in JSON with an independent one."""
    if not (words and out.startswith(("{", "["))) or "--json" not in words:
        return
    try:
        found = json.loads(out)
    except ValueError as error:
        yield f"wrong answer: no JSON: {error}"
        return
    if words[0] == "cost" and "method" in found:
        where = {"task": found["task"], "num_labels": _option(words, "--num-labels", 2)}
        if found.get("targets") and "--targets" in words:
            where["targets"] = tuple(w.strip() for w in str(_option(words, "--targets", "")).split(","))
        if "--target-modules" in words:
            return
        on = world.kb[found["method"]].on(str(_option(words, "--model", "")), **where)
        again = on.cost(dtype=found["dtype"], **found["hyperparameters"])
        if again.trained != found["trained"] or again.stored_bytes != found["stored_bytes"]:
            yield f"wrong answer: {found['trained']} trained, in Python {again.trained}"
        for name, given in _settings(words):
            name = name.rpartition(".")[2]
            kept = found["hyperparameters"].get(name)
            if kept is not None and not isinstance(kept, bool | str) and float(given) != kept:
                yield f"wrong answer: {name} = {kept} for {given!r}"
        yield from kit.recount(again, on.places(**found["hyperparameters"]))
    if words[0] == "fit" and len(found) == 1 and found[0]["value"] and not found[0]["limited"]:
        memory = found[0]["memory"]
        if memory["peak"] + memory["gpu_extra_estimate"] > found[0]["gpu"]:
            yield f"wrong answer: {found[0]['value']} does not fit"
    condition = re.fullmatch(r"year (<=|>=|==|!=|<|>) (\d{4})", str(_option(words, "--where", "")))
    if words[0] == "methods" and condition and len(words) == 4:
        expected = {m.id for m in world.kb.values() if eval(f"{m.year} {condition[1]} {condition[2]}")}  # two numbers
        if {row["id"] for row in found} != expected:
            yield "wrong answer: other methods than Python compares"


def _option(words: list[str], name: str, default: Any) -> Any:
    """Return the last value of an option, as click does."""
    at = max((i for i, word in enumerate(words[:-1]) if word == name), default=None)
    return default if at is None else type(default)(words[at + 1]) if isinstance(default, int) else words[at + 1]


def _settings(words: list[str]) -> Iterator[tuple[str, str]]:
    for one, other in itertools.pairwise(words):
        if one == "--set":
            name, _, given = other.partition("=")
            yield name.strip(), given.strip()


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
    method, model = world.kb[rng.choice(world.exportable)], rng.choice(world.small)
    try:
        raw: dict[str, Any] = json.loads(json.dumps(method.export(model).to_dict()))
        library = method.entry.implementations["hf_peft"]  # a default without an argument there is the library's
        fixed = {name: value for name, value in library.defaults.items() if name not in library.rename}
        expected: int | None = method.cost(model, **fixed).trained
    except PeftonomyError:
        raw, expected = {"peft_type": "LORA", "r": 8, "target_modules": ["query", "q_proj", "q", "c_attn"]}, None
    changes = rng.choice((0, 1, 1, 2))
    for _ in range(changes):
        key = rng.choice([*raw, *PLACES])
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


# Entries, YAML and BibTeX


def entry(rng: random.Random, world: World) -> Case:
    """Draw an entry from the schema. If `check` accepts it, every command must work on it."""
    method = rng.choice([*world.kb])
    content = entries.written(entries.drawn(rng, world.kb, method))
    return _judged(rng, world, method, content)


TOKENS = (b"[", b"]", b"{", b"}", b": ", b"- ", b"&a", b"*a", b"!!python/object:os.system", b"no", b"1e3", b"0777",
b"1:30", b"|",
          b"'", b'"', b"#", b"%", b"\t", b"\xff", b"\x00", b"\xef\xbb\xbf", b"---", b"<<: x", b"null", b"~",
          b"99999999999999999999",
          b"1 / 0", b"10 ** 10 ** 10", b"factor(1.5, 2)", b"(" * 300, b"\xe2\x80\xae", b"\r")  # fmt: skip
BIB = (b"{", b"}", b"@", b"@article{", b"@string{a = ", b'"', b"=", b",", b"\\", b"{{{{", b"#", b"\n" * 500, b"\xff",
b"\\'{e}",
       b"@comment{", b"%", b"read = {paper}", b"url = {javascript:alert(1)}", b"{" * 150 + b"}" * 150)  # fmt: skip


def plain_text(rng: random.Random, world: World) -> Case:
    """Change the text of an entry, a model, a file of the taxonomy or the bibliography."""
    if rng.random() < 0.5:
        method = rng.choice([*world.kb])
        return _judged(rng, world, method, spoilt(rng, world.kb.methods.path(method).read_bytes(), TOKENS))
    tree = world.folder / "small"
    if not tree.is_dir():
        _small(tree)
    files = [*sorted((tree / "taxonomy").glob("*.yaml")), tree / "taxonomy" / "references.bib",
    tree / "site" / "settings.yaml",
             *sorted((tree / "backbones").rglob("*.yaml"))]  # fmt: skip
    path = rng.choice(files)
    before = path.read_bytes()
    path.write_bytes(spoilt(rng, before, BIB if path.suffix == ".bib" else TOKENS))
    try:
        checked, problems = command(["--root", str(tree), "check"])
        words = rng.choice([
            ["methods"], ["cost", "lora", "--model", "bert_base"], ["cite", "lora", "--all"], ["graph", "--format",
            "dot"],
            ["lists"], ["categories"], ["show", "lora"], ["memory", "lora", "--model", "bert_base", "--batch", "1",
            "--seq", "8"],
            ["site", "pages", "--out", str(world.folder / "pages")],
        ])  # fmt: skip
        result, more = command(["--root", str(tree), *words])
        if checked.code == 0 and result.code != 0:
            more.append(f"check accepts it, and {words[0]} does not: {result.err[:300]}")
        return Case(f"{path.relative_to(tree)} {words} {path.read_bytes()[:600]!r}", problems + more, checked.code)
    finally:
        path.write_bytes(before)


def _small(tree: Path) -> None:
    """Write a tree with one method, one model, its family and the sources that they name."""
    for name in ("taxonomy", "site"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("vendor", "pictures", "*.py", "assets"))
    for name in ("methods/lora.yaml", "reference_impls/lora.py", "backbones/models/bert_base.yaml",
    "backbones/families/bert.yaml",
                 "backbones/operations.yaml"):  # fmt: skip
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    texts = [path.read_text() for path in tree.rglob("*.yaml")]
    kb = peftonomy.load(ROOT)
    kept = [key for key in kb.references if any(key in one for one in texts)]
    whole = (ROOT / "taxonomy" / "references.bib").read_text()
    blocks = {m[1]: m[0] for m in re.finditer(r"^@\w+\{([^,]+),.*?^\}\n", whole, re.MULTILINE | re.DOTALL)}
    (tree / "taxonomy" / "references.bib").write_text("\n".join(blocks[key] for key in kept))
    lists = "lists:\n  recent: {name: Recent, meaning: Not from before the year 2000., where: year >= 2000}\n"
    (tree / "taxonomy" / "lists.yaml").write_text(lists)
    (tree / "taxonomy" / "surveys.yaml").write_text("surveys: {}\n")
    shutil.rmtree(tree / "taxonomy" / "trainers")
    for library in (tree / "taxonomy" / "libraries").iterdir():  # support is the last field, and names other methods
        library.write_text(library.read_text().partition("\nsupport:\n")[0] + "\n")
    lora = tree / "methods" / "lora.yaml"
    lora.write_text(
        re.sub(r"^(claims|shares|relations|closed_forms):\n(?:[ -].*\n)+", "", lora.read_text(), flags=re.MULTILINE)
    )


def _judged(rng: random.Random, world: World, method: str, content: bytes, *, inert: bool = False) -> Case:
    tree = world.folder / "tree"
    kb = entries.reread(world.kb, tree, method, content)
    try:
        return judged(kb, method, rng.choice(world.small), content, inert=inert)
    finally:
        entries.restore(world.kb, tree, method)


def judged(kb: KnowledgeBase, method: str, model: str, content: bytes, *, inert: bool = False) -> Case:
    """Run `check` on an entry. If it accepts it, run every command on it; otherwise one that must not fall either."""
    checked, problems = command(["check", str(kb.methods.path(method))], kb)
    words = [
        ["cost", method, "--model", model], ["show", method], ["export", method, "--model", model], ["cite", method],
        ["memory", method, "--model", model, "--batch", "1", "--seq", "8"],
    ]  # fmt: skip
    for line in words if checked.code == 0 else words[:1]:
        result, more = command(line, kb)
        problems += more
        if checked.code == 0 and result.code == 1:
            problems.append(f"check accepts it, and {line[0]} does not: {result.err[:300]}")
    if checked.code == 0:
        try:
            _, page = next(iter(preview(kb, [method])))
            if inert:
                problems += _inert(str(page))
        except Exception:
            problems.append(f"check accepts it, and its page fails: {last_line()}")
    return Case(f"{method} on {model}: {_difference(kb, method, content)}", problems, checked.code)


def _difference(kb: KnowledgeBase, method: str, content: bytes) -> str:
    """Return the lines of an entry that the checkout's does not have, or all of a rewritten one."""
    known = set((ROOT / "methods" / f"{method}.yaml").read_bytes().splitlines())
    return b"\n".join(line for line in content.splitlines() if line not in known)[:3000].decode(
        "utf-8", "backslashreplace"
    )


class _Running(HTMLParser):
    """A collector of what in a page would run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("iframe", "object", "embed", "base", "meta") or (
            tag == "script" and values.get("type") != "application/json"
        ):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or re.match(r"\s*(javascript|vbscript|data):", value or "", re.IGNORECASE):
                self.found.append(f"{name}={value!r:.60}")

    handle_startendtag = handle_starttag


def _inert(page: str) -> Iterator[str]:
    """Yield what in a page would run, in the page as Markdown makes it."""
    html = markdown.markdown(page.partition("\n---\n")[2], extensions=["attr_list", "pymdownx.superfences", "toc"])
    parser = _Running()
    parser.feed(html)
    yield from (f"wrong answer: a page holds {found}" for found in dict.fromkeys(parser.found))


# Python

Thrown = tuple[str, Problems]


def python(rng: random.Random, world: World) -> Case:
    """Call the public interface with right and strange arguments. Only its own errors may come, and each pickles."""
    kb, strange = world.kb, lambda: rng.choice((*VALUES, *TEXTS, object(), b"x", 1j, {1}, 10**5_000, print))
    method = kb[rng.choice([*kb])]
    specs = method.entry.hyperparameters
    given: dict[str, Any] = {}
    for name in rng.sample([*specs], min(len(specs), rng.choice((0, 1, 2)))):
        given[name] = rng.choice([strange(), strange(), 1, 8, 0.5, True])
    where = {name: strange() for name in ("targets", "target_modules", "task", "num_labels") if rng.random() < 0.1}
    dtype = {"dtype": strange()} if rng.random() < 0.1 else {}
    model = strange() if rng.random() < 0.15 else rng.choice(world.small)
    step = {"batch": strange() if rng.random() < 0.2 else 2, "seq": strange() if rng.random() < 0.2 else 16}
    arrays = {name: [value, value] for name, value in given.items()}
    call = rng.choice([
        lambda: method.cost(model, **where, **dtype, **given),
        lambda: method.cost(model, **where, **dtype, **given),
        lambda: method.memory(model, **step, **where, **dtype, **given),
        lambda: method.fit(model, gpu=rng.choice([10**10, "24GiB", strange()]), **where, **given),
        lambda: method.export(model, to=rng.choice(["peft", "adapters", strange()]), **where, **given),
        lambda: method.places(model, **where, **given), lambda: method.sweep(model, **where, **dtype, **arrays),
        lambda: method.sweep([model, strange()], **where, **arrays), lambda: kb[strange()],
        lambda: kb.models[strange()],
        lambda: kb.query(strange()), lambda: kb.query("year > 2000", category=strange()),
        lambda: kb.stored_list(strange()),
        lambda: kb.adapter(strange(), model), lambda: kb.backbone(strange()),
        lambda: peftonomy.Formula.parse(strange()),
        lambda: kb.adapter({"peft_type": strange(), "r": strange(), "target_modules": strange()}, model),
        lambda: peftonomy.load(strange()), lambda: peftonomy.check(kb, [strange()]), lambda: kb.graph.export(strange()),
        lambda: method.apply(strange(), **given), lambda: peftonomy.Backbone.from_config(strange(),
        families=kb.families),
    ])  # fmt: skip
    told = " ".join(shown(one) for one in (method.id, model, where, dtype, step, given))
    try:
        found = call()
    except PeftonomyError as error:
        again = pickle.loads(pickle.dumps(error))
        problems = [] if str(again) == str(error) else ["an error that does not pickle"]
        problems += kit.message(f"error: {str(error).replace(chr(10), ' ')}\n")
        return Case(told, problems)
    except (RecursionError, MemoryError, Exception):
        return Case(told, [f"foreign error: {last_line()}"])
    problems = []
    if type(found).__name__ == "Sweep" and isinstance(found.model, str) and arrays:
        one = method.cost(model, **where, **dtype, **given)
        if set(found.trained.ravel().tolist()) != {one.trained}:
            problems.append(f"wrong answer: {found.trained.tolist()} in a sweep, {one.trained} alone")
    return Case(told, problems)


# The site


def site(rng: random.Random, world: World) -> Case:
    """Put hostile texts into an entry's fields and make its page, or write pages to strange places."""
    if rng.random() < 0.75:
        method = rng.choice([*world.kb])
        data = json.loads(json.dumps(world.kb[method].document.data))
        hostile = rng.choice(HOSTILE)
        for keys in rng.sample([k for k in _texts(data, ()) if k[-1] in SHOWN], 2):
            holder = data
            for key in keys[:-1]:
                holder = holder[key]
            holder[keys[-1]] = (
                hostile
                if keys[-1] != "summary"
                else "A sentence with " + re.sub(r"[\\$*^_{}<>=\n]", "", hostile)[:90] + "."
            )
        return _judged(rng, world, method, entries.written(data), inert=True)
    tree = world.folder / "small"
    if not tree.is_dir():
        _small(tree)
    target, before = _target(rng, world.folder / "target")
    words = ["--root", str(tree), "site", rng.choice(["pages", "build"]), "--out", str(target)]
    result, problems = command(words)
    if result.code and _contents(world.folder / "target") != before:
        problems.append("a partly written output")
    shutil.rmtree(world.folder / "target")
    return Case(shlex.join(words), problems, result.code)


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "{{ 7*7 }} {% raw %}",
    "</code></pre>",
    "\u202egnp", "`" * 50, "*" * 200, "_" * 200, "[" * 500, "<" * 500, "&lt;script&gt;", "\\frac{" * 50, "${7*7}",
    "<!--", "]]>",
    "![](data:text/html,x)", "<a href='x' onclick='y'>", "a\n\n# heading\n", "--- \n", "|" * 100,
    "\\href{javascript:a}{b}",
    'a {: onclick="alert(1)" }', "{: onclick=alert(1) }", "<https://x.y/onload=>", "&#106;avascript:alert(1)",
    "```\n<script>\n```",
)  # fmt: skip
SHOWN = (
    "name",
    "full_name",
    "summary",
    "description",
    "update",
    "where",
    "note",
    "meaning",
    "reason",
    "reported",
    "text",
    "symbol",
)


def _texts(value: Any, keys: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        if isinstance(inner, str):
            yield (*keys, key)
        yield from _texts(inner, (*keys, key))


def _target(rng: random.Random, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """Return a place to write to, inside a folder that belongs to the case, and what the folder holds."""
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    match rng.randrange(6):
        case 0:
            target = folder
        case 1:
            target = folder / "mine.txt"
        case 2:
            target = folder / "mine.txt" / "below"
        case 3:
            target = folder / "link"
            target.symlink_to("nowhere/at/all")
        case 4:
            target = folder / ("x" * 300)
        case _:
            target = folder / "new" / "folder"
    return target, _contents(folder)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# The process: streams, signals, encodings, places

REDIRECTIONS = (
    "",
    ">&-",
    "2>&-",
    ">&- 2>&-",
    "<&-",
    ">/dev/full",
    "2>/dev/full",
    "| head -c 10",
    "| true",
    ">/dev/null",
)
ENVIRONMENTS: tuple[dict[str, str], ...] = (
    {}, {"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-16"},
    {"LC_ALL": "C"}, {"LANG": "xx"},
    {"PYTHONWARNINGS": "error"}, {"PYTHONUNBUFFERED": "1"}, {"PYTHONUTF8": "0", "LC_ALL": "C"}, {"PYTHONOPTIMIZE": "2"},
    {"HOME": "/nowhere"}, {"TMPDIR": "/nowhere"}, {"COLUMNS": "0"}, {"COLUMNS": "x"}, {"TERM": "x"}, {"NO_COLOR": "1"},
    {"PEFTONOMY_ROOT": "/nowhere"}, {"PEFTONOMY_ROOT": ""}, {"PEFTONOMY_SITE_URL": "javascript:x"},
    {"PYTHONHASHSEED": "7"},
    {"_PEFTONOMY_COMPLETE": "bash_complete", "COMP_WORDS": "peftonomy cost lo", "COMP_CWORD": "2"},
    {"PYTHONDEVMODE": "1"},
)  # fmt: skip
LINES = (
    "methods", "models --json", "cost lora --model gpt2", "cost lroa --model gpt2", "show loha", "cite lora --all",
    "graph --format dot",
    "graph --format graphml -o OUT", "check methods/lora.yaml", "--version", "",
    "memory lora --model gpt2 --batch 1 --seq 8",
    "cost lora --model gpt2 --json", "new fresh_method --category additive.adapter", "export lora --model bert_base",
    "lists",
)  # fmt: skip


def process(rng: random.Random, world: World) -> Case:
    """Run the command line as a process, with strange streams, environments and signals."""
    line, redirection, environment = rng.choice(LINES), rng.choice(REDIRECTIONS), rng.choice(ENVIRONMENTS)
    out = world.folder / "out.graphml"
    out.write_text("before")
    root = world.folder / "copy"  # the tree of drawn entries has links into the checkout
    if line.startswith("new"):
        line = f"--root {shlex.quote(str(_copied(root)))} {line}"
    command_ = f"{shlex.quote(sys.executable)} -m peftonomy {line.replace('OUT', shlex.quote(str(out)))} {redirection}"
    delay = rng.choice((None, None, None, 0.4, 0.8, 1.2, 1.6))
    given = (
        {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONUN", "PYTHONIO"))}
        | {"PYTHONPATH": str(ROOT)}
        | environment
    )
    told = f"{environment} {line} {redirection} {'' if delay is None else f'Ctrl-C after {delay} s'}"
    child = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {'exec ' if '|' not in redirection else ''}{command_}"], env=given, cwd=ROOT,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip
    try:
        if delay is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(delay)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGINT)
        printed, told_error = child.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        return Case(told, ["hang: over 100 s"])
    problems = _process_rules(child.returncode, printed, told_error, delay is not None, environment)
    content = out.read_text()
    if content != "before" and not content.rstrip().endswith("</graphml>"):
        problems.append("a partly written output")
    left = [p.name for p in out.parent.iterdir() if p.name.startswith(".out")]
    return Case(told, problems + [f"a file is left: {name}" for name in left], child.returncode)


def _process_rules(code: int, out: str, err: str, interrupted: bool, environment: dict[str, str]) -> Problems:
    allowed = {0, 1, 2} | ({130, -signal.SIGINT} if interrupted else set())
    problems = [] if code in allowed else [f"exit code: {code}"]
    starting = interrupted and "site-packages" not in err and "peftonomy" not in err  # Python itself was starting
    if "Traceback" in err and not starting:
        problems.append(f"traceback: {err.strip().splitlines()[-1][:200]}")
    elif (
        err.strip()
        and not starting
        and not err.startswith(("error: ", "Usage: "))
        and "PYTHONDEVMODE" not in environment
    ):
        problems.append(f"stderr: {err[:200]!r}")
    return problems


def _copied(root: Path) -> Path:
    if not (root / "taxonomy").is_dir():
        for name in ("taxonomy", "methods", "backbones", "reference_impls"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("methods/fresh_method.yaml", "reference_impls/fresh_method.py"):
        (root / path).unlink(missing_ok=True)
    return root


GROUPS: dict[str, kit.Generate] = {
    "command": command_line, "config": config, "adapter": adapter, "entry": entry, "text": plain_text, "python": python,
    "site": site, "process": process,
}  # fmt: skip

"""The groups `entry`, `text` and `site`: files of a knowledge base, and the pages that they give."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import markdown
import yaml
from pydantic import BaseModel

import peftonomy
from peftonomy import KnowledgeBase
from peftonomy.schema.design import Design, load_design
from peftonomy.schema.engines import Engine
from peftonomy.schema.family import Family
from peftonomy.schema.library import Library
from peftonomy.schema.support import Trainer
from peftonomy.site import preview
from peftonomy.studies.jobs import Study

from . import entries
from .kit import ROOT, Case, World, command, last_line, spoilt

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


SCHEMAS: dict[str, type[BaseModel]] = {
    "engines": Engine, "libraries": Library, "trainers": Trainer, "families": Family, "studies": Design,
}  # fmt: skip
"""The schema of the files in a folder."""


def plain_text(rng: random.Random, world: World) -> Case:
    """Change the text of an entry, a model, a file of the taxonomy or the bibliography."""
    if rng.random() < 0.5:
        method = rng.choice([*world.kb])
        return _judged(rng, world, method, spoilt(rng, world.kb.methods.path(method).read_bytes(), TOKENS))
    tree = world.folder / "small"
    if not tree.is_dir():
        _small(tree)
    path = rng.choice(_files(tree))
    before = path.read_bytes()
    if (schema := SCHEMAS.get(path.parent.name)) and path.suffix == ".yaml" and rng.random() < 0.7:
        path.write_bytes(entries.written(entries.changed(rng, world.kb, schema, yaml.safe_load(before))))
    else:
        path.write_bytes(spoilt(rng, before, BIB if path.suffix == ".bib" else TOKENS))
    try:
        checked, problems = command(["--root", str(tree), "check"])
        words = rng.choice([
            ["methods"], ["cost", "lora", "--model", "bert_base"], ["cite", "lora", "--all"], ["graph", "--format",
            "dot"],
            ["serving", "lora", "--model", "tinyllama_1_1b", "--engine", rng.choice([*world.kb.engines])],
            ["evidence", "--ours"], ["evidence", "--ours", "--json"], ["lists"], ["categories"], ["show", "lora"],
            ["memory", "lora", "--model", "bert_base", "--batch", "1",
            "--seq", "8"],
            ["site", "pages", "--out", str(world.folder / "pages")], ["evidence"], ["support"], ["combine"],
            ["nearest", "lora"], ["choose", "--model", "bert_base", "--gpu", "8GiB"], ["deviations"],
            ["export", "lora", "--to", "axolotl", "--model", "tinyllama_1_1b"],
            ["fit", "lora", "--model", "bert_base", "--gpu", "24GiB"],
        ])  # fmt: skip
        result, more = command(["--root", str(tree), *words])
        refusal = result.code == 2 and words[0] == "serving"    # an engine may refuse a model
        if checked.code == 0 and result.code != 0 and not refusal:
            more.append(f"check accepts it, and {words[0]} does not: {result.err[:300]}")
        return Case(f"{path.relative_to(tree)} {words} {path.read_bytes()[:600]!r}", problems + more, checked.code)
    finally:
        path.write_bytes(before)


def _files(tree: Path) -> list[Path]:
    """Return the files of a tree that a user may write, except entries of methods."""
    found = [path for name in ("taxonomy", "backbones", "evidence", "studies") for path in (tree / name).rglob("*.*")]
    return sorted([*found, tree / "site" / "settings.yaml"])


ONLY = {"methods": {"lora"}, "models": {"bert_base", "tinyllama_1_1b"}, "families": {"bert", "llama"}}
"""The entries, models and families of a small tree."""


def _small(tree: Path) -> None:
    """Write a tree with one method, few models, and what the other files say about them. `check` accepts it."""
    for name in ("taxonomy", "site", "evidence"):
        skipped = shutil.ignore_patterns("vendor", "pictures", "*.py", "assets")
        shutil.copytree(ROOT / name, tree / name, ignore=skipped)
    kb = peftonomy.load(ROOT)
    kept = ["backbones/operations.yaml", *(f"reference_impls/{method}.py" for method in ONLY["methods"])]
    for shelf, names in ONLY.items():
        kept += [str(getattr(kb, shelf).path(name).relative_to(kb.root)) for name in names]
    for name in kept:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    lists = "lists:\n  recent: {name: Recent, meaning: Not from before the year 2000., where: year >= 2000}\n"
    (tree / "taxonomy" / "lists.yaml").write_text(lists)
    (tree / "taxonomy" / "surveys.yaml").write_text("surveys: {}\n")
    for one in ONLY["methods"]:
        path = tree / "methods" / f"{one}.yaml"
        others = re.compile(r"^(claims|shares|relations|closed_forms):\n(?:[ -].*\n)+", re.MULTILINE)
        path.write_text(others.sub("", path.read_text()))
    gone = {key for shelf, names in ONLY.items() for key in {*getattr(kb, shelf)} - names}
    for path in (tree / "taxonomy").rglob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        if (left := _without(data, gone)) != data:
            path.write_bytes(entries.written(left))
    studies = {key: one for key, one in yaml.safe_load((tree / "evidence" / "studies.yaml").read_text()).items()
               if one.get("model") not in gone}  # fmt: skip
    (tree / "evidence" / "studies.yaml").write_text(yaml.safe_dump(studies))
    for path in (tree / "evidence").glob("*.jsonl"):
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["method"] in ONLY["methods"]]
        path.write_text("".join(f"{line}\n" for line in lines)) if path.stem in studies else path.unlink()
    (tree / "studies").mkdir()
    plain = yaml.safe_load((ROOT / "studies" / "tiny.yaml").read_text())
    only = sorted(ONLY["methods"])
    plain |= {"methods": only, "baselines": only, "canary": {"full": only[0], "reversed": only[0]}}
    (tree / "studies" / "tiny.yaml").write_bytes(entries.written(plain))
    lines = [json.dumps(run) for run in _runs(kb, tree / "studies")]
    (tree / "studies" / "tiny.jsonl").write_text("\n".join(lines) + "\n")
    texts = [path.read_text() for path in tree.rglob("*.*") if path.suffix in (".yaml", ".jsonl")]
    whole = (ROOT / "taxonomy" / "references.bib").read_text()
    blocks = {m[1]: m[0] for m in re.finditer(r"^@\w+\{([^,]+),.*?^\}\n", whole, re.MULTILINE | re.DOTALL)}
    named = [block for key, block in blocks.items() if any(key in text for text in texts)]
    (tree / "taxonomy" / "references.bib").write_text("\n".join(named))


def _runs(kb: KnowledgeBase, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the first test runs of a study, with made-up results."""
    study = Study(kb, load_design(folder / "tiny.yaml"), folder, (), "0" * 16)
    for job in study.due({}):
        if job.split == "test":
            sizes = {"train": 100, **{split: job.asked["task"][split] for split in ("validation", "test")}}
            nothing = ("error", "curve", "trained", "stored", "stored_bytes", "step_seconds", "peak_bytes")
            yield dict.fromkeys((*nothing, "predicted_bytes")) | {
                "run": job.key, "study": "tiny", "arm": job.arm.name, "rung": job.rung, "learning_rate": job.rate,
                "asked": job.asked, "metric": "accuracy", "value": 1.0, "loss": 0.0, "head": 1,
                "answers": "f" * (sizes["test"] // 4), "seconds": 1.0, "model": "", "sizes": sizes, "commonest": 0.1,
                "versions": {}, "hardware": {}, "started": "",
            }  # fmt: skip


def _without(value: Any, gone: set[str]) -> Any:
    """Return data without the keys, values and items that are gone, and without records about them."""

    def kept(one: Any) -> bool:
        about = [one.get(field) for field in ("method", "like", "needs")] if isinstance(one, dict) else [one]
        return not any(isinstance(name, str) and name in gone for name in about)

    if isinstance(value, dict):  # types, tables and builds of a library only name each other
        tables = {key: value[key] for key in ("types", "tables", "builds") if key in value}
        rest = {key: _without(one, gone) for key, one in value.items() if key not in gone and kept(one)}
        return rest | tables
    return [_without(one, gone) for one in value if kept(one)] if isinstance(value, list) else value


def _judged(rng: random.Random, world: World, method: str, content: bytes, *, inert: bool = False) -> Case:
    tree = world.folder / "tree"
    world.traits  # noqa: B018 (once for all cases)
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
        ["memory", method, "--model", model, "--batch", "2", "--seq", "8", "--checkpointing", "--gpus", "2"],
        ["fit", method, "--model", model, "--gpu", "24GiB"], ["serving", method, "--model", model],
        ["deepspeed", method, "--model", model, "--gpus", "2", "--stage", "3"],
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


# The site


def site(rng: random.Random, world: World) -> Case:
    """Put hostile texts into an entry's fields and make its page, or write pages to strange places."""
    if rng.random() < 0.75:
        method = rng.choice([*world.kb])
        data = json.loads(json.dumps(world.kb[method].document.data))
        hostile = rng.choice(HOSTILE)
        places = [keys for keys in _texts(data, ()) if keys[-1] in SHOWN or rng.random() < 0.1]
        for keys in rng.sample(places, 2):
            holder = data
            for key in keys[:-1]:
                holder = holder[key]
            plain = re.sub(r"[\\$*^_{}<>=\n]", "", hostile)[:90]
            holder[keys[-1]] = hostile if keys[-1] != "summary" else f"A sentence with {plain}."
        return _judged(rng, world, method, entries.written(data), inert=True)
    tree = world.folder / "small"
    if not tree.is_dir():
        _small(tree)
    if rng.random() < 0.6:
        return _marked(rng, world, tree)
    target, before = _target(rng, world.folder / "target")
    words = ["--root", str(tree), "site", rng.choice(["pages", "build"]), "--out", str(target)]
    result, problems = command(words)
    if result.code and _contents(world.folder / "target") != before:
        problems.append("a partly written output")
    shutil.rmtree(world.folder / "target")
    return Case(shlex.join(words), problems, result.code)


def _marked(rng: random.Random, world: World, tree: Path) -> Case:
    """Put a hostile text into another file of a tree, and look at every page that follows."""
    path = rng.choice([path for path in _files(tree) if path.suffix in (".yaml", ".jsonl")])
    before, hostile = path.read_text(), rng.choice(HOSTILE)
    lines = before.splitlines() if path.suffix == ".jsonl" else [before]
    at = rng.randrange(len(lines))
    data = yaml.safe_load(lines[at])
    places = list(_texts(data, ()))
    for keys in rng.sample(places, min(len(places), 2)):
        holder = data
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = hostile if rng.random() < 0.5 else f"{holder[keys[-1]]} {hostile}"
    lines[at] = json.dumps(data, default=str) if path.suffix == ".jsonl" else entries.written(data).decode()
    out = world.folder / "pages"
    path.write_text("\n".join(lines))
    try:
        checked, problems = command(["--root", str(tree), "check"])
        if checked.code == 0:
            result, more = command(["--root", str(tree), "site", "pages", "--out", str(out)])
            problems += more
            if result.code:
                problems.append(f"check accepts it, and its pages fail: {result.err[:300]}")
            for page in out.rglob("*.md"):
                problems += _inert(page.read_text())
        return Case(f"{path.relative_to(tree)} {hostile!r} {data!r:.600}", problems, checked.code)
    finally:
        path.write_text(before)
        shutil.rmtree(out, ignore_errors=True)


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

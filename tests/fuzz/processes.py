"""The group `process`: streams, signals, encodings, places."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from . import kit
from .kit import ROOT, Case, Problems, World

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
    "lists", "site serve --port 0 --dir SITE", "site build --out OUT", "verify lroa", "verify lora --family nowhere",
    "verify lora --implementation nowhere:f --family bert", "drift nowhere", "drift peft --python /bin/true", "mcp",
    "bench run nowhere.yaml", "choose --model gpt2 --gpu 24GiB", "nearest lora --json", "evidence lora",
    "export lora --to axolotl --model gpt2",
)  # fmt: skip
"""Among them every command that the group `command` does not run."""
MESSAGES = (
    {"jsonrpc": "2.0", "id": 1, "method": "initialize",
     "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}},
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    {"jsonrpc": "2.0", "id": 3, "method": "tools/call",
     "params": {"name": "cost", "arguments": {"method": "lora", "model": "gpt2"}}},
    {"jsonrpc": "2.0", "id": 4, "method": "tools/call", "params": {"name": "cost", "arguments": [1]}},
    {"jsonrpc": "2.0", "id": "x" * 5_000, "method": "tools/call", "params": None}, {"jsonrpc": "1.0"}, [], 7, "x", None,
)  # fmt: skip
"""Lines for the server of `peftonomy mcp`."""


def talk(rng: random.Random) -> str:
    """Return lines for a server of tools, some of them spoilt. The first two open a session."""
    lines = [json.dumps(one) for one in [*MESSAGES[:2], *rng.sample(MESSAGES, rng.randrange(6))]]
    if rng.random() < 0.5:
        lines.insert(rng.randrange(len(lines) + 1), kit.text(rng).encode("utf-8", "replace").decode())
    return "\n".join(lines) + "\n"



def process(rng: random.Random, world: World) -> Case:
    """Run the command line as a process, with strange streams, environments and signals."""
    line, redirection, environment = rng.choice(LINES), rng.choice(REDIRECTIONS), rng.choice(ENVIRONMENTS)
    out = world.folder / "out.graphml"
    out.write_text("before")
    root = world.folder / "copy"  # the tree of drawn entries has links into the checkout
    if line.startswith("new"):
        line = f"--root {shlex.quote(str(_copied(root)))} {line}"
    site = world.folder / "served"
    site.mkdir(exist_ok=True)
    (site / "index.html").write_text("<p>")
    said = world.folder / "stdin"
    said.write_text(talk(rng) if line == "mcp" else "")
    line = line.replace("OUT", shlex.quote(str(out))).replace("SITE", shlex.quote(str(site)))
    command_ = f"{shlex.quote(sys.executable)} -m peftonomy {line} {redirection}"
    delay = rng.choice((None, None, None, 0.4, 0.8, 1.2, 1.6) if "serve" not in line else (0.8, 1.6))
    given = (
        {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONUN", "PYTHONIO"))}
        | {"PYTHONPATH": str(ROOT)}
        | environment
    )
    told = f"{environment} {line} {redirection} {'' if delay is None else f'Ctrl-C after {delay} s'}"
    with said.open() as stdin:
        child = subprocess.Popen(
            ["bash", "-c", f"set -o pipefail; {'exec ' if '|' not in redirection else ''}{command_}"], env=given,
            cwd=ROOT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            encoding=environment.get("PYTHONIOENCODING", "utf-8"), errors="replace",
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

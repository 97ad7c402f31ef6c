"""The command line as a process: environment, signals, pipes, files."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from peftonomy.cli import browse
from peftonomy.files.output import write_atomically

from .cli_kit import (
    Run,
    assert_one_line,
    process,
)
from .trees import small_tree

pytestmark = pytest.mark.slow

# Being a good process


def test_the_environment_names_another_tree(run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "methods" / "bitfit.yaml").unlink()
    monkeypatch.setenv("PEFTONOMY_ROOT", str(tree))
    assert "\nbitfit " not in run("methods").out
    assert "\nbitfit " in run(f"--root {Path(__file__).parent.parent} methods").out


def test_a_reader_that_goes_away_is_no_error() -> None:
    for line in (["methods"], ["cost", "lora", "--model", "llama_2_7b", "--json"]):
        with subprocess.Popen(process(*line), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""


def test_ctrl_c_is_quiet(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(browse, "knowledge", interrupted)
    result = run("methods")
    assert result.code == 130
    assert (result.out.strip(), result.err.strip()) == ("", "")


INTERRUPTING = """
import runpy, signal, sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == module:
            signal.raise_signal(signal.SIGINT)

module, sys.argv = sys.argv[1], ["peftonomy", *sys.argv[2:]]
sys.meta_path.insert(0, Interrupting())
runpy.run_module("peftonomy", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["click", "pydantic", "peftonomy.knowledge.base", "networkx"])
def test_ctrl_c_is_quiet_while_modules_load(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTING, module, "graph", "--format", "dot"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def test_ctrl_c_in_a_callback_is_not_lost() -> None:
    """Python ignores an exception in a callback. The program raises this one again."""
    code = """
import signal, sys, time, weakref
import peftonomy.cli.main as cli
from peftonomy.__main__ import main

class Thing: pass

def main_(*_):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    del thing
    for _ in range(600):
        time.sleep(0.1)

cli.main = main_
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `peftonomy LINE` in a shell."""
    command = f"{shlex.quote(sys.executable)} -m peftonomy {line}"
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "PYTHONIOENCODING")}
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, encoding=encoding, check=False, env=known | environment
    )


STREAMS = {
    "models >&-": (1, "standard output: Bad file descriptor"),
    "models --json >&-": (1, "standard output: Bad file descriptor"),
    "models >&- 2>&-": (1, ""),
    "models >/dev/null 2>&-": (0, ""),
    "show lroa 2>&-": (2, ""),
    "show lroa >&- 2>&-": (2, ""),
    "graph --format dot -o /dev/null >&-": (0, ""),
    "models <&- >/dev/null": (0, ""),
    "models >/dev/full": (1, "standard output: No space left on device"),
    "--version >/dev/full": (1, "standard output: No space left on device"),
    "show lroa 2>/dev/full": (2, ""),
    "2>/dev/full": (2, ""),
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(("line", "buffered"), [*((line, "") for line in STREAMS), ("models >/dev/full", "1")])
def test_a_stream_that_cannot_be_written_is_one_line(line: str, buffered: str) -> None:
    code, found = STREAMS[line]
    done = shell(line, PYTHONUNBUFFERED=buffered)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == (f"error: {found}\n" if found else "")


def test_warnings_are_no_errors() -> None:
    """A parser of BibTeX warns."""
    for environment in ({"PYTHONWARNINGS": "error"}, {"PYTHONWARNINGS": "always"}):
        done = shell("cite lora", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("@")


def test_a_character_that_stdout_lacks_is_escaped_or_refused(root: Path, tmp_path: Path) -> None:
    tree = small_tree(root, tmp_path, "lora")
    entry, bibliography = tree / "methods" / "lora.yaml", tree / "taxonomy" / "references.bib"
    entry.write_text(re.sub("^full_name: .*", "full_name: From a to →", entry.read_text(), flags=re.MULTILINE))
    bibliography.write_text(bibliography.read_text().replace("title", "note = {→}, title"))
    shown = shell(f"--root {tree} show lora", PYTHONIOENCODING="cp1252")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert r"From a to \u2192" in shown.stdout
    record = shell(f"--root {tree} show lora --json", PYTHONIOENCODING="cp1252")
    assert (record.returncode, record.stderr) == (0, "")
    assert json.loads(record.stdout)["full_name"] == "From a to →"
    cited = shell(f"--root {tree} cite lora", PYTHONIOENCODING="cp1252")
    assert (cited.returncode, cited.stdout) == (2, "")
    assert_one_line(cited.stderr)
    assert "cp1252, which lacks" in cited.stderr


def test_long_and_strange_values_are_cut_and_escaped(run: Run) -> None:
    for value in ("9" * 5_000, "\x1b[31m\u202e"):
        for line in (f"memory lora --model gpt2 --seq 4 --batch {value}", f"show {value}", f"{value}", f"--{value}"):
            result = run(line)
            assert (result.code, result.out) == (2, "")
            assert_one_line(result.err)
            assert len(result.err) < 700
            assert result.err.rstrip("\n").isprintable()


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    first, folder = tmp_path / "first", tmp_path / "folder"
    folder.mkdir()
    first.write_text("before")
    with pytest.raises(IsADirectoryError):
        write_atomically({first: "after", folder: "no file"})
    assert first.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["first", "folder"]


def test_a_file_is_replaced_and_keeps_its_mode(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "graph.dot"
    path.write_text("before")
    path.chmod(0o640)
    assert run(f"graph --format dot -o {path}").code == 0
    assert path.read_text().startswith("digraph")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_written_through(run: Run, tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "target.dot", tmp_path / "link.dot"
    if there:
        target.write_text("before")
    link.symlink_to("target.dot")
    assert run(f"graph --format dot -o {link}").code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("digraph")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically({pipe: "written"})
    assert os.read(reader, 100) == b"written"
    os.close(reader)
    assert pipe.is_fifo()


def test_standard_output_is_a_file_to_write_to() -> None:
    line = process("graph", "--format", "dot", "-o", "/dev/stdout")
    written = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert written.startswith("digraph")
    assert written.endswith("}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_one_line_that_names_the_file(run: Run) -> None:
    result = run("graph --format dot -o /dev/full")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert "/dev/full: No space left" in result.err
    assert Path("/dev/full").is_char_device()


def test_a_table_is_drawn_on_a_terminal_and_plain_in_a_pipe(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run("models").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    drawn = run("models").out
    assert "─" in drawn
    assert "─" not in plain
    assert "bert_base" in drawn


def test_progress_is_for_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to stderr, and nothing of it into a pipe."""
    line = "fit lora ia3 --model gpt2 --gpu 8GiB"
    plain = run(line)
    assert plain.err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = run(line)
    assert shown.out == plain.out
    assert "fitting" in shown.err
    assert "/2" in shown.err


HEAVY = ("torch", "transformers", "peft", "numpy", "networkx", "rich", "sympy", "mkdocs", "bibtexparser",
         "peftonomy.knowledge.check", "peftonomy.libraries.named")  # fmt: skip
FOR_DATA = ("pydantic", "yaml")
"""What reads entries, and help needs none."""


def test_a_cost_query_loads_nothing_heavy() -> None:
    code = f"""
import sys
from peftonomy.cli.main import main
helped = main(["--help"]), sorted(set({FOR_DATA!r}) & set(sys.modules))
code = main(["cost", "lora", "--model", "llama_2_7b"])
print(*helped, code, sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 [] 0 []"


def test_a_process_that_holds_the_math_engine_ends(root: Path) -> None:
    """The embedded V8 waits for ever at exit unless it was closed."""
    code = f"""
from pathlib import Path
from peftonomy.site._tex import Tex
held = Tex(Path({str(root)!r}, "site/vendor/katex/katex.min.js"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

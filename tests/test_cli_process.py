"""The command line as a process: environment, signals, pipes, files."""

from __future__ import annotations

import os
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

# Being a good process


@pytest.mark.slow
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


HEAVY = ("torch", "transformers", "peft", "numpy", "networkx", "rich", "sympy", "mkdocs", "bibtexparser")


def test_a_cost_query_loads_nothing_heavy() -> None:
    code = f"""
import sys
from peftonomy.cli.main import main
code = main(["cost", "lora", "--model", "llama_2_7b"])
print(code, sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_a_process_that_holds_the_math_engine_ends(root: Path) -> None:
    """The embedded V8 waits for ever at exit unless it was closed."""
    code = f"""
from pathlib import Path
from peftonomy.site._tex import Tex
held = Tex(Path({str(root)!r}, "site/vendor/katex/katex.min.js"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

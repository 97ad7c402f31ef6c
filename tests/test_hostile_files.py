"""Hostile files: of every kind, size and encoding. Each is refused in one line that names it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import peftonomy
from peftonomy import ConfigError, DataError, PeftonomyError
from peftonomy.files.bibliography import Bibliography
from peftonomy.files.documents import MAX_BYTES, parse_yaml
from peftonomy.files.reading import read_object, read_text
from tests.trees import small_tree


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.symlink_to("nothing")


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (_fifo, "found no regular file"),
    "endless": (_endless, "found no regular file"),
    "loop": (_loop, "Too many levels of symbolic links"),
    "dangling": (_dangling, "No such file or directory"),
    "folder": (Path.mkdir, "found a folder"),
    "missing": (lambda path: None, "No such file or directory"),
    "UTF-16": (_bytes("a: 1".encode("utf-16")), ":1: found bytes that are not UTF-8; expected UTF-8 text"),
    "broken UTF-8": (_bytes(b"a: 1\n\nb: \xff"), ":3: found bytes that are not UTF-8; expected UTF-8 text"),
    "large": (_bytes(b" " * (MAX_BYTES + 1)), "found more than 1,000,000 bytes"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_text_files_of_a_limited_size_are_read(tmp_path: Path, kind: str) -> None:
    make, message = KINDS[kind]
    make(tmp_path / "x")
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "x", "x", MAX_BYTES)
    assert str(caught.value).startswith("x:")
    assert message in str(caught.value)


def test_byte_order_marks_and_line_ends_make_no_difference(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r")
    assert read_text(tmp_path / "x", "x", MAX_BYTES) == "a: 1\nb: 2\n"


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_a_path_that_no_system_accepts_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_text(Path(name), name, MAX_BYTES)
    assert len(str(caught.value)) < 300


JSON = {
    "null": ("null", "found null; expected a JSON object"),
    "list": ("[1, 2]", "found a list of 2; expected a JSON object"),
    "number": ("7", "found 7; expected a JSON object"),
    "truth": ("true", "found true; expected a JSON object"),
    "text": (json.dumps("x" * 5000), "expected a JSON object"),
    "cut": ('{"a":\n', "x:2: found Expecting value, column 1; expected valid JSON"),
    "deep": ("[" * 100_000, "found deep nesting"),
    "twice": ('{"a": 1, "a": 1}', "found the key a twice"),
    "digits": (f'{{"a": {"9" * 5000}}}', "found a number of 5,000 digits"),
    "NaN": ('{"a": NaN}', "found NaN, which JSON does not have"),
}


@pytest.mark.parametrize("kind", JSON)
def test_json_is_refused_with_its_line(tmp_path: Path, kind: str) -> None:
    content, message = JSON[kind]
    (tmp_path / "x").write_text(content)
    with pytest.raises(DataError) as caught:
        read_object(tmp_path / "x", "x", MAX_BYTES, "a file")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("kind", ["pipe", "endless", "loop", "dangling", "folder", "UTF-16", "large"])
@pytest.mark.parametrize(
    "place", ["methods/x.yaml", "taxonomy/references.bib", "backbones/models/x.yaml", "golden/x.json"]
)
def test_check_names_a_file_that_cannot_be_read(root: Path, tmp_path: Path, kind: str, place: str) -> None:
    tree = small_tree(root, tmp_path, "lora")
    path = tree / place
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make, message = KINDS[kind]
    make(path)
    if place.endswith("bib") and kind == "large":
        path.write_bytes(b" " * 10_000_001)
        message = "found more than 10,000,000 bytes"
    if place.endswith("yaml") and kind == "UTF-16":
        message = f"{place}{message}"
    kb = peftonomy.load(tree)
    kb.methods.__dict__["ids"] = dict.fromkeys(key for key in kb.methods.ids if key == "x")
    problems = [str(problem) for problem in peftonomy.check(kb) if problem.file == place]
    assert len(problems) == 1
    assert message in problems[0]


def test_a_name_that_is_not_utf_8_is_shown_escaped(root: Path, tmp_path: Path) -> None:
    tree = small_tree(root, tmp_path, "lora")
    with open(os.fsencode(tree / "methods") + b"/\xff\n\x1b.yaml", "w") as file:  # noqa: PTH123 (a name of bytes)
        file.write("id: x\n")
    kb = peftonomy.load(tree)
    problems = [problem for problem in peftonomy.check(kb) if problem.file != "methods/lora.yaml"]
    named = [str(problem) for problem in problems if problem.file.startswith("methods/")]
    assert named
    assert all(line.startswith("methods/\\udcff\\n\\x1b.yaml:1: ") for line in named)


def test_a_pipe_among_the_models_does_not_stop_a_query(root: Path, tmp_path: Path) -> None:
    tree = small_tree(root, tmp_path, "lora")
    os.mkfifo(tree / "backbones" / "models" / "x.yaml")
    kb = peftonomy.load(tree)
    assert kb["lora"].cost("roberta_base").trained > 0
    with pytest.raises(DataError, match=r"backbones/models/x\.yaml: found no regular file"):
        kb["lora"].cost("some/name")


GOOD = "@misc{good, title = {x}}\n"
ENTRIES = {
    "deep": ("title = {" + "{" * 100 + "x" + "}" * 100 + "}}", "found more than 20 nested braces"),
    "open and long": ("title = {" + "x " * 500_000, "found more than 20,000 characters"),
    "open and deep": ("title = {" * 20_000, "found more than 20 nested braces"),
    "commas": ("title = {a}," + " ," * 5000 + "}", "found text that does not parse"),
    "joined": ("title = " + "a # " * 2000 + "a}", "found text that does not parse"),
}


@pytest.mark.parametrize("kind", ENTRIES)
def test_a_hostile_entry_of_the_bibliography_is_refused_alone(kind: str) -> None:
    text, message = ENTRIES[kind]
    found = Bibliography(f"{GOOD}@misc{{bad, {text}\n@misc{{last, title = {{y}}}}\n", "x.bib")
    assert [found["good"].title, found["last"].title] == ["x", "y"]
    [problem] = found.problems()
    assert str(problem) == f"x.bib:2: bad: {message}; expected a BibTeX entry [bibtex]"


def test_blank_lines_cost_no_time_and_macros_are_expanded() -> None:
    text = f'@string{{who = "Somebody"}}\n{GOOD}\n@misc{{last,\n title = {{y}},{15_000 * chr(10)} author = who}}\n'
    found = Bibliography(text, "x.bib")
    assert found["last"].authors == ("Somebody",)
    assert not found.problems()


def test_an_entry_without_a_key_is_reported() -> None:
    found = Bibliography(GOOD + "@misc{\n title = {x}}\n", "x.bib")
    assert [problem.line for problem in found.problems()] == [2]


def test_a_file_with_many_problems_is_not_read_on() -> None:
    with pytest.raises(DataError) as caught:
        parse_yaml("".join(f"a{i}: yes\n" for i in range(20_000)))
    assert len(caught.value.problems) == 100


def test_a_number_beyond_floats_is_refused() -> None:
    with pytest.raises(DataError, match="found 1.0e999; expected a plain number"):
        parse_yaml("a: 1.0e999")


CALLS: dict[str, Callable[[peftonomy.KnowledgeBase], object]] = {
    "load": lambda kb: peftonomy.load("a" * 5000),
    "load null": lambda kb: peftonomy.load("a\0"),
    "check": lambda kb: peftonomy.check(kb, ["a\0"]),
    "check long": lambda kb: peftonomy.check(kb, ["a" * 5000]),
    "model": lambda kb: kb["lora"].cost("./" + "a" * 5000),
    "adapter": lambda kb: kb.adapter("a\0", "gpt2"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_path_in_python_is_refused_in_a_short_line(kb: peftonomy.KnowledgeBase, call: str) -> None:
    with pytest.raises(PeftonomyError) as caught:
        CALLS[call](kb)
    assert len(str(caught.value)) < 400


def test_an_adapters_file_is_named_as_such(kb: peftonomy.KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an adapter_config.json"):
        kb.adapter(tmp_path / "none", "gpt2")

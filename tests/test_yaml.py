"""The strict reader: what YAML 1.1 would twist is refused with its line, and every problem is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftonomy import DataError
from peftonomy.files.documents import MAX_BYTES, load_yaml, parse_yaml


def test_plain_values_and_their_lines() -> None:
    document = parse_yaml("a: 1\nb:\n  - 0.5\n  - 'on'\n  - true\n  - ~\nc: {d: text, e: 1.0e-4}\n")
    assert document.data == {"a": 1, "b": [0.5, "on", True, None], "c": {"d": "text", "e": 1e-4}}
    assert document.line(("b", 1)) == 4
    assert document.line(("c", "e", "nothing", 7)) == 7


REFUSED = [
    ("a: 1\nb: 2\na: 3", "x.yaml:3: a: found the key again; expected each key once; first on line 1 [yaml]"),
    ("on: 1", "x.yaml:1: found the key on; expected a key that YAML 1.1 does not read as true or false [yaml]"),
    ("a: yes", "x.yaml:1: a: found yes; expected true, false or quoted text [yaml]"),
    ("a: Off", "x.yaml:1: a: found Off; expected true, false or quoted text [yaml]"),
    ("a: 1e-4", "x.yaml:1: a: found 1e-4; expected a plain number such as 8, 0.5 or 1.0e-4, or quoted text [yaml]"),
    ("a: 0777", "x.yaml:1: a: found 0777; expected a plain number such as 8, 0.5 or 1.0e-4, or quoted text [yaml]"),
    ("a: 1:30", "x.yaml:1: a: found 1:30; expected a plain number such as 8, 0.5 or 1.0e-4, or quoted text [yaml]"),
    ("a: 1_000", "x.yaml:1: a: found 1_000; expected a plain number such as 8, 0.5 or 1.0e-4, or quoted text [yaml]"),
    ("a: .inf", "x.yaml:1: a: found .inf; expected true, false or quoted text [yaml]"),
    ("a: &x [1]\nb: *x", "x.yaml:1: found an anchor or alias; expected the value written out [yaml]"),
    (
        "a: !!python/object:os.system x",
        "x.yaml:1: found the tag tag:yaml.org,2002:python/object:os.system; expected no tags [yaml]",
    ),
    ("? [a]\n: 1", "x.yaml:1: found a key that is not text; expected a plain key [yaml]"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_yaml(text, "x.yaml")
    assert str(caught.value) == message


def test_tabs_are_named() -> None:
    with pytest.raises(DataError, match=r"x.yaml:2: .*spaces, not tabs"):
        parse_yaml("a:\n\tb: 1\n", "x.yaml")


def test_all_problems_at_once_in_order() -> None:
    with pytest.raises(DataError) as caught:
        parse_yaml("a: yes\nb: 1\nb: 0777\n", "x.yaml")
    assert [p.line for p in caught.value.problems] == [1, 3, 3]


def test_a_billion_laughs_ends_at_the_first_anchor() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(DataError, match="an anchor or alias"):
        parse_yaml(bomb)


def test_depth_size_encoding_and_absence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="deep nesting"):
        parse_yaml("[" * 500 + "]" * 500)
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(DataError, match=r"a.yaml:1: found bytes that are not UTF-8"):
        load_yaml(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(DataError, match="file of at most 1,000,000"):
        load_yaml(path)
    with pytest.raises(DataError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")


def test_two_documents_are_refused() -> None:
    with pytest.raises(DataError, match="<yaml>:2: found another document; expected one document"):
        parse_yaml("a: 1\n---\nb: 2\n")

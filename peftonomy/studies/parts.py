"""The examples of a study: texts or sequences of tokens, with labels, in three fixed splits."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, Problem, UsageError, shown
from ..files.reading import read_lines, read_text

if TYPE_CHECKING:
    from ..schema import design

__all__ = ["SPLITS", "Task", "read_task"]

SPLITS = ("train", "validation", "test")
MOST_BYTES = 200_000_000
WORDNET = ("data.noun", "data.verb")
BRIGHT = 8
"""The least grey value of a bright pixel. White is 16."""
FIRST = "03"
"""The lexicographer file of the top nouns, a class of position and not of meaning."""
SYNSET = re.compile(r"(\d{8}) (\d\d) [nv] .*? \| (.*)")

Example = tuple[str, str | list[int], str]
"""A key, which decides the split; a text or tokens; and a label."""


@dataclass(frozen=True)
class Task:
    """Labelled examples. inputs: texts, or token ids if there is no text. revision: a digest of all examples."""

    name: str
    revision: str
    labels: int
    inputs: dict[str, list[str | list[int]]]
    targets: dict[str, list[int]]

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples in each split."""
        return {split: len(self.targets[split]) for split in SPLITS}

    @property
    def commonest(self) -> float:
        """The accuracy on the test split of the answer that is the most frequent label of the training split."""
        train, test = self.targets["train"], self.targets["test"]
        answer = max(sorted(set(train)), key=train.count)
        return test.count(answer) / len(test)


def read_task(asked: design.Task, folder: Path) -> Task:
    """Read the examples and split them. The split of an example never depends on the other examples' number.

    Raises DataError or UsageError.
    """
    examples = {"wordnet": _wordnet, "digits": _digits, "lines": _lines}[asked.kind](asked, folder)
    ordered = sorted((hashlib.sha256(key.encode()).hexdigest(), key, given, label) for key, given, label in examples)
    held = asked.validation + asked.test
    if len(ordered) <= held:
        raise UsageError(f"the task has {len(ordered):,} examples; validation and test take {held:,}")
    names = sorted({label for *_, label in ordered})
    digest = hashlib.sha256()
    for _, key, given, label in ordered:
        digest.update(f"{key}\t{given}\t{label}\n".encode())
    parts = {
        "test": ordered[: asked.test], "validation": ordered[asked.test : held], "train": ordered[held:],
    }  # fmt: skip
    inputs = {split: [given for _, _, given, _ in part] for split, part in parts.items()}
    number = {name: i for i, name in enumerate(names)}
    targets = {split: [number[label] for *_, label in part] for split, part in parts.items()}
    return Task(asked.kind, digest.hexdigest()[:16], len(names), inputs, targets)


def _wordnet(asked: design.Task, folder: Path) -> Iterable[Example]:
    """Yield the definition of every synset of nouns and verbs, with its lexicographer file (its supersense)."""
    place = folder / os.environ.get("WNSEARCHDIR", asked.folder or "")
    found = 0
    for name in WORDNET:
        path = place / name
        if not path.is_file():
            hint = "install wordnet-base (Debian), or set WNSEARCHDIR to the folder of WordNet's files"
            raise DataError([Problem(str(path), 0, "", "no such file", "a file of WordNet 3.0", hint)])
        for line in read_text(path, str(path), MOST_BYTES).splitlines():
            if (match := SYNSET.match(line)) and match[2] != FIRST:
                found += 1
                yield f"{name}:{match[1]}", match[3].split('; "')[0].strip(), match[2]
    if not found:
        raise DataError([Problem(str(place), 0, "", "no synset", "the files of WordNet 3.0")])


def _digits(asked: design.Task, folder: Path) -> Iterable[Example]:
    """Yield 8 x 8 images as sequences: a first token 0, and a token from 1 to 64 for each bright pixel."""
    from sklearn.datasets import load_digits

    held = load_digits()
    for number, (image, label) in enumerate(zip(held.data, held.target, strict=True)):
        yield f"{number:04}", [0, *(i for i, value in enumerate(image, 1) if value >= BRIGHT)], str(label)


def _lines(asked: design.Task, folder: Path) -> Iterable[Example]:
    """Yield the objects of a file of lines. The text decides the split, so that equal texts stay together."""
    path, seen = folder / (asked.file or ""), set[str]()
    for number, found in read_lines(path, str(path), MOST_BYTES):
        for field in ("text", "label"):
            if not isinstance(found.get(field), str):
                raise DataError([Problem(str(path), number, field, shown(found.get(field)), "text")])
        if found["text"] in seen:
            raise DataError([Problem(str(path), number, "text", "the text again", "each text once")])
        seen.add(found["text"])
        yield found["text"], found["text"], found["label"]


def order(count: int, needed: int, seed: int) -> Sequence[int]:
    """Return the order in which a run sees `needed` of `count` examples. It depends on the seed alone."""
    import numpy as np

    draws, rng = list[int](), np.random.default_rng(seed)
    while len(draws) < needed:
        draws += rng.permutation(count).tolist()
    return draws[:needed]

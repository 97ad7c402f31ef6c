"""Would a test notice? Change one word of an entry, run what checks that entry, and see whether anything fails.

    python -m tests.mutations [METHOD...] [--sample N]

A mutant changes one shape, count, scope, role filter, condition, `trained`, `stored` or `served` of one tensor, or one
word of a combination. It is caught when a rule of the knowledge base, a claim, a closed form or a check of the
behaviour suite rejects it. What survives is printed by name, with the share caught; the exit code is 1 if anything
survives.
"""

from __future__ import annotations

import argparse
import functools
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from peftonomy import Method, PeftonomyError
from peftonomy.conformance import checks, trial
from peftonomy.formula import Formula
from peftonomy.knowledge.claims import quantities
from peftonomy.knowledge.rules import RULES
from peftonomy.schema.combines import Combines
from peftonomy.schema.method import MethodEntry
from peftonomy.schema.tensors import Tensor
from tests.knowledge import KB, another

ELSEWHERE = {
    "site": "layer", "role": "site", "attention": "layer", "mlp": "layer", "layer": "mlp", "model": "layer",
    "weight": "bias", "bias": "weight", "norm": "bias",
}  # fmt: skip
SERVED = {"merged": "kept", "kept": "absent", "absent": "kept"}
STORED = {"values": "none", "none": "values", "bits": "values", "seed": "values", "indices": "none", "shared": "values"}
ORDER = (
    checks.tensors, checks.storing, checks.merging, checks.training, checks.identity, checks.generalising,
    checks.combining,
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """An entry with one thing changed."""

    method: str
    tensor: str
    change: str
    entry: MethodEntry

    def __str__(self) -> str:
        return f"{self.method}: {self.tensor}: {self.change}"


def mutants(method: Method) -> Iterator[Mutant]:
    """Every mutant of one entry."""
    for name, tensor in method.entry.tensors.items():
        for change, fields in _changes(tensor, method.entry):
            changed = tensor.model_copy(update=fields)
            tensors = method.entry.tensors | {name: changed}
            yield Mutant(method.id, name, change, method.entry.model_copy(update={"tensors": tensors}))
    if method.entry.combines is not None:
        for change, combines in _combinations(method.entry.combines):
            yield Mutant(method.id, "combines", change, method.entry.model_copy(update={"combines": combines}))


def _combinations(combines: Combines) -> Iterator[tuple[str, Combines]]:
    yield "one input more", combines.model_copy(update={"inputs": Formula.parse(f"({combines.inputs.source}) + 1")})
    if combines.sum is not None:
        other = "approximate" if combines.sum == "exact" else "exact"
        yield f"sum {other}", combines.model_copy(update={"sum": other})
    yield "no sum" if combines.sum else "a sum", combines.model_copy(update={"sum": None if combines.sum else "exact"})
    for i, one in enumerate(combines.passes):
        for field in ("temporary", "together"):
            more = one.model_copy(update={field: Formula.parse(f"({getattr(one, field).source}) + 1")})
            passes = [*combines.passes[:i], more, *combines.passes[i + 1 :]]
            yield f"passes[{i}].{field} + 1", combines.model_copy(update={"passes": passes})


def _changes(tensor: Tensor, entry: MethodEntry) -> Iterator[tuple[str, dict[str, Any]]]:
    for i, size in enumerate(tensor.shape or []):
        sizes = [*(tensor.shape or [])]
        sizes[i] = Formula.parse(f"({size.source}) + 1")
        yield f"shape[{i}] + 1", {"shape": sizes}
    if tensor.count is not None:
        yield "count + 1", {"count": Formula.parse(f"({tensor.count.source}) + 1")}
    if not tensor.selecting:
        yield "one copy more", {"copies": Formula.parse(f"({tensor.copies.source}) + 1")}
    yield f"per {ELSEWHERE[tensor.per]}", {"per": ELSEWHERE[tensor.per]}
    yield from _filters(tensor, entry)
    if tensor.if_ is not None:
        parts = tensor.if_.conjuncts()
        for i, part in enumerate(parts):
            rest = " and ".join(f"({other.source})" for other in [*parts[:i], *parts[i + 1 :]])
            yield f"if {part.source} dropped", {"if_": Formula.parse(rest) if rest else None}
            both = f"not ({part.source})" + (f" and {rest}" if rest else "")
            yield f"if {part.source} negated", {"if_": Formula.parse(both)}
    moved = tensor.trained is True
    yield f"trained {str(not moved).lower()}", {"trained": not moved}
    yield f"served {SERVED[tensor.served]}", {"served": SERVED[tensor.served]}
    for i, part in enumerate(tensor.stored):
        other = part.model_copy(update={"as_": STORED[part.as_], "count": None, "across": None})
        yield f"stored as {STORED[part.as_]}", {"stored": [*tensor.stored[:i], other, *tensor.stored[i + 1 :]]}


def _filters(tensor: Tensor, entry: MethodEntry) -> Iterator[tuple[str, dict[str, Any]]]:
    if tensor.roles is not None:
        yield "roles dropped", {"roles": None}
        if len(tensor.roles) > 1:
            yield f"role {tensor.roles[-1]} dropped", {"roles": tensor.roles[:-1]}
    elif tensor.per == "site" and entry.targets is not None and len(entry.targets.default) > 1:
        yield "one role only", {"roles": entry.targets.default[:1]}
    elif tensor.per == "attention":
        yield "cross attention only", {"roles": ["xattn"]}
    elif tensor.per == "weight":
        yield "embeddings only", {"roles": ["embed.*"]}


def caught(mutant: Mutant) -> str:
    """What rejects the mutant; nothing if it survives."""
    kb = another()
    method = Method(kb, mutant.entry, trial.KB[mutant.method].document)
    kb.methods.held[mutant.method] = method
    with patch.object(trial, "KB", kb), patch.object(checks, "KB", kb):
        return next(iter(_rejections(method)), "")


def _rejections(method: Method) -> Iterator[str]:
    try:
        MethodEntry.model_validate(method.entry.model_dump(by_alias=True))
    except ValueError:
        yield "schema"
    for rule in RULES:
        try:
            if list(rule.check(method)):
                yield f"rule {rule.name}"
        except PeftonomyError:
            yield f"rule {rule.name}"
    if not _closed_forms_hold(method):
        yield "closed form"
    for check in ORDER:
        for family in _families(method.id):
            try:
                for one in [*trial.trials(method.id, family), *map(replace, _settings(method.id, family))]:
                    check(one)
            except AssertionError:
                yield f"{check.__name__} on {family}"
            except PeftonomyError:
                # Nothing to act on: an error only where the entry as it stands has something to act on.
                if _acts_on(method.id, family):
                    yield f"nothing to act on in {family}"
            except (ValueError, RuntimeError) as error:
                yield f"{type(error).__name__} of the implementation on {family}"


@functools.cache
def _families(method: str) -> list[str]:
    """Return the families on which the entry as it stands is verified."""
    with patch.object(trial, "KB", KB):
        return trial.homes(method)


@functools.cache
def _settings(method: str, family: str) -> list[trial.Trial]:
    """Return the further settings that the entry as it stands asks for: a mutant may have lost the condition."""
    with patch.object(trial, "KB", KB):
        return trial.trials(method, family)[2:]


def _acts_on(method: str, family: str) -> bool:
    backbone, task, labels = trial.layout(family)
    try:
        KB[method].cost(backbone, task=task, num_labels=labels)
    except PeftonomyError:
        return False
    return True


def _closed_forms_hold(method: Method) -> bool:
    for closed in method.entry.closed_forms:
        for model in method.kb.models:
            if closed.families and method.kb.models[model].family.model_type not in closed.families:
                continue
            try:
                plan = method.plan(model, targets=closed.targets, task=closed.task)
                if len({str(b.dims | {"n_layers": 0}) for b in plan.inventory.blocks}) > 1:
                    continue  # a closed form speaks of one width
                cost = plan.cost(closed.set)
            except PeftonomyError:
                continue
            known = {**plan.common, **cost.hyperparameters}
            assumed = all(condition(known) for condition in closed.assumes)
            if assumed and closed.formula(known) != closed.quantity(quantities(cost)):
                return False
    return True


def survivors(chosen: Iterable[Mutant]) -> list[Mutant]:
    """Those that nothing rejects."""
    return [mutant for mutant in chosen if not caught(mutant)]


def main() -> int:
    """Print what survives, and the share caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="Mutate entries; see what notices.")
    parser.add_argument("methods", nargs="*", metavar="METHOD")
    parser.add_argument("--sample", type=int, metavar="N", help="only N mutants, drawn at random")
    asked = parser.parse_args()
    kb = trial.KB
    chosen = [kb[key] for key in asked.methods or kb]
    rejected = {method.id: why for method in chosen if (why := next(iter(_rejections(method)), ""))}
    if rejected:
        sys.exit("\n".join(f"{key}: rejected without a change: {why}" for key, why in rejected.items()))
    everything = [mutant for method in chosen for mutant in mutants(method)]
    if asked.sample:
        everything = random.Random(0).sample(everything, min(asked.sample, len(everything)))
    alive = 0
    for number, mutant in enumerate(everything, 1):
        if not caught(mutant):
            alive += 1
            print(mutant, flush=True)
        if sys.stderr.isatty():
            print(f"\r{number}/{len(everything)}", end="", file=sys.stderr)
    print(f"{len(everything) - alive} of {len(everything)} mutants caught ({1 - alive / len(everything):.1%})")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main())

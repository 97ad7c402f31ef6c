"""The data of the guided choice and of the comparison in words, for the scripts that mirror `knowledge`.

`site/assets/chooser.js` mirrors `knowledge.choose`, `site/assets/mechanism.js` mirrors `knowledge.mechanism`.
"""

from __future__ import annotations

import json
from typing import Any

from ..costs.plan import BYTES
from ..knowledge import choose
from ..knowledge.base import KnowledgeBase, Method
from ..knowledge.mechanism import Trait, aspects, traits
from ..libraries import script as code
from ..libraries.loading import PLACEHOLDER
from ..memory import gpus
from ..memory.fit import NUMBERS
from ..schema.evidence import Study
from ..schema.results import Results
from ..schema.taxonomy import Facet
from ..studies.own import arms
from ._site import Site

__all__ = ["otherwise", "script"]

CALLS = {"name", "package", "usage", "half", "report", "trainer", "save"}
"""The fields of a library from which a program is written."""


def script(site: Site) -> str:
    """Return the text of `assets/choices.js`."""
    kb = site.kb
    kinds = {
        key: kb.models[study.model].family.kind
        for key, study in kb.studies.items() if study.model is not None and study.model in kb.models
    }  # fmt: skip
    widths = {bytes_: name for name, bytes_ in reversed(BYTES.items())}
    records: dict[str, Any] = {
        "gpus": [g.model_dump(include={"name", "aliases", "mib", "how"}) for g in kb.gpus],
        "brands": sorted(gpus.BRANDS), "units": gpus.UNITS,
        "classes": {
            key: {name: task.class_ for name, task in family.tasks.items()} for key, family in kb.families.items()
        },
        "wishes": {
            key: one.wish.model_dump() | {"meaning": one.meaning, "methods": kb.stored_list(key).ids}
            for key, one in kb.taxonomy.lists.items() if one.wish is not None
        },
        "libraries": {key: choose.libraries(method) for key, method in kb.items()},
        "names": {key: site.library(key) for key in sorted({n for m in kb.values() for n in choose.libraries(m)})}
        | {key: one.name for key, one in kb.trainers.items()},
        "studies": {key: _study(kb.studies[key], kinds[key]) for key in kinds},
        "evidence": {key: _runs(site, key) for key in kinds},
        "ours": [_ours(kb, study) for study in kb.results.values()],
        "use": {key: choose.use(method) for key, method in kb.items()},
        "untrainable": {
            key: refused for key, method in kb.items() if (refused := choose.untrainable(method))
        },
        "whole": {key: names for key, method in kb.items() if (names := _whole(method))},
        "otherwise": [key for key, method in kb.items() if otherwise(method)],
        "apart": {key: found for key, method in kb.items() if (found := _apart(method))},
        "priorities": choose.PRIORITIES, "relaxations": choose.RELAXATIONS, "widths": widths, "peft": choose.peft(kb),
        "numbers": NUMBERS, "coded": choose.CODED,
        "code": {
            "types": code.TYPES, "optimizers": code.OPTIMIZERS, "quantized": code.QUANTIZED,
            "placeholder": PLACEHOLDER, "half": code.HALF, "dataset": code.DATASET,
            "libraries": {one.id: one.model_dump(include=CALLS) for one in choose.coded(kb)},
        },
        "aspects": {
            key: facet.model_dump(mode="json", include={"name", "meaning", "phrase", "phrases", "weight", "multiple"})
            | {"values": facet.meanings()}
            for key, facet in aspects(kb).items()
        },
        "roles": kb.taxonomy.roles,
        "traits": {
            key: {name: _trait(aspects(kb)[name], trait) for name, trait in traits(method).items()}
            for key, method in kb.items()
        },
    }  # fmt: skip
    text = json.dumps(records, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return f'"use strict";\npeft.cards = {{}};\npeft.choices = {text};\n'


def _study(study: Study, kind: str) -> dict[str, Any]:
    """Return what the page says about a published comparison. kind: of its model."""
    metric = next(iter(study.metrics.values()))
    return {
        "name": study.name, "kind": kind, "model": study.model_name, "limits": study.limits, "metric": metric.name,
        "better": metric.better, "share": metric.unit == "share",
    }  # fmt: skip


def _runs(site: Site, study: str) -> dict[str, Any]:
    """Return the best run of each method in a study."""
    return {
        method: {"study": run.study, "run": run.run, "metric": run.metric, "value": run.value, "trained": run.trained}
        for method, run in choose.best_runs(site.kb, study).items()
    }


def _ours(kb: KnowledgeBase, study: Results) -> dict[str, Any]:
    """Return one of our own studies, and each method's arm in it."""
    shown = {"value", "low", "high", "group"}
    return {
        "study": study.study, "kind": study.kind, "task": study.task, "about": study.about, "metric": study.metric,
        "groups": study.groups, "finished": len(study.results), "arms": arms(kb, study),
        "methods": {method: one.model_dump(include=shown) for method, one in study.at_defaults().items()},
    }  # fmt: skip


def otherwise(method: Method) -> bool:
    """Return whether peft's count of trained parameters is another formula, and not ours with an addition."""
    found = method.entry.implementations.get(str(choose.peft(method.kb)))
    return found is not None and found.trained is not None and "trained" not in found.trained.names


def _apart(method: Method) -> dict[str, str]:
    """Return the tensors whose modules peft names in an argument of their own, each with the argument."""
    found = method.entry.implementations.get(str(choose.peft(method.kb)))
    return {} if found is None else dict(found.apart)


def _whole(method: Method) -> list[str]:
    """Return the arguments of the method's configuration in peft whose defaults are whole numbers."""
    library = method.kb.libraries.get(str(choose.peft(method.kb)))
    found = method.entry.implementations.get(library.id) if library is not None else None
    if library is None or found is None or found.type is None:
        return []
    defaults = library.defaults(found.type)
    return [name for name in found.rename.values() if type(defaults.get(name)) is int]


def _trait(facet: Facet, trait: Trait) -> list[Any]:
    """Return the values of a trait, and its sentence and key where these do not follow from the values."""
    plain = (facet.said(trait.values), facet.said(sorted(trait.values))) == (trait.phrase, trait.key)
    return [trait.values] if plain else [trait.values, trait.phrase, trait.key]

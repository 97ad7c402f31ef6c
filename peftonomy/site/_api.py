"""JSON API, version 1: plain files beside the pages, without timestamps, equal in every build of one commit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..errors import UsageError
from ..knowledge.base import KnowledgeBase, Method
from ..knowledge.evidence import facts, tally
from ..studies.own import arms
from . import _surveys
from ._schemas import SCHEMAS, schema

__all__ = ["FILES", "ROOT", "SCHEMA_VERSION", "files", "method_record"]

SCHEMA_VERSION = "1.0"
ROOT = "api/v1/"
FILES = {
    "index.json": "Every method and model with name, summary and address.",
    "all.json": "Every method as in its own file, in one file.",
    "methods/<id>.json": "One entry with all its fields, its relations, and its cost on the example models.",
    "models/<id>.json": "One model: its config, dimensions, and every parameter by module.",
    "lists/<id>.json": "One saved query: its condition and the matching methods.",
    "surveys.json": "The trees of other surveys, with the class of each method.",
    "experiments.json": "Counts of the survey that others quote: configuration, our number, verdict and reason.",
    "deviations.json": "Differences between libraries and methods: the effect, the reason, the source.",
    "support.json": "Methods in libraries and trainers: names, settings, first releases, kinds of base models.",
    "combinations.json": "Which weighted sums of adapters and which conversions to LoRA are exact in a library.",
    "serving.json": "Methods at serving: mergeable, swappable, batched with others, and each engine's answer.",
    "evidence.json": "Published training runs of methods: the studies, and each run with its setting and results.",
    "results.json": "Results of our own studies: each finished arm with its interval, group, costs and command.",
    "categories.json": "The category tree with definitions and the methods in each category.",
    "vocabulary.json": "Facets, relation types and module roles with their meanings.",
    "graph.json": "Categories, methods and papers as nodes, typed relations as edges.",
    "references.json": "Every source with its fields and BibTeX.",
    "schema/<kind>.json": "JSON Schema of an entry, of a cost, and of each kind of file above.",
}


def files(kb: KnowledgeBase, examples: list[str], survey: str) -> dict[str, str]:
    """Return every file of the API by its path.

    examples: the models for a method's costs. survey: the source whose experiments are recomputed.
    """
    answers: dict[str, Any] = {
        "index.json": _index(kb),
        "categories.json": {"categories": [_category(kb, node) for node in kb.taxonomy.tree]},
        "vocabulary.json": {
            "facets": {k: f.model_dump(mode="json") for k, f in kb.taxonomy.facets.items()},
            "derived": {k: f.model_dump(mode="json") for k, f in kb.taxonomy.derived.items()},
            "relations": {k: r.model_dump(mode="json") for k, r in kb.taxonomy.relations.items()},
            "roles": kb.taxonomy.roles,
        },
        "surveys.json": {"surveys": list(_surveyed(kb)), "filed": _surveys.crosswalk(kb)},
        "experiments.json": {"survey": survey, "experiments": _surveys.experiments(kb, survey)},
        "deviations.json": {"deviations": list(kb.deviations)},
        "support.json": {"support": list(kb.support)},
        "combinations.json": _combinations(kb),
        "serving.json": {"serving": list(kb.serving)},
        "evidence.json": {
            "studies": {key: study.model_dump(mode="json") for key, study in kb.studies.items()},
            "runs": [run.model_dump(mode="json") for run in kb.evidence],
        },
        "results.json": {
            "studies": {
                key: study.model_dump(mode="json")
                | {"arms": arms(kb, study), "results": [study.told(one) for one in study.results]}
                for key, study in kb.results.items()
            },
        },
        "graph.json": kb.graph.to_dict(),
        "references.json": {"references": [_reference(kb, key) for key in kb.references]},
    }
    records = {m: method_record(kb[m], examples) for m in kb}
    answers["all.json"] = {"methods": list(records.values())}
    answers |= {f"methods/{m}.json": {"method": record} for m, record in records.items()}
    answers |= {f"lists/{key}.json": {"list": _list(kb, key)} for key in kb.taxonomy.lists}
    answers |= {f"models/{m}.json": {"model": _model(kb, m)} for m in kb.models}
    answers |= {f"schema/{kind}.json": schema(kind) for kind in SCHEMAS}
    return {ROOT + path: _text(path, answer) for path, answer in answers.items()}


def _text(path: str, answer: dict[str, Any]) -> str:
    head = {} if path.startswith("schema/") else {"schema_version": SCHEMA_VERSION}
    # Without indentation the files have a third of the bytes and json uses its fast encoder.
    return json.dumps(head | answer, ensure_ascii=False) + "\n"


def _index(kb: KnowledgeBase) -> dict[str, Any]:
    methods = [
        {
            "id": m.id, "name": m.name, "full_name": m.entry.full_name, "aliases": m.entry.aliases, "year": m.year,
            "category": m.category, "facets": m.entry.facets, "summary": m.entry.summary,
            "href": f"methods/{m.id}.json",
        }
        for m in kb.values()
    ]  # fmt: skip
    models = [
        {"id": k, "name": m.name, "family": m.family.model_type, "parameters": m.parameters, "href": f"models/{k}.json"}
        for k, m in kb.models.items()
    ]
    lists = [{"id": k, "name": s.name, "href": f"lists/{k}.json"} for k, s in kb.taxonomy.lists.items()]
    return {"methods": methods, "models": models, "lists": lists, "files": FILES}


def _combinations(kb: KnowledgeBase) -> dict[str, Any]:
    found = kb.combinations
    return {"combinations": None if found is None else found.model_dump(mode="json")}


def _list(kb: KnowledgeBase, key: str) -> dict[str, Any]:
    return {"id": key, **kb.taxonomy.lists[key].model_dump(mode="json"), "methods": kb.stored_list(key).ids}


def _surveyed(kb: KnowledgeBase) -> Iterator[dict[str, Any]]:
    for key, survey in kb.taxonomy.surveys.items():
        head = survey.model_dump(mode="json", include={"name", "source", "note"})
        yield {"id": key, **head, "tree": list(_surveys.tree(survey.tree))}


def _category(kb: KnowledgeBase, node: Any) -> dict[str, Any]:
    return {
        "id": node.id, "name": node.name, "definition": node.definition, "source": node.source,
        "methods": [m.id for m in kb.values() if m.category == node.id],
        "children": [_category(kb, child) for child in node.children],
    }  # fmt: skip


def method_record(method: Method, examples: list[str]) -> dict[str, Any]:
    """Return the whole entry as plain data, with derived values."""
    record = method.record()
    known = facts(method)
    listed = [{"field": fact.field, "level": fact.level, "by": fact.by} for fact in known]
    record["evidence"] = {"counts": tally(known), "facts": listed}
    record["measured"] = [run.model_dump(mode="json") for run in method.evidence]
    record["known_rates"] = list(method.learning_rates)
    record["results"] = [study.told(one) for study in method.kb.results.values() for one in study.of(method.id)]
    record["related"] = method.kb.graph.related(method.id)
    record["costs"] = [c for m in examples if (c := _cost(method, m)) is not None]
    return record


def _cost(method: Method, model: str) -> dict[str, Any] | None:
    try:
        return method.cost(model).to_dict()
    except UsageError:  # the method has no targets in this model
        return None


def _model(kb: KnowledgeBase, key: str) -> dict[str, Any]:
    model = kb.models[key]
    inventory = model.inventory()
    modules = [
        {
            "path": m.path, "role": m.role, "stack": m.stack, "layers": list(m.layers), "kind": m.kind,
            "parameters": {suffix: list(shape) for suffix, shape in m.parameters},
            "slices": [{"role": r, "start": a, "stop": b} for r, a, b in m.slices],
            "head": m.head, "pretrained": m.pretrained,
        }
        for m in inventory.modules
    ]  # fmt: skip
    return {
        "id": key, "name": model.name, "family": model.family.model_type, "kind": model.family.kind,
        "source": model.source, "config": model.config, "dims": inventory.dims, "parameters": model.parameters,
        "default_task": model.default_task, "tasks": list(model.tasks), "modules": modules,
    }  # fmt: skip


def _reference(kb: KnowledgeBase, key: str) -> dict[str, Any]:
    found = kb.references[key]
    return {
        "key": key, "title": found.title, "authors": list(found.authors), "year": found.year, "venue": found.venue,
        "arxiv": found.arxiv, "url": found.url, "read": found.read, "bibtex": found.bibtex,
    }  # fmt: skip

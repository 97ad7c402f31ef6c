"""The skeletons that `peftonomy new` writes: an entry, its module, and its BibTeX record.

The entry's skeleton is generated from the pydantic models, field by field with their documentation, so both always
agree. A required field has a placeholder, and an optional one is a comment. `peftonomy check` rejects any remaining
TODO.
"""

from __future__ import annotations

import datetime
import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..errors import UnknownName, UsageError, shown
from ..schema.claims import Claim, ClosedForm, Share
from ..schema.combines import Combines
from ..schema.described import description
from ..schema.implementations import Basis, Deviation, Implementation, Pitfall, Relation
from ..schema.memory import Memory
from ..schema.method import Meaning, MethodEntry
from ..schema.rates import LearningRate
from ..schema.tensors import BaseStorage, Hyperparameter, Include, Properties, Targets, Tensor

if TYPE_CHECKING:
    from ..catalogue.records import Records

__all__ = ["scaffold"]

TODO, WORD = "TODO", "todo"
"""The placeholders for a text, and for a word or key from a fixed set. `check` rejects both."""
ID = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
KEY = r"[a-z][a-z0-9_]*"
EXAMPLES: dict[type[BaseModel], tuple[str, dict[str, str]]] = {
    Hyperparameter: ("r", {"type": "int", "domain": '"r >= 1"', "default": "8"}),
    Meaning: ("A", {"means": TODO, "tensors": "[A]"}),
    Targets: ("", {"default": "[attn.q, attn.v]", "allowed": '["attn.*", "mlp.*"]'}),
    Tensor: ("A", {"shape": '["r", "d_in"]', "init": "normal(0.02)", "trained": "true", "stored": "values"}),
    Properties: ("", {}),
    Include: ("", {}),
    BaseStorage: ("codes", {"count": '"numel"', "bits": "4"}),
    Combines: (
        "",
        {
            "method": TODO,
            "inputs": "2",
            "sum": "exact",
            "passes": "[{per: weight, temporary: numel * width}]",
        },
    ),
    Memory: ("", {"operations": "[{per: site, like: low_rank}]"}),
    ClosedForm: ("", {"quantity": "trained", "formula": '"n_sites * r"'}),
    Claim: ("", {"quantity": "trained", "reported": '"37.7M"'}),
    LearningRate: ("", {"values": "[0.0001]"}),
    Share: ("", {"quantity": '"trained / backbone"', "between": "[0.001, 0.002]", "model": TODO}),
    Relation: ("", {}),
    Pitfall: ("", {}),
    Implementation: ("hf_peft", {"symbol": TODO, "source": TODO}),
    Deviation: ("", {}),
    Basis: ("", {}),
}
"""For each nested record: the key of an example in a mapping, and field values that cannot be derived."""


def scaffold(
    kb: Records[Any],
    id: str,  # noqa: A002
    *,
    category: str | None = None,
    year: int | None = None,
    source: str | None = None,
) -> dict[Path, str]:
    """Return the files of a new method with their text.

    Raises UsageError for an id that is taken or malformed, for an unknown category, and outside of a checkout.
    """
    year = year or datetime.date.today().year
    category = category or WORD
    source = source or f"author{year}{id.replace('_', '')}"
    entry, module = kb.root / "methods" / f"{id}.yaml", kb.root / "reference_impls" / f"{id}.py"
    bibliography = kb.root / "taxonomy" / "references.bib"
    if not re.fullmatch(ID, id) or keyword.iskeyword(id):
        raise UsageError(f"{shown(id)!r} is not an id; expected snake_case such as my_method")
    if not re.fullmatch(KEY, source):
        raise UsageError(f"{shown(source)!r} is not a BibTeX key; expected author2026word")
    if category not in (WORD, *kb.taxonomy.categories):
        raise UnknownName("category", category, kb.taxonomy.categories)
    if not module.parent.is_dir():
        raise UsageError(f"a new method needs a checkout; {kb.root} has no reference_impls/")
    for path in (entry, module):
        if path.exists():
            raise UsageError(f"{kb.shown(path)} exists already")
    facets = {name: list(facet.values) for name, facet in kb.taxonomy.facets.items()}
    known = {"id": id, "name": TODO, "year": str(year), "category": category, "source": source}
    files = {entry: entry_skeleton(known, facets), module: module_skeleton(source)}
    if source not in kb.references:
        files[bibliography] = kb.references.text.rstrip("\n") + "\n" + bibtex_stub(source, year)
    return files


def entry_skeleton(known: Mapping[str, str], facets: Mapping[str, Sequence[str]]) -> str:
    """Return `methods/<id>.yaml` with the `known` fields filled in.

    `facets` lists the possible values of each facet.
    """
    known = {
        **known,
        "facets": "{" + ", ".join(f"{name}: {WORD}" for name in facets) + "}",
        "update": r"'h = W_0 x + \text{TODO}'",
        "summary": "TODO in one plain sentence.",
    }
    helps = {"facets": [f"  {name}: {' | '.join(words)}" for name, words in facets.items()]}
    fields = MethodEntry.model_fields.items()
    return "".join(_field(name, field, known, helps.get(name, [])) for name, field in fields)


def _field(name: str, field: FieldInfo, known: Mapping[str, str], more: Sequence[str]) -> str:
    """Return one field of the entry: its documentation, then its line or lines."""
    models = list(_models(field.annotation))
    wanted = field.is_required() or name in ("hyperparameters", "targets", "tensors")
    about = textwrap.wrap(_sentence(MethodEntry, name), 98) + list(more)
    if models:
        about += [f"  {line}" for line in _fields_help(models[0])]
        body = _example(name, field, models[0])
    elif name == "description":
        body = ["description: |", "  TODO"]
    else:
        body = [f"{name}: {known.get(name) or ('[]' if get_origin(field.annotation) is list else TODO)}"]
    lines = [f"# {line}" for line in about] + (body if wanted else [f"# {line}" for line in body])
    return "\n".join(["", *lines] if about or not wanted else lines) + "\n"


def _example(name: str, field: FieldInfo, model: type[BaseModel]) -> list[str]:
    """Return a nested record as an entry writes it: in flow style, one line each."""
    record, key = _flow(model), EXAMPLES[model][0]
    if key:
        return [f"{name}:", f"  {key}: {record}"]
    return [f"{name}:", f"  - {record}"] if get_origin(field.annotation) is list else [f"{name}: {record}"]


def _flow(model: type[BaseModel]) -> str:
    """Return `{field: placeholder, ...}` with the required fields and those of the example."""
    given = EXAMPLES[model][1]
    parts = {
        field.alias or name: given.get(name) or (WORD if name == "source" else _placeholder(field.annotation))
        for name, field in model.model_fields.items()
        if field.is_required() or name in given
    }
    return "{" + ", ".join(f"{k}: {v}" for k, v in parts.items()) + "}"


def _placeholder(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return str(get_args(annotation)[0])
    return "[]" if get_origin(annotation) is list else TODO


def _fields_help(model: type[BaseModel]) -> Iterator[str]:
    """Yield one line for each field of a nested record: its allowed words, and its meaning."""
    for name, field in model.model_fields.items():
        words = " | ".join(map(str, _choices(field.annotation)))
        head = f"{field.alias or name}{'' if field.is_required() else '?'}: "
        text = "; ".join(p for p in (words, _sentence(model, name)) if p)
        if text:
            yield from textwrap.wrap(head + text, 96, subsequent_indent="  ")


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for inner in get_args(annotation):
        yield from _choices(inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _sentence(model: type[BaseModel], name: str) -> str:
    return " ".join((description(model, name) or "").split())


def module_skeleton(source: str) -> str:
    """Return the text of `reference_impls/<id>.py`: a correction that starts at zero and can be merged."""
    return f'''"""TODO: the paper's title ({source}#TODO).

    h = W_0 x + TODO

Trained: A (r, d_in) and B (d_out, r) beside every targeted weight. At inference: TODO. Differs from TODO in
TODO.
"""

import torch
from torch import Tensor, nn

from . import _kit as kit


class Correction(kit.Child):
    """The correction of one weight of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, r: int):
        super().__init__()
        self.A = nn.Parameter(torch.randn(r, d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y + x @ self.A.T @ self.B.T                          # (..., d_in) -> (..., d_out)

    def delta(self) -> Tensor:
        return self.B @ self.A                                      # (d_out, d_in)


def apply(
    model: nn.Module, *, r: int = 8, targets: tuple[str, ...] = ("attn.q", "attn.v"), name: str = "TODO",
) -> nn.Module:
    """TODO: what it does to the model, in a sentence."""
    kit.freeze(model)
    for site in kit.sites(model, targets):
        kit.attach(site, name, Correction(site.d_in, site.d_out, r=r))
    return model


# TODO: remove `merge` if the method cannot be merged exactly.
# CONTRIBUTING.md lists the other functions that a module may define.
def merge(model: nn.Module) -> nn.Module:
    """Add the corrections to the weights."""
    return kit.fold(model, "TODO")
'''


def bibtex_stub(source: str, year: int) -> str:
    """Return a record for `taxonomy/references.bib`; `read` lists the texts that we opened."""
    return f"""
@article{{{source},
  title   = {{TODO}},
  author  = {{TODO}},
  year    = {{{year}}},
  journal = {{TODO}},
  eprint  = {{TODO}},
  read    = {{none}},
}}
"""

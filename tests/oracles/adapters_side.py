"""Runs in the environment of AdapterHub's library, which pins another transformers: no module of ours is at hand here.

    python adapters_side.py REQUEST ANSWER
    python adapters_side.py FIELDS

The last prints the library's configuration classes with their fields. The others are files of torch.save. The request
is a list of cases: which model (class and sizes), which configuration of
the library (class and arguments), and for a comparison of outputs also the weights of the backbone, the library's
tensors by name, and a batch. The answer has for each case what is trained, added and stored, and the outputs, or what
the library says to refuse it.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import typing
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize


def answer(case: dict[str, Any]) -> dict[str, Any]:
    if "load" in case:
        return loaded(case)
    model_class = getattr(transformers, case["model"])
    model = model_class(model_class.config_class(**case["sizes"], attn_implementation="eager")).double().eval()
    if "weights" in case:
        model.load_state_dict(case["weights"])
    own = {id(parameter) for parameter in model.parameters()}
    try:
        adapters.init(model)
        model.add_adapter("a", config=configuration(case["config"], case["arguments"]))
    except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    model.double().train_adapter("a")
    new = [parameter for parameter in model.parameters() if id(parameter) not in own]
    found = {
        "trained": sum(p.numel() for p in new if p.requires_grad),
        "added": sum(p.numel() for p in new),
        "stored": stored(model),
    }
    if "tensors" in case:
        for name, value in case["tensors"].items():
            put(model, name, value)
        with torch.no_grad():
            found["outputs"] = outputs(model.eval(), case["batch"])
    return found


def loaded(case: dict[str, Any]) -> dict[str, Any]:
    """The counts of a configuration as users write it: all that is trained, all parameters, all values in the file."""
    model_class = getattr(transformers, case["model"], None)
    if model_class is None:
        return {"refused": "this transformers has no such class", "model": False}
    model = model_class(model_class.config_class(**case["sizes"]))
    try:
        adapters.init(model)
    except Exception as error:  # whatever the library raises for this class
        return {"refused": f"{type(error).__name__}: {error}", "model": False}
    try:
        model.add_adapter("a", config=case["load"])
        model.train_adapter("a")
        found = {
            "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "total": sum(p.numel() for p in model.parameters()),
        }
        return found | {"stored": stored(model)}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def fields() -> dict[str, Any]:
    """Every configuration class of the library: its architecture, and the types and defaults of its fields."""
    from adapters.configuration import adapter_config as module

    found: dict[str, Any] = {}
    for name, kind in vars(module).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type) and issubclass(kind, module.AdapterConfig):
            hints = typing.get_type_hints(kind)
            found[name] = {"architecture": kind.architecture, "fields": {
                field.name: [str(hints[field.name]), None if absent(field) else default(field)]
                for field in dataclasses.fields(kind) if field.init and field.name != "architecture"}}  # fmt: skip
    return found


def absent(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def configuration(name: str, arguments: dict[str, Any]) -> Any:
    """The configuration of that class; an argument that is a pair is a configuration itself."""
    made = {key: configuration(*value) if isinstance(value, tuple) else value for key, value in arguments.items()}
    return getattr(adapters, name)(**made)


def stored(model: Any) -> int:
    """Numbers in the library's file, those that it names more than once counted once."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_adapter(folder, "a", with_head=False)
        values = torch.load(Path(folder, "pytorch_adapter.bin"), weights_only=True)
    return sum(value.numel() for value in {value.data_ptr(): value for value in values.values()}.values())


def put(model: nn.Module, name: str, value: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if parametrize.is_parametrized(owner, leaf):
        setattr(owner, leaf, value)
    else:
        owner.get_parameter(leaf).data.copy_(value)


def outputs(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits or last hidden states, those of padding too."""
    found = model(**batch)
    values: torch.Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state
    return values


if __name__ == "__main__":
    if sys.argv[1:] == ["FIELDS"]:
        print(json.dumps(fields()))
        sys.exit()
    request, reply = sys.argv[1:]
    torch.save([answer(case) for case in torch.load(request, weights_only=True)], reply)

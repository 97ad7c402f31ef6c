"""Runs in the environment of AdapterHub's library, which pins another transformers: no module of ours is at hand here.

    python adapters_side.py REQUEST ANSWER

Both are files of torch.save. The request is a list of cases: which model (class and sizes), which configuration of
the library (class and arguments), and for a comparison of outputs also the weights of the backbone, the library's
tensors by name, and a batch. The answer has for each case what is trained, added and stored, and the outputs, or what
the library says to refuse it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from torch import nn
from torch.nn.utils import parametrize


def answer(case: dict[str, Any]) -> dict[str, Any]:
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
    request, reply = sys.argv[1:]
    torch.save([answer(case) for case in torch.load(request, weights_only=True)], reply)

"""Unmerged adapters: the launches that `taxonomy/unmerged.yaml` declares are those in peft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from peftonomy.knowledge.check import check

from .cli_kit import Run
from .knowledge import KB
from .test_combinations import configured

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
FILE = KB.unmerged
assert FILE is not None
VIEWS = {"view", "t", "transpose", "expand", "permute", "unsqueeze", "squeeze", "alias", "detach", "slice", "select",
         "_unsafe_view", "as_strided", "unbind", "split", "_reshape_alias", "lift_fresh"}  # fmt: skip
"""Operations that run no kernel."""


class Launches(TorchDispatchMode):
    """Counts the operations that run a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if name not in VIEWS and not name.startswith(("empty", "is_")):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(64, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.lin(x)
        return found


@torch.no_grad()
def launches(config: dict[str, Any], dtype: torch.dtype) -> int:
    """The launches that an adapter adds to a layer for one token."""
    import peft

    model, x = Model().to(dtype), torch.randn(1, 1, 64, dtype=dtype)
    adapted: Any = peft.get_peft_model(model, configured(config)).eval()
    with Launches() as found:
        adapted(x)
    return len(found.names) - 1


@pytest.mark.parametrize("method", FILE.launches)
def test_the_library_launches_these_kernels(method: str) -> None:
    one = FILE.launches[method]
    assert launches(one.config, torch.float32) == one.same
    assert launches(one.config, torch.bfloat16) == one.mixed
    assert KB.adapter({**one.config, "target_modules": ["q_proj"]}, "llama_3_2_1b").method.id == method


def test_the_answer_adds_them_up(run: Run) -> None:
    lora = KB["lora"].on("llama_2_7b", target_modules="all-linear")
    for rank, percent in ((16, 0.61), (64, 2.42)):
        found = lora.serving(r=rank)
        trained = lora.cost(r=rank).trained
        assert (found.unmerged_bytes, found.unmerged_flops) == (2 * trained, 2 * trained)
        assert found.unmerged_launches == 4 * 7 * 32
        own = lora.memory(batch=1, seq=1, r=rank).forward_flops - 2 * trained
        assert 100 * 2 * trained / own == pytest.approx(percent, abs=0.01)
    vectors = KB["ia3"].serving("llama_2_7b")
    assert (vectors.unmerged_flops, vectors.unmerged_launches) == (0, 2 * 3 * 32)
    assert KB["prefix_tuning"].serving("llama_2_7b").unmerged_flops is None
    assert KB["ln_tuning"].serving("llama_2_7b").unmerged_bytes == 0
    assert "8 MiB beside the model" in run("serving lora --model llama_2_7b").out
    assert "8,388,608 operations a token, 256 kernel launches in peft" in run("serving lora --model llama_2_7b").out


def test_every_name_exists() -> None:
    assert [problem for problem in check(KB) if "unmerged" in problem.file or "engines" in problem.file] == []

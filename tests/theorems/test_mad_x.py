"""MAD-X: the invertible adapter inverts, and a language can be exchanged under a task."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import mad_x

pytestmark = pytest.mark.torch
WIDTHS = {"language_bottleneck": 5, "task_bottleneck": 3, "invertible_width": 4}


def adapted(phase: str, seed: int, family: str = "roberta") -> nn.Module:
    torch.manual_seed(seed)
    model = mad_x.apply(tiny.model(family), phase=phase, **WIDTHS)
    for child in kit.attached(model, "mad_x"):
        for parameter in child.parameters():
            parameter.data.normal_(std=0.4)
    return model


def outputs(model: nn.Module, family: str = "roberta") -> Tensor:
    with torch.no_grad():
        return tiny.outputs(model, family)


@pytest.mark.parametrize("d", [6, 9])
def test_the_coupling_inverts_and_keeps_volume(d: int) -> None:
    torch.manual_seed(0)
    coupling = mad_x.Coupling(d, width=3).double()
    for parameter in coupling.parameters():
        parameter.data.normal_()
    x = torch.randn(4, d, dtype=torch.float64)
    assert torch.allclose(coupling.inverse(coupling(x)), x)
    assert torch.allclose(coupling(coupling.inverse(x)), x)
    assert not torch.allclose(coupling(x), x, atol=0.1)
    jacobian = torch.autograd.functional.jacobian(coupling, x[0])
    assert abs(torch.linalg.det(jacobian) - 1) < 1e-9


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_the_inverse_undoes_before_the_output_embedding_what_was_done_at_the_input(family: str) -> None:
    """A model without layers but for the norm: the embeddings go straight to the head."""
    model = adapted("language", 0, family)
    (coupling,) = (m for m in kit.attached(model, "mad_x") if isinstance(m, mad_x.Coupling))
    seen: dict[str, Tensor] = {}
    head = model.get_output_embeddings()  # type: ignore[operator]
    head.register_forward_pre_hook(lambda m, args: seen.update(head=args[0]))
    base = model.base_model.decoder if family == "t5" else model.base_model
    last = getattr(base, "final_layer_norm", getattr(base, "ln_f", getattr(base, "norm", None)))
    last.register_forward_hook(lambda m, args, out: seen.update(last=out))
    base.get_input_embeddings().register_forward_hook(lambda m, args, out: seen.update(embedded=out, ids=args[0]))
    outputs(model, family)
    plain = base.get_input_embeddings().weight[seen["ids"]]
    assert torch.allclose(seen["embedded"], coupling(plain))
    assert torch.allclose(coupling(seen["head"]), seen["last"].to(plain))
    assert not torch.allclose(seen["head"], seen["last"].to(plain), atol=0.1)


def test_a_task_trained_in_one_language_is_used_in_another() -> None:
    english, quechua = adapted("language", 1), adapted("language", 2)
    task = mad_x.swap_language(adapted("task", 3), english)
    before = outputs(task)
    own = {n: p.clone() for n, p in task.named_parameters() if ".T_" in n}
    assert len(own) == 8
    mad_x.swap_language(task, quechua)
    assert not torch.allclose(outputs(task), before, atol=0.1)
    assert all(torch.equal(dict(task.named_parameters())[n], value) for n, value in own.items())
    assert torch.allclose(outputs(mad_x.swap_language(task, english)), before)
    for name, parameter in task.named_parameters():      # without the task it is the language
        if ".T_W_up" in name or ".T_b_up" in name:
            parameter.data.zero_()
    assert torch.allclose(outputs(task), outputs(english))


def test_training_a_task_leaves_its_language_alone() -> None:
    model = adapted("task", 0)
    tiny.loss(model, "roberta").backward()
    reached = {n.rpartition(".")[2][:2] for n, p in model.named_parameters() if p.grad is not None}
    assert reached == {"T_"}

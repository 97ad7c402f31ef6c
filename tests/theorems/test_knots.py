"""KnOTS: the merge does not depend on the basis of a module's outputs, because it brings its own basis."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from peftonomy.conformance.checks import Saved
from peftonomy.conformance.trial import Trial
from reference_impls import _kit as kit
from reference_impls import _simulate, knots, lora, ties_merging

pytestmark = pytest.mark.torch
SETTING = {"tasks": 2, "r": 2, "alpha": 3.0, "keep": 0.5, "scale": 0.8}
TARGETS = ("attn.q",)


def merged(inputs: list[dict[str, Tensor]]) -> list[knots.Knot]:
    model = knots.combine(Trial("knots", "llama", SETTING, TARGETS).applied(), inputs)
    return [knot for _, knot in kit.at_sites(model, "knots", knots.Knot)]


def entrywise(changes: list[list[Tensor]]) -> list[Tensor]:
    """TIES-Merging of the changes themselves."""
    total = {str(i): torch.zeros_like(change) for i, change in enumerate(changes[0])}
    given = [{str(i): change for i, change in enumerate(one)} for one in changes]
    ties_merging.merge_into(total, given, keep=SETTING["keep"], scale=SETTING["scale"])
    return list(total.values())


def test_a_rotation_of_the_outputs_rotates_the_merged_change() -> None:
    trial = Trial("knots", "llama", SETTING, TARGETS)
    models = [trial.of.restored(one) for one in trial.inputs]
    changes = [[child.delta() for _, child in kit.at_sites(m, "lora", lora.LoRA)] for m in models]
    torch.manual_seed(0)
    turn = torch.linalg.qr(torch.randn(len(changes[0][0]), len(changes[0][0]), dtype=torch.float64)).Q
    turned = [{n: turn @ v if n.endswith(".B") else v for n, v in one.items()} for one in trial.inputs]
    found = merged(trial.inputs)
    for knot, other in zip(found, merged(turned), strict=True):
        assert torch.allclose(other.delta(), turn @ knot.delta())
    plain = entrywise(changes)
    after = entrywise([[turn @ change for change in one] for one in changes])
    assert not any(torch.allclose(b, turn @ a, atol=1e-3) for a, b in zip(plain, after, strict=True))
    for i, knot in enumerate(found):
        assert torch.allclose(knot.U.T @ knot.U, torch.eye(4).to(knot.U))
        for one in changes:                                             # the basis spans every change
            assert torch.allclose(knot.U @ (knot.U.T @ one[i]), one[i])
        side = torch.linalg.svd(torch.cat([one[i] for one in changes], 1), full_matrices=False)
        assert torch.allclose(side.U[:, :4].abs(), knot.U.abs())        # the singular vectors, up to their signs


def test_one_lora_of_which_all_is_kept_is_itself() -> None:
    trial = Trial("knots", "llama", {**SETTING, "tasks": 1, "keep": 1.0, "scale": 1.0}, TARGETS)
    model = trial.of.restored(trial.inputs[0])
    wanted = [child.delta() for _, child in kit.at_sites(model, "lora", lora.LoRA)]
    found = [knot.delta() for _, knot in kit.at_sites(trial.make(), "knots", knots.Knot)]
    assert all(torch.allclose(a, b) for a, b in zip(wanted, found, strict=True))


@pytest.mark.parametrize(("role", "tasks", "r"), [("mlp.up", 2, 2), ("mlp.down", 1, 5), ("mlp.down", 3, 1)])
def test_a_basis_takes_the_declared_bytes(role: str, tasks: int, r: int) -> None:
    """The whole combination takes more, in a later pass."""
    trial = Trial("knots", "llama", {**SETTING, "tasks": tasks, "r": r}, (role,))
    model, given = trial.applied(), [Saved(one) for one in trial.inputs]
    site, knot = next(kit.at_sites(model, "knots", knots.Knot))
    declared = trial.entry.combines.passes[0].temporary
    sizes = {"tasks": tasks, "r": r, "d_in": site.d_in, "d_out": site.d_out, "width": 8}
    assert _simulate.taken(model, partial(knot.span, given)) == declared(sizes)

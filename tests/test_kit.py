"""The kit of the reference implementations: what `attach` and `share` do to a live model and its copies."""

from __future__ import annotations

import copy

import pytest

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora, vera

pytestmark = pytest.mark.torch


def test_attach_sets_what_a_child_declares() -> None:
    model = lora.apply(tiny.model("llama"), r=2)
    site, child = next(kit.at_sites(model, "lora", lora.LoRA))
    assert (child.site, child.host, child.attached) == (site, site.module, "lora")
    assert [*child.children()] == [child.dropout], "the host is no submodule of its child"
    assert lora.LoRA(2, 3, r=1, alpha=1.0, dropout=0.0).site is None


def test_a_shared_module_belongs_to_its_host_alone() -> None:
    model = vera.apply(tiny.model("bert"), r=2)
    assert sum(name.endswith("vera.A") for name in model.state_dict()) == 1
    again = copy.deepcopy(model)
    [shared] = [child for child in kit.attached(again, "vera") if isinstance(child, vera.Shared)]
    pairs = zip(kit.at_sites(model, "vera", vera.VeRA), kit.at_sites(again, "vera", vera.VeRA), strict=True)
    for (_, old), (site, new) in pairs:
        assert new.shared is shared, "the copies share the copy"
        assert old.shared is not shared
        assert new.host is site.module is again.get_submodule(site.path)

"""The kit of the reference implementations: what `attach` and `share` do to a live model and its copies."""

from __future__ import annotations

import copy

import pytest

from peftonomy.conformance import tiny
from reference_impls import _kit as kit
from reference_impls import lora, lst, vera

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


def test_the_inventory_is_built_once_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("t5")
    found = kit.inventory(model)
    monkeypatch.setattr(kit.json, "dumps", None)
    assert kit.inventory(model) is found
    lst.apply(model, r=2, drop_every=2)
    monkeypatch.undo()
    assert kit.inventory(copy.deepcopy(model)) is found, "a copy has the same config"


def test_the_inventory_follows_the_config() -> None:
    model = tiny.model("bert")
    before = kit.inventory(model).dims["vocab"]
    model.resize_token_embeddings(before + 3, mean_resizing=False)
    assert kit.inventory(model).dims["vocab"] == before + 3

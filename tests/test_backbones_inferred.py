"""Families that no file describes: inferred from what `transformers` builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from peftonomy.backbones.backbone import Backbone, Inventory
from peftonomy.backbones.modules import LINEAR
from peftonomy.errors import ConfigError, UsageError
from peftonomy.schema.family import load_roles
from peftonomy.schema.names import BY_TEXTS

from .backbones_kit import (
    DATA,
    FAMILIES,
    SUFFIXES,
    TINY,
    built,
    check_line,
    check_modules,
    labels,
    shapes,
)

pytestmark = pytest.mark.torch


# Families that no file describes.


def inferred(model_type: str, config: Mapping[str, Any]) -> Backbone:
    """The backbone as it is where the family of that type is not described."""
    others = {name: family for name, family in FAMILIES.items() if name != model_type}
    return Backbone.from_config({**config, "model_type": model_type}, families=others)


ITS_OWN_EXPERTS = {"mixtral"}
"""What peft knows of the names of experts beyond the table of transformers, so that only the family itself can say."""


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_hidden_family_is_inferred(model_type: str) -> None:
    """Names and shapes, blocks and modules by their names to the last; roles of linear maps are right or `other`."""
    known = Backbone.from_config(TINY[model_type] | {"model_type": model_type}, families=FAMILIES)
    found = inferred(model_type, TINY[model_type])
    tasks = tuple(task for task in known.tasks if task != BY_TEXTS)    # which is not inferred
    default = known.default_task if known.default_task in tasks else tasks[0]
    assert (found.tasks, found.default_task, found.family.kind) == (tasks, default, known.family.kind)
    assert found.parameters == known.parameters
    for task in tasks:
        ours, theirs = found.inventory(task, labels(known, task)), known.inventory(task, labels(known, task))
        assert ours.parameters() == theirs.parameters()
        if model_type != "modernbert":  # whose classifier keeps a part of the pretrained head
            assert ours.head == theirs.head
        assert (found.family.expert_names != known.family.expert_names) == (model_type in ITS_OWN_EXPERTS)
        for suffixes in [*SUFFIXES.get(model_type, []), "all-linear"] if model_type not in ITS_OWN_EXPERTS else []:
            assert targets(ours, suffixes) == targets(theirs, suffixes)
        roles, right = (
            {path: m.role for m in i.modules if m.kind in LINEAR for _, path in m.paths()} for i in (ours, theirs)
        )
        assert roles.keys() == right.keys()
        assert {(roles[path], role) for path, role in right.items() if roles[path] not in (role, "other")} == set()
        assert sum(role == "other" for role in roles.values()) <= len(right) / 3
        assert {r for r in roles.values() if "attn." in r} == {r for r in right.values() if "attn." in r}
        assert ours.dims["d_model"] == theirs.dims["d_model"]
        assert ours.dims["d_embed"] == theirs.dims["d_embed"]
        if model_type not in ("albert", "qwen3_next"):  # of the first, groups become stacks
            assert blocks(ours) == blocks(theirs)


def targets(inventory: Inventory, suffixes: list[str] | str) -> set[str]:
    """The modules that suffixes mean, or why they mean none."""
    try:
        return {path for site in inventory.resolve_suffixes(suffixes) for _, path in site.paths()}
    except UsageError as error:
        return {str(error)}


def blocks(inventory: Inventory) -> list[tuple[str, str, str, tuple[int, ...], int]]:
    return [(b.kind, b.name, b.path, b.layers, b.dims["n_heads"]) for b in inventory.blocks]


UNKNOWN: dict[str, dict[str, Any]] = {
    "mamba": {"vocab_size": 31, "hidden_size": 12, "state_size": 5, "num_hidden_layers": 3},
    "jamba": {
        "vocab_size": 31, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "num_experts": 3, "attn_layer_period": 3, "attn_layer_offset": 1,
        "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "siglip": {
        "text_config": {
            "vocab_size": 31, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
            "num_attention_heads": 3, "max_position_embeddings": 17,
        },
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 22, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 20, "patch_size": 6,
        },
    },
    "convnext": {"hidden_sizes": [4, 6, 8, 10], "depths": [1, 2, 2, 1]},
}  # fmt: skip


@pytest.mark.parametrize("model_type", UNKNOWN)
def test_any_model_of_transformers_is_counted(model_type: str) -> None:
    backbone = inferred(model_type, UNKNOWN[model_type])
    assert set(load_roles(DATA.parent / "taxonomy" / "roles.yaml")) >= {m.role for m in backbone.inventory().modules}
    for task in backbone.tasks:
        inventory = backbone.inventory(task, labels(backbone, task))
        live = built(backbone.family, task, UNKNOWN[model_type])
        assert inventory.parameters() == shapes(live)
        check_modules(inventory, live)


def test_stacks_of_unknown_families_are_told_apart() -> None:
    towers = inferred("siglip", UNKNOWN["siglip"])
    assert towers.layers == {"encoder_1": 2, "encoder_2": 3}
    assert [b.dims["d_model"] for b in towers.inventory().blocks if b.kind == "layer"] == [12, 16]
    assert [b.dims["n_heads"] for b in towers.inventory().blocks if b.kind == "layer"] == [3, 4]
    hybrid = inferred("jamba", UNKNOWN["jamba"]).inventory()
    assert [s.layers for s in hybrid.resolve_roles(["attn.q"])] == [(1, 4)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": "wide"}, "found 'mamba'; expected a config of which transformers builds a model, .*wide"),
        ({"num_hidden_layers": 10**6}, "found 'mamba'; .*more than 10,000 layers"),
    ],
)
def test_what_transformers_cannot_build_is_one_clear_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        inferred("mamba", config)
    check_line(caught.value, "config: ")


def test_without_torch_only_described_families_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"found 'mamba'; expected a family that .* with the torch extra") as caught:
        inferred("mamba", UNKNOWN["mamba"])
    check_line(caught.value, "config: ")

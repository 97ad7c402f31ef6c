"""Files of config.json: what they give, and one clear line for a bad one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from peftonomy.backbones.backbone import Backbone
from peftonomy.errors import ConfigError

from .backbones_kit import (
    BERT,
    FAMILIES,
    LLAMA,
    MODELS,
    TINY,
    altered,
    built,
    check_line,
    shapes,
    tiny,
)

pytestmark = pytest.mark.torch


# Config files.


@pytest.mark.parametrize("model", MODELS)
def test_a_config_that_transformers_wrote_gives_the_same_model(model: str, tmp_path: Path) -> None:
    """Except that T5 and mT5 forget there whether the checkpoint has its own output embedding."""
    backbone = MODELS[model]
    assert backbone.file is not None
    raw = {"model_type": backbone.family.model_type, **backbone.file.config}
    config = transformers.AutoConfig.for_model(**raw)
    if "ties_output" in backbone.config:
        kept = ("tie_word_embeddings", "scale_decoder_outputs")
        written = {name: getattr(config, name) for name in kept if hasattr(config, name)}
        backbone = Backbone.from_config(raw | written, families=FAMILIES)
    config.to_json_file(tmp_path / "full.json", use_diff=False)
    config.to_json_file(tmp_path / "diff.json")
    config.save_pretrained(tmp_path)
    for source in ("full.json", "diff.json", "config.json", ""):  # the last is the folder
        again = Backbone.from_config(str(tmp_path / source), families=FAMILIES)
        assert again.inventory().parameters() == backbone.inventory().parameters()
        assert again.config == backbone.config
    assert Backbone.from_config(config.to_dict(), families=FAMILIES).config == backbone.config


def test_a_null_where_transformers_would_not_take_one() -> None:
    """Older versions read it as "as many as there are heads", whatever the default."""
    assert tiny("mistral", num_key_value_heads=None).dims["n_kv_heads"] == 4
    assert tiny("qwen2", num_key_value_heads=None).dims["n_kv_heads"] == 4


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    """Only the sizes that make a model itself have no default; what is left out means what it means there."""
    family = FAMILIES[model_type]
    needed = {n: TINY[model_type][n] for n, key in family.config.items() if key.default is None}
    needed |= {n: v for n, v in TINY[model_type].items() if n.endswith("_token_id")}  # must be within the vocabulary
    needed |= {n: v for n, v in TINY[model_type].items() if n == "attention_types"}  # one for each layer
    sharing = family.config.get("num_key_value_heads")
    if sharing is not None and sharing.default is not None and sharing.default.literal is not None:
        heads = int(sharing.default.literal)  # more than a tiny model has
        needed |= {"num_attention_heads": heads, "hidden_size": 2 * heads}
    theirs = transformers.AutoConfig.for_model(model_type, **needed)
    ours = Backbone.from_config(needed | {"model_type": model_type}, families=FAMILIES)
    assert Backbone.from_config(theirs.to_dict(), families=FAMILIES).config == ours.config
    assert ours.inventory("none").parameters() == shapes(built(family, "none", needed))


def test_a_default_of_our_own_is_found_out() -> None:
    family = altered("bert", lambda d: d["config"]["type_vocab_size"].update(default=3))
    ours = Backbone.from_config(BERT | {"model_type": "bert"}, families={"bert": family})
    assert ours.inventory().parameters() != shapes(built(family, "none", BERT))


MISSING = object()
BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "missing key": ({"hidden_size": MISSING}, "hidden_size: found nothing; expected a whole number from 1"),
    "null": ({"vocab_size": None}, "vocab_size: found null; expected a whole number"),
    "no model_type": ({"model_type": MISSING}, "model_type: found nothing; expected a family that is described here"),
    "near model_type": ({"model_type": "lama"}, "found 'lama'; expected a family that .*; did you mean llama"),
    "far model_type": ({"model_type": "rumba"}, "found 'rumba'; expected a family that is described here or"),
    "model_type of a wrong type": ({"model_type": ["llama"]}, "model_type: found a list of 1"),
    "text": ({"hidden_size": "24"}, "hidden_size: found '24'; expected a whole number"),
    "float": ({"hidden_size": 24.0}, "hidden_size: found 24.0; expected a whole number"),
    "bool as int": ({"num_hidden_layers": True}, "num_hidden_layers: found true; expected a whole number"),
    "int as bool": ({"tie_word_embeddings": 1}, "tie_word_embeddings: found 1; expected true or false"),
    "list": ({"hidden_size": [24] * 900}, "hidden_size: found a list of 900; expected"),
    "nan": ({"intermediate_size": float("nan")}, "intermediate_size: found nan; expected"),
    "infinite": ({"intermediate_size": float("inf")}, "intermediate_size: found inf; expected"),
    "zero": ({"num_attention_heads": 0}, "num_attention_heads: found 0; expected a whole number from 1"),
    "negative": ({"hidden_size": -24}, "hidden_size: found -24; expected a whole number from 1"),
    "too wide": ({"hidden_size": 10**12}, "hidden_size: found 1000000000000; expected .* to 1,000,000,000"),
    "astronomical": ({"vocab_size": 10**5000}, "vocab_size: found a number beyond 2.*53; expected"),
    "too deep": ({"num_hidden_layers": 10_001}, "num_hidden_layers: found 10,001 layers; expected at most 10,000"),
    "too large": ({"hidden_size": 8 * 10**8, "num_hidden_layers": 9}, "sizes: found .* parameters; expected at most 2"),
    "heads do not divide": ({"hidden_size": 26}, "hidden_size and num_attention_heads: found .*= 26, .*= 4; expected"),
    "layers of their own": ({"per_layer_config": {"0": {"intermediate_size": 5}}}, "per_layer_config: found"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_one_clear_line(case: str) -> None:
    changes, message = BAD_CONFIGS[case]
    raw = {k: v for k, v in (LLAMA | {"model_type": "llama"} | changes).items() if v is not MISSING}
    with pytest.raises(ConfigError, match=message) as caught:
        Backbone.from_config(raw, families=FAMILIES, id="mine")
    check_line(caught.value, "mine: ")

@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [("t5", "feed_forward_proj", 3), ("deberta-v2", "pos_att_type", [1]), ("vit", "image_size", [224]),
     ("qwen2_moe", "mlp_only_layers", [1.0]), ("qwen2_moe", "mlp_only_layers", 1),
     ("qwen3_next", "layer_types", [1] * 5), ("qwen3_next", "layer_types", ["full_attention"]),
     ("smollm3", "no_rope_layers", ["1"] * 5), ("smollm3", "no_rope_layers", [1])],
)  # fmt: skip
def test_a_flag_or_pair_of_a_wrong_type(model_type: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}: found") as caught:
        tiny(model_type, **{key: value})
    check_line(caught.value, "config: ")


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ":1: found Expecting value, column 1; expected valid JSON"),
    "not JSON": (b"model_type: llama\n", ":1: found Expecting value, column 1; expected valid JSON"),
    "cut short": (
        b'{"model_type": "llama",\n "hidden_size": ', ":2: found Expecting value, column 17; expected valid JSON"
    ),
    "not an object": (b"[1, 2]", "found a list of 2; expected a JSON object"),
    "a number": (b"7", "found 7; expected a JSON object"),
    "not text": (b'{"a": "\xff"}', "found bytes that are not UTF-8; expected UTF-8 text"),
    "NaN": (b'{"model_type": "llama", "hidden_size": NaN}', "found NaN, which JSON does not have; expected valid"),
    "twice": (b'{"hidden_size": 8, "hidden_size": 9}', "found the key hidden_size twice; expected valid JSON"),
    "digits": (b'{"hidden_size": ' + b"9" * 5000 + b"}", "expected valid JSON"),
    "deep": (b"[" * 200_000 + b"]" * 200_000, "found deep nesting; expected the few levels of a config.json"),
    "huge": (b'{"a": "' + b"x" * 1_000_000 + b'"}', "found more than 1,000,000 bytes; expected a config.json"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_clear_line(case: str, tmp_path: Path) -> None:
    content, message = BAD_FILES[case]
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        Backbone.from_config(path, families=FAMILIES)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["no/such.json", "/dev/zero", "tests", "x" * 5000, "a\0b"])
def test_a_path_that_is_no_config(path: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a config\.json"):
        Backbone.from_config(path, families=FAMILIES)


ODD_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.integers(0, 40),
    st.lists(st.integers(-1, 99), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_no_config_ends_in_anything_but_a_model_or_our_error(data: st.DataObject) -> None:
    model_type = data.draw(st.sampled_from(sorted(FAMILIES)))
    keys = st.sampled_from([k.key or n for n, k in FAMILIES[model_type].config.items()])
    changes = data.draw(st.dictionaries(keys, ODD_VALUES, max_size=3))
    with contextlib.suppress(ConfigError):
        assert tiny(model_type, **changes).total > 0

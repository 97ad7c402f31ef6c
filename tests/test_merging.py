"""Merging into quantised weights: the prediction against measured merges, adapter files, and the exact cases.

The quantiser is that of `benchmarks.merging`. bitsandbytes, in the environment of other libraries, gives the same, and
merges the exact cases exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.merging import cases, quantised
from peftonomy import DataError, UsageError
from peftonomy.files.safetensors import Tensors
from peftonomy.serving.rounding import FORMATS, gaussian_scale, rounded

from .cli_kit import Run
from .knowledge import KB

RANDOM = np.random.default_rng(5)
OTHERS = Path(os.environ.get("ADAPTERS_PYTHON", Path(__file__).parents[1] / ".venv-adapters/bin/python")).absolute()
THEIRS = """
import sys
import bitsandbytes.functional as theirs
import numpy as np
import torch

given = {name: torch.tensor(value) for name, value in np.load(sys.argv[1]).items()}

def nf4(weight):
    return theirs.dequantize_4bit(*theirs.quantize_4bit(weight, quant_type="nf4", compress_statistics=False))

def int8(weight):
    codes, scales, _ = theirs.int8_vectorwise_quant(weight.half())
    return codes, codes.float() * scales[:, None] / 127

held, (codes, coarse) = nf4(given["weight"]), int8(given["weight"])
found = {"held": held, "again": nf4(held), "codes": codes}
for name in ("rows", "columns"):
    found[name] = nf4(held * given[name])
    found[f"codes_{name}"], _ = int8(coarse * given[name])
np.savez(sys.argv[2], **{name: value.numpy() for name, value in found.items()})
"""
"""Quantise, merge a factor for each row or each column, and quantise again, all with bitsandbytes."""
SIZES = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 64, "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}  # fmt: skip
BASE = KB.backbone(SIZES)
SHAPES = {"self_attn.q_proj": (256, 256), "mlp.down_proj": (256, 512)}
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"],
    "alpha_pattern": {"layers.1.mlp.down_proj": 40},
}  # fmt: skip


def written(path: Path, tensors: dict[str, Any]) -> None:
    """Write a safetensors file: numpy arrays, or pairs of a type and an array of its bits."""
    header, values, start = {}, b"", 0
    for name, value in tensors.items():
        kind, array = value if isinstance(value, tuple) else ("F32", np.asarray(value, "<f4"))
        raw = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, start + len(raw)]}
        start, values = start + len(raw), values + raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + values)


def halved(value: Any) -> tuple[str, Any]:
    """A bfloat16 tensor: the upper half of each number's bits."""
    return "BF16", (np.asarray(value, "<f4").view("<u4") >> 16).astype("<u2")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with a model's config.json and weights, and one with an adapter."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(SIZES), encoding="utf-8")
    weights, factors, random = {}, {}, np.random.default_rng(3)
    for layer in range(2):
        for name, (out, into) in SHAPES.items():
            weights[f"model.layers.{layer}.{name}.weight"] = halved(random.standard_normal((out, into)) * 0.02)
            where = f"base_model.model.model.layers.{layer}.{name}"
            factors[f"{where}.lora_A.weight"] = random.standard_normal((4, into)) * 0.1
            factors[f"{where}.lora_B.weight"] = halved(random.standard_normal((out, 4)) * 0.005)
    written(tmp_path / "base" / "model-00001.safetensors", dict(list(weights.items())[:2]))
    written(tmp_path / "base" / "model-00002.safetensors", dict(list(weights.items())[2:]))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    written(tmp_path / "adapter" / "adapter_model.safetensors", factors)
    return tmp_path


def test_predicted_errors_are_within_a_tenth() -> None:
    found = list(cases(7))
    assert len(found) == 24
    assert [one for one in found if abs(one.difference) >= 0.1] == []
    assert max(abs(one.predicted.kept - one.kept) for one in found) < 0.1


def test_small_updates_vanish_and_large_ones_stay() -> None:
    normal = (gaussian_scale(64),)
    assert normal[0] == pytest.approx(np.abs(RANDOM.standard_normal((20000, 64))).max(1).mean(), rel=0.01)
    kept = [rounded("nf4", normal, 64, rho).kept for rho in np.geomspace(1e-4, 1, 60)]
    assert kept == sorted(kept)
    assert kept[0] == pytest.approx(1 / 64)
    assert kept[-1] > 0.99
    assert [rounded("nf4", normal, 64, rho).verdict for rho in (0.01, 0.08, 0.3)] == ["lost", "partly", "kept"]
    assert rounded("int8", (12.0, 0.001), 512, 1e-3).error > 0


@pytest.mark.parametrize("to", FORMATS)
def test_an_adapter_against_a_real_merge(saved: Path, to: str) -> None:
    found = KB.merge_check(saved / "adapter", BASE, to=to, weights=saved / "base")
    assert len(found.modules) == 4
    held = {n: t for path in (saved / "base").glob("*.safetensors") for t in [Tensors(path)] for n in t.names}
    factors = Tensors(saved / "adapter" / "adapter_model.safetensors")
    for one in found.modules:
        where = f"base_model.model.{one.module}"
        scale = 40 / 4 if one.module == "model.layers.1.mlp.down_proj" else 8 / 4
        b, a = (factors.read(f"{where}.lora_{part}.weight").astype("f8") for part in "BA")
        update = scale * b @ a
        assert one.norm == pytest.approx(np.linalg.norm(update), rel=1e-9)
        key = f"{one.module}.weight"
        weight = held[key].read(key).astype("f8")
        assert one.weight_norm == pytest.approx(np.linalg.norm(weight))
        base = quantised(weight, to)
        change = quantised(base + update, to) - base
        error = np.linalg.norm(change - update) / np.linalg.norm(update)
        assert one.error == pytest.approx(error, rel=0.1)
        assert one.kept == pytest.approx((change * update).sum() / (update * update).sum(), abs=0.1)
    assert sum(found.verdicts.values()) == 4
    assert found.table()[0]["module"] == found.modules[0].module


def test_the_scale_of_rslora_and_no_weights(saved: Path, run: Run) -> None:
    line = f"merge-check {saved}/adapter --model {saved}/base"
    plain = json.loads(run(f"{line} --to nf4 --json").out)
    assert plain["verdicts"] == {}
    assert (plain["lost_below"], plain["kept_above"]) == (0.043, 0.12)
    assert {one["rho"] for one in plain["modules"]} == {None}
    assert "lost below 0.043 times" in run(f"{line} --to nf4").out
    assert "kept: 1 module" in run(f"{line} --to nf4 --weights {saved}/base").out
    config = saved / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(CONFIG | {"use_rslora": True}), encoding="utf-8")
    stable = json.loads(run(f"{line} --to nf4 --json").out)
    assert [b["norm"] / a["norm"] for a, b in zip(plain["modules"], stable["modules"], strict=True)] == [
        pytest.approx(2)
    ] * 4


def test_what_does_not_fit_is_one_line(saved: Path, run: Run) -> None:
    file, line = saved / "adapter" / "adapter_model.safetensors", f"merge-check {saved}/adapter --model {saved}/base"
    sound, name = file.read_bytes(), "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {"A": RANDOM.standard_normal((4, 256)), "B": RANDOM.standard_normal((256, 4))}

    def refused(message: str, error: type[Exception] = DataError, to: str = "nf4", **more: Any) -> None:
        with pytest.raises(error) as raised:
            KB.merge_check(saved / "adapter", BASE, to=to, **more)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)

    refused("give the weights", UsageError, "int8")
    refused("did you mean nf4?", UsageError, "nf5")
    refused("unknown weight", UsageError, weights=saved / "adapter")
    refused("found a folder without a safetensors file", weights=saved)
    for length, content in ((10**9, b"{}"), (2, b"{}"), (4, b"nope"), (9, b'{"a":"b"}')):
        file.write_bytes(length.to_bytes(8, "little") + content)
        refused("a safetensors file")
    overlapping = json.dumps({k: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for k in "ab"}).encode()
    for content in (overlapping + b"1234", overlapping.replace(b"[0, 4]", b"[4, 8]", 1) + b"x" * 12):
        file.write_bytes(len(overlapping).to_bytes(8, "little") + content)
        refused("expected a safetensors file")      # as safetensors refuses it
    for content in (b"", b"1234567", sound[:-1]):
        file.write_bytes(content)
        refused("a safetensors file")
    found = run(f"{line} --to nf4")
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    for tensors, message in (
        ({f"{name}.lora_A.weight": factors["A"]}, "expected lora_A and lora_B"),
        ({f"{name}.lora_A.weight": factors["B"], f"{name}.lora_B.weight": factors["B"]}, "expected (256, 256)"),
        ({f"{name}.lora_magnitude_vector": factors["A"]}, "expected tensors named lora_A.weight and lora_B.weight"),
        ({f"{name[:-6]}k_proj.lora_A.weight": factors["A"]}, "a module that the configuration adapts"),
        ({f"{name}.lora_{k}.weight": v * np.inf for k, v in factors.items()}, "expected finite numbers"),
        ({f"{name}.lora_{k}.weight": ("I32", v.astype("<i4")) for k, v in factors.items()}, "expected one of F64"),
    ):
        written(file, tensors)
        refused(message)
    file.write_bytes(sound)
    config = saved / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(CONFIG | {"alora_invocation_tokens": [1]}), encoding="utf-8")
    refused("does not merge into the weights", UsageError)


# Exact cases


@pytest.mark.parametrize("to", FORMATS)
def test_a_factor_for_each_row_goes_into_the_scales(to: str) -> None:
    """The codes stay and the scales are multiplied. A factor for each input is rounded."""
    weight = quantised(RANDOM.standard_normal((128, 256)), to)
    factor = np.abs(1 + 0.3 * RANDOM.standard_normal((128, 1)))
    form = FORMATS[to]
    scales = np.abs(weight.reshape(-1, form.size(256))).max(1, keepdims=True)
    codes = weight.reshape(-1, form.size(256)) / scales
    stretched = (codes * scales * np.repeat(factor, 256 // form.size(256), 0)).reshape(weight.shape)
    assert np.abs(stretched - weight * factor).max() < 1e-12
    assert np.abs(quantised(weight * factor, to) - weight * factor).max() < 1e-12, "rounding again changes nothing"
    merged = weight * factor[:, 0].repeat(2)[None]
    assert np.linalg.norm(quantised(merged, to) - merged) > 0.003 * np.linalg.norm(merged)
    assert np.abs(quantised(weight, to) - weight).max() == 0


def test_exact_properties_are_derived() -> None:
    found = {row["method"]: row["requantised"]["holds"] for row in KB.serving}
    assert [found[m] for m in ("bitfit", "ln_tuning", "trainable_tokens", "ia3", "lora", "dora", "oft")] == [
        "all", "all", "all", "partly", "none", "none", "none",
    ]  # fmt: skip
    for method, holds in found.items():
        scopes = {t.per for part in KB[method].parts for t in part.entry.tensors.values() if t.served != "absent"}
        assert holds != "all" or scopes <= {"bias", "norm", "weight"}
        assert (holds == "none") or KB[method].merge == "exact"


@pytest.mark.torch
def test_the_codes_of_nf4_are_those_of_the_reference() -> None:
    from reference_impls.qlora import normal_float

    assert np.abs(np.array(FORMATS["nf4"].codes) - normal_float().numpy()).max() < 1e-6


@pytest.mark.slow
@pytest.mark.torch
def test_bitsandbytes_merges_the_exact_cases_exactly(tmp_path: Path) -> None:
    """Its nf4 is ours. A factor for each row is exact in its nf4, and leaves the codes of its int8; others are not."""
    weight = RANDOM.standard_normal((64, 128)).astype("f4")
    rows, columns = (np.abs(1 + 0.3 * RANDOM.standard_normal(size)).astype("f4") for size in ((64, 1), (1, 128)))
    np.savez(tmp_path / "given.npz", weight=weight, rows=rows, columns=columns)
    made = [str(tmp_path / name) for name in ("given.npz", "found.npz")]
    subprocess.run([str(OTHERS), "-W", "ignore", "-c", THEIRS, *made], check=True, capture_output=True)
    found = np.load(made[1])
    held = found["held"]
    assert np.abs(held - quantised(weight, "nf4")).max() < 1e-6
    assert np.array_equal(found["again"], held)
    assert np.linalg.norm(found["rows"] - held * rows) < 1e-6 * np.linalg.norm(held * rows)
    assert np.linalg.norm(found["columns"] - held * columns) > 0.01 * np.linalg.norm(held * columns)
    assert np.array_equal(found["codes_rows"], found["codes"])
    assert not np.array_equal(found["codes_columns"], found["codes"])

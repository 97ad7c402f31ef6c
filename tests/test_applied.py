"""`Method.apply`: every method on a live model, with its entry's defaults, and taken off again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from peftonomy import DataError, KnowledgeBase, UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.trial import KB, Trial, shake, trials

pytestmark = pytest.mark.torch


def a_trial(method: str) -> Trial:
    for family in ("llama", "bert", "t5", "vit", "clip"):
        try:
            return trials(method, family)[0]
        except UsageError:
            continue
    raise AssertionError(f"{method} acts on none of the families")


@pytest.mark.parametrize("method", KB.methods)
def test_apply_save_load_and_remove(method: str, tmp_path: Path) -> None:
    trial = a_trial(method)
    plain = trial.outputs(tiny.plain(trial.family))
    torch.manual_seed(0)
    applied = KB[method].apply(model := tiny.model(trial.family), **trial.hyperparameters)
    assert applied.model is model
    assert applied.predicted == trial.cost
    if trial.even and all(some == whole for some, whole in map(trial.moves, trial.places)):
        assert applied.trained == applied.predicted.trained
    try:
        applied.remove()
    except UsageError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "load the model again" in refusal
    else:
        assert (trial.outputs(model) - plain).abs().max() < 1e-12
        assert [*model.state_dict()] == [*tiny.plain(trial.family).state_dict()]
        assert {n for n, p in model.named_parameters() if not p.requires_grad} == set()
    torch.manual_seed(0)
    again = KB[method].apply(tiny.model(trial.family), **trial.hyperparameters)
    if hasattr(trial.reference, "calibrate"):
        again.calibrate(trial.loss(again.model) for _ in range(2))
    trial.train(again.model, 2)
    again.finish()
    torch.manual_seed(0)        # what a seed regenerates is not in the file
    other = KB[method].apply(tiny.model(trial.family), **trial.hyperparameters).finish()
    other.load(again.save(tmp_path / "task.safetensors"))
    assert (trial.outputs(other.model) - trial.outputs(again.model)).abs().max() < tiny.TOLERANCE


def test_what_does_not_fit_is_refused_before_the_model_is_touched(kb: KnowledgeBase, tmp_path: Path) -> None:
    model = tiny.model("llama")
    before = list(model.state_dict())
    for wrong, message in (
        ({"r": 0}, "out of its domain"), ({"rank": 3}, "unknown hyperparameter"), ({"targets": ["attn.x"]}, "attn.x"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            kb["lora"].apply(model, **wrong)
    with pytest.raises(UsageError, match="a transformers model was expected, not Linear"):
        kb["lora"].apply(torch.nn.Linear(2, 2))
    assert list(model.state_dict()) == before
    assert all(p.requires_grad for p in model.parameters())
    applied = kb["lora"].apply(model, r=2)
    file = applied.save(tmp_path / "lora.safetensors")
    with pytest.raises(DataError, match="hyperparameters"):
        kb["lora"].apply(tiny.model("llama"), r=3).load(file)
    with pytest.raises(DataError, match="method: found lora"):
        kb["dora"].apply(tiny.model("llama"), r=2).load(file)
    with pytest.raises(UsageError, match="does not look at data"):
        applied.calibrate([])
    applied.merge()
    with pytest.raises(UsageError, match="lora changed .*weight.* load the model again"):
        applied.remove()


def test_saved_models_are_combined(kb: KnowledgeBase, tmp_path: Path) -> None:
    files = []
    for seed in range(2):
        tuned = kb["full_fine_tuning"].apply(tiny.model("llama"))
        shake(tuned.model, seed)
        files.append(tuned.save(tmp_path / f"{seed}.safetensors"))
    first, second = (kb["full_fine_tuning"].apply(tiny.model("llama")).load(file).model for file in files)
    merged = kb["task_arithmetic"].apply(tiny.model("llama"), tasks=2, scale=0.5).combine([files[0], files[1]])
    for name, value in merged.model.named_parameters():
        assert torch.allclose(value, (first.get_parameter(name) + second.get_parameter(name)) / 2), name
    with pytest.raises(UsageError, match="task_arithmetic: found 1 inputs; expected 2"):
        merged.combine(files[:1])
    with pytest.raises(UsageError, match="lora combines nothing"):
        kb["lora"].apply(tiny.model("llama"), r=2).combine(files)
    lora = kb["lora"].apply(tiny.model("llama"), r=2).save(tmp_path / "lora.safetensors")
    with pytest.raises(DataError, match="method: found lora; expected full_fine_tuning"):
        merged.combine([files[0], lora])
    (tmp_path / "none.safetensors").write_bytes(b"none")
    with pytest.raises(DataError, match="a safetensors file"):
        merged.combine([files[0], tmp_path / "none.safetensors"])
    bert = kb["task_arithmetic"].apply(tiny.model("bert"))
    with pytest.raises(DataError, match="no such tensor"):
        bert.combine(files)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")       # of the libraries that load the package's model
def test_the_example_of_the_readme_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(import importlib.*?)```", (root / "README.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert (tmp_path / "film.safetensors").is_file()
    assert float(str(names["loss"].item())) < 0.1  # type: ignore[attr-defined]

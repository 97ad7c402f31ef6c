"""What `taxonomy/libraries` says of peft and adapters is what the installed libraries say of themselves."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import subprocess
import typing
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG
from peft.utils import constants
from peft.utils import transformers_weight_conversion as conversion

from peftonomy.costs.values import coerced

from .knowledge import KB

pytestmark = pytest.mark.torch
PEFT, ADAPTERS = (KB.libraries[name] for name in ("hf_peft", "adapters"))
PYTHON = Path(os.environ.get("ADAPTERS_PYTHON", Path(__file__).parents[1] / ".venv-adapters/bin/python")).absolute()
DUMP = """
import dataclasses, importlib.metadata, json
from adapters.configuration import adapter_config as module

def default(field):
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()

def plain(value):
    return None if value is dataclasses.MISSING else value

found = {name: {"architecture": kind.architecture} | {
             f.name: plain(default(f)) for f in dataclasses.fields(kind) if f.init}
         for name, kind in vars(module).items()
         if dataclasses.is_dataclass(kind) and issubclass(kind, module.AdapterConfig)}
print(json.dumps({"version": importlib.metadata.version("adapters"), "types": found}))
"""
ABSTRACT = {"AdapterConfig", "MultiTaskConfig", "ConfigUnion"}
"""Classes of adapters that no configuration is made of."""
CONFIGS = {str(getattr(kind, "value", kind)): config for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def plain(value: Any) -> Any:
    """A default as a saved configuration has it; objects for use at run time are not saved."""
    if isinstance(value, enum.Enum):
        return value.value
    return None if dataclasses.is_dataclass(value) else value


def arguments(config: Any) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(config):
        if field.init:
            missing = field.default is dataclasses.MISSING
            made = None if field.default_factory is dataclasses.MISSING else field.default_factory()
            found[field.name] = plain(made if missing else field.default)
    return found


def test_the_version_is_the_installed_one() -> None:
    assert PEFT.version == peft.__version__


def test_every_type_is_there() -> None:
    assert {name: kind.symbol for name, kind in PEFT.types.items()} == {n: c.__name__ for n, c in CONFIGS.items()}


@pytest.mark.parametrize("kind", CONFIGS)
def test_arguments_and_their_defaults(kind: str) -> None:
    ours, theirs = PEFT.defaults(kind), arguments(CONFIGS[kind])
    assert ours == theirs
    assert {n: type(v) for n, v in ours.items()} == {n: type(v) for n, v in theirs.items()}


NESTED = [
    (method.id, ours, theirs)
    for method in KB.values()
    if (entry := method.entry.implementations.get("hf_peft")) is not None and entry.type is not None
    for ours, theirs in entry.rename.items()
    if "." in theirs
]


@pytest.mark.parametrize(("method", "ours", "theirs"), NESTED)
def test_defaults_inside_of_arguments(method: str, ours: str, theirs: str) -> None:
    """An argument inside another has the library's default where it is absent."""
    entry = KB[method].entry.implementations["hf_peft"]
    outer, _, inner = theirs.partition(".")
    hints = typing.get_type_hints(CONFIGS[str(entry.type)])[outer]
    [config] = [kind for kind in (hints, *typing.get_args(hints)) if dataclasses.is_dataclass(kind)]
    spec = KB[method].entry.hyperparameters[ours]
    assert coerced(ours, spec, entry.defaults.get(ours, spec.default)) == arguments(config)[inner]


def default_modules(kind: str) -> dict[str, Any] | None:
    if kind == "IA3":
        return constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    if kind == "ADAPTION_PROMPT":
        return {name: config.target_modules for name, config in TRANSFORMERS_MODEL_CONFIG.items()}
    return getattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "target_module_mapping", None) or None


@pytest.mark.parametrize("kind", CONFIGS)
def test_modules_meant_by_default(kind: str) -> None:
    table = PEFT.types[kind].by_model.get("target_modules")
    assert (None if table is None else dict(PEFT.table(table))) == default_modules(kind)


def test_feed_forward_modules_meant_by_default() -> None:
    theirs = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    assert dict(PEFT.table(PEFT.types["IA3"].by_model["feedforward_modules"])) == theirs


def test_heads_and_embeddings() -> None:
    assert PEFT.tasks["SEQ_CLS"].saved == ["classifier", "score"]
    assert sorted(constants.SEQ_CLS_HEAD_NAMES) == ["classifier", "score"]
    assert PEFT.embedding_names == constants.EMBEDDING_LAYER_NAMES


def test_older_names_of_experts() -> None:
    """The families, names and fused parameters are those of peft."""
    theirs: dict[str, set[str]] = {}
    for model_type, like in conversion._MODEL_TO_CONVERSION_PATTERN.items():
        if like in conversion._MOE_FUSED_TARGETS and conversion.get_checkpoint_conversion_mapping(model_type):
            theirs.setdefault(like, set()).add(model_type)
    ours = {tuple(one.names.items()): (set(one.models), one.fused) for one in PEFT.experts}
    assert ours == {
        tuple(names.items()): (theirs[like], conversion._MOE_FUSED_TARGETS[like])
        for like, names in conversion._MOE_TARGET_MODULE_MAPPING.items()
    }


def test_arguments_that_change_no_tensor_exist() -> None:
    known = {name for kind in PEFT.types for name in PEFT.defaults(kind)}
    assert {*PEFT.inert, *PEFT.inert_values} <= known


def test_adapters() -> None:
    if not PYTHON.exists():
        absent = f"{PYTHON} is not there: `make test` builds it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(absent)
    ran = subprocess.run([str(PYTHON), "-c", DUMP], capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(ran.stdout.splitlines()[-1])
    theirs = {name: arguments for name, arguments in said["types"].items() if name not in ABSTRACT}
    ours = {name: {"architecture": kind.saved} | ADAPTERS.defaults(name) for name, kind in ADAPTERS.types.items()}
    assert (ADAPTERS.version, ours) == (said["version"], theirs)


# The complete program for peft runs as it is written, and prints the numbers that we count.


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of two layers."""
    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")      # peft asks transformers by the old name
@pytest.mark.parametrize("method", ["lora", "dora", "vera", "ia3", "prompt_tuning", "prefix_tuning", "fourierft"])
def test_the_complete_program_runs(method: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny / "config.json"
    script = KB[method].export(model).script.replace("path/to/model", str(tiny))
    exec(compile(script, method, "exec"), {})
    printed = capsys.readouterr().out
    trained = KB[method].cost(model).trained
    assert f"trainable params: {trained:,} ||" in printed

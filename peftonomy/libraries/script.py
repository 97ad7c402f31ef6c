"""Write the program that loads a model, adapts it with a library, trains it as it was counted, and saves the result."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from ..errors import UsageError
from .export import Configuration, literal
from .loading import loading

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..memory.setting import Setting

__all__ = ["DATASET", "HALF", "OPTIMIZERS", "QUANTIZED", "TYPES", "script"]

TYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "mixed": "bfloat16"}
"""The type of the frozen model for each type of training."""
HALF = ("bfloat16", "float16")
"""The types of training in which trained tensors have the model's type."""
DATASET = 'dataset = torch.load("path/to/dataset.pt")  # a list of examples: {"input_ids": ..., "labels": ...}'
OPTIMIZERS = {
    "adamw": "adamw_torch_fused", "adamw-foreach": "adamw_torch", "adamw-8bit": "adamw_bnb_8bit",
    "paged-adamw": "paged_adamw_32bit", "paged-adamw-8bit": "paged_adamw_8bit", "adafactor": "adafactor", "sgd": "sgd",
}  # fmt: skip
"""The optimisers' names in `transformers.TrainingArguments`."""
QUANTIZED = {
    "nf4": ["load_in_4bit=True", 'bnb_4bit_quant_type="nf4"', "bnb_4bit_compute_dtype=torch.{dtype}"],
    "int8": ["load_in_8bit=True"],
}
"""The arguments with which `transformers` quantises a model."""


def script(
    configuration: Configuration, model: Backbone, task: str, num_labels: int, setting: Setting, accumulate: int,
    notes: Sequence[str] = (),
) -> str:  # fmt: skip
    """Return the program. Raises UsageError for a library without a trainer.

    accumulate: batches whose gradients are added up before an update. notes: what differs from the counts,
    as comments.
    """
    library = configuration.library
    if library.trainer is None:
        raise UsageError(f"{library.name} has no trainer of its own, so no program is written")
    load, (name, *labels) = loading(model, task, num_labels)
    dtype = TYPES[setting.dtype]
    arguments = [f"    {argument}," for argument in (name, f"dtype=torch.{dtype}", *labels)]
    if setting.attention != "sdpa":
        arguments.append(f'    attn_implementation="{setting.attention}",')
    if setting.quantized is not None:
        said = "".join(f"        {line},\n" for line in QUANTIZED[setting.quantized]).format(dtype=dtype)
        arguments.append(f"    quantization_config=transformers.BitsAndBytesConfig(\n{said}    ),")
    step = [
        '    output_dir="output",', f"    per_device_train_batch_size={setting.batch},",
        f'    optim="{OPTIMIZERS[setting.optimizer]}",',
    ]  # fmt: skip
    if accumulate > 1:
        step.append(f"    gradient_accumulation_steps={accumulate},")
    if setting.checkpointing:
        step += ["    gradient_checkpointing=True,", '    gradient_checkpointing_kwargs={"use_reentrant": False},']
    if setting.dtype == "mixed":
        step.append("    bf16=True,")
    config = [f"    {key}={literal(value)}," for key, value in configuration.arguments.items()]
    usage = library.half if library.half and setting.dtype in HALF else library.usage
    return "\n".join([
        f"import {library.package}",
        "import torch",
        "import transformers",
        "",
        f"model = {load}(",
        *arguments,
        ")",
        f"config = {library.package}.{configuration.symbol}(",
        *config,
        ")",
        *(f"# {line}" for note in notes for line in wrap(note, 100)),
        *(line.format(config="config", dtype=f"torch.{dtype}") for line in usage),
        *library.report,
        "",
        "arguments = transformers.TrainingArguments(",
        *step,
        ")",
        DATASET,
        f"trainer = {library.trainer}(model=model, args=arguments, train_dataset=dataset)",
        "trainer.train()",
        *library.save,
    ])  # fmt: skip

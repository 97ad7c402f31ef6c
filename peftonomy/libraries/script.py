"""Write the whole code that loads a model, adapts it with peft, and sets up a training step as it was counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from .export import Configuration, literal
from .loading import loading

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..memory.setting import Setting

__all__ = ["OPTIMIZERS", "QUANTIZED", "TYPES", "script"]

TYPES = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float16", "mixed": "bfloat16"}
"""The type of the frozen model for each type of training."""
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
    configuration: Configuration, model: Backbone, task: str, num_labels: int, setting: Setting, accumulate: int
) -> str:
    """Return the code. Raises UsageError for a method with several configurations.

    accumulate: batches whose gradients are added up before an update.
    """
    library = configuration.library
    if configuration.type is None:
        raise UsageError(f"{configuration.method} has several configurations in {library.name}, so there is no script")
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
    kept = "" if setting.dtype in ("mixed", "float32") else ", autocast_adapter_dtype=False"
    config = [f"    {key}={literal(value)}," for key, value in configuration.arguments.items()]
    call = f"{library.package}.{configuration.symbol}"
    return "\n".join([
        f"import {library.package}",
        "import torch",
        "import transformers",
        "",
        f"model = {load}(",
        *arguments,
        ")",
        f"config = {call}(",
        *config,
        ")",
        f"model = {library.package}.get_peft_model(model, config{kept})",
        "model.print_trainable_parameters()",
        "",
        "arguments = transformers.TrainingArguments(",
        *step,
        ")",
    ])  # fmt: skip

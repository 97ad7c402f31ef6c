"""The call of `transformers` that loads a model for a task, as generated code writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schema.names import LABELLED

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

__all__ = ["PLACEHOLDER", "checkpoint", "loading"]

PLACEHOLDER = "path/to/model"
"""Stands for the files of a model without a name on the Hugging Face Hub."""


def checkpoint(model: Backbone) -> str:
    """Return the model's name on the Hugging Face Hub, or the placeholder."""
    return (model.file.checkpoint if model.file is not None else None) or PLACEHOLDER


def loading(model: Backbone, task: str, num_labels: int) -> tuple[str, list[str]]:
    """Return the function that loads the model for the task, and its arguments."""
    loaded = model.family.tasks[task]
    labels = [f"num_labels={num_labels}"] if task in LABELLED and loaded.labels is None else []
    return f"transformers.{loaded.class_}.from_pretrained", [f'"{checkpoint(model)}"', *labels]

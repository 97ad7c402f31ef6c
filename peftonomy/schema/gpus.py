"""The schema of `taxonomy/gpus.yaml`: single GPUs with their memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Citation, Entry, Stem

__all__ = ["Gpu", "GpuFile"]


class Gpu(Entry):
    """A GPU as it is sold."""

    name: Stem
    aliases: list[Stem] = []
    mib: int = Field(ge=256, le=2**21)
    """Memory in MiB."""
    how: Literal["reported", "nominal"]
    """`reported`: the total that the driver prints. `nominal`: the memory by which it is sold."""
    source: Citation


class GpuFile(Entry):
    """taxonomy/gpus.yaml"""

    gpus: list[Gpu]

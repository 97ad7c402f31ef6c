"""Pause Python's cycle collector while many records are made that all stay."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["uncollected"]


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Disable Python's cycle collector, which would scan hundreds of thousands of permanent records repeatedly.

    Afterwards they count as old. Otherwise the collector would scan them all as soon as it is enabled.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():   # what somebody has frozen stays so
                gc.freeze()
                gc.unfreeze()
            gc.enable()

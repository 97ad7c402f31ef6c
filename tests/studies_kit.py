"""Jobs for the tests of workers: they run in other processes, which import them from here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def squared(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a number's square. A number with a file kills its worker until the file is there."""
    if "file" in given and not Path(given["file"]).exists():
        Path(given["file"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return {"square": given["number"] ** 2}

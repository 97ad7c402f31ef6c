"""Run the command line as a process: `python -m peftonomy` and the script `peftonomy`."""

import _thread
import gc
import os
import signal
import sys
import threading
import warnings
from typing import Any

from .cli import INTERRUPTED

__all__ = ["main"]


def main() -> int:
    """Set up the process, run the command line and return the exit code.

    Ctrl-C ends the process quietly: at once while modules load or the interpreter exits, and in between through
    `KeyboardInterrupt`, so that commands remove their temporary files.
    """
    signal.signal(signal.SIGINT, _exit)
    warnings.simplefilter("ignore")  # warnings of libraries are for developers, even where they are errors
    _open_streams()
    from .cli.main import main

    sys.unraisablehook = _unraisable
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return main()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, _exit)
        gc.freeze()     # at exit, Python would look at every object once more


def _exit(*_: Any) -> None:
    os._exit(INTERRUPTED)


def _open_streams() -> None:
    """Put a stream in the place of each closed one: stdin is empty, stdout fails on writing, and stderr drops it."""
    if sys.stdin is None:
        sys.stdin = os.fdopen(os.open(os.devnull, os.O_RDONLY))
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _unraisable(hooked: Any) -> None:
    """Raise Ctrl-C again if it came where Python ignores exceptions, such as in a callback."""
    if isinstance(hooked.exc_value, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(hooked)


if __name__ == "__main__":
    sys.exit(main())

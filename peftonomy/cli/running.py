"""Run the command line. A user's mistake prints one line on stderr: exit code 1 for bad data, 2 for bad usage."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import DataError, PeftonomyError, escaped
from . import INTERRUPTED
from .options import cli

if TYPE_CHECKING:
    from ..knowledge.base import KnowledgeBase

__all__ = ["main"]

MOST = 500
"""The largest number of characters in a message of click."""

def main(arguments: Sequence[str] | None = None, kb: KnowledgeBase | None = None) -> int:
    """Run the command line and return the exit code. No input of the user raises an exception.

    kb: the knowledge base to use instead of reading one.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as Python does for stderr
    try:
        code = cli.main(arguments, prog_name="peftonomy", standalone_mode=False, obj=kb)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        return complain(error.ctx.get_help() if error.ctx else error.format_message(), error.exit_code, whole=True)
    except click.ClickException as error:
        return complain(cut(error.format_message()), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except PeftonomyError as error:
        return complain(one_line(error), error.exit_code)
    except MemoryError:
        return complain("out of memory", 1)
    except OSError as error:
        silence(sys.stdout)
        if isinstance(error, BrokenPipeError):  # the reader has read enough
            return 1
        name = error.filename or "standard output"  # errors of files have their name
        return complain(f"{name}: {error.strerror or error}", 1)
    return code if isinstance(code, int) else 0


def complain(message: str, code: int, *, whole: bool = False) -> int:
    """Print a message on stderr, in one line unless `whole`, and return the exit code."""
    try:
        click.echo(message if whole else f"error: {escaped(' '.join(message.split()))}", err=True)
    except OSError:
        silence(sys.stderr)
    return code


def cut(message: str) -> str:
    """Return a message of click without the middle if it is very long: click repeats the user's values whole."""
    return message if len(message) <= MOST else f"{message[: MOST // 2]} … {message[-MOST // 2 :]}"


def one_line(error: PeftonomyError) -> str:
    """Return the error as one line: the first problem, and the command that lists the others."""
    if isinstance(error, DataError) and len(error.problems) > 1:
        return f"{error.problems[0]} (and {len(error.problems) - 1} more: peftonomy check)"
    return str(error)


def silence(stream: Any) -> None:
    """Redirect a stream to nothing if it cannot be written. Otherwise Python would fail on it at exit."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

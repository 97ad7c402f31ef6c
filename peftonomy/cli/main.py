"""Run the command line. A user's mistake prints one line on stderr: exit code 1 for bad data, 2 for bad usage."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from ..errors import DataError, PeftonomyError
from . import author, browse, counting, publish, training
from .options import cli

__all__ = ["cli", "main"]

INTERRUPTED = 130
"""The exit code that shells report for a process ended by Ctrl-C."""
COMMANDS = (browse, counting, training, author, publish)
"""The groups of commands; importing them adds their commands to `cli`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. No input of the user raises an exception."""
    try:
        code = cli.main(arguments, prog_name="peftonomy", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return complain(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except PeftonomyError as error:
        return complain(one_line(error), error.exit_code)
    except BrokenPipeError:
        silence(sys.stdout)
        return 1
    except OSError as error:
        return complain(": ".join(map(str, filter(None, (error.filename, error.strerror or str(error))))), 1)
    return code if isinstance(code, int) else 0


def complain(message: str, code: int) -> int:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    return code


def one_line(error: PeftonomyError) -> str:
    """Return the error as one line: the first problem, and the command that lists the others."""
    if isinstance(error, DataError) and len(error.problems) > 1:
        return f"{error.problems[0]} (and {len(error.problems) - 1} more: peftonomy check)"
    return str(error)


def silence(stream: Any) -> None:
    """Redirect a stream with a closed reader to nothing, so that Python does not fail on it at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

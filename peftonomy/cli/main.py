"""The whole command line: the group with every command, and the function that runs it."""

from . import assistant, author, bench, browse, counting, deploy, publish, training
from .options import cli
from .running import main

__all__ = ["cli", "main"]

COMMANDS = (browse, counting, training, deploy, author, bench, publish, assistant)
"""The groups of commands; importing them adds their commands to `cli`."""

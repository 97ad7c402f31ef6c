"""Processes that run cases. One that hangs or dies is replaced."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from . import GROUPS, Case, World, run_case

PATIENCE = 120.0
"""The seconds after which a worker that does not answer is ended: it does not react to signals."""


def worked(group: str, names: Sequence[str]) -> Iterator[tuple[str, Case]]:
    """Yield the named cases of a group. A worker that hangs or dies is replaced, and its case reported."""
    context, number = multiprocessing.get_context("spawn"), 0
    while number < len(names):
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(group, names[number:], theirs))
        worker.start()
        theirs.close()
        patience = 5 * PATIENCE  # until the worker has started, and built what its cases share
        try:
            while number < len(names):
                if not ours.poll(patience):
                    yield names[number], Case("?", ["hang: the process does not react"])
                    break
                yield names[number], ours.recv()
                number, patience = number + 1, PATIENCE
        except EOFError:
            worker.join()
            yield names[number], Case("?", [f"the process ended with {worker.exitcode}"])
        number += 1
        worker.kill()
        worker.join()


def work(group: str, names: Sequence[str], pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        with world.stack:
            for name in names:
                pipe.send(run_case(GROUPS[group], name, world))

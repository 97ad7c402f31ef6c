"""Processes that run cases. One that hangs or dies is replaced."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from . import GROUPS, Case, World, run_case

PATIENCE = 120.0
"""The seconds after which a worker that does not answer is ended: it does not react to signals."""


def worked(group: str, seed: int, first: int, cases: int) -> Iterator[tuple[int, Case]]:
    """Yield the cases of a job from the first one. A worker that hangs or dies is replaced, and its case reported."""
    context, number, cases = multiprocessing.get_context("spawn"), first, first + cases
    while number < cases:
        ours, theirs = context.Pipe()
        worker = context.Process(target=work, args=(group, seed, number, cases, theirs))
        worker.start()
        theirs.close()
        patience = 5 * PATIENCE  # until the worker has started, and built what its cases share
        try:
            while number < cases:
                if not ours.poll(patience):
                    yield number, Case("?", ["hang: the process does not react"])
                    break
                yield number, ours.recv()
                number, patience = number + 1, PATIENCE
        except EOFError:
            worker.join()
            yield number, Case("?", [f"the process ended with {worker.exitcode}"])
        number += 1
        worker.kill()
        worker.join()


def work(group: str, seed: int, first: int, cases: int, pipe: Connection) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        with world.stack:
            for number in range(first, cases):
                pipe.send(run_case(GROUPS[group], f"{group}:{seed}:{number}", world))

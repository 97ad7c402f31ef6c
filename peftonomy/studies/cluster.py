"""Workers of a Ray cluster: one task for each run. A worker that dies loses only its run. Needs the bench extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from ..errors import UsageError
from .pool import ENVIRONMENT, Died, Outcome, work

__all__ = ["Cluster"]

PROCESS = 2**30
"""Bytes that a worker needs beyond the tensors of a step: libraries, weights that are loaded, examples."""


class Cluster:
    """A Ray cluster. Each task asks for one core and for the memory that is predicted for its step.

    address: `local` for a cluster of this process, `auto` for the one that is running, or its address. size: the most
    runs at a time. run: runs one job in a worker. Raises UsageError.
    """

    def __init__(self, address: str, size: int | None = None, run: Callable[[Mapping[str, Any]], Any] = work):
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise UsageError("--address needs ray: pip install 'peftonomy[bench]'") from None
        self._ray = ray
        self._own = not ray.is_initialized()
        if self._own:
            own = {"num_cpus": size, "include_dashboard": False} if address == "local" else {}
            try:
                self._ray.init(address, log_to_driver=False, logging_level="error", **own)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise UsageError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from None
        self.size = int(min(size or 2**31, self._ray.cluster_resources().get("CPU", 1)))
        self._task = self._ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": ENVIRONMENT})(run)
        self._busy: dict[Any, str] = {}

    @property
    def free(self) -> int:
        """The number of jobs that could start at once."""
        return self.size - len(self._busy)

    def start(self, key: str, given: Mapping[str, Any]) -> None:
        """Start a job."""
        needed = int(given.get("bytes") or 0) + PROCESS
        self._busy[self._task.options(memory=needed).remote(dict(given))] = key

    def ended(self) -> list[Outcome]:
        """Wait until at least one job has ended, and return those that have."""
        first, _ = self._ray.wait(list(self._busy), num_returns=1)
        found = []
        for one in first:
            key = self._busy.pop(one)
            try:
                found.append(Outcome(key, self._ray.get(one)))
            except (self._ray.exceptions.RayTaskError, self._ray.exceptions.RuntimeEnvSetupError):
                raise
            except self._ray.exceptions.RayError as error:
                found.append(Outcome(key, Died(str(error).strip().partition("\n")[0])))
        return found

    def close(self) -> None:
        """Stop all jobs."""
        for one in self._busy:
            self._ray.cancel(one, force=True)
        self._busy = {}
        if self._own:
            self._ray.shutdown()

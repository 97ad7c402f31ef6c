"""Match regular expressions from outside in bounded time, with the meaning that Python's `re` gives them.

    >>> matcher = Matcher()
    >>> test = matcher.compile("([a-z0-9_.]+)+X").fullmatch
    >>> test("model.layers.0.self_attn.q_proj") is None
    True

Python's `re` backtracks, so a short expression can match for ever. RE2 needs time linear in the text, and matches
almost everything. What it lacks (lookaheads, backreferences), and what it reads differently, Python matches in another
process with a limit.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import UsageError, shown

if TYPE_CHECKING:
    import subprocess

__all__ = ["Expression", "Matcher", "SlowPatternError", "linear"]

MAX_LENGTH = 10_000
"""The number of characters of the longest expression."""
MAX_STEPS = 10**9
"""The product of an expression's size in RE2 and of all text that RE2 matches with it; beyond it, Python matches."""
SECONDS = 3
"""Seconds of processor time in which Python matches all expressions of one matcher."""
REPEAT = re.compile(r"\{(?!(?:0|[1-9][0-9]{0,3})(?:,(?:0|[1-9][0-9]{0,3})?)?\})")
"""Matches a brace that RE2 and Python may read differently: `{,3}` and `{01}` are text in RE2."""
SET = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]?", re.DOTALL)
"""Matches an escaped character, or a set."""
NESTED = re.compile(r"\\.|(?P<odd>\[|--|&&|~~|\|\|)", re.DOTALL)
"""Matches what later versions of Python will read differently within a set."""
PLAIN = re.compile(r"[ -~]*\Z")
"""Matches text of which RE2 and Python see the same letters, digits and blanks."""

WORKER = f"""
import faulthandler, json, os, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS} + 1))
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
except (ImportError, ValueError, OSError):
    pass
silent = open(os.devnull, "w")
sys.stderr = silent
for line in sys.stdin:
    faulthandler.dump_traceback_later(20 * {SECONDS}, exit=True, file=silent)
    pattern, how, text = json.loads(line)
    try:
        found = getattr(re.compile(pattern), how)(text)
        print(json.dumps(None if found is None else found.groupdict()), flush=True)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        print(json.dumps([str(error)]), flush=True)
    faulthandler.cancel_dump_traceback_later()
"""


class SlowPatternError(UsageError):
    """An expression that takes too long to match."""

    def __init__(self, pattern: str):
        self.pattern = pattern
        super().__init__(f"expression {shown(pattern)!r}: found no answer in {SECONDS} seconds; expected a simpler one")


class Matcher:
    """Compiles expressions. All of them share one limit of time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[str] | None = None
        self._spent = False

    def compile(self, pattern: str) -> Expression:
        """Return an expression. Raises ValueError with the reason if Python would not accept it without a warning."""
        if not isinstance(pattern, str):
            raise ValueError(f"found {shown(pattern)}; expected text")
        if len(pattern) > MAX_LENGTH:
            raise ValueError(f"{len(pattern):,} characters; at most {MAX_LENGTH:,}")
        for one in SET.finditer(pattern):
            if one[0][0] == "[" and (odd := next((m for m in NESTED.finditer(one[0], 1) if m["odd"]), None)):
                raise ValueError(f"{odd['odd']} within a set, which Python warns of; put a backslash before it")
        if len(pattern) <= MAX_LENGTH // 10:
            try:
                re.compile(pattern)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None
            except (re.error, OverflowError) as error:
                raise ValueError(str(error)) from None
        elif isinstance(answer := self.ask(pattern, "match", ""), list):  # compiling takes long too
            raise ValueError(answer[0])
        return Expression(self, pattern)

    def ask(self, pattern: str, how: str, text: str) -> Any:
        """Return the groups of a match, None, or a list with an error, from Python in another process.

        Raises SlowPatternError.
        """
        with self._lock:
            if self._spent:
                raise SlowPatternError(pattern)
            if self._worker is None:
                self._worker = _started()
                weakref.finalize(self, _ended, self._worker)
            assert self._worker.stdin is not None
            assert self._worker.stdout is not None
            try:
                self._worker.stdin.write(json.dumps([pattern, how, text]) + "\n")
                self._worker.stdin.flush()
                answer = self._worker.stdout.readline()
            except OSError:
                answer = ""
            if not answer:
                self._spent = True
                raise SlowPatternError(pattern)
        return json.loads(answer)


def _started() -> subprocess.Popen[str]:
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        encoding="utf-8",
    )  # fmt: skip


def _ended(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.communicate()


class Expression:
    """A compiled expression. `Matcher.compile` creates it."""

    def __init__(self, matcher: Matcher, pattern: str):
        self.pattern, self._matcher, self._read = pattern, matcher, 0
        self._linear = None if REPEAT.search(pattern) or not PLAIN.match(pattern) else _re2(pattern)

    def match(self, text: str) -> Mapping[str, str | None] | None:
        """Return the named groups of a match at the beginning of a text; None without one. Raises SlowPatternError."""
        return self._found("match", text)

    def fullmatch(self, text: str) -> Mapping[str, str | None] | None:
        """Return the named groups of a match of a whole text."""
        return self._found("fullmatch", text)

    def search(self, text: str) -> Mapping[str, str | None] | None:
        """Return the named groups of a match anywhere in a text."""
        return self._found("search", text)

    def _found(self, how: str, text: str) -> Mapping[str, str | None] | None:
        if self._linear is not None and PLAIN.match(text):
            self._read += self._linear.programsize * len(text)
            if self._read <= MAX_STEPS:
                found = getattr(self._linear, how)(text)
                return None if found is None else found.groupdict()
        answer: dict[str, str | None] | list[str] | None = self._matcher.ask(self.pattern, how, text)
        if isinstance(answer, list):
            raise SlowPatternError(self.pattern)
        return answer


@functools.lru_cache(maxsize=1024)
def _re2(pattern: str) -> Any:
    """Return an expression of RE2; None if it has no such expression."""
    import re2

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


@functools.lru_cache(maxsize=256)
def linear(pattern: str) -> Any:
    """Return an expression that RE2 can match. Raises ValueError for any other."""
    expression = Matcher().compile(pattern)
    if expression._linear is None:
        raise ValueError("it is not one that RE2 matches, as lookaheads, backreferences and {,n} are not")
    return expression._linear

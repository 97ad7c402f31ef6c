"""The parts that all groups share: the world, hostile values, the command line in this process, and its rules."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import peftonomy
from peftonomy import KnowledgeBase
from peftonomy.cli import main as cli
from peftonomy.costs.cost import Cost
from peftonomy.knowledge.mechanism import traits
from peftonomy.site import _engine

from ..engine_kit import started

ROOT = Path(__file__).parents[2]
LIMIT = 5.0
"""The processor time of a case, in seconds."""
LONGEST = 1200
"""The largest number of characters in a message."""

Problems = list[str]


class Case(NamedTuple):
    """A description of the input, and the problems that it showed."""

    text: str
    problems: Problems
    code: int | None = None
    """The exit code of the command, if the case is one."""


class Hang(BaseException):
    """The processor time of a case is over. No `except Exception` catches it."""


class World:
    """The inputs that cases share. `folder` is empty and belongs to one worker."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.kb = peftonomy.load(ROOT)
        self.stack = contextlib.ExitStack()
        """What ends with the worker."""

    @cached_property
    def exportable(self) -> dict[str, list[str]]:
        """The methods that each library implements."""
        return {key: [m.id for m in self.kb.values() if key in m.entry.implementations] for key in self.kb.libraries}

    @cached_property
    def traits(self) -> list[Any]:
        """The traits of all methods, which the page of each one needs."""
        return [traits(method) for method in self.kb.values()]

    @cached_property
    def engine(self) -> Any:
        """The site's engine, which counts on the pages."""
        return self.stack.enter_context(started(self.kb, *_engine.SCRIPTS))

    @cached_property
    def small(self) -> list[str]:
        """Models with little to list, which are the usual ones in a case."""
        return [key for key, model in self.kb.models.items() if model.parameters < 400_000_000]


Generate = Callable[[random.Random, World], Case]


def run_case(generate: Generate, name: str, world: World) -> Case:
    """Run a case. It, and each command in it, has its processor time."""
    rng = random.Random(name)
    if not hasattr(signal, "ITIMER_PROF"):
        return generate(rng, world)
    old = signal.signal(signal.SIGPROF, _over)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        return generate(rng, world)
    except Hang:
        return Case(" ".join(_last), [f"hang: over {LIMIT} s of processor time"])
    except Exception:  # a mistake of the fuzzer itself counts, too
        return Case(name, [f"the fuzzer fails: {traceback.format_exc()[-500:]}"])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def _over(*_: Any) -> None:
    raise Hang


# The command line


class Result(NamedTuple):
    code: int | None
    out: str
    err: str


_last: list[str] = []
"""The last command, which may hang."""


def command(arguments: list[str], kb: KnowledgeBase | None = None) -> tuple[Result, Problems]:
    """Run the command line in this process, and return what its answer breaks."""
    _last[:] = arguments
    if hasattr(signal, "ITIMER_PROF") and signal.getitimer(signal.ITIMER_PROF)[0]:
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main(arguments, kb)
        except Exception:
            return Result(None, out.getvalue(), err.getvalue()), [f"traceback: {last_line()}"]
        except SystemExit as error:
            return Result(None, out.getvalue(), err.getvalue()), [f"exit: {error!r}"]
    result = Result(code, out.getvalue(), err.getvalue())
    return result, list(rules(result, arguments))


def last_line() -> str:
    """Return the current exception, and where it was raised."""
    lines = traceback.format_exc().strip().splitlines()
    where = [line.strip() for line in lines if line.strip().startswith("File ") and "/peftonomy/" in line]
    return f"{lines[-1][:200]} ({where[-1].split('peftonomy/', 1)[-1] if where else 'outside'})"


def rules(result: Result, arguments: list[str]) -> Iterator[str]:
    """Yield the rules of the command line that an answer breaks."""
    lists_problems = result.code == 1 and ("check" in arguments or "verify" in arguments)
    if result.code not in (0, 1, 2):
        yield f"exit code: {result.code}"
    if result.code == 0 and result.err:
        yield f"stderr beside an answer: {result.err[:200]!r}"
    if result.code and result.out and not lists_problems:
        yield f"stdout beside an error: {result.out[:100]!r}"
    if result.code and not result.err.startswith("Usage: ") and not (lists_problems and result.out):
        yield from message(result.err)
    if lists_problems:
        yield from (f"message: {line[:100]!r}" for line in result.out.splitlines() if not line.isprintable())


def message(text: str) -> Iterator[str]:
    """Yield the rules that a message breaks."""
    if not text.startswith("error: ") or text.count("\n") != 1:
        yield f"message is not one line: {text[:200]!r}"
    elif not text[:-1].isprintable():
        yield f"message has control characters: {text[:200]!r}"
    elif len(text) > LONGEST:
        yield f"message of {len(text)} characters: {text[:80]!r}"


# Independent answers


def recount(cost: Cost, places: list[Any]) -> Iterator[str]:
    """Compare the trained parameters of a cost with the sum over all places, where each tensor is trained whole."""
    if all(isinstance(place.spec.trained, bool) for place in places):
        found = sum(place.count * place.copies for place in places if place.spec.trained)
        if found != cost.trained:
            yield f"wrong answer: {cost.trained} trained, and {found} by the places"


# Hostile values

TEXTS = (
    "", " ", "\0", "\n", "\t", "-", "--", "-1", "0", "1", "8", "1e3", "1_000", "٣", "0x10", "nan", "inf", "-inf",
    "9" * 20, "9" * 400, "9" * 5_000, "1e400", "0.1", "true", "null", "None", "[]", "{}", "a" * 300, "é", "→", "\u202e",
    "\ud800", "\x1b[31m", "../../etc/passwd", "/dev/zero", "/dev/null", "/", ".", "..", "~", "*", "%s", "{0}", "$HOME",
    "`id`", "<script>alert(1)</script>", "{{ 7*7 }}", "${7*7}", "'", '"', "\\", "a=b=c", "=", ",", ",,", "a,b", "lora",
    "LORA", "lroa", "r", "r=8", "attn.q", "attn.*", "(a+)+$", "((((", "x{99999999999999999999}", "[[:alpha:]]",
    "(?P<idx>x)",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3, 7, 8, 64, 2**31, 2**53, 2**63, 10**30, -(10**30), 0.0, 0.5, 1.0, 8.0, -1.5,
    1e308,
    float("nan"), float("inf"), "", "8", "eight", "\0", "é", [], [8], [[]], {}, {"a": 1}, "9" * 400,
)  # fmt: skip


def text(rng: random.Random) -> str:
    """Return a hostile text, or a mixture of two."""
    one = rng.choice(TEXTS)
    return one if rng.random() < 0.8 else one[:20] + rng.choice(TEXTS)


def misspelt(rng: random.Random, word: str) -> str:
    """Return a word with one character dropped, doubled, replaced or in the other case."""
    at = rng.randrange(len(word)) if word else 0
    replacement = rng.choice(["", word[at : at + 1] * 2, rng.choice("aq_.-9 é"), word[at : at + 1].swapcase()])
    return word[:at] + replacement + word[at + 1 :]


def spoilt(rng: random.Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """Return a file's content after one to three changes of bytes, lines or tokens."""
    for _ in range(rng.randint(1, 3)):
        lines = content.splitlines(keepends=True) or [b""]
        at = rng.randrange(len(lines))
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[rng.randrange(len(lines))])
            case 2:
                lines[at] = rng.choice([b"  ", b"\t", b"-"]) + lines[at]
            case 3:
                lines[at] = lines[at].rstrip() + b" " + rng.choice(tokens) + b"\n"
            case 4:
                head, colon, _ = lines[at].partition(b":")
                lines[at] = head + colon + b" " + rng.choice(tokens) + b"\n"
            case 5:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + rng.choice(tokens) + lines[at][cut:]
            case 6:
                cut = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:cut] + bytes([rng.randrange(256)]) + lines[at][cut + 1 :]
            case _:
                lines = lines[: at + 1]
        content = b"".join(lines)
    return content

"""Write the command line's output: JSON, tables, progress and files.

On a terminal rich draws tables; in a pipe they are plain aligned columns, one line per row. Progress goes to stderr, so
that it never mixes with results. A regular file is written completely or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError

__all__ = [
    "bar", "binary_text", "bytes_text", "naming", "number", "print_exactly", "print_json", "print_table", "progress",
    "write_atomically",
]  # fmt: skip


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; integers are exact, text stays UTF-8 where stdout can encode it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo(text if _unencodable(text) is None else json.dumps(value, indent=2))


def print_exactly(text: str) -> None:
    """Print text whose characters cannot be escaped. Raises UsageError if stdout cannot encode them."""
    if (character := _unencodable(text)) is not None:
        found = f"standard output has the encoding {sys.stdout.encoding}, which lacks {character!r}"
        raise UsageError(f"{found}; set PYTHONIOENCODING=utf-8")
    click.echo(text)


def _unencodable(text: str) -> str | None:
    """Return the first character that stdout cannot encode, or None."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError as error:
        return text[error.start]
    return None


def number(value: float | None) -> str:
    """Return a count for readers: `4,194,304`; "" for None."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def bytes_text(value: int) -> str:
    """Return a size in decimal units, as disks and model hubs count: `16.8 MB`.

    >>> bytes_text(16_777_216), bytes_text(999), bytes_text(0)
    ('16.8 MB', '999 B', '0 B')
    """
    size, units = float(value), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def binary_text(value: int) -> str:
    """Return a size in binary units, as memory is counted: `16 MiB`.

    >>> binary_text(16 * 2**20), binary_text(1000)
    ('16 MiB', '1000 B')
    """
    size, units = float(value), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1023.5 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Print rows under their `columns`; those named in `right` are right-aligned, like numbers."""
    rows, right = list(rows), set(right)
    if sys.stdout.isatty():
        _rich_table(columns, rows, right)
    else:
        for line in _plain_table(columns, rows, right):
            click.echo(line)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if column in right else "left", style=None if i else "cyan")
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: set[str]) -> Iterator[str]:
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = zip(columns, row, widths, strict=True)
        yield "  ".join(v.rjust(w) if c in right else v.ljust(w) for c, v, w in cells).rstrip()


@contextlib.contextmanager
def progress(doing: str) -> Iterator[None]:
    """Show on a terminal's stderr that a long operation is running."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(doing):
        yield


@contextlib.contextmanager
def bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal's stderr how much of a long operation is done: yield a function of the steps done and all."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as shown:
        task = shown.add_task(doing, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def write_atomically(files: Mapping[Path, str]) -> None:
    """Write all `files` (UTF-8): each completely, and none if one of them cannot be written.

    Symbolic links, devices and pipes are written through, as in a shell.
    """
    made: dict[Path, Path] = {}
    through = {path for path in files if path.is_symlink() or (path.exists() and not path.is_file())}
    try:
        for path, text in files.items():
            with naming(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
                if path in through:
                    continue
                handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
                made[path] = Path(name)
                with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                    file.write(text)
                made[path].chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        for path in through:
            with naming(path), path.open("w", encoding="utf-8", newline="\n") as file:
                file.write(files[path])
        for path, temporary in made.items():
            temporary.replace(path)
    finally:
        for temporary in made.values():
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the name of the file to system errors; those of a full disk lack it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask

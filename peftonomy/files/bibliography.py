"""The bibliography: `taxonomy/references.bib`, parsed by bibtexparser, with the first line of each entry."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, Problem, UnknownName
from .reading import read_text

__all__ = ["Bibliography", "Reference"]

READ = ("paper", "code", "abstract", "none")
START = re.compile(r"^[ \t]*@(\w+)[ \t]*\{", re.MULTILINE)
"""Matches the beginning of an entry, or of a comment or a macro."""
KEY = re.compile(r"[^{]*\{\s*([^,\s{}]+)\s*,")
COMMIT = re.compile(r"\bcommit ([0-9a-f]{7,40})")
BRACE = re.compile("[{}]")
MAX_BYTES = 10_000_000
MAX_ENTRY = 20_000
"""The number of characters of the longest entry that is parsed."""
MAX_DEPTH = 20
"""The number of nested braces in an entry."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One source. `read` lists the parts that we opened: the paper, its code, its abstract, or none."""

    key: str
    kind: str
    fields: Mapping[str, str]
    bibtex: str
    line: int

    @property
    def title(self) -> str:
        """The title without BibTeX braces."""
        return plain(self.fields.get("title", ""))

    @property
    def authors(self) -> tuple[str, ...]:
        """The authors as `First Last`."""
        names = [plain(n) for n in re.split(r"\s+and\s+", self.fields.get("author", "")) if n.strip()]
        return tuple(" ".join(reversed(n.split(", ", 1))) if ", " in n else n for n in names)

    @property
    def year(self) -> str:
        """The year, as printed."""
        return self.fields.get("year", "")

    @property
    def venue(self) -> str:
        """The journal, the proceedings, or another form of publication."""
        return plain(
            next(
                (self.fields[n] for n in ("journal", "booktitle", "howpublished", "publisher") if n in self.fields), ""
            )
        )

    @property
    def commit(self) -> str:
        """The commit at which we read the code, as far as the record states it; otherwise ""."""
        found = COMMIT.search(f"{self.fields.get('version', '')} {self.fields.get('note', '')}")
        return found[1] if found else ""

    @property
    def arxiv(self) -> str:
        """The arXiv id, or ""."""
        return self.fields.get("eprint", "") if self.fields.get("archiveprefix", "arXiv").lower() == "arxiv" else ""

    @property
    def url(self) -> str:
        """The link to it: DOI, arXiv or its own address; "" if none is known or the address is not https."""
        if self.fields.get("doi"):
            return f"https://doi.org/{self.fields['doi']}"
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        url = self.fields.get("url", "")
        return url if re.fullmatch(r"https://[^\s\"'<>]+", url) else ""

    @property
    def read(self) -> str:
        """The parts that we opened: one or several of `READ`, separated by commas."""
        return self.fields.get("read", "none")

    def opened(self, part: str) -> bool:
        """Return True if we opened this part of it."""
        return part in [word.strip() for word in self.read.split(",")]

    @property
    def citation(self) -> str:
        """The authors, year, title and venue on one line."""
        names = self.authors
        who = " and ".join(names) if len(names) <= 2 else f"{names[0]} et al."
        return ". ".join(p for p in (f"{who} ({self.year})" if who else self.year, self.title, self.venue) if p) + "."


class Bibliography(Mapping[str, Reference]):
    """All sources by their BibTeX key, each parsed on first use."""

    def __init__(self, text: str, name: str):
        self.text, self.name = text, name
        self.lines: dict[str, int] = {}
        self._blocks: dict[str, str] = {}
        self._held: dict[str, Reference] = {}
        repeated, starts = [], list(START.finditer(text))
        ends = [match.start() for match in starts[1:]] + [len(text)]
        line, at = 1, 0
        self._macros: list[str] = []
        for match, end in zip(starts, ends, strict=True):
            line, at = line + text.count("\n", at, match.start()), match.start()
            block = text[at:end]
            if match[1].lower() in ("comment", "preamble"):
                continue
            if match[1].lower() == "string":
                self._macros.append(block)
                continue
            named = KEY.match(block)
            key = named[1] if named else match[0].strip()
            if key in self.lines:
                first = f"first on line {self.lines[key]}"
                repeated.append(Problem(name, line, key, "the key again", "each key once", first, "bibtex"))
            self.lines.setdefault(key, line)
            self._blocks.setdefault(key, block if named else "")
        if repeated:
            raise DataError(repeated)

    @classmethod
    def read(cls, path: Path, name: str) -> Bibliography:
        """Read the bibliography in a file. Raises DataError."""
        return cls(read_text(path, name, MAX_BYTES, "a BibTeX file"), name)

    def problems(self) -> list[Problem]:
        """Return the problem of every entry that does not parse."""
        found: list[Problem] = []
        for key in self:
            try:
                self[key]
            except DataError as error:
                found += error.problems
        return found

    def _parsed(self, key: str) -> Reference:
        """Parse one entry. Raises DataError."""
        from bibtexparser.bibdatabase import UndefinedString

        try:
            block = _whole(self._blocks[key])
            parsed = _entry(tuple(self._macros), block)
        except (UndefinedString, ValueError) as error:  # a bare word; too long, too deep, or not one entry
            found = str(error) if str(error).startswith("more than") else UNPARSED
            raise DataError([Problem(self.name, self.lines[key], key, found, "a BibTeX entry", "", "bibtex")]) from None
        fields = {n.lower(): " ".join(v.split()) for n, v in parsed.items() if n not in ("ID", "ENTRYTYPE")}
        shown = re.sub(r"^[ \t]*read[ \t]*=[ \t]*\{[^}]*\},?\n", "", block, flags=re.MULTILINE)
        return Reference(key, parsed["ENTRYTYPE"], fields, shown, self.lines[key])

    def __getitem__(self, key: str) -> Reference:
        found = self._held.get(key)
        if found is None:
            if key not in self.lines:
                raise UnknownName("reference", key, self.lines)
            found = self._held[key] = self._parsed(key)
        return found

    def __contains__(self, key: object) -> bool:
        return key in self.lines

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.lines))

    def __len__(self) -> int:
        return len(self.lines)


UNPARSED = "text that does not parse"


@functools.lru_cache(maxsize=4096)
def _entry(macros: tuple[str, ...], block: str) -> Mapping[str, str]:
    """Parse the text of one entry, which takes milliseconds: who loads a tree again waits for what changed only."""
    parser = _parser(macros)
    entries: list[dict[str, str]] = parser.bib_database.entries
    entries.clear()
    parser.parse(block, partial=True)
    [parsed] = entries
    return parsed


@functools.lru_cache(maxsize=4)
def _parser(macros: tuple[str, ...]) -> Any:
    from bibtexparser.bparser import BibTexParser

    logging.getLogger("bibtexparser").setLevel(logging.CRITICAL)
    parser = BibTexParser(common_strings=True, ignore_nonstandard_types=False)
    parser.expect_multiple_parse = True
    for block in macros:
        with contextlib.suppress(ValueError):  # an entry that names the macro is then reported
            parser.parse(_whole(block), partial=True)
    return parser


def _whole(block: str) -> str:
    """Return a block up to the brace that closes it. Raises ValueError with what is found instead."""
    depth = 0
    for brace in BRACE.finditer(block, 0, MAX_ENTRY):
        depth += 1 if brace[0] == "{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} nested braces")
        if depth == 0:
            return block[: brace.end()]
    raise ValueError(f"more than {MAX_ENTRY:,} characters" if len(block) > MAX_ENTRY else UNPARSED)


@functools.lru_cache(maxsize=8192)
def plain(text: str) -> str:
    """Return BibTeX text as plain text: accents as letters, no braces."""
    from bibtexparser.latexenc import latex_to_unicode

    dotted = re.sub(r"\\i(?![a-zA-Z])", "i", text)  # an accent replaces the dot
    letters = unicodedata.normalize("NFC", latex_to_unicode(dotted))
    return re.sub("[{}]", "", letters.replace("--", "–").replace("~", " "))

"""The bibliography: `taxonomy/references.bib`, parsed by bibtexparser, with the first line of each entry."""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import DataError, Problem, UnknownName

__all__ = ["Bibliography", "Reference"]

READ = ("paper", "code", "abstract", "none")
ENTRY = re.compile(r"^@(\w+)\s*\{\s*([^,\s]+)\s*,", re.MULTILINE)


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
    """All sources by their BibTeX key."""

    def __init__(self, text: str, name: str):
        self.text, self.name = text, name
        self.lines: dict[str, int] = {}
        repeated = []
        for match in ENTRY.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if match[2] in self.lines:
                first = f"first on line {self.lines[match[2]]}"
                repeated.append(Problem(name, line, match[2], "the key again", "each key once", first, "bibtex"))
            self.lines.setdefault(match[2], line)
        if repeated:
            raise DataError(repeated)

    @classmethod
    def read(cls, path: Path, name: str) -> Bibliography:
        """Read the bibliography in a file. Raises DataError."""
        try:
            return cls(path.read_text(encoding="utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError([Problem(name, 0, "", str(error), "a readable UTF-8 file")]) from None

    @cached_property
    def _entries(self) -> dict[str, Reference]:
        from bibtexparser.bibdatabase import UndefinedString
        from bibtexparser.bparser import BibTexParser

        logging.getLogger("bibtexparser").setLevel(logging.ERROR)
        parser, blocks = BibTexParser(common_strings=True, ignore_nonstandard_types=False), self._blocks()
        try:
            parsed = {e["ID"]: e for e in parser.parse(self.text).entries}
        except UndefinedString as error:  # a bare word; the library gives no line for it
            word = re.compile(rf"[=#]\s*{re.escape(error.args[0])}\b", re.IGNORECASE)
            raise self._unparsed(next(key for key, block in blocks.items() if word.search(block))) from None
        found = {}
        for key, line in self.lines.items():
            if key not in parsed:
                raise self._unparsed(key)
            fields = {n.lower(): " ".join(v.split()) for n, v in parsed[key].items() if n not in ("ID", "ENTRYTYPE")}
            found[key] = Reference(key, parsed[key]["ENTRYTYPE"], fields, blocks[key], line)
        return found

    def _unparsed(self, key: str) -> DataError:
        problem = Problem(self.name, self.lines[key], key, "text that does not parse", "a BibTeX entry", "", "bibtex")
        return DataError([problem])

    def _blocks(self) -> dict[str, str]:
        """Return each entry's text without our `read` field."""
        starts = [(m[2], m.start()) for m in ENTRY.finditer(self.text)]
        ends = [start for _, start in starts[1:]] + [len(self.text)]
        blocks = {}
        for (key, start), end in zip(starts, ends, strict=True):
            block = self.text[start:end]
            block = block[: block.rindex("}") + 1] if "}" in block else block
            blocks[key] = re.sub(r"^\s*read\s*=\s*\{[^}]*\},?\n", "", block, flags=re.MULTILINE)
        return blocks

    def __getitem__(self, key: str) -> Reference:
        if key not in self._entries:
            raise UnknownName("reference", key, self.lines)
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        return key in self.lines

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.lines))

    def __len__(self) -> int:
        return len(self.lines)


@functools.cache
def plain(text: str) -> str:
    """Return BibTeX text as plain text: accents as letters, no braces."""
    from bibtexparser.latexenc import latex_to_unicode

    dotted = re.sub(r"\\i(?![a-zA-Z])", "i", text)  # an accent replaces the dot
    letters = unicodedata.normalize("NFC", latex_to_unicode(dotted))
    return re.sub("[{}]", "", letters.replace("--", "–").replace("~", " "))

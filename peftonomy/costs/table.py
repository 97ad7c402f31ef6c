"""A small list of records that displays as a table in a notebook and converts to a data frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..errors import UsageError

__all__ = ["Table"]


class Table(Sequence[Mapping[str, Any]]):
    """Records with the same keys, in order."""

    def __init__(self, records: Sequence[Mapping[str, Any]], caption: str = ""):
        self.records, self.caption = list(records), caption

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"Table({len(self)} rows: {self.caption})" if self.caption else f"Table({len(self)} rows)"

    @property
    def columns(self) -> list[str]:
        """The records' keys."""
        return list(self.records[0]) if self.records else []

    def to_frame(self) -> Any:
        """Return a pandas data frame, or a polars one without pandas. Raises UsageError without either."""
        try:
            import pandas
        except ImportError:
            try:
                import polars
            except ImportError:
                raise UsageError("a data frame needs pandas or polars; install one of them") from None
            return polars.DataFrame(self.records, strict=False)
        return pandas.DataFrame(self.records)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(c)}</th>" for c in self.columns)
        body = "".join("<tr>" + "".join(_cell(v) for v in record.values()) + "</tr>" for record in self.records)
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td style="text-align:right">{value:,}</td>'
    if isinstance(value, float):
        return f'<td style="text-align:right">{value:.4g}</td>'
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return f"<td>{escape('' if value is None else str(value))}</td>"

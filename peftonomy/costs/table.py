"""A small list of records that displays as a table in a notebook and converts to a data frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..errors import UsageError

__all__ = ["Table", "Tabled", "axes", "label"]

DISPLAYED = 200
"""The number of rows that a notebook shows."""
NEEDS = "{} needs {}: pip install 'peftonomy[notebook]'"


class Tabled(ABC):
    """A result with a table: it displays as this table in a notebook and converts to a data frame."""

    @abstractmethod
    def table(self) -> Table:
        """Return the result as a table."""

    def to_pandas(self) -> Any:
        """Return the table as a pandas data frame. Raises UsageError without pandas, which the notebook extra adds."""
        return self.table().to_pandas()

    def to_frame(self) -> Any:
        """Return the table as a pandas data frame, or a polars one without pandas. Raises UsageError without either."""
        return self.table().to_frame()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


class Table(Tabled, Sequence[Mapping[str, Any]]):
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

    def table(self) -> Table:
        """Return the table itself."""
        return self

    def to_pandas(self) -> Any:
        """Return a pandas data frame. Raises UsageError without pandas, which the notebook extra adds."""
        try:
            import pandas
        except ImportError:
            raise UsageError(NEEDS.format("a pandas data frame", "pandas")) from None
        return pandas.DataFrame(self.records)

    def to_frame(self) -> Any:
        """Return a pandas data frame, or a polars one without pandas. Raises UsageError without either."""
        try:
            return self.to_pandas()
        except UsageError:
            try:
                import polars
            except ImportError:
                raise UsageError("a data frame needs pandas or polars; install one of them") from None
            return polars.DataFrame(self.records, strict=False)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(c)}</th>" for c in self.columns)
        shown = self.records[:DISPLAYED]
        body = "".join("<tr>" + "".join(_cell(v) for v in record.values()) + "</tr>" for record in shown)
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        more = f"<p>and {len(self) - DISPLAYED:,} more rows</p>" if len(self) > DISPLAYED else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f'<td style="text-align:right">{value:,}</td>'
    if isinstance(value, float):
        return f'<td style="text-align:right">{value:.4g}</td>'
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return f"<td>{escape('' if value is None else str(value))}</td>"


def axes(given: Any = None) -> Any:
    """Return the given matplotlib axes, or new ones. Raises UsageError without matplotlib."""
    if given is not None:
        return given
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UsageError(NEEDS.format("a plot", "matplotlib")) from None
    return pyplot.subplots()[1]


def label(ax: Any, axis: str, ledger: str) -> None:
    """Label an axis with a ledger, and write its ticks as 4 M."""
    from matplotlib.ticker import EngFormatter

    ax.set(**{f"{axis}label": ledger.replace("_", " ")})
    if ledger != "percent":
        getattr(ax, f"{axis}axis").set_major_formatter(EngFormatter())

"""Create elements of SVG or HTML, escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

__all__ = ["element"]


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return an element. Values and texts are escaped. In names a trailing `_` is dropped, and other `_` become `-`."""
    # Plain strings are joined, because a page has hundreds of elements and Markup's formatting is ten times as slow.
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{escape(value)}"' for key, value in given)
    return Markup(f"<{name}{head}>{''.join(map(escape, children))}</{name}>")

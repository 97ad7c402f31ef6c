"""One element of SVG or HTML, escaped."""

from __future__ import annotations

from markupsafe import Markup, escape

__all__ = ["element"]


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """An element; values and texts are escaped, `_` at the end of a name is dropped, `_` inside stands for `-`."""
    # Joined as plain strings: a page has hundreds of these, and Markup's own formatting is ten times as slow.
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    head = "".join(f' {key}="{escape(value)}"' for key, value in given)
    return Markup(f"<{name}{head}>{''.join(map(escape, children))}</{name}>")

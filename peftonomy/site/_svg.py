"""One element of SVG or HTML, escaped."""

from __future__ import annotations

from markupsafe import Markup

__all__ = ["element"]


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """An element; values and texts are escaped, `_` at the end of a name is dropped, `_` inside stands for `-`."""
    given = ((k.rstrip("_").replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    head = Markup("").join(Markup(' {}="{}"').format(Markup(key), value) for key, value in given)
    body = Markup("").join(children)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), head, body)

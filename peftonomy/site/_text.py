"""Make text from entries safe for a page: every character shows as itself, also if it is special in HTML or Markdown.

`prose` converts the markup that entries may use to our own HTML. `inline` prepares a single line for Markdown
(headings), with each special character as a numeric entity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal

from markupsafe import Markup, escape

__all__ = ["count", "front_matter", "inline", "percent", "prose", "safe_url", "volume"]

SPECIAL = re.compile(r"[\\`*_{}\[\]()#+\-.!|<>&~^$:\"'=@]")
SPAN = re.compile(r"`([^`]+)`|\$([^$]+)\$|\*\*([^*]+)\*\*|(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])")


def inline(text: str) -> str:
    """Return `text` for a line of Markdown, with special characters as numeric entities."""
    return SPECIAL.sub(lambda m: f"&#{ord(m[0])};", " ".join(text.split()))


def prose(text: str, tex: Callable[[str], Markup]) -> Markup:
    """Return paragraphs and dashed lists with `code`, $math$, **strong** and *emphasis*; the rest is unchanged."""
    blocks = [b for b in re.split(r"\n\s*\n", text.strip()) if b.strip()]
    return Markup("\n").join(_block(b, tex) for b in blocks)


def formulas(text: str) -> list[str]:
    """Return the $math$ in prose."""
    return [match[2] for match in SPAN.finditer(text) if match[2]]


def _block(text: str, tex: Callable[[str], Markup]) -> Markup:
    if not re.match(r"\s*[-*] ", text):
        return Markup("<p>{}</p>").format(spans(text, tex))
    items = re.split(r"(?:^|\n)\s*[-*] ", text)[1:]
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(spans(i, tex)) for i in items))


def spans(text: str, tex: Callable[[str], Markup]) -> Markup:
    """Return one run of text with the inline markup of `prose`."""
    text, out, last = " ".join(text.split()), Markup(""), 0
    for match in SPAN.finditer(text):
        code, math, strong, emphasis = match.groups()
        out += escape(text[last : match.start()])
        if code:
            out += Markup("<code>{}</code>").format(code)
        elif math:
            out += tex(math)
        else:
            tag = "strong" if strong else "em"
            out += Markup(f"<{tag}>{{}}</{tag}>").format(strong or emphasis)
        last = match.end()
    return out + escape(text[last:])


def front_matter(**fields: object) -> str:
    """Return YAML front matter. The theme prints these texts into HTML unchanged, so markup is escaped here.

    The strings inside of a mapping are not: the theme prints mappings as JSON.
    """
    shown = {k: [_escaped(i) for i in v] if isinstance(v, list) else _escaped(v) for k, v in fields.items() if v}
    written = "".join(f"{k}: {json.dumps(v)}\n" for k, v in shown.items()).replace("<", "\\u003c")
    return f"---\n{written}---\n\n"


def _escaped(value: object) -> object:
    return str(escape(value)) if isinstance(value, str) else value


def safe_url(url: str | None) -> str | None:
    """Return the address if it is plain http(s), else None: an entry cannot place a script behind a link."""
    return url if url and re.fullmatch(r"https?://[^\s\"'<>]+", url) else None


def count(value: float | None) -> str:
    """Return a number for readers: `4,194,304`; None becomes a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def percent(value: float) -> str:
    """Return a percentage for readers: two decimals, or three digits of a small one, never with an exponent.

    >>> percent(12.345), percent(0.0123456), percent(0.0000608)
    ('12.35 %', '0.0123 %', '0.0000608 %')
    """
    return f"{value:.2f} %" if value >= 1 else f"{Decimal(f'{value:.3g}'):f} %"


def volume(size: float) -> str:
    """Return an amount of bytes for readers, with three digits: `16.8 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 99.95 or unit == "B" else f"{size:.3g} {unit}"

"""Text from entries made safe for a page: every character shows as itself, whatever it means to HTML or Markdown.

Two targets. `prose` turns the small markup that entries may use into HTML of our own making; `inline` puts a single
line where Markdown is still to run (headings), with each meaningful character as a numeric entity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from markupsafe import Markup, escape

__all__ = ["count", "front_matter", "inline", "percent", "prose", "safe_url", "volume"]

SPECIAL = re.compile(r"[\\`*_{}\[\]()#+\-.!|<>&~^$:\"'=@]")
SPAN = re.compile(r"`([^`]+)`|\$([^$]+)\$|\*\*([^*]+)\*\*|(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])")


def inline(text: str) -> str:
    """`text` for a line of Markdown: what is special there becomes a numeric entity."""
    return SPECIAL.sub(lambda m: f"&#{ord(m[0])};", " ".join(text.split()))


def prose(text: str, tex: Callable[[str], Markup]) -> Markup:
    """Paragraphs and dashed lists with `code`, $math$, **strong** and *emphasis*; all else is shown as it stands."""
    blocks = [b for b in re.split(r"\n\s*\n", text.strip()) if b.strip()]
    return Markup("\n").join(_block(b, tex) for b in blocks)


def _block(text: str, tex: Callable[[str], Markup]) -> Markup:
    if not re.match(r"\s*[-*] ", text):
        return Markup("<p>{}</p>").format(spans(text, tex))
    items = re.split(r"(?:^|\n)\s*[-*] ", text)[1:]
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(spans(i, tex)) for i in items))


def spans(text: str, tex: Callable[[str], Markup]) -> Markup:
    """One run of text with the inline markup of `prose`."""
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
    """A YAML head. The theme prints these texts into HTML as they are, so markup is escaped here."""
    shown = {k: [_escaped(i) for i in v] if isinstance(v, list) else _escaped(v) for k, v in fields.items() if v}
    return "---\n" + "".join(f"{k}: {json.dumps(v)}\n" for k, v in shown.items()) + "---\n\n"


def _escaped(value: object) -> object:
    return str(escape(value)) if isinstance(value, str) else value


def safe_url(url: str | None) -> str | None:
    """The address when it is plain http(s), else nothing: an entry cannot place a script behind a link."""
    return url if url and re.fullmatch(r"https?://[^\s\"'<>]+", url) else None


def count(value: float | None) -> str:
    """A number for people: `4,194,304`; nothing known is a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def percent(value: float) -> str:
    """A percentage for people: two decimals, or three digits of a small one."""
    return f"{value:.2f} %" if value >= 1 else f"{value:.3g} %"


def volume(size: float) -> str:
    """An amount of bytes for people: three digits of `16.8 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 99.95 or unit == "B" else f"{size:.3g} {unit}"

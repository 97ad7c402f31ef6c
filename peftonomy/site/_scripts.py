"""Bundle the scripts of the site that are written in parts.

`site/scripts/<name>.js` is the frame of a bundle. Each of its lines `/* include PART */` stands for the file
`site/scripts/<name>/PART.js`. The parts share the scope of that line, so a bundle is one classic script: it also runs
in a page from a folder, which may load no modules.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["FOLDER", "bundle", "bundles"]

FOLDER = "scripts"
INCLUDE = re.compile(r"^ */\* include ([a-z_]+) \*/$", re.MULTILINE)


def bundles(site: Path) -> dict[str, str]:
    """Return every bundle by its name. `site`: the folder of the site's sources."""
    return {path.stem: bundle(site, path.stem) for path in sorted((site / FOLDER).glob("*.js"))}


def bundle(site: Path, name: str) -> str:
    """Return the text of one bundle."""
    frame = site / FOLDER / f"{name}.js"

    def part(match: re.Match[str]) -> str:
        return (frame.parent / name / f"{match[1]}.js").read_text(encoding="utf-8").rstrip("\n")

    return INCLUDE.sub(part, frame.read_text(encoding="utf-8"))

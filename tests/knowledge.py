"""The knowledge base of this checkout, which all tests of a process share: its records are frozen."""

from __future__ import annotations

from pathlib import Path

import peftonomy
from peftonomy import KnowledgeBase, Method

KB = peftonomy.load(Path(__file__).parents[1])
READ_ONCE = ("taxonomy", "references", "gpus", "combinations", "unmerged", "studies", "evidence")


def another() -> KnowledgeBase:
    """Return a knowledge base of the same records, which parses nothing again: the methods that it holds may change."""
    found = KnowledgeBase(KB.root)
    found.families, found.models = KB.families, KB.models
    found.libraries, found.trainers, found.engines = KB.libraries, KB.trainers, KB.engines
    found.methods._read = lambda path: Method(found, KB[path.stem].entry, KB[path.stem].document)
    for name in READ_ONCE:
        found.__dict__[name] = getattr(KB, name)
    return found

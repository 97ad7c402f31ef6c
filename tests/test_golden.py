"""Our implementations against numbers recorded from the authors' own code (`golden/`).

Where an implementation differs, the entry declares the row as a deviation, and exactly the declared rows must differ.
"""

from __future__ import annotations

import pytest

from peftonomy import KnowledgeBase
from peftonomy.conformance.golden import Vector, vectors
from peftonomy.conformance.suite import compared

pytestmark = pytest.mark.torch
VECTORS = vectors()


@pytest.mark.parametrize("name", VECTORS)
def test_as_the_authors_code(kb: KnowledgeBase, name: str) -> None:
    vector = Vector.load(VECTORS[name])
    deviations = kb[vector.method].entry.implementations[vector.implementation].deviations
    assert compared(vector, None, {row for deviation in deviations for row in deviation.golden}) == []

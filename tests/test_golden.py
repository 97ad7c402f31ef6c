"""Our implementations against numbers recorded from the authors' own code (`golden/`).

Where an implementation differs, the entry declares the row as a deviation, and exactly the declared rows must differ.
"""

from __future__ import annotations

import pytest

from peftonomy import KnowledgeBase
from peftonomy.conformance.golden import Vector, compare, vectors

pytestmark = pytest.mark.torch
VECTORS = vectors()


@pytest.mark.parametrize("name", VECTORS)
def test_as_the_authors_code(kb: KnowledgeBase, name: str) -> None:
    vector = Vector.load(VECTORS[name])
    implementation = kb[vector.method].entry.implementations[vector.implementation]
    declared = {row for deviation in implementation.deviations for row in deviation.golden}
    rows = compare(vector)
    found = {row.name: row.found for row in rows if not row.same}
    declared &= {row.name for row in rows}
    assert found.keys() == declared, "\n".join(f"{k}: {v}" for k, v in found.items() if k not in declared)

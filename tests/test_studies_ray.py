"""Studies on a Ray cluster: two workers on this machine, one of which is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftonomy.studies.cluster import Cluster
from peftonomy.studies.pool import Died

from .studies_kit import squared

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_a_killed_worker_loses_only_its_run(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install 'peftonomy[bench]'")
    cluster = Cluster("local", 2, squared)
    try:
        found = {}
        cluster.start("killed", {"number": 2, "file": str(tmp_path / "killed")})
        cluster.start("other", {"number": 3})
        assert cluster.free == 0
        while len(found) < 2:
            found |= dict(cluster.ended())
        assert isinstance(found["killed"], Died)
        assert found["other"] == {"square": 9}
        cluster.start("killed", {"number": 2, "file": str(tmp_path / "killed")})
        assert cluster.ended() == [("killed", {"square": 4})]
    finally:
        cluster.close()

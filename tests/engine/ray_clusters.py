"""A real Ray cluster of two nodes, as processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_STORE = 100 << 20
_NOTICES_SOON = {"health_check_period_ms": 300}
"""That a node is gone; Ray asks every three seconds by default, and several times."""


class TwoNodes:
    """A head and another node, each with room for one worker."""

    def __init__(self, home: Path) -> None:
        from ray.cluster_utils import Cluster

        self._home = home
        with self._environment():
            head: dict[str, Any] = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": _STORE}
            head["_system_config"] = _NOTICES_SOON
            self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.other: Any = None
        self.add()

    def add(self) -> None:
        """Let the other node join, if it is not there."""
        if self.other is None:
            with self._environment():
                self.other = self._cluster.add_node(num_cpus=1, object_store_memory=_STORE)

    def remove(self) -> None:
        """Kill the other node."""
        self._cluster.remove_node(self.other, allow_graceful=False)
        self.other = None

    def close(self) -> None:
        self._cluster.shutdown()

    @contextmanager
    def _environment(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FEWSHOT_BENCH_HOME", str(self._home))
            patch.setenv("OMP_WAIT_POLICY", "passive")
            yield

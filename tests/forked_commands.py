"""Processes of the command line without the seconds that importing takes: the fork server of the chaos benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from chaos_forks import ForkServer

TESTS = Path(__file__).parent
BENCHMARKS = TESTS.parent / "benchmarks"


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """Makes processes of `fewshot-bench`; modules of the tests can be imported there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from chaos_forks import ForkServer

        with ForkServer([TESTS]) as server:
            yield server

"""The page on easyfsl runs as it stands, and both libraries give the same number on the same episodes."""

from __future__ import annotations

import pytest
from documentation import DOCS, cells

pytestmark = pytest.mark.slow


def test_easyfsl_and_its_replacement_agree_on_the_page():
    pytest.importorskip("easyfsl", reason="easyfsl is not installed")
    names = {"__name__": "page"}
    for cell in cells(DOCS / "from-easyfsl.md"):
        exec(compile(cell, "from-easyfsl.md", "exec"), names)
    assert names["theirs"] == pytest.approx(names["ours"].mean, abs=1e-12)
    assert 0.2 < names["theirs"] < 1

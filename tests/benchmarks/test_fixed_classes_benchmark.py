"""The check on real photos says what disjoint sets say, and why it cannot where there are none."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from simulations import script


@pytest.fixture(scope="module")
def fixed_classes() -> ModuleType:
    return script("fixed_classes")


def test_without_photos_it_says_what_is_missing(fixed_classes, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_BENCH_CIFAR_ZIP", str(tmp_path / "absent.zip"))
    with pytest.raises(SystemExit, match="FEWSHOT_BENCH_CIFAR_ZIP"):
        fixed_classes.main([])


def test_sets_of_photos_become_a_row_and_scatter_more_than_episodes_say(fixed_classes):
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 1, 16))
    photos = (centres + 1.5 * generator.normal(size=(4, 240, 16))).astype(np.float32)
    sets = [fixed_classes.one_set(photos[:, at : at + 30], 1, 200, at) for at in range(0, 240, 30)]
    assert all(drawn.images.shape == (200, 4, 16) for drawn in sets)
    cells = fixed_classes.row(sets, 30, 1).strip("| ").split(" | ")
    assert cells[:3] == ["30", "8", "1"]
    scatter, over_images, over_episodes = (float(cell) for cell in cells[4:7])
    assert over_episodes < over_images
    assert scatter > over_episodes
    assert int(cells[7]) >= int(cells[8])

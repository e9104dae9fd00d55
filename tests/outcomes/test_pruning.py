from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_cells import CELL, PROTOCOL, everything, filled

from fewshot_bench.errors import OutcomeError, UnknownNameError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.maintenance import cell_named, prune

OTHER = replace(CELL, method=replace(CELL.method, name="conv/logistic", adaptation="logistic"))


@pytest.fixture
def store(tmp_path):
    return filled(filled(OutcomeStore(tmp_path)), OTHER)


@pytest.mark.parametrize("name", [CELL.key, CELL.key[:4], "conv/centroid", CELL.method.label])
def test_a_cell_is_found_by_key_name_or_label_and_nothing_else_goes(store, tmp_path, name):
    (tmp_path / CELL.key / "leases").mkdir()
    (tmp_path / CELL.key / "leases" / "run-000-episodes-00000-00512.0.lease").touch()
    store.record_failure(CELL, 5, np.arange(3), "x")
    kept = {name: content for name, content in everything(tmp_path).items() if name.startswith(OTHER.key)}
    folder, cell = cell_named(tmp_path, name)
    assert (folder.name, cell) == (CELL.key, CELL)
    prune(folder)
    assert everything(tmp_path) == kept
    assert not folder.exists()


def test_a_name_of_several_cells_is_refused_with_their_keys(store, tmp_path):
    filled(store, replace(CELL, protocol=replace(PROTOCOL, shot=5)))
    with pytest.raises(OutcomeError, match=rf"means 2 cells: .*{CELL.key} \(conv/centroid, toy 3-way 1-shot\)"):
        cell_named(tmp_path, "conv/centroid")


@pytest.mark.parametrize("name", ["conv/centroids", CELL.key[:3], "", "."])
def test_an_unknown_name_offers_the_nearest(store, tmp_path, name):
    with pytest.raises(UnknownNameError, match=r"there is no cell called"):
        cell_named(tmp_path, name)


def test_a_kill_leaves_no_cell_and_the_same_command_ends_it(store, tmp_path, monkeypatch):
    removed = []

    def killed(place):
        if removed:
            raise KeyboardInterrupt
        removed.append(place)
        place.unlink()

    monkeypatch.setattr("fewshot_bench.outcomes.maintenance.remove", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(tmp_path / CELL.key)
    monkeypatch.undo()
    assert store.cells() == [OTHER]
    folder, cell = cell_named(tmp_path, CELL.key)
    assert cell is None
    prune(folder)
    assert not folder.exists()

from __future__ import annotations

import json

import numpy as np
import pytest

from fewshot_bench.datasets.dataset import split_fingerprint
from fewshot_bench.datasets.store import WholeSplit, is_stored, open_stored, read_description, store_dataset
from fewshot_bench.errors import DatasetError


def content(seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return {"novel": WholeSplit(images, ("a", "b"), (4, 2))}


def test_what_is_stored_is_what_is_opened():
    images = content()["novel"].images
    stored = store_dataset("mine", content(), {"source": "test"})
    split = open_stored("mine").novel
    assert (np.asarray(split.images) == images).all()
    assert isinstance(split.images, np.memmap)
    assert split.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert [split.image_id(index) for index in (0, 3, 4)] == ["a/0000", "a/0003", "b/0000"]
    assert stored.preprocessing == {"source": "test"}


def test_fingerprint_depends_on_pixels_names_sizes_and_order():
    split = content()["novel"]
    images, names, sizes = split.images, split.class_names, split.class_sizes
    other = images.copy()
    other[5, 7, 7, 2] ^= 1
    fingerprints = {
        split_fingerprint(images, names, sizes),
        split_fingerprint(other, names, sizes),
        split_fingerprint(images, ("a", "c"), sizes),
        split_fingerprint(images, names, (3, 3)),
        split_fingerprint(images[::-1], names, sizes),
    }
    assert len(fingerprints) == 5


def test_other_pixels_never_replace_stored_ones_unasked():
    first = store_dataset("mine", content(), {})
    with pytest.raises(DatasetError, match="already stored"):
        store_dataset("mine", content(seed=1), {})
    assert open_stored("mine").fingerprint == first.fingerprint
    assert store_dataset("mine", content(seed=1), {}, replace=True).fingerprint != first.fingerprint


def test_the_same_pixels_may_be_stored_again(home):
    first = store_dataset("mine", content(), {})
    assert store_dataset("mine", content(), {}).fingerprint == first.fingerprint
    assert [path.name for path in (home / "datasets").glob("[!.]*")] == ["mine"]
    generation = read_description("mine")["generation"]
    assert {path.name for path in (home / "datasets" / "mine").iterdir()} == {"dataset.json", generation}


def test_a_missing_split_is_named():
    with pytest.raises(DatasetError, match="mine has no base split; it has novel"):
        store_dataset("mine", content(), {}).split("base")


@pytest.mark.parametrize("damage", ["truncate", "json", "rows"])
def test_damaged_files_are_an_error_with_a_way_out(home, damage):
    store_dataset("mine", content(), {})
    folder = home / "datasets" / "mine"
    if damage == "truncate":
        (images,) = folder.glob("*/novel.npy")
        images.write_bytes(images.read_bytes()[:200])
    elif damage == "json":
        (folder / "dataset.json").write_text("{")
    else:
        description = json.loads((folder / "dataset.json").read_text())
        description["splits"]["novel"]["class_sizes"] = [4, 1]
        (folder / "dataset.json").write_text(json.dumps(description))
    assert is_stored("mine")
    with pytest.raises(DatasetError, match="Import it again"):
        open_stored("mine")

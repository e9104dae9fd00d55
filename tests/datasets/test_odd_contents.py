"""Files that are read without a fault, and hold something else than the layout whose keys they have."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from samples import files_in

from fewshot_bench.datasets import import_dataset
from fewshot_bench.datasets.check import check_place
from fewshot_bench.errors import FewshotBenchError

pytestmark = pytest.mark.slow

PICTURES, ROWS = np.zeros((4, 12, 12, 3), np.uint8), np.zeros((4, 3072), np.uint8)
ODD = {
    "None": None,
    "a number": 5,
    "a text": "abcd",
    "an empty list": [],
    "texts": ["a"] * 4,
    "fractions": [0.5] * 4,
    "negative numbers": [-1] * 4,
    "numbers beyond 64 bits": [2**70] * 4,
    "a dictionary": {"n00000001": [0, 1]},
    "a dictionary of numbers": {"n00000001": 1, "n00000004": None},
    "an array without axes": np.zeros(()),
    "a square": np.zeros((4, 4)),
    "no pictures": PICTURES[:0],
    "pictures without pixels": np.zeros((4, 0, 0, 3), np.uint8),
    "pictures": PICTURES,
    "rows": ROWS,
    "lists of two lengths": [[1], [2, 3]],
}
KEYS = (
    ("data", "labels"),
    ("data", "fine_labels"),
    ("features", "targets"),
    ("image_data", "class_dict"),
    ("data", "labels", "catname2label"),
)


def assert_one_line_at_most(folder, home) -> None:
    for read in (
        check_place,
        lambda place: import_dataset("cifar-fs", place),
        lambda place: import_dataset("mini-imagenet", place),
        lambda place: import_dataset("tiered-imagenet", place),
    ):
        try:
            read(folder)
        except FewshotBenchError as error:
            message = str(error)
            assert len(message.splitlines()) == 1
    assert not home.exists() or not files_in(home)


@pytest.mark.parametrize("case", ODD)
def test_odd_labels_or_pictures_under_the_keys_of_a_layout_are_one_line(tiny, tmp_path, home, case):
    folder = tmp_path / "place"
    folder.mkdir()
    for keys, others in itertools.product(KEYS, (PICTURES, ROWS, [0, 0, 1, 1], {"n00000001": 0, "n00000004": 1})):
        for place in range(len(keys)):
            content = dict.fromkeys(keys, others) | {keys[place]: ODD[case]}
            for pictures in (PICTURES, ROWS) if place else (content[keys[0]],):
                content[keys[0]] = pictures
                (folder / "a_train.pickle").write_bytes(pickle.dumps(content))
                assert_one_line_at_most(folder, home)


@pytest.mark.parametrize("case", ODD)
def test_odd_labels_beside_pictures_are_one_line(tiny, tmp_path, home, case):
    folder = tmp_path / "place"
    folder.mkdir()
    encoded = [np.zeros(5, np.uint8)] * 4
    for images, name in itertools.product((encoded, {"images": PICTURES}, ODD[case]), (ODD[case], ["a", "b"])):
        (folder / "train_images_png.pkl").write_bytes(pickle.dumps(images))
        labels = {"label_specific": ODD[case], "label_specific_str": name, "labels": ODD[case]}
        (folder / "train_labels.pkl").write_bytes(pickle.dumps(labels))
        assert_one_line_at_most(folder, home)

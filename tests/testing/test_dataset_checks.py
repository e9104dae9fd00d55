"""Every check of a dataset finds what it is for, in datasets that somebody could write."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import toy_split

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.datasets.dataset import split_fingerprint
from fewshot_bench.testing import DATASET_PROPERTIES, ConformanceError, check_dataset


def good() -> Dataset:
    splits = {"base": toy_split("base", classes=4, images=4), "novel": toy_split(classes=3, images=4)}
    return Dataset("toy", splits)  # type: ignore[arg-type]


def with_novel(**changes: Any) -> Callable[[], Dataset]:
    """The good dataset, but for its novel split."""
    novel = replace(good().novel, **changes)
    if "fingerprint" not in changes:
        novel = replace(novel, fingerprint=split_fingerprint(novel.images, novel.class_names, novel.class_sizes))
    return lambda: Dataset("toy", {"base": good().base, "novel": novel})


def random_one() -> Callable[[], Dataset]:
    seeds = itertools.count()
    return lambda: Dataset("toy", {"novel": toy_split(seed=next(seeds))})


PIXELS = good().novel.images
BROKEN: Mapping[str, Mapping[str, Callable[[], Any]]] = {
    "splits": {
        "nothing": lambda: None,
        "an array": lambda: PIXELS,
        "no novel split": lambda: Dataset("toy", {"base": good().base}),
        "another name": lambda: Dataset("mine", {"novel": good().novel}),
        "another split": lambda: Dataset("toy", {"novel": good().base}),
        "no such split": lambda: Dataset("toy", {**good().splits, "meta-test": good().novel}),  # type: ignore[dict-item]
        "an error": lambda: [][1],  # type: ignore[misc]
    },
    "classes": {
        "in two splits": with_novel(class_names=("base-0", "b", "c")),
        "one name twice": with_novel(class_names=("a", "a", "c")),
        "without a name": with_novel(class_names=("a", "", "c")),
        "too few names": with_novel(class_names=("a", "b")),
        "sizes of fewer images": with_novel(class_sizes=(4, 4, 3)),
        "a single image": with_novel(class_sizes=(1, 7, 4)),
        "a single class": with_novel(class_names=("a",), class_sizes=(12,)),
    },
    "images": {
        "floats": with_novel(images=PIXELS / np.float32(255)),
        "channels first": with_novel(images=PIXELS.transpose(0, 3, 1, 2)),
        "no channels": with_novel(images=PIXELS[..., 0]),
        "with alpha": with_novel(images=PIXELS[..., [0, 1, 2, 0]]),
        "all the same": with_novel(images=np.zeros_like(PIXELS)),
        "too few names": with_novel(image_names=np.array([b"a"])),
    },
    "fingerprints": {"made up": with_novel(fingerprint="1234"), "random images": random_one()},
}
CASES = [(name, how) for name, datasets in BROKEN.items() for how in datasets]


@pytest.mark.parametrize(("name", "how"), CASES, ids=lambda text: text)
def test_a_dataset_that_lacks_a_property_is_told_which(name: str, how: str) -> None:
    with pytest.raises(ConformanceError, match=f"lacks the property '{name}': "):
        check_dataset(BROKEN[name][how], name)


def test_every_property_has_a_dataset_that_lacks_it() -> None:
    assert set(BROKEN) == set(DATASET_PROPERTIES)


@pytest.mark.parametrize("dataset", [good, good(), "glyphs"], ids=["function", "dataset", "name"])
def test_what_has_all_properties_passes_as_function_dataset_or_name(dataset: Any) -> None:
    check_dataset(dataset)


def test_a_dataset_for_classification_shares_its_classes() -> None:
    split = good().novel
    shared = {name: replace(split, name=name) for name in ("train", "test")}
    check_dataset(Dataset("toy", shared))  # type: ignore[arg-type]


def test_a_dataset_that_code_opens_is_listed_as_ready(capsys: pytest.CaptureFixture[str]) -> None:
    DATASETS.register("own-toy", "for this test")(good)
    assert exit_code(["ls", "datasets", "own-toy"]) == 0
    assert "[ready]" in capsys.readouterr().out
    assert exit_code(["ls", "datasets", "cifar-fs"]) == 0
    assert "[not imported" in capsys.readouterr().out


def test_what_is_no_dataset_is_refused() -> None:
    with pytest.raises(ConformanceError, match="Pass a function that returns a Dataset"):
        check_dataset(PIXELS)  # type: ignore[arg-type]

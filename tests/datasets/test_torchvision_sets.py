"""torchvision's datasets by name: the same images and labels as torchvision gives, from tiny copies of its files."""

from __future__ import annotations

import pickle
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torchvision
from torchvision_files import CHECKED, CLASSES, WRITERS

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import OwnOptions, check_name, open_dataset
from fewshot_bench.datasets.catalogue import may_be_shown
from fewshot_bench.datasets.check import check_place
from fewshot_bench.datasets.torchvision_sets import _ELSEWHERE, _SETS, _WITHOUT_A_CLASS, list_torchvision
from fewshot_bench.errors import DatasetError, UnknownNameError


class _Npz:
    """What torchvision asks of h5py.File."""

    def __init__(self, path: Path) -> None:
        self._held = np.load(path, allow_pickle=False)

    def __enter__(self):
        return self._held

    def __exit__(self, *_):
        self._held.close()


@pytest.fixture(autouse=True)
def tiny_files_pass_for_the_published_ones(monkeypatch):
    for module in CHECKED:
        monkeypatch.setattr(f"torchvision.datasets.{module}.check_integrity", lambda *_, **__: True)
    monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=_Npz))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [["data_batch_1", ""]])


def own(root: Path, **options) -> OwnOptions:
    return OwnOptions(root=str(root), **options)


def images_by_class(split) -> dict[str, Counter]:
    return {
        name: Counter(image.tobytes() for image in split.images[split.labels == label])
        for label, name in enumerate(split.class_names)
    }


def test_every_set_has_a_tiny_copy_and_a_class_and_the_rest_of_torchvision_is_answered():
    assert set(WRITERS) == set(_SETS)
    answered = {*_SETS, *_ELSEWHERE, *_WITHOUT_A_CLASS}
    known = {name for name in torchvision.datasets.__all__ if isinstance(getattr(torchvision.datasets, name), type)}
    assert known - {"VisionDataset"} == answered


@pytest.mark.parametrize("name", WRITERS)
def test_a_set_has_the_images_and_labels_that_torchvision_gives(name, tmp_path):
    WRITERS[name](tmp_path)
    dataset = open_dataset(f"torchvision:{name}", own=own(tmp_path))
    part, arguments = next(iter(_SETS[name].parts.items()))
    no_download = {"download": False} if name == "SEMEION" else {}
    reference = getattr(torchvision.datasets, name)(str(tmp_path), **arguments, **no_download)
    expected: dict[int, Counter] = {}
    for image, label in (reference[row] for row in range(len(reference))):
        expected.setdefault(int(label), Counter())[np.asarray(image.convert("RGB")).tobytes()] += 1
    assert list(dataset.splits) == ["novel"]
    found = images_by_class(dataset.novel)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected.values()))
    assert sum(map(len, found.values())) == len(reference)
    classes = getattr(reference, "classes", None) or getattr(reference, "categories", None)
    for label, images in expected.items():
        if classes:
            text = classes[label] if isinstance(classes[label], str) else ", ".join(classes[label])
            assert found[text] == images
    assert dataset.name == name
    assert dataset.identified_by == "pixels"
    assert dataset.preprocessing["source"] == f"torchvision's {name}" + (f", {part} part" if part != "all" else "")
    assert not may_be_shown(dataset)


def test_another_part_is_another_dataset(tmp_path):
    WRITERS["DTD"](tmp_path)
    test, train = (open_dataset(f"torchvision:DTD{part}", own=own(tmp_path)) for part in ("", ":train"))
    assert (test.name, train.name) == ("DTD", "DTD-train")
    assert train.preprocessing["source"] == "torchvision's DTD, train part"
    assert test.fingerprint != train.fingerprint
    assert test.novel.image_id(0) == "apple/dtd/dtd/images/apple/apple_2.jpg"
    with pytest.raises(UnknownNameError, match=r"part of DTD called 'tset'\. Did you mean test"):
        open_dataset("torchvision:DTD:tset", own=own(tmp_path))


def test_classes_without_names_are_numbered_so_that_they_sort(tmp_path):
    WRITERS["GTSRB"](tmp_path)
    rows = "".join(f"{number:05d}.ppm;{label}\n" for number, label in enumerate((2, 10, 2, 10, 3, 3)))
    (tmp_path / "gtsrb/GT-final_test.csv").write_text("Filename;ClassId\n" + rows)
    assert open_dataset("torchvision:GTSRB", own=own(tmp_path)).novel.class_names == ("02", "03", "10")


def test_classes_can_be_divided_and_a_changed_file_is_read_again(tmp_path):
    WRITERS["EuroSAT"](tmp_path)
    divided = open_dataset("torchvision:EuroSAT", own=own(tmp_path, fractions=(0.3, 0.3, 0.4)))
    assert {name: len(split.class_names) for name, split in divided.splits.items()} == {
        "base": 1, "validation": 1, "novel": 1,
    }  # fmt: skip
    before = open_dataset("torchvision:EuroSAT", own=own(tmp_path)).fingerprint
    assert open_dataset("torchvision:EuroSAT", own=own(tmp_path)).fingerprint == before
    image = tmp_path / "eurosat/2750/apple/apple_0.jpg"
    image.write_bytes((tmp_path / "eurosat/2750/plum/plum_1.jpg").read_bytes())
    assert open_dataset("torchvision:EuroSAT", own=own(tmp_path)).fingerprint != before


def test_an_unreadable_image_is_skipped_and_named(tmp_path):
    WRITERS["EuroSAT"](tmp_path)
    (tmp_path / "eurosat/2750/pear/pear_1.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n(ls) run")
    dataset = open_dataset("torchvision:EuroSAT", own=own(tmp_path))
    assert dataset.novel.class_sizes == (3, 2, 3)
    assert dataset.preprocessing["skipped"] == [
        ["pear/eurosat/2750/pear/pear_1.jpg", "not an image (or of a format that is not read)"]
    ]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("eurosat", "It is called EuroSAT"),
        ("Food102", "Food101"),
        ("nothing-like-it", "Known: CIFAR10, "),
        ("", "Known: CIFAR10, "),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(name, told):
    with pytest.raises(UnknownNameError, match=told):
        check_name(f"torchvision:{name}")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("CocoDetection", "is not for classification"),
        ("Kinetics", "is not for classification"),
        ("Omniglot", "fewshot-bench data import omniglot --from PATH"),
        ("ImageNet", "fewshot-bench data import imagenet-1k --from PATH"),
        ("LSUN", "unpickles a file"),
        ("ImageFolder", "--dataset PATH"),
    ],
)
def test_what_is_not_read_says_why_and_what_to_do(name, told):
    with pytest.raises(DatasetError, match=told):
        check_name(f"torchvision:{name}")


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_without_the_set_says_how_to_fetch_it_and_stays_empty(name, tmp_path):
    with pytest.raises(DatasetError, match=rf"torchvision:{name} is not in .*expected") as raised:
        list_torchvision(f"torchvision:{name}", str(tmp_path))
    assert ("download=True" in str(raised.value)) is (name not in ("FER2013", "LFWPeople", "StanfordCars"))
    assert not list(tmp_path.iterdir())


def test_half_a_set_says_what_torchvision_misses(tmp_path):
    (tmp_path / "dtd").mkdir()
    with pytest.raises(DatasetError, match=r"Dataset not found.*Fetch it with: python -c \"from torchvision.datasets"):
        open_dataset("torchvision:DTD", own=own(tmp_path))


def test_a_root_is_needed_and_is_for_torchvision_alone(tmp_path):
    with pytest.raises(DatasetError, match="torchvision:DTD needs --root PATH"):
        open_dataset("torchvision:DTD")
    with pytest.raises(DatasetError, match="--root says where the files of torchvision:NAME lie"):
        open_dataset(tmp_path, own=own(tmp_path))
    with pytest.raises(DatasetError, match="--class-depth and --layout say what folders are"):
        open_dataset("torchvision:DTD", own=own(tmp_path, class_depth=2))


class _Hostile:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return (Path.write_text, (self.place, "yes"))


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_a_hostile_pickle_is_not_executed(name, tmp_path):
    WRITERS[name](tmp_path)
    file = next(path for path in tmp_path.glob("*/test*"))
    file.write_bytes(pickle.dumps({"data": _Hostile(tmp_path / "owned"), "labels": [], "fine_labels": []}))
    with pytest.raises(DatasetError, match="nothing was executed"):
        open_dataset(f"torchvision:{name}", own=own(tmp_path))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["MNIST", "QMNIST", "EMNIST", "KMNIST", "FashionMNIST"])
def test_files_of_torch_beside_digits_are_refused(name, tmp_path):
    WRITERS[name](tmp_path)
    (tmp_path / name / "processed").mkdir()
    (tmp_path / name / "processed/test.pt").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"processed holds files of an old torchvision.*Remove that folder"):
        open_dataset(f"torchvision:{name}", own=own(tmp_path))


def test_checking_a_set_prints_the_next_command(tmp_path):
    WRITERS["EuroSAT"](tmp_path)
    diagnosis = check_place("torchvision:EuroSAT", own(tmp_path))
    assert ("no splits", "3 classes, 9 images, 3 to 3 a class") in diagnosis.findings
    assert diagnosis.next_commands == [f"fewshot-bench run --dataset torchvision:EuroSAT --root {tmp_path}"]


@pytest.mark.slow
def test_a_set_runs_and_imports_through_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRITERS["EuroSAT"](tmp_path / "files")
    assert (
        exit_code(["data", "import", "land", "--from", "torchvision:EuroSAT", "--root", "files", "--size", "16"]) == 0
    )
    assert "torchvision's EuroSAT, resized to 16 x 16" in capsys.readouterr().out
    assert open_dataset("land").novel.class_names == CLASSES
    drawn = ["--backbone", "conv4_32", "--base-loss", "none", "--way", "2", "--shots", "1", "--query", "1"]
    run = [*drawn, "--image-size", "16", "--episodes", "20", "--runs", "1", "--device", "cpu"]
    assert exit_code(["run", "--dataset", "torchvision:EuroSAT", "--root", str(tmp_path / "files"), *run]) == 0
    assert "EuroSAT" in Path("results/leaderboard.csv").read_text()
    recorded = [path.read_text() for path in Path("results").rglob("*.json")]
    assert not any(str(tmp_path) in text for text in recorded)
    assert exit_code(["run", "--dataset", "glyphs", "--root", "files", *run]) == 2
    assert "--root" in capsys.readouterr().err

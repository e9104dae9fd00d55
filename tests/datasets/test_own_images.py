"""Anybody's own images, as people have them lying around."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archives import png, tarred, zipped
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.datasets import OwnOptions, import_own_images, open_dataset, open_own_images
from fewshot_bench.datasets.own_images import dataset_label, with_fractions
from fewshot_bench.datasets.own_listing import divide_by_class
from fewshot_bench.errors import DatasetError

CLASSES = ("ash", "birch", "cedar", "dogwood", "elm")


def picture(seed: int, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_classes(folder: Path, classes=CLASSES, images: int = 4, size: tuple[int, int] = (20, 20)) -> Path:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            (folder / name / f"{number}.png").write_bytes(png(picture(100 * label + number, size)))
    return folder


def write_splits(folder: Path, *, shared=False) -> Path:
    splits = {"train": CLASSES[:2], "val": CLASSES[2:3], "test": CLASSES[3:]}
    for split, classes in splits.items():
        write_classes(folder / split, CLASSES if shared else classes)
    return folder


def write_manifest(folder: Path, name: str, *, splits=False) -> Path:
    write_classes(folder / "pictures")
    rows = [
        {"path": f"pictures/{label}/{number}.png", "label": label}
        | ({"split": {"ash": "train", "birch": "val"}.get(label, "test")} if splits else {})
        for label in CLASSES
        for number in range(4)
    ]
    path = folder / name
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


UNDIVIDED = {
    "class folders": lambda at: write_classes(at / "trees"),
    "class folders in another folder": lambda at: write_classes(at / "trees" / "inner").parent,
    "zip": lambda at: zipped(write_classes(at / "unpacked"), at / "trees.zip"),
    "tar.gz": lambda at: tarred(write_classes(at / "unpacked"), at / "trees.tar.gz", "w:gz"),
    "CSV": lambda at: write_manifest(at, "trees.csv"),
    "TSV": lambda at: write_manifest(at, "trees.tsv"),
    "Parquet": lambda at: write_manifest(at, "trees.parquet"),
}


@pytest.mark.parametrize("layout", UNDIVIDED)
def test_images_without_splits_are_the_novel_split(tmp_path, layout):
    dataset = open_dataset(str(UNDIVIDED[layout](tmp_path)))
    assert dataset.name == "trees"
    assert set(dataset.splits) == {"novel"}
    assert dataset.novel.class_names == CLASSES
    assert dataset.novel.class_sizes == (4,) * 5
    expected = np.stack([picture(100 * label + number) for label in range(5) for number in range(4)])
    assert (dataset.novel.images == expected).all()
    assert dataset.novel.image_name(5).endswith("1.png")


DIVIDED = {
    "split folders": lambda at: write_splits(at / "trees"),
    "split folders in a zip": lambda at: zipped(write_splits(at / "unpacked"), at / "trees.zip"),
    "CSV": lambda at: write_manifest(at, "trees.csv", splits=True),
    "Parquet": lambda at: write_manifest(at, "trees.parquet", splits=True),
}


@pytest.mark.parametrize("layout", DIVIDED)
def test_splits_are_kept(tmp_path, layout):
    dataset = open_dataset(str(DIVIDED[layout](tmp_path)))
    assert list(dataset.splits) == ["base", "validation", "novel"]
    assert dataset.is_few_shot
    assert {name for split in dataset.splits.values() for name in split.class_names} == set(CLASSES)
    assert "elm" in dataset.novel.class_names
    assert "ash" in dataset.base.class_names


def test_splits_that_share_their_classes_are_those_of_classification(tmp_path):
    dataset = open_dataset(str(write_splits(tmp_path / "trees", shared=True)))
    assert list(dataset.splits) == ["train", "validation", "test"]
    assert not dataset.is_few_shot
    divided = open_dataset(str(tmp_path / "trees"), own=OwnOptions(fractions=(0.4, 0.2, 0.4)))
    assert [len(split.class_names) for split in divided.splits.values()] == [2, 1, 2]
    assert divided.novel.class_sizes == (12, 12)  # the images of all three folders


def test_every_class_goes_as_a_whole_to_one_split(tmp_path):
    source = str(write_classes(tmp_path / "trees"))
    options = with_fractions(OwnOptions(), "0.6,0.2,0.2", seed=3)
    first = import_own_images("first", source, options)
    again = import_own_images("again", source, options)
    assert [split.class_names for split in first.splits.values()] == [s.class_names for s in again.splits.values()]
    assert sorted(name for split in first.splits.values() for name in split.class_names) == list(CLASSES)
    others = [
        import_own_images(f"seed-{seed}", source, with_fractions(OwnOptions(), "0.6,0.2,0.2", seed)).novel.class_names
        for seed in range(8)
    ]
    assert len(set(others)) > 1


@given(
    classes=st.integers(3, 60),
    parts=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**40),
)
def test_a_division_covers_all_classes_once_in_the_asked_proportions(classes, parts, seed):
    fractions = [part / sum(parts) for part in parts]
    divided = divide_by_class({f"c{number}": [] for number in range(classes)}, fractions, seed)
    assert sorted(name for split in divided.values() for name in split) == sorted(f"c{n}" for n in range(classes))
    for split, fraction in zip(("base", "validation", "novel"), fractions, strict=True):
        assert (split in divided) == (fraction > 0)
        if fraction > 0:
            assert abs(len(divided[split]) - classes * fraction) < 2


@pytest.mark.parametrize("text", ["0.6,0.2", "a,b,c", "0.5,0.5,0.5", "1,0,0", "-1,1,1", "nan,0.5,0.5"])
def test_fractions_that_are_none_are_refused(text):
    with pytest.raises(DatasetError, match="--split takes"):
        with_fractions(OwnOptions(), text, 0)


def test_too_few_classes_to_divide_are_refused(tmp_path):
    source = str(write_classes(tmp_path / "trees", classes=CLASSES[:2]))
    with pytest.raises(DatasetError, match="2 classes cannot be divided into 3 splits"):
        open_own_images(source, OwnOptions(fractions=(0.4, 0.3, 0.3)))


def test_what_is_no_image_is_left_out_with_its_reason(tmp_path):
    folder = write_classes(tmp_path / "trees")
    (folder / "ash" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    (folder / "ash" / "notes.txt").write_text("tall")
    (folder / "birch" / "empty.png").write_bytes(b"")
    (folder / "stray.png").write_bytes(png(picture(0)))
    (folder / "cedar" / ".DS_Store").write_bytes(b"clutter")
    (folder / "empty class").mkdir()
    dataset = open_dataset(str(folder))
    reasons = dict(dataset.preprocessing["skipped"])
    assert set(reasons) == {"ash/cut.jpg", "ash/notes.txt", "birch/empty.png", "stray.png"}
    assert reasons["ash/notes.txt"] == "not an image"
    assert reasons["birch/empty.png"] == "the file is empty"
    assert reasons["stray.png"] == "outside of a class folder"
    assert dataset.novel.class_sizes == (4,) * 5


def test_a_class_of_which_nothing_can_be_read_is_no_class(tmp_path):
    folder = write_classes(tmp_path / "trees")
    for image in (folder / "birch").iterdir():
        image.write_bytes(b"GIF89a but no more")
    dataset = open_dataset(str(folder))
    assert dataset.novel.class_names == ("ash", "cedar", "dogwood", "elm")
    assert len(dataset.novel.images) == 16
    assert (dataset.novel.images[4] == picture(200)).all()


def test_classes_that_are_too_small_are_left_out_only_when_asked(tmp_path):
    folder = write_classes(tmp_path / "trees")
    (folder / "elm" / "3.png").unlink()
    assert open_dataset(str(folder)).novel.class_sizes == (4, 4, 4, 4, 3)
    strict = open_dataset(str(folder), own=OwnOptions(least_images=4))
    assert strict.novel.class_names == CLASSES[:4]
    assert strict.preprocessing["small_classes"] == {"elm": 3}
    with pytest.raises(DatasetError, match=r"no class of the novel split of .* has 9 images; the largest has 4"):
        open_dataset(str(folder), own=OwnOptions(least_images=9))


def test_images_of_many_sizes_become_224_pixels_and_small_equal_ones_stay(tmp_path):
    small = open_dataset(str(write_classes(tmp_path / "small")))
    assert small.novel.images.shape[1:] == (20, 20, 3)
    folder = write_classes(tmp_path / "mixed", size=(30, 40))
    assert open_dataset(str(folder)).novel.images.shape[1:] == (224, 224, 3)
    chosen = open_dataset(str(folder), own=OwnOptions(size=16, fit="squash", interpolation="box"))
    assert chosen.novel.images.shape[1:] == (16, 16, 3)
    assert chosen.preprocessing["fit"] == "squash"


def test_a_changed_file_is_read_again_and_an_unchanged_folder_is_not(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "trees")
    before = open_dataset(str(folder))
    with monkeypatch.context() as patch:
        patch.setattr("fewshot_bench.datasets.own_images.store_dataset", None)
        assert open_dataset(str(folder)).fingerprint == before.fingerprint
    path = folder / "ash" / "0.png"
    path.write_bytes(png(picture(999)))
    os.utime(path, (1, 1))
    after = open_dataset(str(folder))
    assert after.fingerprint != before.fingerprint
    assert (after.novel.images[0] == picture(999)).all()


def test_only_the_last_copies_of_a_folder_are_kept(tmp_path, home):
    folder = str(write_classes(tmp_path / "trees"))
    other = str(write_classes(tmp_path / "trees-2"))
    open_dataset(other)
    for size in range(16, 24):
        dataset = open_dataset(folder, own=OwnOptions(size=size))
        assert dataset.novel.images.shape[1] == size
    kept = sorted(path.name for path in (home / "cache" / "own-images").glob("[!.]*"))
    assert len([name for name in kept if name.startswith("trees-2-")]) == 1
    assert len(kept) == 5
    assert open_dataset(folder, own=OwnOptions(size=23)).fingerprint == dataset.fingerprint


def test_a_path_is_never_a_stored_dataset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    import_own_images("photos", str(write_classes(tmp_path / "elsewhere", CLASSES[:2])), OwnOptions())
    write_classes(tmp_path / "photos")
    assert open_dataset("photos").novel.class_names == CLASSES[:2]
    for path in ("./photos", "photos/", str(tmp_path / "photos"), tmp_path / "photos", Path("photos")):
        dataset = open_dataset(path)
        assert dataset.novel.class_names == CLASSES
        assert dataset.name == "photos"


def test_folders_of_class_folders_are_not_taken_for_classes(tmp_path):
    for kind, classes in (("animals", ("cat", "dog")), ("things", ("bus", "car"))):
        write_classes(tmp_path / "nest" / kind, classes)
    with pytest.raises(DatasetError, match="If animals/cat and animals/dog are two classes, add --class-depth 2"):
        open_dataset(tmp_path / "nest")
    for label in CLASSES[:2]:
        write_classes(tmp_path / "wrapped" / label, ("images",))
    assert open_dataset(tmp_path / "wrapped").novel.class_names == CLASSES[:2]


def test_a_link_that_leads_nowhere_is_left_out(tmp_path):
    folder = write_classes(tmp_path / "trees")
    (folder / "ash" / "dead.png").symlink_to(tmp_path / "gone.png")
    dataset = open_dataset(folder)
    assert dataset.novel.class_sizes == (4,) * 5
    ((name, reason),) = dataset.preprocessing["skipped"]
    assert name == "ash/dead.png"
    assert "cannot be opened" in reason


def test_a_folder_is_called_the_same_wherever_it_lies(tmp_path):
    write_classes(tmp_path / "here" / "My trees!")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (open_dataset(str(tmp_path / place / "My trees!")) for place in ("here", "there"))
    assert here.name == there.name == "My-trees"
    assert here.fingerprint == there.fingerprint


def test_a_folder_called_like_a_benchmark_is_not_that_benchmark(tmp_path):
    dataset = open_dataset(str(write_classes(tmp_path / "cifar-fs")))
    assert dataset.name == "own-cifar-fs"


def test_an_imported_name_is_a_dataset_like_any_other(tmp_path):
    import_own_images("my-trees", str(write_classes(tmp_path / "trees")), OwnOptions())
    shutil.rmtree(tmp_path / "trees")
    assert open_dataset("my-trees").novel.class_names == CLASSES
    with pytest.raises(DatasetError, match="cannot name a dataset"):
        import_own_images("../up", str(write_classes(tmp_path / "trees")), OwnOptions())


@pytest.mark.parametrize(
    ("source", "label"),
    [("a/b/photos", "photos"), ("ünique (2)", "nique-2"), ("hf:user/set", "set"), ("a/---", "own-images")],
)
def test_labels_are_plain_names(source, label):
    assert dataset_label(source) == label


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda at: at / "nothing", "does not exist"),
        (lambda at: "", "should be a folder, an archive or a table"),
        (lambda at: "hf:", "should be a folder, an archive or a table"),
        (lambda at: _file(at / "page.zip", b"<!DOCTYPE html><html>"), "is a web page"),
        (lambda at: _file(at / "void.zip", b""), "is empty"),
        (lambda at: _embedded(at / "m.parquet"), "holds images, not their paths"),
        (lambda at: _file(at / "a.txt", b"hello"), "neither an archive nor a table"),
        (lambda at: _folder(at / "void"), "holds no images"),
        (lambda at: _file(_folder(at / "flat") / "a.png", png(picture(0))).parent, "no folders that say which class"),
        (lambda at: _file(at / "m.csv", b"image_id,kind\n1,2\n"), "has no column 'path'"),
        (lambda at: _file(at / "m.csv", b"path,label\nnot-there.png,a\n"), "not-there.png: no such file"),
        (lambda at: _file(at / "m.csv", b""), "cannot be read as a table"),
        (lambda at: _file(at / "m.parquet", b"PAR1 and no more"), "cannot be read as a table"),
        (lambda at: _file(at / "m.csv", b'path,label\n"unclosed,a\n'), "is no table|names no image"),
    ],
)
def test_what_is_no_dataset_is_answered_in_one_line(tmp_path, make, complaint):
    with pytest.raises(DatasetError, match=complaint) as caught:
        open_own_images(str(make(tmp_path)), OwnOptions())
    assert "\n" not in str(caught.value)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _embedded(path: Path) -> Path:
    pd.DataFrame({"image": [{"bytes": b"\xff\xd8", "path": None}], "label": [0]}).to_parquet(path)
    return path


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_manifest_names_what_it_cannot_use(tmp_path):
    path = write_manifest(tmp_path, "trees.csv")
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([["gone.png", "ash"], ["pictures/ash/0.png", ""], ["", "ash"]])
    reasons = [reason for _, reason in open_dataset(str(path)).preprocessing["skipped"]]
    assert reasons == ["no such file", "no label", "no path"]
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(["pictures/ash/0.png", "ash"])
    again = open_dataset(str(path))
    assert again.novel.class_sizes == (4,) * 5
    assert again.preprocessing["skipped"][-1] == ["row 24, pictures/ash/0.png", "the same row comes before"]


def test_a_manifest_with_an_unknown_split_is_refused(tmp_path):
    path = write_manifest(tmp_path, "trees.csv", splits=True)
    path.write_text(path.read_text().replace(",val", ",held-out"))
    with pytest.raises(DatasetError, match="has the split 'held-out'; train, val and test"):
        open_dataset(str(path))


@pytest.fixture
def hugging_face():
    datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    datasets.disable_progress_bars()
    return datasets


def hugging_face_table(datasets, classes, *, names=CLASSES):
    rows = [(label, number) for label in classes for number in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    content = {
        "image": [{"bytes": png(picture(100 * names.index(label) + number)), "path": None} for label, number in rows],
        "label": [names.index(label) for label, _ in rows],
    }
    return datasets.Dataset.from_dict(content, features=features)


def test_a_hugging_face_dataset_on_disk_is_read(tmp_path, hugging_face):
    hugging_face_table(hugging_face, CLASSES).save_to_disk(str(tmp_path / "trees"))
    dataset = open_dataset(str(tmp_path / "trees"))
    assert dataset.novel.class_names == CLASSES
    expected = np.stack([picture(100 * label + number) for label in range(5) for number in range(4)])
    assert (dataset.novel.images == expected).all()


def test_the_splits_of_a_hugging_face_dataset_are_kept(tmp_path, hugging_face):
    parts = {"train": CLASSES[:2], "validation": CLASSES[2:3], "test": CLASSES[3:]}
    tables = {name: hugging_face_table(hugging_face, classes) for name, classes in parts.items()}
    hugging_face.DatasetDict(tables).save_to_disk(str(tmp_path / "trees"))
    dataset = open_dataset(str(tmp_path / "trees"))
    assert {name: split.class_names for name, split in dataset.splits.items()} == {
        "base": CLASSES[:2], "validation": CLASSES[2:3], "novel": CLASSES[3:],
    }  # fmt: skip


def test_a_hugging_face_dataset_that_cannot_be_had_is_one_line(tmp_path, hugging_face, monkeypatch):
    monkeypatch.setattr("fewshot_bench.datasets.own_tables.why_hub_is_away", lambda: "")
    monkeypatch.setattr(hugging_face, "load_dataset", _no_internet)
    with pytest.raises(DatasetError, match=r"hf:somebody/something cannot be loaded .*no way out") as caught:
        open_dataset("hf:somebody/something")
    assert "\n" not in str(caught.value)
    hugging_face.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(DatasetError, match="lacks a column of images or one of classes; its columns are text, label"):
        open_dataset(str(tmp_path / "texts"))


def _no_internet(*_: object) -> None:
    raise ConnectionError("no way out\nand more")

"""Folders and archives of one's own images: what is a class, a split, clutter, and one name in two Unicode forms."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from archives import png
from samples import class_images, write_folder, write_tar, write_zip

from fewshot_bench.datasets import OwnOptions, open_dataset
from fewshot_bench.datasets.check import check_place
from fewshot_bench.datasets.dataset import left_out_lines
from fewshot_bench.datasets.official_splits import published_split
from fewshot_bench.datasets.sources.tree import CLUTTER as CLUTTER_NAMES
from fewshot_bench.datasets.sources.tree import clutter_in, clutter_kind
from fewshot_bench.errors import DatasetError

FORMS = ("folder", "zip", "tar")
BLACK = png(np.zeros((12, 12, 3), np.uint8))


def written(kind: str, at: Path, members: list[tuple[str, bytes]]) -> Path:
    at.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        return write_folder(at / "mine", members)
    return write_zip(at / "mine.zip", members) if kind == "zip" else write_tar(at / "mine.tar", members)


def images(*places: str, seed: int = 0) -> list[tuple[str, bytes]]:
    """Three images in each folder."""
    return class_images(places, seed=seed)


# Clutter.

CLUTTER = {
    "cat/@eaDir/0.png": "@eaDir",
    "cat/@eaDir/0.png/SYNOFILE_THUMB_M.png": "@eaDir",
    "cat/SYNOFILE_THUMB_XL.png": "SYNOFILE_THUMB_*",
    "cat/SYNOPHOTO_THUMB_B.jpg": "SYNOPHOTO_THUMB_*",
    "cat/.thumbnails/0.png": "hidden",
    "cat/.@__thumb/0.png": "hidden",
    ".thumbs/x/0.png": "hidden",
    "cat/._0.png": "hidden",
    "cat/.DS_Store": "hidden",
    ".AppleDouble/cat/0.png": "hidden",
    "__MACOSX/cat/0.png": "__MACOSX",
    "cat/Thumbs.db": "Thumbs.db",
    "cat/THUMBS.DB": "Thumbs.db",
    "cat/ehthumbs_vista.db": "ehthumbs*.db",
    "cat/desktop.ini": "desktop.ini",
    "cat/Desktop.ini": "desktop.ini",
    "#recycle/cat/0.png": "#recycle",
    "@Recycle/cat/0.png": "@Recycle",
    "@Recently-Snapshot/a/cat/0.png": "@Recently-Snapshot",
    "$RECYCLE.BIN/S-1-5/0.png": "$RECYCLE.BIN",
    "$Recycle.Bin/S-1-5/0.png": "$RECYCLE.BIN",
    "System Volume Information/0.png": "System Volume Information",
    "lost+found/0.png": "lost+found",
    ".ipynb_checkpoints/0-checkpoint.png": "hidden",
    "cat/.ipynb_checkpoints/0-checkpoint.png": "hidden",
    ".git/objects/0.png": "hidden",
    ".dropbox.cache/0.png": "hidden",
    ".stversions/cat/0.png": "hidden",
    ".stfolder/0.png": "hidden",
    ".sync/Archive/0.png": "hidden",
    ".Trash-1000/files/0.png": "hidden",
    ".picasaoriginals/0.png": "hidden",
    "cat/.picasa.ini": "hidden",
    "cat/Picasa.ini": "Picasa.ini",
    "cat/~syncthing~0.png.tmp": "~syncthing~*",
    "cat/~$0.png": "~$*",
    "cat/0.png~": "*~",
    "__pycache__/0.png": "__pycache__",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("path", CLUTTER)
def test_what_systems_and_synchronisers_leave_is_no_image_and_is_told(tmp_path, kind, path):
    clean = open_dataset(written(kind, tmp_path / "clean", images("cat", "dog")))
    place = written(kind, tmp_path / "cluttered", [*images("cat", "dog"), (path, BLACK)])
    dataset = open_dataset(place)
    assert dataset.fingerprint == clean.fingerprint
    assert dataset.preprocessing["clutter"] == {CLUTTER[path]: 1}
    assert dataset.preprocessing["skipped"] == []
    (line,) = left_out_lines(dataset.preprocessing)
    assert line.startswith(f"files and folders of systems and synchronisers (1 {CLUTTER[path]})")
    assert left_out_lines(clean.preprocessing) == []
    assert ("left out", line) in check_place(place).findings


@pytest.mark.parametrize(
    "name", ["thumbs", "Thumbs", "thumbnails", "recycle", "tmp", "desktop", "Icon", "eaDir", "@home", "#1", "$5", "a~b"]
)
def test_a_class_of_a_similar_name_is_a_class(tmp_path, name):
    assert clutter_kind(name) is None
    assert name in open_dataset(written("folder", tmp_path, images("cat", name))).novel.class_names


def test_clutter_is_counted_once_by_its_outermost_folder():
    assert clutter_in("a/@eaDir/b/.x/SYNOFILE_THUMB_M.png") == ("a/@eaDir", "@eaDir")
    assert clutter_in("a/b.png") is None


def test_clutter_that_comes_later_is_told_without_reading_the_images_again(tmp_path, monkeypatch):
    folder = written("folder", tmp_path, images("cat", "dog"))
    open_dataset(folder)
    (folder / "cat" / ".DS_Store").write_bytes(b"")
    monkeypatch.setattr("fewshot_bench.datasets.own_images.store_dataset", None)
    assert open_dataset(folder).preprocessing["clutter"] == {"hidden": 1}


# Splits and classes.


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "base") for name in ("train", "Train", "TRAINING", "trainset", "train_set", "meta-train", "base")),
        *((name, "validation") for name in ("val", "valid", "Validation", "dev", "meta_val")),
        *((name, "novel") for name in ("test", "testing", "Testing", "novel", "evaluation", "eval", "tst", "metatest")),
        ("images_background", "base"),
        ("images_evaluation", "novel"),
        *((name, None) for name in ("trainer", "trains", "background", "tested", "attest", "extra", "unlabeled")),
    ],
)
def test_how_splits_are_spelt(name, split):
    assert published_split(name) == (None if name == "metatest" else split)


@pytest.mark.parametrize("kind", FORMS)
def test_training_beside_testing_are_splits(tmp_path, kind):
    dataset = open_dataset(
        written(kind, tmp_path, images("training/cat", "training/dog", "testing/owl", "testing/yak"))
    )
    assert dataset.base.class_names == ("cat", "dog")
    assert dataset.novel.class_names == ("owl", "yak")


AMBIGUOUS = {
    "vehicles": ("train/steam", "train/electric", "bus", "car"),
    "vehicles of two kinds": ("train/steam", "train/electric", "bus/city", "bus/school", "car/small", "car/large"),
    "an unknown split": ("train/cat", "train/dog", "extra/owl", "extra/yak"),
    "a test without classes": ("train/cat", "train/dog", "test"),
    "novel": ("novel/poetry", "novel/prose", "letter", "diary"),
    "base": ("base/acid", "base/salt", "height", "width"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMS)
@pytest.mark.parametrize("case", AMBIGUOUS)
def test_folders_beside_splits_are_not_guessed_at(tmp_path, kind, case):
    place = written(kind, tmp_path, images(*AMBIGUOUS[case]))
    for look in (open_dataset, check_place):
        with pytest.raises(DatasetError, match=r"is .* a split of class folders, or a class beside") as caught:
            look(place)
        assert "takes every folder as a class; --layout splits takes" in str(caught.value)
    dataset = open_dataset(place, own=OwnOptions(layout="classes"))
    assert dataset.novel.class_names == tuple(sorted({path.partition("/")[0] for path in AMBIGUOUS[case]}))
    assert len(dataset.novel) == 3 * len(AMBIGUOUS[case])
    assert dataset.preprocessing["layout"] == "classes"


def test_splits_can_be_asked_for_and_the_rest_is_left_out_and_named(tmp_path):
    place = written("folder", tmp_path, images(*AMBIGUOUS["an unknown split"]))
    dataset = open_dataset(place, own=OwnOptions(layout="splits"))
    assert dataset.base.class_names == ("cat", "dog")
    assert left_out_lines(dataset.preprocessing) == ["extra: not a split"]
    other = written("folder", tmp_path / "other", images("cat", "dog"))
    with pytest.raises(DatasetError, match="has no folder that is called like a split"):
        open_dataset(other, own=OwnOptions(layout="splits"))


@pytest.mark.parametrize("name", ["train", "test", "val", "base", "novel", "evaluation"])
def test_a_class_called_like_a_split_is_a_class_where_its_images_lie_in_it(tmp_path, name):
    dataset = open_dataset(written("folder", tmp_path, images(name, "bus", "car")))
    assert dataset.novel.class_names == tuple(sorted((name, "bus", "car")))


def test_splits_without_classes_are_not_two_classes(tmp_path):
    place = written("folder", tmp_path, images("train", "test"))
    with pytest.raises(DatasetError, match="test, train hold images, but no folders that say which class each is of"):
        open_dataset(place)
    assert open_dataset(place, own=OwnOptions(layout="classes")).novel.class_names == ("test", "train")


def test_folders_without_images_beside_splits_are_left_out_and_named(tmp_path):
    place = written("folder", tmp_path, [*images("train/cat", "test/dog"), ("docs/read.txt", b"me"), ("x.csv", b"a")])
    dataset = open_dataset(place)
    assert list(dataset.splits) == ["base", "novel"]
    assert dict(dataset.preprocessing["skipped"]) == {"x.csv": "outside of a class folder", "docs": "not a split"}


def test_a_text_beside_the_folder_around_everything_does_not_matter(tmp_path):
    place = written("folder", tmp_path, [*images("data/train/cat", "data/test/dog"), ("README.md", b"read me")])
    dataset = open_dataset(place)
    assert list(dataset.splits) == ["base", "novel"]
    assert dataset.preprocessing["skipped"] == [["README.md", "outside of a class folder"]]


def test_splits_within_classes_are_not_guessed_at(tmp_path):
    place = written("folder", tmp_path, images("cat/test", "cat/train", "dog/test", "dog/train"))
    with pytest.raises(
        DatasetError, match=r"If cat/test and cat/train are two classes.*if they are one class, --class-d"
    ):
        open_dataset(place)


def test_two_folders_for_one_split_are_refused(tmp_path):
    place = written("folder", tmp_path, images("train/cat", "test/dog", "testing/owl"))
    with pytest.raises(DatasetError, match=r"two folders for its novel split.*--layout classes"):
        open_dataset(place)


ALPHABETS = ("Greek/alpha", "Greek/beta", "Latin/a", "Latin/b", "Latin/c")


@pytest.mark.parametrize("kind", FORMS)
def test_nested_class_folders_are_refused_with_the_way_out_and_read_with_it(tmp_path, kind):
    place = written(kind, tmp_path, images(*ALPHABETS))
    for look in (open_dataset, check_place):
        with pytest.raises(DatasetError, match="If Greek/alpha and Greek/beta are two classes, add --class-depth 2"):
            look(place)
    dataset = open_dataset(place, own=OwnOptions(class_depth=2))
    assert dataset.novel.class_names == ALPHABETS
    assert dataset.novel.class_sizes == (3,) * 5
    assert dataset.novel.image_id(3) == "Greek/beta/0.png"
    assert dataset.preprocessing["class_depth"] == 2
    one = open_dataset(place, own=OwnOptions(class_depth=1))
    assert one.novel.class_names == ("Greek", "Latin")
    assert one.novel.class_sizes == (6, 9)
    diagnosis = check_place(place, OwnOptions(class_depth=2))
    assert diagnosis.facts["own_images"] == {"all": dict.fromkeys(ALPHABETS, 3)}
    assert diagnosis.next_commands == [f"fewshot-bench run --dataset {place} --class-depth 2"]


def test_omniglot_as_it_is_distributed(tmp_path):
    members = images(*(f"images_background/{name}" for name in ALPHABETS), "images_evaluation/Angelic/c1", seed=1)
    dataset = open_dataset(written("zip", tmp_path, members), own=OwnOptions(class_depth=2))
    assert dataset.base.class_names == ALPHABETS
    assert dataset.novel.class_names == ("Angelic/c1",)


@pytest.mark.parametrize("wrapper", ["", "one/", "one/two/"])
def test_depth_is_counted_from_the_folder_of_folders(tmp_path, wrapper):
    place = written("folder", tmp_path / "many", images(*(wrapper + name for name in ALPHABETS)))
    assert open_dataset(place, own=OwnOptions(class_depth=2)).novel.class_names == ALPHABETS
    single = written("folder", tmp_path / "single", images("Greek/alpha", "Greek/beta"))
    assert open_dataset(single, own=OwnOptions(class_depth=2)).novel.class_names == ("Greek/alpha", "Greek/beta")
    assert open_dataset(single).novel.class_names == ("alpha", "beta")


def test_files_above_the_class_folders_are_left_out_and_named(tmp_path):
    members = [*images(*ALPHABETS), *images("Greek"), ("stray.png", b"")]
    dataset = open_dataset(written("folder", tmp_path, members), own=OwnOptions(class_depth=2))
    assert left_out_lines(dataset.preprocessing) == ["4 files: outside of a class folder (first: stray.png)"]


def test_a_class_that_takes_the_images_of_several_folders_says_so(tmp_path):
    dataset = open_dataset(written("folder", tmp_path, images("animals/cat", "animals/dog", "car")))
    assert dataset.novel.class_names == ("animals", "car")
    (note,) = dataset.preprocessing["warnings"]
    assert note.startswith("class animals holds the images of its sub-folders cat, dog. If these are classes, add --cl")


@pytest.mark.parametrize(("field", "value"), [("class_depth", 0), ("layout", "class")])
def test_options_that_mean_nothing_are_refused(field, value):
    with pytest.raises(DatasetError, match=f"--{field.replace('_', '-')} is"):
        OwnOptions(**{field: value})


# One file in two classes or splits.


@pytest.mark.parametrize("link", ["hard", "soft", "folder"])
@pytest.mark.parametrize(("other", "message"), [("dog", "in class 'cat' and in class 'dog'"), ("cat", "")])
def test_links_between_class_folders(tmp_path, link, other, message):
    folder = written("folder", tmp_path, images("cat", "dog"))
    target = folder / other / "linked.png"
    if link == "hard":
        os.link(folder / "cat" / "0.png", target)
    elif link == "soft":
        target.symlink_to(folder / "cat" / "0.png")
    else:
        (folder / other / "more").symlink_to(folder / "cat") if message else target.symlink_to(folder / "cat" / "0.png")
    if message:
        with pytest.raises(DatasetError, match=message):
            open_dataset(folder)
    else:
        dataset = open_dataset(folder)
        assert dataset.novel.class_sizes == (3, 3)
        assert dataset.preprocessing["skipped"] == [["cat/linked.png", "the same file as cat/0.png"]]


def test_a_link_between_splits_is_refused(tmp_path):
    folder = written("folder", tmp_path, images("train/cat", "test/dog"))
    (folder / "test" / "cat").symlink_to(folder / "train" / "cat")
    with pytest.raises(DatasetError, match="in the novel split and in the base split"):
        open_dataset(folder)


@pytest.mark.parametrize("kind", FORMS)
def test_copies_in_two_classes_and_splits_are_told(tmp_path, kind):
    members = images("train/cat", "test/dog")
    members.append(("test/dog/copy.png", members[0][1]))
    dataset = open_dataset(written(kind, tmp_path, members))
    assert [text.partition(",")[0] for text in dataset.preprocessing["warnings"]] == [
        "2 images have exact copies in another class",
        "2 images have exact copies in another split",
    ]
    assert "base/cat/0.png and novel/dog/copy.png" in dataset.preprocessing["warnings"][0]


# Unicode.

ACCENTED = ("eclair", "école", "ezra", "zebra", "Ärger", "ami", "Ångström", "한국")


def test_two_unicode_forms_of_a_tree_are_one_dataset(tmp_path):
    found = {}
    for form in ("NFC", "NFD"):
        for kind in FORMS:
            members = [(unicodedata.normalize(form, path), content) for path, content in images(*ACCENTED)]
            members += [(unicodedata.normalize(form, "ami/été.png"), members[0][1])]
            dataset = open_dataset(written(kind, tmp_path / form / kind, members))
            found[form, kind] = (dataset.fingerprint, dataset.novel.class_names, dataset.novel.names_digest())
    assert len(set(found.values())) == 1
    assert dataset.novel.class_names == tuple(sorted(unicodedata.normalize("NFC", name) for name in ACCENTED))


def test_divisions_by_class_do_not_depend_on_the_form(tmp_path):
    splits = set()
    for form in ("NFC", "NFD"):
        members = [(unicodedata.normalize(form, path), content) for path, content in images(*ACCENTED)]
        dataset = open_dataset(written("folder", tmp_path / form, members), own=OwnOptions(fractions=(0.5, 0, 0.5)))
        splits.add((dataset.base.class_names, dataset.novel.class_names))
    assert len(splits) == 1


def test_a_folder_is_called_the_same_in_both_forms(tmp_path):
    names = {
        open_dataset(write_folder(tmp_path / form / unicodedata.normalize(form, "été 1"), images("a", "b"))).name
        for form in ("NFC", "NFD")
    }
    assert len(names) == 1


@pytest.mark.parametrize("what", ["école/0.png", "cat/école.png", "cat/école/0.png"])
def test_two_names_that_differ_in_their_form_only_are_refused(tmp_path, what):
    members = images("cat", "dog")
    content = members[0][1]
    folder = written(
        "folder", tmp_path, [*members, *((unicodedata.normalize(f, what), content) for f in ("NFC", "NFD"))]
    )
    if len(list(folder.rglob("*cole*"))) < 2:
        pytest.skip("this file system takes both for one name")
    with pytest.raises(DatasetError, match="twice, in two Unicode forms that look alike"):
        open_dataset(folder)


# Too few images that can be read.


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [1, 3, 32])
@pytest.mark.parametrize("broken", [(0, 1, 2), (5, 6, 7), (0, 3, 7)])
@pytest.mark.parametrize("label", ["000", "002", "005"])
def test_readable_images_are_counted_and_not_files(tmp_path, monkeypatch, label, broken, at_once):
    monkeypatch.setattr("fewshot_bench.datasets.images._AT_ONCE", at_once)
    names = [f"{number:03d}" for number in range(6)]
    folder = write_folder(tmp_path / "six", class_images(names, images=8))
    expected = open_dataset(folder)
    for number in broken:
        (folder / label / f"{number}.png").write_bytes(b"GIF89a broken")
    assert open_dataset(folder).novel.class_sizes[names.index(label)] == 5
    dataset = open_dataset(folder, own=OwnOptions(least_images=6))
    assert dataset.novel.class_names == tuple(name for name in names if name != label)
    assert dataset.novel.class_sizes == (8,) * 5
    kept = np.repeat([name != label for name in names], 8)
    assert (dataset.novel.images == expected.novel.images[kept]).all()
    assert left_out_lines(dataset.preprocessing)[-1] == f"class {label}, which has 5 readable images"


def test_if_no_class_has_enough_readable_images_there_is_no_dataset(tmp_path):
    folder = write_folder(tmp_path / "two", class_images(("a", "b"), images=4))
    for name in ("a", "b"):
        (folder / name / "0.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="no class has 4 readable images; the largest has 3"):
        open_dataset(folder, own=OwnOptions(least_images=4))


def test_a_class_without_one_readable_image_is_told(tmp_path):
    folder = write_folder(tmp_path / "two", class_images(("a", "b"), images=2))
    for number in range(2):
        (folder / "a" / f"{number}.png").write_bytes(b"")
    dataset = open_dataset(folder)
    assert dataset.novel.class_names == ("b",)
    assert left_out_lines(dataset.preprocessing) == [
        "2 files: the file is empty (first: a/0.png)",
        "class a, which has 0 readable images",
    ]


def test_the_documentation_lists_all_clutter():
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert [name for name in CLUTTER_NAMES if f"`{name.strip()}`" not in page] == []


@pytest.mark.parametrize("place", ["class", "image", "no image"])
def test_names_that_are_no_text_are_written_out_wherever_they_are_stored(tmp_path, place):
    folder = written("folder", tmp_path, images("cat", "dog"))
    name = os.fsdecode(b"caf\xe9")
    try:
        (folder / "dog" / f"{name}.png").write_bytes(png(np.full((12, 12, 3), 9, np.uint8)))
    except OSError:
        pytest.skip("this file system takes only text as names")
    if place == "class":
        (folder / "dog").rename(folder / name)
    elif place == "no image":
        (folder / "dog" / f"{name}.png").rename(folder / "dog" / f"{name}.txt")
    dataset = open_dataset(folder)
    novel = dataset.novel
    shown = r"caf\xe9"
    assert novel.class_names == (("caf\\xe9", "cat") if place == "class" else ("cat", "dog"))
    assert ([f"dog/{shown}.txt", "not an image"] in dataset.preprocessing["skipped"]) is (place == "no image")
    assert len(novel) == (6 if place == "no image" else 7)
    names = [novel.image_id(row) for row in range(len(novel))]
    json.dumps([dataset.preprocessing, novel.class_names, names], ensure_ascii=False).encode()
    assert any(shown in text for text in [*names, *novel.class_names]) is (place != "no image")

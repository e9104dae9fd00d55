"""Omniglot: the published splits, and tiny copies of its two sets."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import import_dataset, official_splits, open_dataset
from fewshot_bench.datasets.catalogue import BENCHMARKS
from fewshot_bench.datasets.dataset import Dataset, ImageSplit
from fewshot_bench.datasets.importing import download_dataset
from fewshot_bench.datasets.official_splits import official_class_sizes, omniglot_characters
from fewshot_bench.episodes.locks import published_locks_folder, read_lock
from fewshot_bench.errors import DatasetError

TINY = {
    "drawings": 3,
    "background": {"Greek": [4, 2], "Latin": [1, 3]},
    "evaluation": {"Keble": [6, 3]},
    "vinyals": {"train": {"Latin": [1, 3], "Keble": [1, 1]}, "val": {"Greek": [1, 2]}, "test": {"Keble": [2, 3]}},
}


@pytest.fixture
def tiny(monkeypatch):
    """The published table with a few characters; every check stays."""
    published = official_splits._published
    monkeypatch.setattr(official_splits, "_published", lambda name: TINY if name == "omniglot" else published(name))
    official_splits.omniglot_characters.cache_clear()
    yield
    official_splits.omniglot_characters.cache_clear()


def write_omniglot(top: Path) -> Path:
    for part in ("background", "evaluation"):
        for alphabet, (first, count) in TINY[part].items():
            for number in range(count):
                for drawing in range(1, TINY["drawings"] + 1):
                    file = f"{first + number:04d}_{drawing:02d}.png"
                    path = top / f"images_{part}" / alphabet / f"character{number + 1:02d}" / file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cells = np.random.default_rng(list(file.encode())).integers(0, 2, (7, 7), dtype=np.uint8) * 255
                    Image.fromarray(cells).resize((105, 105), Image.Resampling.NEAREST).convert("1").save(path)
    return top


def zipped(folder: Path, place: Path) -> Path:
    for part in ("background", "evaluation"):
        with zipfile.ZipFile(place / f"images_{part}.zip", "w") as archive:
            for file in sorted((folder / f"images_{part}").rglob("*.png"), reverse=True):
                archive.write(file, file.relative_to(folder).as_posix())
    return place


def upright(source: Path, image: str, size: int = 28) -> np.ndarray:
    with Image.open(source / image) as drawing:
        return np.asarray(drawing.convert("L").resize((size, size), Image.Resampling.LANCZOS))[..., None]


# What is published


def test_lakes_sets_have_1623_characters_each_number_once():
    names = [name for _, files in omniglot_characters().values() for name in files]
    assert sorted(names) == [f"{number:04d}_{drawing:02d}.png" for number in range(1, 1624) for drawing in range(1, 21)]
    lake = official_class_sizes("omniglot-lake")
    assert {split: len(classes) for split, classes in lake.items()} == {"base": 964, "novel": 659}
    assert {split: len({name.split("/")[0] for name in classes}) for split, classes in lake.items()} == {
        "base": 30, "novel": 20,
    }  # fmt: skip
    assert omniglot_characters()["Alphabet_of_the_Magi/character01"][1][0] == "0709_01.png"
    assert omniglot_characters()["ULOG/character26"][1][-1] == "1623_20.png"


def test_vinyals_splits_divide_the_characters_and_turn_each_four_times():
    splits = official_class_sizes("omniglot")
    characters = {split: {name.rpartition("/")[0] for name in classes} for split, classes in splits.items()}
    assert {split: len(names) for split, names in characters.items()} == {"base": 1028, "validation": 172, "novel": 423}
    assert sorted(set.union(*characters.values())) == sorted(omniglot_characters())
    for split, classes in splits.items():
        assert sorted(classes) == sorted(
            f"{name}/rot{degrees:03d}" for name in characters[split] for degrees in (0, 90, 180, 270)
        )
        assert set(classes.values()) == {20}
    assert "Gurmukhi/character41/rot090" in splits["base"]
    assert "Gurmukhi/character42/rot090" in splits["novel"]
    assert {name.split("/")[0] for name in splits["validation"]} == {
        "Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["omniglot", "omniglot-lake", "cub"])
def test_the_catalogue_knows_the_sizes_before_the_images_are_here(name):
    sizes = official_class_sizes(name)
    assert dict(BENCHMARKS[name].splits) == {
        split: (len(classes), sum(classes.values())) for split, classes in sizes.items()
    }


@pytest.mark.parametrize("name", ["omniglot", "omniglot-lake"])
def test_the_locks_name_the_official_images(name):
    splits = {}
    for split, sizes in official_class_sizes(name).items():
        names = [file.encode() for label in sizes for file in omniglot_characters()[label.partition("/rot")[0]][1]]
        empty = np.empty((0, 1, 1, 1), np.uint8)
        splits[split] = ImageSplit(
            name, split, empty, tuple(sizes), tuple(sizes.values()), "", image_names=np.array(names)
        )
    identity = Dataset(name, splits, {}, "names").identity
    for shot in (1, 5):
        frozen = read_lock(published_locks_folder() / f"{name}-5way-{shot}shot.toml")
        assert frozen.images == identity
        assert frozen.class_sizes == splits["novel"].class_sizes


# Tiny copies


def test_the_four_classes_of_a_character_are_exact_rotations_in_one_split(tiny, tmp_path):
    source = write_omniglot(tmp_path)
    dataset = import_dataset("omniglot", source)
    assert {name: len(split.class_names) for name, split in dataset.splits.items()} == {
        "base": 16, "validation": 8, "novel": 8,
    }  # fmt: skip
    novel = dataset.novel
    assert novel.class_names[:5] == (
        *(f"Keble/character02/rot{degrees:03d}" for degrees in (0, 90, 180, 270)), "Keble/character03/rot000",
    )  # fmt: skip
    assert novel.images.shape[1:] == (28, 28, 1)
    assert [novel.image_name(row) for row in range(3)] == ["0007_01.png", "0007_02.png", "0007_03.png"]
    straight = upright(source, "images_evaluation/Keble/character02/0007_02.png")
    for turns in range(4):
        assert (novel.images[3 * turns + 1] == np.rot90(straight, turns)).all()
    with Image.open(source / "images_evaluation/Keble/character02/0007_02.png") as drawing:
        turned = np.asarray(drawing.rotate(90).convert("L").resize((28, 28), Image.Resampling.LANCZOS))
    # Turned first and resized then, pixels differ a little, since Pillow rounds between its two passes.
    assert np.abs(novel.images[4][..., 0].astype(int) - turned).max() <= 8
    assert dataset.identified_by == "names"
    assert dataset.preprocessing["rotations"] == [0, 90, 180, 270]


def test_lakes_sets_are_neither_turned_nor_divided_again(tiny, tmp_path):
    dataset = import_dataset("omniglot-lake", write_omniglot(tmp_path), size=105)
    assert list(dataset.splits) == ["base", "novel"]
    assert dataset.novel.class_names == tuple(f"Keble/character{number:02d}" for number in (1, 2, 3))
    first = upright(tmp_path, "images_background/Greek/character01/0004_01.png", 105)
    assert (dataset.base.images[0] == first).all()
    assert set(np.unique(dataset.base.images)) == {0, 255}
    assert "rotations" not in dataset.preprocessing


def test_zips_folders_and_torchvisions_folder_give_the_same(tiny, tmp_path, capsys):
    source = write_omniglot(tmp_path / "unpacked")
    reference = import_dataset("omniglot", source).fingerprint
    zips, torchvisions = tmp_path / "zips", tmp_path / "data" / "omniglot-py"
    zips.mkdir()
    assert import_dataset("omniglot", zipped(source, zips), replace=True).fingerprint == reference
    write_omniglot(torchvisions)
    zipped(torchvisions, torchvisions)
    assert import_dataset("omniglot", tmp_path / "data", replace=True).fingerprint == reference
    assert exit_code(["data", "check", str(zips)]) == 0
    assert f"fewshot-bench data import omniglot-lake --from {zips}" in capsys.readouterr().out


@pytest.mark.parametrize("lost", ["background", "evaluation"])
def test_a_missing_set_is_named(tiny, tmp_path, lost):
    source = tmp_path / "zips"
    source.mkdir()
    zipped(write_omniglot(tmp_path / "unpacked"), source)
    (source / f"images_{lost}.zip").unlink()
    for place in (source, source / f"images_{'background' if lost == 'evaluation' else 'evaluation'}.zip"):
        with pytest.raises(DatasetError, match=rf"images_{lost} \(or images_{lost}.zip\) is missing"):
            import_dataset("omniglot", place)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("images_evaluation/Keble/character02/0007_02.png", r"Keble/character02 has 3 drawings; .* lacks 1 .*0007_02"),
        ("images_background/Latin/character03", r"Latin/character03 has 3 drawings; .* lacks 3 .*0003_01"),
        ("images_background/Greek", r"Greek/character01 has 3 drawings; .* lacks 3 .*0004_01"),
    ],
)
def test_a_missing_drawing_is_named(tiny, tmp_path, lost, told):
    source = write_omniglot(tmp_path)
    (source / lost).rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=told):
        import_dataset("omniglot", source)


def test_a_download_takes_torchvisions_two_archives(tiny, tmp_path, monkeypatch):
    zips = zipped(write_omniglot(tmp_path / "unpacked"), tmp_path)
    asked = []

    def fetch(file, target, *, progress):
        target.mkdir(parents=True, exist_ok=True)
        (target / file.name).write_bytes((zips / file.name).read_bytes())
        asked.append((file.url, file.digest))

    monkeypatch.setattr("fewshot_bench.datasets.importing.fetch", fetch)
    download_dataset("omniglot")
    base = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
    assert asked == [
        (f"{base}/images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"),
        (f"{base}/images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
    ]
    assert open_dataset("omniglot").novel.class_names[0] == "Keble/character02/rot000"

"""miniImageNet and tieredImageNet from every layout in circulation, written here as their authors wrote them."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from archives import tarred, zipped
from imagenet_files import (
    PARTS,
    WORDS,
    ilsvrc_name,
    ravi_name,
    tiered_images,
    write_category_splits,
    write_class_tars,
    write_flat,
    write_ilsvrc,
    write_mini_caches,
    write_mini_ilsvrc_names,
    write_npz,
    write_png_pickles,
    write_ravi_folders,
    write_tiered_folders,
)
from PIL import Image
from tiny_benchmarks import NOVEL, OTHERS

from fewshot_bench.datasets import import_dataset
from fewshot_bench.datasets.official_splits import mini_imagenet_ranks, official_class_sizes
from fewshot_bench.errors import DatasetError


@pytest.fixture(autouse=True)
def words(monkeypatch):
    """What timm knows the made-up classes as."""
    from timm.data.imagenet_info import ImageNetInfo

    monkeypatch.setattr(ImageNetInfo, "label_name_to_description", lambda self, name, detailed=False: WORDS[name])


MINI = {
    "caches": lambda at, tiny: write_mini_caches(at / "m", tiny),
    "caches re-saved": lambda at, tiny: write_mini_caches(at / "m", tiny, validation="validation", protocol=4),
    "caches in a zip": lambda at, tiny: zipped(write_mini_caches(at / "m", tiny), at / "m.zip"),
    "caches in a tar.gz": lambda at, tiny: tarred(write_mini_caches(at / "m", tiny), at / "mini.tar.gz", "w:gz"),
    "class folders per split": lambda at, tiny: write_ravi_folders(at / "m", tiny),
    "class folders per split, twice nested": lambda at, tiny: _nested(write_ravi_folders(at / "m", tiny)),
    "class folders in a tar": lambda at, tiny: tarred(write_ravi_folders(at / "m", tiny), at / "m.tar", "w"),
    "all class folders in one": lambda at, tiny: write_ravi_folders(at / "m", tiny, per_split=False),
    "a tar per split, as MTL's": lambda at, tiny: _tar_per_split(write_ravi_folders(at / "m", tiny), at / "tars"),
    "one folder with CSVs": lambda at, tiny: write_flat(at / "m", tiny),
    "one folder with CSVs in a zip": lambda at, tiny: zipped(write_flat(at / "m", tiny), at / "m.zip"),
    "one folder with CSVs in a tar.xz": lambda at, tiny: tarred(write_flat(at / "m", tiny), at / "m.tar.xz", "w:xz"),
    "names of ILSVRC": lambda at, tiny: write_mini_ilsvrc_names(at / "m", tiny),
    "the whole of ILSVRC": lambda at, tiny: write_ilsvrc(at / "ILSVRC" / "Data" / "CLS-LOC" / "train", tiny).parents[2],
    "the whole of ILSVRC, its own folder": lambda at, tiny: write_ilsvrc(at / "train", tiny),
    "a tar per class": lambda at, tiny: write_class_tars(at / "train", tiny),
    "the tar of tars": lambda at, tiny: tarred(write_class_tars(at / "t", tiny), at / "ILSVRC2012_img_train.tar", "w"),
    "tars in a folder of a tar": lambda at, tiny: tarred(write_class_tars(at / "t" / "in", tiny).parent, at / "x", "w"),
    "tars in a zip": lambda at, tiny: zipped(write_class_tars(at / "t", tiny), at / "tars.zip"),
}  # fmt: skip


def _tar_per_split(folder: Path, target: Path) -> Path:
    target.mkdir()
    for part in PARTS:
        tarred(folder / part, target / f"{part}.tar", "w")
    return target


def _nested(folder: Path) -> Path:
    for part in PARTS:
        inner = folder / "inner" / part
        inner.mkdir(parents=True)
        (folder / part).rename(inner / part)
    (folder / "inner").rename(folder / "miniImageNet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("layout", MINI)
def test_every_layout_of_mini_imagenet_names_the_same_images_with_the_same_pixels(tiny, tmp_path, layout):
    dataset = import_dataset("mini-imagenet", MINI[layout](tmp_path, tiny))
    assert dataset.identified_by == "names"
    for split, names in zip(("base", "validation", "novel"), PARTS.values(), strict=True):
        images = dataset.split(split)
        assert images.class_names == tuple(sorted(names))
        assert images.class_sizes == (4,) * len(names)
        for index in range(len(images)):
            name, place = sorted(names)[index // 4], index % 4
            assert images.image_id(index) == f"{name}/{ravi_name(name, mini_imagenet_ranks()[name][place])}"
            assert (images.images[index] == tiny.mini(name)[place]).all()


def test_copies_of_another_size_name_the_same_images(tiny, tmp_path):
    caches = import_dataset("mini-imagenet", write_mini_caches(tmp_path / "m", tiny))
    smaller = import_dataset("mini-imagenet", write_ilsvrc(tmp_path / "train", tiny), size=32, fit="crop", replace=True)
    assert smaller.novel.images.shape[1:] == (32, 32, 3)
    assert smaller.fingerprint != caches.fingerprint
    assert smaller.identity == caches.identity
    assert smaller.preprocessing["resize"] == "32 x 32"
    assert smaller.preprocessing["fit"] == "crop"
    assert "pillow" in smaller.preprocessing


def test_pickles_without_image_names_say_so(tiny, tmp_path):
    dataset = import_dataset("mini-imagenet", write_category_splits(tmp_path / "m", tiny))
    assert dataset.identified_by == "ranks"
    assert dataset.novel.class_names == tuple(sorted(NOVEL))
    assert (dataset.novel.images[:4] == tiny.mini(sorted(NOVEL)[0])).all()
    assert "keep no file names" in dataset.preprocessing["warnings"][0]
    assert len(dataset.base) == 8  # train_phase_val is not part of the benchmark


def test_files_with_names_of_their_own_are_known_by_rank(tiny, tmp_path):
    source = write_flat(tmp_path / "m", tiny, naming=lambda name, rank: f"img_{hash((name, rank)) % 10**9}.jpg")
    dataset = import_dataset("mini-imagenet", source)
    assert dataset.identified_by == "ranks"
    assert "neither Ravi's nor ILSVRC's names" in dataset.preprocessing["warnings"][0]


def test_a_class_of_ilsvrc_that_is_not_whole_is_refused(tiny, tmp_path):
    folder = write_ilsvrc(tmp_path / "train", tiny)
    next((folder / NOVEL[0]).iterdir()).unlink()
    with pytest.raises(DatasetError, match=r"class n00000002 has 8 images; the whole class .* has 9.*takes 4"):
        import_dataset("mini-imagenet", folder)


def test_a_split_that_is_missing_is_named(tiny, tmp_path):
    folder = write_mini_caches(tmp_path / "m", tiny)
    (folder / "mini-imagenet-cache-test.pkl").unlink()
    with pytest.raises(DatasetError, match=r"but mini-imagenet-cache-test\.pkl is missing"):
        import_dataset("mini-imagenet", folder)
    folders = write_ravi_folders(tmp_path / "f", tiny)
    shutil.rmtree(folders / "val")
    with pytest.raises(DatasetError, match="but all classes of the validation split is missing"):
        import_dataset("mini-imagenet", folders)


def test_a_cache_with_rows_beyond_its_images_is_refused(tiny, tmp_path):
    folder = write_mini_caches(tmp_path / "m", tiny)
    content = pickle.loads((folder / "mini-imagenet-cache-val.pkl").read_bytes())
    content["class_dict"]["n00000003"][2] = 99
    (folder / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DatasetError, match="names images that it does not hold"):
        import_dataset("mini-imagenet", folder)


def test_one_broken_image_stops_the_import_and_is_named(tiny, tmp_path, home):
    folder = write_ravi_folders(tmp_path / "f", tiny)
    (folder / "test" / "n00000005" / ravi_name("n00000005", 4)).write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(DatasetError, match=r"image n0000000500000004\.jpg of class n00000005 cannot be read"):
        import_dataset("mini-imagenet", folder)
    assert not list((home / "datasets").glob("[!.]*"))


TIERED_NAMED = {
    "class folders per split": lambda at, tiny: write_tiered_folders(at / "t", tiny),
    "class folders per split in a tar.gz": lambda at, tiny: tarred(
        write_tiered_folders(at / "t", tiny), at / "tiered_imagenet.tar.gz", "w:gz"
    ),
    "the whole of ILSVRC": lambda at, tiny: write_ilsvrc(at / "train", tiny),
    "a tar per class": lambda at, tiny: write_class_tars(at / "train", tiny),
    "the tar of tars": lambda at, tiny: tarred(write_class_tars(at / "t", tiny), at / "ILSVRC2012_img_train.tar", "w"),
}
TIERED_UNNAMED = {
    "PNG pickles": lambda at, tiny: write_png_pickles(at / "t", tiny),
    "PNG pickles of Python 3": lambda at, tiny: write_png_pickles(at / "t", tiny, column=False, protocol=4),
    "PNG pickles of the public record": lambda at, tiny: write_png_pickles(at / "t", tiny, prefix="tiered-imagenet-"),
    "PNG pickles in a tar": lambda at, tiny: tarred(write_png_pickles(at / "t", tiny), at / "tiered.tar", "w"),
    "npz files": lambda at, tiny: write_npz(at / "t", tiny),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", {**TIERED_NAMED, **TIERED_UNNAMED})
def test_every_layout_of_tiered_imagenet_gives_the_same_classes_and_pixels(tiny, tmp_path, layout):
    dataset = import_dataset("tiered-imagenet", {**TIERED_NAMED, **TIERED_UNNAMED}[layout](tmp_path, tiny))
    assert dataset.identified_by == ("names" if layout in TIERED_NAMED else "ranks")
    assert {split: images.class_names for split, images in dataset.splits.items()} == {
        split: tuple(sizes) for split, sizes in official_class_sizes("tiered-imagenet").items()
    }
    for images in dataset.splits.values():
        assert images.class_sizes == tuple(len(tiny.ilsvrc[name]) for name in images.class_names)
        expected = np.stack([image for name in images.class_names for image in tiered_images(tiny, name)])
        assert (images.images == expected).all()
    if layout in TIERED_NAMED:
        first = min(tiny.ilsvrc["n00000002"], key=lambda number: ilsvrc_name("n00000002", number))
        assert dataset.novel.image_id(0) == f"n00000002/{ilsvrc_name('n00000002', first)}"


def test_npz_files_numbered_in_an_unknown_order_are_numbered_classes(tiny, tmp_path):
    dataset = import_dataset(
        "tiered-imagenet", write_npz(tmp_path / "t", tiny, order=lambda names: sorted(names, reverse=True))
    )
    assert dataset.novel.class_names == ("label-003", "label-004", "label-005")
    assert "Nor do they say which class is which" in dataset.preprocessing["warnings"][0]


def test_classes_beyond_a_benchmark_do_not_get_into_it(tiny, tmp_path):
    dataset = import_dataset("tiered-imagenet", write_ilsvrc(tmp_path / "train", tiny))
    assert not {name for images in dataset.splits.values() for name in images.class_names} & set(OTHERS)


def test_an_incomplete_class_of_tiered_imagenet_is_named(tiny, tmp_path):
    folder = write_tiered_folders(tmp_path / "t", tiny)
    next((folder / "val" / "n00000003").iterdir()).unlink()
    with pytest.raises(DatasetError, match=r"class n00000003 of the validation split .* has 8 images; the"):
        import_dataset("tiered-imagenet", folder)


def test_jpegs_are_resized_by_the_recipe(tiny, tmp_path):
    folder = write_ravi_folders(tmp_path / "f", tiny)
    large = Image.effect_noise((160, 120), 80).convert("RGB")
    file = io.BytesIO()
    large.save(file, format="JPEG", quality=95)
    (folder / "test" / "n00000002" / ravi_name("n00000002", 1)).write_bytes(file.getvalue())
    dataset = import_dataset("mini-imagenet", folder, interpolation="bilinear")
    with Image.open(file) as decoded:
        expected = decoded.convert("RGB").resize((84, 84), Image.Resampling.BILINEAR)
    assert (dataset.novel.images[0] == np.asarray(expected)).all()


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        ("mini-imagenet", {"base": (64, 38_400), "validation": (16, 9_600), "novel": (20, 12_000)}),
        ("tiered-imagenet", {"base": (351, 448_695), "validation": (97, 124_261), "novel": (160, 206_209)}),
    ],
)
def test_official_tables_have_the_published_counts(dataset, counts):
    sizes = official_class_sizes(dataset)
    assert {split: (len(classes), sum(classes.values())) for split, classes in sizes.items()} == counts
    assert len({name for classes in sizes.values() for name in classes}) == sum(len(c) for c in sizes.values())

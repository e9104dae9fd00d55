from __future__ import annotations

import io
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fewshot_bench.datasets import import_dataset, open_dataset
from fewshot_bench.datasets.cifar import canonical_split
from fewshot_bench.datasets.importers.cifar_zip import read_cifar_zip
from fewshot_bench.datasets.importers.torchvision_cifar import classes_of
from fewshot_bench.datasets.official_splits import official_classes
from fewshot_bench.errors import DatasetError, UnknownNameError

CLASSES = ("apple", "bee", "worm")


def pixels(classes=CLASSES, images=4, size=32):
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 256, (images, size, size, 3), dtype=np.uint8) for name in classes}


def write_zip(path: Path, content, *, prefix="cifar100/data"):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cifar100/splits/bertinetto/train.txt", "apple\n")
        for name, images in content.items():
            for number, image in enumerate(images):
                file = io.BytesIO()
                Image.fromarray(image).save(file, format="PNG")
                archive.writestr(f"{prefix}/{name}/{name}_{number:04d}.png", file.getvalue())
    return path


def test_zip_gives_back_every_pixel(tmp_path):
    content = pixels()
    read = read_cifar_zip(write_zip(tmp_path / "c.zip", content))
    assert sorted(read) == sorted(content)
    assert all((read[name] == content[name]).all() for name in content)


def test_zip_and_torchvision_give_the_same_canonical_order(tmp_path):
    content = pixels()
    from_zip = canonical_split(read_cifar_zip(write_zip(tmp_path / "c.zip", content)), CLASSES, 4)
    everything = np.concatenate([content[name] for name in CLASSES])
    labels = np.repeat(np.arange(3), 4)
    shuffled = np.random.default_rng(1).permutation(12)
    parts = [
        SimpleNamespace(data=everything[half], targets=labels[half].tolist(), classes=list(CLASSES))
        for half in np.array_split(shuffled, 2)
    ]
    from_torchvision = canonical_split(classes_of(parts), CLASSES, 4)
    assert (from_zip[0] == from_torchvision[0]).all()
    assert from_zip[1:] == from_torchvision[1:]


def test_canonical_order_groups_images_by_class():
    content = pixels()
    images, names, sizes = canonical_split(content, CLASSES, 4)
    for label, name in enumerate(names):
        block = {image.tobytes() for image in images[label * 4 : label * 4 + 4]}
        assert block == {image.tobytes() for image in content[name]}
    assert sizes == (4, 4, 4)


@pytest.mark.parametrize(("dataset", "counts"), [("cifar-fs", (64, 16, 20)), ("fc100", (60, 20, 20))])
def test_official_splits_have_disjoint_classes_of_the_published_counts(dataset, counts):
    splits = official_classes(dataset)
    assert tuple(len(splits[name]) for name in ("base", "validation", "novel")) == counts
    assert len(set().union(*splits.values())) == 100


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nothing\.zip is not a file; --from expects"):
        import_dataset("cifar-fs", tmp_path / "nothing.zip")


def test_a_truncated_archive_is_refused_and_leaves_nothing(tmp_path, home):
    whole = write_zip(tmp_path / "c.zip", pixels()).read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="not a complete zip archive"):
        import_dataset("cifar-fs", cut)
    assert not (home / "datasets").exists() or not list((home / "datasets").iterdir())


def test_a_damaged_image_is_named(tmp_path):
    path = tmp_path / "c.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cifar100/data/apple/apple_1.png", b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(DatasetError, match=r"apple_1\.png .* is damaged"):
        read_cifar_zip(path)


def test_an_image_of_another_size_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="is 16 x 16, not 32 x 32"):
        read_cifar_zip(write_zip(tmp_path / "c.zip", pixels(size=16)))


def test_a_member_that_claims_to_be_huge_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cifar100/data/apple/apple_1.png", b"\0" * (1 << 20))
    with pytest.raises(DatasetError, match="no 32 x 32 image is that large"):
        read_cifar_zip(path)


def test_an_archive_of_something_else_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no cifar100/data"):
        read_cifar_zip(write_zip(tmp_path / "c.zip", pixels(), prefix="photos"))


def test_an_incomplete_archive_names_the_missing_classes(tmp_path):
    with pytest.raises(DatasetError, match="no images of aquarium_fish"):
        import_dataset("cifar-fs", write_zip(tmp_path / "c.zip", pixels()))


def test_opening_before_importing_says_how_to_import():
    with pytest.raises(DatasetError, match="fewshot-bench data get cifar-fs"):
        open_dataset("cifar-fs")


def test_an_unknown_dataset_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean cifar-fs"):
        open_dataset("cifarfs")
    with pytest.raises(DatasetError, match="glyphs is built in"):
        import_dataset("glyphs", Path("x.zip"))

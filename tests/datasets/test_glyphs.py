from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewshot_bench.datasets.dataset import SPLIT_NAMES
from fewshot_bench.datasets.glyphs import GLYPHS_FILE, GLYPHS_SHA256, load_glyphs, read_mosaic
from fewshot_bench.errors import DatasetError
from glyphs.mosaic import write_mosaic
from glyphs.scripts import SCRIPTS, SEED, character_of, class_name, class_names


@pytest.fixture(scope="module")
def glyphs():
    return load_glyphs()


@pytest.fixture
def fonts():
    pytest.importorskip("matplotlib", reason="making glyphs needs the fonts of matplotlib, which is not installed")


def nearest_centroid_accuracy(images, classes):
    rows = images.reshape(classes, -1, 28 * 28).astype(np.float64)
    rows -= rows.mean(-1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    centroids = rows[:, ::2].mean(1)
    predictions = (rows[:, 1::2] @ centroids.T).argmax(-1)
    return (predictions == np.arange(classes)[:, None]).mean()


def test_the_shipped_file_is_the_frozen_one():
    assert hashlib.sha256(GLYPHS_FILE.read_bytes()).hexdigest() == GLYPHS_SHA256
    assert GLYPHS_FILE.stat().st_size < 2_500_000


def test_the_splits_have_the_promised_sizes(glyphs):
    assert {name: (len(names), set(sizes)) for name, (_, names, sizes) in glyphs.items()} == {
        "base": (64, {60}),
        "validation": (16, {60}),
        "novel": (20, {60}),
    }
    for images, _, sizes in glyphs.values():
        assert images.shape == (sum(sizes), 28, 28, 1)
        assert images.dtype == np.uint8


def test_the_pixels_use_the_whole_range_of_sixteen_levels(glyphs):
    for images, _, _ in glyphs.values():
        assert set(np.unique(images)) == {17 * level for level in range(16)}


def test_no_image_occurs_twice(glyphs):
    everything = np.concatenate([images for images, _, _ in glyphs.values()])
    assert len({image.tobytes() for image in everything}) == 6000


def test_classes_are_the_table_in_sorted_order_with_names_fit_for_files(glyphs):
    for split, (_, names, _) in glyphs.items():
        assert names == class_names(split) == tuple(sorted(names))
        assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in names)
    everything = [name for _, names, _ in glyphs.values() for name in names]
    assert len(set(everything)) == 100


def test_a_class_name_leads_back_to_its_character(glyphs):
    for _, names, _ in glyphs.values():
        assert tuple(class_name(character_of(name)) for name in names) == names


def test_no_script_is_in_two_splits(glyphs):
    for script, facts in SCRIPTS.items():
        splits = {split for split, (_, names, _) in glyphs.items() if any(n.startswith(script) for n in names)}
        assert splits == {facts.split}, script


def test_images_stand_under_their_own_class(glyphs):
    for images, names, _ in glyphs.values():
        assert nearest_centroid_accuracy(images, len(names)) > 3 / len(names)


def test_raw_pixels_do_not_solve_the_novel_split(glyphs):
    images, names, _ = glyphs["novel"]
    assert nearest_centroid_accuracy(images, len(names)) < 0.6


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    path = tmp_path / "glyphs.png"
    content = bytearray(GLYPHS_FILE.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"should have sha256 .* Reinstall") as caught:
        load_glyphs(path)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(DatasetError, match=r"No such file.* Reinstall"):
        load_glyphs(tmp_path / "glyphs.png")


@settings(max_examples=20, deadline=None)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 5), st.integers(0, 2**32))
def test_a_mosaic_gives_back_what_was_packed(classes, per_class, seed):
    random = np.random.default_rng(seed)
    shapes = dict(zip(SPLIT_NAMES, classes, strict=True))
    levels = {s: random.integers(0, 16, (c, per_class, 28, 28), dtype=np.uint8) for s, c in shapes.items()}
    names = {s: tuple(f"{s}_{i}" for i in range(c)) for s, c in shapes.items()}
    for split, (images, read_names, sizes) in read_mosaic(write_mosaic(levels, names)).items():
        assert read_names == names[split]
        assert sizes == (per_class,) * shapes[split]
        assert np.array_equal(images, levels[split].reshape(-1, 28, 28, 1) * 17)


def test_the_maker_still_draws_the_shipped_images(glyphs, fonts):
    from glyphs.vary import image_of

    for split, row in (("base", 0), ("validation", 500), ("novel", 777), ("novel", 1199)):
        images, names, _ = glyphs[split]
        made = image_of(character_of(names[row // 60]), SEED, row % 60) * 17
        shipped = images[row, :, :, 0]
        assert np.corrcoef(made.ravel(), shipped.ravel())[0, 1] > 0.95, (split, row)


def test_an_image_depends_only_on_its_seed_and_number(fonts):
    from glyphs.vary import image_of

    alone = image_of("ж", 3, 7)
    in_sequence = [image_of("ж", 3, number) for number in range(8)]
    assert np.array_equal(in_sequence[7], alone)
    assert not np.array_equal(in_sequence[6], alone)
    assert not np.array_equal(image_of("ж", 4, 7), alone)
    assert not np.array_equal(image_of("ы", 3, 7), alone)


def test_strength_makes_the_images_of_a_class_differ_more(fonts):
    from glyphs.vary import Strength, image_of

    still = Strength(0, 0, 0, 0, 0, pressure=0, contrast=0, paper=0, grain=0)

    def spread(strength):
        return np.stack([image_of("ж", 1, number, strength).astype(float) for number in range(12)]).std(0).mean()

    assert spread(Strength()) > 1.3 * spread(still)


@pytest.mark.slow
def test_the_chosen_classes_hold_no_look_alikes(fonts):
    from glyphs.make import check_look_alikes

    check_look_alikes({split: class_names(split) for split in SPLIT_NAMES})


@pytest.mark.parametrize(
    ("first", "second", "across_splits"),
    [("О", "Ο", False), ("Ս", "Ո", True), ("С", "ᑕ", True), ("ᑎ", "ი", True), ("ᐁ", "ᐌ", True)],
)
def test_look_alikes_are_found(first, second, across_splits, fonts):
    from glyphs.look_alikes import ACROSS_LIMIT, look_alikes

    splits = {"base": first, "novel": second} if across_splits else {"base": first + second}
    ((_, _, value),) = look_alikes(splits)
    assert ACROSS_LIMIT <= value <= 1.001


def test_mirror_images_are_look_alikes_only_across_splits(fonts):
    from glyphs.look_alikes import similarities

    (across,) = similarities("И", "N", across_splits=True)
    (within,) = similarities("И", "N", across_splits=False)
    assert across > 0.84 > within


def test_choosing_skips_whatever_resembles_a_class_already_chosen(fonts):
    from glyphs.look_alikes import choose
    from glyphs.scripts import Script

    scripts = {"cyrillic": Script("novel", 2, ()), "greek": Script("base", 2, ())}
    assert choose({"cyrillic": "ЖОЫ", "greek": "ΟΞΣΨ"}, scripts) == {"cyrillic": "ЖО", "greek": "ΞΣ"}


def test_classes_that_look_alike_are_refused_by_the_maker(fonts):
    from glyphs.make import check_look_alikes

    names = {"base": (class_name("О"),), "novel": (class_name("Ο"),)}
    with pytest.raises(DatasetError, match="look alike"):
        check_look_alikes(names)


def test_the_command_writes_a_file_and_a_contact_sheet(tmp_path, monkeypatch, capsys, fonts):
    from glyphs import make

    few = {split: class_names(split)[:2] for split in SPLIT_NAMES}
    monkeypatch.setattr(make, "class_names", few.__getitem__)
    monkeypatch.setattr(make, "IMAGES_PER_CLASS", 5)
    out, sheet = tmp_path / "out.png", tmp_path / "sheet.png"
    assert make.main(["--out", str(out), "--sheet", str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert hashlib.sha256(out.read_bytes()).hexdigest() in printed
    assert "not the same as the shipped file" in printed
    assert {split: names for split, (_, names, _) in read_mosaic(out.read_bytes()).items()} == few
    with Image.open(sheet) as picture:
        assert len(np.unique(np.asarray(picture))) == 16

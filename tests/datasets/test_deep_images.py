"""Images of more than 8 bits: one scale for the whole dataset, whatever file and version of Pillow they come in."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from archives import png
from PIL import Image

from fewshot_bench.datasets import OwnOptions, import_own_images, open_dataset
from fewshot_bench.datasets.bit_depth import ALL_16_BITS, UsedValues, ValueRange
from fewshot_bench.datasets.images import ImageError, Preprocessing, UndecidedDepthError, as_rgb
from fewshot_bench.errors import DatasetError

SIDE = 16


def png_16(values: np.ndarray, *, channels: int = 1, transparent: int | None = None) -> bytes:
    """A PNG of 16 bits, written by hand: not every version of Pillow writes them."""
    height, width = values.shape[:2]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    tail = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + tail + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, order: str = "<") -> bytes:
    """An uncompressed TIFF of one channel of any numbers, in either byte order."""
    height, width = values.shape
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    content = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, values.dtype.itemsize * 8), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(content)), (339, 3, kind),
    ]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, size, 1)
        + (struct.pack(f"{order}I", value) if size == 4 else struct.pack(f"{order}HH", value, 0))
        for tag, size, value in tags
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return magic + struct.pack(f"{order}I", 8 + len(content)) + content + directory


def pgm(values: np.ndarray) -> bytes:
    return f"P5 {values.shape[1]} {values.shape[0]} 65535\n".encode() + values.astype(">u2").tobytes()


def picture(number: int, low: float, high: float) -> np.ndarray:
    """Values from low to high, in an order of its own."""
    values = np.linspace(low, high, SIDE * SIDE).reshape(SIDE, SIDE)
    return np.roll(values, number * 7, axis=0)


FILES = {
    "PNG": (png_16, "png"),
    "TIFF, 16 bits": (lambda values: tiff(values.astype(np.uint16)), "tif"),
    "TIFF, 16 bits, other byte order": (lambda values: tiff(values.astype(np.uint16), ">"), "tif"),
    "TIFF, 16 bits, signed": (lambda values: tiff(values.astype(np.int16)), "tif"),
    "TIFF, 32 bits": (lambda values: tiff(values.astype(np.int32)), "tif"),
    "TIFF, 32 bits, other byte order": (lambda values: tiff(values.astype(np.int32), ">"), "tif"),
    "TIFF, 32 bits, unsigned": (lambda values: tiff(values.astype(np.uint32)), "tif"),
    "PGM": (pgm, "pgm"),
}


def write(folder: Path, encode, ending: str, low: float, high: float, *, classes: int = 3) -> Path:
    for label in range(classes):
        (folder / f"c{label}").mkdir(parents=True)
        for number in range(4):
            values = picture(4 * label + number, low, high)
            (folder / f"c{label}" / f"{number}.{ending}").write_bytes(encode(values.round() if high > 2 else values))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(("high", "white"), [(200, 255), (256, 511), (4095, 4095)])
def test_integers_of_any_file_are_scaled_by_the_bits_that_the_dataset_uses(tmp_path, kind, high, white):
    dataset = open_dataset(write(tmp_path / "deep", *FILES[kind], 0, high))
    expected = np.stack([np.rint(picture(number, 0, high).round() * 255 / white) for number in range(12)])
    assert (dataset.novel.images == expected[..., None]).all()
    (note,) = dataset.preprocessing["warnings"]
    assert note == (f"12 16-bit images use 0 to {high:,} of 65,535: scaled for the whole dataset, {white:,} is white.")
    assert dataset.preprocessing["more_than_8_bits"] == f"0 to {white:,}"


def test_all_files_of_the_same_values_give_one_fingerprint(tmp_path):
    found = {
        open_dataset(write(tmp_path / str(n) / "deep", *file, 0, 3000)).fingerprint
        for n, file in enumerate(FILES.values())
    }
    assert len(found) == 1


def test_16_bits_that_use_8_are_the_images_of_8_bits(tmp_path):
    deep = open_dataset(write(tmp_path / "a" / "same", png_16, "png", 0, 255))
    flat = write(
        tmp_path / "b" / "same", lambda values: png(np.repeat(values.astype(np.uint8)[..., None], 3, -1)), "png", 0, 255
    )
    assert deep.fingerprint == open_dataset(flat).fingerprint


def test_images_that_use_all_16_bits_need_no_word(tmp_path):
    dataset = open_dataset(write(tmp_path / "deep", png_16, "png", 0, 65535))
    assert dataset.preprocessing["warnings"] == []
    assert dataset.preprocessing["more_than_8_bits"] == "0 to 65,535"
    assert dataset.novel.images.min() == 0
    assert dataset.novel.images.max() == 255


def test_the_scale_is_that_of_the_dataset_and_not_of_an_image(tmp_path):
    folder = write(tmp_path / "deep", png_16, "png", 0, 1000)
    (folder / "c2" / "3.png").write_bytes(png_16(picture(11, 0, 4000).round()))
    dataset = open_dataset(folder)
    assert dataset.novel.images[:11].max() == round(1000 * 255 / 4095)
    assert dataset.novel.images[11].max() == round(4000 * 255 / 4095)


def test_the_scale_covers_all_splits(tmp_path):
    write(tmp_path / "deep" / "train", png_16, "png", 0, 1000)
    write(tmp_path / "deep" / "test", png_16, "png", 0, 4000)
    dataset = open_dataset(tmp_path / "deep")
    assert {split: int(images.images.max()) for split, images in dataset.splits.items()} == {
        "train": round(1000 * 255 / 4095),
        "test": round(4000 * 255 / 4095),
    }


def test_8_and_16_bits_in_one_dataset_keep_the_first_and_say_so(tmp_path):
    folder = write(tmp_path / "mixed", png_16, "png", 0, 1023)
    plain = np.full((SIDE, SIDE, 3), 77, np.uint8)
    (folder / "c0" / "0.png").write_bytes(png(plain))
    dataset = open_dataset(folder)
    assert (dataset.novel.images[0] == plain).all()
    assert dataset.novel.images[1].max() == 255
    assert (
        "11 of 12 images have more than 8 bits and are scaled; the others are kept"
        in dataset.preprocessing["warnings"][1]
    )


def test_signed_integers_run_from_the_lowest_to_the_highest(tmp_path):
    folder = write(tmp_path / "ct", lambda values: tiff(values.astype(np.int16)), "tif", -1024, 3071)
    dataset = open_dataset(folder)
    expected = np.rint((picture(0, -1024, 3071).round() + 1024) * 255 / 4095)
    assert (dataset.novel.images[0] == expected[..., None]).all()
    assert (
        "use -1,024 to 3,071: scaled for the whole dataset, 3,071 is white and -1,024 black"
        in dataset.preprocessing["warnings"][0]
    )


def test_unsigned_integers_of_32_bits_do_not_turn_negative(tmp_path):
    folder = write(tmp_path / "deep", lambda values: tiff(values.astype(np.uint32)), "tif", 0, 4_000_000_000)
    dataset = open_dataset(folder)
    assert dataset.novel.images[0].min() == 0
    assert dataset.novel.images[0].max() == round(4_000_000_000 * 255 / (2**32 - 1))


@pytest.mark.parametrize(("low", "high", "black"), [(0.0, 1.0, 0.0), (0.25, 0.75, 0.0), (-1.0, 1.0, -1.0)])
def test_fractions_run_from_black_to_their_highest(tmp_path, low, high, black):
    dataset = open_dataset(write(tmp_path / "deep", lambda v: tiff(v.astype(np.float32)), "tif", low, high))
    expected = np.rint((picture(0, low, high).astype(np.float32).astype(float) - black) * 255 / (high - black))
    assert (dataset.novel.images[0] == expected[..., None]).all()
    assert "32-bit floating-point images use" in dataset.preprocessing["warnings"][0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_of_values_that_are_no_numbers_is_left_out(tmp_path, value):
    folder = write(tmp_path / "deep", lambda v: tiff(v.astype(np.float32)), "tif", 0.0, 1.0)
    broken = picture(0, 0, 1).astype(np.float32)
    broken[3, 3] = value
    (folder / "c0" / "0.tif").write_bytes(tiff(broken))
    dataset = open_dataset(folder)
    assert dataset.preprocessing["skipped"] == [["c0/0.tif", "some of its pixels are infinite or not a number"]]
    assert dataset.novel.class_sizes == (3, 4, 4)
    assert dataset.novel.images.max() == 255


def test_integers_beside_fractions_are_refused(tmp_path):
    folder = write(tmp_path / "deep", lambda v: tiff(v.astype(np.float32)), "tif", 0.0, 1.0)
    (folder / "c1" / "0.tif").write_bytes(tiff(picture(0, 0, 900).astype(np.uint16)))
    with pytest.raises(DatasetError, match=r"integers of more than 8 bits \(such as c1/0.tif\) and of floating-point"):
        open_dataset(folder)


def test_a_few_high_values_that_make_the_rest_black_are_told(tmp_path):
    folder = write(tmp_path / "depth", png_16, "png", 0, 900)
    invalid = np.zeros((SIDE, SIDE), np.uint16)
    invalid[0, 0] = 65535
    (folder / "c0" / "0.png").write_bytes(png_16(invalid))
    dataset = open_dataset(folder)
    assert any(
        "fewer than 1 in 1,000 of the pixels of more than 8 bits reach" in w for w in dataset.preprocessing["warnings"]
    )


def test_labels_of_a_few_values_are_told_to_be_dark(tmp_path):
    dataset = open_dataset(write(tmp_path / "labels", png_16, "png", 0, 20))
    assert dataset.novel.images.max() == 20
    assert any("reach an eighth of 255: nearly all become black" in text for text in dataset.preprocessing["warnings"])


@pytest.mark.parametrize(("high", "is_told"), [(4095, True), (65535, False)])
def test_colours_of_16_bits_of_low_range_are_told(tmp_path, high, is_told):
    def colours(values: np.ndarray) -> bytes:
        return png_16(np.repeat(values.round()[..., None], 3, -1), channels=3)

    dataset = open_dataset(write(tmp_path / "deep", colours, "png", 0, high))
    assert dataset.novel.images.max() == high >> 8
    warnings = dataset.preprocessing["warnings"]
    assert any("12 images of 16 bits per colour use less than 16,384 of 65,535" in text for text in warnings) == is_told


def test_reading_with_several_threads_in_any_order_gives_the_same(tmp_path, monkeypatch):
    folder = write(tmp_path / "deep", png_16, "png", 0, 3000, classes=20)
    (folder / "c19" / "3.png").write_bytes(png_16(picture(0, 0, 5000).round()))
    one = import_own_images("one", str(folder), OwnOptions())
    monkeypatch.setattr("fewshot_bench.datasets.images._QUICK", -1.0)
    monkeypatch.setattr("fewshot_bench.datasets.images._AT_ONCE", 3)
    many = import_own_images("many", str(folder), OwnOptions())
    assert many.fingerprint == one.fingerprint
    assert many.preprocessing == one.preprocessing


def test_a_transparent_value_of_16_bits_becomes_white():
    values = np.arange(256).reshape(16, 16) * 100
    rgb = Preprocessing(scale=ValueRange(0, 32767)).decode(png_16(values, transparent=1000))
    assert (rgb[values == 1000] == 255).all()
    assert (rgb[values == 900] == round(900 * 255 / 32767)).all()


def test_a_deep_image_is_turned_upright():
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 50
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", exif=exif)
    upright = Preprocessing(turns_by_exif=True, scale=ValueRange(0, 255)).decode(file.getvalue())
    assert (upright[..., 0] == np.rot90(values, -1)).all()


def test_one_image_alone_is_scaled_as_it_is_told_to():
    for value in (255, 256):
        image = Image.fromarray(np.full((4, 4), value, np.int32))
        assert np.asarray(as_rgb(image)).max() == 1  # of all that 16 bits can hold: no step between 255 and 256
        assert np.asarray(as_rgb(image, scale=ValueRange(0, 511))).max() == round(value * 255 / 511)
    with pytest.raises(ImageError, match="floating-point numbers, which have no agreed scale"):
        as_rgb(Image.fromarray(np.zeros((4, 4), np.float32)))


def test_nothing_is_scaled_before_its_dataset_was_looked_at():
    with pytest.raises(UndecidedDepthError):
        Preprocessing(scale=None).decode(png_16(np.zeros((4, 4))))
    assert Preprocessing(scale=None).decode(png(np.zeros((4, 4, 3), np.uint8))).shape == (4, 4, 3)


def test_the_recipe_says_the_scale():
    plain, scaled = Preprocessing(8, scale=ALL_16_BITS), Preprocessing(8, scale=ValueRange(0, 4095))
    assert scaled.as_dict() == {**plain.as_dict(), "more_than_8_bits": "0 to 4,095"}


def test_used_values_do_not_depend_on_the_order():
    images = [Image.fromarray(picture(number, 0, 300 * (number + 1)).astype(np.int32)) for number in range(5)]
    parts = [UsedValues.of_image(image, str(number)) for number, image in enumerate(images)]
    forwards, backwards = UsedValues.together(parts), UsedValues.together(reversed(parts))
    assert forwards.scale("here") == backwards.scale("here") == ValueRange(0, 2047)
    assert (forwards.by_bits == backwards.by_bits).all()

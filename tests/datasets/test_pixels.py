"""One image file at a time: what comes out of every kind of file, and what is refused."""

from __future__ import annotations

import io
import itertools
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from archives import png
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, features

from fewshot_bench.datasets import images
from fewshot_bench.datasets.images import FILTERS, MOST_PIXELS, ImageError, Preprocessing, header_size

KEEP = Preprocessing()
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
WHITE = [255, 255, 255]


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, format=kind, **options)
    return file.getvalue()


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


def test_pixels_of_a_lossless_file_come_out_as_they_went_in():
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        result = KEEP.decode(encoded(NOISE, kind))
        assert result.dtype == np.uint8
        assert (result == NOISE).all(), kind
    assert (KEEP.decode(encoded(NOISE, "WEBP", lossless=True)) == NOISE).all()


def test_a_jpeg_comes_out_as_pillow_decodes_it():
    file = encoded(NOISE, "JPEG", quality=70)
    assert (KEEP.decode(file) == np.asarray(Image.open(io.BytesIO(file)))).all()


def test_gray_and_black_and_white_become_three_equal_channels():
    assert (KEEP.decode(encoded(RAMP)) == gray(RAMP)).all()
    assert (KEEP.decode(encoded(RAMP, "GIF")) == gray(RAMP)).all()
    assert (KEEP.decode(encoded(Image.fromarray(RAMP > 100))) == gray(np.where(RAMP > 100, 255, 0))).all()


def palette(**info) -> Image.Image:
    image = Image.new("P", (16, 16))
    image.putdata((RAMP % 4).ravel().tolist())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    image.info |= info
    return image


def test_a_palette_is_looked_up():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]])
    assert (KEEP.decode(encoded(palette())) == colours[RAMP % 4]).all()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_becomes_white(kind):
    colours = np.array([[255, 0, 0], WHITE, [0, 0, 255], [10, 20, 30]])
    assert (KEEP.decode(encoded(palette(), kind, transparency=1)) == colours[RAMP % 4]).all()


def test_a_palette_of_half_transparent_colours_is_laid_over_white():
    result = KEEP.decode(encoded(palette(), transparency=bytes([255, 0, 128, 255])))
    assert result[0, :4].tolist() == [[255, 0, 0], WHITE, [127, 127, 255], [10, 20, 30]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_what_is_transparent_becomes_white(mode, kind):
    image = Image.new(mode, (2, 1), (0,) * len(mode))
    image.putpixel((1, 0), (0,) * (len(mode) - 1) + (128,))
    assert KEEP.decode(encoded(image, kind)).tolist() == [[WHITE, [127, 127, 127]]]


def test_a_palette_with_a_second_channel_of_transparency_is_laid_over_white():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image = image.convert("PA")
    image.putalpha(Image.fromarray(np.array([[255, 128, 0]], np.uint8)))
    assert KEEP.decode(encoded(image, "TIFF")).tolist() == [[[255, 0, 0], [127, 255, 127], WHITE]]


@pytest.mark.parametrize(
    ("kind", "depth", "row", "expected"),
    [
        (4, 16, struct.pack(">4H", 0x1000, 0xFFFF, 0x1000, 0), [16, 255]),  # gray and transparency, 16 bits each
        (0, 1, bytes([0b01000000]), [0, 255]),
        (0, 2, bytes([0b00011011]), [0, 85]),
        (0, 4, bytes([0xF1]), [255, 17]),
    ],
)
def test_pngs_of_other_depths_have_their_values(kind, depth, row, expected):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0))
    file = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    assert Preprocessing(scale=None if depth < 16 else Preprocessing().scale).decode(file)[0, :, 0].tolist() == expected


def test_a_transparent_colour_of_an_image_without_palette_becomes_white():
    file = encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert KEEP.decode(file).tolist() == [[WHITE]]
    assert KEEP.decode(encoded(Image.new("RGB", (1, 1), (1, 2, 4)), transparency=(1, 2, 3))).tolist() == [[[1, 2, 4]]]


@pytest.mark.parametrize(("ink", "colour"), [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 0, 0, 128), 127)])
def test_cmyk_is_paper_where_there_is_no_ink(ink, colour):
    """Adobe's JPEGs hold ink inverted, and Pillow writes them so; decoding must turn it back."""
    image = Image.new("CMYK", (8, 8), ink)
    file = encoded(image, "JPEG", quality=100)
    assert b"Adobe" in file
    assert np.abs(KEEP.decode(file).astype(int) - colour).max() <= 2
    assert (KEEP.decode(encoded(image, "TIFF")) == colour).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(kind):
    values = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert (KEEP.decode(encoded(Image.fromarray(values), kind)) == gray(RAMP)).all()


def test_an_image_of_sixteen_bits_without_a_dataset_is_scaled_by_all_that_it_could_hold():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    assert (KEEP.decode(encoded(Image.fromarray(values), "PNG")) <= 1).all()


def test_sixteen_bits_of_the_other_byte_order_are_the_same():
    values = (np.arange(256, dtype=">u2") * 257).reshape(16, 16).astype(">u2")
    image = Image.frombytes("I;16B", (16, 16), values.tobytes())
    assert (KEEP.decode(encoded(image, "TIFF")) == gray(RAMP)).all()


def test_floating_point_pixels_are_refused():
    with pytest.raises(ImageError, match="floating-point numbers, which have no agreed scale"):
        KEEP.decode(encoded(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))


ANIMATED = [("GIF", {}), ("PNG", {})] + ([("WEBP", {"lossless": True})] if features.check("webp") else [])


@pytest.mark.parametrize(("kind", "options"), ANIMATED)
def test_the_first_frame_of_an_animation_is_taken(kind, options):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    file = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    assert Image.open(io.BytesIO(file)).n_frames == 3
    assert (KEEP.decode(file) == [255, 0, 0]).all()


def turned(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(NOISE[:8], kind, exif=exif)


UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_an_image_is_turned_upright_if_that_is_wanted_and_only_then(orientation):
    """The standard's eight ways to hold a camera (CIPA DC-008, 4.6.4)."""
    file = turned(orientation)
    assert (Preprocessing(turns_by_exif=True).decode(file) == UPRIGHT[orientation](NOISE[:8])).all()
    assert (KEEP.decode(file) == NOISE[:8]).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    assert (Preprocessing(turns_by_exif=True).decode(turned(orientation)) == NOISE[:8]).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_lose_an_image():
    file = encoded(NOISE, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xee" * 40)
    assert Preprocessing(turns_by_exif=True).decode(file).shape == NOISE.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_an_image_cut_off_in_its_pixels_is_refused(kind):
    """Pillow's own setting that fills the rest with gray is not what we want."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    file = encoded(np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    for length in range(1, len(file) * 9 // 10, len(file) // 37):
        with pytest.raises(ImageError) as raised:
            KEEP.decode(file[:length])
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.filterwarnings("ignore")
def test_an_image_with_a_changed_byte_is_an_image_or_one_line(kind):
    file = encoded(NOISE, kind)
    recipe = Preprocessing(8, turns_by_exif=True)
    for place, change in itertools.product(range(len(file)), (0x01, 0x80, 0xFF)):
        try:
            result = recipe.decode(file[:place] + bytes([file[place] ^ change]) + file[place + 1 :])
        except ImageError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017  # most changes raise nothing
        else:
            assert result.shape == (8, 8, 3)


NO_IMAGES = {
    "nothing": (b"", "the file is empty"),
    "text": (b"not an image at all", "not an image"),
    "a web page": (b"<!DOCTYPE html><html></html>", "not an image"),
    "a vector image": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "a zip": (b"PK\3\4" + bytes(50), "not an image"),
    "the start of a PNG": (b"\x89PNG\r\n\x1a\n", "."),
    "the start of a JPEG": (b"\xff\xd8\xff\xe0", "."),
    "NULs": (bytes(10_000), "not an image"),
}


@pytest.mark.parametrize(("content", "reason"), NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_is_refused_whatever_it_is_called(content, reason):
    with pytest.raises(ImageError, match=reason) as raised:
        KEEP.decode(content)
    assert len(str(raised.value).splitlines()) == 1
    assert header_size(content) is None


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(evil) print\n%%EOF\n"


def test_postscript_is_never_handed_to_an_interpreter(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with Image.open(io.BytesIO(EPS)) as image:  # so Pillow alone would read it
        assert image.format == "EPS"
    for content in (EPS, struct.pack("<IIIIIIIH", 0xC6D3D0C5, 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS):
        with pytest.raises(ImageError, match="not an image"):
            KEEP.decode(content)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, *chunks: bytes, data: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif_of(width: int, height: int) -> bytes:
    return encoded(Image.new("P", (1, 1)), "GIF").replace(struct.pack("<HH", 1, 1), struct.pack("<HH", width, height))


BOMBS = {
    "far too many pixels": png_of(100_000, 100_000, data=zlib.compress(bytes(1000))),
    "a few too many": png_of(10_000, 10_001, data=zlib.compress(bytes(1000))),
    "one long row": png_of(2**31 - 1, 1, data=zlib.compress(bytes(1000))),
    "a GIF": gif_of(65535, 65535),
    "a bitmap": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 58, 0, 0, 54, 40, 90000, 90000, 1, 24, *[0] * 6),
    "a PPM": b"P6 90000 90000 255\n" + bytes(100),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.filterwarnings("ignore")
def test_too_many_pixels_are_refused_by_the_header(monkeypatch, bomb):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(Image, "new", lambda *_: pytest.fail("room was made for it"))
    for recipe in (KEEP, Preprocessing(84), Preprocessing(84, turns_by_exif=True)):
        with pytest.raises(ImageError, match=f"pixels; at most {MOST_PIXELS:,} are read"):
            recipe.decode(bomb)


def test_the_bound_is_where_it_is_said_to_be(monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 256)
    assert KEEP.decode(png(NOISE)).shape == (16, 16, 3)
    monkeypatch.setattr(images, "MOST_PIXELS", 255)
    with pytest.raises(ImageError, match="16 x 16 pixels; at most 255"):
        KEEP.decode(png(NOISE))


ROWS = zlib.compress(bytes(16 * 49))
MEGABYTES = zlib.compress(bytes(1 << 27), 9)
CHUNKS = {
    "compressed text": chunk(b"zTXt", b"a\0\0" + MEGABYTES),
    "compressed international text": chunk(b"iTXt", b"a\0\1\0\0\0" + MEGABYTES),
    "a colour profile": chunk(b"iCCP", b"a\0\0" + MEGABYTES),
    "many texts": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK - 1))) * 200,
}


@pytest.mark.parametrize("bomb", CHUNKS.values(), ids=CHUNKS)
def test_a_bomb_beside_the_pixels_is_never_unpacked(bomb):
    tracemalloc.start()
    try:
        assert KEEP.decode(png_of(16, 16, bomb, data=ROWS)).shape == (16, 16, 3)
    except ImageError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017  # either is safe
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (31, 31), (5, 7), (16, 300)])
def test_resizing_is_pillows_own(interpolation, shape):
    image = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    picture, method = Image.fromarray(image), FILTERS[interpolation]
    squashed = Preprocessing(16, "squash", interpolation)
    cropped = Preprocessing(16, "crop", interpolation)
    assert (squashed.decode(png(image)) == np.asarray(picture.resize((16, 16), method))).all()
    assert (squashed.resize(image) == squashed.decode(png(image))).all()
    assert (cropped.decode(png(image)) == np.asarray(ImageOps.fit(picture, (16, 16), method))).all()
    assert (cropped.resize(image) == cropped.decode(png(image))).all()


def test_cropping_keeps_the_middle_and_squashing_keeps_everything():
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, :30], image[:, 30:60], image[:, 60:] = [255, 0, 0], [0, 255, 0], [0, 0, 255]
    cropped = Preprocessing(30, "crop", "box").resize(image)
    squashed = Preprocessing(30, "squash", "box").resize(image)
    assert (cropped == [0, 255, 0]).all()
    assert (squashed[:, :10] == [255, 0, 0]).all()
    assert (squashed[:, 20:] == [0, 0, 255]).all()


def test_an_image_of_the_right_size_is_not_resampled():
    for fit in ("squash", "crop"):
        assert (Preprocessing(16, fit).decode(png(NOISE)) == NOISE).all()
        assert (Preprocessing(16, fit).resize(NOISE) == NOISE).all()


def test_pixels_that_are_gray_become_three_channels_at_any_size():
    assert (KEEP.resize(RAMP) == gray(RAMP)).all()
    assert Preprocessing(8).resize(RAMP).shape == (8, 8, 3)
    assert (Preprocessing(8).resize(RAMP) == gray(np.asarray(Image.fromarray(RAMP).resize((8, 8), 1)))).all()


def test_the_recipe_says_all_that_the_pixels_depend_on():
    one = Preprocessing(84)
    others = [
        Preprocessing(),
        Preprocessing(32),
        Preprocessing(84, "crop"),
        Preprocessing(84, interpolation="box"),
        Preprocessing(84, turns_by_exif=True),
    ]
    assert all(one.as_dict() != other.as_dict() for other in others)
    assert one.as_dict()["pillow"] == Image.__version__

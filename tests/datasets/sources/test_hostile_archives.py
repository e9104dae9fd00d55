"""Archives that want more than to be read: each is refused in one line, and nothing is written."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import lzma
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from samples import class_folder_tar, class_folder_zip, class_images, npy, state_of, write_folder, write_tar, write_zip

from fewshot_bench.datasets import OwnOptions, import_dataset, import_own_images
from fewshot_bench.datasets.check import check_place
from fewshot_bench.datasets.sources import open_tree
from fewshot_bench.datasets.sources.arrays import read_arrays
from fewshot_bench.errors import DatasetError, FewshotBenchError

IMAGES = class_images()
WAYS_IN: dict[str, Callable[[Path], object]] = {
    "check": check_place,
    "own images": lambda path: import_own_images("mine", str(path), OwnOptions()),
    "cifar-fs": lambda path: import_dataset("cifar-fs", path),
    "mini-imagenet": lambda path: import_dataset("mini-imagenet", path),
}


@pytest.fixture
def stranger(tmp_path: Path, home: Path) -> Path:
    """The folder in which the archive lies, between other people's files; the home holds a file, too."""
    write_folder(
        tmp_path, [("precious.txt", b"1"), ("stranger/beside/precious.txt", b"2"), ("home/precious.txt", b"3")]
    )
    return tmp_path / "stranger"


def assert_refused(path: Path, reason: str, ways_in: tuple[str, ...] = tuple(WAYS_IN)) -> None:
    """Every way in raises one line, one of them with this reason, and leaves every folder around as it was."""
    everything = path.parent.parent
    before = state_of(everything)
    messages = []
    for way_in in ways_in:
        with pytest.raises(DatasetError) as raised:
            WAYS_IN[way_in](path)
        messages.append(str(raised.value))
        assert len(messages[-1].splitlines()) == 1, way_in
    after = state_of(everything)
    assert {name: after[name] for name in after if name not in ("home/datasets",)} == before
    assert any(reason in message for message in messages), messages


OUTSIDE = {
    "absolute": "/tmp/evil.png",
    "one level up": "../evil.png",
    "up from within": "cat/../../evil.png",
    "up at the end": "cat/..",
    "backslashes": "..\\..\\evil.png",
    "a backslash at the start": "\\evil.png",
    "a network share": "\\\\server\\share\\evil.png",
    "a drive letter": "C:\\evil.png",
    "a drive letter and no slash": "c:evil.png",
    "a mix of slashes": "cat\\../..\\evil.png",
    "a line break": "cat/evil\n.png",
    "colours of the terminal": "cat/\x1b[31mevil.png",
    "nothing but dots": "./.",
}


@pytest.mark.parametrize("name", OUTSIDE.values(), ids=OUTSIDE)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_name_that_leads_outside_is_refused(stranger, kind, name):
    members = [*IMAGES, (name, b"evil")]
    path = stranger / f"a.{kind}"
    if kind == "zip":
        write_zip(path, members)
    else:
        write_tar(path, members, compression=kind.removeprefix("tar").removeprefix("."))
    assert_refused(path, "It is not read.")


@pytest.mark.parametrize("name", ["../evil/", "/evil/", "C:\\evil/"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_folder_that_leads_outside_is_refused_even_if_it_is_empty(stranger, kind, name):
    path = stranger / f"a.{kind}"
    if kind == "zip":
        write_zip(path, [*IMAGES, (name, b"")])
    else:
        with tarfile.open(class_folder_tar(path), "a") as archive:
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
    assert_refused(path, "leads outside")


def test_the_folder_entry_of_the_archive_itself_is_no_reason_to_refuse_it(stranger):
    path = stranger / "a.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(write_folder(stranger / "images", IMAGES), arcname=".")
    with open_tree(path) as tree:
        assert tree.folders() == ["cat", "dog", "owl"]


def test_what_a_zip_hides_behind_a_nul_is_seen(stranger):
    """Python's zipfile cuts names at the first NUL."""
    path = write_zip(stranger / "a.zip", [*IMAGES, ("cat/evil.png\0.txt", b"evil")])
    assert_refused(path, "leads outside")


@pytest.mark.parametrize("name", ["", "\0", "\0evil.png"])
def test_a_member_of_a_zip_without_a_name_is_refused(stranger, name):
    assert_refused(write_zip(stranger / "a.zip", [*IMAGES, (name, b"evil")]), "It is not read.")


@pytest.mark.parametrize("name", ["d/" * 5000 + "x.png", "cat/" + "x" * 10_000 + ".png"], ids=["depth", "length"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_no_system_could_store_is_refused(stranger, kind, name):
    write = write_zip if kind == "zip" else write_tar
    assert_refused(write(stranger / f"a.{kind}", [*IMAGES, (name, b"evil")]), "It is not read.")


IN_A_TAR = {
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "sparse file": tarfile.GNUTYPE_SPARSE,
    "something unknown": b"Z",
}
IN_A_ZIP = {
    "symbolic link": stat.S_IFLNK,
    "character device": stat.S_IFCHR,
    "block device": stat.S_IFBLK,
    "pipe": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}


@pytest.mark.parametrize("kind", IN_A_TAR.values(), ids=IN_A_TAR)
def test_a_tar_with_anything_but_files_and_folders_is_refused(stranger, kind):
    path = stranger / "a.tar"
    with tarfile.open(class_folder_tar(path), "a") as archive:
        member = tarfile.TarInfo("cat/evil.png")
        member.type, member.linkname = kind, "../../precious.txt"
        archive.addfile(member)
    assert_refused(path, "a link or device")


@pytest.mark.parametrize("kind", IN_A_ZIP.values(), ids=IN_A_ZIP)
def test_a_zip_with_anything_but_files_and_folders_is_refused(stranger, kind):
    path = class_folder_zip(stranger / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("cat/evil.png")
        member.create_system, member.external_attr = 3, (kind | 0o777) << 16
        archive.writestr(member, "../../precious.txt")
    assert_refused(path, "a link or device")


TWICE = {
    "the same name": ("cat/0.png", "two members called"),
    "the same name, written otherwise": ("./cat//0.png", "two members called"),
    "the same name with a backslash": ("cat\\0.png", "two members called"),
    "a name that differs in case": ("cat/0.PNG", "one file on many systems"),
    "a folder that differs in case": ("Cat/77.png", "one file on many systems"),
    "a file where a folder is": ("cat", "as a file and as a folder"),
    "a folder where a file is": ("cat/0.png/x.png", "as a file and as a folder"),
    "a deep folder where a file is": ("cat/0.png/x/y.png", "as a file and as a folder"),
}


@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
@pytest.mark.parametrize("case", TWICE)
@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_in_one_place_are_refused_in_either_order(stranger, kind, case, last):
    name, reason = TWICE[case]
    members = [*IMAGES, (name, b"other")] if last else [(name, b"other"), *IMAGES]
    write = write_zip if kind == "zip" else write_tar
    assert_refused(write(stranger / f"a.{kind}", members), reason)


@pytest.mark.parametrize(("one", "other"), [("cat/é.png", "cat/e\u0301.png"), ("é/1.png", "e\u0301/2.png")])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_differ_only_in_their_unicode_form_are_refused(stranger, kind, one, other):
    write = write_zip if kind == "zip" else write_tar
    assert_refused(write(stranger / f"a.{kind}", [(one, b"1"), (other, b"2")]), "one file on many systems")


def test_names_that_are_no_unicode_at_all_are_stored_legibly(stranger):
    """Old tars hold names in Latin-1; such a name is no attack."""
    path = stranger / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, content in IMAGES:
            member = tarfile.TarInfo(f"caf\xe9/{name}".replace("/0", "/\xe9"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    dataset = import_own_images("mine", str(path), OwnOptions())
    assert len(dataset.novel) == len(IMAGES)
    assert [dataset.novel.image_name(index) for index in range(3)] == ["1.png", "2.png", "\\xe9.png"]


def patched(path: Path, *patches: tuple[bytes, int, bytes]) -> Path:
    """Overwrite bytes at an offset from every occurrence of a signature."""
    content = bytearray(path.read_bytes())
    for signature, offset, value in patches:
        place = content.find(signature)
        while place >= 0:
            content[place + offset : place + offset + len(value)] = value
            place = content.find(signature, place + 1)
    path.write_bytes(content)
    return path


CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"


@pytest.mark.parametrize("flags", [0x1, 0x41])
def test_an_encrypted_zip_is_refused_with_a_way_out(stranger, flags):
    path = patched(class_folder_zip(stranger / "a.zip"), (CENTRAL, 8, flags.to_bytes(2, "little")), (LOCAL, 6, b"\1\0"))
    assert_refused(path, "encrypted")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 9, 98])
def test_a_zip_of_a_rare_compression_is_refused_with_a_way_out(stranger, method):
    """Python unpacks bzip2 and LZMA members without any bound on what comes out of a block."""
    path = stranger / "a.zip"
    if method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        write_zip(path, IMAGES, compression=method)
    else:
        patched(class_folder_zip(path), (CENTRAL, 10, method.to_bytes(2, "little")))
    assert_refused(path, "Unpack it")


ZEROS = bytes(1 << 25)


def bomb(path: Path) -> Path:
    """A zip of 32 MB of zeros in 32 KB."""
    return write_zip(path, [*IMAGES, ("cat/evil.png", ZEROS)])


def test_a_member_that_unpacks_to_a_thousand_times_its_size_is_refused(stranger):
    assert_refused(bomb(stranger / "a.zip"), "an archive bomb")


def test_a_member_that_only_claims_to_be_large_is_refused(stranger):
    path = patched(class_folder_zip(stranger / "a.zip"), (CENTRAL, 24, struct.pack("<I", 0xFFFFFFF0)))
    assert_refused(path, "an archive bomb")


def test_members_that_overlap_are_refused(stranger):
    """One compressed member under a hundred names: each passes for an honest one (Fifield, 2019)."""
    path = stranger / "a.zip"
    noise = np.random.default_rng(0).bytes(1 << 14)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/0.png", noise)
        for number in range(1, 100):
            again = copy.copy(archive.filelist[0])
            again.filename = again.orig_filename = f"cat/{number}.png"
            archive.filelist.append(again)
    assert_refused(path, "overlap")


@pytest.mark.parametrize("claimed", [100, 5000])
def test_a_member_that_claims_to_be_small_unpacks_to_no_more(stranger, claimed):
    path = patched(write_zip(stranger / "a.zip", [("cat/evil.png", ZEROS)]), (CENTRAL, 24, struct.pack("<I", claimed)))
    with open_tree(path) as tree:
        tracemalloc.start()
        with pytest.raises(DatasetError, match="is damaged"):
            tree.read("cat/evil.png")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 21


def test_a_member_that_claims_to_be_small_is_not_unpacked_to_disk_either(stranger):
    path = patched(
        write_zip(stranger / "few-shot-train.npz", [("features.npy", ZEROS)]), (CENTRAL, 24, struct.pack("<I", 5000))
    )
    assert_refused(path, "is damaged", ("check", "cifar-fs"))


def test_an_archive_in_which_no_image_can_be_read_makes_no_dataset(stranger, home):
    write_zip(stranger / "a.zip", [("cat/1.png", b"evil"), ("dog/1.png", b"evil")])
    with pytest.raises(DatasetError, match=r"cat/1\.png") as raised:
        import_own_images("mine", str(stranger / "a.zip"), OwnOptions())
    assert "\n" not in str(raised.value)
    assert not (home / "datasets" / "mine").exists()


COMPRESSED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_a_compressed_bomb_is_refused(stranger, name, twice):
    path = stranger / f"a.tar.{name}"
    packed = COMPRESSED[name](ZEROS)
    path.write_bytes(COMPRESSED[name](packed * (1 << 10)) if twice else packed)
    assert_refused(path, "It is not read." if not twice else "a.tar")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPRESSED)
def test_a_tar_with_a_bomb_behind_its_images_is_refused(stranger, name):
    path = write_tar(stranger / f"a.tar.{name}", [*IMAGES, ("cat/evil.png", ZEROS)], compression=name)
    assert_refused(path, "an archive bomb")


def test_archives_in_archives_are_never_opened_without_end(stranger):
    """A zip quine holds itself; one that is never looked into is as harmless as a deep nest of zips."""
    content = class_folder_zip(stranger / "a.zip").read_bytes()
    for _ in range(50):
        content = write_zip(stranger / "a.zip", [("again/a.zip", content)], compression=zipfile.ZIP_STORED).read_bytes()
    assert_refused(stranger / "a.zip", "no images")


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("outer", ["folder", "tar"])
def test_a_hostile_tar_inside_of_another_is_refused(stranger, tiny, kind, outer):
    """ILSVRC-2012 is a tar of one tar per class."""
    evil = stranger / f"x.tar.{kind}"
    write_tar(evil, [("n00000001_1.JPEG", b"1"), ("../../evil.JPEG", b"2")], compression=kind)
    good = write_tar(stranger / "y.tar", [("n00000002_1.JPEG", b"1")]).read_bytes()
    names = [f"n0000000{number}" for number in range(2, 9)]
    members = [("n00000001.tar", evil.read_bytes()), *((f"{name}.tar", good) for name in names)]
    path = write_tar(stranger / "a.tar", members) if outer == "tar" else write_folder(stranger / "ilsvrc", members)
    assert_refused(path, "leads outside" if not kind or outer == "folder" else "not a complete tar", ("mini-imagenet",))


def test_a_tar_cut_off_anywhere_is_refused(stranger):
    whole = class_folder_tar(stranger / "a.tar").read_bytes()
    path = stranger / "cut.tar"
    with tarfile.open(stranger / "a.tar") as archive:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in archive)
    for length in range(0, end + 1, 128):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError) as raised:
            check_place(path)
        assert len(str(raised.value).splitlines()) == 1
    path.write_bytes(whole[: end + 512])
    assert check_place(path).facts["own_images"]


def test_a_tar_with_a_damaged_header_is_refused_not_read_up_to_there(stranger):
    path = class_folder_tar(stranger / "a.tar")
    with tarfile.open(path) as archive:
        place = archive.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[place + 150] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "not a complete tar archive")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_compressed_archive_cut_off_anywhere_is_refused(stranger, kind):
    path = stranger / f"a.{kind}"
    class_folder_zip(path) if kind == "zip" else class_folder_tar(path, compression=kind[4:])
    whole = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole) - 40, 97), *range(len(whole) - 40, len(whole))]:
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError) as raised:
            check_place(path)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_of_which_any_byte_was_changed_is_one_line_or_whole(stranger, kind):
    """A zip's checksums are compared when a member is read: its images are left out and named."""
    path = stranger / f"a.{kind}"
    class_folder_zip(path) if kind == "zip" else class_folder_tar(path, compression=kind[4:])
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            with open_tree(path) as tree:
                for folder in tree.folders():
                    for file in tree.files(folder):
                        tree.read(f"{folder}/{file}")
        except DatasetError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017  # not every change is damage


HEADERS_OF_TARS = {
    "a negative size": {"size": -512, "type": tarfile.REGTYPE},
    "a negative size of a long name": {"size": -1024, "type": tarfile.GNUTYPE_LONGNAME},
    "a huge long name": {"size": 1 << 30, "type": tarfile.GNUTYPE_LONGNAME},
    "a huge extended header": {"size": 1 << 30, "type": tarfile.XHDTYPE},
    "a huge global header": {"size": 1 << 30, "type": tarfile.XGLTYPE},
}


@pytest.mark.parametrize("case", HEADERS_OF_TARS)
def test_a_tar_header_with_an_absurd_size_is_refused(stranger, case):
    path = stranger / "a.tar"
    evil = tarfile.TarInfo("evil")
    evil.size, evil.type = HEADERS_OF_TARS[case]["size"], HEADERS_OF_TARS[case]["type"]
    path.write_bytes(evil.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20) + class_folder_tar(path).read_bytes())
    tracemalloc.start()
    assert_refused(path, "not a complete tar archive")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_tar_of_a_thousand_headers_for_one_member_is_refused(stranger, kind):
    """Python's tarfile descends one level for each."""
    path = stranger / "a.tar"
    header = tarfile.TarInfo("evil")
    content = b"x\0" if kind == tarfile.GNUTYPE_LONGNAME else b"12 path=a/b\n"
    header.size, header.type = len(content), kind
    block = header.tobuf(tarfile.GNU_FORMAT) + content.ljust(512, b"\0")
    path.write_bytes(block * 2000 + class_folder_tar(path).read_bytes())
    assert_refused(path, "not a complete tar archive")


EMPTY = {
    "no bytes": ("a.zip", b"", "is empty"),
    "no members": ("a.zip", b"PK\5\6" + bytes(18), "no images"),
    "a tar of no members": ("a.tar", bytes(10240), "a.tar"),
    "a compressed tar of no members": ("a.tar.gz", gzip.compress(bytes(10240)), "no images"),
    "a compressed nothing": ("a.tar.gz", gzip.compress(b""), "a.tar.gz"),
}


@pytest.mark.parametrize(("name", "content", "reason"), EMPTY.values(), ids=EMPTY)
def test_an_empty_archive_is_said_to_be_empty(stranger, name, content, reason):
    (stranger / name).write_bytes(content)
    assert_refused(stranger / name, reason)


@pytest.mark.parametrize("start", [b"<!DOCTYPE html>", b"\n  <html lang=en>", b"\xef\xbb\xbf<!doctype HTML>"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar", "CIFAR_FS_train.pickle", "few-shot-train.npz"])
def test_a_web_page_saved_in_place_of_a_file_is_called_one(stranger, name, start):
    (stranger / name).write_bytes(start + b"<title>Quota exceeded</title>" + b"PK\5\6" + bytes(18))
    assert_refused(stranger / name, "is a web page")


def test_an_archive_is_known_by_its_content_not_by_its_name(stranger):
    class_folder_zip(stranger / "a.tar.gz")
    class_folder_tar(stranger / "b.zip")
    class_folder_tar(stranger / "c.zip", compression="xz")
    for name in ("a.tar.gz", "b.zip", "c.zip"):
        with open_tree(stranger / name) as tree:
            assert tree.folders() == ["cat", "dog", "owl"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "train.pkl", "train.npz", "train.npy"])
@pytest.mark.parametrize("content", [IMAGES[0][1], b"plain text", b"PK", b"\x1f\x8b", b"BZh9", b"\x93NUMPY"])
def test_something_else_under_the_name_of_an_archive_is_refused(stranger, name, content):
    (stranger / name).write_bytes(content)
    assert_refused(stranger / name, name)


def test_a_zip_behind_something_else_is_read_and_one_of_several_disks_is_refused(stranger):
    path = class_folder_zip(stranger / "a.zip")
    path.write_bytes(b"#!/bin/sh\nexit 1\n" + path.read_bytes())
    with open_tree(path) as tree:
        assert tree.folders() == ["cat", "dog", "owl"]
    content = path.read_bytes()
    locator = b"PK\6\7" + struct.pack("<IQI", 5, 0, 7)
    path.write_bytes(content[:-22] + locator + content[-22:])
    assert_refused(path, "not a zip archive")


def test_an_object_array_is_refused_and_its_pickle_not_even_looked_at(stranger, monkeypatch):
    np.savez(stranger / "few-shot-train.npz", features=np.array([print, {}], dtype=object), allow_pickle=True)
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled"))
    assert_refused(stranger / "few-shot-train.npz", "Python objects", ("check", "cifar-fs"))


def facts(shape: str = "(2,)", descr: str = "'|u1'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


HEADERS = {
    "a huge shape": npy(facts("(1099511627776,)"), b"ab"),
    "a shape whose product overflows": npy(facts("(4294967296, 4294967296)"), b"ab"),
    "a shape whose product overflows to little": npy(facts("(4611686018427387904, 4, 2)"), b"ab"),
    "a shape beyond all integers": npy(facts(f"({10**30},)"), b"ab"),
    "a negative shape": npy(facts("(-1,)"), b"ab"),
    "two negative extents": npy(facts("(-1, -2)"), b"ab"),
    "an empty array of a negative shape": npy(facts("(0, -2)"), b"ab"),
    "an empty array of a huge shape": npy(facts("(0, 4611686018427387904, 4611686018427387904)")),
    "a shape of truth values": npy(facts("(True, True)"), b"ab"),
    "a shape of fractions": npy(facts("(2.0,)"), b"ab"),
    "a shape that is a list": npy(facts("[2]"), b"ab"),
    "a scalar without data": npy(facts("()")),
    "too many dimensions": npy(facts("(1,) * 100".replace("(1,) * 100", "(" + "1," * 100 + ")")), b"ab"),
    "elements without size": npy(facts("(1099511627776,)", "'|V0'"), b"ab"),
    "texts without size": npy(facts("(1099511627776,)", "'|S0'"), b"ab"),
    "elements of huge size": npy(facts("(1,)", "'|V2147483647'"), b"ab"),
    "objects": npy(facts("(2,)", "'|O'"), b"ab"),
    "objects in a structure": npy(facts("(2,)", "[('a', '|O')]"), b"ab"),
    "a structure": npy(facts("(1,)", "[('a', '|u1'), ('b', '|u1')]"), b"ab"),
    "a type that does not exist": npy(facts("(2,)", "'|q7'"), b"ab"),
    "a call": npy("__import__('os').system('touch evil')", b"ab"),
    "a call for the shape": npy(facts("(__import__('os').system('touch evil'),)"), b"ab"),
    "a call for the type": npy(facts("(2,)", "__import__('os').system('touch evil')"), b"ab"),
    "a power": npy(facts("(9**9**9,)"), b"ab"),
    "no dictionary": npy("[1, 2]", b"ab"),
    "a key too many": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), 'x': 1}", b"ab"),
    "a key too few": npy("{'descr': '|u1', 'shape': (2,)}", b"ab"),
    "an open bracket": npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,", b"ab"),
    "an open string": npy("{'descr': '|u1", b"ab"),
    "odd indentation": npy("    {\n  'descr'", b"ab"),
    "a deep nest": npy("(" * 9000, b"ab"),
    "a deep nest of minus signs": npy("-" * 9000 + "1", b"ab"),
    "a long header": npy(facts() + " " * 50_000, b"ab"),
    "a longer header": npy(facts() + " " * 500_000, b"ab", version=(2, 0)),
    "a NUL": npy(facts("(2\0,)"), b"ab"),
    "letters of no alphabet": npy(facts("(2\xff,)"), b"ab"),
    "a version that does not exist": npy(facts(), b"ab", version=(9, 9)),
    "text that is no unicode": b"\x93NUMPY\3\0\4\0\0\0\xff\xfe\xfd\n",
    "a header that is cut off": npy(facts())[:20],
    "data that are cut off": npy(facts("(3,)"), b"ab"),
    "characters that do not exist": npy(facts("(1,)", "'<U1'"), b"\xff\xff\xff\x7f"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HEADERS)
@pytest.mark.parametrize("kind", ["npy", "npz", "npz in a zip", "npz in a tar.gz"])
@pytest.mark.filterwarnings("error")
def test_a_numpy_file_with_a_hostile_header_is_refused(stranger, monkeypatch, case, kind):
    monkeypatch.chdir(stranger)
    path = stranger / f"few-shot-train.{kind[:3]}"
    path.write_bytes(HEADERS[case])
    if kind != "npy":
        write_zip(path, [("features.npy", HEADERS[case]), ("targets.npy", npy(facts("(2,)", "'<i8'"), bytes(16)))])
    if kind == "npz in a zip":
        path = write_zip(stranger / "a.zip", [("data/few-shot-train.npz", path.read_bytes())])
    elif kind == "npz in a tar.gz":
        path = write_tar(stranger / "a.tar.gz", [("data/few-shot-train.npz", path.read_bytes())], compression="gz")
    assert_refused(path, "few-shot-train", ("check", "cifar-fs"))


def test_an_honest_numpy_file_is_read_whatever_is_beside_it(stranger):
    np.savez(stranger / "a.npz", features=np.arange(6, dtype=np.uint8), names=np.array(["cät", "dog"]), one=np.int64(7))
    with open_tree(stranger / "a.npz") as tree:
        found = read_arrays(tree, "a.npz")
        assert found["features"].tolist() == [0, 1, 2, 3, 4, 5]
        assert found["names"].tolist() == ["cät", "dog"]
        assert found["one"] == 7
        assert not found["features"].flags.writeable


def test_an_npz_bomb_is_refused(stranger):
    np.savez_compressed(stranger / "few-shot-train.npz", features=np.zeros((1 << 13, 3072), np.uint8))
    assert_refused(stranger / "few-shot-train.npz", "an archive bomb", ("check", "cifar-fs"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.pkl", "few-shot-train.npz", "a.npy"])
def test_nothing_but_our_own_errors_comes_from_reading_what_was_cut_off(stranger, name):
    path = stranger / name
    if name.endswith("npz"):
        np.savez(path, features=np.arange(50))
    elif name.endswith("npy"):
        np.save(path, np.arange(50))
    else:
        path.write_bytes(b"\x80\x04]q\0(K\1K\2e.")
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with open_tree(path.parent) as tree, pytest.raises(FewshotBenchError) as raised:
            read_arrays(tree, name)
        assert len(str(raised.value).splitlines()) == 1

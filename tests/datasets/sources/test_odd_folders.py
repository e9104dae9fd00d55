"""What lies in somebody's folder besides files: nothing hangs, and nothing is read for ever."""

from __future__ import annotations

import os
import sys

import pytest
from samples import class_images, write_folder

from fewshot_bench.datasets import OwnOptions, import_own_images
from fewshot_bench.datasets.check import check_place
from fewshot_bench.datasets.sources import open_tree
from fewshot_bench.errors import DatasetError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither pipes in folders nor such links")


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "mine", class_images())


@pytest.mark.parametrize("odd", ["pipe", "device"])
def test_what_is_no_file_is_left_out_and_named(folder, odd):
    place = folder / "cat" / "odd.png"
    os.mkfifo(place) if odd == "pipe" else place.symlink_to("/dev/zero")
    dataset = import_own_images("mine", str(folder), OwnOptions())
    assert len(dataset.novel) == 9
    assert dataset.preprocessing["skipped"] == [["cat/odd.png", f"{place} is a pipe or a device, not a file."]]


@pytest.mark.parametrize("read", ["read", "local"])
def test_a_pipe_is_never_waited_for(folder, read):
    os.mkfifo(folder / "train.pkl")
    with open_tree(folder) as tree, pytest.raises(DatasetError, match="not a file"):
        getattr(tree, read)("train.pkl")


def test_a_link_to_a_folder_that_holds_it_is_refused(folder):
    (folder / "cat" / "loop").symlink_to(folder, target_is_directory=True)
    for way_in in (check_place, lambda path: import_own_images("mine", str(path), OwnOptions())):
        with pytest.raises(DatasetError, match=r"loop is a link to a folder that holds it"):
            way_in(folder)


def test_a_link_to_another_folder_is_followed(folder, tmp_path):
    elsewhere = write_folder(tmp_path / "elsewhere", [("1.png", class_images()[0][1])])
    (folder / "yak").symlink_to(elsewhere, target_is_directory=True)
    assert import_own_images("mine", str(folder), OwnOptions()).novel.class_names == ("cat", "dog", "owl", "yak")


def test_names_of_files_that_are_no_unicode_are_stored_legibly(tmp_path):
    folder = write_folder(tmp_path / "mine", class_images())
    try:
        os.rename(folder / "cat" / "0.png", os.fsencode(folder / "cat") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system takes only names in Unicode")
    assert import_own_images("mine", str(folder), OwnOptions()).novel.image_name(2) == "caf\\xe9.png"

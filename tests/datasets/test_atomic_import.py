"""A stored dataset is as it was or as it is to be, whatever happens while it is imported."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from samples import class_images, files_in, write_folder

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import open_dataset
from fewshot_bench.datasets.check import check_dataset
from fewshot_bench.datasets.images import Preprocessing
from fewshot_bench.datasets.store import is_stored, read_description
from fewshot_bench.errors import DatasetError

PROGRAM = Path(__file__).with_name("interrupted_imports.py")
ON_THE_PATH = os.pathsep.join(str(folder) for folder in (PROGRAM.parents[1], PROGRAM.parents[2]))
Usage = namedtuple("Usage", "total used free")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked on this system")


@pytest.fixture
def old(tmp_path):
    return write_folder(tmp_path / "old", class_images(seed=1))


@pytest.fixture
def new(tmp_path):
    return write_folder(tmp_path / "new", class_images(("ant", "bee"), images=10, seed=2))


def bring(source, *options, name="mine") -> int:
    return exit_code(["data", "import", name, "--from", str(source), *options])


def complaint(capsys) -> str:
    """The one line that says what went wrong."""
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def names_of_a_whole_dataset(home: Path, splits=("novel",)) -> set[str]:
    """What lies in the home if one dataset is stored and nothing else."""
    generation = read_description("mine")["generation"]
    arrays = {f"datasets/mine/{generation}/{split}{kind}.npy" for split in splits for kind in ("", ".names")}
    return {"datasets/.mine.lock", "datasets/mine/dataset.json", *arrays}


def stop_at_every_step(home, how, old, new):
    command = [sys.executable, str(PROGRAM), str(home), how, str(old), str(new)]
    environment = os.environ | {"PYTHONPATH": ON_THE_PATH}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def assert_next_import_leaves_nothing_else(home, reports):
    for report in reports:
        assert report["again"] == reports[-1]["after"]["fingerprint"]
        generations = {Path(name).parts[2] for name in report["files"] if name.endswith(".npy")}
        assert len(generations) == 1
        assert len(report["files"]) == 4, report["files"]  # description, pixels, names, lock


@pytest.mark.slow
@needs_fork
def test_an_import_that_is_killed_at_any_step_leaves_the_old_dataset_or_the_new_one(home, old, new):
    reports = stop_at_every_step(home, "kill", old, new)
    assert len(reports) > 30  # 20 images and a dozen changes of files
    assert all(report["status"] == signal.SIGKILL for report in reports[:-1])
    one, other = reports[0]["before"], reports[-1]["after"]
    assert one["fingerprint"] != other["fingerprint"]
    assert not one["damaged"]
    assert not other["damaged"]
    outcomes = [report["after"] for report in reports]
    turn = outcomes.index(other)
    assert outcomes == [one] * turn + [other] * (len(reports) - turn)
    assert turn > 28
    assert_next_import_leaves_nothing_else(home, reports)


@pytest.mark.slow
@needs_fork
def test_a_first_import_that_is_killed_at_any_step_leaves_the_whole_dataset_or_none(home, new):
    reports = stop_at_every_step(home, "kill", "-", new)
    assert len(reports) > 30
    outcomes = [report["after"]["fingerprint"] for report in reports]
    turn = outcomes.index(outcomes[-1])
    assert turn > 28
    assert outcomes == [None] * turn + [outcomes[-1]] * (len(reports) - turn)
    assert_next_import_leaves_nothing_else(home, reports)


@pytest.mark.slow
@needs_fork
def test_a_disk_that_is_full_from_any_step_on_costs_one_line_and_not_the_old_dataset(home, old, new):
    reports = stop_at_every_step(home, "full", old, new)
    assert len(reports) > 10
    whole = len(reports[0]["files"])
    for report in reports[:-1]:
        assert report["after"] == report["before"]
        assert report["answer"]["code"] == 2
        assert "Traceback" not in report["answer"]["said"]
        errors = [line for line in report["answer"]["said"].splitlines() if line.startswith("error:")]
        assert len(errors) == 1
        assert "No space left on device" in errors[0]
        assert len(report["answer"]["files"]) == whole
    assert reports[-1]["answer"]["code"] == 0


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk of 300 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_costs_one_line(tiny_disk, monkeypatch, capsys, tmp_path, old):
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tiny_disk))
    assert bring(old) == 0
    stored = open_dataset("mine").fingerprint
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 1 << 40))
    large = write_folder(tmp_path / "large", class_images(images=3, size=224))
    capsys.readouterr()
    assert bring(large, "--replace") == 2
    assert "No space left on device" in complaint(capsys)
    assert open_dataset("mine").fingerprint == stored
    assert files_in(tiny_disk) == names_of_a_whole_dataset(tiny_disk)


def test_too_little_space_is_said_before_anything_is_read(home, monkeypatch, capsys, old, new):
    assert bring(old) == 0
    before = files_in(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000, 0, 1000))
    monkeypatch.setattr(Preprocessing, "decode", lambda *_: pytest.fail("an image was read"))
    capsys.readouterr()
    assert bring(new, "--replace") == 2
    assert "the images of mine need 8.6 kB" in complaint(capsys)
    assert files_in(home) == before
    assert bring(new, name="other") == 2
    assert not (home / "datasets" / "other").exists()


def test_other_pixels_replace_stored_ones_only_if_asked(home, capsys, old, new):
    assert bring(old) == 0
    first = open_dataset("mine").fingerprint
    assert bring(old) == 0
    capsys.readouterr()
    assert bring(new) == 2
    assert "already stored" in complaint(capsys)
    assert open_dataset("mine").fingerprint == first
    assert files_in(home) == names_of_a_whole_dataset(home)
    assert bring(new, "--replace") == 0
    assert open_dataset("mine").fingerprint != first
    assert files_in(home) == names_of_a_whole_dataset(home)


RUN_WHEN_TOLD = """
    import sys
    from fewshot_bench.cli.main import exit_code
    print("ready", flush=True)
    sys.stdin.readline()
    sys.exit(exit_code(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--replace"], []], ids=["replace", "keep"])
def test_two_processes_that_import_one_name_at_once_do_it_one_after_the_other(home, old, new, option):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN_WHEN_TOLD), "data", "import", "mine", "--from", source, *option],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": ON_THE_PATH},
        )
        for source in (str(old), str(new))
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes == ([0, 0] if option else [0, 2]), said
    assert "Traceback" not in "".join(said)
    assert check_dataset("mine", deep=True).facts["damaged_splits"] == []
    assert files_in(home) == names_of_a_whole_dataset(home)


def test_who_waits_too_long_for_another_import_is_told_so(home, monkeypatch, capsys, old):
    assert bring(old) == 0
    monkeypatch.setattr("fewshot_bench.datasets.store._PATIENCE", 0.01)
    capsys.readouterr()
    with FileLock(home / "datasets" / ".mine.lock"):
        assert bring(old, "--replace") == 2
        assert "another process is importing mine" in complaint(capsys)
        assert len(open_dataset("mine").novel) == 9  # reading waits for nobody


READ_TWICE = """
    import hashlib, sys
    from fewshot_bench.datasets import open_dataset
    images = open_dataset("mine").novel.images
    digest = lambda: print(hashlib.sha256(images.tobytes()).hexdigest(), flush=True)
    digest()
    sys.stdin.readline()
    digest()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove files that are open")
def test_who_reads_the_old_images_while_new_ones_are_imported_goes_on_reading_them(home, old, new):
    assert bring(old) == 0
    reader = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(READ_TWICE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": ON_THE_PATH},
    )
    first = reader.stdout.readline()
    assert bring(new, "--replace") == 0
    second, _ = reader.communicate("go on\n")
    assert reader.returncode == 0
    assert first == second != ""
    assert files_in(home) == names_of_a_whole_dataset(home)


@pytest.mark.parametrize("home_is", ["a file", "in a file", "a folder named as a file"])
def test_a_home_that_can_be_no_folder_is_one_line(tmp_path, monkeypatch, capsys, old, home_is):
    (tmp_path / "file").write_bytes(b"precious")
    place = {"a file": "file", "in a file": "file/home", "a folder named as a file": "home"}[home_is]
    if place == "home":
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "datasets").write_bytes(b"precious")
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path / place))
    before = files_in(tmp_path)
    assert bring(old) == 2
    assert str(tmp_path / place) in complaint(capsys)
    assert files_in(tmp_path) == before
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_home_without_permission_is_one_line(home, capsys, old):
    (home / "datasets").mkdir(parents=True)
    (home / "datasets").chmod(0o500)
    if os.access(home / "datasets", os.W_OK):
        pytest.skip("permissions do not bind this user")
    assert bring(old) == 2
    assert "ermission denied" in complaint(capsys)
    assert not is_stored("mine")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_a_refusal_of_the_system_to_rename_is_one_line_and_leaves_the_old_dataset(
    home, monkeypatch, capsys, old, new, number
):
    assert bring(old) == 0
    before, stored = files_in(home), open_dataset("mine").fingerprint

    def refuse(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    monkeypatch.setattr(os, "replace", refuse)
    capsys.readouterr()
    assert bring(new, "--replace") == 2
    assert os.strerror(number) in complaint(capsys)
    assert files_in(home) == before
    assert open_dataset("mine").fingerprint == stored


def test_a_source_that_vanishes_while_it_is_read_is_one_line_and_no_dataset(home, monkeypatch, capsys, old, new):
    assert bring(old) == 0
    stored, decode = open_dataset("mine").fingerprint, Preprocessing.decode

    def decode_and_remove(recipe, encoded):
        shutil.rmtree(new, ignore_errors=True)
        return decode(recipe, encoded)

    monkeypatch.setattr(Preprocessing, "decode", decode_and_remove)
    capsys.readouterr()
    assert bring(new, "--replace") == 2
    assert "No such file or directory" in complaint(capsys)
    assert open_dataset("mine").fingerprint == stored
    assert files_in(home) == names_of_a_whole_dataset(home)
    assert bring(new, name="other") == 2
    assert not (home / "datasets" / "other").exists()


SPLITS = {"train": "base", "val": "validation", "test": "novel"}


@pytest.fixture
def stored(tmp_path, home):
    """A dataset of three splits, and its stored files by split; None is the description's."""
    for number, folder in enumerate(SPLITS):
        write_folder(tmp_path / "three" / folder, class_images((f"{folder}-a", f"{folder}-b"), seed=number, size=8))
    assert bring(tmp_path / "three") == 0
    folder = home / "datasets" / "mine"
    return [(None, folder / "dataset.json")] + [
        (split, path) for split in SPLITS.values() for path in sorted(folder.glob(f"*/{split}.*npy"))
    ]


def assert_damage_is_found(split: str | None) -> None:
    with pytest.raises(DatasetError) as raised:
        check_dataset("mine", deep=True)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    assert "Import it again with: fewshot-bench data import mine" in message
    if split is not None:
        facts = message.replace(str(Path(os.environ["FEWSHOT_BENCH_HOME"])), "")
        assert [name for name in SPLITS.values() if name in facts] == [split]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_any_byte_that_changed_on_the_disk_is_found_and_its_split_named(stored):
    assert len(stored) == 7
    changes = 0
    for split, path in stored:
        content = path.read_bytes()
        places = [*range(130), *range(130, len(content), 41), len(content) - 1]
        for place in places:
            for change in (0x01, 0x20, 0x80):
                path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
                if means(path.read_bytes()) == means(content):
                    continue
                changes += 1
                assert_damage_is_found(split)
        path.write_bytes(content)
    assert changes > 2000
    assert check_dataset("mine", deep=True).facts["damaged_splits"] == []


def means(content: bytes) -> object:
    """What a stored file says; only the layout of a text and a space in NumPy's header may change without a loss."""
    try:
        if not content.startswith(b"\x93NUMPY"):
            return json.loads(content)
        array = np.load(io.BytesIO(content), allow_pickle=False)
        return array.shape, array.dtype, array.tobytes()
    except Exception:
        return content


@pytest.mark.parametrize("damage", ["removed", "emptied", "halved", "cut by a byte"])
def test_a_file_that_lost_bytes_is_found_and_its_split_named(stored, damage):
    for split, path in stored:
        content = path.read_bytes()
        if damage == "removed":
            path.unlink()
        else:
            length = {"emptied": 0, "halved": len(content) // 2, "cut by a byte": len(content) - 1}[damage]
            path.write_bytes(content[:length])
        if path.exists() or split is not None:
            assert_damage_is_found(split)
        path.write_bytes(content)
    assert check_dataset("mine", deep=True).facts["damaged_splits"] == []


def test_damage_is_one_line_and_code_two_on_the_command_line(stored, capsys):
    for split, path in stored:
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 0x10]) + content[-1:])
        capsys.readouterr()
        assert exit_code(["data", "check", "mine", "--deep"]) == 2
        line = complaint(capsys)
        assert "mine" in line
        assert split is None or split in line
        path.write_bytes(content)
    capsys.readouterr()
    assert exit_code(["data", "check", "mine", "--deep"]) == 0
    assert "every one as it was stored" in capsys.readouterr().out


def test_a_changed_recipe_is_found_though_no_pixel_depends_on_it(stored):
    path = stored[0][1]
    text = path.read_text()
    assert text.count("bicubic") == 1
    path.write_text(text.replace("bicubic", "lanczos"))
    assert_damage_is_found(None)


def test_a_damaged_dataset_can_be_imported_again(stored, home, tmp_path):
    whole = open_dataset("mine").fingerprint
    for _, path in stored:
        path.write_bytes(b"\0" * 10)
    with pytest.raises(DatasetError, match="damaged"):
        open_dataset("mine")
    assert bring(tmp_path / "three", "--replace") == 0
    assert open_dataset("mine").fingerprint == whole
    assert files_in(home) == names_of_a_whole_dataset(home, tuple(SPLITS.values()))
    assert np.asarray(open_dataset("mine").novel.images).any()

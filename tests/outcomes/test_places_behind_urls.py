"""Outcomes in an object store: a real client against a real server of S3 on this machine, and memory://."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_cells import CELL, PREDICTIONS, PROTOCOL, filled

from fewshot_bench._io.locations import location_of
from fewshot_bench._io.storage import create_exclusively, files_under, read_bytes, remove, write_atomically
from fewshot_bench.errors import LocationError, OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.checking import check_store
from fewshot_bench.outcomes.maintenance import cell_named, compact, merge, prune
from fewshot_bench.study import free_folder, new_results_folder

pytestmark = pytest.mark.slow

OTHER = replace(CELL, protocol=replace(PROTOCOL, shot=5))
BUCKET = "bucket"


@pytest.fixture(scope="module")
def server():
    """The address of a server of S3 with an empty bucket."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A folder of that server as a URL, with credentials in the environment and nothing in it."""
    import boto3
    import s3fs

    settings = {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}/some/results"
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])


@pytest.fixture
def memory():
    """A folder in the memory of this process."""
    import fsspec

    yield "memory://some/results"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(params=["s3", "memory"])
def folder(request):
    return location_of(request.getfixturevalue(request.param))


def test_outcomes_come_back_as_from_a_disk(folder, tmp_path):
    store = filled(filled(OutcomeStore(folder / "outcomes"), chunk=5), OTHER)
    local = filled(OutcomeStore(tmp_path), chunk=5)
    for other in (store, OutcomeStore(folder / "outcomes")):
        other.check_folder()
        assert {cell.key for cell in other.cells()} == {CELL.key, OTHER.key}
        pd.testing.assert_frame_equal(other.read(CELL), local.read(CELL))
        pd.testing.assert_frame_equal(
            other.read(CELL.key, with_predictions=False), local.read(CELL, with_predictions=False)
        )
        assert {run: numbers.tolist() for run, numbers in other.done(CELL).items()} == {
            0: [*range(12)],
            1: [*range(12)],
        }
    names = sorted(files_under(store.folder / CELL.key))
    assert names == sorted(files_under(tmp_path / CELL.key)), "the same files, and no temporary ones"


def test_what_another_process_adds_is_seen_at_once(folder):
    first, second = OutcomeStore(folder), OutcomeStore(location_of(str(folder)))
    for number in range(3):
        first.append(CELL, 0, np.array([number]), PREDICTIONS[0][[number]], 0.1)
        assert second.done(CELL)[0].tolist() == [*range(number + 1)]
        assert len(second.read(CELL)) == number + 1


def test_of_several_fresh_folders_no_two_are_the_same_and_nothing_of_them_stays(folder):
    barrier, names, problems = threading.Barrier(5), [], []
    OutcomeStore(folder / "outcomes").open_cell(CELL)

    def take_one() -> None:
        try:
            barrier.wait()
            with new_results_folder(folder) as made:
                names.append(made.name)
                barrier.wait()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=take_one) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(names) == [f"results-{number}" for number in range(2, 7)]
    assert free_folder(folder).name == "results-2"


def test_nothing_there_yet_is_no_error(folder):
    store = OutcomeStore(folder / "outcomes")
    store.check_folder()
    assert store.cells() == []
    assert store.done(CELL) == {}
    assert store.failures(CELL) == []
    with pytest.raises(OutcomeError, match="no outcomes in"):
        store.read(CELL)


def test_a_damaged_part_and_a_failure_are_told(folder):
    store = filled(OutcomeStore(folder), chunk=5)
    store.record_failure(CELL, 3, np.arange(2), "the loss is NaN")
    (failure,) = OutcomeStore(folder).failures(CELL)
    assert failure.reason == "the loss is NaN"
    name = next(name for name in files_under(folder / CELL.key) if name.endswith(".parquet"))
    write_atomically(folder / CELL.key / name, read_bytes(folder / CELL.key / name)[:-1])
    with pytest.raises(OutcomeError, match=r"are damaged .* Delete that file and run again"):
        store.read(CELL)
    (found,) = check_store(folder)
    assert len(found.damage) == 1
    remove(folder / CELL.key / name)
    assert sum(map(len, OutcomeStore(folder).done(CELL).values())) == 19


def test_the_store_is_looked_after_as_on_a_disk(folder, tmp_path):
    filled(OutcomeStore(tmp_path / "outcomes"), chunk=5)
    whole = OutcomeStore(tmp_path / "outcomes").read(CELL)
    target = OutcomeStore(folder / "outcomes")
    merge([tmp_path], target.folder)
    pd.testing.assert_frame_equal(target.read(CELL), whole)
    assert compact(target.folder / CELL.key).parts == 6
    assert [name.partition("-")[0] for name in sorted(files_under(target.folder / CELL.key))] == [
        "cell.json",
        "together",
    ]
    pd.testing.assert_frame_equal(target.read(CELL), whole)
    merge([folder], tmp_path / "back")
    pd.testing.assert_frame_equal(OutcomeStore(tmp_path / "back").read(CELL), whole)
    prune(cell_named(target.folder, CELL.key)[0])
    assert target.cells() == []
    assert files_under(folder) == []


def test_of_several_that_make_a_file_one_succeeds(folder):
    assert create_exclusively(folder / "a.lease", b"one")
    assert not create_exclusively(folder / "a.lease", b"two")
    assert read_bytes(folder / "a.lease") == b"one"


def test_a_url_of_this_disk_is_a_path(tmp_path):
    assert location_of(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    with pytest.raises(LocationError, match="another machine"):
        location_of("file://elsewhere/results")


def test_a_file_system_without_conditional_writes_says_so():
    from upath import UPath

    with pytest.raises(LocationError, match="cannot make a file only where there is none"):
        create_exclusively(UPath("ftp://nobody.invalid/x"), b"")


@pytest.mark.parametrize("url", ["nope://x/y", "s4://bucket"])
def test_an_unknown_kind_of_url_is_named(url):
    with pytest.raises(LocationError, match=r"cannot be opened .* Use a folder, or a URL that fsspec knows"):
        location_of(url)


def test_a_package_that_is_not_there_is_named_with_the_extra_that_brings_it(tmp_path):
    (tmp_path / "s3fs.py").write_text("raise ImportError('absent')")
    program = "from fewshot_bench.cli.main import main; main(['leaderboard', '--results', 's3://bucket/x'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert 'pip install "fewshot-bench[s3]"' in result.stderr


class TestUnreachable:
    def test_a_bucket_that_is_not_there(self, s3):
        store = OutcomeStore(location_of("s3://nowhere/results"))
        for use in (store.check_folder, store.cells, lambda: store.open_cell(CELL), lambda: store.done(CELL)):
            with pytest.raises(LocationError, match=r"s3://nowhere/results.* is not there .*Make the bucket"):
                use()

    def test_no_credentials(self, s3, monkeypatch):
        import s3fs

        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        s3fs.S3FileSystem.clear_instance_cache()
        store = OutcomeStore(location_of(s3))
        for use in (store.check_folder, store.cells, lambda: store.open_cell(CELL)):
            with pytest.raises(LocationError, match=r"needs credentials, and none were found .* Set AWS_ACCESS_KEY_ID"):
                use()

    def test_a_network_that_is_down(self, s3, monkeypatch):
        import s3fs

        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(LocationError, match=r"cannot be reached \(EndpointConnectionError: .* Check the network"):
            OutcomeStore(location_of(s3)).check_folder()

    def test_a_file_system_that_cannot_be_written(self, memory, monkeypatch):
        def refuses(*_, **__):
            raise NotImplementedError

        monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refuses)
        with pytest.raises(LocationError, match="cannot be written"):
            OutcomeStore(location_of(memory)).open_cell(CELL)

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot_bench._io.storage import temporary_name
from fewshot_bench._io.tensors import write_tensors
from fewshot_bench.cache import Entry, cache_entries, clear_cache, to_be_removed


@pytest.fixture
def cache(home: Path) -> Path:
    """Three entries of 100 bytes of tensors and more, one used a day after the other, the last today."""
    folder = home / "cache"
    for age, (kind, name) in enumerate([("checkpoints", "c"), ("embeddings", "b"), ("embeddings", "a")][::-1]):
        path = folder / kind / f"{name}.safetensors"
        write_tensors(path, {"x": torch.zeros(25)}, {"what": f"{kind} called {name.upper()}", "view": "plain"})
        used_at(path, age)
    return folder


def used_at(path: Path, days_ago: float) -> None:
    then = time.time() - days_ago * 86400
    os.utime(path, (then, then))


def chosen(*arguments, **options) -> list[str]:
    return [entry.path.stem for entry in to_be_removed(cache_entries(), *arguments, **options)]


def test_entries_say_what_they_are_the_least_recently_used_first(cache):
    entries = cache_entries()
    assert [entry.what for entry in entries] == ["checkpoints called C", "embeddings called B", "embeddings called A"]
    assert [entry.bytes for entry in entries] == [entry.path.stat().st_size for entry in entries]
    assert entries[0].facts == {"view": "plain"}
    assert abs(entries[0].last_used - (time.time() - 2 * 86400)) < 3600


def test_old_damaged_and_foreign_files_are_listed_without_being_believed(home):
    folder = home / "cache" / "embeddings"
    folder.mkdir(parents=True)
    np.save(folder / "old.npy", np.zeros(3))
    (folder / "damaged.safetensors").write_bytes(b"\x01" * 99)
    (home / "cache" / "elsewhere").mkdir()
    (home / "cache" / "elsewhere" / "mine.txt").write_text("not of the cache")
    assert {entry.what for entry in cache_entries()} == {"embeddings of another version, or damaged"}
    assert len(cache_entries()) == 2
    clear_cache(cache_entries())
    assert [path.name for path in (home / "cache").rglob("*") if path.is_file()] == ["mine.txt"]


def test_everything_goes_without_a_bound(cache):
    assert chosen() == ["c", "b", "a"]
    assert len(clear_cache(cache_entries()).removed) == 3
    assert cache_entries() == []


def test_the_least_recently_used_goes_until_the_rest_fits(cache):
    sizes = {entry.path.stem: entry.bytes for entry in cache_entries()}
    assert chosen(max_bytes=sum(sizes.values())) == []
    assert chosen(max_bytes=sum(sizes.values()) - 1) == ["c"]
    assert chosen(max_bytes=sizes["a"]) == ["c", "b"]
    assert chosen(max_bytes=0) == ["c", "b", "a"]


def test_only_what_was_not_used_for_long_goes(cache):
    assert chosen(unused_for=1.5 * 86400) == ["c"]
    assert chosen(unused_for=0.5 * 86400) == ["c", "b"]
    assert chosen(unused_for=0.5 * 86400, max_bytes=0) == ["c", "b"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("embeddings", ["b", "a"]),
        ("CALLED b", ["b"]),
        ("c*called", ["c"]),
        ("a.safe", ["a"]),
        ("[ab].safe", ["b", "a"]),
    ],
)
def test_a_pattern_is_looked_for_in_words_and_names(cache, pattern, expected):
    assert chosen(pattern) == expected


def test_what_a_dead_process_left_goes_first_but_not_what_is_being_written(cache):
    folder = cache / "embeddings"
    for name, days_ago in [(".d.safetensors.0123.tmp", 1), (".e.safetensors.0123.tmp", 0)]:
        (folder / name).write_bytes(b"half")
        used_at(folder / name, days_ago)
    (folder / ".d.safetensors.lock").touch()
    (folder / ".a.safetensors.lock").touch()
    (cache / "checkpoints" / "older.lock").touch()
    cleared = clear_cache(to_be_removed(cache_entries(), max_bytes=10**6))
    assert [entry.path.name for entry in cleared.removed] == [".d.safetensors.0123.tmp"]
    assert [entry.path.name for entry, _ in cleared.left_alone] == [".e.safetensors.0123.tmp"]
    assert {path.name for path in cache.rglob("*.lock")} == {".a.safetensors.lock"}


def test_what_a_process_was_writing_that_is_known_to_be_dead_goes_at_once(cache):
    program = "from fewshot_bench._io.storage import temporary_name; print(temporary_name('d.safetensors'))"
    name = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    leftovers = [cache / "embeddings" / name, cache / "embeddings" / temporary_name("d.safetensors")]
    for path in leftovers:
        path.write_bytes(b"half")
    clear_cache(to_be_removed(cache_entries(), max_bytes=10**6))
    assert [path.exists() for path in leftovers] == [False, True]


def test_folders_of_images_and_downloads_are_entries(home):
    images = home / "cache" / "own-images" / f"birds-{'0' * 16}"
    downloads = home / "cache" / "downloads" / "cifar-fs"
    for folder in (images, downloads):
        (folder / "below").mkdir(parents=True)
        (folder / "below" / "file").write_bytes(bytes(10))
        (folder / "other").write_bytes(bytes(5))
        used_at(folder / "below" / "file", 3)
        used_at(folder / "other", 2)
    entries = cache_entries()
    assert {(entry.what, entry.bytes) for entry in entries} == {("own images birds", 15), ("downloads: cifar-fs", 15)}
    assert all(abs(entry.last_used - (time.time() - 2 * 86400)) < 3600 for entry in entries)
    clear_cache(entries)
    assert not images.exists()
    assert not downloads.exists()


def test_what_another_process_has_removed_is_no_error(cache):
    entries = cache_entries()
    for entry in entries:
        entry.path.unlink()
    assert clear_cache(entries).removed == entries


def test_an_entry_is_told_as_plain_data():
    entry = Entry(Path("cache/embeddings/a.safetensors"), "embeddings", "words", 3, 0.0, {"view": "plain"})
    assert entry.as_dict() == {
        "name": "embeddings/a.safetensors",
        "kind": "embeddings",
        "what": "words",
        "bytes": 3,
        "last_used": "1970-01-01T00:00:00+00:00",
        "facts": {"view": "plain"},
    }

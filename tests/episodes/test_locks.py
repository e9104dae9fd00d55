from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import toy_split

from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.episodes import SAMPLERS, Protocol
from fewshot_bench.episodes.locks import (
    episode_digests,
    lock,
    lock_files,
    published_locks_folder,
    read_lock,
    verify_lock,
    write_lock,
)
from fewshot_bench.episodes.sampler import sample_episodes
from fewshot_bench.errors import EpisodeError

PROTOCOL = Protocol("toy", episodes=20, runs=2)
OF_EPISODES = [name for name in SAMPLERS if name != "whole"]


def test_a_lock_survives_its_file(toy, tmp_path):
    frozen = lock(toy, PROTOCOL)
    path = write_lock(frozen, tmp_path)
    assert path.name == "toy-5way-1shot.toml"
    assert read_lock(path) == frozen
    assert verify_lock(path, toy).is_good
    assert verify_lock(path, None).images_match is None


def test_changed_episodes_and_changed_images_are_told_apart(toy, tmp_path):
    frozen = lock(toy, PROTOCOL)
    wrong_digest = write_lock(replace(frozen, sha256=("0" * 64,) * 2), tmp_path / "a")
    assert not verify_lock(wrong_digest, toy).episodes_match
    repainted = Dataset("toy", {**toy.splits, "novel": toy_split(seed=99)})
    verdict = verify_lock(write_lock(frozen, tmp_path / "b"), repainted)
    assert verdict.episodes_match
    assert verdict.images_match is False
    assert not verdict.is_good


def test_each_run_has_a_digest_of_its_own(toy):
    digests = episode_digests(toy.novel.class_sizes, PROTOCOL)
    assert len(set(digests)) == 2


@pytest.mark.parametrize("content", ["", "way = 5", "not toml [", "dataset = 'x'\nsha256 = 3"])
def test_other_files_are_no_lock_files(tmp_path, content):
    path = tmp_path / "x.toml"
    path.write_text(content)
    with pytest.raises(EpisodeError, match="is not a lock file"):
        read_lock(path)


def test_a_lock_file_without_a_key_is_refused_with_the_name_of_the_key(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("way = 5")
    with pytest.raises(EpisodeError, match="it has no key 'images'"):
        read_lock(path)


def test_a_lock_of_a_later_sampler_is_refused(toy, tmp_path):
    path = write_lock(lock(toy, replace(PROTOCOL, sampler_version=99)), tmp_path)
    with pytest.raises(EpisodeError, match="sampler version 99"):
        read_lock(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "shots", "ending"),
    [
        ("standard", (1, 5), ""),
        ("disjoint", (1, 5), "-disjoint"),
        ("dirichlet", (1, 5), "-dirichlet"),
        ("varied", (5,), "-varied"),
    ],
)
def test_published_locks_cover_the_benchmarks_and_verify(sampler, shots, ending):
    paths = [path for path in lock_files(None) if read_lock(path).protocol.sampler == sampler]
    expected = {
        f"{dataset}-5way-{shot}shot{ending}"
        for dataset in ("glyphs", "cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet", "cub", "omniglot")
        for shot in shots
    }
    if sampler == "standard":
        expected |= {f"{name}-{shot}shot" for name in ("omniglot-20way", "omniglot-lake-5way") for shot in shots}
    assert {path.stem for path in paths} == expected
    for path in paths:
        frozen = read_lock(path)
        if sampler == "disjoint":
            assert frozen.protocol.runs == 1
            assert frozen.protocol.episodes < sum(frozen.class_sizes) / (5 * (frozen.protocol.shot + 15))
        else:
            assert (frozen.protocol.episodes, frozen.protocol.runs) == (3000, 3)
        assert frozen.protocol.query == 15
        assert verify_lock(path, None).is_good


def test_published_locks_are_written_again_to_the_byte(tmp_path):
    assert published_locks_folder().is_dir()
    for path in lock_files(None):
        assert write_lock(read_lock(path), tmp_path).read_bytes() == path.read_bytes()


def test_every_sampler_is_published():
    assert {read_lock(path).protocol.sampler for path in lock_files(None)} == set(OF_EPISODES)


@pytest.mark.parametrize("sampler", OF_EPISODES)
def test_a_lock_of_any_sampler_survives_its_file(toy, tmp_path, sampler):
    protocol = Protocol("toy", shot=2, query=3, episodes=5, runs=1, sampler=sampler)
    path = write_lock(lock(toy, protocol), tmp_path)
    assert read_lock(path) == lock(toy, protocol)
    assert verify_lock(path, toy).is_good


def test_a_lock_of_a_sampler_that_is_not_there_is_refused(toy, tmp_path):
    path = write_lock(lock(toy, Protocol("toy", query=3, runs=1, sampler="disjoint")), tmp_path)
    path.write_text(path.read_text().replace('"disjoint"', '"joint"'))
    with pytest.raises(EpisodeError, match=r"is not a lock file of episodes: there is no sampler called 'joint'"):
        read_lock(path)


def test_disjoint_tasks_of_other_class_sizes_do_not_verify(toy, tmp_path):
    path = write_lock(lock(toy, Protocol("toy", query=3, sampler="disjoint")), tmp_path)
    assert not verify_lock(path, Dataset("toy", {**toy.splits, "novel": toy_split(images=20)})).is_good


def test_a_place_without_locks_is_refused(tmp_path):
    with pytest.raises(EpisodeError, match="no lock files"):
        lock_files([tmp_path])
    with pytest.raises(EpisodeError, match="does not exist"):
        lock_files([tmp_path / "nowhere"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_shows_the_pixels_of_the_episode(channels):
    split = toy_split(channels=channels)
    episodes = sample_episodes(split, Protocol("toy", shot=2, query=3), 0, [4])
    sheet = episodes[0].contact_sheet()
    assert sheet.mode == "RGB"
    first = split.images[int(episodes.support[0, 0, 0])]
    corner = tuple(int(value) for value in first[0, 0])
    shown = sheet.getpixel((190, 20))
    assert shown == (corner if channels == 3 else corner * 3)


def test_a_contact_sheet_leaves_room_for_the_class_with_most_queries():
    split = toy_split()
    episodes = sample_episodes(split, Protocol("toy", shot=2, query=3, sampler="dirichlet"), 0, [4])
    most = int((episodes.query >= 0).sum(axis=2).max())
    sheet = episodes[0].contact_sheet()
    assert sheet.width == 190 + (2 + most) * 60 + 12
    row = int((episodes.query[0] >= 0).sum(axis=1).argmax())
    last = split.images[int(episodes.query[0, row, most - 1])]
    assert sheet.getpixel((sheet.width - 60, 20 + 60 * row)) == tuple(int(value) for value in last[0, 0])

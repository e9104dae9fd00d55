"""Tasks that a Taskset of learn2learn has drawn, as episodes of our images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_split
from PIL import Image
from stand_in_learn2learn import DataDescription, MetaDataset, Taskset

import fewshot_bench as fb
from fewshot_bench.datasets.dataset import split_fingerprint
from fewshot_bench.errors import ComparisonError, EpisodeError
from fewshot_bench.interop.learn2learn import record_taskset

SPLIT = toy_split(size=4)
ORDER = np.random.default_rng(5).permutation(len(SPLIT))
"""Our number of each image of the other dataset, which has the same images in another order."""
LOADERS = {
    "to_tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1).float() / 255,
    "bytes": lambda image: torch.from_numpy(image),
    "0 to 255": lambda image: torch.from_numpy(image).permute(2, 0, 1).float(),
    "numpy": lambda image: image,
    "pil": Image.fromarray,
}


class OtherDataset:
    """Our images under other numbers and labels."""

    def __init__(self, load=LOADERS["to_tensor"], split=SPLIT):
        self.load, self.split = load, split

    def __getitem__(self, index):
        ours = int(ORDER[index])
        return self.load(self.split.images[ours]), 70 - int(self.split.labels[ours])

    def __len__(self):
        return len(self.split)


def drawn(count=6, shot=2, query=3):
    return fb.sample_episodes(SPLIT, fb.Protocol("toy", shot=shot, query=query, episodes=count, runs=1))


def taskset(episodes, load=LOADERS["to_tensor"], split=SPLIT) -> Taskset:
    """Tasks of the other dataset: per class the support images, then the queries."""
    made = Taskset(MetaDataset(OtherDataset(load, split)), num_tasks=len(episodes))
    theirs = np.argsort(ORDER)
    for task, images in enumerate(episodes.images):
        made.sampled_descriptions[task] = [DataDescription(int(theirs[image])) for image in images.reshape(-1)]
    return made


@pytest.mark.parametrize("loader", LOADERS)
def test_images_are_found_by_their_pixels_however_they_are_loaded(loader):
    episodes = drawn()
    found = record_taskset(taskset(episodes, LOADERS[loader]), SPLIT, shot=2)
    assert np.array_equal(found.images, episodes.images)
    assert np.array_equal(found.support, episodes.support)
    assert np.array_equal(found.queries, episodes.queries)
    assert np.array_equal(found.classes, SPLIT.labels[episodes.support[:, :, 0]])


def test_every_other_image_can_be_support():
    episodes = drawn(shot=2, query=2)
    found = record_taskset(taskset(episodes), SPLIT, shot=2, support="even")
    assert np.array_equal(found.support, episodes.images[:, :, [0, 2]])
    assert np.array_equal(found.query, episodes.images[:, :, [1, 3]])


def test_only_tasks_that_were_drawn_are_read_under_their_numbers():
    made = taskset(drawn(6))
    del made.sampled_descriptions[0], made.sampled_descriptions[4]
    found = record_taskset(made, SPLIT, shot=2)
    assert found.numbers.tolist() == [1, 2, 3, 5]
    assert repr(found) == f"<RecordedEpisodes: toy 5-way 2-shot, 4 of {found.tasks}>"


def test_copies_of_an_image_in_one_class_are_told_apart():
    images = SPLIT.images.copy()
    images[1] = images[0]
    split = replace(SPLIT, images=images, fingerprint=split_fingerprint(images, SPLIT.class_names, SPLIT.class_sizes))
    theirs = np.argsort(ORDER)
    made = Taskset(MetaDataset(OtherDataset(split=split)), num_tasks=1)
    made.sampled_descriptions[0] = [DataDescription(int(theirs[image])) for image in (0, 1, 30, 31)]
    assert sorted(record_taskset(made, split, shot=1).images.reshape(-1).tolist()) == [0, 1, 30, 31]


def test_without_shots_nobody_knows_which_images_are_support():
    with pytest.raises(EpisodeError, match="shot=K"):
        record_taskset(taskset(drawn()), SPLIT)


def normalised(image):
    return (torch.from_numpy(image).permute(2, 0, 1).float() / 255 - 0.47) / 0.21


def with_a_repeated_image(made):
    made.sampled_descriptions[1][1] = made.sampled_descriptions[1][0]
    return made


def with_a_larger_task(made):
    made.sampled_descriptions[2] = taskset(drawn(query=4)).sampled_descriptions[2]
    return made


@pytest.mark.parametrize(
    ("made", "options", "finding"),
    [
        (lambda: taskset(drawn()), {"shot": 5}, "task 0 cannot be divided"),
        (lambda: taskset(drawn()), {"shot": 2, "support": "even"}, "task 0 cannot be divided"),
        (lambda: taskset(drawn(), normalised), {"shot": 2}, "ToTensor"),
        (lambda: taskset(drawn(), split=toy_split(size=4, seed=8)), {"shot": 2}, "is not one of the 192 images"),
        (lambda: with_a_repeated_image(taskset(drawn())), {"shot": 2}, "task 1 of learn2learn uses an image twice"),
        (lambda: with_a_larger_task(taskset(drawn())), {"shot": 2}, "5 classes of 5 images or 5 classes of 6"),
        (lambda: Taskset(MetaDataset(OtherDataset()), num_tasks=9), {"shot": 2}, "no task yet"),
        (lambda: Taskset(MetaDataset(OtherDataset())), {"shot": 2}, "num_tasks=600"),
        (lambda: [1, 2], {"shot": 2}, "list is not a Taskset"),
    ],
)
def test_what_cannot_be_known_is_refused(made, options, finding):
    with pytest.raises(EpisodeError, match=finding):
        record_taskset(made(), SPLIT, **options)


@pytest.mark.slow
def test_methods_are_paired_on_the_same_recorded_tasks_alone():
    embeddings = np.random.default_rng(0).random((len(SPLIT), 8), dtype=np.float32)
    recorded = record_taskset(taskset(drawn(20)), SPLIT, shot=2)
    again = record_taskset(taskset(drawn(20)), SPLIT, shot=2)
    centroid, knn = (
        fb.evaluate(fb.Centroid(), embeddings, recorded),
        fb.evaluate(fb.KNearestNeighbours(), embeddings, again),
    )
    comparison = str(fb.compare(centroid, knn))
    assert "20 episodes" in comparison
    assert "claimed" in comparison
    fewer = fb.evaluate(fb.Centroid(), embeddings, record_taskset(taskset(drawn(19)), SPLIT, shot=2))
    ours = fb.evaluate(fb.Centroid(), embeddings, drawn(20))
    assert np.array_equal(ours.outcomes.accuracy, centroid.outcomes.accuracy)
    for other in (fewer, ours):
        with pytest.raises(ComparisonError):
            fb.compare(centroid, other)


def test_two_records_are_never_taken_for_one():
    records = [record_taskset(taskset(drawn(count)), SPLIT, shot=2) for count in (2, 3)]
    embeddings = np.zeros((len(SPLIT), 8), np.float32)
    with pytest.raises(EpisodeError, match="several protocols"):
        fb.evaluate(fb.Centroid(), embeddings, records)

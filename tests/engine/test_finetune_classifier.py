"""Fine-tuning through the engine: chunks bound memory and nothing else."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench.adaptation import Finetune
from fewshot_bench.backbones import Backbone, BackboneRequest, BaseHead, create_backbone
from fewshot_bench.engine import finetune as engine
from fewshot_bench.engine.classify import accuracy
from fewshot_bench.engine.finetune import FinetuneClassifier, base_head_for
from fewshot_bench.episodes import Protocol, sample_episodes
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning import episodes_at_once
from fewshot_bench.finetuning.trainer import EpisodeTrainer

pytestmark = pytest.mark.slow

SPLIT = toy_split()


def backbone() -> Backbone:
    torch.manual_seed(0)
    made = create_backbone(BackboneRequest("conv4_32", channels=3, native_size=16))
    made.network.train()
    with torch.no_grad():
        for _ in range(30):
            made.network(made.preprocessing(torch.from_numpy(SPLIT.images[::2].copy()).permute(0, 3, 1, 2)))
    made.network.eval()
    weight = torch.randn(32, made.embedding_size) / made.embedding_size**0.5
    return replace(made, base_head=BaseHead(weight, torch.zeros(32), tuple(map(str, range(32)))))


BACKBONE = backbone()


def classifier(**options: object) -> FinetuneClassifier:
    recipe = Finetune(**{"epochs": 3, "learning_rate": 1e-3, **options})
    return FinetuneClassifier.on_images(recipe, SPLIT, BACKBONE, "cpu")


def episodes(numbers: object = range(10), *, shot: int = 1):
    protocol = Protocol("toy", shot=shot, query=5, episodes=10, runs=1)
    return sample_episodes(SPLIT, protocol, numbers=np.asarray(numbers))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "ce+schane", "tune": "last:2"},
        {"bn": "support"},
        {"on": "logits", "start": "support", "query_entropy": 1.0, "learning_rate": 5e-5},
    ],
    ids=str,
)
def test_the_chunk_never_changes_a_prediction(options):
    made = classifier(**options)
    whole = made(episodes(), 10)
    for chunk in (1, 4):
        assert np.array_equal(made(episodes(), chunk), whole)
    assert accuracy(whole, 5).mean() > 0.5


def test_an_episode_is_adapted_the_same_whichever_others_are_asked_for():
    made = classifier(loss="ce+schane")
    whole = made(episodes(), 10)
    assert np.array_equal(made(episodes([7, 2, 9]), 10), whole[[7, 2, 9]])


def test_too_little_memory_halves_what_is_trained_at_once_and_changes_no_prediction(monkeypatch):
    expected = classifier()(episodes(), 10)
    tried = []
    adapt = EpisodeTrainer.adapt

    def adapt_three_at_most(self, task):
        tried.append(len(task.support))
        if len(task.support) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return adapt(self, task)

    monkeypatch.setattr(engine.EpisodeTrainer, "adapt", adapt_three_at_most)
    monkeypatch.setattr(engine, "fastest_on_cpu", lambda *_, **__: 1024)
    made = classifier()
    assert np.array_equal(made(episodes(), 10), expected)
    assert tried == [10, 5, 3, 3, 3, 1]
    tried.clear()
    made(episodes(), 10)
    assert tried == [3, 3, 3, 1], "what did not fit is not tried again"


def test_an_episode_that_does_not_fit_alone_is_an_error(monkeypatch):
    def refuse(self, task):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine.EpisodeTrainer, "adapt", refuse)
    with pytest.raises(StudyError, match="one episode does not fit into the memory of cpu"):
        classifier()(episodes(), 4)


def test_more_episodes_go_at_once_where_each_needs_less():
    heads = classifier(tune="head", views=2)
    one, five = (heads.chunk(Protocol("toy", shot=shot, query=5)) for shot in (1, 5))
    assert one >= five >= 1


def test_the_fastest_number_of_episodes_goes_at_once_on_a_cpu(monkeypatch):
    asked = []

    def choose(trials, device):
        (trial,) = trials
        asked.append(list(trial.candidates))
        for run in trial.candidates.values():
            run()
        return {trial.key: "4"}

    monkeypatch.setattr(episodes_at_once, "choose", choose)
    assert classifier().chunk(Protocol("toy", shot=1, query=5)) == 16
    assert asked[0][:3] == ["1", "2", "4"], "no more than fit"
    asked.clear()
    assert classifier()(episodes(), 10).shape == (10, 25)
    assert classifier(epochs=0)(episodes(), 10).shape == (10, 25)
    assert len(asked) == 1, "without steps nothing is tried"


def test_a_head_on_embeddings_made_before_is_a_head_on_a_backbone_that_stays_as_it_is():
    """The same views, embedded once for the split, or by the frozen backbone for each episode."""
    from fewshot_bench.study.workers import augmented_view

    recipe = Finetune(tune="head", epochs=5, learning_rate=1e-2, views=3)
    images = torch.from_numpy(SPLIT.images.copy()).permute(0, 3, 1, 2)
    views = [images, *(augmented_view(SPLIT, recipe.seed, view)(images, slice(None)) for view in (1, 2, 3))]
    with torch.no_grad():
        rows = torch.cat([BACKBONE.network(BACKBONE.preprocessing(some)) for some in views])
    cached = FinetuneClassifier.on_embeddings(recipe, rows, len(images))
    direct = FinetuneClassifier.on_images(recipe, SPLIT, BACKBONE, "cpu")
    found, expected = cached(episodes(shot=2), 10), direct(episodes(shot=2), 10)
    assert (found == expected).mean() > 0.99


def test_a_head_on_cached_embeddings_sees_the_logits_that_the_backbone_gives():
    settings = {"tune": "head", "on": "logits", "start": "support", "query_entropy": 1.0}
    recipe = Finetune(**settings, epochs=4, learning_rate=1e-2, views=2, augmentation="none")
    images = torch.from_numpy(SPLIT.images.copy()).permute(0, 3, 1, 2)
    with torch.no_grad():
        rows = BACKBONE.network(BACKBONE.preprocessing(images)).repeat(3, 1)
    cached = FinetuneClassifier.on_embeddings(recipe, rows, len(images), base_head_for(recipe, BACKBONE))
    direct = FinetuneClassifier.on_images(recipe, SPLIT, BACKBONE, "cpu")
    assert (cached(episodes(shot=2), 10) == direct(episodes(shot=2), 10)).mean() > 0.99
    plain = FinetuneClassifier.on_embeddings(replace(recipe, on="embeddings"), rows, len(images))
    assert (cached(episodes(shot=2), 10) != plain(episodes(shot=2), 10)).any()


def test_logits_without_a_base_classifier_are_refused_in_one_line_that_says_what_to_do():
    recipe = Finetune(on="logits")
    for needs in (
        lambda: base_head_for(recipe, replace(BACKBONE, base_head=None)),
        lambda: FinetuneClassifier.on_images(recipe, SPLIT, replace(BACKBONE, base_head=None), "cpu"),
    ):
        with pytest.raises(StudyError, match=r"none was kept\. Train it again: .*; or use on=embeddings\.$"):
            needs()
    assert base_head_for(Finetune(), replace(BACKBONE, base_head=None)) is None


def test_queries_that_are_trained_on_are_counted_as_memory(monkeypatch):
    sizes = []
    fit = engine.episodes_that_fit

    def noted(per_episode, device, *, largest):
        sizes.append(per_episode)
        return fit(per_episode, device, largest=largest)

    monkeypatch.setattr(engine, "episodes_that_fit", noted)
    for options in ({}, {"query_entropy": 1.0}):
        for query in (5, 40):
            classifier(**options).chunk(Protocol("toy", shot=1, query=query))
    inductive, same, few, many = sizes
    assert inductive == same
    assert inductive < few < many / 4


def test_other_numbers_of_queries_are_measured_anew_only_where_they_are_trained_on(monkeypatch):
    measured = []
    monkeypatch.setattr(FinetuneClassifier, "_measured", lambda self, *size: measured.append(size) or 1)
    for options in ({}, {"query_entropy": 1.0}):
        made = classifier(**options)
        for query in (5, 6, 5):
            made.chunk(Protocol("toy", shot=1, query=query))
    assert measured == [(5, 1, 0), (5, 1, 25), (5, 1, 30)]


def test_the_backbone_itself_is_left_as_it_is():
    before = {name: tensor.clone() for name, tensor in BACKBONE.network.state_dict().items()}
    for tune in ("all", "norm", "lora:2"):
        classifier(tune=tune)(episodes([0, 1]), 2)
    after = BACKBONE.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_trainer_of_the_last_size_is_freed_before_the_next_one_takes_memory(monkeypatch):
    alive = []
    make = EpisodeTrainer.__init__

    def noting(self, *arguments, **settings):
        assert [trainer for trainer in alive if trainer() is not None] == []
        alive[:] = [weakref.ref(self)]
        make(self, *arguments, **settings)

    monkeypatch.setattr(engine.EpisodeTrainer, "__init__", noting)
    # A trial on a CPU holds several small trainers at once.
    monkeypatch.setattr(engine, "fastest_on_cpu", lambda *_, **__: 2)
    made = classifier(loss="ce+schane", query_entropy=1.0, learning_rate=1e-4)
    gc.disable()
    try:
        for shot in (1, 2, 1):
            made.chunk(Protocol("toy", shot=shot, query=5))
            made(episodes([0, 1, 2], shot=shot), 2)
    finally:
        gc.enable()

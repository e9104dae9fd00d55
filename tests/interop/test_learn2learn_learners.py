"""Learners that look like those of learn2learn, on our episodes: outcomes, identity, and what their queries share."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import toy_split
from stand_in_learn2learn import Learner
from torch import nn
from torch.nn.functional import cross_entropy

import fewshot_bench as fb
from fewshot_bench.errors import CodeError, EpisodeError, PluginError, StudyError
from fewshot_bench.interop.learn2learn import evaluate
from fewshot_bench.interop.learn2learn.tasksets import as_tensor
from fewshot_bench.outcomes import OutcomeStore

SPLIT = toy_split(size=4)
EPISODES = fb.sample_episodes(SPLIT, fb.Protocol("toy", shot=1, query=2, episodes=6, runs=1))
PIXELS = 3 * 4 * 4


def network(*layers: nn.Module, seed: int = 0) -> nn.Module:
    """A linear classifier of pixels, below it the given layers."""
    torch.manual_seed(seed)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(PIXELS, 5))


def measured(layer: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """A batch norm whose running statistics are those of the split."""
    layer.train()(as_tensor(SPLIT.images))
    return layer.eval()


class CentredByBatch(nn.Module):
    """Hidden transduction: no batch norm, but every image is compared with the mean of its batch."""

    def forward(self, images):
        return images - images.mean(dim=0, keepdim=True)


class ByPosition(nn.Module):
    """Knows in which order the queries come."""

    def forward(self, images):
        return images + torch.linspace(0, 1, len(images))[:, None, None, None]


class NeedsSeveral(nn.Module):
    """Refuses a single image, as batch norm in training mode does for a vector."""

    def forward(self, images):
        if len(images) == 1:
            raise ValueError("more than one image is needed")
        return images


class Remembering(nn.Module):
    """Running statistics that the first queries leave behind for the next."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images):
        self.mean += images.mean()
        return images * self.mean


def outcomes(learner, **options):
    return evaluate(learner, EPISODES, SPLIT, **{"name": "mine", "steps": 2, **options}).outcomes


def test_outcomes_are_those_of_a_loop_by_hand():
    learner = Learner(network())
    found = outcomes(learner, steps=3).predictions
    for row in range(len(EPISODES)):
        clone = learner.clone()
        for _ in range(3):
            clone.adapt(cross_entropy(clone(as_tensor(SPLIT.images[EPISODES.support[row, :, 0]])), torch.arange(5)))
        expected = clone(as_tensor(SPLIT.images[EPISODES.queries[row]])).argmax(dim=1)
        assert found[row].tolist() == expected.tolist()


def test_the_learner_stays_as_it_is():
    learner = Learner(network(nn.BatchNorm2d(3)))
    before, modes = copy.deepcopy(learner.state_dict()), [part.training for part in learner.modules()]
    features = nn.BatchNorm2d(3)
    outcomes(learner, features=features)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert modes == [part.training for part in learner.modules()]
    assert features.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("layers", "is_transductive", "why"),
    [
        ((), False, "alone"),
        ((nn.GroupNorm(1, 3),), False, "alone"),
        ((measured(nn.BatchNorm2d(3)),), False, "alone"),
        ((nn.BatchNorm2d(3),), True, "learner.module.0"),
        ((nn.BatchNorm2d(3, track_running_stats=False).eval(),), True, "1 batch norm "),
        ((nn.BatchNorm2d(3), nn.BatchNorm2d(3)), True, "2 batch norms"),
        ((CentredByBatch(),), True, "halves"),
        ((ByPosition(),), True, "another order"),
        ((Remembering(),), True, "scores change"),
    ],
)
def test_a_method_is_marked_transductive_if_and_only_if_its_queries_inform_each_other(layers, is_transductive, why):
    found = outcomes(Learner(network(*layers)))
    assert found.cell.method.is_transductive is is_transductive
    assert why in found.cell.provenance["queries"]


class SharedStatistics(Learner):
    """Adapts in training mode and classifies in evaluation mode, with buffers that its clones share."""

    def clone(self):
        clone = super().clone()
        for name, module in clone.module.named_children():
            module._buffers = getattr(self.module, name)._buffers
        return clone.train()

    def adapt(self, loss):
        super().adapt(loss)
        self.eval()


def test_statistics_of_one_episode_never_reach_the_next():
    learner = SharedStatistics(network(measured(nn.BatchNorm2d(3, momentum=0.5))).eval())
    together = outcomes(learner, steps=1)
    last = fb.sample_episodes(SPLIT, EPISODES.protocol, numbers=[5])
    alone = evaluate(learner, last, SPLIT, name="mine", steps=1).outcomes
    assert together.predictions[5].tolist() == alone.predictions[0].tolist()
    assert not together.cell.method.is_transductive


def test_frozen_features_see_support_and_queries_in_one_batch():
    learner, features = Learner(network()), nn.BatchNorm2d(3)
    found = outcomes(learner, features=features, steps=1)
    for row in range(len(EPISODES)):
        images = [as_tensor(SPLIT.images[of[row].reshape(-1)]) for of in (EPISODES.support, EPISODES.queries)]
        embedded = copy.deepcopy(features)(torch.cat(images)).detach()
        clone = learner.clone()
        clone.adapt(cross_entropy(clone(embedded[:5]), torch.arange(5)))
        assert found.predictions[row].tolist() == clone(embedded[5:]).argmax(dim=1).tolist()
    assert found.cell.method.is_transductive
    assert "features" in found.cell.provenance["queries"]
    assert not outcomes(learner, features=measured(nn.BatchNorm2d(3))).cell.method.is_transductive


def test_transduction_of_which_the_user_knows_nothing_is_not_stored_as_inductive():
    with pytest.raises(PluginError, match="said to be inductive"):
        outcomes(Learner(network(CentredByBatch())), is_transductive=False)
    assert outcomes(Learner(network()), is_transductive=True).cell.method.is_transductive
    assert not outcomes(Learner(network()), is_transductive=False).cell.method.is_transductive


def test_a_random_learner_must_say_whether_it_is_transductive():
    learner = Learner(network(nn.Dropout(0.5)))
    with pytest.raises(PluginError, match="dropout"):
        outcomes(learner)
    first, second = (outcomes(learner, is_transductive=False) for _ in range(2))
    assert "random" in first.cell.provenance["queries"]
    assert np.array_equal(first.predictions, second.predictions)
    assert not outcomes(learner.eval()).cell.method.is_transductive


def test_statistics_that_were_never_measured_are_warned_of():
    with pytest.warns(UserWarning, match=r"learner\.module\.0 is in evaluation mode"):
        outcomes(Learner(network(nn.BatchNorm2d(3))).eval())


def test_a_stopped_evaluation_continues_and_gives_the_same(tmp_path, monkeypatch):
    store, learner = OutcomeStore(tmp_path / "outcomes"), Learner(network(nn.BatchNorm2d(3)))
    monkeypatch.setattr("fewshot_bench.interop.learn2learn.learners._STORED_TOGETHER", 2)
    first = fb.sample_episodes(SPLIT, EPISODES.protocol, numbers=range(3))
    evaluate(learner, first, SPLIT, name="mine", steps=2, store=store)
    learner.clones[0] = 0
    found = outcomes(learner, store=store)
    alone = outcomes(learner)
    assert np.array_equal(found.predictions, alone.predictions)
    assert found.episode.tolist() == list(range(6))
    (cell,) = store.cells()
    assert len(store.read(cell)) == 6
    assert cell.class_sizes == SPLIT.class_sizes
    part = evaluate(learner, first, SPLIT, name="mine", steps=2, store=store).outcomes
    assert part.episode.tolist() == list(range(3))


def test_stored_episodes_are_not_computed_again(tmp_path):
    store, learner = OutcomeStore(tmp_path / "outcomes"), Learner(network(nn.BatchNorm2d(3)))
    outcomes(learner, store=store)
    learner.forward = lambda images: pytest.fail("it was computed again")
    assert len(outcomes(learner, store=store)) == 6


def test_the_identity_of_a_method_is_everything_but_its_name():
    def fingerprint(learner=None, **options):
        learner = learner or Learner(network(nn.BatchNorm2d(3)))
        options = {"name": "mine", "steps": 2, "is_transductive": True, **options}
        return evaluate(learner, episode, SPLIT, **options).outcomes.cell.method.fingerprint

    episode = fb.sample_episodes(SPLIT, EPISODES.protocol, numbers=[0])

    plain = fingerprint()
    assert fingerprint(name="another") == plain
    others = [
        fingerprint(steps=1),
        fingerprint(Learner(network(nn.BatchNorm2d(3)), lr=0.2)),
        fingerprint(Learner(network(nn.BatchNorm2d(3), seed=1))),
        fingerprint(Learner(network(nn.BatchNorm2d(3), nn.Tanh()))),
        fingerprint(Learner(network(measured(nn.BatchNorm2d(3))))),
        fingerprint(loss=nn.MultiMarginLoss()),
        fingerprint(transform=lambda images: images - 0.5),
        fingerprint(features=nn.Identity()),
    ]
    assert len({plain, *others}) == len(others) + 1


def test_the_users_code_is_part_of_the_method():
    code = outcomes(Learner(network(CentredByBatch()))).cell.method.code
    names = {name.rpartition(":")[2] for name in code}
    assert names == {"Learner", "CentredByBatch"}


def test_code_without_a_file_is_not_stored(tmp_path):
    scope = {"__name__": "a_notebook", "nn": nn}
    exec("class Net(nn.Flatten): pass", scope)
    learner = Learner(nn.Sequential(scope["Net"](), nn.Linear(PIXELS, 5)))
    assert len(outcomes(learner)) == 6
    with pytest.raises(CodeError, match="a_notebook:Net"):
        outcomes(learner, store=OutcomeStore(tmp_path / "outcomes"))


class Failing(nn.Module):
    def forward(self, images):
        raise RuntimeError("no such layer")


@pytest.mark.parametrize(
    ("make", "options", "finding"),
    [
        (lambda: network(), {}, "clone"),
        (lambda: Learner(network(Failing())), {}, r"test_learn2learn_learners\.py.*no such layer"),
        (lambda: Learner(nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 7))), {}, r"\[10, 5\] are expected"),
        (lambda: Learner(network(), lr=float("inf")), {}, "not finite for episode 0 of run 0"),
        (lambda: Learner(network()), {"steps": -1}, "steps"),
    ],
)
def test_what_is_wrong_with_a_learner_is_one_sentence(make, options, finding):
    with pytest.raises(PluginError, match=finding):
        outcomes(make(), **options)


def test_the_split_must_be_that_of_the_episodes():
    with pytest.raises(EpisodeError, match="another novel split of toy"):
        evaluate(Learner(network()), EPISODES, toy_split(size=4, seed=7), name="mine", steps=1)


@pytest.mark.slow
def test_a_learner_is_compared_with_our_heads_on_the_same_episodes():
    pixels = SPLIT.images.reshape(len(SPLIT), -1).astype(np.float32)
    comparison = fb.compare(outcomes(Learner(network())), fb.evaluate(fb.Centroid(), pixels, EPISODES))
    assert "6 episodes" in str(comparison)
    assert "claimed" not in str(comparison)


def test_a_method_has_a_printable_name():
    with pytest.raises(StudyError, match="name for the method"):
        outcomes(Learner(network()), name="two\nlines")


def test_a_learner_that_cannot_classify_one_query_alone_is_transductive():
    found = outcomes(Learner(network(NeedsSeveral())))
    assert found.cell.method.is_transductive
    assert "more than one image" in found.cell.provenance["queries"]

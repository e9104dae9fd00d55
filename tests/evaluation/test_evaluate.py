"""`evaluate` decides as a study does, and says the same."""

from __future__ import annotations

import functools
import hashlib
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench import Centroid, Finetune, Logistic, Protocol, compare, evaluate, sample_by_shape, sample_episodes
from fewshot_bench.adaptation import EmbeddedSplit
from fewshot_bench.code_identity import code_of_call
from fewshot_bench.engine.classify import gram_pays
from fewshot_bench.errors import (
    ArgumentError,
    CodeError,
    EmbeddingError,
    EpisodeError,
    PluginError,
    StudyError,
    UnknownNameError,
)
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import leaderboard

SPLIT = toy_split(images=30)
EMBEDDINGS = np.random.default_rng(0).normal(size=(len(SPLIT), 6)).astype(np.float32)


def episodes(shot, count):
    return sample_episodes(SPLIT, Protocol("toy", shot=shot, query=3, episodes=count))


@pytest.mark.parametrize(("count", "is_built"), [(5, False), (300, True)])
def test_a_gram_matrix_is_built_where_a_study_would_build_one(monkeypatch, count, is_built):
    built = []
    plain = EmbeddedSplit.with_gram
    monkeypatch.setattr(EmbeddedSplit, "with_gram", lambda self: built.append(self) or plain(self))
    few = episodes(2, count)
    assert gram_pays(Logistic(), len(EMBEDDINGS), [(count, 5, 2, 3)]) is is_built
    outcomes = evaluate(Logistic(), EMBEDDINGS, few).outcomes
    assert bool(built) is is_built
    monkeypatch.setattr(import_module("fewshot_bench.evaluation.evaluate"), "gram_pays", lambda *_: not is_built)
    other = evaluate(Logistic(), EMBEDDINGS, few).outcomes
    assert (outcomes.frame["predictions"] == other.frame["predictions"]).all()


def test_what_is_tried_counts_when_a_gram_matrix_is_decided_about():
    rows, work = 240, [(25, 5, 2, 3)]
    assert not gram_pays(Logistic(), rows, work)
    assert gram_pays(Logistic(choose="support-cv"), rows, work)


@pytest.mark.parametrize("array", [EMBEDDINGS, np.asfortranarray(EMBEDDINGS), np.repeat(EMBEDDINGS, 2, axis=1)[:, ::2]])
def test_embeddings_are_known_by_their_numbers_however_they_lie_in_memory(array):
    expected = hashlib.sha256(EMBEDDINGS.tobytes()).hexdigest()
    assert evaluate(Logistic(), array, episodes(1, 4)).outcomes.cell.method.weights == expected


def test_a_choice_that_cannot_be_is_refused():
    with pytest.raises(StudyError, match="Use --shots 5"):
        evaluate(Logistic(choose="support-cv"), EMBEDDINGS, episodes(1, 4))


def nearest_mean(support, query):
    """Nearest mean in Euclidean distance, with what torch has."""
    return -torch.cdist(query, support.mean(dim=2))


def nearest_mean_in_numpy(support, query):
    means = support.numpy().mean(axis=2)
    return -np.linalg.norm(query.numpy()[:, :, None] - means[:, None], axis=-1)


def centred(support, query):
    """Transductive: the queries of an episode are centred together."""
    return nearest_mean(support, query - query.mean(dim=1, keepdim=True))


EUCLIDEAN = Centroid(metric="euclidean", features="raw")


@pytest.mark.parametrize(
    "function",
    [nearest_mean, nearest_mean_in_numpy, lambda *some: nearest_mean(*some), functools.partial(nearest_mean)],
)
def test_a_function_is_a_method_like_every_other(function):
    found, expected = evaluate(function, EMBEDDINGS, episodes(2, 40)), evaluate(EUCLIDEAN, EMBEDDINGS, episodes(2, 40))
    assert (found.outcomes.predictions == expected.outcomes.predictions).all()
    assert not found.outcomes.cell.method.is_transductive


def test_a_function_whose_queries_inform_each_other_is_marked_transductive():
    found = evaluate(centred, EMBEDDINGS, episodes(2, 10))
    assert found.outcomes.cell.method.is_transductive
    assert "transductive" in repr(found)


def shadowed():
    def nearest_mean(support, query):
        return centred(support, query)

    return nearest_mean


def with_exponent(exponent):
    return lambda support, query: nearest_mean(support, query) ** exponent


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nearest_mean, centred),
        (nearest_mean, shadowed()),
        (with_exponent(1), with_exponent(3)),
        (functools.partial(nearest_mean), functools.partial(nearest_mean)),
        (torch.nn.Bilinear(6, 6, 5), torch.nn.Bilinear(6, 6, 5)),
    ],
)
def test_another_function_is_another_method(first, second):
    keys = [code_of_call(function) for function in (first, first, second)]
    assert keys[0] == keys[1] != keys[2]


def raising(support, query):
    raise KeyError("temperature")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raising, ["test_evaluate.py", "in raising", "KeyError", "temperature"]),
        (lambda support, query: None, ["None", "[E, M, N]"]),
        (lambda support, query: query, ["a tensor", "[E, M, N] = [1, 15, 5]"]),
        (lambda support, query: nearest_mean(support, query).mT, ["Are two axes swapped?"]),
        (lambda support, query: nearest_mean(support, query).argmax(-1), ["labels [E, M]"]),
        (lambda support, query: np.zeros((1, 2)), ["[1, 2] of float64"]),
        (lambda support, query: nearest_mean(support, query) + torch.rand(()), ["Seed what it draws"]),
        (lambda support, query: nearest_mean(support[:1].expand_as(support), query), ["called with several"]),
        (lambda support, query: nearest_mean(support.mean(0, keepdim=True) + support, query), ["called with several"]),
    ],
)
def test_a_function_that_does_not_give_scores_is_refused_with_its_place(function, words):
    with pytest.raises(PluginError) as error:
        evaluate(function, EMBEDDINGS, episodes(1, 4))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", [len, max, torch.nn.Linear(3, 3), functools.partial(sum, 3)])
def test_a_function_of_python_or_torch_that_takes_something_else_is_one_line(function):
    with pytest.raises(PluginError, match=r"cannot be called with support \[") as error:
        evaluate(function, EMBEDDINGS, episodes(1, 4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrapped", [lambda function: function, functools.partial])
def test_swapped_axes_are_found_where_an_episode_has_as_many_queries_as_classes(wrapped):
    square = sample_episodes(SPLIT, Protocol("toy", shot=1, query=1, episodes=4))
    with pytest.raises(PluginError, match="swapped"):
        evaluate(wrapped(lambda support, query: nearest_mean(support, query).mT), EMBEDDINGS, square)


def test_a_function_of_one_episode_is_called_with_one_at_a_time_on_request():
    def of_one(support, query):
        return nearest_mean(support[:1], query[:1])

    found, expected = (evaluate(function, EMBEDDINGS, episodes(1, 4), chunk=1) for function in (of_one, nearest_mean))
    assert found.outcomes.accuracy.tolist() == expected.outcomes.accuracy.tolist()


EXPONENT = 1


def by_exponent(support, query):
    return nearest_mean(support, query) * EXPONENT


def test_a_method_is_not_stored_twice_with_other_predictions(tmp_path, monkeypatch):
    evaluate(by_exponent, EMBEDDINGS, episodes(1, 4)).save(tmp_path)
    evaluate(by_exponent, EMBEDDINGS, episodes(1, 4)).save(tmp_path)
    monkeypatch.setitem(globals(), "EXPONENT", -1)
    with pytest.raises(CodeError, match="global variable"):
        evaluate(by_exponent, EMBEDDINGS, episodes(1, 6)).save(tmp_path)


def test_a_function_may_compute_gradients_that_nobody_asks_for(recwarn):
    weight = torch.ones(6, requires_grad=True)
    evaluate(lambda support, query: nearest_mean(support * weight, query * weight), EMBEDDINGS, episodes(1, 4))
    assert not recwarn.list


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_of_a_function_that_are_not_finite_are_refused(value):
    with pytest.raises(EmbeddingError, match="not finite"):
        evaluate(lambda support, query: nearest_mean(support, query) * value, EMBEDDINGS, episodes(1, 4))


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        ("centriod", UnknownNameError, "Did you mean centroid"),
        (Centroid, StudyError, r"Centroid\(\)"),
        (Finetune(), StudyError, "needs images"),
        (3, StudyError, "an int"),
        (None, StudyError, "None"),
    ],
)
def test_what_is_no_method_is_answered_with_what_is(method, error, words):
    with pytest.raises(error, match=words):
        evaluate(method, EMBEDDINGS, episodes(1, 4))


def test_a_name_stands_for_its_adaptation():
    by_name, by_hand = (evaluate(method, EMBEDDINGS, episodes(1, 4)) for method in ("logistic", Logistic()))
    assert by_name.outcomes.cell == by_hand.outcomes.cell


def bfloat16(array):
    return torch.from_numpy(array).to(torch.bfloat16)


@pytest.mark.parametrize(
    "embeddings",
    [
        EMBEDDINGS.astype(np.float64),
        torch.from_numpy(EMBEDDINGS),
        torch.from_numpy(EMBEDDINGS).double().requires_grad_(),
        EMBEDDINGS.tolist(),
    ],
)
def test_embeddings_are_taken_as_arrays_and_tensors_and_become_float32(embeddings):
    found, expected = (evaluate("centroid", some, episodes(1, 4)) for some in (embeddings, EMBEDDINGS))
    assert found.outcomes.cell.key == expected.outcomes.cell.key
    assert found.mean == expected.mean


@pytest.mark.parametrize("embeddings", [EMBEDDINGS.astype(np.float16), bfloat16(EMBEDDINGS), EMBEDDINGS.astype(int)])
def test_embeddings_of_less_precision_are_taken_as_they_are(embeddings):
    exact = np.asarray(torch.as_tensor(embeddings).float())
    found, expected = (evaluate("centroid", some, episodes(1, 4)) for some in (embeddings, exact))
    assert found.outcomes.cell.key == expected.outcomes.cell.key


@pytest.mark.parametrize(
    ("embeddings", "words"),
    [
        (EMBEDDINGS[:10], "240 images, but there are 10 embeddings"),
        (np.concatenate([EMBEDDINGS, EMBEDDINGS]), "240 images, but there are 480 embeddings"),
        (EMBEDDINGS * math.nan, "NaN or infinite"),
        (EMBEDDINGS.astype(np.float64) * 1e60, "float32 does not"),
        (EMBEDDINGS > 0, "real numbers"),
        (EMBEDDINGS.astype(complex), "real numbers"),
        (EMBEDDINGS[0], "real numbers"),
        (EMBEDDINGS[:, :0], "real numbers"),
        ("embeddings.npy", "real numbers"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(embeddings, words):
    with pytest.raises(EmbeddingError, match=words):
        evaluate("centroid", embeddings, episodes(1, 4))


@pytest.mark.parametrize("some", [[], None, [None], "episodes", [episodes(1, 4)] * 2, episodes(1, 0)])
def test_episodes_that_are_none_or_come_twice_are_refused(some):
    with pytest.raises((ArgumentError, EpisodeError), match="episode"):
        evaluate("centroid", EMBEDDINGS, some)


class TestNumbers:
    """They are those of the leaderboard."""

    def evaluations(self):
        runs = [sample_episodes(SPLIT, Protocol("toy", shot=2, query=3, episodes=30), run=run) for run in range(3)]
        return [evaluate(method, EMBEDDINGS, runs) for method in ("centroid", "logistic", nearest_mean)]

    def test_the_leaderboard_of_what_is_saved_shows_them(self, tmp_path):
        found = self.evaluations()
        for evaluation in found:
            evaluation.save(tmp_path)
        board = leaderboard(OutcomeStore(tmp_path / "outcomes")).set_index("method")
        for evaluation in found:
            row = board.loc[evaluation.name]
            assert 100 * evaluation.mean == pytest.approx(row["mean"], abs=1e-12)
            assert 100 * evaluation.interval.half_width == pytest.approx(row["ci95"], abs=1e-9)
            assert 100 * evaluation.data_interval.half_width == pytest.approx(row["data_ci95"], abs=1e-9)
            assert row["episodes"] == 30

    def test_saving_twice_changes_nothing(self, tmp_path):
        evaluation = self.evaluations()[0]
        store = evaluation.save(str(tmp_path))
        before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert sorted(path for path in self.evaluations()[0].save(tmp_path).folder.rglob("*") if path.is_file())
        assert before == sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert store.outcomes(evaluation.outcomes.cell).accuracy.tolist() == evaluation.outcomes.accuracy.tolist()

    def test_other_code_embeddings_and_settings_are_other_methods(self, tmp_path):
        for method, some in [
            (nearest_mean, EMBEDDINGS),
            (centred, EMBEDDINGS),
            (nearest_mean, 2 * EMBEDDINGS),
            (EUCLIDEAN, EMBEDDINGS),
            (Centroid(), EMBEDDINGS),
        ]:
            evaluate(method, some, episodes(1, 4)).save(tmp_path)
        assert len(OutcomeStore(tmp_path / "outcomes").cells()) == 5

    @pytest.mark.parametrize("function", [lambda *some: nearest_mean(*some), functools.partial(nearest_mean)])
    def test_what_has_no_source_is_not_stored(self, tmp_path, function):
        with pytest.raises(CodeError, match="source"):
            evaluate(function, EMBEDDINGS, episodes(1, 4)).save(tmp_path)
        assert not list(tmp_path.rglob("cell.json"))

    def test_comparisons_have_the_data_interval(self):
        first, second, _ = self.evaluations()
        for a, b in [(first, second), (first.outcomes, second), (first.outcomes, second.outcomes)]:
            comparison = compare(a, b)
            assert comparison.data.low < comparison.data.mean < comparison.data.high
            assert "over classes and images" in str(comparison)
            assert "none over" not in str(comparison)

    def test_classes_have_their_own_accuracy(self):
        evaluation = self.evaluations()[0]
        frame = evaluation.per_class
        assert frame.columns.tolist() == ["class", "accuracy", "ci95", "episodes"]
        assert frame["class"].tolist() == list(SPLIT.class_names)
        assert (frame["accuracy"] * frame["episodes"]).sum() / (90 * 5) == pytest.approx(evaluation.mean)
        assert frame["episodes"].sum() == 90 * 5

    def test_an_unknown_accuracy_of_classes_is_said(self):
        uneven = sample_by_shape(SPLIT, Protocol("toy", shot=1, query=3, episodes=4, sampler="dirichlet"))
        evaluation = evaluate("centroid", EMBEDDINGS, uneven)
        with pytest.raises(EpisodeError, match="dirichlet"):
            evaluation.per_class  # noqa: B018  # the access is what is tested

    def test_a_frame_has_a_row_per_episode(self):
        evaluation = self.evaluations()[1]
        frame = evaluation.to_frame()
        assert len(frame) == len(evaluation) == 90
        assert frame["accuracy"].mean() == pytest.approx(evaluation.mean)
        assert not frame.duplicated(["method", "run", "episode"]).any()
        assert set(frame["method"]) == {"logistic"}

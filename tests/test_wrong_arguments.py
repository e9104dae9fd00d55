"""Whatever is passed to a public function or class, the answer is one line of this project."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from conftest import toy_split
from pydantic import ValidationError

import fewshot_bench as fb
from fewshot_bench.errors import ArgumentError, FewshotBenchError, FieldError
from fewshot_bench.interop.learn2learn import record_taskset

SPLIT = toy_split()
PROTOCOL = fb.Protocol("toy", shot=1, query=3, episodes=4, runs=1)
EPISODES = fb.sample_episodes(SPLIT, PROTOCOL)
EMBEDDINGS = np.random.default_rng(0).random((len(SPLIT), 4))
STRANGE = (None, -1, 0, 10**30, 2.5, float("nan"), True, "", "nonsense", b"x", [], [None], {}, {"a": 1}, object(), int)
RIGHT = {
    fb.Protocol: {"dataset": "toy"},
    fb.Study: {},
    fb.TrainingPlan: {"name": "mine"},
    fb.Recipe: {},
    fb.BackboneRequest: {"name": "conv4_32"},
    fb.OwnOptions: {},
    fb.Axis: {"name": "tau", "values": (0.1, 0.5)},
    fb.Centroid: {},
    fb.Logistic: {},
    fb.TIM: {},
    fb.FinetuneHead: {},
    fb.sample_episodes: {"split": SPLIT, "protocol": PROTOCOL},
    fb.sample_by_shape: {"split": SPLIT, "protocol": PROTOCOL},
    fb.evaluate: {"method": "centroid", "embeddings": EMBEDDINGS, "episodes": EPISODES},
    fb.compare: {"a": [0.5, 0.7, 0.6], "b": [0.4, 0.6, 0.6]},
    fb.measure: {"embeddings": EMBEDDINGS, "labels": SPLIT.labels, "intervals": False},
    fb.similarity_histograms: {"embeddings": EMBEDDINGS, "labels": SPLIT.labels},
    fb.cross_entropy: {"logits": np.eye(3), "labels": [0, 1, 2]},
    fb.schane: {"embeddings": np.eye(4), "labels": [0, 0, 1, 1]},
    fb.supcon: {"embeddings": np.eye(4), "labels": [0, 0, 1, 1]},
    fb.create_backbone: {"request": "conv4_32"},
}
NOT_TRIED = {"progress", "name"}  # a progress bar is any object with these methods; names are checked by their owners


def arguments_of(called):
    if called is fb.Study:
        return [field for field in called.model_fields if field not in ("results",)]
    return [name for name in inspect.signature(called).parameters if name not in NOT_TRIED]


@pytest.mark.slow
@pytest.mark.parametrize("called", RIGHT, ids=lambda called: called.__name__)
def test_a_strange_value_of_any_argument_is_taken_or_refused_in_one_line(called):
    called(**RIGHT[called])
    for argument in arguments_of(called):
        for value in STRANGE:
            said = ""
            try:
                called(**{**RIGHT[called], argument: value})
            except FewshotBenchError as error:
                said = str(error)
            except Exception as error:
                pytest.fail(f"{argument}={value!r} of {called.__name__}: {type(error).__name__}: {error}")
            assert "\n" not in said, (argument, value)


@pytest.mark.parametrize("called", RIGHT, ids=lambda called: called.__name__)
def test_an_unknown_argument_is_refused_with_the_known_ones(called):
    known = arguments_of(called)
    typo = f"{known[0]}s" if f"{known[0]}s" not in known else f"{known[0]}x"
    with pytest.raises(ArgumentError, match=f"{called.__name__} has no argument '{typo}'. Did you mean") as error:
        called(**RIGHT[called], **{typo: 1})
    assert isinstance(error.value, TypeError)


@pytest.mark.parametrize(
    ("call", "right"),
    [
        (lambda: fb.Protocol("toy", shots=5), "shot"),
        (lambda: fb.Study(shot=5), "shots"),
        (lambda: record_taskset(None, SPLIT, shots=2), "shot"),
    ],
)
def test_shot_is_one_number_and_shots_are_several(call, right):
    with pytest.raises(ArgumentError, match=f"Did you mean {right}\\?"):
        call()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shots": 0}, "shots of Study should be a list"),
        ({"way": "many"}, "way of Study"),
        ({"split": "x"}, "split of"),
    ],
)
def test_a_study_refuses_in_its_own_words_and_files_keep_theirs(fields, words):
    with pytest.raises(FieldError, match=words) as error:
        fb.Study(**fields)
    assert isinstance(error.value, ValueError)
    with pytest.raises(ValidationError):
        fb.Study.model_validate(fields)
    with pytest.raises(FieldError, match="cannot be changed"):
        fb.Study().way = 3


NUMBERS = np.array([0.25, 0.5, 0.75, 0.5])
OTHERS = np.array([0.5, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        torch.from_numpy,
        lambda array: torch.from_numpy(array).requires_grad_(),
        lambda array: torch.from_numpy(array).to(torch.bfloat16),
        lambda array: array.astype(np.float16),
    ],
)
def test_numbers_are_taken_from_whatever_holds_them(kind):
    assert fb.compare(kind(NUMBERS), kind(OTHERS)).test == fb.compare(NUMBERS, OTHERS).test
    rows = np.eye(4)[[0, 1, 0, 1]] + np.eye(4)
    labels = np.array([0, 1, 0, 1])
    assert fb.measure(kind(rows), labels, intervals=False) == fb.measure(rows, labels, intervals=False)
    loss, expected = fb.supcon(kind(rows), labels), fb.supcon(torch.from_numpy(rows), torch.from_numpy(labels))
    assert float(loss) == pytest.approx(float(expected), rel=1e-2)


def test_labels_are_taken_as_tensors():
    labels = torch.from_numpy(SPLIT.labels)
    assert fb.measure(EMBEDDINGS, labels, intervals=False) == fb.measure(EMBEDDINGS, SPLIT.labels, intervals=False)
    classes = torch.tensor([[0, 1], [1, 2], [0, 2], [0, 1]])
    assert (
        fb.compare(NUMBERS, OTHERS, classes=classes).data == fb.compare(NUMBERS, OTHERS, classes=classes.numpy()).data
    )

"""The bridge with learn2learn itself: `tox -e learn2learn` builds it and runs these tests; else they are skipped."""

from __future__ import annotations

import random
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_split
from torch.nn.functional import cross_entropy

import fewshot_bench as fb
from fewshot_bench.cli.main import exit_code
from fewshot_bench.interop import learn2learn as bridge
from fewshot_bench.interop.learn2learn.tasksets import as_tensor
from fewshot_bench.outcomes import OutcomeStore

if find_spec("learn2learn") is None:
    pytest.skip("learn2learn is not installed; run tox -e learn2learn", allow_module_level=True)

import learn2learn as l2l
from learn2learn.data.transforms import ConsecutiveLabels, FusedNWaysKShots, KShots, LoadData, NWays, RemapLabels

pytestmark = [pytest.mark.learn2learn, pytest.mark.slow]
SPLIT = toy_split(size=16)
EPISODES = fb.sample_episodes(SPLIT, fb.Protocol("toy", shot=2, query=2, episodes=5, runs=1))
PAGE = Path(__file__).parents[2] / "docs" / "learn2learn.md"


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return l2l.vision.models.CNN4(5, hidden_size=8, layers=3, embedding_size=8 * 4)


def test_its_partition_gives_support_and_queries_in_our_order():
    taskset = bridge.make_taskset(EPISODES, SPLIT)
    for task in (4, 0):
        (shown, shown_labels), (asked, asked_labels) = l2l.data.partition_task(*taskset[task], shots=2)
        assert torch.equal(shown, as_tensor(SPLIT.images[EPISODES.support[task].reshape(-1)]))
        assert torch.equal(asked, as_tensor(SPLIT.images[EPISODES.queries[task]]))
        assert shown_labels.tolist() == np.repeat(np.arange(5), 2).tolist()
        assert asked_labels.tolist() == EPISODES.truth[task].tolist()
    images, _ = taskset.sample()
    assert images.shape == (20, 3, 16, 16)
    assert len(list(taskset)) == 5


@pytest.mark.parametrize("order", [(RemapLabels, ConsecutiveLabels), (ConsecutiveLabels, RemapLabels)])
@pytest.mark.parametrize("fused", [False, True])
def test_tasks_that_it_drew_itself_are_found_among_our_images(order, fused):
    random.seed(4)
    dataset = l2l.data.MetaDataset(bridge.SplitImages(SPLIT))
    drawing = [FusedNWaysKShots(dataset, n=5, k=4)] if fused else [NWays(dataset, 5), KShots(dataset, 4)]
    transforms = [*drawing, LoadData(dataset), *(transform(dataset) for transform in order)]
    taskset = l2l.data.Taskset(dataset, transforms, num_tasks=6)
    loaded = {task: taskset[task] for task in (5, 2, 0)}
    recorded = bridge.record_taskset(taskset, SPLIT, shot=1)
    assert recorded.numbers.tolist() == [0, 2, 5]
    for row, task in enumerate(recorded.numbers.tolist()):
        (shown, labels), (asked, _) = l2l.data.partition_task(*loaded[task], shots=1)
        ours = [as_tensor(SPLIT.images[recorded.images[row, position]]) for position in range(5)]
        for position, label in enumerate(labels.tolist()):
            theirs = torch.cat([shown[position : position + 1], asked[3 * position : 3 * position + 3]])
            assert any(torch.equal(theirs, images) for images in ours), label


def as_its_script(learner, images, labels, steps, shots):
    """Predictions for the queries of a task, as maml_miniimagenet.py of learn2learn gets them."""
    is_support = torch.zeros(len(images), dtype=torch.bool)
    is_support[torch.arange(shots * 5) * 2] = True
    for _ in range(steps):
        learner.adapt(cross_entropy(learner(images[is_support]), labels[is_support]))
    return learner(images[~is_support]).argmax(dim=1)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("algorithm", [l2l.algorithms.MAML, l2l.algorithms.MetaSGD])
def test_its_learners_predict_as_in_its_own_scripts(algorithm, first_order):
    learner = algorithm(network(), lr=0.4, first_order=first_order)
    before = [parameter.clone() for parameter in learner.parameters()]
    found = bridge.evaluate(learner, EPISODES, SPLIT, name="maml", steps=3).outcomes
    assert all(torch.equal(*pair) for pair in zip(before, learner.parameters(), strict=True))
    taskset = bridge.make_taskset(EPISODES, SPLIT, support="even")
    for task in range(5):
        expected = as_its_script(learner.clone(), *taskset[task], steps=3, shots=2)
        assert found.predictions[task].tolist() == expected.tolist()
    method = found.cell.method
    assert method.is_transductive
    assert method.adaptation == f"learn2learn.{algorithm.__name__}"
    assert method.hyper_parameters["learn2learn"] == l2l.__version__
    assert method.code == {}


def test_its_anil_predicts_as_in_its_own_script():
    whole = network()
    head = l2l.algorithms.MAML(whole.classifier, lr=0.1)
    found = bridge.evaluate(head, EPISODES, SPLIT, name="anil", steps=3, features=whole.features).outcomes
    taskset = bridge.make_taskset(EPISODES, SPLIT, support="even")
    for task in range(5):
        images, labels = taskset[task]
        expected = as_its_script(head.clone(), whole.features(images).detach(), labels, steps=3, shots=2)
        assert found.predictions[task].tolist() == expected.tolist()
    assert found.cell.method.is_transductive


def test_its_clones_share_running_statistics_and_an_evaluation_leaves_them_alone():
    maml = l2l.algorithms.MAML(network(), lr=0.1)
    clone = maml.clone()
    clone(as_tensor(SPLIT.images[:8]))
    statistics = [buffer.clone() for buffer in maml.buffers()]
    assert any(int(buffer) == 1 for buffer in statistics if not buffer.ndim)
    transductive = bridge.evaluate(maml, EPISODES, SPLIT, name="maml", steps=1).outcomes
    inductive = bridge.evaluate(maml.eval(), EPISODES, SPLIT, name="maml", steps=1).outcomes
    assert all(torch.equal(*pair) for pair in zip(statistics, maml.buffers(), strict=True))
    assert transductive.cell.method.is_transductive
    assert not inductive.cell.method.is_transductive
    assert inductive.cell.key != transductive.cell.key


def test_the_example_of_the_page_runs_and_the_command_line_compares_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    smaller, count = re.subn(r"episodes=\d+", "episodes=12", program)
    assert count == 2
    exec(compile(smaller, str(PAGE), "exec"), {"__name__": "page"})
    assert "transductive" in capsys.readouterr().out
    assert len(OutcomeStore(tmp_path / "results" / "outcomes").cells()) == 2
    assert exit_code(["compare", "maml", "centroid"]) == 0
    assert "12 common episodes" in capsys.readouterr().out
    exit_code(["audit", "results"])
    assert "0 failed" in capsys.readouterr().out

"""Public objects print themselves in one line, and show a small table in a notebook."""

from __future__ import annotations

import ast
import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_split

import fewshot_bench as fb
from fewshot_bench.adaptation import EmbeddedSplit
from fewshot_bench.datasets.dataset import Dataset, split_fingerprint
from fewshot_bench.episodes import recorded_episodes, sample_episodes, whole_protocol
from fewshot_bench.study.run import StudyResult

PACKAGE = Path(fb.__file__).parent
SPLIT = toy_split()
PROTOCOL = fb.Protocol("toy", shot=1, query=3, episodes=40, runs=1)
EPISODES = fb.sample_episodes(SPLIT, PROTOCOL)
EMBEDDINGS = np.random.default_rng(0).random((len(SPLIT), 8), dtype=np.float32)
HOSTILE = "<script>alert('x')</script>"


def named(name):
    """A split with a hostile name of its dataset and of a class."""
    names = (name, *SPLIT.class_names[1:])
    fingerprint = split_fingerprint(SPLIT.images, names, SPLIT.class_sizes)
    return replace(SPLIT, dataset=name, class_names=names, fingerprint=fingerprint)


def public_objects(name="toy"):
    split = named(name)
    episodes = fb.sample_episodes(split, replace(PROTOCOL, dataset=name))
    evaluation = fb.evaluate(fb.TIM(steps=2), EMBEDDINGS, episodes, name=name)
    other = fb.evaluate("centroid", EMBEDDINGS, episodes)
    dataset = Dataset(name, {"novel": split})
    cell = evaluation.outcomes.cell
    whole = replace(split, name="test")
    torch.manual_seed(0)
    return [
        dataset,
        split,
        episodes,
        episodes[3],
        sample_episodes(whole, whole_protocol(name, "test", split.class_sizes)),
        recorded_episodes(split, EPISODES.images, 1, name),
        evaluation,
        evaluation.outcomes,
        cell,
        fb.compare(evaluation, other),
        fb.compare([0.5, 0.6, 0.7], [0.4, 0.6, 0.6], names=(name, "b")),
        replace(PROTOCOL, dataset=name),
        fb.Study(dataset=name),
        fb.TrainingPlan(name="mine", dataset=name),
        fb.Recipe(teacher=name, objective="distillation"),
        StudyResult(dataset, [cell], None, 3.0),
        fb.create_backbone(fb.BackboneRequest("conv4_32", channels=3)),
        fb.BackboneRequest(name),
        fb.OwnOptions(),
        fb.Centroid(metric="euclidean"),
        fb.TIM(),
        fb.MEASURES["rankme"],
        fb.measure(EMBEDDINGS, SPLIT.labels, intervals=False)[0],
        fb.ADAPTATIONS,
        fb.LOSSES,
        fb.OutcomeStore(name),
    ]


@pytest.fixture(scope="module")
def objects():
    return public_objects()


def test_each_is_one_short_line(objects):
    for shown in objects:
        text = repr(shown)
        assert "\n" not in text, text
        assert "array(" not in text, text
        assert "object at 0x" not in text, text
        assert len(text) < 400, text


def test_each_is_a_small_table_in_a_notebook(objects):
    for shown in objects:
        text = shown._repr_html_()
        assert text.startswith("<table>"), shown
        assert text.endswith("</table>"), shown
        assert len(text) < 6_000, shown
        assert "array(" not in text, shown


def test_names_of_strangers_are_never_markup():
    seen = 0
    for shown in public_objects(HOSTILE):
        text = shown._repr_html_()
        assert "<script" not in text, shown
        seen += html.escape(HOSTILE) in text
    assert seen > 12


def test_a_split_its_episodes_and_their_outcomes_say_what_they_are():
    outcomes = fb.evaluate(fb.TIM(steps=2), EMBEDDINGS, EPISODES).outcomes
    assert repr(SPLIT) == f"<ImageSplit: novel of toy, {len(SPLIT):,} images, 8 classes>"
    assert repr(Dataset("toy", {"novel": SPLIT})) == f"<Dataset: toy, {len(SPLIT):,} novel images>"
    assert repr(EPISODES) == "<Episodes: toy 5-way 1-shot, 40 of run 0>"
    assert repr(EPISODES[3]) == "<Episode 3 of run 0: toy 5-way 1-shot, 15 queries>"
    accuracy = 100 * outcomes.accuracy.mean()
    assert repr(outcomes) == f"<Outcomes: tim (transductive), toy 5-way 1-shot, 40 episodes, {accuracy:.2f}%>"
    assert repr(fb.Study(way=3)) == "Study(way=3)"


def test_every_dataclass_that_holds_arrays_decides_what_equal_means():
    """The generated `==` of arrays raises."""
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            decorators = [text for text in map(ast.unparse, node.decorator_list) if "dataclass" in text]
            types = [ast.unparse(field.annotation) for field in node.body if isinstance(field, ast.AnnAssign)]
            holds = [kind for kind in types if re.match(r"(NDArray|Tensor|pd\.DataFrame|Positions)\b", kind)]
            own = {method.name for method in node.body if isinstance(method, ast.FunctionDef)}
            if decorators and holds and "eq=False" not in decorators[0] and "__eq__" not in own:
                wrong.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not wrong


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (lambda: toy_split(), lambda: toy_split(seed=1)),
        (lambda: fb.sample_episodes(SPLIT, PROTOCOL), lambda: fb.sample_episodes(SPLIT, replace(PROTOCOL, seed=1))),
        (lambda: EPISODES[2:5], lambda: EPISODES[2:6]),
        (lambda: EPISODES[3], lambda: EPISODES[4]),
        (lambda: recorded_episodes(SPLIT, EPISODES.images, 1, "x"), lambda: EPISODES),
        (lambda: Dataset("toy", {"novel": toy_split()}), lambda: Dataset("toy", {"base": toy_split("base")})),
    ],
)
def test_what_has_the_same_content_is_equal_and_nothing_raises(same, other):
    assert (same() == same()) is True
    assert (same() == other()) is False
    assert (same() != other()) is True
    assert (same() == "toy") is False
    assert hash(same()) == hash(same())
    assert len({same(), same(), other()}) == 2


def test_embedded_splits_are_equal_to_themselves_alone():
    split = EmbeddedSplit(torch.from_numpy(EMBEDDINGS), len(SPLIT))
    assert split == split  # that it does not raise is what is tested
    assert split != EmbeddedSplit(torch.from_numpy(EMBEDDINGS), len(SPLIT))


def test_every_head_is_at_the_top():
    from fewshot_bench import adaptation
    from fewshot_bench.study.known_names import OWN_NAMES

    factories = [entry.factory for entry in adaptation.ADAPTATIONS if entry.name in OWN_NAMES["adaptation"]]
    heads = {factory.__name__ for factory in factories if not issubclass(factory, adaptation.WholeAdaptation)}
    assert heads <= set(fb.__all__)

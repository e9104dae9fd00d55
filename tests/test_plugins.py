"""Somebody's own code: what it raises is told by its file and line, what it returns is checked where it is called."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import own_plugins
import pytest
import torch
from conftest import toy_split
from own_plugins import RAISES, RETURNS, WELL, Mine

from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.backbones import BackboneRequest, create_backbone, embed
from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import open_dataset
from fewshot_bench.engine.engine import Chunk, computed
from fewshot_bench.errors import EmbeddingError, FewshotBenchError, PluginError, StudyError
from fewshot_bench.losses import LOSSES, loss_function
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.study import Study

FILE = Path(own_plugins.__file__)


def line_of(text: str) -> int:
    """The line of the plug-ins that has a text, counted from 1."""
    return next(number for number, line in enumerate(FILE.read_text().splitlines(), 1) if text in line)


def asked(how: str, *, episodes: int = 1, way: int = 5, query: int = 15) -> torch.Tensor:
    """Scores of somebody's adaptation."""
    split = EmbeddedSplit(torch.randn(400, 6, generator=torch.Generator().manual_seed(1)), 400)
    images = torch.randperm(400, generator=torch.Generator().manual_seed(2)).repeat(20)[: episodes * way * (1 + query)]
    images = images.view(episodes, way, 1 + query)
    return checked_scores(Mine(how=how), split, images[..., :1], images[..., 1:].reshape(episodes, -1))


@pytest.mark.parametrize("how", RAISES)
def test_an_error_of_any_type_is_one_line_with_its_file_and_line(how: str) -> None:
    with pytest.raises(PluginError) as caught:
        asked(how)
    sentence = str(caught.value)
    line = line_of('RAISES["RecursionError"](scores)' if how == "RecursionError" else f'"{how}": lambda')
    assert f"own_plugins.py, line {line}, in <lambda>: {how}" in sentence
    assert "\n" not in sentence
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("how", RETURNS)
def test_what_is_no_scores_is_named_with_what_is_expected(how: str) -> None:
    with pytest.raises(FewshotBenchError) as caught:
        asked(how)
    sentence = str(caught.value)
    assert how in sentence
    assert f"own_plugins.py, line {line_of('def scores')}: " in sentence
    assert "mine" in sentence
    assert "finite" in how or "scores [E, M, N] = [1, 75, 5] in floating point are expected" in sentence


@pytest.mark.parametrize("how", WELL)
@pytest.mark.parametrize("query", [1, 15])
def test_what_is_scores_is_taken(how: str, query: int) -> None:
    assert asked(how, query=query).shape == (1, 5 * query, 5)


@pytest.mark.parametrize(("episodes", "query"), [(1, 1), (4, 1), (5, 1), (300, 1)])
def test_swapped_axes_are_seen_where_they_have_the_same_length(episodes: int, query: int) -> None:
    how = next(how for how in RETURNS if "swapped" in how)
    with pytest.raises(
        PluginError, match=r"of one episode with 10 queries a tensor \[1, 5, 10\].*Are two axes swapped"
    ):
        asked(how, episodes=episodes, query=query)


def test_episodes_and_queries_may_be_as_many() -> None:
    assert asked("as they are", episodes=75).shape == (75, 75, 5)


def test_the_probe_leaves_the_random_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(own_plugins.ALL, "as they are", lambda scores: scores + torch.rand(()))
    torch.manual_seed(0)
    asked("as they are", query=1)
    after = torch.rand(())
    torch.manual_seed(0)
    torch.rand(())
    assert torch.equal(after, torch.rand(()))


def test_memory_that_runs_out_stays_what_it_is() -> None:
    with pytest.raises(MemoryError), plugin_errors(Mine(), "scores"):
        raise MemoryError
    with pytest.raises(torch.OutOfMemoryError), plugin_errors(Mine(), "scores"):
        raise torch.OutOfMemoryError
    with pytest.raises(KeyboardInterrupt), plugin_errors(Mine(), "scores"):
        raise KeyboardInterrupt
    with pytest.raises(StudyError, match="as it is"), plugin_errors(Mine(), "scores"):
        raise StudyError("as it is")


def test_an_error_of_this_program_keeps_its_type(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewshot_bench.study.methods.fields", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        exit_code(["run", "--backbone", "conv4_32", "--base-loss", "none"])


@pytest.mark.parametrize(
    ("name", "settings", "finding"),
    [
        ("Picky", {"how": "nothing"}, "in __post_init__: KeyError: 'nothing'"),
        ("Picky", {"how": "ValueError: not this one"}, "in __post_init__: ValueError: not this one"),
        ("Unfinished", {}, "own_plugins:Unfinished lacks scores. An adaptation is a frozen dataclass below"),
        ("SaysOddThings", {}, "augmented_views of odd should be a whole number of 0 or more, not an int."),
        ("a_function", {}, "own_plugins:a_function is a function, not a class. An adaptation is a frozen dataclass"),
    ],
)
def test_an_adaptation_that_cannot_be_made_says_where_and_why(
    name: str, settings: dict[str, Any], finding: str
) -> None:
    ADAPTATIONS.admit(f"own_plugins:{name}")
    with pytest.raises(PluginError) as caught:
        planned_adaptations(Study(adaptations=(f"own_plugins:{name}",), hyper_parameters=settings))
    assert finding in str(caught.value)
    assert "own_plugins.py, line " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("a_network", "returned a Short. The factory of a backbone takes a BackboneRequest and returns a Backbone"),
        ("nothing", "returned None. The factory of a backbone"),
        ("a_pair", "returned a tuple. The factory of a backbone"),
        (
            "no_size",
            "embedding_size of the backbone own_plugins:no_size should be a whole number of 1 or more, not a str",
        ),
        ("has_a_bug", "in has_a_bug: KeyError: 'weights'"),
        ("needs_more", "TypeError: needs_more() missing 1 required positional argument: 'more'"),
    ],
)
def test_a_backbone_that_is_none_is_told_what_to_return(name: str, finding: str) -> None:
    with pytest.raises(PluginError) as caught:
        create_backbone(BackboneRequest(f"own_plugins:{name}"))
    assert finding in str(caught.value)
    assert "own_plugins.py, line " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("wrong_size", "the network Short gave a tensor [8, 7] of float32; embeddings [B, D] = [8, 8]"),
        ("pair", "the network Pair gave a tuple; embeddings [B, D] = [8, 7]"),
        ("a_map", "the network Map gave a tensor [8, 1, 28, 28] of float32; embeddings [B, D] = [8, 7]"),
        ("breaks", "in forward: RuntimeError: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_a_network_that_gives_no_embeddings_is_named(name: str, finding: str) -> None:
    backbone = create_backbone(BackboneRequest(f"own_plugins:{name}"))
    with pytest.raises((EmbeddingError, PluginError)) as caught:
        embed(toy_split(classes=2, images=4), backbone, use_cache=False)
    assert finding in str(caught.value)
    assert "own_plugins.py, line " in str(caught.value)


def test_a_network_that_gives_embeddings_is_taken() -> None:
    split = toy_split(classes=2, images=4)
    assert embed(split, create_backbone(BackboneRequest("own_plugins:good")), use_cache=False).shape == (8, 7)


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("loss_per_view", "returned a tensor [3, 4] of float32; one floating-point number per batch, [3]"),
        ("detached", "returned a loss without a gradient"),
        ("a_float", "returned a float; one floating-point number per batch, [3]"),
        ("whole_numbers", "returned a tensor [3] of int64"),
        ("takes_too_little", "cannot be called: takes_too_little() got an unexpected keyword argument"),
        ("loss_with_a_bug", "in loss_with_a_bug: ValueError: singular"),
    ],
)
def test_what_is_no_loss_is_named(name: str, finding: str) -> None:
    LOSSES.admit(f"own_plugins:{name}")
    logits, embeddings = torch.randn(3, 4, 2, requires_grad=True), torch.randn(3, 4, 5)
    labels = torch.tensor([0, 1, 0, 1])
    with pytest.raises(PluginError) as caught:
        loss_function(f"own_plugins:{name}")(logits, embeddings, labels, labels, lambda_=0.5, tau=0.5, reading="in")
    assert finding in str(caught.value)
    assert "own_plugins.py, line " in str(caught.value)


def test_what_is_a_loss_is_taken() -> None:
    LOSSES.admit("own_plugins:a_loss")
    logits, labels = torch.randn(3, 4, 2, requires_grad=True), torch.tensor([0, 1, 0, 1])
    loss = loss_function("own_plugins:a_loss")
    assert loss(logits, logits, labels, labels, lambda_=0.5, tau=0.5, reading="in").shape == (3,)
    assert loss_function("ce") is LOSSES["ce"].factory, "nothing stands between this program and its own losses"


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("no_dataset", "the factory of the dataset own_plugins:no_dataset returned a list. It takes no arguments"),
        ("dataset_with_a_bug", "in dataset_with_a_bug: IndexError: list index out of range"),
    ],
)
def test_what_is_no_dataset_is_named(name: str, finding: str) -> None:
    with pytest.raises(PluginError) as caught:
        open_dataset(f"own_plugins:{name}")
    assert finding in str(caught.value)
    assert "own_plugins.py, line " in str(caught.value)


def test_an_error_of_another_process_keeps_its_line_and_its_traceback() -> None:
    class Worker:
        def __call__(self, chunk: Chunk) -> Any:
            return asked("KeyError: 'my_bug'")

        def peak_bytes(self) -> int:
            return 0

    error = computed(Worker(), None).error  # type: ignore[arg-type]  # what the worker is and gets does not matter
    assert error is not None
    assert error.__traceback__ is None, "or what it holds stays in memory"
    again = pickle.loads(pickle.dumps(error))  # as an actor hands it on
    assert str(again) == str(error)
    assert "in <lambda>: KeyError: 'my_bug'" in str(again)
    assert 'lambda scores: {}["my_bug"]' in again.traceback_text


RUN = ["run", "--backbone", "own_plugins:good", "--base-loss", "none", "--adapt", "own_plugins:Mine"]
RUN += ["--episodes", "4", "--runs", "1", "--shots", "1", "--set"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "variable", "is_shown"), [([], "", False), (["--debug"], "", True), ([], "1", True)]
)
def test_the_command_shows_the_whole_traceback_to_those_who_ask(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, options: list[str], variable: str, is_shown: bool
) -> None:
    monkeypatch.setenv("FEWSHOT_BENCH_DEBUG", variable)
    monkeypatch.setattr("fewshot_bench.errors._shown", set())
    for place in (0, len(RUN) + 1):
        command = [*RUN, "how=KeyError: 'my_bug'"]
        command[place:place] = options
        assert exit_code(command) == 2
        words = capsys.readouterr().err
        assert "error: " in words.splitlines()[-1]
        assert "in <lambda>: KeyError: 'my_bug'" in words.splitlines()[-1]
        assert ("Traceback (most recent call last)" in words) == (is_shown and not place)


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--backbone", "own_plugins:has_a_bug"],
        ["run", "--dataset", "own_plugins:dataset_with_a_bug"],
        [
            "train",
            "--name",
            "net",
            "--backbone",
            "conv4_32",
            "--loss",
            "own_plugins:loss_with_a_bug",
            "--device",
            "cpu",
        ],
    ],
    ids=lambda command: command[0],
)
def test_every_command_tells_it_in_one_line(folder: Path, capsys: Any, command: list[str]) -> None:
    assert exit_code(command) == 2
    words = capsys.readouterr().err.strip()
    assert "Traceback" not in words
    assert "own_plugins.py, line " in words.splitlines()[-1]
    assert words.endswith("For the whole traceback add --debug.")


def test_the_record_of_a_failure_says_the_same_line(folder: Path, capsys: Any) -> None:
    command = [*RUN, "how=KeyError: 'my_bug'"]
    command[command.index("own_plugins:Mine")] = "own_plugins:Mine,centroid"
    assert exit_code(command) == 1
    assert "in <lambda>: KeyError: 'my_bug'" in capsys.readouterr().err
    (record,) = {path.read_text() for path in folder.rglob("failures/*.json")}
    assert "own_plugins.py, line " in record
    assert "in <lambda>: KeyError: 'my_bug'" in record

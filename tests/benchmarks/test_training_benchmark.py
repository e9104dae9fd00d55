"""The speed benchmark of training runs, and compares the training with its network; no time is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_script() -> Iterator[None]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_it_prints_a_row_for_each_augmentation_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    import training

    tiny = "--only conv4 affine none --batch 2 --steps 1 --repeats 1 --threads 1"
    training.main([*tiny.split(), "--precision", "float32", "bf16"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| Conv4")]
    assert [row[1:3] for row in rows] == [
        ["affine", "float32"],
        ["none", "float32"],
        ["affine", "bf16"],
        ["none", "bf16"],
    ]


@pytest.mark.slow
def test_it_begins_nothing_after_its_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    import training

    training.main(["--minutes", "0"])
    printed = capsys.readouterr().out
    assert "| Conv4" not in printed
    assert "Stopped after 0 minutes" in printed


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [None, 2])
def test_rates_are_those_of_whole_trainings(ahead: int | None) -> None:
    import training

    network = training.NETWORKS["conv4"]
    rates = training.training_rates(
        network, "none", "float32", torch.device("cpu"), batch=2, steps=2, repeats=1, ahead=ahead
    )
    assert (rates.network, rates.batch) == ("Conv4, 32 px", 2)
    assert min(rates.training, rates.alone, rates.views) > 0
    assert rates.share == rates.training / rates.alone

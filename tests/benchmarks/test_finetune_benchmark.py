"""The speed benchmark of fine-tuning runs, and judges what it is given; no time is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _beside_the_script() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def record(_beside_the_script: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the script writes and prints for Conv4, with tiny settings."""
    import finetune

    path, threads, printed = tmp_path_factory.mktemp("benchmark") / "rows.json", torch.get_num_threads(), StringIO()
    tiny = "--networks conv4-32 --tune all --shots 1 --episodes-at-once 2 1 --steps 3 --repeats 1 --threads 1"
    try:
        with redirect_stdout(printed):
            finetune.main([*tiny.split(), "--json", str(path)])
    finally:
        torch.set_num_threads(threads)
    return json.loads(path.read_text(encoding="utf-8")), printed.getvalue()


@pytest.mark.slow
def test_every_size_gives_a_row_whose_predictions_are_those_of_the_loop(record: tuple[dict[str, Any], str]):
    written, printed = record
    assert [(row["case"]["shot"], row["at_once"]) for row in written["rows"]] == [(1, 1), (1, 2)]
    assert [row["compared"] for row in written["rows"]] == [75, 150]
    assert all(row["agreeing"] >= 0.99 * row["compared"] for row in written["rows"])
    lines = [line for line in printed.splitlines() if line.startswith("| Conv4, 32 px, 1-shot, float32 | ")]
    assert [line.split(" | ")[2] for line in lines] == ["1", "2"]


def test_all_bars_of_the_device_are_judged(record: tuple[dict[str, Any], str]):
    written, printed = record
    assert len(written["bars"]) == 2
    assert all(f"| {bar['claim']} | {bar['measured']} | " in printed for bar in written["bars"])


def test_the_work_of_a_step_is_that_of_the_layers(record: tuple[dict[str, Any], str]):
    first, others = 32 * 32 * 64 * 27, sum(side * side * 64 * 576 for side in (16, 8, 4))
    # A multiplication and an addition; forward, for the weights, and for the inputs, which the first layer is spared.
    expected = 10 * 2 * (2 * first + 3 * others + 3 * 256 * 5)
    assert record[0]["cases"][0]["flops"] == pytest.approx(expected, rel=1e-6)


def test_a_single_step_cannot_be_timed(capsys: pytest.CaptureFixture[str]):
    import finetune

    with pytest.raises(SystemExit, match="2"):
        finetune.main(["--steps", "1"])
    assert "--steps should be 2 or more, not 1" in capsys.readouterr().err


def row(network: str, *, shot: int = 1, at_once: int = 1, times: float = 1.0, share: float = 0.1, default: bool = True):
    """A row with the ratios given."""
    from finetune_tables import Case, Row

    case = Case(network, shot, "float32", "float32", 1000, 1000 / share)
    return Row(
        case, "channels", default, at_once, steps=3, loop_step=times, step=1.0, loop_adapt=times, adapt=3.0, views=10,
        peak=0, compared=75, agreeing=75,
    )  # fmt: skip


def test_one_slow_size_misses_the_bar_of_a_cpu():
    from finetune_tables import bars

    rows = [row("Conv4, 32 px", at_once=at_once, times=times) for at_once, times in ((1, 1.2), (2, 0.9), (4, 1.5))]
    assert [bar.is_met for bar in bars(rows, "cpu")] == [False, True]
    assert [bar.is_met for bar in bars(rows[1:2], "cpu")] == [False, False]
    assert "0.90 times in a step" in bars(rows, "cpu")[0].measured


@pytest.mark.parametrize(
    ("network", "shot", "enough"),
    [("Conv4, 84 px", 5, {"times": 20}), ("ResNet-12, 32 px", 1, {"times": 5}), ("ViT-B/16", 1, {"times": 2}),
     ("ViT-B/16", 5, {"share": 0.4})],
)  # fmt: skip
def test_the_best_size_is_held_against_the_bar_of_a_gpu(network: str, shot: int, enough: dict[str, float]):
    from finetune_tables import bars

    less = {name: 0.99 * value for name, value in enough.items()}
    slow, quick = row(network, shot=shot, **less), row(network, shot=shot, at_once=8, **enough)
    assert [bar.is_met for bar in bars([slow], "cuda")] == [False]
    assert [bar.is_met for bar in bars([slow, quick], "cuda")] == [True]
    assert "(8 at once, float32)" in bars([slow, quick], "cuda")[0].measured


def test_rows_whose_layout_was_insisted_on_do_not_count():
    from finetune_tables import bars

    assert bars([row("Conv4, 32 px", default=False)], "cpu") == []


def test_the_usual_number_of_steps_is_added_up():
    # 3 s for three steps and the rest, and 97 steps of 1 s.
    assert row("Conv4, 32 px").usual_rate == pytest.approx(1 / 100)

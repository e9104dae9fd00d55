"""How long the page of a large leaderboard takes to write and to open, and how large it is.

    pip install '.[test]'                           # playwright; Chromium itself: apt-get install chromium
    python benchmarks/page.py                       # 500 methods x 8 protocols
    python benchmarks/page.py --methods 50          # a smaller one
    python benchmarks/page.py --json page.json      # the numbers beside the table

Outcomes are made up and stored as a study stores them. Interactive is the moment, counted from the start of the
navigation by the browser's own clock, at which the table has its rows, all scripts have run and every figure in sight
is drawn; each load is in a fresh context of a headless Chromium, from the disk. Plotly starts when the first figure
comes near, and a figure is drawn when it does: the slowest is timed from where it is scrolled to until it stands.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.report.content import gather
from fewshot_bench.report.leaderboard import current_leaderboard
from fewshot_bench.report.page import page_html

DATASETS, SHOTS = ("cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet"), (1, 5)
ADAPTATIONS = ("centroid", "logistic", "finetune-head", "finetune")
WAY, QUERY, IMAGES = 5, 15, 600
LARGEST, SLOWEST = 10_000_000, 2.0
IS_READY = """() => {
  const places = [...document.querySelectorAll('.plot')];
  const inSight = places.filter((place) => place.getBoundingClientRect().top < innerHeight);
  const isRun = places.length > 0 && places.every((place) => place.style.minHeight);
  const isDrawn = inSight.every((place) => place.querySelector('.main-svg'));
  return document.querySelector('.dt-container tbody tr') && isRun && isDrawn && performance.now();
}"""
SCROLLED = """async () => {
  let slowest = 0;
  for (const place of document.querySelectorAll('.plot')) {
    const start = performance.now();
    place.scrollIntoView({behavior: 'instant'});
    while (!place.querySelector('.main-svg')) await new Promise(requestAnimationFrame);
    slowest = Math.max(slowest, performance.now() - start);
  }
  return slowest;
}"""
Made = TypeVar("Made")


@dataclass(frozen=True)
class Bar:
    """Something that the page has to reach."""

    what: str
    measured: str
    is_met: bool


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        print(f"storing {options.methods * 8:,} cells of {options.episodes} episodes", file=sys.stderr)
        store_outcomes(OutcomeStore(results / "outcomes"), options.methods, options.episodes)
        numbers = measure(results, options.loads)
    bars = [
        Bar("at most 10 MB", f"{numbers['bytes'] / 1e6:.2f} MB", numbers["bytes"] < LARGEST),
        Bar("interactive in 2 s", f"{numbers['interactive_s']:.2f} s", numbers["interactive_s"] < SLOWEST),
    ]
    print(table(numbers, options, bars))
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def store_outcomes(store: OutcomeStore, methods: int, episodes: int) -> None:
    """Every method on every protocol: its own level, the episodes' difficulty, and noise."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(WAY, dtype=np.uint8), QUERY)
    numbers = np.arange(episodes)
    for dataset in DATASETS:
        for shot in SHOTS:
            difficulty = generator.normal(45 + 2 * shot, 7, episodes)
            for number in range(methods):
                level = 8 * number / methods + generator.normal(0, 2, episodes)
                correct = np.clip(np.rint(difficulty + level), 0, len(truth))
                is_right = np.arange(len(truth)) < correct[:, None]
                predictions = np.where(is_right, truth, (truth + 1) % WAY).astype(np.uint8)
                store.append(_cell(number, dataset, shot), 0, numbers, predictions, 0.001 * (1 + number % 7))


def _cell(number: int, dataset: str, shot: int) -> Cell:
    adaptation = ADAPTATIONS[number % len(ADAPTATIONS)]
    name = f"backbone_{number % 20}/base-ce@epochs={number}/{adaptation}"
    method = MethodCard(name, f"backbone_{number % 20}", f"weights {number}", adaptation, {"C": number})
    protocol = ProtocolCard(dataset, f"{dataset:<64}", "novel", WAY, shot, QUERY, 0, 1)
    provenance = {"commands": [f"fewshot-bench run --dataset {dataset}"], "peak_bytes": 2**30 + 2**22 * number}
    cell = Cell(method, protocol, {"torch": "2.14.1", "numpy": "2.4.6"}, {"source": "made up"})
    return replace(cell, class_sizes=(IMAGES,) * 20, provenance=provenance)


def measure(results: Path, loads: int) -> dict[str, Any]:
    """Seconds of each step, the size, and when the browser is ready."""
    store = OutcomeStore(results / "outcomes")
    baseline = "backbone_0/base-ce@epochs=0/centroid"
    frame, leaderboard_s = timed(lambda: current_leaderboard(store, results / "leaderboard.csv", baseline))
    content, gather_s = timed(lambda: gather(store, frame, results))
    html, render_s = timed(lambda: page_html(content, "Few-shot results"))
    page = results / "report.html"
    page.write_text(html, encoding="utf-8")
    ready, drawn = seconds_in_browser(page, loads)
    return {
        "rows": len(frame),
        "leaderboard_s": leaderboard_s,
        "gather_s": gather_s,
        "render_s": render_s,
        "bytes": page.stat().st_size,
        "interactive_s": statistics.median(ready),
        "loads_s": ready,
        "figure_s": statistics.median(drawn),
    }


def timed(make: Callable[[], Made]) -> tuple[Made, float]:
    """What is made, and the seconds that it took."""
    start = time.perf_counter()
    return make(), time.perf_counter() - start


def seconds_in_browser(page: Path, loads: int) -> tuple[list[float], list[float]]:
    """By the browser's clock, once per load: until the page is interactive, and until the slowest figure is drawn."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is not installed; on Debian: apt-get install chromium")
    ready, drawn = [], []
    with sync_playwright() as library:
        browser = library.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(loads):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            tab.goto(page.as_uri(), wait_until="commit")
            ready.append(float(tab.wait_for_function(IS_READY, polling="raf").json_value()) / 1000)
            drawn.append(float(tab.evaluate(SCROLLED)) / 1000)
            context.close()
        browser.close()
    return ready, drawn


def table(numbers: dict[str, Any], options: argparse.Namespace, bars: list[Bar]) -> str:
    """The report in Markdown."""
    steps = (
        ("leaderboard, with tests, intervals and letters", f"{numbers['leaderboard_s']:.1f} s"),
        ("what the page shows, gathered", f"{numbers['gather_s']:.1f} s"),
        ("HTML", f"{numbers['render_s']:.1f} s"),
        ("size", f"{numbers['bytes'] / 1e6:.2f} MB"),
        ("interactive", f"{numbers['interactive_s']:.2f} s"),
        ("slowest figure, once scrolled to: the first, with Plotly", f"{numbers['figure_s']:.2f} s"),
    )
    lines = [
        f"{options.methods} methods x 8 protocols, {numbers['rows']:,} rows, {options.episodes} episodes per cell; "
        f"median of {options.loads} loads. Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| step | measured |",
        "| --- | ---: |",
        *(f"| {what} | {value} |" for what, value in steps),
        "",
        "| bar | measured | met |",
        "| --- | --- | --- |",
        *(f"| {bar.what} | {bar.measured} | {'yes' if bar.is_met else 'no'} |" for bar in bars),
    ]
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--methods", type=int, default=500)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--loads", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

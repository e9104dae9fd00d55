"""Results folders and made-up contents, for the tests of the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from stored_cells import cell, fill

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.content import PageContent, ProtocolResults, Quantiles, completed
from fewshot_bench.report.verdicts import verdict

BASE = "conv/ce/centroid"
BETTER = "conv/ce+schane/centroid"
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quoted\" & 'quoted' <b>bold</b>",
    "=cmd()",
    '<a href="javascript:alert(3)">click</a>',
    "%{x} {{ 7 * 7 }} $\\alpha$",
)
SWEEP = """lambda,tau,shot,median,mean,ci95,is_best,method
0,0.1,1,60,60,0.8,False,m
0.5,0.1,1,62,62,0.8,True,m
0,0.5,1,60,60,0.8,False,m
0.5,0.5,1,61,61,0.8,False,m
"""


def store_study(results: Path, *, methods: tuple[str, ...] = (), episodes: int = 30) -> Path:
    """Two datasets that no paper has, 1 and 5 shots; CE+SCHaNe is 3 of 75 queries better than CE, the others noise."""
    store = OutcomeStore(results / "outcomes")
    generator = np.random.default_rng(7)
    for dataset in ("birds", "coins"):
        for shot, level in ((1, 35), (5, 50)):
            difficulty = generator.integers(-6, 7, size=(2, episodes))
            for number, name in enumerate((BASE, BETTER, *methods)):
                noise = generator.integers(-2, 3, size=(2, episodes))
                gain = {BASE: 0, BETTER: 3}.get(name, -1)
                of = cell(name, dataset=dataset, shot=shot)
                of = replace(
                    of,
                    method=replace(of.method, backbone="resnet" if number % 2 else "conv"),
                    class_sizes=(600,) * 20,
                    provenance={
                        "commands": [f"fewshot-bench run --dataset {dataset}", "fewshot-bench run --loss '<b>'"],
                        "git_commit": "0123abc",
                        "hardware": {"cpu": "A <processor>", "cores": 2},
                        "peak_bytes": 2**30,
                        "extra_fact": "kept",
                    },
                    dataset_recipe={"source": "archive.zip"},
                )
                fill(store, of, level + gain + difficulty + noise)
    return results


def add_sweep(results: Path, name: str = "cifar-fs-sweep", text: str = SWEEP) -> None:
    folder = results / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "sweep.csv").write_text(text)


def frame_of(methods: int, **columns: Any) -> pd.DataFrame:
    """A leaderboard of one protocol without a store, best first."""
    mean = np.linspace(70, 50, methods)
    rows: dict[str, Any] = {
        "method": [f"m{number}" for number in range(methods)],
        "dataset": "cifar-fs",
        "split": "novel",
        "way": 5,
        "shot": 1,
        "queries": 15,
        "seed": 0,
        "median": mean,
        "mean": mean,
        "ci95": 0.3,
        "episodes_per_second": 100.0,
        "protocol_fingerprint": "p" * 64,
        "method_fingerprint": [f"{number:064d}" for number in range(methods)],
    }
    return completed(pd.DataFrame({**rows, **columns}))


def with_tests(frame: pd.DataFrame, differences: list[float], p: list[float], baseline: str) -> pd.DataFrame:
    """The frame with tests against a baseline, whose intervals reach half a point, and one point over data."""
    values = np.array(differences, dtype=float)
    beyond = [min(1.0, 3 * value) if abs(gap) > 1 else 0.5 for gap, value in zip(values, p, strict=True)]
    words = [
        verdict(gap, value, other) if gap == gap else "" for gap, value, other in zip(values, p, beyond, strict=True)
    ]
    return frame.assign(
        baseline=baseline,
        difference=values,
        diff_ci95_low=values - 0.5,
        diff_ci95_high=values + 0.5,
        diff_data_ci95_low=values - 1,
        diff_data_ci95_high=values + 1,
        p=p,
        p_corrected=p,
        p_beyond=beyond,
        p_beyond_corrected=beyond,
        beyond="classes and images",
        verdict=words,
    )


def protocol_of(frame: pd.DataFrame, **parts: Any) -> ProtocolResults:
    quantiles = {name: Quantiles(20, 40, 50, 60, 80, 51) for name in frame["method"]}
    return ProtocolResults("cifar-fs 5-way 1-shot", frame, **{"quantiles": quantiles, **parts})


def content_of(frame: pd.DataFrame, **parts: Any) -> PageContent:
    return PageContent(frame, [protocol_of(frame)], **parts)


def figures_in(html: str) -> dict[str, Any]:
    """The data of the figures in a page."""
    (text,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    content: dict[str, Any] = json.loads(text)
    return content


def table_rows(html: str) -> list[list[str]]:
    """The rows of the leaderboard in a page, as DataTables reads them."""
    (text,) = re.findall(r'^\s*"data_json": (".*"),?$', html, re.MULTILINE)
    rows: list[list[str]] = json.loads(json.loads(text))
    return rows

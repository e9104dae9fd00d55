"""Accuracies of two methods in every kind of file, for the tests of the import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

from fewshot_bench.interop import ImportOptions, import_outcomes
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_tasks

EPISODES = 40
_GENERATOR = np.random.default_rng(3)
_HARD = _GENERATOR.integers(20, 60, EPISODES)
CORRECT = {"proto": _HARD + 3, "maml": _HARD + _GENERATOR.integers(0, 4, EPISODES)}
ACCURACY: Mapping[str, np.ndarray] = {name: correct / 75 for name, correct in CORRECT.items()}
CLASSES = [";".join(map(str, sorted(_GENERATOR.choice(12, 5, replace=False)))) for _ in range(EPISODES)]
TASKS = ImportOptions(dataset="cifar-fs", way=5, shot=1)


def wide(accuracy: Mapping[str, np.ndarray] = ACCURACY) -> pd.DataFrame:
    return pd.DataFrame({"episode": np.arange(EPISODES), **accuracy})


def long(accuracy: Mapping[str, np.ndarray] = ACCURACY) -> pd.DataFrame:
    frames = [
        pd.DataFrame({"method": name, "episode": np.arange(EPISODES), "accuracy": values})
        for name, values in accuracy.items()
    ]
    return pd.concat(frames, ignore_index=True)


def _csv(frame: Callable[[], pd.DataFrame], **options: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / ("acc.tsv" if options.get("sep") == "\t" else "acc.csv")
        frame().to_csv(path, index=False, **options)  # type: ignore[call-overload]  # options vary by layout
        return path

    return write


def _parquet(frame: Callable[[], pd.DataFrame]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "acc.parquet"
        frame().to_parquet(path)
        return path

    return write


def _shuffled_long() -> pd.DataFrame:
    return long().sample(frac=1, random_state=0)


def _counts() -> pd.DataFrame:
    counted = [pd.DataFrame({"method": n, "episode": range(EPISODES), "correct": c}) for n, c in CORRECT.items()]
    return pd.concat(counted).assign(queries=75)


def _npy(folder: Path) -> Path:
    path = folder / "acc.npy"
    np.save(path, np.stack(list(ACCURACY.values()), axis=1))
    return path


def _npz(folder: Path) -> Path:
    path = folder / "acc.npz"
    np.savez_compressed(path, **ACCURACY)
    return path


def _pt(folder: Path) -> Path:
    path = folder / "acc.pt"
    torch.save({name: torch.from_numpy(values) for name, values in ACCURACY.items()}, path)
    return path


def _pth_of_one_tensor(folder: Path) -> Path:
    path = folder / "acc.pth"
    torch.save(torch.from_numpy(np.stack(list(ACCURACY.values()), axis=1)), path)
    return path


def _safetensors(folder: Path) -> Path:
    path = folder / "acc.safetensors"
    save_file({name: values.copy() for name, values in ACCURACY.items()}, path)
    return path


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "wide CSV": _csv(wide),
    "wide CSV without numbers": _csv(lambda: wide().drop(columns="episode")),
    "wide CSV in percent": _csv(lambda: wide({name: 100 * values for name, values in ACCURACY.items()})),
    "wide CSV with semicolons": _csv(wide, sep=";"),
    "wide CSV with a mark of its encoding": _csv(wide, encoding="utf-8-sig"),
    "wide TSV": _csv(wide, sep="\t"),
    "long CSV": _csv(_shuffled_long),
    "long CSV of counts": _csv(_counts),
    "wide Parquet": _parquet(wide),
    "long Parquet": _parquet(_shuffled_long),
    "long Parquet of categories": _parquet(lambda: long().astype({"method": "category"})),
    "npy": _npy,
    "npz": _npz,
    "pt": _pt,
    "pth of one tensor": _pth_of_one_tensor,
    "safetensors": _safetensors,
}
UNNAMED = ("npy", "pth of one tensor")
"""Layouts that do not name their methods."""


def imported(store: OutcomeStore, path: Path, **options: object) -> OutcomeStore:
    import_outcomes([path], store, ImportOptions(**{**vars(TASKS), **options}))
    return store


def difference(store: OutcomeStore, a: str = "proto", b: str = "maml") -> tuple[float, float, int]:
    """What a comparison shows: difference, p, episodes."""
    test = compare_tasks(store, [a, b])[0].comparisons[0].test
    return test.mean_difference, test.p, test.n

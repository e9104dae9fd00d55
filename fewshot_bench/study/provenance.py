"""How outcomes came about, recorded beside them as plain data; it never decides what they are.

Nothing here names a person or a machine: only the last part of an absolute path is recorded.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

import torch

import fewshot_bench
from fewshot_bench.backbones import Backbone, fit_words
from fewshot_bench.code_identity import what_changed
from fewshot_bench.devices import peak_bytes, processor_name, tf32_on
from fewshot_bench.engine.engine import Engine
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.study.study import OF_FEW_SHOT, Study
from fewshot_bench.training.named_recipes import named_recipe

PROGRAM = "fewshot-bench"
NOT_RECORDED = Study.fields_where("section", "computing", "output")
"""Fields of a study that never change an outcome."""

_COUNTS = ("episodes", "runs")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
_PACKAGE = Path(fewshot_bench.__file__).parent
_PATIENCE = 10  # seconds for git to answer


def provenance(
    study: Study, backbone: Backbone, engine: Engine, arguments: Sequence[str] = (), *, place: str = ""
) -> dict[str, Any]:
    """The record of every cell of a network, by the keys that `docs/audit.md` explains.

    Args:
        study: that makes the cells.
        backbone: of these cells.
        engine: that computes them.
        arguments: of the command line that started it; none where it was started from Python.
        place: where own images lie; only the last part of an absolute path or a URL is recorded.
    """
    commit = source_commit()
    return {
        "commands": [command_line(arguments)] if arguments else [],
        "study": study_record(study),
        **({"images": without_folders(place)} if place else {}),
        **({"git_commit": commit} if commit else {}),
        "hardware": engine.call(hardware, engine.device),
        **({"engine": facts} if (facts := engine.facts()) else {}),
        "platform": platform_name(),
        "python": platform.python_version(),
        "pretraining": backbone.pretraining,
        **({"base_stage": dict(backbone.computing)} if backbone.computing else {}),
        **weights_record(study.weights, backbone),
    }


def weights_record(file: Path | None, backbone: Backbone) -> dict[str, Any]:
    """How a file of weights was fitted, to be recorded under "weights"; empty where there is nothing to say."""
    return {"weights": {"file": file.name, **backbone.fit}} if file is not None and backbone.fit else {}


def weights_note(recorded: Mapping[str, Any]) -> str:
    """How a file of weights was fitted, in one line; empty where `weights_record` recorded nothing."""
    fit = recorded.get("weights")
    words = fit_words(fit) if isinstance(fit, dict) else ""
    return f"weights {fit['file']}: {words}" if fit and words else ""


def command_line(arguments: Sequence[str]) -> str:
    """A command as one line for a shell, without absolute paths; the arguments come without the program's name."""
    return shlex.join([PROGRAM, *(without_folders(argument) for argument in arguments)])


def without_folders(text: str) -> str:
    """An argument with only the last part of an absolute path or a URL, whose rest may name a person or a machine.

    >>> without_folders("--weights=/home/me/mine.safetensors"), without_folders("s3://bucket/results")
    ('--weights=mine.safetensors', 'results')
    >>> without_folders("rfs-conv4,/home/me/mine.toml")
    'rfs-conv4,mine.toml'
    """
    if found := _URL.search(text):
        url = urlsplit(found[0])
        return text[: found.start()] + (PurePosixPath(url.path).name or f"{url.scheme}://")
    has_option = "=" in text and not _is_absolute(text)
    option, equals, value = text.partition("=") if has_option else ("", "", text)
    several = [value] if _is_absolute(value) else value.split(",")  # such as recipes, by name and by file
    names = [PureWindowsPath(each).name or each if _is_absolute(each) else each for each in several]
    return f"{option}{equals}{','.join(names)}"


def _is_absolute(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute() or path.startswith("~")


def study_record(study: Study) -> dict[str, Any]:
    """The fields of a study that decide what is done, as plain data.

    Files are recorded by their names, a recipe's with the digest of its content, since folders may name a person.
    """
    left_out = {*NOT_RECORDED, *study.later_defaults, "hyper_parameters"}
    if study.is_whole:  # base_losses names those of its training
        left_out |= {*OF_FEW_SHOT, "losses"}
    record: dict[str, Any] = study.model_dump(mode="json", exclude=left_out)
    record["hyper_parameters"] = dict(study.hyper_parameters)  # a method's card refuses other than plain data
    for name in _COUNTS:
        if name not in study.model_fields_set:  # left to the sampler, or to a rule that says when to stop
            record.pop(name, None)
    for name in ("weights", "dataset", "backbone", "root"):
        if isinstance(record.get(name), str):
            record[name] = without_folders(record[name])
    if study.recipe is not None and study.recipe.endswith(".toml"):
        record |= {"recipe": Path(study.recipe).name, "recipe_digest": named_recipe(study.recipe).digest}
    return record


def platform_name() -> str:
    """The system and the kind of processor, such as "Linux x86_64"."""
    return f"{platform.system()} {platform.machine()}"


def hardware(device: str) -> dict[str, Any]:
    """The kind of machine: device, processor, cores, bytes of memory, and TF32, as far as the system tells them."""
    where = torch.device(device)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else where.type
    found = {"device": name, "cpu": processor_name(), "cores": os.cpu_count(), "memory_bytes": _memory()}
    return {key: value for key, value in found.items() if value} | tf32(device)


def tf32(device: str) -> dict[str, str]:
    """What a device computes in TF32 instead of float32, by PyTorch's own settings, under "tf32"; empty for a CPU."""
    where = torch.device(device)
    if where.type != "cuda":
        return {}
    used = [name.replace("_", " ") for name, is_used in tf32_on(where)._asdict().items() if is_used]
    return {"tf32": ", ".join(used) or "nothing"}


class PeakMemory:
    """Peak memory of each method of a study, and of the study.

    A GPU is measured anew for every method. On a CPU the whole process is measured, so a method's peak is at least that
    of the methods before it.
    """

    def __init__(self, device: str) -> None:
        where = torch.device(device)
        self._device = where if where.type != "cuda" or torch.cuda.is_available() else torch.device("cpu")
        self._before = 0

    def start_method(self) -> None:
        """Count anew, where the device can."""
        self.note()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def note(self) -> None:
        """Keep the peak so far, before the counter is reset."""
        self._before = self.of_study()

    def of_method(self) -> int:
        """Bytes since the last start, or of the process."""
        return peak_bytes(self._device)

    def of_study(self) -> int:
        """Bytes since the study began, or of the process."""
        return max(self._before, peak_bytes(self._device))


@cache
def source_commit() -> str:
    """The commit of this project's source, with "-dirty" where its files differ; empty outside a checkout."""
    if _git("ls-files", "--error-unmatch", "--", "__init__.py") is None:
        return ""
    commit = _git("rev-parse", "HEAD")
    if commit is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit):
        return ""
    changes = _git("status", "--porcelain", "--", ".")
    return commit if changes == "" else f"{commit}-dirty"


def _git(*arguments: str) -> str | None:
    """The output of git in the package's folder; None where git is absent or fails."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "-C", str(_PACKAGE), *arguments],
            env={**inherited, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _memory() -> int:
    try:
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 0


def changed_code(store: OutcomeStore, cells: Sequence[Cell]) -> list[str]:
    """A sentence per part of methods whose code changed since cells were stored; cells with outcomes are skipped."""
    new = [cell for cell in cells if cell.method.code and not store.done(cell)]
    stored = store.cells() if new else []
    return list(dict.fromkeys(sentence for cell in new for sentence in _sentences(cell, stored)))


def _sentences(cell: Cell, stored: Sequence[Cell]) -> Iterator[str]:
    same = [other for other in stored if other.method.name == cell.method.name and other.protocol == cell.protocol]
    for part, code in cell.method.code.items():
        others = [other.method.code.get(part) for other in same]
        if others and code not in others:
            changes = what_changed(others[-1], code)
            yield (
                f"the code of {code['name']} has changed since {cell.method.name} was stored ({changes}). Its outcomes "
                "are those of a new method; the stored ones were not changed."
            )

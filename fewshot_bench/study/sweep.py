"""Plan a sweep: a grid of hyper-parameters of one method, each point a study on the validation split."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.adaptation import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.datasets import Dataset
from fewshot_bench.devices import chosen_device
from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.losses import EXTRA_SETTINGS, LOSSES, readings_of, takes
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.cell import STANDARD_SAMPLER
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.registry import Entry
from fewshot_bench.report.names import value_text
from fewshot_bench.study.admission import admit_fields
from fewshot_bench.study.best_configuration import Value, swept_fields
from fewshot_bench.study.checkpoints import checkpoint_file, read_checkpoint
from fewshot_bench.study.known_names import GROUPS
from fewshot_bench.study.methods import hyper_parameters_of, planned_adaptations, refuse_contrast_without_effect
from fewshot_bench.study.resolved import ResolvedStudy, resolve_study
from fewshot_bench.study.study import SAMPLER_FIELDS, Study


@checked_arguments
@dataclass(frozen=True)
class Axis:
    """A hyper-parameter and the values to try, in order.

    Attributes:
        name: "lambda", "tau", "reading", another field of a study, or a hyper-parameter of the adaptation.
        values: at least one, all different.

    >>> import fewshot_bench as fb
    >>> fb.Axis("tau", (0.1, 0.5))
    Axis(name='tau', values=(0.1, 0.5))
    >>> fb.Axis("tau", (0.1, 0.1))
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: --grid tau takes different values such as tau=0.1,0.5, not '0.1,0.1'.
    """

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.replace("-", "_").rstrip("_"))
        if not self.values or len(set(self.values)) < len(self.values):
            listed = ",".join(str(value) for value in self.values[:9]) + ("" if len(self.values) < 10 else ",...")
            raise StudyError(f"--grid {self.name} takes different values such as {self.name}=0.1,0.5, not '{listed}'.")


@checked_arguments
@dataclass(frozen=True)
class Grid:
    """Every combination of the values of some axes; the last axis varies fastest.

    >>> import fewshot_bench as fb
    >>> grid = fb.Grid((fb.Axis("lambda", (0.5, 0.9)), fb.Axis("tau", (0.1, 0.5))))
    >>> len(grid), grid.points()[1]
    (4, {'lambda': 0.5, 'tau': 0.5})
    """

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise StudyError(f"{twice[0]} is in the grid twice; give all of its values in one --grid.")
        if len(self) > MOST_CELLS:
            sizes = " x ".join(f"{len(axis.values):,}" for axis in self.axes)
            raise StudyError(f"the grid has {sizes} = {len(self):,} points; at most {MOST_CELLS:,} are possible.")

    def __len__(self) -> int:
        return math.prod(len(axis.values) for axis in self.axes)

    def points(self) -> list[dict[str, Value]]:
        """The value on each axis, for every point in order."""
        names = [axis.name for axis in self.axes]
        combinations = itertools.product(*(axis.values for axis in self.axes))
        return [dict(zip(names, values, strict=True)) for values in combinations]


PAPER_GRID = Grid((Axis("lambda", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)), Axis("tau", (0.1, 0.3, 0.5, 0.7))))
"""The grid that the SCHaNe paper searches on the validation split."""


def check_names(names: Iterable[str], adaptation: str) -> None:
    """Check that every name can be varied.

    Raises:
        UnknownNameError: an axis is neither a field of a study nor a hyper-parameter of the adaptation, or the
            adaptation is unknown.
    """
    own = {name for name in hyper_parameters_of(adaptation) if not name.endswith("_") and name != "loss"}
    known = own | set(swept_fields())
    for name in names:
        if name not in known:
            raise UnknownNameError(f"hyper-parameter of {adaptation} or of a study", name, known)


def with_values(study: Study, values: Mapping[str, Value]) -> Study:
    """The study with other hyper-parameters, by the names of axes; raises StudyError if a value is refused."""
    fields = swept_fields()
    content: dict[str, Any] = study.model_dump(exclude_unset=True)
    content |= {fields[name]: value for name, value in values.items() if name in fields}
    others = {name: value for name, value in values.items() if name not in fields}
    content["hyper_parameters"] = {**study.hyper_parameters, **others}
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).rstrip("_")
        raise StudyError(f"{name} of the grid: {first['msg']}, not {first['input']!r}.") from error


def text_of(values: Mapping[str, Value]) -> str:
    """A point in words, e.g. "lambda 0.9, tau 0.5"."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())


_CONTRASTIVE = ("lambda", "tau", "reading", "stop_gradient", "anchors")
_NOT_OF_A_POINT = {*Study.fields_where("section", "computing", "output"), "episodes", "runs"}


@dataclass(frozen=True)
class Point:
    """A point of the grid.

    Attributes:
        values: by the name of the axis.
        study: what is run. With lambda = 0 the loss is cross-entropy alone, so points that differ only in how the
            contrast is taken share a study.
        key: digest of everything that decides the outcomes of the study's episodes, 16 hexadecimal digits.
    """

    values: dict[str, Value]
    study: Study
    key: str

    def __str__(self) -> str:
        return text_of(self.values)


@dataclass(frozen=True)
class Sweep:
    """A method, the grid of its hyper-parameters, and where the results go.

    Attributes:
        name: of the folder below RESULTS/sweeps.
        study: what all points share: one adaptation, one loss, at most one base loss, the validation split.
        grid: of the points.
        points: in the order of the grid.
        dataset: the name that the outcomes carry.
        dataset_fingerprint: of all its splits.
    """

    name: str
    study: Study
    grid: Grid
    points: tuple[Point, ...]
    dataset: str
    dataset_fingerprint: str

    @property
    def folder(self) -> Path:
        """The folder of the sweep."""
        assert isinstance(self.study.results, Path), "plan_sweep refuses URLs"
        return self.study.results / "sweeps" / self.name

    @property
    def store(self) -> OutcomeStore:
        """The outcomes of its points."""
        return OutcomeStore(self.folder / "outcomes")

    def distinct_points(self) -> list[Point]:
        """The first of the points that share a study, in the order of the grid."""
        return list({point.key: point for point in reversed(self.points)}.values())[::-1]


@checked_arguments
def plan_sweep(study: Study, grid: Grid = PAPER_GRID, *, name: str | None = None, progress: Progress = SILENT) -> Sweep:
    """Check everything that a user can get wrong before any time is spent, and lay out the points.

    Args:
        study: one adaptation, one loss, at most one base loss. Code that it names is imported, so it should be your
            own. Without base losses, a backbone without pretrained weights is trained with CE if the adaptation trains
            with the loss, and with the loss otherwise.
        grid: of the points.
        name: of the sweep's folder; by default made of dataset, backbone, base loss, adaptation and loss.
        progress: shown the import of a user's own images.

    Raises:
        FewshotBenchError: a name is unknown, a value is refused, an axis has no effect, the data is absent, or the
            protocol does not fit the validation split.
        OSError: the folder of the results cannot be written to.

    >>> from tempfile import TemporaryDirectory
    >>> import fewshot_bench as fb
    >>> grid = fb.Grid((fb.Axis("penalty", (0.1, 1.0, 10.0)),))
    >>> with TemporaryDirectory() as results:
    ...     sweep = fb.plan_sweep(fb.Study(adaptations=("ridge",), results=results), grid)
    >>> sweep.name, [str(point) for point in sweep.points]
    ('glyphs-conv4_32-base-ce-ridge', ['penalty 0.1', 'penalty 1', 'penalty 10'])
    """
    if study.is_whole:
        raise StudyError(
            "a sweep compares points on few-shot episodes of the validation split. Leave out protocol = full."
        )
    admit_fields(study.model_dump())
    study = study.model_copy(update={"split": "validation", "fractions": None, "baseline": None})
    _check_is_one_method(study)
    check_names([axis.name for axis in grid.axes], study.adaptations[0])
    _refuse_chosen_axes(study, grid)
    for values in grid.points():
        planned_adaptations(with_values(study, values))
    resolved = resolve_study(with_values(study, grid.points()[0]), progress=progress)
    dataset = resolved.dataset
    study = _with_base_losses(study, resolved)
    refuse_contrast_without_effect(study, study.base_losses or ())
    for axis in grid.axes:
        _refuse_axis_without_effect(axis.name, study, grid)
    chosen_device(study.device)
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_+@=,-][A-Za-z0-9_.+@=,-]*", name):
        raise StudyError(f"--name takes letters, digits and any of _.+@=,- and no folders, not '{name}'.")
    name = name or _default_name(study, dataset.name)
    if not isinstance(study.results, Path):
        raise StudyError(f"a sweep needs a folder, and {study.results} is a URL. Use a folder for --results.")
    folder = study.results / "sweeps" / name
    OutcomeStore(folder / "outcomes").check_folder()
    points = tuple(_point(study, values, grid, folder, dataset) for values in grid.points())
    return Sweep(name, study, grid, points, dataset.name, dataset.fingerprint)


def _check_is_one_method(study: Study) -> None:
    names_by_option = {
        "--adapt": study.adaptations,
        "--loss": study.losses,
        "--base-loss": study.base_losses or ("none",),
        "--checkpoint": ("none",) if study.checkpoints is None else study.checkpoints,
    }
    for option, names in names_by_option.items():
        if names and names[0] in GROUPS:
            raise StudyError(f"a sweep varies the settings of one method, and {names[0]} means several.")
        if len(names) != 1:
            raise StudyError(f"a sweep varies the settings of one method: {option} takes one name, not {len(names)}.")
    for loss in (*study.losses, *(study.base_losses or ())):
        LOSSES[loss]


def _refuse_chosen_axes(study: Study, grid: Grid) -> None:
    """Refuse a hyper-parameter that is both swept and chosen in each episode."""
    ways = next((axis.values for axis in grid.axes if axis.name == "choose"), (study.choose,))
    factory = ADAPTATIONS[study.adaptations[0]].factory
    tried = factory.grid if isinstance(factory, type) and issubclass(factory, EmbeddingAdaptation) else {}
    for axis in grid.axes:
        if axis.name in tried and set(ways) != {"none"}:
            raise StudyError(
                f"{axis.name} is both in the grid and chosen in each episode. Leave out --grid {axis.name}=..., or "
                "--choose."
            )


def _with_base_losses(study: Study, resolved: ResolvedStudy) -> Study:
    """The study with its base stage, at most one."""
    if study.checkpoints is not None:
        assert resolved.networks  # whose making says what is wrong before anything is run
        return study
    if study.base_losses is not None:
        return study
    losses: tuple[str, ...] = ()
    if not resolved.networks[0].start().is_pretrained:
        losses = ("ce",) if _trains_with_loss(study) else study.losses
    return study.model_copy(update={"base_losses": losses})


def _trains_with_loss(study: Study) -> bool:
    return "loss" in hyper_parameters_of(study.adaptations[0])


def _refuse_axis_without_effect(name: str, study: Study, grid: Grid) -> None:
    """Refuse an axis along which every point would be the same."""
    adaptation = study.adaptations[0]
    base = study.base_losses[0] if study.base_losses else None
    if name.startswith("base_") and base is None:
        raise StudyError(f"{name} acts nowhere in this sweep: there is no base stage. Add --base-loss ce+schane.")
    if name not in _CONTRASTIVE:
        return
    acts_in_episodes = "lambda_" in planned_adaptations(study)[0].hyper_parameters()
    acts_in_base = base is not None and bool(LOSSES[base].facts.get("is_contrastive", True))
    if not acts_in_episodes and not acts_in_base:
        stage = f"its base stage trains with {base}" if base else "there is no base stage"
        raise StudyError(
            f"{name} acts nowhere in this sweep: {adaptation} does not train with a contrastive loss, and {stage}. "
            "Add --base-loss ce+schane, or --adapt finetune-head --loss ce+schane, or name other hyper-parameters "
            "with --grid."
        )
    losses = dict.fromkeys([*(study.base_losses or ()), *(study.losses if _trains_with_loss(study) else ())])
    if name in EXTRA_SETTINGS and not any(takes(loss, name) for loss in losses):
        raise StudyError(f"{name} acts nowhere in this sweep: it does not belong to {' or '.join(losses)}.")
    if name == "reading" and not any(len(readings_of(loss)) > 1 for loss in losses):
        raise StudyError(
            f"reading acts nowhere in this sweep: {' and '.join(losses)} cannot be read in two ways. It belongs to "
            "ce+schane."
        )
    if name != "lambda" and study.lambda_ == 0 and "lambda" not in [axis.name for axis in grid.axes]:
        raise StudyError(f"{name} acts nowhere in this sweep: with --lambda 0 the loss is cross-entropy alone.")


def _point(study: Study, values: dict[str, Value], grid: Grid, folder: Path, dataset: Dataset) -> Point:
    run = with_values(study, values)
    if run.lambda_ == 0:  # cross-entropy alone, however the contrast is taken: such points share the first values
        run = with_values(run, {axis.name: axis.values[0] for axis in grid.axes if axis.name in _CONTRASTIVE[1:]})
    run = run.model_copy(update={"results": folder})
    return Point(values, run, _key(run, dataset.fingerprint))


def _key(study: Study, dataset_fingerprint: str) -> str:
    fields = study.model_dump(exclude=_NOT_OF_A_POINT | study.later_defaults)
    if study.sampler == STANDARD_SAMPLER:  # keys are as they were before there were others
        fields = {name: value for name, value in fields.items() if name not in SAMPLER_FIELDS}
    files = {name: _digest_of_file(value) for name, value in fields.items() if isinstance(value, Path)}
    content = {
        **_code(study),
        "study": fields | files,
        "trained": [_digest_of_file(checkpoint_file(name)) for name in study.checkpoints or ()],
        "dataset": dataset_fingerprint,
        "versions": installed_versions(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _code(study: Study) -> dict[str, Any]:
    """The records of the user's own code in a study, under "code"; empty if it has none."""
    losses = [*study.losses, *(study.base_losses or ())]
    entries: list[Entry[Any]] = [ADAPTATIONS[name] for name in study.adaptations] + [LOSSES[name] for name in losses]
    cards = [read_checkpoint(name).card for name in study.checkpoints or ()]
    networks = [card.backbone for card in cards] if study.checkpoints is not None else [study.backbone_name]
    entries += [BACKBONES[name] for name in networks if name in BACKBONES]
    records = [entry.code.as_record() for entry in entries if entry.code is not None]
    return {"code": records} if records else {}


def _digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _default_name(study: Study, dataset: str) -> str:
    """The dataset and the stages of the method, as in the method's name."""
    base = [f"base-{loss}" for loss in study.base_losses or ()]
    backbone = [study.backbone_name] if study.checkpoints is None else list(study.checkpoints)
    adaptation = planned_adaptations(study)[0]
    stages = [dataset, *backbone, *base, adaptation.stage, adaptation.name]
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", "-".join(stage for stage in stages if stage)).strip(".-")

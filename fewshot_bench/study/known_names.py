"""The names of adaptations, backbones and losses, without importing what they stand for.

A registry is filled by modules that import torch, which takes seconds. A misspelt name should not wait for that. A test
compares this list with the registries.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from fewshot_bench._io.locations import checkpoints_folder
from fewshot_bench.datasets import check_name
from fewshot_bench.errors import CodeNotTrustedError, StudyError, UnknownNameError
from fewshot_bench.registry import what_to_type
from fewshot_bench.study.study import Study
from fewshot_bench.training.recipe import refuse_unknown_choices

Kind = Literal["adaptation", "backbone", "loss"]

OWN_NAMES: dict[Kind, tuple[str, ...]] = {
    "adaptation": (
        "baseline++", "bd-cspn", "centroid", "classifier", "entropy", "finetune", "finetune-head", "ilpc", "knn",
        "knn-probe", "label-propagation", "laplacian-shot", "lda", "linear-probe", "logistic", "maml", "matching",
        "pt-map", "ridge", "simpleshot", "svm", "tim",
    ),
    "backbone": (
        "conv4_32",
        "conv4_64",
        "conv4_64_gap",
        "efficientnet_lite0",
        "efficientnet_lite1",
        "efficientnet_lite2",
        "resnet12",
        "resnet12_flat",
        "wrn28_10",
    ),
    "loss": ("ce", "ce+schane", "ce+simclr", "ce+supcon"),
}  # fmt: skip
"""The names that come with this package."""

GROUPS = ("all", "all-inductive", "all-transductive")
"""Groups of adaptations: heads on frozen embeddings."""

_ROOMS: dict[Kind, str] = {"adaptation": "adaptation", "backbone": "backbones", "loss": "losses"}
_GROUPS: dict[Kind, str] = {kind: f"fewshot_bench.{kind}{'es' if kind == 'loss' else 's'}" for kind in OWN_NAMES}
_TIMM = "timm:"
_MODEL = re.compile(r"@register_model\s+def (\w+)\(")


def refuse_misspelt(kind: Kind, name: str) -> None:
    """Raise UnknownNameError for a name of a kind that no registry can know; names of code are left to it."""
    if f"fewshot_bench.{_ROOMS[kind]}" in sys.modules:  # the registry is loaded, and decides
        return
    known = known_names(kind)
    if name in known:
        return
    if kind == "backbone" and (name.startswith(_TIMM) or ":" not in name):
        model = name.removeprefix(_TIMM).partition(".")[0]  # what follows a dot names weights of the model
        if _timm_may_know(model):
            return
        if name.startswith(_TIMM):
            raise UnknownNameError("timm model", model, timm_models())
    if ":" not in name:
        answer = what_to_type(name) if kind == "adaptation" else ""
        raise UnknownNameError(kind, name, known, answer=answer)


def refuse_misspelt_study(study: Study) -> None:
    """Raise UnknownNameError for a study with an impossible name, before heavy imports."""
    _refuse_misspelt_dataset(study.dataset)
    if study.backbone is None:  # naming both is another error
        for checkpoint in study.checkpoints or ():
            _refuse_missing(checkpoint)
    if study.backbone is not None:
        refuse_misspelt("backbone", study.backbone)
    for adaptation in study.adaptations:
        refuse_misspelt("adaptation", adaptation)
    for loss in (*study.losses, *(study.base_losses or ())):
        refuse_misspelt("loss", loss)


def refuse_misspelt_training(dataset: str, backbone: str | None, loss: str | None, settings: Mapping[str, Any]) -> None:
    """Refuse a training with a name that cannot exist.

    Args:
        dataset: as it was typed, as are the others.
        backbone: its name, if given.
        loss: its name, if given.
        settings: of the recipe.

    Raises:
        UnknownNameError: a name is not known.
        StudyError: a setting does not take a word.
    """
    _refuse_misspelt_dataset(dataset)
    if backbone is not None:
        refuse_misspelt("backbone", backbone)
    if loss is not None:
        refuse_misspelt("loss", loss)
    refuse_unknown_choices(settings)


def refuse_misspelt_networks(dataset: str, networks: Iterable[str]) -> None:
    """Refuse the names of a dataset, of backbones and of checkpoints that cannot exist, before heavy imports.

    Raises:
        UnknownNameError: a name is not known.
    """
    _refuse_misspelt_dataset(dataset)
    for name in networks:
        if name in finished_names():
            if name in known_names("backbone"):
                raise StudyError(
                    f"{name} is a backbone and a checkpoint. Rename the file {checkpoints_folder() / name}.safetensors."
                )
            continue
        try:
            refuse_misspelt("backbone", name)
        except UnknownNameError as error:
            if name.startswith(_TIMM):
                raise
            known = [*known_names("backbone"), *finished_names()]
            raise UnknownNameError("backbone or checkpoint", name, known) from error


def finished_names() -> list[str]:
    """The names of the checkpoints."""
    stems = [path.stem for path in checkpoints_folder().glob("*.safetensors") if not path.name.startswith(".")]
    return sorted(stem for stem in stems if not stem.endswith(".state"))


def _refuse_misspelt_dataset(name: str) -> None:
    with suppress(CodeNotTrustedError):  # decided where the code would be imported
        check_name(name)


def _refuse_missing(checkpoint: str) -> None:
    """Refuse a checkpoint that does not exist and is not being trained; the reader refuses what cannot be a name."""
    if "/" in checkpoint or "\\" in checkpoint or not checkpoint:
        return
    folder = checkpoints_folder()
    if any((folder / f"{checkpoint}{end}").is_file() for end in (".safetensors", ".state.safetensors")):
        return
    raise UnknownNameError("checkpoint", checkpoint, finished_names(), "See: fewshot-bench train --help")


def known_names(kind: Kind) -> list[str]:
    """The names that come with this package, and those of entry points, without loading them."""
    groups = GROUPS if kind == "adaptation" else ()
    return sorted({*OWN_NAMES[kind], *groups, *(point.name for point in entry_points(group=_GROUPS[kind]))})


@cache
def timm_models() -> tuple[str, ...]:
    """The models that the source of timm registers, sorted."""
    return tuple(sorted({name for text in _timm_sources() for name in _MODEL.findall(text)}))


def _timm_may_know(model: str) -> bool:
    """Whether timm has or had a model of that name; true if its source cannot be read."""
    if not timm_models() or model in timm_models():
        return True
    if not model:
        return False
    former = re.compile(rf"""['"]{re.escape(model)}['"]\s*:""")  # a key of a table of former names
    return any(former.search(text) for text in _timm_sources())


def _timm_sources() -> Iterator[str]:
    spec = find_spec("timm")
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        for path in sorted(Path(folder, "models").glob("*.py")):
            yield path.read_text(encoding="utf-8", errors="replace")

"""Which datasets are present, what is missing, and what to type next."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_bench._io.locations import datasets_folder
from fewshot_bench.datasets.catalogue import (
    BENCHMARKS,
    DATASETS,
    download_command,
    import_command,
    is_available,
    known_dataset,
)
from fewshot_bench.datasets.dataset import by_reason, clutter_lines, left_out_lines, preprocessing_line
from fewshot_bench.datasets.importing import layouts_at
from fewshot_bench.datasets.own_images import OwnOptions, list_own_images
from fewshot_bench.datasets.own_tables import HUGGING_FACE_PREFIX
from fewshot_bench.datasets.store import (
    damaged_splits,
    is_stored,
    open_stored,
    read_description,
    stored_bytes,
    stored_names,
)
from fewshot_bench.datasets.torchvision_sets import TORCHVISION_PREFIX
from fewshot_bench.errors import DatasetError, UnknownNameError
from fewshot_bench.units import bytes_text

_MOST_EXAMPLES = 3
_MOST_REASONS = 20


@dataclass
class Diagnosis:
    """Findings in the order in which a person wants them: a heading and a sentence each.

    Attributes:
        subject: the dataset or path.
        findings: heading and sentence.
        next_commands: what to type.
        is_damaged: whether stored files are damaged.
        facts: the same for programs.
    """

    subject: str
    findings: list[tuple[str, str]] = field(default_factory=list)
    next_commands: list[str] = field(default_factory=list)
    is_damaged: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def dataset_rows() -> list[dict[str, Any]]:
    """Every dataset that has a name, with its state and its size on disk."""
    names = [*DATASETS.names(), *(name for name in stored_names() if name not in DATASETS)]
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name, "state": "not here", "bytes": 0, "images": 0, "recipe": ""}
        if is_stored(name):
            row |= {"state": "ready", "bytes": stored_bytes(name)}
            try:
                open_stored(name)
                description = read_description(name)
                row["images"] = sum(sum(facts["class_sizes"]) for facts in description["splits"].values())
                row["recipe"] = preprocessing_line(description["recipe"])
            except (DatasetError, KeyError, TypeError):
                row["state"] = "damaged"
        elif is_available(name):
            row["state"] = "built in"
        rows.append(row)
    return rows


def check_everything(*, deep: bool = False) -> list[Diagnosis]:
    """Check every dataset that has a name; a damaged one does not keep the others from being checked."""
    diagnoses = []
    for row in dataset_rows():
        try:
            diagnoses.append(check_dataset(row["name"], deep=deep))
        except DatasetError as error:
            diagnoses.append(
                Diagnosis(row["name"], [("damaged", str(error))], is_damaged=True, facts={"state": "damaged"})
            )
    return diagnoses


def check_dataset(name: str, *, deep: bool = False) -> Diagnosis:
    """Check a dataset by name.

    Args:
        name: a registered or imported dataset.
        deep: whether to read every byte and compare it with what was stored.

    Raises:
        UnknownNameError: no dataset has that name.
        DatasetError: what is stored is damaged.
    """
    if name not in DATASETS and not is_stored(name):
        raise UnknownNameError("dataset", name, {*DATASETS.names(), *stored_names()}, "A folder of your own is ./NAME.")
    diagnosis = Diagnosis(name)
    if name in DATASETS and DATASETS[name].facts.get("is_built_in"):
        known_dataset(name)
    if is_stored(name):
        _describe_stored(name, diagnosis)
        if deep:
            _compare_bytes(name, diagnosis)
        split = "" if known_dataset(name).is_few_shot else " --split test"
        diagnosis.next_commands.append(f"fewshot-bench run --dataset {name}{split}")
    else:
        diagnosis.findings.append(("state", f"not here; it would be in {datasets_folder() / name}"))
        diagnosis.facts["state"] = "not here"
        if name in BENCHMARKS:
            diagnosis.findings.append(("obtain", BENCHMARKS[name].what_to_obtain))
        diagnosis.next_commands += [command for command in (download_command(name), import_command(name)) if command]
    if name in BENCHMARKS:
        diagnosis.findings.append(("terms", BENCHMARKS[name].terms))
        diagnosis.facts["terms"] = BENCHMARKS[name].terms
    return diagnosis


def _describe_stored(name: str, diagnosis: Diagnosis) -> None:
    dataset = known_dataset(name)
    description = read_description(name)
    size = stored_bytes(name)
    diagnosis.findings.append(("state", f"ready in {datasets_folder() / name}, {bytes_text(size)}"))
    for split, images in dataset.splits.items():
        shape = " x ".join(map(str, images.images.shape[1:]))
        text = f"{len(images.class_names):>4} classes {len(images):>9,} images {shape}"
        smallest, largest = min(images.class_sizes), max(images.class_sizes)
        diagnosis.findings.append((split, f"{text}, {smallest:,} to {largest:,} a class"))
    diagnosis.findings.append(("pixels", preprocessing_line(description["recipe"])))
    known = {
        "pixels": "by their pixels",
        "names": "by their official names",
        "ranks": "only by their rank in this copy, which keeps no names",
    }
    diagnosis.findings.append(("images", f"known {known[dataset.identified_by]}"))
    diagnosis.findings.append(("fingerprint", dataset.fingerprint))
    _describe_duplicates(description["duplicates"], diagnosis)
    diagnosis.findings += [("left out", line) for line in left_out_lines(description["recipe"])[:_MOST_REASONS]]
    diagnosis.findings += [("note", warning) for warning in description["recipe"].get("warnings", [])]
    diagnosis.facts |= {
        "state": "ready",
        "bytes": size,
        "fingerprint": dataset.fingerprint,
        "identity": dataset.identity,
        "splits": {split: {"classes": len(s.class_names), "images": len(s)} for split, s in dataset.splits.items()},
        "recipe": description["recipe"],
        "duplicates": description["duplicates"],
    }


def _describe_duplicates(found: dict[str, Any], diagnosis: Diagnosis) -> None:
    if not found["exact"] and not found["near"]:
        diagnosis.findings.append(("duplicates", "no image lies in two splits"))
    for kind, meaning in (("exact", "images have equals in another split"), ("near", "pairs of images look alike")):
        if found[kind]:
            pairs = ", ".join(f"{a} = {b}" for a, b in found[f"{kind}_pairs"][:_MOST_EXAMPLES])
            more = ", for example" if len(found[f"{kind}_pairs"]) > _MOST_EXAMPLES else ""
            diagnosis.findings.append(("duplicates", f"{found[kind]:,} {meaning}{more}: {pairs}"))

    if found.get("across_classes"):
        first, second = found["class_pairs"][0]
        diagnosis.findings.append(
            ("", f"{found['across_classes']:,} images have equals in another class, for example: {first} = {second}")
        )
    if found["within_splits"]:
        diagnosis.findings.append(("", f"{found['within_splits']:,} images have equals in their own split"))


def _compare_bytes(name: str, diagnosis: Diagnosis) -> None:
    damaged = damaged_splits(name)
    diagnosis.facts["damaged_splits"] = damaged
    if damaged:
        raise DatasetError(
            f"the {' and '.join(damaged)} split of {name} in {datasets_folder() / name} is no longer what was stored: "
            f"its bytes have changed on the disk. Import it again with: fewshot-bench data import {name} --from PATH "
            "--replace"
        )
    diagnosis.findings.append(("bytes", "every one as it was stored"))


def check_place(place: Path | str, own: OwnOptions | None = None) -> Diagnosis:
    """Check what might be a dataset: a folder, a file, or one of Hugging Face or torchvision by its name.

    Raises:
        DatasetError: it is missing, damaged or hostile.
    """
    path = str(place)
    diagnosis = Diagnosis(path)
    with ExitStack() as stack:
        found = [] if path.startswith((HUGGING_FACE_PREFIX, TORCHVISION_PREFIX)) else layouts_at(Path(path), stack)
        for layout in found:
            more = f" and {len(layout.missing) - 5} more" if len(layout.missing) > 5 else ""
            state = f"missing: {', '.join(layout.missing[:5])}{more}" if layout.missing else "complete"
            diagnosis.findings += [
                ("layout", f"{layout.layout}, in {layout.place}"),
                ("files", state),
                ("gives", " or ".join(layout.datasets)),
                *(("terms", terms) for terms in {BENCHMARKS[name].terms for name in layout.datasets}),
            ]
            if not layout.missing:
                commands = [f"fewshot-bench data import {name} --from {path}" for name in layout.datasets]
                diagnosis.next_commands += [command for command in commands if command not in diagnosis.next_commands]
        if found and not diagnosis.next_commands:
            diagnosis.next_commands.append(f"add what is missing, then: fewshot-bench data check {path}")
        diagnosis.facts["layouts"] = [
            {
                "layout": layout.layout,
                "place": str(layout.place),
                "datasets": layout.datasets,
                "missing": layout.missing,
            }
            for layout in found
        ]
    if not found:
        _describe_own_images(path, own or OwnOptions(), diagnosis)
    return diagnosis


def _describe_own_images(path: str, own: OwnOptions, diagnosis: Diagnosis) -> None:
    with ExitStack() as stack:
        listing = list_own_images(path, stack, own)
    diagnosis.findings.append(("layout", f"not a benchmark; {listing.kind} of your own"))
    for split, classes in listing.classes.items():
        sizes = [len(images) for images in classes.values()]
        counts = f"{len(sizes)} classes, {sum(sizes):,} images, {min(sizes):,} to {max(sizes):,} a class"
        diagnosis.findings.append((split or "no splits", counts))
    reasons = by_reason((image.name, image.reason) for image in listing.skipped)
    clutter = clutter_lines(Counter(sorted(listing.clutter.values())))
    diagnosis.findings += [("left out", line) for line in [*reasons[:_MOST_REASONS], *clutter]]
    diagnosis.findings += [("note", note) for note in listing.notes]
    diagnosis.facts["own_images"] = {
        str(split or "all"): {name: len(images) for name, images in classes.items()}
        for split, classes in listing.classes.items()
    }
    names = [name for classes in listing.classes.values() for name in classes]
    shares = " --split test" if len(set(names)) < len(names) else ""
    options = "" if own.class_depth is None else f" --class-depth {own.class_depth}"
    options += "" if own.layout == "auto" else f" --layout {own.layout}"
    options += "" if own.root is None else f" --root {own.root}"
    diagnosis.next_commands.append(f"fewshot-bench run --dataset {path}{shares}{options}")
    if shares:
        diagnosis.findings.append(("note", "the splits share classes; --split 0.6,0.2,0.2 divides the classes instead"))

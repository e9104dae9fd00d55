"""A cell: one method on one protocol, described so fully that equal descriptions mean equal outcomes.

The annotations of the cards say what cell.json may hold. Constructing a card checks none of them; reading and writing a
description checks all. Method and protocol decide what the outcomes are, so each of their values must be valid. The
rest is recorded beside them: an invalid value there counts as not recorded.
"""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, Strict, TypeAdapter, ValidationError

from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import (
    LARGEST_CLASS,
    LARGEST_SEED,
    LARGEST_SIZE,
    LARGEST_TASK,
    LARGEST_WAY,
    MOST_CLASSES,
    WHOLE_SAMPLER,
    task_size,
)
from fewshot_bench.outcomes.schema import (
    LARGEST_COUNT,
    NAME_RULE,
    Count,
    Flag,
    Plain,
    PlainMapping,
    Settings,
    Text,
    is_name,
    is_plain,
    problem,
    read_mapping,
    refusal,
)

FORMAT = 2
"""Of cell.json and the parts beside it; raised when older releases would misread them. Absent means 1."""
FORMAT_OF_WHOLE = 3
"""Of cells of whole splits, which older releases cannot read."""
LARGEST_DESCRIPTION = 8_000_000
"""Bytes of a cell.json."""
CLAIMED_SAMPLER = "claimed"
"""The sampler of a protocol whose episodes a file claims: see `claimed`."""
STANDARD_SAMPLER = "standard"
TRANSDUCTIVE = " (transductive)"
"""What follows the name of a transductive method wherever people read it."""
_OMITTED_WHERE_EMPTY = ("code", "assumes_balanced_queries")
_SAMPLERS_WITH_EVEN_QUERIES = (STANDARD_SAMPLER, "disjoint", "varied")
_LARGEST_FORMAT = 1_000_000
_MOST_ENTRIES = 10_000  # of each mapping in cell.json
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,40}")
_Size = Annotated[int, Strict(), Field(ge=1, le=LARGEST_SIZE)]
_ClassSize = Annotated[int, Strict(), Field(ge=1, le=LARGEST_CLASS)]


class NewerFormatError(OutcomeError):
    """A description has a format that only a later release knows."""


def marked(name: str, is_transductive: bool) -> str:
    """A method's name as people should read it.

    >>> marked("conv4/tim", True)
    'conv4/tim (transductive)'
    """
    return f"{name}{TRANSDUCTIVE}" if is_transductive else name


def whole_task(dataset: str, split: str) -> str:
    """The name of the task of classifying all images of a split.

    >>> whole_task("cifar-100", "test")
    'cifar-100 whole test split'
    """
    return f"{dataset} whole {split} split"


@dataclass(frozen=True)
class MethodCard:
    """What was done with each episode.

    Attributes:
        name: what people call the method; not part of its identity.
        backbone: name of the network.
        weights: digest of the network's weights.
        adaptation: name of the adaptation.
        hyper_parameters: everything that was chosen, as numbers, text, lists and mappings.
        is_transductive: whether queries may inform each other's predictions.
        code: a record of `CodeIdentity` for each part that is a user's own code, such as "adaptation".
        assumes_balanced_queries: whether the predictions rely on equally many queries per class.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Text
    backbone: Text
    weights: Text
    adaptation: Text
    hyper_parameters: PlainMapping = field(default_factory=dict, hash=False)
    is_transductive: Flag = False
    code: PlainMapping = field(default_factory=dict, hash=False)
    assumes_balanced_queries: Flag = False

    def __post_init__(self) -> None:
        # A round trip through JSON turns tuples into lists, so that a card equals itself after reading it back.
        object.__setattr__(self, "hyper_parameters", _plain(self.hyper_parameters, self.name))
        object.__setattr__(self, "code", _plain(self.code, self.name))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything but the name; the fields that older cards lack are omitted where empty."""
        return _digest({key: value for key, value in self.as_dict().items() if key != "name"})

    def as_dict(self) -> dict[str, Any]:
        """All fields by name; code and the assumption about queries only where set."""
        return {name: value for name, value in asdict(self).items() if value or name not in _OMITTED_WHERE_EMPTY}

    @property
    def label(self) -> str:
        """The name with the start of the fingerprint, to tell methods of one name apart."""
        return f"{self.name}#{self.fingerprint[:8]}"

    @property
    def marked_name(self) -> str:
        """The name as people should read it: a transductive method says so."""
        return marked(self.name, self.is_transductive)


@dataclass(frozen=True)
class ProtocolCard:
    """Everything that decides what episode i of run r is. The number of episodes does not.

    Attributes:
        dataset: its name.
        dataset_fingerprint: digest of its pixels.
        split: "base", "validation" or "novel"; "train", "validation" or "test" where the splits share their classes.
        way: N.
        shot: K; 0 for a whole split.
        query: Q, queries per class; 0 if the episodes are claimed, 1 in all for a whole split.
        seed: of the episodes.
        sampler_version: of the sampler.
        sampler: "standard" draws each task from the whole split; a file claims the tasks of "claimed"; the episodes of
            "whole" are the images of the split, one query each.
        sampler_settings: options of the other samplers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    dataset: Text
    dataset_fingerprint: Text
    split: Text
    way: Annotated[int, Strict(), Field(ge=1, le=LARGEST_WAY)]
    shot: Annotated[int, Strict(), Field(ge=0, le=LARGEST_SIZE)]
    query: Annotated[int, Strict(), Field(ge=0, le=LARGEST_SIZE)]
    seed: Annotated[int, Strict(), Field(ge=-LARGEST_SEED, le=LARGEST_SEED)]
    sampler_version: _Size
    sampler: Text = STANDARD_SAMPLER
    sampler_settings: Settings = field(default_factory=dict, hash=False)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all fields but those of the standard sampler, which older cards lack."""
        fields = asdict(self)
        if self.sampler == STANDARD_SAMPLER and not self.sampler_settings:
            del fields["sampler"], fields["sampler_settings"]
        return _digest(fields)

    @property
    def has_even_queries(self) -> bool:
        """Whether every class of an episode has Q queries, so that predictions alone show which are correct."""
        return self.sampler in _SAMPLERS_WITH_EVEN_QUERIES

    @property
    def is_claimed(self) -> bool:
        """Whether only a file says which episodes these are, so that nothing can verify it."""
        return self.sampler == CLAIMED_SAMPLER

    @property
    def is_whole(self) -> bool:
        """Whether the episodes are all images of a split, each classified among all classes."""
        return self.sampler == WHOLE_SAMPLER

    @property
    def format(self) -> int:
        """Of cell.json and the parts beside it."""
        return FORMAT_OF_WHOLE if self.is_whole else FORMAT

    @property
    def queries_per_episode(self) -> range:
        """How many queries an episode can have: one number, or several where the way varies.

        Test membership only, and never list it: a stranger's file may decide how long it is.
        """
        if self.is_whole:
            return range(1, 2)
        least_way = self.sampler_settings.get("least_way", self.way)
        smallest = least_way if isinstance(least_way, int) else self.way
        return range(smallest * self.query, self.way * self.query + 1, max(1, self.query))

    @property
    def task(self) -> str:
        """The dataset and the size of its tasks, e.g. "cifar-fs 5-way 1-shot" or "cifar-100 whole test split"."""
        if self.is_whole:
            return whole_task(self.dataset, self.split)
        split = "" if self.split == "novel" else f" ({self.split} split)"
        sampler = "" if self.sampler == STANDARD_SAMPLER else f" {self.sampler}"
        if self.is_claimed:
            sampler += f" ({self.sampler_settings.get('tasks', '')})"
        return f"{self.dataset}{split} {self.way}-way {self.shot}-shot{sampler}"


def _check_protocol(protocol: ProtocolCard) -> ProtocolCard:
    """Check the values of a protocol that depend on each other."""
    settings = protocol.sampler_settings
    if protocol.is_claimed:
        tasks = settings.get("tasks")
        if len(settings) != 1 or not isinstance(tasks, str) or not is_name(tasks):
            raise refusal(f"should be tasks, {NAME_RULE}", settings, "sampler_settings")
    elif protocol.is_whole:
        for name, expected in {"shot": 0, "query": 1, "seed": 0, "sampler_settings": {}}.items():
            if (found := getattr(protocol, name)) != expected:
                raise refusal(f"should be {expected} for a whole split", found, name)
        if protocol.way < 2:
            raise refusal("should be 2 or more", protocol.way, "way")
    elif protocol.query < 1:
        raise refusal("should be 1 or more", protocol.query, "query")
    if protocol.shot < 1 and not protocol.is_whole:
        raise refusal("should be greater than or equal to 1", protocol.shot, "shot")
    if task_size(protocol.way, protocol.shot, protocol.query, protocol.sampler) > LARGEST_TASK:
        sizes = {name: getattr(protocol, name) for name in ("way", "shot", "query")}
        raise refusal(f"should have at most {LARGEST_TASK:,} images of an episode", sizes)
    least_way = settings.get("least_way", protocol.way)
    if "least_way" in settings and not (type(least_way) is int and 2 <= least_way <= protocol.way):
        raise refusal(f"should be a whole number from 2 to {protocol.way}", least_way, "sampler_settings", "least_way")
    return protocol


class _StoppingRule(BaseModel):
    """What `study.until` records of a rule."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain] = Field(init=False)

    half_width: Annotated[float, Strict(), Field(gt=0, le=100)]
    episodes_between_looks: Count = 1
    max_episodes: Count = 1
    rule: Text = ""


class _Provenance(BaseModel):
    """The provenance that this release reads; later ones may record more."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Plain] = Field(init=False)

    commands: Annotated[list[Text], Strict(), FailFast()] = []
    study: PlainMapping = {}
    git_commit: Text = ""
    hardware: PlainMapping = {}
    platform: Text = ""
    python: Text = ""
    pretraining: Text = ""
    peak_bytes: Annotated[int, Strict(), Field(ge=0, le=LARGEST_COUNT)] = 0
    continued: Annotated[list[PlainMapping], Strict(), FailFast()] = []
    stopping: Annotated[list[_StoppingRule], Strict(), FailFast()] = []


def _check_provenance(values: dict[str, Any]) -> dict[str, Any]:
    _Provenance.model_validate(values)
    return values


@dataclass(frozen=True, repr=False)
class Cell:
    """One method on one protocol.

    Attributes:
        method: what was done.
        protocol: with which episodes.
        versions: of the packages that can change a result; recorded, but not part of the identity.
        dataset_recipe: how the images were made; recorded, since the fingerprint is the identity.
        class_sizes: images per class of the split, in canonical order, [C]; with the protocol they say which images
            are in which episode, so that statistics over classes need no images. Empty if not recorded.
        provenance: how the outcomes were made, as plain data: the command line, the study's fields, the git commit,
            the hardware, the backbone's pretraining.
        class_names: of the split, in canonical order, [C]; empty if not recorded.
    """

    method: MethodCard
    protocol: Annotated[ProtocolCard, AfterValidator(_check_protocol)]
    versions: Annotated[dict[Text, Text], Strict()] = field(default_factory=dict, hash=False)
    dataset_recipe: Annotated[dict[Text, Plain], Strict()] = field(default_factory=dict, hash=False)
    class_sizes: Annotated[tuple[_ClassSize, ...], Field(max_length=MOST_CLASSES), FailFast()] = field(
        default=(), hash=False
    )
    provenance: Annotated[dict[str, Any], Strict(), AfterValidator(_check_provenance)] = field(
        default_factory=dict, hash=False
    )
    class_names: Annotated[tuple[Text, ...], Field(max_length=MOST_CLASSES), FailFast()] = field(default=(), hash=False)

    def __repr__(self) -> str:
        return f"<Cell {self.key}: {self.method.marked_name}, {self.protocol.task}>"

    def _repr_html_(self) -> str:
        facts = {"tasks": self.protocol.task, "backbone": self.method.backbone, "adaptation": self.method.adaptation}
        return html_facts(f"{self.method.marked_name} ({self.key})", facts | self.method.hyper_parameters)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the cell's folder."""
        return hashlib.sha256(f"{self.method.fingerprint} {self.protocol.fingerprint}".encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """The content of cell.json, as plain data."""
        return {**asdict(self), "method": self.method.as_dict(), "format": self.protocol.format}

    def as_json(self) -> str:
        """The content of cell.json."""
        return description_as_json(self.as_dict())

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Read cell.json; raises OutcomeError for an invalid identity, while other invalid values are not recorded."""
        return read_description(text).cell


_CELL = TypeAdapter(Cell)


@dataclass(frozen=True)
class Description:
    """What a cell.json says.

    Attributes:
        cell: without what is ignored.
        content: everything in the file.
        ignored: what counts as not recorded because it is invalid: its keys, and what is wrong with it.
    """

    cell: Cell
    content: dict[str, Any]
    ignored: dict[tuple[str, ...], str]


def description_as_json(content: Mapping[str, Any]) -> str:
    """The text of a cell.json with this content."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read_description(text: str) -> Description:
    """Read the content of cell.json as data.

    Raises:
        NewerFormatError: a later release wrote it.
        OutcomeError: it is not a description, or a value of the method or the protocol is missing, unknown or invalid.
    """
    content = read_mapping(text)
    _check_format(content)
    valid: dict[str, Any] = {}
    for name, value in content.items():
        valid[name] = dict(value) if isinstance(value, dict) else value
        if isinstance(value, dict) and len(value) > _MOST_ENTRIES:  # each might become an error
            raise OutcomeError(f"{name[:40]!r} should have at most {_MOST_ENTRIES:,} entries, not {len(value):,}")
    ignored: dict[tuple[str, ...], str] = {}
    while True:
        try:
            return Description(_CELL.validate_python(valid), content, ignored)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False)
            fatal = next((details for details in errors if details["loc"][0] in ("method", "protocol")), None)
            if fatal is not None:
                raise OutcomeError(problem(fatal)) from error
            found: dict[tuple[str, ...], str] = {}
            for details in errors:
                name, *keys = map(str, details["loc"])
                is_entry = keys and isinstance(valid[name], dict) and keys[0] in valid[name]
                found.setdefault((name, keys[0]) if is_entry else (name,), problem(details))
            for path in found:
                valid[path[0]].pop(path[1]) if len(path) == 2 else valid.pop(path[0])
            ignored |= found


def _check_format(content: Mapping[str, Any]) -> None:
    found = content.get("format", 1)
    if type(found) is not int or not 1 <= found <= _LARGEST_FORMAT:
        raise OutcomeError(f"format should be a whole number from 1 to {_LARGEST_FORMAT:,}, not {reprlib.repr(found)}")
    if found > FORMAT_OF_WHOLE:
        versions = content.get("versions")
        version = versions.get("fewshot-bench") if isinstance(versions, dict) else None
        newest = version.split(" and ")[-1] if isinstance(version, str) else ""
        wanted = f"fewshot-bench {newest}" if _VERSION.fullmatch(newest) else "the newest fewshot-bench"
        raise NewerFormatError(
            f"was written by a newer fewshot-bench (format {found}; this one reads up to {FORMAT_OF_WHOLE}). Install "
            f"{wanted} or later to use it. Nothing was changed."
        )


def _plain(hyper_parameters: Mapping[str, Any], method: str) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(hyper_parameters, allow_nan=False))
        finding = "" if is_plain(plain) else "they are nested too deeply, or hold text that is not Unicode"
    except (TypeError, ValueError, RecursionError) as error:
        finding = str(error)
    if finding:
        raise OutcomeError(
            f"hyper-parameters of {method} must be finite numbers, text, lists and mappings to be recorded: {finding}."
        )
    return plain


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

"""A cell: one method on one protocol, described so fully that equal descriptions mean equal outcomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes.cell_schema import CLAIMED_SAMPLER, FORMAT, description_as_json, is_plain, read_description

STANDARD_SAMPLER = "standard"
_LEFT_OUT_WHERE_EMPTY = ("code", "assumes_balanced_queries")
"""Fields of a method that older cards do not have."""
TRANSDUCTIVE = " (transductive)"
"""What stands behind the name of a transductive method wherever people read it."""
_WITH_EVEN_QUERIES = (STANDARD_SAMPLER, "disjoint", "varied")


def marked(name: str, is_transductive: bool) -> str:
    """A method's name as people should read it.

    >>> marked("conv4/tim", True)
    'conv4/tim (transductive)'
    """
    return f"{name}{TRANSDUCTIVE}" if is_transductive else name


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
        code: of the parts that are somebody's own code, by what they are to the method, such as "adaptation": records
            of `CodeIdentity`. Empty for a method that this project and its dependencies make.
        assumes_balanced_queries: whether the predictions rest on every class having as many queries as the others.
    """

    name: str
    backbone: str
    weights: str
    adaptation: str
    hyper_parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    is_transductive: bool = False
    code: dict[str, Any] = field(default_factory=dict, hash=False)
    assumes_balanced_queries: bool = False

    def __post_init__(self) -> None:
        # A round trip through JSON turns tuples into lists, so that a card equals itself after reading it back.
        object.__setattr__(self, "hyper_parameters", _plain(self.hyper_parameters, self.name))
        object.__setattr__(self, "code", _plain(self.code, self.name))

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything but the name; what older cards do not have is left out where it says nothing."""
        return _digest({key: value for key, value in self.as_dict().items() if key != "name"})

    def as_dict(self) -> dict[str, Any]:
        """All fields by name; code and an assumption about the queries only where there is one."""
        return {name: value for name, value in asdict(self).items() if value or name not in _LEFT_OUT_WHERE_EMPTY}

    @property
    def label(self) -> str:
        """The name with the start of the fingerprint, for when two methods share a name."""
        return f"{self.name}#{self.fingerprint[:8]}"

    @property
    def marked_name(self) -> str:
        """The name as people should read it: a transductive method says so."""
        return marked(self.name, self.is_transductive)


@dataclass(frozen=True)
class ProtocolCard:
    """Everything that decides what episode i of run r is; how many there are does not.

    Attributes:
        dataset: its name.
        dataset_fingerprint: digest of its pixels.
        split: "base", "validation" or "novel".
        way: N.
        shot: K.
        query: Q, queries per class; 0 where the episodes are claimed.
        seed: of the episodes.
        sampler_version: of the sampler.
        sampler: which guarantee the tasks have; "standard" draws every task anew from the whole split, and of "claimed"
            ones only a file says which they are.
        sampler_settings: what the other samplers can be told.
    """

    dataset: str
    dataset_fingerprint: str
    split: str
    way: int
    shot: int
    query: int
    seed: int
    sampler_version: int
    sampler: str = STANDARD_SAMPLER
    sampler_settings: dict[str, Any] = field(default_factory=dict, hash=False)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all fields; those of the standard sampler are left out, as they were before there were others."""
        fields = asdict(self)
        if self.sampler == STANDARD_SAMPLER and not self.sampler_settings:
            del fields["sampler"], fields["sampler_settings"]
        return _digest(fields)

    @property
    def has_even_queries(self) -> bool:
        """Whether every class of an episode has Q queries, so that the predictions alone say which are correct."""
        return self.sampler in _WITH_EVEN_QUERIES

    @property
    def is_claimed(self) -> bool:
        """Whether a file claims which episodes these are, so that nothing can verify it."""
        return self.sampler == CLAIMED_SAMPLER

    @property
    def queries_per_episode(self) -> range:
        """How many queries an episode can have: one number, or several where the way varies.

        Ask it what is in it, and make no list of it: its length is what somebody wrote into a file.
        """
        least = self.sampler_settings.get("least_way", self.way)
        fewest = least if isinstance(least, int) else self.way
        return range(fewest * self.query, self.way * self.query + 1, max(1, self.query))

    @property
    def task(self) -> str:
        """The dataset and the size of its tasks, e.g. "cifar-fs 5-way 1-shot"."""
        split = "" if self.split == "novel" else f" ({self.split} split)"
        sampler = "" if self.sampler == STANDARD_SAMPLER else f" {self.sampler}"
        if self.is_claimed:
            sampler += f" ({self.sampler_settings.get('tasks', '')})"
        return f"{self.dataset}{split} {self.way}-way {self.shot}-shot{sampler}"


@dataclass(frozen=True)
class Cell:
    """One method on one protocol.

    Attributes:
        method: what was done.
        protocol: with which episodes.
        versions: of the packages that can change a result; recorded, but not part of the identity.
        dataset_recipe: how the images came about; recorded likewise, the fingerprint being part of the identity.
        class_sizes: images per class of the split, in canonical order, [C]; with the protocol they say which images
            are in which episode, so that statistics over classes need no images. Empty where nobody recorded them.
        provenance: how the outcomes came about, as plain data: the command line, the study's fields, the git commit,
            the hardware, what the backbone was pretrained on.
        class_names: of the split, in canonical order, [C]; empty where they are not recorded.
    """

    method: MethodCard
    protocol: ProtocolCard
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    dataset_recipe: dict[str, Any] = field(default_factory=dict, hash=False)
    class_sizes: tuple[int, ...] = field(default=(), hash=False)
    provenance: dict[str, Any] = field(default_factory=dict, hash=False)
    class_names: tuple[str, ...] = field(default=(), hash=False)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the cell's folder."""
        return hashlib.sha256(f"{self.method.fingerprint} {self.protocol.fingerprint}".encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """The content of cell.json, as plain data."""
        return {**asdict(self), "method": self.method.as_dict(), "format": FORMAT}

    def as_json(self) -> str:
        """The content of cell.json."""
        return description_as_json(self.as_dict())

    @classmethod
    def from_json(cls, text: str) -> Cell:
        """Read the content of cell.json; what is recorded of another kind than it should be counts as not recorded.

        Raises:
            OutcomeError: it is no such content, or a value of the method or the protocol is not of its kind.
        """
        found = read_description(text)
        lists = {name: tuple(found.recorded.get(name, ())) for name in ("class_sizes", "class_names")}
        recorded = {**found.recorded, **lists}
        return cls(MethodCard(**found.method), ProtocolCard(**found.protocol), **recorded)


def _plain(hyper_parameters: Mapping[str, Any], method: str) -> dict[str, Any]:
    try:
        plain: dict[str, Any] = json.loads(json.dumps(hyper_parameters, allow_nan=False))
        problem = "" if is_plain(plain) else "they are too deep in each other, or text that is no Unicode"
    except (TypeError, ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise OutcomeError(
            f"hyper-parameters of {method} must be finite numbers, text, lists and mappings to be recorded: {problem}."
        )
    return plain


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()

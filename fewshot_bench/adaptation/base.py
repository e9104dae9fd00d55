"""What an adaptation is: a frozen set of hyper-parameters that turns episodes into scores, and its description."""

from __future__ import annotations

import inspect
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from inspect import Parameter, get_annotations, signature
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from fewshot_bench._io.notebooks import ShownByFields
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features
from fewshot_bench.code_identity import code_of
from fewshot_bench.errors import CodeError, StudyError
from fewshot_bench.losses import LOSSES
from fewshot_bench.registry import Registry
from fewshot_bench.training.recipe import AugmentationName

Choose = Literal["none", "support-cv", "ensemble"]
LinearIn = Literal["", "embedding", "direction"]
"""The embedding of a query, its direction (the embedding divided by its norm), or nothing where scores are curved."""
LOGITS = "logits"
"""The kind of scores whose softmax over the classes is the probability that the method is fitted to."""


@dataclass(frozen=True, kw_only=True)
class Adaptation(ShownByFields, ABC):
    """What is done with a support set.

    Subclasses are frozen dataclasses whose fields are the hyper-parameters. All of them go into the method's
    fingerprint, and those that differ from the default into its name.
    """

    name: ClassVar[str]

    @property
    def is_transductive(self) -> bool:
        """Whether the queries of an episode may inform each other's predictions."""
        return False

    @property
    def assumes_balanced_queries(self) -> bool:
        """Whether the predictions assume the same number of queries of every class."""
        return False

    @property
    def stage(self) -> str:
        """The part of the method's name before the adaptation, e.g. "episode-ce"; empty for none."""
        return ""

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WholeAdaptation(Adaptation):
    """A classifier of a whole test split that learns from the train split; there are no support sets."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingAdaptation(Adaptation):
    """Support embeddings -> query scores, for a whole chunk of episodes at once, on frozen embeddings.

    Attributes:
        features: transformation of the embeddings: raw, l2, cl2, power or signed-power.
        choose: how hyper-parameters are chosen in each episode: "none", "support-cv" or "ensemble"; see
            `hyper_parameter_choice`.
        candidates: values to choose between, by hyper-parameter; None for the grid, except fields that are set.

    >>> from dataclasses import dataclass
    >>> from typing import ClassVar
    >>> import fewshot_bench as fb
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Dot(fb.EmbeddingAdaptation):
    ...     name: ClassVar[str] = "dot"
    ...     scale: float = 1.0
    ...
    ...     def scores(self, split, support, query):
    ...         means = split.rows(support).mean(dim=2)
    ...         return self.scale * split.rows(query) @ means.transpose(1, 2)
    >>> Dot(scale=2.0).hyper_parameters()
    {'features': 'l2', 'scale': 2.0}
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> fb.evaluate(Dot(), novel.images.reshape(len(novel), -1), episodes)
    <Evaluation: dot, glyphs 5-way 5-shot, 50 episodes, 44.13% ± 2.69 (data ± 6.84)>
    """

    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values worth trying for a hyper-parameter, by its name; the first one is the default."""

    features: Features = "l2"
    choose: Choose = "none"
    candidates: Mapping[str, tuple[Any, ...]] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        """Refuse values that no method takes; subclasses add their own ranges.

        Raises:
            StudyError: a hyper-parameter is not one of the words of its type, is not true or false, or is infinite.
        """
        for name, words in words_of(type(self)).items():
            known = ", ".join(word for word in words if word is not None)
            self._expect(getattr(self, name) in words, name, f"one of {known}")
        tried = self.candidates
        is_mapping = isinstance(tried, Mapping) and all(isinstance(values, list | tuple) for values in tried.values())
        self._expect(tried is None or is_mapping, "candidates", "None, or lists of values by hyper-parameter")
        for field_ in fields(self):
            value = getattr(self, field_.name)
            if value is field_.default:
                continue
            if field_.type in ("int", int, "float", float):
                self._expect(value is not None, field_.name, "a number")
            if field_.type in ("bool", bool):
                self._expect(isinstance(value, bool), field_.name, "true or false")
            self._expect(not (isinstance(value, float) and math.isinf(value)), field_.name, "finite")

    def _expect(self, is_right: bool, name: str, expectation: str) -> None:
        """Raise StudyError for a hyper-parameter of the wrong type or value."""
        if not is_right:
            shown = getattr(self, name)
            raise StudyError(f"{name.rstrip('_')} of {self.name} should be {expectation}, not {shown}.")

    def _expect_positive(self, *names: str) -> None:
        for name in names:
            self._expect(_is_number(value := getattr(self, name)) and value > 0, name, "positive")

    def _expect_not_negative(self, *names: str) -> None:
        for name in names:
            self._expect(_is_number(value := getattr(self, name)) and value >= 0, name, "0 or more")

    def _expect_whole(self, least: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            self._expect(type(value) is int and value >= least, name, f"a whole number of {least} or more")

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter by name; the values to choose between stand under "grid".

        Where nothing is chosen, neither `choose` nor `candidates` is recorded, so old fingerprints hold.
        """
        values = super().hyper_parameters()
        values.pop("candidates")
        if self.choose == "none":
            values.pop("choose")
            return values
        tried = {name: list(choices) for name, choices in self.tried.items()}
        return {name: value for name, value in values.items() if name not in tried} | {"grid": tried}

    @property
    def tried(self) -> dict[str, tuple[Any, ...]]:
        """The values to choose between, by hyper-parameter, the preferred one first."""
        if self.candidates is not None:
            return {name: tuple(values) for name, values in self.candidates.items()}
        defaults = {field_.name: field_.default for field_ in fields(self)}
        return {name: values for name, values in self.grid.items() if getattr(self, name) == defaults.get(name)}

    @property
    def augmented_views(self) -> int:
        """How many augmented views of each image it needs, besides the plain image."""
        return 0

    @property
    def augmentation_of_views(self) -> AugmentationName:
        """What makes the augmented views."""
        return "auto"

    @property
    def needs_base_covariance(self) -> bool:
        """Whether it needs the covariance within the base classes, in the same features."""
        return False

    @property
    def linear_in(self) -> LinearIn:
        """What of a query its scores are linear in, once the support set is known: see `LinearIn`.

        A fitted classifier then keeps one vector of weights per class instead of the support set.
        """
        return ""

    @property
    def score_kind(self) -> str:
        """What its scores are, in a few words for people; `LOGITS` where a softmax makes them probabilities."""
        return "score"

    @abstractmethod
    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Score every query of every episode against every class.

        Args:
            split: embeddings of the split, already transformed to `self.features`.
            support: image indices of the support sets, int64 [E, N, K].
            query: image indices of the queries, int64 [E, M].

        Returns:
            Scores, higher is closer, [E, M, N]. They never depend on which other episodes are in the chunk.
        """

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor | None:
        """Score queries by one support set whose classes differ in size.

        Args:
            split: as for `scores`.
            support: image indices of the support set, class by class, int64 [n].
            labels: their classes from 0 to N - 1, each at least once, int64 [n].
            query: image indices of the queries, int64 [M].

        Returns:
            Scores, [M, N]; None where the method needs classes of one size.
        """
        return None

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """An upper estimate of the floats held per episode, from which the engine sizes chunks."""
        return 2 * (way * shot + queries) * embedding_size + 4 * queries * way * shot


def check_fields(name: str, adaptation: object) -> None:
    """Refuse an adaptation class with a setting that would not be recorded.

    Args:
        name: of the class, for the message.
        adaptation: the class; anything else is checked when an adaptation is made of it.

    Raises:
        CodeError: a setting is not a field, or overrides a field without its type.
    """
    if not isinstance(adaptation, type) or not issubclass(adaptation, Adaptation):
        return
    recorded = {field.name for field in fields(adaptation)}
    advice = "Write @dataclass(frozen=True, kw_only=True) above the class, and below a line that registers it."
    for kind in adaptation.__mro__:
        if kind.__module__.partition(".")[0] in ("fewshot_bench", "abc", "builtins"):
            continue
        annotations = get_annotations(kind)
        owner = f"{name} ({kind.__name__})" if kind is not adaptation else name
        for setting, annotation in annotations.items():
            if setting not in recorded and not _is_no_setting(annotation):
                raise CodeError(f"the setting '{setting}' of {owner} would not be recorded. {advice}")
        for setting in recorded & vars(kind).keys() - annotations.keys():
            if type(vars(kind)[setting]).__name__ != "member_descriptor":  # of __slots__
                raise CodeError(
                    f"'{setting} = ...' in {owner} changes nothing, for {setting} is a field of a class above it. "
                    f"Give it its type again: {setting}: TYPE = ... {advice}"
                )
    if not isinstance(getattr(adaptation, "name", None), str):
        raise CodeError(f"{name} has no name for its methods. Add to the class: name: ClassVar[str] = ...")
    # Whether a dataclass is frozen is in an attribute that type checkers do not know.
    if not is_dataclass(adaptation) or not adaptation.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise CodeError(f"the settings of {name} could be changed after they were recorded. {advice}")
    for parameter in list(signature(adaptation.__init__).parameters.values())[1:]:
        if parameter.name not in recorded or parameter.kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
            raise CodeError(
                f"{name} takes '{parameter.name}' in an __init__ of its own, which would not be recorded. Make it a "
                f"field, and leave __init__ out. {advice}"
            )


def code_of_adaptation(adaptation: Adaptation) -> dict[str, Any]:
    """Records of the user's own code in an adaptation, "adaptation" and "loss"; empty where all of it is ours."""
    loss = adaptation.hyper_parameters().get("loss")
    parts = {
        "adaptation": code_of(type(adaptation)),
        "loss": LOSSES[loss].code if isinstance(loss, str) and loss in LOSSES else None,
    }
    return {part: code.as_record() for part, code in parts.items() if code is not None}


def _is_no_setting(annotation: object) -> bool:
    """Whether an annotation is ClassVar or KW_ONLY, as a type or as text."""
    if isinstance(annotation, str):
        return annotation.partition("[")[0].rpartition(".")[2].strip() in ("ClassVar", "KW_ONLY")
    return annotation in (ClassVar, KW_ONLY) or get_origin(annotation) is ClassVar


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def words_of(adaptation: type[EmbeddingAdaptation]) -> dict[str, tuple[Any, ...]]:
    """The values that each field of a Literal type may have, by its name."""
    try:
        hints = get_type_hints(adaptation)
    except Exception:  # a plug-in's types may be imported for type checkers only
        hints = get_type_hints(EmbeddingAdaptation)
    found = {}
    for field_ in fields(adaptation):
        hint = hints.get(field_.name)
        members = [hint] if get_origin(hint) is Literal else list(get_args(hint))
        literals = [kind for kind in members if get_origin(kind) is Literal]
        if literals and all(kind in (*literals, type(None)) for kind in members):
            words = [word for kind in literals for word in get_args(kind)]
            found[field_.name] = (*words, None) if type(None) in members else tuple(words)
    return found


ADAPTATIONS: Registry[Callable[..., Adaptation]] = Registry("adaptation", check=check_fields)

_NO_HYPER_PARAMETERS = ("choose", "candidates")
_ATTRIBUTE = re.compile(r"(\w+): (.*)")


@dataclass(frozen=True)
class HyperParameter:
    """A hyper-parameter of an adaptation.

    Attributes:
        name: as --set takes it.
        default: its default value.
        meaning: one line from the class's docstring, or nothing.
        tried: the values that --choose tries, if any.
    """

    name: str
    default: Any
    meaning: str
    tried: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Description:
    """What can be said of an adaptation without running it.

    Attributes:
        is_transductive: whether queries inform each other's predictions, at the defaults.
        assumes_balanced_queries: whether it assumes as many queries of every class, at the defaults.
        hyper_parameters: in the order of the class, its own before those that all adaptations share.
    """

    is_transductive: bool
    assumes_balanced_queries: bool
    hyper_parameters: tuple[HyperParameter, ...]


def described(factory: Callable[..., Adaptation] | None, preset: Mapping[str, Any] | None = None) -> Description | None:
    """Describe an adaptation; None if the factory is not a class of adaptations.

    Args:
        factory: its class.
        preset: values that an alias fixes: shown as defaults, and not tried by --choose.

    >>> from fewshot_bench.adaptation import Centroid
    >>> [(setting.name, setting.default) for setting in described(Centroid).hyper_parameters]
    [('metric', 'cosine'), ('features', 'l2')]
    """
    if not isinstance(factory, type) or not issubclass(factory, Adaptation):
        return None
    meanings, fixed = meanings_of(factory), preset or {}
    grid = factory.grid if issubclass(factory, EmbeddingAdaptation) else {}
    grid = {name: values for name, values in grid.items() if name not in fixed}
    shared = {field.name for field in fields(EmbeddingAdaptation)}
    hyper_parameters = [
        HyperParameter(
            field.name,
            fixed.get(field.name, _default(field)),
            meanings.get(field.name, ""),
            tuple(grid.get(field.name, ())),
        )
        for field in sorted(fields(factory), key=lambda field: field.name in shared)
        if field.name not in _NO_HYPER_PARAMETERS
    ]
    try:
        plain = factory(**fixed)
        claims = (bool(plain.is_transductive), bool(plain.assumes_balanced_queries))
    except Exception:  # a plug-in's class may have fields without a default, or be abstract
        claims = (False, False)
    return Description(*claims, tuple(hyper_parameters))


def meanings_of(adaptation: type) -> dict[str, str]:
    """The entries of the section `Attributes:` of a class and of its base classes, by attribute."""
    found: dict[str, str] = {}
    for kind in reversed(adaptation.__mro__):
        found |= _attributes(inspect.cleandoc(kind.__doc__ or ""))
    return found


def _attributes(docstring: str) -> dict[str, str]:
    """The entries of the section `Attributes:` of a docstring, each as one line."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring.partition("\nAttributes:\n")[2].splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and indent == 0:  # the next section
            break
        entry = _ATTRIBUTE.fullmatch(text) if indent == 4 else None
        if entry is not None:
            name, found[entry[1]] = entry[1], entry[2]
        elif name and text:
            found[name] += f" {text}"
    return found


def _default(field_: Field[Any]) -> Any:
    if field_.default is not MISSING:
        return field_.default
    return field_.default_factory() if field_.default_factory is not MISSING else None

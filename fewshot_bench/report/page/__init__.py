"""One self-contained HTML page: opened from a disk, it shows all results and needs no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import pandas as pd

import fewshot_bench.report.figures as figures
import fewshot_bench.report.page.plotly as plotly
from fewshot_bench._io.locations import Location, location_of
from fewshot_bench._io.storage import write_atomically
from fewshot_bench._io.versions import __version__
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.outcomes import Cell, OutcomeStore, marked
from fewshot_bench.report.content import PageContent, ProtocolResults, gather, rows_by_protocol
from fewshot_bench.report.findings import answer_lines, answers, main_finding, short_finding
from fewshot_bench.report.labels import Labels, labelled, read_labels
from fewshot_bench.report.leaderboard import current_leaderboard
from fewshot_bench.report.leaderboard_rows import MEASURED, ONE_TRAINING
from fewshot_bench.report.page.embeddings import ANCHOR, EmbeddingSection, embedding_section
from fewshot_bench.report.page.leaderboard_table import TABLE_ID, leaderboard_table
from fewshot_bench.report.shots import shots_figures
from fewshot_bench.report.verdicts import correction_words, count_text
from fewshot_bench.statistics import Correction

TITLE = "Few-shot results"
WHOLE_TITLE = "Results on whole datasets"
_CONFIG = {"responsive": True, "displayModeBar": False, "displaylogo": False, "doubleClick": False}
_NOT_RECORDED = "not recorded"
_FACT_LETTERS = 22


@checked_arguments
def write_page(
    results: str | Location,
    path: str | Location,
    *,
    baseline: str | None = None,
    correct: Correction = "holm",
    title: str = TITLE,
    frame: pd.DataFrame | None = None,
    store: OutcomeStore | None = None,
    labels: Location | None = None,
) -> PageContent:
    """Write everything that a results folder holds as one HTML file, all or nothing.

    The same outcomes give the same bytes; images, torch and a GPU are not needed.

    Args:
        results: the folder with `outcomes`; `leaderboard.csv` in it keeps baselines, `sweeps` are shown.
        path: the file; an older one is replaced.
        baseline: name of the method that the others are tested against.
        correct: how p is corrected for the number of tests on one protocol.
        title: the page's heading.
        frame: the current leaderboard, where it has been computed already.
        store: of these results, where it has been read already.
        labels: a file with what methods are called, see `read_labels`.

    Returns:
        What the page shows, for instance to draw it for a paper.

    Raises:
        OutcomeError: nothing is stored, or something is damaged.
        UnknownNameError: no method has the baseline's name.
        ComparisonError: the baseline's name fits several methods, or the labels do not fit.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import fewshot_bench as fb
    >>> novel = fb.open_dataset("glyphs").novel
    >>> episodes = fb.sample_episodes(novel, fb.Protocol("glyphs", shot=5, episodes=50, runs=1))
    >>> evaluation = fb.evaluate("centroid", novel.images.reshape(len(novel), -1), episodes)
    >>> with TemporaryDirectory() as results:
    ...     store = evaluation.save(results)
    ...     content = fb.write_page(results, Path(results, "page.html"), title="Glyphs")
    >>> [protocol.name for protocol in content.protocols]
    ['glyphs 5-way 5-shot']
    """
    results, path = location_of(results), location_of(path)
    store = store or OutcomeStore(results / "outcomes")
    if title == TITLE and all(cell.protocol.is_whole for cell in store.cells()):
        title = WHOLE_TITLE
    if frame is None:
        frame = current_leaderboard(store, results / "leaderboard.csv", baseline, correct=correct)
    chosen = Labels() if labels is None else read_labels(labels)
    content = gather(store, frame if labels is None else labelled(frame, chosen, where=labels), results)
    write_atomically(path, page_html(content, title).encode())
    return content


@dataclass(frozen=True)
class Section:
    """A heading with figures.

    Attributes:
        anchor: its id in the page.
        heading: above it.
        caption: how to read it; `{correction}` stands for how p values are corrected.
        draw: makes the figure of a protocol, for a section that changes with the chosen protocol.
        figures: by the ids of their places, for a section that belongs to no single protocol.
        sentences: above these figures, by the same ids.
    """

    anchor: str
    heading: str
    caption: str
    draw: Callable[[ProtocolResults], plotly.PlotlyFigure] | None = None
    figures: Mapping[str, plotly.PlotlyFigure] | None = None
    sentences: Mapping[str, str] = field(default_factory=dict)


SECTIONS = (
    Section(
        "differences",
        "Differences to the baseline",
        "The mark is the mean difference on the episodes that both have seen. The thick line is the 95% interval over "
        "episodes of this split, or over the test images of a whole split. The thin line, where it is known, covers "
        "other classes and images too. Open marks are "
        "published numbers. Triangles: shown at 5%, {correction} for the number of methods, beyond this split; "
        "diamonds: shown on this split alone, for these classes and images.",
        lambda protocol: plotly.forest_plot(figures.forest(protocol, plotly.MOST_ROWS)),
    ),
    Section(
        "distributions",
        "Accuracies of the episodes",
        "Half of the episodes lie within the box, nine in ten within the whiskers; the line is the median, the dashed "
        "line the mean. Episodes differ far more than methods do, which is why methods are compared episode by "
        "episode. On a whole split, whose images are right or wrong, the boxes hold the recalls of its classes.",
        lambda protocol: plotly.distributions_plot(figures.distributions(protocol)),
    ),
    Section(
        "pairs",
        "Every method against every other",
        "Points by which the method of the row is better than that of the column. A star, or in a large matrix a "
        "colour: a difference is shown beyond this split at 5%, {correction} over all pairs of the protocol, as in the "
        "letters of the leaderboard. A ring: it is shown on this split alone. A bare number: none is shown. An empty "
        "cell: the pair has no common episodes. [T] marks transductive methods, which see all queries of an episode at "
        "once.",
        lambda protocol: plotly.matrix_plot(figures.matrix(protocol)),
    ),
    Section(
        "classes",
        "Class by class",
        "How much better one method classifies the queries of each class: the best method against the baseline, or the "
        "two best; where there are both kinds, of the inductive ones. Lines are 95% intervals over the episodes that "
        "have the class. Where a few classes carry the difference, another split may hold none of them.",
        lambda protocol: plotly.classes_plot(figures.classes(protocol)),
    ),
    Section(
        "confused",
        "Which classes are confused?",
        "The pairs that the best method takes for each other most often, counted in episodes that hold both classes. "
        "Pairs that met in fewer than ten are left out. Where there are both kinds, the best inductive method.",
        lambda protocol: plotly.confused_plot(figures.confused_pairs(protocol)),
    ),
    Section(
        "confusion",
        "Confusion matrix",
        "The share of the queries of the row's class, in episodes that hold both, that the same method takes for the "
        "column's class. Classes that are confused with each other stand together; an empty cell: the two never met.",
        lambda protocol: plotly.confusion_plot(figures.confusion_matrix(protocol)),
    ),
    Section(
        "cost",
        "Accuracy and cost",
        "Mean accuracy, with its 95% task interval for up to 100 methods, against the time that one episode takes, and "
        "against the most memory that the run took where that is recorded. Times are those of the machine of the run "
        "card.",
        lambda protocol: plotly.cost_plot(figures.cost(protocol)),
    ),
)
_SWEEPS = (
    "Accuracy on the validation split for each setting that was tried, with 95% intervals; the ring is the chosen "
    "one. The best of many settings looks better than it is: that is what the novel split is for."
)
_SHOTS = (
    "How many labelled images per class does it take? Lines join the numbers that were measured; nothing is "
    "extrapolated. Thick intervals: 95% over episodes; thin ones, where they are known, over classes and images too."
)
_RANKS = (
    "The mean rank of each method over the datasets, 1 for the best. Two methods differ (Nemenyi, 5%) where their "
    "lines, each as long as the critical difference, do not overlap. With few datasets only large differences show, "
    "with two datasets none."
)


def page_html(content: PageContent, title: str) -> str:
    """The page as HTML, with everything in it that a browser needs.

    Its content security policy lets nothing be fetched, and only the scripts run whose digests it lists.

    Args:
        content: as `gather` collects it.
        title: the heading.
    """
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    frame, fixed = content.frame, _fixed_sections(content)
    tasks = {protocol.rows["protocol_fingerprint"].iloc[0]: protocol.name for protocol in content.protocols}
    embeddings = embedding_section(content.embedding_cards, content.embedding_pairs)
    plots = [
        {f"{section.anchor}-plot": section.draw(protocol) for section in SECTIONS if section.draw is not None}
        for protocol in content.protocols
    ]
    table = leaderboard_table(frame, list(rows_by_protocol(frame).values()), tasks)
    scripts = [
        Script(table.library, "application/gzip", "datatables"),
        Script(get_plotlyjs(), "application/gzip", "plotly"),
        Script(_figures_json(plots, fixed, embeddings), "application/json", "figures"),
        Script(_own("draw.js")),
        Script(f"await tableLibrary;\n{table.script}", "module"),
    ]
    shown = [*(SECTIONS if content.protocols else ()), *fixed]
    by_task = groupby(answers(frame), key=lambda answer: answer.protocol)
    return environment.get_template("page.html.j2").render(
        title=title,
        version=__version__,
        policy=_policy(scripts),
        style=_own("style.css"),
        finding=short_finding(content),
        evidence=main_finding(content),
        shared_start=content.shared_start,
        answers=[answer_lines(list(same)) for _, same in by_task],
        facts=_facts(content),
        sections=[
            ("leaderboard", "Leaderboard"),
            *((section.anchor, section.heading) for section in shown),
            *([(ANCHOR, "Embeddings")] if embeddings else []),
            *([("run-cards", "Run cards")] if content.cells else []),
            ("definitions", "Definitions"),
        ],
        table=table,
        all_columns=[*table.columns, *(column for column, _ in table.same)],
        table_id=TABLE_ID,
        has_transductive=bool(frame["is_transductive"].any()),
        has_published=_published(frame) > 0,
        has_trainings=bool((frame["trainings"] > 1).any()),
        protocols=[protocol.name for protocol in content.protocols],
        plots=SECTIONS,
        correction=correction_words(content.correction),
        fixed_plots=fixed,
        embeddings=embeddings,
        cards=[run_card(name, cell, tasks.get(cell.protocol.fingerprint)) for name, cell in content.cells],
        cards_left_out=content.cells_left_out,
        scripts=scripts,
    )


def _fixed_sections(content: PageContent) -> list[Section]:
    """The sections that belong to no single protocol."""
    ranks = {f"ranking-{n}": plotly.ranks_plot(figures.ranks(ranking)) for n, ranking in enumerate(content.rankings)}
    curves = {
        f"sweep-{n}": plotly.sweep_plot(figures.sweep(sweep.frame, sweep.name))
        for n, sweep in enumerate(content.sweeps)
    }
    by_shots = {f"shots-{n}": figure for n, figure in enumerate(shots_figures(content.frame))}
    shots = {place: plotly.shots_plot(figure) for place, figure in by_shots.items()}
    grown = {place: figure.sentence for place, figure in by_shots.items()}
    sections = (
        Section("shots", "Accuracy against shots", _SHOTS, figures=shots, sentences=grown),
        Section("ranks", "Ranks over datasets", _RANKS, figures=ranks),
        Section("sweeps", "Sweeps", _SWEEPS, figures=curves),
    )
    return [section for section in sections if section.figures]


@dataclass(frozen=True)
class Script:
    """A script of the page.

    Attributes:
        text: what runs, or is read.
        kind: its type; empty for a classic script. "application/gzip" is a library that draw.js unpacks and starts.
        name: its id, if it needs one.
    """

    text: str
    kind: str = ""
    name: str = ""

    @property
    def content(self) -> str:
        """What stands between its tags."""
        return _packed(self.text) if self.kind == "application/gzip" else self.text

    @property
    def digest(self) -> str:
        """By which the page's policy knows it."""
        return f"'sha256-{base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()}'"


@cache
def _packed(library: str) -> str:
    """A library as base64 of gzip: two fifths of its size."""
    return base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()


def _policy(scripts: Sequence[Script]) -> str:
    digests = " ".join(script.digest for script in scripts)
    return (
        f"default-src 'none'; script-src {digests} blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; connect-src 'none'; form-action 'none'; base-uri 'none'"
    )


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _figures_json(
    protocols: Sequence[Mapping[str, Any]], fixed: Sequence[Section], embeddings: EmbeddingSection | None
) -> str:
    """The figures as JSON that cannot end the script it stands in."""
    together = {name: figure for section in fixed for name, figure in (section.figures or {}).items()}
    of_networks = {"networks": [], "sprites": []} if embeddings is None else embeddings.data
    content = {"protocols": protocols, "fixed": together, "config": _CONFIG, **of_networks}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _published(frame: pd.DataFrame) -> int:
    """How many rows are from papers."""
    return int((~frame["source"].isin((MEASURED, ONE_TRAINING))).sum())


def _facts(content: PageContent) -> str:
    measured = content.frame[content.frame["source"] == MEASURED]
    transductive = measured.loc[measured["is_transductive"], "method"].nunique()
    published = _published(content.frame)
    parts = [
        count_text(measured["method"].nunique(), "method")
        + (f" ({transductive:,} transductive)" if transductive else ""),
        count_text(measured["dataset"].nunique(), "dataset"),
        count_text(len(content.protocols), "protocol"),
        *([count_text(published, "published row")] if published else []),
    ]
    return " · ".join(parts)


@dataclass(frozen=True)
class RunCard:
    """The card of one cell.

    Attributes:
        title: the method and the protocol.
        text: the command lines that made the outcomes, then name and value of everything else, aligned. One piece of
            text, because hundreds of cards as lists of elements would make the page slow to open.
    """

    title: str
    text: str


def run_card(name: str, cell: Cell, task: str | None = None) -> RunCard:
    """The card of a cell.

    Args:
        name: what the leaderboard calls the method.
        cell: with whatever it records; the rest reads "not recorded".
        task: what the page calls the protocol; by default its own name, which others may share.
    """
    provenance = dict(cell.provenance)
    commands = [str(command) for command in provenance.pop("commands", [])]
    method, protocol = cell.method.as_dict(), asdict(cell.protocol)
    entries = {
        "git commit": provenance.pop("git_commit", None),
        "hardware": provenance.pop("hardware", None),
        "Python": provenance.pop("python", None),
        "platform": provenance.pop("platform", None),
        "versions": cell.versions,
        "seeds": _seeds(cell),
        "dataset": f"{cell.protocol.dataset}, fingerprint {cell.protocol.dataset_fingerprint}",
        "dataset recipe": cell.dataset_recipe,
        "images per class": _sizes(cell.class_sizes),
        "protocol": {key: value for key, value in protocol.items() if value not in ("", {})},
        "protocol fingerprint": cell.protocol.fingerprint,
        "method": {key: value for key, value in method.items() if key != "hyper_parameters"},
        "hyper-parameters": cell.method.hyper_parameters,
        "method fingerprint": cell.method.fingerprint,
        "pretraining": provenance.pop("pretraining", None),
        "stopping rule": provenance.pop("stopping", None),
        "peak memory": _gib(provenance.pop("peak_bytes", None)),
        "study": provenance.pop("study", None),
        **{key.replace("_", " "): value for key, value in sorted(provenance.items())},
        "outcomes": f"outcomes/{cell.key}",
    }
    lines = [_line("command", "\n".join(commands) or _NOT_RECORDED)]
    lines += [_line(key, _text(value)) for key, value in entries.items()]
    return RunCard(f"{marked(name, cell.method.is_transductive)}, {task or cell.protocol.task}", "\n".join(lines))


def _line(name: str, value: str) -> str:
    """A name and its value; further lines of the value stand below the first."""
    return f"{name:<{_FACT_LETTERS}}" + value.replace("\n", f"\n{' ' * _FACT_LETTERS}")


def _text(value: Any) -> str:
    """Mappings as `name: value` lines, nested ones as JSON."""
    if value is None or value == "" or value == {} or value == []:
        return _NOT_RECORDED
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_flat(item)}" for key, item in sorted(value.items()))
    return _flat(value)


def _flat(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _seeds(cell: Cell) -> dict[str, Any]:
    """Every seed that decides the outcomes: that of the episodes, and those among the hyper-parameters."""
    found: dict[str, Any] = {"episodes": cell.protocol.seed}
    for stage, settings in cell.method.hyper_parameters.items():
        if isinstance(settings, Mapping) and "seed" in settings:
            found[stage] = settings["seed"]
    return found


def _sizes(sizes: Sequence[int]) -> str | None:
    if not sizes:
        return None
    counts = sorted(Counter(sizes).items(), reverse=True)
    if len(counts) > 6:
        return f"{len(sizes)} classes of {min(sizes)} to {max(sizes)} images"
    return ", ".join(f"{count} classes of {size} images" for size, count in counts)


def _gib(count: Any) -> str | None:
    return f"{count / 2**30:.2f} GiB" if isinstance(count, (int, float)) and count else None

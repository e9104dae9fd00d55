"""`fewshot-bench compare A B`: paired tests of two methods, or of many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from fewshot_bench.cli.options import ClaimOption, CorrectOption, JsonOption, choice, correction
from fewshot_bench.cli.output import print_json, stdout_console
from fewshot_bench.cli.study_options import BaselineOption, ResultsOption


def compare(
    methods: Annotated[
        list[str] | None,
        typer.Argument(metavar="[A B ...]", help="Names of methods, or parts of names that are unique. Default: all."),
    ] = None,
    results: ResultsOption = Path("results"),
    baseline: BaselineOption = None,
    correct: CorrectOption = "holm",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse methods with different episodes instead of using their common ones."),
    ] = False,
    simultaneous: Annotated[
        bool,
        typer.Option("--simultaneous", help="Widen the intervals so that all hold at once in 95% of studies."),
    ] = False,
    claim: ClaimOption = "beyond",
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show each difference by class, the largest first.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Compare with the numbers that papers report for the same recipe.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods on their common episodes by paired tests.

    Two methods: the difference with both intervals, the t-test and its cross-checks. More: all pairs, or all against
    --baseline, corrected for their number, with letters for groups. Several datasets: also ranks. Whole test splits:
    the interval over test images, and tests seed by seed. --published: each method, or those named, beside the number
    that its recipe is published with, by Welch's test.
    """
    from fewshot_bench.outcomes import OutcomeStore
    from fewshot_bench.report import (
        Claim,
        check_no_files,
        compare_tasks,
        compare_with_published,
        comparison_record,
        datasets_record,
        over_datasets,
        print_comparisons,
        print_published_comparisons,
        published_comparison_record,
        task_record,
    )

    store = OutcomeStore(results / "outcomes")
    check_no_files([*(methods or []), *([baseline] if baseline else [])], store)
    if published:
        if baseline is not None or strict or simultaneous or per_class:
            raise typer.BadParameter(
                "--published compares with printed numbers, which have no episodes: leave out --baseline, --strict, "
                "--simultaneous and --per-class."
            )
        pairs = compare_with_published(store, methods or (), correct=correction(correct))
        if as_json:
            print_json({"published": [published_comparison_record(pair) for pair in pairs]})
            return
        print_published_comparisons(pairs, stdout_console())
        return
    if methods is not None and len(methods) == 1 and baseline is None:
        raise typer.BadParameter("compare takes two or more methods, one and a --baseline, or none for all.")
    claimed = cast("Claim", choice(claim, "--claim", get_args(Claim)))
    tasks = compare_tasks(
        store,
        methods or (),
        baseline=baseline,
        correct=correction(correct),
        strict=strict,
        simultaneous=simultaneous,
    )
    datasets = over_datasets(tasks)
    if as_json:
        content = {
            "comparisons": [
                comparison_record(comparison, per_class=per_class) for task in tasks for comparison in task.comparisons
            ],
            "tasks": [task_record(task) for task in tasks],
            "over_datasets": [datasets_record(result) for result in datasets],
        }
        print_json(content)
        return
    print_comparisons(tasks, datasets, stdout_console(), claimed, per_class=per_class)

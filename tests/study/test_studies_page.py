"""docs/studies.md has every key of a study file, with its default, option and meaning, as the models say.

`python tests/study/test_studies_page.py` prints the tables, to be pasted into the page after a change of a field.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.study import Study, plan_of_file
from fewshot_bench.study.plan import Outputs
from fewshot_bench.study.study_file import MethodTable, StudyFile, preset_names
from fewshot_bench.study.study_parser import fields_of

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
METHOD_KEYS = set(fields_of(MethodTable)) - {"datasets"}
FIRST = ("name", "description", "dataset", "backbone")
STUDY_KEYS = set(fields_of(StudyFile)) - METHOD_KEYS


def section(heading: str) -> str:
    return PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def position(name: str) -> tuple[int, bool]:
    """Keys that are no options first, then section by section, each with the most important one first."""
    section = Study.fact(name, "section") if name in Study.model_fields else None
    return (None, "data", "episodes", "method", "computing", "output").index(section), name not in FIRST


def expected_rows(keys: set[str]) -> list[str]:
    """The rows of a table of keys, as the fields say."""
    rows = []
    names = {key: {"datasets": "dataset", "lambda": "lambda_"}.get(key, key) for key in fields_of(StudyFile)}
    for key, name in sorted(names.items(), key=lambda pair: position(pair[1])):
        field = fields_of(StudyFile)[key]
        flag = f"`{Study.flag(name)}`" if name in Study.model_fields else ""
        default = "" if key in ("outputs", "methods") else as_toml(field.get_default(call_default_factory=True))
        meaning = (field.description or "").replace("|", "\\|")
        choices = (
            ", ".join(f'`"{choice}"`' for choice in StudyFile.choices(name)) if name in StudyFile.model_fields else ""
        )
        text = f"{meaning} One of {choices}." if choices else meaning
        rows += (
            [f"| `{key}` | {default} | {flag} | {text} |".replace("|  |", "| |").replace("|  |", "| |")]
            if key in keys
            else []
        )
    return rows


def as_toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return f"`[{', '.join(as_toml(one).strip('`') for one in value)}]`"
    if isinstance(value, dict):
        return "`{}`"
    return f"`{str(value).lower()}`" if isinstance(value, bool | int | float) else f'`"{value}"`'


@pytest.mark.parametrize(("heading", "keys"), [("The whole study", STUDY_KEYS), ("Methods", METHOD_KEYS)])
def test_every_key_is_on_the_page_as_its_field_says(heading, keys):
    found = [line for line in section(heading).splitlines() if line.startswith("| `")]
    assert sorted(found) == sorted(expected_rows(keys))


def test_every_output_is_on_the_page_with_its_default():
    found = dict(re.findall(r"^\| `(\w+)` \|(.*?)\|", section("Outputs"), re.MULTILINE))
    fields = fields_of(Outputs)
    assert {key: default.strip() for key, default in found.items()} == {
        key: as_toml(field.get_default(call_default_factory=True)) for key, field in fields.items()
    }


def test_every_preset_is_on_the_page():
    assert sorted(rows_of_presets()) == preset_names()


def rows_of_presets() -> list[str]:
    return re.findall(r"^\| `([\w-]+)` \|", section("Presets"), re.MULTILINE)


def test_the_example_on_the_page_is_what_the_page_says_it_is(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "study.toml"
    path.write_text(example[1], encoding="utf-8")
    plan = plan_of_file(str(path))
    methods = sum(len(study.adaptations) * len(study.losses) for study in plan.studies)
    assert methods == 5 * 2
    assert {study.dataset for study in plan.studies} == {"cifar-fs", "fc100"}


if __name__ == "__main__":
    for keys in (STUDY_KEYS, METHOD_KEYS):
        print("| key | default | option | meaning |", "| --- | --- | --- | --- |", *expected_rows(keys), "", sep="\n")

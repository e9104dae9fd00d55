"""docs/studies.md says of every key what it is, with the default that it has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.study import plan_of_file
from fewshot_bench.study.plan import Outputs
from fewshot_bench.study.study_file import MethodTable, StudyFile, preset_names
from fewshot_bench.study.study_parser import fields_of

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
OF_METHODS = set(fields_of(MethodTable)) - {"datasets"}


def rows(heading: str) -> dict[str, str]:
    """The default of every key in the table below a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| `(\w+)` \|(.*?)\|", section, re.MULTILINE)
    return {key: default.strip() for key, default in found}


def as_toml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return f"`[{', '.join(as_toml(one).strip('`') for one in value)}]`"
    if isinstance(value, dict):
        return "`{}`"
    return f"`{str(value).lower()}`" if isinstance(value, bool | int | float) else f'`"{value}"`'


@pytest.mark.parametrize(
    ("heading", "model", "keys"),
    [
        ("The whole study", StudyFile, set(fields_of(StudyFile)) - OF_METHODS),
        ("Methods", MethodTable, OF_METHODS),
        ("Outputs", Outputs, set(fields_of(Outputs))),
    ],
)
def test_every_key_is_on_the_page_with_its_default(heading, model, keys):
    found = rows(heading)
    assert set(found) == keys
    fields = fields_of(model)
    for key in keys - {"outputs", "methods"}:
        default = fields[key].get_default(call_default_factory=True)
        assert found[key] == as_toml(default), key


def test_every_preset_is_on_the_page():
    assert sorted(rows_of_presets()) == preset_names()


def rows_of_presets() -> list[str]:
    return re.findall(r"^\| `([\w-]+)` \|", PAGE.split("\n## Presets\n")[1].split("\n## ")[0], re.MULTILINE)


def test_the_example_on_the_page_is_what_the_page_says_it_is(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "study.toml"
    path.write_text(example[1], encoding="utf-8")
    plan = plan_of_file(str(path))
    methods = sum(len(study.adaptations) * len(study.losses) for study in plan.studies)
    assert methods == 5 * 2
    assert {study.dataset for study in plan.studies} == {"cifar-fs", "fc100"}

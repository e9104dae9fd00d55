from __future__ import annotations

from types import SimpleNamespace

import pytest

from fewshot_bench import registry
from fewshot_bench.errors import UnknownNameError
from fewshot_bench.registry import Registry


@pytest.fixture
def animals() -> Registry:
    animals: Registry = Registry("loss")

    @animals.register("cat", "purrs", year=2019)
    def cat():
        return "meow"

    return animals


def test_a_registered_name_gives_its_factory_summary_and_facts(animals):
    entry = animals["cat"]
    assert (entry.factory(), entry.summary, entry.facts) == ("meow", "purrs", {"year": 2019})
    assert animals.names() == ["cat"]
    assert "cat" in animals
    assert "dog" not in animals


def test_a_wrong_name_is_answered_with_the_nearest(animals):
    with pytest.raises(UnknownNameError, match=r"no loss called .kat.\. Did you mean cat"):
        animals["kat"]
    with pytest.raises(UnknownNameError, match="Known: cat"):
        animals["elephant"]


def test_anything_importable_can_be_named(animals):
    assert animals["math:hypot"].factory(3, 4) == 5
    for wrong in ("math:nothing", "no_such_module:x"):
        with pytest.raises(UnknownNameError):
            animals[wrong]


def test_other_packages_extend_a_registry_through_entry_points(animals, monkeypatch):
    def dog():
        """Barks."""

    point = SimpleNamespace(name="dog", value="zoo:dog", load=lambda: dog)
    taken = SimpleNamespace(name="cat", value="zoo:cat", load=lambda: dog)
    groups = {"fewshot_bench.losses": [point, taken]}
    monkeypatch.setattr(registry, "entry_points", lambda group: groups[group])
    assert animals["dog"].summary == "Barks."
    assert animals["cat"].summary == "purrs"

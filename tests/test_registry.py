from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import pytest
from own_code import code, forget, write  # noqa: F401  # a fixture

from fewshot_bench import registry
from fewshot_bench.errors import CodeError, CodeNotTrustedError, UnknownNameError
from fewshot_bench.losses import LOSSES
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


def test_anything_importable_can_be_named_once_it_is_admitted(animals):
    with pytest.raises(CodeNotTrustedError, match=r"math:hypot names code, which is imported only with --trust-code"):
        animals["math:hypot"]
    animals.admit("math:hypot")
    assert animals["math:hypot"].factory(3, 4) == 5
    assert "math:hypot" in animals


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("math:nothing", "math .* has no 'nothing'"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
        ("math.deeper:x", "math.deeper"),
        *(
            (name, "should be module:callable")
            for name in ("math:", ":hypot", "math:1", "1math:x", "math:a.b", "a b:c")
        ),
        *(
            (name, "should be module:callable")
            for name in (" math:hypot", "math:hypot ", "math::hypot", "..math:hypot")
        ),
        *((name, "stands for datasets alone") for name in ("hf:x", "HF:x", "torchvision:ops")),
        ("timm:create_model", "stands for backbones alone"),
    ],
)
def test_what_cannot_be_admitted_is_said_in_one_line(animals, name, told):
    with pytest.raises(CodeError, match=told) as raised:
        animals.admit(name)
    assert "\n" not in str(raised.value)
    assert name not in animals


def test_other_packages_extend_a_registry_through_entry_points(animals, monkeypatch):
    def dog():
        """Barks."""

    point = SimpleNamespace(name="dog", value="zoo:dog", load=lambda: dog)
    taken = SimpleNamespace(name="cat", value="zoo:cat", load=lambda: dog)
    groups = {"fewshot_bench.losses": [point, taken]}
    monkeypatch.setattr(registry, "entry_points", lambda group: groups[group])
    assert animals["dog"].summary == "Barks."
    assert animals["cat"].summary == "purrs"


@pytest.mark.slow
def test_another_process_admits_what_was_admitted_before_it_reads_the_value(monkeypatch, tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "shipped.py").write_text("class Loss:\n    def __call__(self, *_, **__): return 1\n\nloss = Loss()\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_ADMITTED", {})
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    monkeypatch.setattr(LOSSES, "_admitted", {})
    LOSSES.admit("shipped:loss")
    pickled = pickle.dumps(registry.WithCode({"method": LOSSES["shipped:loss"].factory}))
    for path in (str(folder), ""):
        sys.path.remove(path) if path in sys.path else None
    monkeypatch.delitem(sys.modules, "shipped")
    monkeypatch.chdir(tmp_path)
    LOSSES._entries.pop("shipped:loss")
    made = pickle.loads(pickled)
    assert made["method"]() == 1
    assert "shipped:loss" in LOSSES
    monkeypatch.delitem(sys.modules, "shipped")


@pytest.mark.slow
@pytest.mark.parametrize("edited", ["distributed", "beside"])
def test_another_process_refuses_code_that_was_edited_since_or_differs_on_its_machine(edited, code):  # noqa: F811
    write(code, distributed="import beside\ndef loss(*_, **__): return 1\n", beside="")
    LOSSES.admit("distributed:loss")
    pickled = pickle.dumps(registry.WithCode("the value"))
    forget({name for name in sys.modules if name not in ("distributed", "beside")})
    LOSSES._entries.pop("distributed:loss")
    registry._ADMITTED.clear()
    write(code, **{edited: "import beside\ndef loss(*_, **__): return 2\n"})
    with pytest.raises(CodeError, match=rf"other code of distributed:loss than .* \({edited}\.py\)"):
        pickle.loads(pickled)


class TestAnAlias:
    @pytest.fixture
    def with_alias(self, animals):
        animals.alias("kitten", "cat", preset={"age": 1, "colour": "black"}, paper="Bastet")
        return animals

    def test_finds_the_thing_and_says_what_it_stands_for(self, with_alias):
        entry = with_alias["kitten"]
        assert entry.factory is with_alias["cat"].factory
        assert entry.preset == {"age": 1, "colour": "black"}
        assert entry.summary == "alias of cat with age=1 and colour=black"
        assert entry.facts["paper"] == "Bastet"
        assert with_alias["cat"].preset == {}

    def test_is_listed_and_knows_its_target(self, with_alias):
        assert "kitten" in with_alias.names()
        assert "kitten" in with_alias
        assert [with_alias.target_of(name) for name in ("kitten", "cat", "anything")] == ["cat", "cat", "anything"]

    def test_of_nothing_is_refused(self, animals):
        with pytest.raises(KeyError):
            animals.alias("puppy", "wolf", preset={})

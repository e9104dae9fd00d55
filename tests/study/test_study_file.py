"""A study file is short, says what it means, and stands for the studies that its grid has."""

from __future__ import annotations

import json

import pytest

from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT
from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.study import Study, StudyPlan, plan_of_file
from fewshot_bench.study.study_parser import Override


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Writes a study file and says what it stands for."""
    monkeypatch.chdir(tmp_path)

    def write(text: str, *overrides: str) -> StudyPlan:
        (tmp_path / "study.toml").write_text(text, encoding="utf-8")
        changes = [Override.from_text(*change.split("=", 1)) for change in overrides]
        return plan_of_file("study.toml", changes)

    return write


GRID = """
datasets = ["glyphs", "cifar-fs"]
shots = 5
episodes = 100
backbone = "conv4_64"
hyper_parameters = { C = 10, metric = "euclidean" }

[[methods]]
adaptations = ["logistic", "centroid"]
tau = [0.1, 0.5]
lambda = [0, 0.9]

[[methods]]
datasets = "cifar-fs"
checkpoints = ["mine"]
adaptations = ["logistic"]
hyper_parameters.C = 2
"""


def test_an_empty_file_is_the_study_that_run_has_without_options(plan):
    assert plan("").studies == (Study(),)


def test_a_grid_has_a_study_for_every_dataset_method_lambda_and_tau(plan):
    planned = plan(GRID)
    seen = [(s.dataset, s.backbone, s.checkpoints, s.lambda_, s.tau) for s in planned.studies]
    first = [(0, 0.1), (0.9, 0.1), (0.9, 0.5)]  # with lambda = 0 there is no tau
    assert seen == [
        *(("glyphs", "conv4_64", None, *pair) for pair in first),
        *(("cifar-fs", "conv4_64", None, *pair) for pair in first),
        ("cifar-fs", None, ("mine",), 0.9, 0.5),
    ]
    assert {(s.shots, s.episodes, s.runs) for s in planned.studies} == {((5,), 100, 3)}
    assert planned.places[0] == "study.toml, line 8"
    assert planned.places[-1] == "study.toml, line 13"


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ('backbone = ["conv4_64", "conv4_32", "conv4_64"]', None),
        ('[[methods]]\nbackbone = ["conv4_64", "conv4_32"]', None),
        ('backbone = ["conv4_64", "conv4_32"]\n[[methods]]\nadaptations = ["centroid"]', None),
        ("", "backbone=conv4_64,conv4_32"),
        ("[[methods]]", "methods.0.backbone=conv4_64,conv4_32"),
    ],
)
def test_several_backbones_are_so_many_studies_in_their_order(plan, text, change):
    studies = plan(text, *([] if change is None else [change])).studies
    assert [study.backbone for study in studies] == ["conv4_64", "conv4_32"]


def test_backbones_are_combined_with_every_lambda(plan):
    studies = plan('backbone = ["conv4_64", "conv4_32"]\nlambda = [0.1, 0.9]').studies
    assert [(study.backbone, study.lambda_) for study in studies] == [
        ("conv4_64", 0.1),
        ("conv4_64", 0.9),
        ("conv4_32", 0.1),
        ("conv4_32", 0.9),
    ]


def test_hyper_parameters_of_the_file_go_to_the_methods_that_have_them(plan):
    studies = plan(GRID).studies
    assert studies[0].hyper_parameters == {"C": 10, "metric": "euclidean"}
    assert studies[-1].hyper_parameters == {"C": 2}


def test_what_was_not_said_is_not_in_the_study(plan):
    (study,) = plan('sampler = "disjoint"').studies
    assert study.model_fields_set == {"dataset", "sampler", "hyper_parameters"}
    assert [protocol.episodes for protocol in study.protocols()] == [SAMPLERS_DEFAULT] * 2


def test_none_is_no_base_stage_and_a_baseline_may_differ_between_datasets(plan):
    planned = plan('base_losses = "none"\ndatasets = ["glyphs", "fc100"]\nbaseline.fc100 = "cosine"')
    assert planned.studies[0].base_losses == ()
    assert planned.baselines == {"fc100": "cosine"}
    assert plan('datasets = ["glyphs", "fc100"]\nbaseline = "x"').baselines == {"glyphs": "x", "fc100": "x"}


WRONG = {
    "episods = 1": "line 1: there is no key 'episods'. Did you mean episodes?",
    "\n\nshots = [1]\nbackbones = 'a'\nepisods = 1": "line 4: there is no key 'backbones'. Did you mean backbone?",
    "[[methods]]\n\n[[methods]]\nadaptation = 'centroid'": (
        "line 4: there is no key 'adaptation' in methods. Did you mean adaptations?"
    ),
    "[outputs]\nlatecs = true": "line 2: there is no key 'latecs' in outputs. Did you mean latex?",
    "[[methods]]\nepisodes = 5": (
        "line 2: episodes belongs to the whole study: write it at the top, above the first table."
    ),
    "[[methods]]\nlambda = 1\ntune = 'all'": (
        "line 3: tune is a hyper-parameter of adaptations: write hyper_parameters.tune."
    ),
    "episodes = '3'": "line 1: episodes should be a valid integer, not '3'.",
    "runs = true": "line 1: runs should be a valid integer, not True.",
    "shots = [1,\n2, '5']": "line 2: shots should be a valid integer, not '5'.",
    "[[methods]]\nlambda = [0.5,\n  1.5]": "line 3: lambda should be less than or equal to 1, not 1.5.",
    "way = 5\nmethods = { backbone = 'x' }": (
        "line 2: methods should be a list, not {'backbone': 'x'}."
    ),
    "fractions = [0.5, 0.5]": "line 1: fractions has the wrong number of values.",
    "adaptations = ['centriod']": "line 1: there is no adaptation called 'centriod'. Did you mean centroid or entropy?",
    "\n[[methods]]\nbase_losses = ['ce',\n 'ce+shane']": (
        "line 4: there is no loss called 'ce+shane'. Did you mean ce+schane"
    ),
    "adaptations = 'logistic'\nhyper_parameters.c = 1": (
        "line 2: no adaptation of this study has a hyper-parameter 'c'. Did you mean C?"
    ),
    "[[methods]]\nadaptations = 'logistic'\n[[methods]]\nhyper_parameters.C = 1": (
        "line 4: no adaptation of this table has a hyper-parameter 'C'. Known: features, metric."
    ),
    "[[methods]]\nadaptations = 'centroid'\n[methods.hyper_parameters]\nmetrik = 'euclidean'": (
        "line 4: no adaptation of this table has a hyper-parameter 'metrik'. Did you mean metric?"
    ),
    "shots = [1]\ndatasets = ['glyphs',\n'glyph']": "line 3: there is no dataset called 'glyph'. Did you mean glyphs?",
    "[[methods]]\nbackbone = 'conv4_23'": "line 2: there is no backbone called 'conv4_23'. Did you mean conv4_32",
    "shots = []": "line 1: shots should have one value or more, not none.",
    "datasets = []": "line 1: datasets should have one value or more, not none.",
    "[[methods]]\nadaptations = []": "line 2: adaptations should have one value or more, not none.",
    "[[methods]]\n\nlosses = []": "line 3: losses should have one value or more, not none.",
    "datasets = ['glyphs']\n[[methods]]\ndatasets = ['fc100']": "line 3: fc100 is not one of the study's datasets",
    "baseline.fc100 = 'x'": "line 1: fc100 is not one of the study's datasets.",
    "[[methods]]\ndatasets = []": "line 1: no method is for any of the study's datasets.",
    "lambda = [0.1, 0.9]\nuntil_ci = 0.2": "line 2: until_ci stops the methods of one network together",
    "backbone = ['conv4_32',\n'conv4_23']": "line 2: there is no backbone called 'conv4_23'. Did you mean conv4_32",
    "backbone = []": "line 1: backbone should have one value or more, not none.",
    "backbone = ['conv4_32', 'conv4_64']\nuntil_ci = 0.2": "line 2: until_ci stops the methods of one network together",
    "backbone = ['conv4_32', 'os:system']": "Or type it: --set backbone=os:system",
    "backbone = 'os:system'": (
        "line 1: os:system names code, which is imported from a study file only with --trust-code. Or type it: "
        "--set backbone=os:system"
    ),
    "[[methods]]\nadaptations = ['centroid', 'os:system']": "Or type it: --set methods.0.adaptations=os:system",
    "datasets = ['os:system']": "line 1: os:system names code",
    "datasets = ['glyphs', 'hf:a/b']": "line 1: hf:a/b names code, which is imported from a study file only with",
    "losses = ['timm:resnet18']": "line 1: timm:resnet18 names code",
    "base_losses = ['hf:x']": "line 1: hf:x names code",
    "backbone = 'evil:1'": "line 1: evil:1 names code",
    "[outputs]\nmarkdown = '../../.profile'": "line 2: markdown should be true, false, or a file name without folders",
    "[outputs]\nplus_minus = 'all'": "line 2: plus_minus should be 'task', 'data', 'both' or 'none', not 'all'.",
    "[outputs.labels]\na = 'A'\nb = ' '": "line 3: b should be the name that a table shows, not ' '.",
    "[outputs]\nlatex = 'outcomes'": "line 2: latex should be true, false, or a file name",
    "[outputs]\nfigures = 'studies'": "line 2: figures should be true, false, or a file name",
    "[outputs]\n\nlatex = 'leaderboard.csv'": (
        "line 3: latex and leaderboard are both called leaderboard.csv; give one of them another name."
    ),
    "[outputs]\nmarkdown = 'Table'\nlatex = 'table'": "line 3: latex and markdown are both called table;",
    "a = 1\nb = = 2": "line 2, column 5: ",
    "a = [": "last line: ",
    f"lambda = {[n / 1e4 for n in range(100)]}\ntau = {[1 + n for n in range(100)]}": "more than 2,000 studies",
    "a" + ".a" * 900 + " = 1": "too many nested tables",
    "#" * 64_001: "has more than 64,000 bytes",
}  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), WRONG.items(), ids=[text[:24] for text in WRONG])
def test_what_is_wrong_is_named_with_its_line_and_the_nearest_key(plan, text, sentence):
    with pytest.raises(StudyError) as error:
        plan(text)
    assert str(error.value).startswith("study.toml")
    assert sentence in str(error.value)


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_bytes(b"name = 'a'\nname = '\xff'\n")
    with pytest.raises(StudyError, match=r"study\.toml, line 2: .*UTF-8"):
        plan_of_file("study.toml")


def test_a_file_that_is_not_there_is_told_from_a_preset_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=r"there is no file mine\.toml"):
        plan_of_file("mine.toml")
    with pytest.raises(UnknownNameError, match="Did you mean quickstart"):
        plan_of_file("quikstart")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StudyError, match="folder is a folder"):
        plan_of_file("folder")


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("episodes=100", "episodes", 100),
        ("shots=1,2", "shots", (1, 2)),
        ("shots=3", "shots", (3,)),
        ("shots=[4, 5]", "shots", (4, 5)),
        ("methods.0.lambda=0.5", "lambda_", 0.5),
        ("methods.0.adaptations=logistic,centroid", "adaptations", ("logistic", "centroid")),
        ("methods.0.base_losses=none", "base_losses", ()),
        ("methods.0.hyper_parameters.metric=euclidean", "hyper_parameters", {"metric": "euclidean"}),
        ("hyper_parameters.features=cl2", "hyper_parameters", {"features": "cl2"}),
        ("methods.0.backbone=os:system", "backbone", "os:system"),
        ("least-images=3", "least_images", 3),
        ("fractions=0.5,0.2,0.3", "fractions", (0.5, 0.2, 0.3)),
    ],
)
def test_set_changes_any_key(plan, change, field, value):
    study = plan(
        "[[methods]]\nbackbone = 'conv4_32'\nadaptations = ['centroid']\nbase_losses = ['ce']", change
    ).studies[0]
    assert getattr(study, field) == value


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("episods=1", "--set episods=1: there is no key 'episods'. Did you mean episodes?"),
        ("episodes=many", "--set episodes=many: episodes should be a valid integer, not 'many'."),
        ("methods.1.tau=1", "--set methods.1.tau=1: the study has methods.0 only."),
        ("methods.tau=1", "--set methods.tau=1: name one of the 1 methods, as in methods.0.tau."),
        ("methods.0.tua=1", "--set methods.0.tua=1: there is no key 'tua' in methods. Did you mean tau?"),
        ("outputz.latex=true", "--set outputz.latex=true: there is no key 'outputz'. Did you mean outputs?"),
        ("name.x=1", "--set name.x=1: name is not a table"),
        ("backbone=a", "--set backbone=a changes nothing"),
    ],
)
def test_set_says_what_is_wrong_with_it(plan, change, sentence):
    with pytest.raises(StudyError) as error:
        plan("name = 'x'\nepisods = 2\n[[methods]]\nbackbone = 'conv4_32'" if "episods" not in change else "", change)
    assert str(error.value).startswith(sentence)


def test_two_datasets_by_set_make_two_studies(plan):
    assert [study.dataset for study in plan("", "datasets=cifar-fs,fc100").studies] == ["cifar-fs", "fc100"]


def test_a_study_of_a_file_can_be_recorded_as_plain_data(plan):
    assert json.dumps(plan("hyper_parameters.C = 1\nadaptations='logistic'").studies[0].model_dump(mode="json"))

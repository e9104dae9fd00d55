"""A classifier is what the evaluation was of: the same predictions, also after it was kept and loaded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import toy_split
from own_code import ADAPTATION, BACKBONE, code, helper, write  # noqa: F401  # a fixture
from PIL import Image
from samples import class_images, write_folder

import fewshot_bench as fb
from fewshot_bench.adaptation import ADAPTATIONS, EmbeddedSplit, EmbeddingAdaptation
from fewshot_bench.backbones import BackboneRequest, embed
from fewshot_bench.backbones.weights import weights_digest
from fewshot_bench.datasets.dataset import Dataset, ImageSplit, split_fingerprint
from fewshot_bench.engine.classify import classify
from fewshot_bench.errors import (
    ClassifierError,
    CodeNotTrustedError,
    DatasetError,
    FewshotBenchError,
    StudyError,
)
from fewshot_bench.evaluation.fit import fit_study
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import leaderboard
from fewshot_bench.study import Study, run_study
from fewshot_bench.study.known_names import OWN_NAMES

MADE = {
    entry.name: entry.factory(**entry.preset)
    for entry in ADAPTATIONS
    if issubclass(entry.factory, EmbeddingAdaptation) and entry.name in OWN_NAMES["adaptation"]
}
INDUCTIVE = {name: method for name, method in MADE.items() if not method.is_transductive and name != "simpleshot"} | {
    "centroid-euclidean": fb.Centroid(metric="euclidean", features="raw"),
    "finetune-head-cosine": fb.FinetuneHead(head="cosine", steps=8),
    "logistic-chosen": fb.Logistic(choose="support-cv"),
    "ridge-ensemble": fb.Ridge(choose="ensemble"),
}
"""Every inductive head of the registry; simpleshot needs a base split."""


def backbone(seed=0, size=16, channels=3):
    """A tiny network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return fb.create_backbone(BackboneRequest("conv4_32", channels, size))


def dataset_of(pixels, sizes, names=None):
    """A dataset with one split."""
    names = names or tuple(f"class {number}" for number in range(len(sizes)))
    split = ImageSplit("mine", "novel", pixels, names, sizes, split_fingerprint(pixels, names, sizes))
    return Dataset("mine", {"novel": split})


def toy_dataset(**options):
    return Dataset("toy", {"novel": toy_split(**options)})


def episode():
    """An episode of toy images: the split, its episodes, support pixels class by class, query pixels."""
    split = toy_split(classes=6, images=12, seed=5)
    episodes = fb.sample_episodes(split, fb.Protocol("toy", shot=3, query=4, episodes=1, runs=1))
    support = split.images[episodes.support[0].reshape(-1)]
    return split, episodes, support, split.images[episodes.queries[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", INDUCTIVE)
def test_predictions_are_those_of_the_evaluation_on_the_same_support_set(name, tmp_path):
    adaptation, network = INDUCTIVE[name], backbone()
    split, episodes, support, queries = episode()
    embeddings = torch.from_numpy(np.array(embed(split, network)))
    embedded = EmbeddedSplit(embeddings, len(split)).with_features(adaptation.features)
    expected = classify(adaptation, embedded, episodes)[0]
    classifier = fb.fit(adaptation, dataset_of(support, (3,) * 5), network)
    found = classifier.predict(queries)
    names = [classifier.class_names[number] for number in expected]
    assert found.labels == names
    loaded = fb.Classifier.load(classifier.save(tmp_path / "model"), device="cpu")
    again = loaded.predict(queries)
    assert again.labels == names
    assert np.allclose(again.scores, found.scores, atol=1e-6)


def test_a_kept_classifier_is_the_same_after_loading(tmp_path):
    classifier = fb.fit("logistic", toy_dataset(classes=3, images=5), backbone())
    folder = classifier.save(tmp_path / "model")
    loaded = fb.Classifier.load(folder, device="cpu")
    assert loaded.card == classifier.card
    assert sorted(path.name for path in folder.iterdir()) == ["head.safetensors", "model.json", "weights.safetensors"]
    pixels = toy_split(classes=3, images=4, seed=9).images
    assert np.array_equal(loaded.predict(pixels).scores, classifier.predict(pixels).scores)
    assert loaded.save(tmp_path / "copy") == tmp_path / "copy"
    assert (tmp_path / "copy/model.json").read_bytes() == (folder / "model.json").read_bytes()


def test_every_image_of_uneven_classes_is_learned_from_where_the_method_takes_them():
    sizes = (2, 7, 4)
    pixels = toy_split(classes=3, images=7).images
    rows = np.concatenate([np.arange(7 * label, 7 * label + size) for label, size in enumerate(sizes)])
    classifier = fb.fit("logistic", dataset_of(pixels[rows], sizes), backbone())
    assert classifier.card.class_sizes == sizes
    assert classifier.card.note == ""


def test_other_methods_get_the_same_number_of_each_class_and_say_so():
    sizes = (2, 7, 4)
    pixels = toy_split(classes=3, images=7).images
    rows = np.concatenate([np.arange(7 * label, 7 * label + size) for label, size in enumerate(sizes)])
    uneven = dataset_of(pixels[rows], sizes)
    for method in (fb.BaselinePlusPlus(epochs=2), fb.Logistic(choose="support-cv")):
        card = fb.fit(method, uneven, backbone(), seed=3).card
        assert card.class_sizes == (2, 2, 2)
        assert "2 images of each class" in card.note
        assert "seed 3" in card.note
        assert "7 others were not" in card.note


def test_a_number_of_images_of_each_class_is_chosen_by_the_seed_alone():
    dataset = toy_dataset(classes=3, images=9)
    first, same, other = (fb.fit("knn", dataset, backbone(), shot=2, seed=seed) for seed in (1, 1, 2))
    assert first.card.class_sizes == (2, 2, 2)
    assert first.card.head.tensors == same.card.head.tensors != other.card.head.tensors
    with pytest.raises(DatasetError, match=r"--shot 10 .* has 9"):
        fb.fit("knn", dataset, backbone(), shot=10)


def test_a_probability_is_named_where_the_method_has_one():
    dataset, pixels = toy_dataset(classes=3, images=5), toy_split(classes=3, images=2).images
    logistic = fb.fit("logistic", dataset, backbone()).predict(pixels)
    assert logistic.kind == "probability"
    assert np.allclose(logistic.scores.sum(axis=1), 1)
    assert list(logistic.to_frame(2).columns) == ["image", "class", "probability", "class_2", "probability_2"]
    centroid = fb.fit("centroid", dataset, backbone()).predict(pixels)
    assert centroid.kind == "cosine"
    assert list(centroid.to_frame().columns) == ["image", "class", "score"]
    assert len(centroid.to_frame(99).columns) == 7


def test_an_image_scores_alike_alone_and_among_others():
    classifier = fb.fit("logistic", toy_dataset(classes=3, images=5), backbone())
    pixels = toy_split(classes=3, images=4, seed=2).images
    together = classifier.predict(pixels).scores
    alone = np.concatenate([classifier.predict(image).scores for image in pixels])
    assert np.allclose(together, alone, atol=1e-6)


REFUSED = {
    "a transductive method": (fb.TIM(), "transductive"),
    "a method that changes the network": (fb.Finetune(), "embeddings"),
    "a method of whole datasets": ("linear-probe", "embeddings"),
    "a method that needs views": (fb.Logistic(views=2), "fit_study"),
    "no method": (3, "int"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_method_without_a_classifier_is_refused(kind):
    method, word = REFUSED[kind]
    with pytest.raises(StudyError, match=word):
        fb.fit(method, toy_dataset(classes=3, images=5), backbone())


def test_one_class_is_no_choice():
    with pytest.raises(StudyError, match="one class"):
        fb.fit("centroid", toy_dataset(classes=1, images=5), backbone())


def test_arrays_of_another_size_or_colour_become_those_of_the_dataset():
    grey = toy_dataset(classes=3, images=5, channels=1)
    classifier = fb.fit("centroid", grey, backbone(channels=1))
    small = toy_split(classes=3, images=2, channels=1, seed=4).images
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    coloured = large.repeat(3, axis=3)
    labels = [classifier.predict(pixels).labels for pixels in (small, large, coloured)]
    assert labels[0] == labels[1] == labels[2]
    empty = np.empty((0, 16, 16, 1), np.uint8)
    for wrong in (small.astype(np.float32), small[0, 0], empty, None, 3, b"a.png", [small]):
        with pytest.raises(ClassifierError, match="uint8"):
            classifier.predict(wrong)


@pytest.fixture
def photos(tmp_path):
    """Photos of three classes in folders, 20 px."""
    return write_folder(tmp_path / "photos", class_images(images=4, size=20))


def test_a_photo_of_the_dataset_is_read_as_the_dataset_was(photos):
    dataset = fb.open_dataset(str(photos))
    classifier = fb.fit("knn", dataset, backbone(size=20))
    by_file = classifier.predict(photos)
    by_pixels = classifier.predict(dataset.novel)
    assert [name.removeprefix(f"{photos}/") for name in by_file.images] == list(by_pixels.images)
    assert np.array_equal(by_file.scores, by_pixels.scores)
    assert by_file.labels == [name.split("/")[0] for name in by_pixels.images]


def test_images_that_cannot_be_read_are_named_and_the_others_classified(photos, tmp_path):
    classifier = fb.fit("centroid", fb.open_dataset(str(photos)), backbone(size=20))
    new = tmp_path / "new"
    (new / "deep/er").mkdir(parents=True)
    Image.new("RGB", (50, 30), "red").save(new / "deep/er/b.jpg")
    Image.new("L", (9, 30), 7).save(new / "a.png")
    Image.new("I;16", (20, 20), 40_000).save(new / "deep/16.png")
    (new / "empty.png").touch()
    (new / "garbage.jpg").write_bytes(b"\xff\xd8 no photo")
    (new / "half.png").write_bytes((new / "a.png").read_bytes()[:40])
    (new / "gone.png").symlink_to(new / "nowhere.png")
    (new / "note.txt").write_text("text")
    (new / ".DS_Store").write_bytes(b"clutter")
    found = classifier.predict([new])
    assert [name.removeprefix(f"{new}/") for name in found.images] == ["a.png", "deep/16.png", "deep/er/b.jpg"]
    refused = {image.name.removeprefix(f"{new}/"): image.reason for image in found.refused}
    assert set(refused) == {"empty.png", "garbage.jpg", "half.png", "gone.png"}
    assert "empty" in refused["empty.png"]


BAD_PLACES = {
    "none": ([], "no images"),
    "missing": (["missing.png"], "missing.png"),
    "an empty folder": (["hollow"], "hollow"),
    "a folder of texts": (["texts"], "texts"),
    "twice": (["photos/cat/0.png", "photos/../photos/cat/0.png"], "twice"),
    "a file and its folder": (["photos", "photos/cat/0.png"], "twice"),
    "nothing readable": (["bad.png"], "bad.png"),
}


@pytest.mark.parametrize("kind", BAD_PLACES)
def test_places_without_images_are_refused_in_one_line(kind, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("a")
    (tmp_path / "bad.png").write_bytes(b"bad")
    classifier = fb.fit("centroid", fb.open_dataset(str(photos)), backbone(size=20))
    places, word = BAD_PLACES[kind]
    with pytest.raises(DatasetError, match=word) as error:
        classifier.predict(places)
    assert "\n" not in str(error.value)
    assert "new/" not in str(error.value)


def test_a_folder_is_replaced_only_if_asked_and_only_a_classifier(tmp_path):
    classifier = fb.fit("centroid", toy_dataset(classes=3, images=5), backbone())
    other = fb.fit("centroid", toy_dataset(classes=4, images=5), backbone())
    folder = classifier.save(tmp_path / "model")
    with pytest.raises(ClassifierError, match="--replace"):
        other.save(folder)
    assert len(fb.Classifier.load(folder).class_names) == 3
    other.save(folder, replace=True)
    assert len(fb.Classifier.load(folder).class_names) == 4
    write_folder(tmp_path / "mine", [("photo.png", b"")])
    (tmp_path / "link").symlink_to(folder)
    for name in ("mine", "mine/photo.png", "link"):
        with pytest.raises(ClassifierError, match="not a classifier"):
            other.save(tmp_path / name, replace=True)
    assert (tmp_path / "mine/photo.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["link", "mine", "model"]


def test_a_full_disk_leaves_the_old_classifier(tmp_path, monkeypatch):
    classifier = fb.fit("centroid", toy_dataset(classes=3, images=5), backbone())
    folder = classifier.save(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fewshot_bench.evaluation.classifier.write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        classifier.save(folder, replace=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["model"]


def study_of(tmp_path, photos, **fields):
    """A study of own photos with a network from a weights file."""
    weights = tmp_path / "weights.safetensors"
    if not weights.exists():
        from safetensors.torch import save_file

        save_file(backbone(size=20).network.state_dict(), weights)
    options = {"backbone": "conv4_32", "weights": weights, "base_losses": (), "results": tmp_path / "results"}
    return Study(dataset=str(photos), adaptations=("logistic",), way=3, query=2, **(options | fields))


@pytest.mark.slow
def test_the_accuracy_that_was_measured_is_kept_with_its_own_shots(tmp_path, photos):
    asked = {"hyper_parameters": {"C": 3.0}}
    assert fit_study(study_of(tmp_path, photos, **asked)).card.measured is None
    run_study(study_of(tmp_path, photos, shots=(1, 2), episodes=20, runs=2, **asked))
    classifier = fit_study(study_of(tmp_path, photos, **asked))
    assert [(found.way, found.shot, found.episodes) for found in classifier.measured] == [(3, 1, 40), (3, 2, 40)]
    rows = leaderboard(OutcomeStore(tmp_path / "results/outcomes"))
    assert [found.mean for found in classifier.measured] == rows["mean"].tolist()
    assert [found.ci95 for found in classifier.measured] == rows["ci95"].tolist()
    # another setting, or other images, are another method or dataset
    assert fit_study(study_of(tmp_path, photos, hyper_parameters={"C": 4.0})).card.measured is None
    write_folder(photos, [("cat/9.png", class_images(seed=7, size=20)[0][1])])
    assert fit_study(study_of(tmp_path, photos, **asked)).card.measured is None


@pytest.mark.slow
@pytest.mark.parametrize("features", ["cl2", "power"])
def test_a_study_fits_what_needs_the_base_split_or_views(features, tmp_path, photos):
    settings = {"views": 2} if features == "power" else {}
    members = class_images(("ant", "bee", "fly"), images=4, size=20, seed=3)
    write_folder(tmp_path / "split/base", members)
    write_folder(tmp_path / "split/novel", class_images(images=4, size=20))
    study = study_of(tmp_path, tmp_path / "split", hyper_parameters={"features": features, **settings})
    classifier = fit_study(study)
    folder = classifier.save(tmp_path / "model")
    loaded = fb.Classifier.load(folder, device="cpu")
    pixels = fb.open_dataset(str(tmp_path / "split")).novel
    assert np.allclose(loaded.predict(pixels).scores, classifier.predict(pixels).scores)
    assert (loaded.center is not None) == (features == "cl2")


@pytest.mark.slow
def test_a_checkpoint_is_found_by_its_name_or_copied(tmp_path):
    write_folder(tmp_path / "split/base", class_images(("ant", "bee", "fly"), images=6, size=20, seed=3))
    write_folder(tmp_path / "split/novel", class_images(images=4, size=20))
    place = str(tmp_path / "split")
    settings = {"epochs": 1, "batch_size": 9}
    checkpoint = fb.train_backbone(
        fb.TrainingPlan(name="mine", dataset=place, recipe=settings, validate_every=0, device="cpu")
    )
    classifier = fit_study(Study(dataset=place, checkpoints=("mine",), adaptations=("logistic",), device="cpu"))
    by_name = classifier.save(tmp_path / "by-name")
    copied = classifier.save(tmp_path / "copied", with_weights=True)
    assert not (by_name / "weights.safetensors").exists()
    pixels = fb.open_dataset(place).novel
    expected = classifier.predict(pixels).scores
    assert np.allclose(fb.Classifier.load(by_name, device="cpu").predict(pixels).scores, expected)
    checkpoint.path.unlink()
    with pytest.raises(FewshotBenchError, match="mine"):
        fb.Classifier.load(by_name)
    assert np.allclose(fb.Classifier.load(copied, device="cpu").predict(pixels).scores, expected)


def test_several_methods_are_not_one_classifier(tmp_path, photos):
    study = study_of(tmp_path, photos).model_copy(update={"adaptations": ("centroid", "logistic")})
    with pytest.raises(StudyError, match="--adapt"):
        fit_study(study)


def test_other_weights_under_the_name_are_found(tmp_path, monkeypatch):
    classifier = fb.fit("centroid", toy_dataset(classes=3, images=5), backbone(seed=0))
    folder = classifier.save(tmp_path / "model")
    other = fb.fit("centroid", toy_dataset(classes=3, images=5), backbone(seed=1)).save(tmp_path / "other")
    (folder / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    with pytest.raises(ClassifierError, match="another network"):
        fb.Classifier.load(folder)


def test_code_is_imported_only_where_it_is_trusted(code, tmp_path):  # noqa: F811
    write(code, mymethod=ADAPTATION.format(helper="myhelper"), myhelper=helper(2.0), mynetwork=BACKBONE)
    dataset = toy_dataset(classes=3, images=5)
    classifier = fb.fit("mymethod:Mine", dataset, fb.create_backbone(BackboneRequest("mynetwork:backbone", 3, 16)))
    folder = classifier.save(tmp_path / "model")
    assert classifier.predict(dataset.novel.images).kind == "score"
    forget_everything()
    with pytest.raises(CodeNotTrustedError, match="--trust-code"):
        fb.Classifier.load(folder)
    loaded = fb.Classifier.load(folder, trusts_code=True)
    assert np.array_equal(loaded.predict(dataset.novel.images).scores, classifier.predict(dataset.novel.images).scores)
    assert loaded.backbone.weights == weights_digest(classifier.backbone.network)


def forget_everything():
    """As in another process: nothing is admitted."""
    from fewshot_bench.adaptation import ADAPTATIONS
    from fewshot_bench.backbones import BACKBONES

    for registry, name in ((ADAPTATIONS, "mymethod:Mine"), (BACKBONES, "mynetwork:backbone")):
        registry._entries.pop(name, None)
        registry._admitted.pop(name, None)


def test_changed_code_is_another_method(code, tmp_path):  # noqa: F811
    write(code, mymethod=ADAPTATION.format(helper="myhelper"), myhelper=helper(2.0))
    folder = fb.fit("mymethod:Mine", toy_dataset(classes=3, images=5), backbone()).save(tmp_path / "model")
    card = (folder / "model.json").read_text()
    digest = fb.Classifier.load(folder).card.head.code["digest"]
    (folder / "model.json").write_text(card.replace(digest, "0" * len(digest)))
    with pytest.raises(FewshotBenchError, match="has changed"):
        fb.Classifier.load(folder)


def test_a_classifier_prints_itself_in_one_line():
    classifier = fb.fit("centroid", toy_dataset(classes=3, images=5), backbone())
    assert repr(classifier) == "<Classifier: 3 classes of toy, conv4_32/centroid, not measured>"
    predictions = classifier.predict(toy_split(classes=3, images=2).images)
    assert repr(predictions) == "<Predictions: 6 images, 3 classes, cosine>"
    assert "<table" in predictions._repr_html_()
    assert "novel-0" in classifier._repr_html_()

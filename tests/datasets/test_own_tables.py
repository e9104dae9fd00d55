"""Tables of one's own images: which rows are left out and named, and which tables are refused."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import png
from samples import class_images, write_folder

from fewshot_bench.datasets import OwnOptions, open_dataset
from fewshot_bench.datasets.dataset import left_out_lines
from fewshot_bench.datasets.own_listing import class_names_of
from fewshot_bench.errors import DatasetError

ROWS = [(f"{name}/{number}.png", name) for name in ("cat", "dog", "owl") for number in range(3)]


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_folder(tmp_path, class_images())


def table(folder: Path, lines: list[str], *, header: str = "path,label", name: str = "t.csv") -> Path:
    (folder / name).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder / name


def rows(*more: str) -> list[str]:
    return [*(f"{path},{label}" for path, label in ROWS), *more]


BAD_ROWS = {
    "no label": ("cat/0.png,", "no label"),
    "a label of spaces": ("cat/0.png,   ", "no label"),
    "nan": ("cat/0.png,nan", "no label"),
    "NaN": ("cat/0.png,NaN", "no label"),
    "NaT": ("cat/0.png,NaT", "no label"),
    "pandas' own": ("cat/0.png,<NA>", "no label"),
    "no path": (",cat", "no path"),
    "too few fields": ("cat/0.png", "1 fields, the header has 2"),
    "too many fields": ("cat/0.png,cat,more", "3 fields, the header has 2"),
    "far too many fields": ("cat/0.png,cat,,,5", "5 fields, the header has 2"),
    "a path that is too long": ("x" * 300 + ",cat", "its path of 300 characters is too long"),
    "a far longer path": ("x/" * 3000 + ",cat", "its path of 6,000 characters is too long"),
    "a backslash": (r"cat\0.png,cat", "no such file; write / where the path has \\"),
    "NUL": ("cat/0\0.png,cat", "it has a NUL character"),
    "a file that is gone": ("cat/gone.png,cat", "no such file"),
    "a folder": ("cat,cat", "it is a folder, a pipe or a device, not a file"),
    "a file as a folder": ("cat/0.png/1.png,cat", "no such file"),
    "a quote that is not closed": ('"cat/0.png,cat', "a quotation mark too many or too few"),
    "a quote that ends too soon": ('"cat"/0.png,cat', "a quotation mark too many or too few"),
    "a row again": ("cat/0.png,cat", "the same row comes before"),
    "the file by another name": ("./dog/../cat/0.png,cat", "the same file as cat/0.png"),
}


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_left_out_and_named_and_no_other_is(folder, case, place):
    bad, reason = BAD_ROWS[case]
    if "same" in reason:
        place = 9
    lines = rows()
    lines.insert(place, bad)
    dataset = open_dataset(table(folder, lines))
    assert dataset.novel.class_names == ("cat", "dog", "owl")
    assert dataset.novel.class_sizes == (3, 3, 3)
    ((name, why),) = dataset.preprocessing["skipped"]
    assert why == reason
    assert name.startswith(f"row {place + 1}")


def test_rows_that_are_left_out_are_counted_by_reason_with_the_first_as_an_example(folder):
    dataset = open_dataset(table(folder, ["cat/0.png,", *rows(), "gone.png,cat", "dog/0.png,"]))
    assert left_out_lines(dataset.preprocessing) == [
        "2 rows: no label (first: row 1, cat/0.png)",
        "row 11, gone.png: no such file",
    ]


def test_a_table_of_which_nothing_is_left_is_refused_with_the_first_reason(folder):
    lines = [f"{path.replace('/', chr(92))},{label}" for path, label in ROWS]
    with pytest.raises(DatasetError, match=r"row 1, cat\\0.png: no such file; write / where the path has \\") as caught:
        open_dataset(table(folder, lines))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tail", [",", ",,", ", ,"])
def test_commas_behind_the_last_field_are_no_fields(folder, tail):
    dataset = open_dataset(table(folder, [line + tail for line in rows()]))
    assert dataset.novel.class_names == ("cat", "dog", "owl")
    assert dataset.preprocessing["skipped"] == []


def test_quotes_and_lines_within_them_are_read_as_spreadsheets_write_them(folder):
    write_folder(folder, [("a, b/1.png", png(np.zeros((12, 12, 3), np.uint8)))])
    lines = ['"a, b/1.png","cat","says ""hm"",\nand goes"', *(f"{line},plain" for line in rows())]
    dataset = open_dataset(table(folder, lines, header="\ufeffpath,label,caption"))
    assert dataset.novel.class_sizes == (4, 3, 3)
    assert dataset.preprocessing["skipped"] == []


@pytest.mark.parametrize("bad", ["cat/\0.png", "x" * 300, r"cat\0.png", None, "", "gone.png"])
def test_a_bad_row_of_parquet_is_left_out_and_named(folder, bad):
    pd.DataFrame([*ROWS, (bad, "cat")], columns=["path", "label"]).to_parquet(folder / "t.parquet")
    dataset = open_dataset(folder / "t.parquet")
    assert dataset.novel.class_sizes == (3, 3, 3)
    ((name, _),) = dataset.preprocessing["skipped"]
    assert name.startswith("row 10")


def test_a_million_rows_without_a_label_do_not_fill_every_result(folder):
    dataset = open_dataset(table(folder, rows(*["cat/0.png,"] * 3000)))
    assert len(dataset.preprocessing["skipped"]) == 1000
    assert left_out_lines(dataset.preprocessing) == ["3,000 rows: no label (first: row 10, cat/0.png)"]


@pytest.mark.parametrize("options", [OwnOptions(class_depth=2), OwnOptions(layout="classes")])
def test_options_for_folders_are_refused_for_a_table(folder, options):
    with pytest.raises(DatasetError, match=r"--class-depth and --layout say what folders are; .*t.csv is a table"):
        open_dataset(table(folder, rows()), own=options)


# One file under two labels or in two splits.


def other_names(folder: Path) -> dict[str, str]:
    os.link(folder / "cat/0.png", folder / "hard.png")
    (folder / "soft.png").symlink_to(folder / "cat/0.png")
    (folder / "linked").symlink_to(folder / "cat")
    return {
        "the same": "cat/0.png",
        "a dot": "./cat/0.png",
        "up and down": "dog/../cat/0.png",
        "two slashes": "cat//0.png",
        "absolute": str(folder / "cat/0.png"),
        "a hard link": "hard.png",
        "a link": "soft.png",
        "a linked folder": "linked/0.png",
    }


NAMES = ("the same", "a dot", "up and down", "two slashes", "absolute", "a hard link", "a link", "a linked folder")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_one_file_under_two_labels_is_refused_by_whatever_name(folder, name, kind):
    other = other_names(folder)[name]
    path = table(folder, rows(f"{other},dog"))
    if kind == "parquet":
        pd.read_csv(path).to_parquet(path.with_suffix(".parquet"))
        path = path.with_suffix(".parquet")
    with pytest.raises(DatasetError, match="in class 'cat' and in class 'dog'") as caught:
        open_dataset(path)
    assert other in str(caught.value)
    assert "cat/0.png" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_one_file_in_two_splits_is_refused_by_whatever_name(folder, name):
    lines = [f"{line},train" for line in rows()] + [f"{other_names(folder)[name]},cat,test"]
    with pytest.raises(DatasetError, match="in the base split and in the novel split"):
        open_dataset(table(folder, lines, header="path,label,split"))


def test_one_file_under_two_labels_in_two_splits_is_refused_with_both(folder):
    lines = [f"{line},train" for line in rows()] + ["cat/0.png,lynx,test"]
    with pytest.raises(DatasetError, match="in class 'cat' of the base split and in class 'lynx' of the novel split"):
        open_dataset(table(folder, lines, header="path,label,split"))


def test_copies_of_pixels_under_two_labels_are_told_and_not_refused(folder):
    (folder / "dog" / "copy.png").write_bytes((folder / "cat/0.png").read_bytes())
    dataset = open_dataset(table(folder, rows("dog/copy.png,dog")))
    assert dataset.novel.class_sizes == (3, 4, 3)
    assert dataset.preprocessing["warnings"] == [
        "2 images have exact copies in another class, such as novel/cat/cat/0.png and novel/dog/dog/copy.png."
    ]


def test_copies_of_pixels_in_two_splits_are_told(folder):
    (folder / "copy.png").write_bytes((folder / "cat/0.png").read_bytes())
    lines = [f"{line},{'test' if 'owl' in line else 'train'}" for line in rows()] + ["copy.png,owl,test"]
    dataset = open_dataset(table(folder, lines, header="path,label,split"))
    assert any("2 images have exact copies in another split" in text for text in dataset.preprocessing["warnings"])


def test_copies_within_a_class_are_told_since_one_can_be_support_of_the_other(folder):
    for name in ("copy.png", "another.png"):
        (folder / name).write_bytes((folder / "cat/0.png").read_bytes())
    (warning,) = open_dataset(table(folder, rows("copy.png,cat", "another.png,cat"))).preprocessing["warnings"]
    assert warning.startswith("2 images have exact copies in their own class")
    assert warning.endswith("such as novel/cat/another.png and novel/cat/cat/0.png.")


@pytest.mark.parametrize("name", ["two.csv", "two.tsv", "two.parquet"])
@pytest.mark.parametrize("twice", ["path", "label", "split", "Label "])
def test_a_column_that_is_there_twice_is_refused(folder, name, twice):
    columns = ["path", "label", "split", twice]
    values = [[path, label, "test", "other"] for path, label in ROWS]
    if name.endswith("parquet"):
        arrays = [pa.array(column) for column in zip(*values, strict=True)]
        pq.write_table(pa.Table.from_arrays(arrays, names=columns), folder / name)
    else:
        mark = "\t" if name.endswith("tsv") else ","
        table(folder, [mark.join(row) for row in values], header=mark.join(columns), name=name)
    with pytest.raises(DatasetError, match=f"several columns '{twice.strip().lower()}'. Rename or remove"):
        open_dataset(folder / name)


@pytest.mark.parametrize(
    ("name", "mark", "told"),
    [("a.csv", ";", "semicolons"), ("a.csv", "|", "bars"), ("a.csv", "\t", "tabs"), ("a.tsv", ",", "commas")],
)
def test_a_table_with_another_separator_is_refused_with_a_hint(folder, name, mark, told):
    path = table(folder, [line.replace(",", mark) for line in rows()], header=f"path{mark}label", name=name)
    with pytest.raises(DatasetError, match=f"Are its fields separated by {told}\\? A .csv is read with commas"):
        open_dataset(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_refused_with_the_way_out(folder, encoding):
    (folder / "t.csv").write_text("\n".join(["path,label", *rows("cat/0.png,\u00e9")]), encoding=encoding)
    with pytest.raises(DatasetError, match=r"Save it as UTF-8\.$"):
        open_dataset(folder / "t.csv")


# Labels of every type.

LISTS = {
    "lists": [0, 1],
    "a list of one": [0],
    "an empty list": [],
    "an array": np.array([0, 1]),
    "texts": ["a", "b"],
    "a structure": {"a": 1, "b": 0},
    "a list as text": "[0, 1]",
    "one number in brackets": "[3]",
    "an array as text": "[0 1 0]",
    "a tuple as text": "(0, 1)",
    "texts as text": "['cat', 'dog']",
    "a dictionary as text": "{'cat': 1}",
    "an empty list as text": "[]",
}


@pytest.mark.parametrize("case", LISTS)
def test_several_classes_for_one_image_are_refused(folder, case):
    frame = pd.DataFrame([(path, LISTS[case]) for path, _ in ROWS], columns=["path", "label"])
    frame.to_parquet(folder / "t.parquet")
    with pytest.raises(DatasetError, match=r"row 1 of the labels of .*: several classes for one image"):
        open_dataset(folder / "t.parquet")
    frame["label"] = frame["label"].map(lambda value: value.tolist() if isinstance(value, np.ndarray) else value)
    frame.to_csv(folder / "t.csv", index=False)
    with pytest.raises(DatasetError, match="several classes for one image"):
        open_dataset(folder / "t.csv")


@pytest.mark.parametrize("label", ["(unknown)", "cat (young)", "[unknown]x", "a,b", "{x", "-", "0.5 mm"])
def test_odd_names_of_classes_are_names(label):
    assert class_names_of([label, "other"], "here")[0] == [label, "other"]


COLUMNS = {
    "integers": ([1, 2, 10], ["1", "2", "10"]),
    "integers beside None": ([1, None, 10], ["1", None, "10"]),
    "floats that are whole": ([1.0, float("nan"), 10.0], ["1", None, "10"]),
    "NumPy's": ([np.float32(1), np.int64(2), np.float64("nan")], ["1", "2", None]),
    "text of whole numbers with a point": (["1.0", "", "10.0"], ["1", None, "10"]),
    "text of whole numbers, some with a point": (["1.0", "1", "2"], ["1", "1", "2"]),
    "versions": (["1.0", "1.5", "2.0"], ["1.0", "1.5", "2.0"]),
    "large numbers": ([2**60 + 1, None], [str(2**60 + 1), None]),
    "texts": (["a", None, " b "], ["a", None, "b"]),
    "bytes": ([b"a", None], ["a", None]),
    "times that are missing": ([pd.NaT, "a"], [None, "a"]),
    "words for nothing among numbers": (["1", "None", "null", "N/A", "2"], ["1", None, None, None, "2"]),
    "words for nothing among names": (["cat", "None", "nan"], ["cat", "None", None]),
    "truth": ([True, False], ["True", "False"]),
    "two forms of a letter": (["e\u0301", "\u00e9"], ["\u00e9", "\u00e9"]),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_labels_of_any_type_become_names_and_what_is_missing_none(case):
    labels, expected = COLUMNS[case]
    assert class_names_of(labels, "here")[0] == expected


@pytest.mark.parametrize(("labels", "name"), [(["cat", "None"], "None"), (["0", "1", "-1"], "-1"), (["a", "NA"], "NA")])
def test_a_class_whose_name_may_mean_that_there_is_none_is_told(labels, name):
    _, (note,) = class_names_of(labels, "the labels of t.csv")
    assert note.startswith(f"'{name}' in the labels of t.csv is a class of 1 images.")


@pytest.mark.parametrize("value", [0.5, float("inf"), np.float32(1.25)])
def test_fractions_are_no_classes(value):
    with pytest.raises(DatasetError, match="a fraction, which cannot be a class"):
        class_names_of([1.0, value], "here")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_integers_stay_integers_where_some_are_missing(folder, kind):
    labels = [{"cat": 1, "dog": 2, "owl": 10}[name] if "0" not in path else None for path, name in ROWS]
    frame = pd.DataFrame({"path": [path for path, _ in ROWS], "label": labels})
    getattr(frame, f"to_{kind}")(folder / f"t.{kind}", index=False)
    dataset = open_dataset(folder / f"t.{kind}")
    assert dict(zip(dataset.novel.class_names, dataset.novel.class_sizes, strict=True)) == {"1": 2, "10": 2, "2": 2}
    assert left_out_lines(dataset.preprocessing) == ["3 rows: no label (first: row 1, cat/0.png)"]


def test_a_row_without_a_split_is_left_out(folder):
    lines = [f"{line},{'' if 'cat/0' in line else 'test'}" for line in rows()]
    dataset = open_dataset(table(folder, lines, header="path,label,split"))
    assert dataset.preprocessing["skipped"] == [["row 1, cat/0.png", "no split"]]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_table", ["NFC", "NFD"])
def test_paths_are_found_in_whatever_unicode_form(folder, on_disk, in_table):
    name = "école/été.png"
    write_folder(
        folder / unicodedata.normalize(on_disk, "bât"),
        [(unicodedata.normalize(on_disk, name), png(np.zeros((12, 12, 3), np.uint8)))],
    )
    path = unicodedata.normalize(in_table, f"bât/{name}")
    dataset = open_dataset(table(folder, rows(f"{path},{unicodedata.normalize(in_table, 'é')}")))
    assert dataset.preprocessing["skipped"] == []
    assert dataset.novel.class_names == ("cat", "dog", "owl", "é")


# Hugging Face datasets on disk.


@pytest.fixture
def hugging_face():
    datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    datasets.disable_progress_bars()
    return datasets


def made(datasets, labels, feature, images=None):
    images = images or [{"bytes": content, "path": None} for _, content in class_images()]
    content = {"image": images, "label": labels}
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict(content, features=features)


def saved(datasets, path: Path, labels, feature, images=None) -> Path:
    made(datasets, labels, feature, images).save_to_disk(str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0, -1, 1, 1, -1, 2, 2, -1], "no label"),
        ([0, 0, None, 1, 1, None, 2, 2, None], "no label"),
    ],
)
def test_rows_of_a_hugging_face_dataset_without_a_label_are_left_out(tmp_path, hugging_face, labels, reason):
    feature = hugging_face.ClassLabel(names=["cat", "dog", "owl"])
    dataset = open_dataset(saved(hugging_face, tmp_path / "mine", labels, feature))
    assert dict(zip(dataset.novel.class_names, dataset.novel.class_sizes, strict=True)) == {
        "cat": 2,
        "dog": 2,
        "owl": 2,
    }
    assert left_out_lines(dataset.preprocessing) == [f"3 rows: {reason} (first: row 3)"]


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        ("int64", [1, 1, 1, 10, 10, 10, None, 2, 2], ("1", "10", "2")),
        ("float64", [1.0, 1.0, 1.0, 10.0, 10.0, 10.0, None, 2.0, float("nan")], ("1", "10", "2")),
        ("string", ["a", "a", "a", "b", "b", "b", "", "c", None], ("a", "b", "c")),
    ],
)
def test_labels_of_a_hugging_face_dataset_without_names(tmp_path, hugging_face, kind, labels, names):
    dataset = open_dataset(saved(hugging_face, tmp_path / "mine", labels, hugging_face.Value(kind)))
    assert dataset.novel.class_names == names
    assert all(reason == "no label" for _, reason in dataset.preprocessing["skipped"])


def test_several_labels_of_a_row_of_a_hugging_face_dataset_are_refused(tmp_path, hugging_face):
    feature = hugging_face.Sequence(hugging_face.ClassLabel(names=["cat", "dog", "owl"]))
    with pytest.raises(DatasetError, match=r"row 1 of the column 'label' of .*: several classes"):
        open_dataset(saved(hugging_face, tmp_path / "mine", [[0, 1]] * 9, feature))


OWNERS = [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_rows_of_a_hugging_face_dataset_without_an_image_are_left_out(tmp_path, hugging_face, monkeypatch):
    images = [{"bytes": content, "path": None} for _, content in class_images()]
    images[0] = None
    images[4] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    images[8] = {"bytes": b"no image", "path": None}
    table = made(hugging_face, OWNERS, hugging_face.ClassLabel(names=["cat", "dog", "owl"]), images)
    monkeypatch.setattr(hugging_face, "load_dataset", lambda *_: table)
    dataset = open_dataset("hf:somebody/mine")
    assert dataset.novel.class_sizes == (2, 2, 2)
    reasons = dict(dataset.preprocessing["skipped"])
    assert reasons["row 1"] == "no image"
    assert reasons["row 5"].startswith("no such file")
    assert "not an image" in reasons["owl/00000008"]


@pytest.mark.parametrize("link", [False, True])
def test_one_file_under_two_labels_of_a_hugging_face_dataset_is_refused(tmp_path, hugging_face, monkeypatch, link):
    path = write_folder(tmp_path, class_images()) / "cat" / "0.png"
    (tmp_path / "other.png").symlink_to(path)
    images = [{"bytes": content, "path": None} for _, content in class_images()]
    images[0] = {"bytes": None, "path": str(path)}
    images[8] = {"bytes": None, "path": str(tmp_path / "other.png" if link else path)}
    table = made(hugging_face, OWNERS, hugging_face.ClassLabel(names=["cat", "dog", "owl"]), images)
    monkeypatch.setattr(hugging_face, "load_dataset", lambda *_: table)
    with pytest.raises(DatasetError, match="in class 'cat' and in class 'owl'"):
        open_dataset("hf:somebody/mine")


def test_a_row_of_a_hugging_face_dataset_that_is_there_twice_is_told(tmp_path, hugging_face):
    images = [{"bytes": content, "path": "x.png"} for _, content in class_images()]
    images[8] = images[0]
    feature = hugging_face.ClassLabel(names=["cat", "dog", "owl"])
    dataset = open_dataset(saved(hugging_face, tmp_path / "mine", OWNERS, feature, images))
    (warning,) = dataset.preprocessing["warnings"]
    assert warning.startswith("2 images have exact copies in another class, such as novel/cat/00000000 and novel/owl/")


def test_a_hugging_face_dataset_without_one_usable_row_is_refused(tmp_path, hugging_face):
    feature = hugging_face.ClassLabel(names=["cat", "dog", "owl"])
    with pytest.raises(DatasetError, match="has no row with an image and a class: row 1: no label"):
        open_dataset(saved(hugging_face, tmp_path / "mine", [-1] * 9, feature))

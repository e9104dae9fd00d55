"""The page's section of embeddings: two networks side by side, cards, links, and names that stay names."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from embedding_cards import PREPROCESSING, card, network, pair, sheet
from page_studies import HOSTILE, figures_in, table_rows
from stored_cells import cell, fill

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report.embeddings.cards import Similarities, store_cards
from fewshot_bench.report.embeddings.pictures import draw_cards
from fewshot_bench.report.page import write_page
from fewshot_bench.report.page.embeddings import anchor_of, embedding_section

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TWO = Similarities(edges=(0.0, 0.5, 1.0), same=(0, 4), different=(4, 0), auc=1.0, classes=("cat", "dog"))


def of_network(name):
    made = cell(f"{name}/centroid", weights=f"weights of {name}")
    return replace(made, method=replace(made.method, hyper_parameters={"preprocessing": PREPROCESSING}))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    store = OutcomeStore(folder / "outcomes")
    for number, name in enumerate(("conv", "deep", "unmeasured")):
        fill(store, of_network(name), np.full((1, 6), 40 + number) + np.arange(6))
    cards = [card("conv", 0.4, thumbnails=sheet(), two_classes=TWO), card("deep", 0.65)]
    hostile = [card(name, network=network(name, split_fingerprint="ee" * 32)) for name in HOSTILE]
    store_cards(folder, [*cards, *hostile], [pair()])
    write_page(folder, folder / "report.html")
    return folder


@pytest.fixture(scope="module")
def page(results):
    return (results / "report.html").read_text(encoding="utf-8")


def test_the_first_two_networks_of_the_same_images_are_side_by_side(page):
    body = page.partition("<script")[0]
    for side in ("left", "right"):
        for name in ("similarities", "classes", "layout"):
            assert f'id="{side}-{name}"' in body
    chosen = [re.search(rf'id="{side}".*?selected>([^,<]*)', body, re.DOTALL)[1] for side in ("left", "right")]
    assert chosen == ["conv", "deep"]
    assert "illustrations" in body


def test_every_network_has_its_figures_and_hover_texts_name_the_class(page):
    networks = figures_in(page)["networks"]
    assert len(networks) == 2 + len(HOSTILE)
    first = networks[0]["figures"]
    same, different = first["similarities"]["data"]
    assert same["y"] == [0.5, 1.5]
    assert different["y"] == [1, 1]
    assert [trace["hovertemplate"] for trace in first["layout"]["data"]] == ["cat<extra></extra>", "dog<extra></extra>"]
    assert [trace["customdata"] for trace in first["layout"]["data"]] == [[0, 1], [2, 3]]
    assert "illustration" in str(first["layout"]["layout"]["xaxis"]["title"])
    assert first["classes"]["data"][0]["y"] == [0, 2]
    assert "--classes" in str(networks[1]["figures"]["classes"])


def test_thumbnails_are_there_for_the_network_that_has_them_alone(page):
    figures = figures_in(page)
    assert [network["sprite"] for network in figures["networks"]] == [0] + [None] * (1 + len(HOSTILE))
    (sprite,) = figures["sprites"]
    assert sprite["image"].startswith("data:image/png;base64,")
    assert (sprite["side"], sprite["columns"], sprite["count"]) == (3, 2, 4)


def test_a_method_links_to_the_card_of_its_own_network(page):
    for name in ("conv", "deep"):
        anchor = anchor_of(network(name).key)
        assert f'<details id="{anchor}"' in page
        (row,) = [row for row in table_rows(page) if row[0].startswith(f"{name}/centroid")]
        assert f'href="#{anchor}"' in row[0]
        assert f"{card().isotropy if name == 'conv' else 0.65:.3g}" in row
    assert [row[0] for row in table_rows(page) if "unmeasured" in row[0]] == ["unmeasured/centroid"]


def test_tables_show_measures_differences_and_published_isotropy(page):
    body = page.partition("<script")[0]
    assert "0.400 [0.300, 0.500]" in body
    assert "deep minus conv, cifar-fs novel, on the same images" in body
    assert "0.250 [0.200, 0.300]" in body
    assert "Published isotropy" in body


def test_names_of_strangers_stay_text(page):
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    for hostile in HOSTILE[:3]:
        assert hostile not in body


def test_a_page_without_cards_has_no_section():
    assert embedding_section([], []) is None


def test_one_network_stands_alone():
    section = embedding_section([card()], [])
    assert section.chosen == [("left", 0)]
    assert section.figures == ["similarities", "layout"]


def test_the_pictures_are_the_same_bytes_for_the_same_cards(tmp_path):
    cards = [card("conv", two_classes=TWO), card("deep", 0.65), card("flat", layout=None)]
    first, second = (draw_cards(cards, tmp_path / name) for name in "ab")
    assert sorted(path.name for path in first) == [
        f"{kind}-cifar-fs-novel.{suffix}"
        for kind in ("layout", "similarities", "two-classes")
        for suffix in ("png", "svg")
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; on Debian: apt-get install chromium")
def test_a_browser_draws_both_networks_shows_thumbnails_and_opens_cards(results):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    key, complaints = network("deep").key, []
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{(results / 'report.html').as_uri()}#{anchor_of(key)}")
        assert page.locator(f"#{anchor_of(key)}").get_attribute("open") is not None
        page.locator("#left-layout").scroll_into_view_if_needed()
        page.wait_for_selector("#left-layout .points path")
        page.wait_for_selector("#right-layout .points path")
        assert page.locator("#left-thumbnail").is_hidden()
        page.locator("#left-layout .points path").first.hover(force=True)
        page.wait_for_selector("#left-thumbnail", state="visible")
        assert page.locator("#left-layout .hovertext").text_content() == "cat"
        page.select_option("#left", "1")
        page.wait_for_function("document.querySelector('#left-layout .gtitle').textContent.startsWith('deep')")
        browser.close()
    assert complaints == []

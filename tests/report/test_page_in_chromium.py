"""The page in a real browser, as people use it: by mouse, by keyboard, on a phone, in the dark.

Screenshots stay in build/screenshots, which continuous integration keeps.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from page_studies import BASE, BETTER, HOSTILE, add_sweep, store_study

from fewshot_bench.report.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; on Debian: apt-get install chromium"),
]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PHONE, DESK = {"width": 375, "height": 800}, {"width": 1280, "height": 900}
SCROLLER = ".dt-layout-table > .dt-layout-cell"
HEADERS = "all => all.map(one => one.innerText.trim())"
METHODS = tuple(f"resnet12/base-ce@epochs={number}/episode-ce+schane/finetune" for number in range(8))
READY = (
    "() => document.querySelector('.dt-container tbody tr') && "
    "[...document.querySelectorAll('.plot')].every(plot => plot.style.minHeight)"
)
DRAWN = "all => all.map(one => one.querySelectorAll('.main-svg').length > 0)"
ROWS = "all => all.map(row => [...row.cells].map(cell => cell.innerText))"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    results = store_study(tmp_path_factory.mktemp("browser"), methods=(*HOSTILE, *METHODS))
    add_sweep(results)
    write_page(results, results / "report.html", baseline=BASE)
    return (results / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Open the page; when the test is over, nothing must have gone wrong in it and nothing must have been fetched."""
    contexts, complaints, wanted = [], [], []

    def open_page(*, complains="", **options):
        wanted.extend([complains] * bool(complains))
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: complaints.append(request.url) if is_fetched(request.url, address) else None)
        page.goto(address)
        if options.get("java_script_enabled", True):
            page.wait_for_function(READY)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert len(complaints) == len(wanted), complaints
    for complaint, start in zip(complaints, wanted, strict=True):
        assert complaint.startswith(start)


def is_fetched(url, address):
    return not (url.partition("#")[0] == address or url.startswith(("blob:", "data:")))


def see_all(page):
    """Scroll through the page, as a reader does, so that every figure is drawn."""
    for plot in page.locator(".plot").all():
        plot.scroll_into_view_if_needed()
        playwright.expect(plot.locator(".main-svg").first).to_be_attached(timeout=30_000)
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    return page


def keep(page, name, **options):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", **options)


def column_of(page, header):
    headers = page.eval_on_selector_all(".dt-container thead th", "all => all.map(one => one.innerText.trim())")
    return headers.index(header)


def values(page, header):
    place = column_of(page, header)
    return [row[place] for row in page.eval_on_selector_all(".dt-container tbody tr", ROWS)]


def header_cell(page, header):
    return page.locator(".dt-container thead th").nth(column_of(page, header))


def sort_by(page, header, direction="ascending"):
    header_cell(page, header).click()
    playwright.expect(header_cell(page, header)).to_have_attribute("aria-sort", direction)


def show_column(page, header):
    page.get_by_role("button", name="Columns").click()
    page.locator(".dt-button-collection .dt-button").get_by_text(header, exact=True).click()
    page.keyboard.press("Escape")


def background(page, selector):
    """The colour behind an element, as three numbers."""
    text = page.eval_on_selector(selector, "one => getComputedStyle(one).backgroundColor")
    return [int(float(part)) for part in text.partition("(")[2].rstrip(")").split(",")[:3]]


def test_everything_is_drawn_and_nothing_complains(opened):
    page = opened()
    assert page.locator(".dt-container tbody tr").count() == 25
    assert "of 64 entries" in page.locator(".dt-info").inner_text()
    see_all(page)
    assert page.eval_on_selector_all(".plot", DRAWN) == [True] * (7 + 2 + 2 + 1)
    keep(page, "desktop", full_page=True)


def test_figures_that_nobody_has_come_near_keep_the_table_waiting_for_nothing(opened):
    page = opened()
    page.evaluate("plotlyIsUnpacked")
    assert page.evaluate("typeof Plotly") == "undefined"
    height = page.evaluate("document.documentElement.scrollHeight")
    see_all(page)
    assert page.evaluate("typeof Plotly") == "object"
    assert page.evaluate("document.documentElement.scrollHeight") == height  # nothing has moved


def test_figures_in_sight_are_drawn_without_scrolling(opened):
    page = opened(viewport={"width": 1280, "height": 6000})
    page.wait_for_function("() => document.querySelectorAll('.plot .main-svg').length > 0")


def test_all_figures_are_drawn_before_a_page_is_printed(opened):
    page = opened()
    page.evaluate("plotlyIsUnpacked")
    assert not any(page.eval_on_selector_all(".plot", DRAWN))
    assert page.pdf().startswith(b"%PDF")
    assert all(page.eval_on_selector_all(".plot", DRAWN))


def test_the_contents_lead_to_a_figure_that_is_drawn_there(opened):
    page = opened()
    page.get_by_role("link", name="Sweeps").click()
    playwright.expect(page.locator("#sweep-0 .main-svg").first).to_be_in_viewport()


def test_a_click_on_a_header_sorts_numbers_as_numbers(opened):
    page = opened()
    sort_by(page, "Difference")
    numbers = [float(text) for text in values(page, "Difference") if text]
    assert numbers == sorted(numbers)
    assert min(numbers) < 0
    sort_by(page, "Difference", "descending")
    numbers = [float(text) for text in values(page, "Difference") if text]
    assert numbers == sorted(numbers, reverse=True)
    assert values(page, "Method")[0] == BETTER


def test_p_is_sorted_by_itself_where_people_read_that_it_is_below_a_thousandth(opened):
    page = opened()
    show_column(page, "p (Holm)")
    sort_by(page, "p (Holm)")
    place = column_of(page, "p (Holm)") + 1
    cells = page.locator(f".dt-container tbody td:nth-child({place}):has([data-p])")
    numbers = [float(text) for text in cells.locator("[data-p]").evaluate_all("all => all.map(one => one.dataset.p)")]
    assert numbers == sorted(numbers)
    shown = [text for text in values(page, "p (Holm)") if text]
    assert {text for text, p in zip(shown, numbers, strict=True) if p < 0.001} == {"< 0.001"}
    assert len({p for p in numbers if p < 0.001}) > 2


def test_the_keyboard_sorts_and_says_so_to_a_screen_reader(opened):
    page = opened()
    mean = header_cell(page, "Mean %")
    order = mean.locator(".dt-column-order")
    for _ in range(60):
        page.keyboard.press("Tab")
        if order.evaluate("one => one === document.activeElement"):
            break
    assert order.evaluate("one => one === document.activeElement && one.matches(':focus-visible')")
    assert order.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    numbers = [float(text) for text in values(page, "Mean %")]
    assert numbers == sorted(numbers)
    assert mean.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert mean.get_attribute("aria-sort") == "descending"


def test_the_first_tab_is_a_way_past_the_contents(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the leaderboard"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "leaderboard"


@pytest.mark.parametrize(("header", "value"), [("Dataset", "coins"), ("Shot", "5"), ("Backbone", "resnet")])
def test_a_list_in_the_header_filters_by_mouse(opened, header, value):
    page = opened()
    if header == "Backbone":
        show_column(page, header)
    header_cell(page, header).locator(".dtcc-button_dropdown").click()
    page.locator(".dtcc-dropdown .dtcc-list-buttons .dtcc-button", has_text=value).first.click()
    assert set(values(page, header)) == {value}
    assert "of 32 entries" in page.locator(".dt-info").inner_text()


def test_a_list_in_the_header_filters_by_keyboard(opened):
    page = opened()
    header_cell(page, "Shot").locator(".dtcc-button_dropdown").focus()
    page.keyboard.press("Enter")
    choice = page.locator(".dtcc-dropdown .dtcc-list-buttons .dtcc-button", has_text="5").first
    for _ in range(10):
        if choice.evaluate("one => one === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert set(values(page, "Shot")) == {"5"}
    keep(page, "filtered")


def test_the_search_finds_names_that_look_like_markup(opened):
    page = opened()
    page.get_by_label("Search:").fill("<script>")
    assert set(values(page, "Method")) == {HOSTILE[0]}
    assert "of 4 entries (filtered" in page.locator(".dt-info").inner_text()


def test_hidden_columns_are_one_button_away(opened):
    page = opened()
    assert page.locator(".dt-container thead th", has_text="Wins").count() == 0
    show_column(page, "Wins")
    assert page.locator(".dt-container thead th", has_text="Wins").count() == 1


def test_names_are_text_in_every_figure(opened):
    page = see_all(opened())
    for plot, text in (("differences", HOSTILE[0]), ("distributions", HOSTILE[5]), ("pairs", "<script>a…</script>")):
        assert text in page.locator(f"#{plot}-plot").text_content()
    assert page.locator(".plot a").count() == 0
    assert page.locator(".plot img, .plot script").count() == 0


def test_another_protocol_is_drawn_when_it_is_chosen_by_keyboard(opened):
    page = see_all(opened())
    titles = page.locator(".figures .gtitle")
    before = titles.all_text_contents()
    assert all(text.startswith("birds 5-way 1-shot") for text in before)
    page.get_by_label("Protocol of the figures").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('.figures .gtitle').textContent.startsWith('coins')")
    assert [text.startswith("coins 5-way 1-shot") for text in titles.all_text_contents()] == [True] * 7


def test_a_protocol_chosen_before_its_figures_are_drawn_is_the_one_that_is_drawn(opened):
    page = opened()
    page.get_by_label("Protocol of the figures").select_option("coins 5-way 5-shot")
    titles = see_all(page).locator(".figures .gtitle").all_text_contents()
    assert [text.startswith("coins 5-way 5-shot") for text in titles] == [True] * 7


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("width", "headers"),
    [
        (1400, ["Method", "Dataset", "Shot", "Mean %", "± data", "Rank", "Difference", "Verdict"]),
        (390, ["Method", "Mean %", "Verdict"]),
    ],
)
def test_what_matters_is_in_sight_without_scrolling_aside(opened, scheme, width, headers):
    page = opened(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.eval_on_selector_all(".dt-container thead th", HEADERS) == headers
    assert page.eval_on_selector(SCROLLER, "one => one.scrollWidth <= one.clientWidth")
    tasks = page.locator(".dt-container tbody .task")
    assert tasks.first.is_visible() == (width == 390)
    page.locator("#leaderboard").screenshot(path=SCREENSHOTS / f"leaderboard-{width}-{scheme}.png")


def test_a_phone_shows_any_other_column_too(opened):
    page = opened(viewport=PHONE)
    show_column(page, "Rank")
    assert "Rank" in page.eval_on_selector_all(".dt-container thead th", HEADERS)


def test_groups_stand_in_the_authors_order_however_the_table_is_sorted(browser, tmp_path):
    results = store_study(tmp_path, episodes=10)
    labels = tmp_path / "labels.toml"
    labels.write_text(f'highlight = ["{BETTER}"]\n[groups]\n"Z <b>" = ["{BETTER}"]\n"A" = ["{BASE}"]\n')
    write_page(results, results / "report.html", baseline=BASE, labels=labels)
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto((results / "report.html").as_uri())
    page.wait_for_function(READY)
    for is_descending in (False, True):
        header_cell(page, "Mean %").click()
        order = re.compile(f"dt-ordering-{'desc' if is_descending else 'asc'}")
        playwright.expect(header_cell(page, "Mean %")).to_have_class(order)
        page.wait_for_timeout(300)  # the rows follow their header
        rows = page.eval_on_selector_all(".dt-container tbody tr:not(.dtrg-group)", ROWS)
        numbers = [float(row[column_of(page, "Mean %")]) for row in rows]
        groups = [numbers[:4], numbers[4:]]
        assert groups == [sorted(group, reverse=is_descending) for group in groups]
        assert page.locator("tr.dtrg-group").all_inner_texts() == ["Z <b>", "A"]
    own = page.locator(".dt-container tbody tr:has(.own) td").first
    other = page.locator(".dt-container tbody tr:not(:has(.own)):not(.dtrg-group) td").first
    colours = [cell.evaluate("one => getComputedStyle(one).backgroundColor") for cell in (own, other)]
    assert colours[0] != colours[1]
    keep(page, "groups")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_aside(opened, scheme):
    page = see_all(opened(viewport=PHONE, color_scheme=scheme, has_touch=True))
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    wide = page.eval_on_selector_all(".plot .main-svg", "all => all.map(one => one.getBoundingClientRect().right)")
    assert max(wide) <= 375
    for header in ("Rank", "Difference", "Wins"):
        show_column(page, header)
    assert page.eval_on_selector(SCROLLER, "one => one.scrollWidth > one.clientWidth")
    first = page.locator(".dt-container tbody td").first
    left = first.bounding_box()["x"]
    page.eval_on_selector(SCROLLER, "one => { one.scrollLeft = 300; }")
    assert first.bounding_box()["x"] == pytest.approx(left, abs=1)  # the name stays in sight
    keep(page, f"phone-{scheme}", full_page=True)


def test_in_the_dark_everything_is_dark_and_legible(opened):
    page = see_all(opened(color_scheme="dark"))
    assert max(background(page, "body")) < 50
    assert max(background(page, ".dt-container td")) < 60
    for selector in ("body", ".dt-container td", ".facts", ".plot text", ".dt-container thead th"):
        assert contrast(page, selector) > 4.5, selector
    keep(page, "dark", full_page=True)


def test_in_the_light_everything_is_legible_too(opened):
    page = see_all(opened())
    for selector in ("body", ".dt-container td", ".facts", "a", ".plot text"):
        assert contrast(page, selector) > 4.5, selector


def contrast(page, selector):
    """Contrast of the text of an element with the paper, as WCAG 2 defines it."""
    text = page.eval_on_selector(selector, "one => getComputedStyle(one)[one instanceof SVGElement ? 'fill' : 'color']")
    ink = [int(float(part)) for part in text.partition("(")[2].rstrip(")").split(",")[:3]]
    light, dark = sorted((luminance(ink), luminance(background(page, "body"))), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = np.array(colour) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_without_scripts_the_first_rows_and_the_run_cards_are_there(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#leaderboard-table tbody tr").count() == 10
    assert page.locator("details:not([class])").count() == 64


def test_an_injected_script_does_not_run(opened):
    page = opened(complains="console: Executing inline script violates the following Content Security Policy")
    page.evaluate(
        "() => { const script = document.createElement('script'); script.text = 'window.hacked = 1'; "
        "document.body.append(script); }"
    )
    assert page.evaluate("window.hacked") is None


def test_a_printed_page_has_no_controls(opened):
    page = see_all(opened())
    page.emulate_media(media="print")
    for selector in (".dt-search", ".dt-paging", "nav", ".chooser"):
        assert not page.locator(selector).first.is_visible(), selector
    assert page.locator("#leaderboard-table").is_visible()

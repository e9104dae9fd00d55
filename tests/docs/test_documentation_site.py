"""The site is built without warnings and without the network, with its notebooks run, and read in a real browser.

Only where Sphinx is installed: `tox -e docs`. Screenshots stay in build/screenshots, which continuous integration
keeps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest
from documentation import DOCS, PAGES, ROOT

for package in ("sphinx", "furo", "myst_nb"):
    pytest.importorskip(package, reason=f"{package} is not installed; tox -e docs has it")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium; on Debian: apt-get install chromium"
)
pytestmark = pytest.mark.slow

SITE = ROOT / "build" / "site"
SCREENSHOTS = ROOT / "build" / "screenshots"
PHONE, DESK = {"width": 375, "height": 800}, {"width": 1280, "height": 900}
SHOWN = ["index", "start", "reading-the-table", "tutorials/photos", "tutorials/method", "api/evaluation", "glossary"]
FETCHING = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=\"(?P<src>[^\"]*)\""
    r"|<link\b(?=[^>]*\brel=\"(?:stylesheet|icon|preload|prefetch|preconnect|modulepreload)\")[^>]*\bhref=\"(?P<href>[^\"]*)\""
    r"|@import\s+(?:url\()?[\"']?(?P<style>[^\"')]+)|url\([\"']?(?P<url>[^\"')]+)"
)
TARGET = re.compile(r"\b(?:href|src)=\"([^\"]*)\"")


@pytest.fixture(scope="module")
def site():
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-j", "2", str(DOCS), str(SITE)]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    return SITE


@pytest.fixture(scope="module")
def pages(site):
    """The text of every page of the site, by its path."""
    return {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if "_static" not in path.parts}


def test_every_markdown_page_is_a_page_of_the_site(pages):
    assert {path.relative_to(SITE).with_suffix("") for path in pages} >= {
        page.relative_to(DOCS).with_suffix("") for page in PAGES
    }


def test_nothing_is_fetched_from_elsewhere(site, pages):
    texts = pages | {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    for path, text in texts.items():
        for found in FETCHING.finditer(text):
            wanted = next(group for group in found.groups() if group is not None)
            assert not wanted.startswith(("http:", "https:", "//")), f"{path} fetches {wanted}"


def test_every_link_inside_the_site_leads_to_a_page_and_an_anchor(pages):
    for path, text in pages.items():
        for target in TARGET.findall(text):
            parts = urlsplit(target)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert file.exists(), f"{path} links to {target}"
            if parts.fragment and file in pages:
                anchor = unquote(parts.fragment)
                assert f'id="{anchor}"' in pages[file] or anchor == "top", f"{path} links to {target}"


def test_links_to_elsewhere_are_listed(pages):
    """They are not opened; the list is kept beside the screenshots."""
    found = {target for text in pages.values() for target in TARGET.findall(text) if urlsplit(target).scheme}
    outside = {target for target in found if not target.startswith(("data:", "mailto:"))}
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "external-links.txt").write_text("\n".join(sorted(outside)) + "\n", encoding="utf-8")
    assert outside
    assert all(target.startswith(("https://", "http://")) for target in outside)


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("tutorials/photos", "Which method for photos 5-way 5-shot?"),
        ("tutorials/method", "interval over classes and images"),
        ("tutorials/table", "base-ce+schane"),
        ("tutorials/cluster", "next"),
        ("from-easyfsl", "over classes and images"),
    ],
)
def test_a_notebook_shows_what_its_cells_printed(pages, page, shown):
    outputs = re.findall(r'<div class="cell_output[^>]*>(.*?)</div>\s*</div>', pages[SITE / f"{page}.html"], re.DOTALL)
    assert shown in "".join(outputs)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as library:
        browser = library.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@needs_chromium
@pytest.mark.parametrize(("device", "viewport"), [("desk", DESK), ("phone", PHONE)])
def test_pages_open_without_a_complaint_and_fit_the_screen(site, browser, device, viewport):
    context = browser.new_context(viewport=viewport)
    tab, complaints = context.new_page(), []
    tab.on("console", lambda message: complaints.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    tab.on("request", lambda request: complaints.append(request.url) if is_fetched(request.url) else None)
    for name in SHOWN:
        tab.goto((site / f"{name}.html").as_uri())
        tab.screenshot(path=SCREENSHOTS / f"site-{name.replace('/', '-')}-{device}.png", full_page=device == "desk")
        assert tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name
    context.close()
    assert complaints == []


def is_fetched(url):
    return not url.startswith(("file:", "data:", "blob:"))


@needs_chromium
def test_a_reader_walks_from_the_start_to_a_tutorial_and_finds_a_term(site, browser):
    tab = browser.new_page(viewport=DESK)
    tab.goto((site / "index.html").as_uri())
    tab.locator(".sidebar-tree").get_by_role("link", name="Compare heads on your photos").click()
    assert tab.locator("h1").inner_text().startswith("Compare heads on your photos")
    assert tab.locator(".cell_output img").count() >= 1
    tab.goto((site / "glossary.html").as_uri() + "#data-interval")
    playwright.expect(tab.locator("#data-interval")).to_be_in_viewport()
    tab.goto((site / "search.html").as_uri() + "?q=verdict")
    playwright.expect(tab.locator("#search-results li").first).to_be_visible()
    tab.close()

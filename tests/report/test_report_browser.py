"""The pages in a real browser (headless Chromium): what a reader clicks, at three widths.

`make test-browser` runs them. They are skipped where playwright or a Chromium is missing.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lrt.report import write_comparison, write_report
from lrt.report.atlas import write_atlas_report

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright",
    reason="needs axe-playwright-python: pip install lrt[browser]",
)
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install lrt[browser]")
pytestmark = pytest.mark.browser

WIDTHS = (390, 768, 1400)
PAGES = ("report", "atlas", "comparison")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# elements that reach beyond the window, unless within a box that scrolls
BEYOND = """() => [...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1)
    && !e.closest(".scroll, pre, nav, .skip, caption");
}).map((e) => `${e.tagName}.${e.className}`)"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = os.environ.get("LRT_BROWSER") or next(filter(None, map(shutil.which, CHROMIUM)), None)
        if found is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip(
                "needs a Chromium: install the package chromium, run `playwright install chromium`, "
                "or set LRT_BROWSER"
            )
        # without a sandbox, which root cannot have: the pages are our own
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, whole_record: dict[str, Any]) -> Path:
    """A report of ten behaviours with an atlas, an atlas alone, and a comparison."""
    results, folder = whole_record, tmp_path_factory.mktemp("pages")
    behaviours = ("french", "brave", "tidy")
    cells = [
        {
            "source_layer": source,
            "target_layer": target,
            "fvu": 0.1 + 0.05 * source + 0.01 * target,
            "cka": 0.5 + 0.05 * target,
            "rank": 10 + source,
            "error_along": {name: 0.2 + 0.1 * abs(source - target) for name in behaviours},
            "cosine": {name: 0.9 - 0.1 * abs(source - target) for name in behaviours},
        }
        for source in range(4)
        for target in range(6)
    ]
    write_report({**results, "atlas": cells}, folder / "report")
    wide = [{**cells[0], "source_layer": s, "target_layer": t} for s in range(24) for t in range(28)]
    atlas = {
        **{key: results[key] for key in ("pair", "pool", "provenance")},
        "grid": {"source": [*range(24)], "target": [*range(28)]},
        "rows": {"train": 12_000},
        "atlas": wide,
    }
    write_atlas_report(atlas, folder / "atlas")
    other = copy.deepcopy(results)
    french = other["behaviours"][0]
    french |= {"ratio": 0.5, "ratio_ci": [0.45, 0.55], "ratio_ci_map": [0.4, 0.6]}
    write_comparison(results, other, ("A", "B"), folder / "comparison")
    return folder


class Opened:
    """A page in a window; fails at its end for an error in the console or a request beyond the file."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.contexts: list[Any] = []
        self.faults: list[str] = []

    def __call__(self, name: str = "report", width: int = 1400, height: int = 900, **options: Any) -> Any:
        context = self.browser.new_context(viewport={"width": width, "height": height}, **options)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.faults.append(message.text))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda request: self._only_files(request.url))
        file = {"report": "index.html", "atlas": "atlas.html", "comparison": "compare.html"}[name]
        page.goto((self.folder / name / file).as_uri())
        return page

    def _only_files(self, url: str) -> None:
        if not url.startswith("file:"):
            self.faults.append(f"requested {url}")

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        assert self.faults == []


@pytest.fixture
def opened(browser: Any, folder: Path) -> Iterator[Opened]:
    pages = Opened(browser, folder)
    yield pages
    pages.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overflows_the_page(opened: Opened, name: str, width: int) -> None:
    page = opened(name, width)
    for _ in range(2):  # as it opens, and with everything unfolded
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(BEYOND) == []
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def test_the_overview_is_one_screen(opened: Opened) -> None:
    page = opened()
    overview = page.get_by_role("region", name="Overview")
    box = overview.bounding_box()
    assert box["y"] + box["height"] <= 900
    assert overview.get_by_role("heading", level=1).is_visible()
    assert overview.locator(".tile").count() == 5
    assert overview.get_by_role("figure").count() == 1
    # a name leads to the behaviour's section
    overview.get_by_role("link", name="tidy").click()
    heading = page.get_by_role("heading", level=3, name="tidy")
    assert 0 <= heading.bounding_box()["y"] <= 200


@pytest.mark.parametrize("width", WIDTHS)
def test_the_headline_table_fits_its_column(opened: Opened, width: int) -> None:
    page = opened(width=width)
    box = page.get_by_role("region", name="Transfer by behaviour").first
    assert box.evaluate("(e) => e.scrollWidth <= e.clientWidth + 1")
    assert box.get_by_role("columnheader").filter(visible=True).count() >= 5
    assert box.get_by_role("row").filter(has_text="french").get_by_text("98%", exact=True).is_visible()


def column(table: Any, number: int) -> list[str]:
    """The first line of a column's cells."""
    rows = table.locator("tbody tr")
    return [
        rows.nth(i).locator("th, td").nth(number).inner_text().split("\n")[0] for i in range(rows.count())
    ]


@pytest.mark.parametrize("press", ["click", "Enter", "Space"])
def test_a_heading_sorts_by_value_with_gaps_last(opened: Opened, press: str) -> None:
    table = opened().get_by_role("table", name="Transfer by behaviour").first
    before = column(table, 0)
    heading = table.get_by_role("columnheader", name="transfer ratio")
    button = heading.get_by_role("button")
    for order, descending in (("ascending", False), ("descending", True)):
        button.click() if press == "click" else button.press(press)
        ratios = column(table, 1)
        numbers = [float(text.rstrip("%")) for text in ratios[:-1]]
        assert numbers == sorted(numbers, reverse=descending)
        assert ratios[-1] == "–"
        assert heading.get_attribute("aria-sort") == order
    button.click()
    assert column(table, 0) == before
    assert heading.get_attribute("aria-sort") is None
    table.get_by_role("button", name="behaviour").click()
    assert column(table, 0) == sorted(before)


def test_the_slider_shows_the_texts_of_one_strength(opened: Opened) -> None:
    page = opened()
    section = page.get_by_role("region", name="french")
    slider = section.get_by_role("slider", name="Strength")
    assert "0.75 (chosen)" in slider.get_attribute("aria-valuetext")
    native = section.locator(".text.native").filter(visible=True)
    assert native.count() == 3  # one a prompt
    assert "le petit renard" in native.first.inner_text()
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext").startswith("0.50")
    assert native.count() == 3
    assert "the little fox" in native.first.inner_text()
    slider.press("End")
    assert section.get_by_role("status").inner_text() == "1.00"


def test_a_cell_of_the_atlas_opens_its_numbers(opened: Opened) -> None:
    page = opened()
    figure = page.locator(".heatmap")
    figure.get_by_role("button", name="Layer 1 to 3").click()
    numbers = figure.locator(".numbers")
    assert numbers.get_by_text("Layer 1 to 3").is_visible()
    assert numbers.get_by_role("row", name="tidy 0.400 0.700").is_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert numbers.get_by_text("Layer 2 to 4").is_visible()
    pressed = figure.locator("button[aria-pressed=true]")
    assert pressed.count() == 1
    assert pressed.inner_text() == "0.400"
    figure.get_by_label("Show").select_option(label="linear CKA, training documents")
    assert pressed.inner_text() == "0.700"
    # one stop of the tab key, however many cells
    assert figure.locator("td button[tabindex='0']").count() == 1
    # strongest where the metric is best
    heights = (
        figure.locator("tbody tr")
        .first.locator("button")
        .evaluate_all("(all) => all.map((e) => Number(e.style.getPropertyValue('--height')))")
    )
    assert heights == sorted(heights)


def test_long_tables_are_folded_away_and_open(opened: Opened) -> None:
    page = opened()
    long = page.evaluate(
        "[...document.querySelectorAll('table.sortable')].filter((t) => t.tBodies[0].rows.length > 12 "
        "&& t.checkVisibility()).length"
    )
    assert long == 0
    summary = page.locator("summary", has_text="All columns")
    table = page.get_by_role("table", name="All columns")
    assert not table.is_visible()
    summary.press("Enter")
    assert table.is_visible()
    # it scrolls within its column, by keyboard too
    box = page.get_by_role("region", name="All columns")
    sync_api.expect(box).to_have_attribute("tabindex", "0")
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(e) => e.scrollLeft > 0", arg=box.element_handle())


def background(page: Any) -> int:
    """Brightness of the page's background, 0 to 255."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return int(colour.removeprefix("rgb(").split(",")[0])


@pytest.mark.parametrize("system", ["light", "dark"])
def test_light_and_dark_follow_the_system_until_the_switch(opened: Opened, system: str) -> None:
    page = opened(color_scheme=system)
    switch = page.get_by_role("button", name="Dark")
    dark = system == "dark"
    assert (background(page) < 128) is dark
    assert switch.get_attribute("aria-pressed") == str(dark).lower()
    switch.click()
    assert (background(page) < 128) is not dark
    assert switch.get_attribute("aria-pressed") == str(not dark).lower()
    page.reload()  # the choice is remembered
    assert (background(page) < 128) is not dark


@pytest.mark.parametrize("system", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_barrier(opened: Opened, name: str, system: str) -> None:
    """Names of controls, contrast, outline, tables, what scrolls: with everything unfolded."""
    page = opened(name, color_scheme=system)
    if name != "comparison":
        page.locator(".heatmap td button").first.click()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("name", PAGES)
def test_a_keyboard_leads_past_the_bar(opened: Opened, name: str) -> None:
    page = opened(name)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_without_scripts_everything_is_shown(opened: Opened) -> None:
    page = opened(java_script_enabled=False)
    section = page.get_by_role("region", name="french")
    assert not section.get_by_role("slider").is_visible()
    # three prompts at three strengths
    assert section.locator(".text.native").filter(visible=True).count() == 9
    assert section.get_by_text("strength 0.75 (chosen)").first.is_visible()
    assert page.locator(".heatmap td").first.inner_text() == "0.200"
    assert not page.get_by_role("button", name="Dark").is_visible()


def test_text_of_a_model_runs_nowhere(browser: Any, results: dict[str, Any], tmp_path: Path) -> None:
    evil = "</script><script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
    french = results["behaviours"][0]
    french |= {"name": evil, "metric": evil, "note": evil}
    french["examples"][0]["texts"][0]["text"] = evil
    cell = {"fvu": 0.5, "cka": 0.6, "rank": 7, "error_along": {evil: 0.5}, "cosine": {evil: 0.5}}
    results["atlas"] = [{"source_layer": s, "target_layer": 1, **cell} for s in range(2)]
    page = browser.new_page()
    page.goto(write_report(results, tmp_path).as_uri())
    page.get_by_role("button", name="Layer 0 to 1").click()
    assert page.title() != "run"
    assert page.locator("img").count() == 0
    assert page.locator(".numbers").get_by_text(evil).is_visible()
    page.close()

"""The evidence report in headless Chromium: navigation, viewer, layout, and escaping of a hostile name."""

import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from features.windows import WINDOWS, apply_window
from inference.evidence.evidence_report import write_report
from inference.evidence.model_facts import describe_model
from pipeline.settings import EvidenceSettings, InferenceSettings
from tests.support.evidence_cases import HOSTILE, MIDDLE_HU, PLANES, two_cases, with_clot, write_planes, write_run

#: These tests start a browser.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A report with two exams; the first has a clot map with a finding on its plane 7."""
    folder = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(folder / "root"))
        settings, candidates = write_run(folder)
        one_map = InferenceSettings(evidence=EvidenceSettings(mapped_slices=1))
        settings = dataclasses.replace(settings, inference=one_map)
        for name in ("study0", "study1"):
            write_planes(folder / "store", name)
        path = folder / "evidence.html"
        first, second = two_cases()
        cases = [with_clot(first, plane=7), second]
        write_report(path, folder / "store", cases, describe_model(settings, candidates), settings)
        yield path


@pytest.fixture(scope="module")
def browser(report: Path) -> Iterator[object]:
    """Headless Chromium with its own profile."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (Path(CHROMIUM).exists() and Path(DRIVER).exists()):
        pytest.skip(f"{CHROMIUM} or {DRIVER} is not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = report.parent / "profile"
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture
def page(browser: object, report: Path) -> "Page":
    """The report, freshly opened at 1280 pixels; after the test the console must be empty."""
    opened = Page(browser)
    opened.resize(1280, 900)
    browser.get("about:blank")
    browser.get(report.as_uri())
    yield opened
    assert browser.get_log("browser") == []


class Page:
    """Actions on the page."""

    def __init__(self, driver: object) -> None:
        self.driver = driver

    def resize(self, width: int, height: int) -> None:
        """Set the viewport; a headless window itself cannot be narrower than 500 pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def value(self, script: str) -> object:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {script}")

    def until(self, script: str) -> bool:
        """Whether a JavaScript expression becomes true within 10 s; the page changes after its URL fragment."""
        end = time.monotonic() + 10
        while not self.value(script):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    def press(self, *keys: str) -> None:
        """Send keys to the focused element."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def go(self, fragment: str) -> None:
        """Set the URL fragment and wait until its page is shown."""
        self.driver.execute_async_script(
            "const [fragment, done] = arguments;"
            "addEventListener('hashchange', () => done(), {once: true});"
            "if (location.hash === fragment) done(); else location.hash = fragment",
            fragment,
        )

    def of_exam(self, query: str, attribute: str) -> object:
        """A property of an element of the first exam's page."""
        return self.value(f"document.querySelector('#exam-1 {query}').{attribute}")


def keys() -> type:
    """Names of the special keys."""
    from selenium.webdriver.common.keys import Keys

    return Keys


def test_a_hostile_study_name_is_shown_as_text(page: Page) -> None:
    assert page.value("document.querySelector('#list tbody a').textContent") == HOSTILE
    page.go("#exam-1")
    assert page.value("document.title") == f"Exam 1 of 2 by risk{HOSTILE} - evidence report"
    assert (
        page.value("document.querySelectorAll('img[src=x], script').length") == 3
    )  # two with data, one is the page's script


def test_the_slider_and_the_arrow_keys_change_the_slice(page: Page) -> None:
    page.go("#exam-1")
    first = page.of_exam("img.slice", "src")
    assert first.startswith("data:image/jpeg;base64,") and page.of_exam("img.slice", "naturalWidth") == 60
    assert page.of_exam(".readout", "textContent") == f"slice 8 of {PLANES} · z 35.0 mm · P(PE) 0.900 · key slice"
    page.press(keys().ARROW_RIGHT)
    assert page.of_exam("img.slice", "src") != first and page.of_exam(".slider", "value") == "8"
    page.press(keys().ARROW_LEFT)
    assert page.of_exam("img.slice", "src") == first
    page.press(keys().HOME)
    assert page.of_exam(".readout", "textContent").startswith("slice 1 of")
    page.driver.execute_script(
        "const slider = document.querySelector('#exam-1 .slider'); slider.value = 11;"
        "slider.dispatchEvent(new Event('input'))"
    )
    assert page.of_exam(".slider", "getAttribute('aria-valuetext')").startswith(
        f"slice {PLANES} of {PLANES}, z 55.0 mm"
    )


def test_the_report_can_be_used_with_the_keyboard_alone(page: Page) -> None:
    page.press(keys().TAB)  # browsers show the focus once the keyboard is used
    page.value("document.querySelector('#list tbody a').focus()")
    assert page.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press(keys().ENTER)
    assert page.until("document.activeElement.id === 'exam-1-title'")
    page.press("3")
    assert page.of_exam(".viewer", "dataset.window") == "mediastinal"
    page.press("n")
    assert page.until("document.activeElement.id === 'exam-2-title'") and page.value("location.hash") == "#exam-2"
    page.press(keys().ESCAPE)
    assert page.until("document.getElementById('exam-2').hidden") and page.value("location.hash") == "#list"
    page.driver.back()
    assert page.until("location.hash === '#exam-2'")


def test_clot_map_and_diameters_are_shown_on_their_slices_and_can_be_hidden(page: Page) -> None:
    page.go("#exam-1")
    assert page.of_exam("img.overlay", "hidden")
    page.press(keys().HOME)
    page.press("o")  # moves to the slice with a map
    assert not page.of_exam("img.overlay", "hidden") and page.of_exam(".slider", "value") == "7"
    assert page.of_exam("[data-act=overlay]", "getAttribute('aria-pressed')") == "true"
    page.press("o")
    assert page.of_exam("img.overlay", "hidden")
    assert page.of_exam(".lines", "childElementCount") == 0
    page.value("document.querySelector('#exam-1 table [data-plane]').click()")
    assert page.of_exam(".lines path", "getAttribute('d')") == "M12.5 10.5L30.5 20.5"
    assert page.of_exam(".lines text", "textContent") == "right ventricle 41 mm"
    page.press("d")
    assert page.of_exam(".lines", "childElementCount") == 0
    page.go("#exam-2")
    assert page.value("document.querySelector('#exam-2 [data-act=lines]').hidden")


@pytest.mark.parametrize("window", list(WINDOWS))
def test_a_pane_shows_the_grey_value_of_its_window(page: Page, window: str) -> None:
    page.go("#exam-1")
    page.value("document.querySelector('#exam-1 img.slice').decode().then(() => 0)")
    pane = page.driver.find_element("css selector", f"#exam-1 .pane-{window} .stack")
    shown = cv2.imdecode(np.frombuffer(pane.screenshot_as_png, np.uint8), cv2.IMREAD_GRAYSCALE)
    height, width = shown.shape
    middle = np.median(shown[height // 2 - 4 : height // 2 + 4, width // 2 - 4 : width // 2 + 4])
    assert middle == pytest.approx(255 * apply_window(np.array([MIDDLE_HU]), *WINDOWS[window])[0], abs=4)


def test_the_list_is_filtered(page: Page) -> None:
    shown = "[...document.querySelectorAll('#list tbody tr')].filter((row) => !row.hidden).length"
    assert page.value(shown) == 2
    page.value("document.getElementById('search').focus()")
    page.press("feet first")
    assert page.value(shown) == 1 and page.value("document.getElementById('shown').textContent") == "1 of 2"
    page.press(" nothing")
    assert page.value(shown) == 0 and not page.value("document.getElementById('none').hidden")
    page.press(keys().ESCAPE)
    assert page.value(shown) == 2


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, width: int) -> None:
    page.resize(width, 900)
    for fragment in ("#list", "#exam-1", "#model"):
        page.go(fragment)
        assert page.value("document.documentElement.scrollWidth") <= width, fragment
    assert page.value("document.querySelectorAll('#model svg.chart').length") == 3

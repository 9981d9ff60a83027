"""The review page in a real browser: alone, on a phone, in the dark, on paper, by keyboard, and inside MLflow's UI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_helpers as made

from repairops.report import Pictures, commands, render_page, statements
from repairops.report.sheet import Sheet, SheetImage, render_sheet

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: pip install '.[dev]'")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium here, so the review page is not tested in a browser: apt-get install chromium",
)
# Nothing but the page: no sandbox as root, and none of the browser's own traffic.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"small phone": 320, "phone": 390, "MLflow's pane": 514, "tablet": 760, "desk": 1280}
AXE = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}
NOWHERE: dict[str, list[str]] = {name: [] for name in WIDTHS}
LONG = "a_name_without_any_place_to_break_it_" * 4


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A page in its own context, with all that it asked for and complained about."""

    def __init__(self, chromium: Any, width: int = 1280, scheme: str = "light") -> None:
        self.context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.requests: list[Any] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type != "log" else None)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def written(folder: Path, outcome: dict[str, Any], pictures: Pictures | None = None) -> str:
    """The URI of the outcome's page, written into the folder."""
    file = folder / "report.html"
    file.write_text(
        render_page(made.record(outcome), made.pictures() if pictures is None else pictures), encoding="utf-8"
    )
    return file.as_uri()


def violations(page: Any) -> list[str]:
    """What axe finds, one line for each rule and place."""
    found = axe.Axe().run(page, options=AXE).response["violations"]
    return [
        f"{rule['id']}: {node['target']} {node.get('failureSummary', '')}" for rule in found for node in rule["nodes"]
    ]


def too_wide(frame: Any) -> list[str]:
    """The elements that reach beyond the window's right edge, outside regions that scroll by themselves."""
    script = """() => {
      const edge = document.documentElement.clientWidth + 0.5, out = [];
      if (document.documentElement.scrollWidth <= edge) return out;
      for (const e of document.body.querySelectorAll('*'))
        if (e.getBoundingClientRect().right > edge && !e.closest('.scroll, svg')) out.push(e.outerHTML.slice(0, 99));
      return out.length ? out : ['the document itself'];
    }"""
    return list(frame.evaluate(script))


@pytest.fixture
def opened(chromium: Any) -> Iterator[Opened]:
    with Opened(chromium) as page:
        yield page


def resized(page: Any) -> Iterator[str]:
    """The page at each width in turn, down to the 320 pixels of WCAG's rule on reflow."""
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        yield name


@pytest.mark.parametrize("name", made.OUTCOMES)
def test_every_outcome_shows_and_is_accessible(name: str, opened: Opened, tmp_path: Path) -> None:
    """No request, no complaint, nothing too wide; in light and dark axe finds nothing.

    axe checks landmarks, names, alternative texts, order of headings, contrast, tables, what scrolls by keyboard.
    """
    page, outcome = opened.page, made.OUTCOMES[name]()
    word = statements.verdict_word(made.record(outcome))
    uri = written(tmp_path, outcome)
    page.goto(uri)
    assert {width: too_wide(page) for width in resized(page)} == NOWHERE
    assert page.get_by_role("heading", level=1).is_visible()
    assert page.get_by_role("banner").get_by_text(word, exact=False).first.is_visible()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []
    assert {r.url for r in opened.requests if not r.url.startswith("data:")} == {uri}
    assert opened.complaints == []


def test_long_names_do_not_widen_the_page(opened: Opened, tmp_path: Path) -> None:
    outcome = made.renamed(made.passed(), LONG)
    outcome["evidence"]["clean_by_class"] = {LONG: outcome["evidence"]["clean"]}
    outcome["confusion"]["clean"] = [{"true": LONG, "answer": LONG, "champion": 1, "challenger": 2}]
    opened.page.goto(written(tmp_path, outcome, made.pictures(name=LONG)))
    assert {width: too_wide(opened.page) for width in resized(opened.page)} == NOWHERE


def broken_words(page: Any) -> list[str]:
    """Words of at most 14 letters in tables and lists that stand on more than one line."""
    script = """() => {
      const out = [];
      for (const cell of document.querySelectorAll('th, td, dt, dd, figcaption, .keys p')) {
        if (cell.getBoundingClientRect().width < 2) continue;  // for ears alone
        const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
        for (let node; (node = walker.nextNode()); )
          for (const found of node.data.matchAll(/[\\p{L}\\p{N}]{2,14}/gu)) {
            const range = document.createRange();
            range.setStart(node, found.index);
            range.setEnd(node, found.index + found[0].length);
            const around = (node.data[found.index - 1] ?? ' ') + (node.data[found.index + found[0].length] ?? ' ');
            if (/[\\p{L}\\p{N}]/u.test(around)) continue;
            const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
            if (lines.size > 1) out.push(found[0]);
          }
      }
      return out;
    }"""
    return list(page.evaluate(script))


@pytest.mark.parametrize("name", ["guarded", "error"])
def test_no_word_breaks_into_letters_on_a_phone(name: str, opened: Opened, tmp_path: Path) -> None:
    opened.page.goto(written(tmp_path, made.OUTCOMES[name]()))
    opened.page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert {width: broken_words(opened.page) for width in resized(opened.page)} == NOWHERE
    opened.page.add_style_tag(content="dd { max-width: 2ch }")
    assert broken_words(opened.page) != []


def test_links_lead_to_the_registry(opened: Opened, tmp_path: Path) -> None:
    """Run, both versions and batches, as addresses of MLflow's pages; of a database its address alone."""
    opened.page.goto(written(tmp_path, made.passed()))
    section = opened.page.locator("#lineage")
    found = {link.inner_text(): link.get_attribute("href") for link in section.get_by_role("link").all()}
    root, run = "https://mlflow.example.com/#", "d4" * 16
    assert found["models:/road-signs/4"] == f"{root.replace('#', '')}#/models/road-signs/versions/4"
    assert found[run] == f"{root}/experiments/12/runs/{run}"
    assert found["07aa07aa07aa, 344 rows"] == f"{root}/experiments/9/runs/{'c3' * 16}"
    outcome = made.passed()
    outcome["provenance"]["registry"] = "sqlite:////data/mlflow.db"
    opened.page.goto(written(tmp_path, outcome))
    assert opened.page.locator("#lineage").get_by_role("link").count() == 0
    assert opened.page.locator("#lineage code", has_text="sqlite:////data/mlflow.db").is_visible()


def test_accessible_on_a_phone_and_on_paper(opened: Opened, tmp_path: Path) -> None:
    opened.page.goto(written(tmp_path, made.passed()))
    opened.page.set_viewport_size({"width": 320, "height": 900})
    assert violations(opened.page) == []
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert violations(opened.page) == []


def test_the_contact_sheet_of_triage_shows_and_is_accessible(opened: Opened, tmp_path: Path) -> None:
    page, file = opened.page, tmp_path / "triage.html"
    images = [
        SheetImage(
            rank, f"north/{LONG}{rank}.png", name, 1 / rank, rank % 3, float("inf"), np.full(shape, 90, np.uint8)
        )
        for rank, (name, shape) in enumerate((("cat", (3, 20, 40)), ("", (300, 100)), (LONG, (8, 8))), 1)
    ]
    sheet = Sheet("version 3 of 'cls'", "prod/cls", f"/data/{LONG}", "triage.csv", "gini", ("the input of fc",),
                  (("north", 40, 3), ("", 2, 0)), 4, 3, ("guard",), {"a.png": "the file is empty"}, images)  # fmt: skip
    file.write_text(render_sheet(sheet), encoding="utf-8")
    page.goto(file.as_uri())
    assert {width: too_wide(page) for width in resized(page)} == NOWHERE
    assert page.get_by_role("figure").count() == 3
    assert page.get_by_role("figure").nth(0).inner_text().split("\n")[:2] == ["1 cat 100%", "cluster 1, –"]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []
    assert {r.url for r in opened.requests if not r.url.startswith("data:")} == {file.as_uri()}
    assert opened.complaints == []


def test_faults_are_found(opened: Opened, tmp_path: Path) -> None:
    """What the other tests rely on: a picture without words, a faint text and a wide element do not pass."""
    page = opened.page
    page.goto(written(tmp_path, made.passed()))
    page.evaluate("document.images[0].removeAttribute('alt')")
    page.evaluate("document.querySelector('footer').style.color = '#bbb'")
    page.evaluate("document.querySelector('.headline').style.minWidth = '4000px'")
    assert {found.partition(":")[0] for found in violations(page)} == {"image-alt", "color-contrast"}
    assert [found[:19] for found in too_wide(page)] == ['<p class="headline"']


def test_light_and_dark_differ_and_paper_is_white(opened: Opened, tmp_path: Path) -> None:
    opened.page.goto(written(tmp_path, made.passed()))
    opened.page.emulate_media(color_scheme="dark")
    assert max(ground(opened.page)) < 60
    opened.page.emulate_media(color_scheme="light")
    assert min(ground(opened.page)) > 240
    opened.page.emulate_media(color_scheme="dark", media="print")
    assert ground(opened.page) == (255, 255, 255)


def ground(page: Any) -> tuple[int, ...]:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_paper_shows_what_the_screen_folds_away(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    page.goto(written(tmp_path, made.passed()))
    table = page.locator("details th", has_text="Learning rate")
    assert not table.is_visible()
    page.emulate_media(media="print")
    assert table.is_visible()
    assert not page.get_by_role("navigation").is_visible()
    page.set_viewport_size({"width": 688, "height": 900})  # A4 between the margins: tables as on a desk
    assert too_wide(page) == []
    assert page.get_by_role("columnheader", name="Challenger", exact=True).first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_keyboard_reaches_everything_in_reading_order(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    page.goto(written(tmp_path, made.passed()))
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    wanted = page.evaluate(
        "[...document.querySelectorAll('a, summary, [tabindex]:not(section)')].map(e => e.outerHTML)"
    )
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.outerHTML"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", reached[-1]
    assert reached == wanted
    assert len(wanted) > 10


def test_a_command_is_copied_as_it_is(opened: Opened, tmp_path: Path) -> None:
    opened.page.set_viewport_size({"width": 320, "height": 900})
    opened.page.goto(written(tmp_path, made.passed()))
    record = made.record(made.passed())
    wanted = [commands.promote_command(record), commands.reproduce_command(record)]
    for command in wanted:
        shown = opened.page.locator("pre", has_text=command).first
        shown.click()
        assert opened.page.evaluate("getSelection().toString()") == command
        assert shown.evaluate("e => e.getBoundingClientRect().height") > 50  # over several lines


def test_the_contents_lead_to_their_sections(opened: Opened, tmp_path: Path) -> None:
    page = opened.page
    page.goto(written(tmp_path, made.passed()))
    links = page.get_by_role("navigation").get_by_role("link").all()
    sections = page.evaluate("[...document.querySelectorAll('main section')].map(e => '#' + e.id)")
    assert [link.get_attribute("href") for link in links] == sections
    for link in links:
        link.focus()
        page.keyboard.press("Enter")
        playwright.expect(page.locator(f"{link.get_attribute('href')}:target h2")).to_be_in_viewport()


@pytest.mark.long
def test_in_the_artifact_view_of_a_running_mlflow_ui(opened: Opened, server_registry: str, tmp_path: Path) -> None:
    """MLflow shows the page in a sandboxed frame: it must work there, in light and dark, and ask nothing of anybody."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.create_experiment("review page in a browser")
    run = client.create_run(experiment).info.run_id
    (tmp_path / "report.html").write_text(render_page(made.record(made.passed()), made.pictures()), encoding="utf-8")
    client.log_artifact(run, str(tmp_path / "report.html"))
    client.set_terminated(run)
    page = opened.page
    page.goto(f"{server_registry}/#/experiments/{experiment}/runs/{run}/artifacts/report.html")
    element = page.wait_for_selector("iframe[sandbox]", timeout=60_000)
    frame = element.content_frame()
    assert element.get_attribute("sandbox") == "allow-scripts"
    playwright.expect(frame.get_by_role("banner")).to_contain_text(statements.headline(made.record(made.passed())))
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert too_wide(frame) == []
        grounds.append(ground(frame))
    assert min(grounds[0]) > 240
    assert max(grounds[1]) < 60
    shown = frame.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert len(shown) > 40
    assert all(shown)
    frame.get_by_role("navigation").get_by_role("link", name="Lineage").click()
    playwright.expect(frame.locator("#lineage h2")).to_be_in_viewport()
    asked = [r.url for r in opened.requests if r.frame == frame and not r.url.startswith(("data:", "blob:"))]
    assert asked == []
    assert [said for said in opened.complaints if "Content Security Policy" in said or "blob:" in said] == []


@pytest.mark.long
def test_mlflow_s_own_page_of_a_repaired_model_has_the_judged_figures(
    opened: Opened, server_registry: str, tmp_path: Path
) -> None:
    """The figures of the outcome, on the data that judged, and the version that it is; nothing of an epoch."""
    from store_helpers import SPEC, TinyNet, digit_set, register

    from repairops.config import ModelConfig
    from repairops.outcome.logged import metrics
    from repairops.promotion.log_model import log_model
    from repairops.store.champion import fetch_champion
    from repairops.store.connection import connect
    from repairops.store.datasets import DatasetRef, log_reference
    from repairops.store.jobs import job_run
    from repairops.store.registry import logged_model_id

    client, record = connect(), made.record(made.passed())
    ref = log_model(TinyNet().eval(), "pages-in-a-browser", SPEC, train_set=digit_set())
    with job_run(client, ref) as job:
        job.log_metrics(0, {"validation_repair_rate": 0.0})
        clean = log_reference(client, job.run_id, "evaluation", DatasetRef("/clean", "c" * 64))
        champion = fetch_champion(ref, ModelConfig(), tmp_path / "champion")
        version = register(client, champion, TinyNet(seed=1), tmp_path, job.run_id)
        model_id = logged_model_id(version)
        job.log_figures(metrics(record), {"clean_set": clean}, model_id)
    experiment = client.get_run(job.run_id).info.experiment_id
    opened.page.goto(f"{server_registry}/#/experiments/{experiment}/models/{model_id}")
    shown = opened.page.locator("body")
    playwright.expect(shown).to_contain_text("judge/heldout_repair_rate", timeout=60_000)
    assert record.evidence is not None
    for text in (clean[0], f"{ref.name}", str(record.evidence.heldout_repaired / record.evidence.heldout_total)):
        playwright.expect(shown).to_contain_text(text)
    assert "validation_repair_rate" not in shown.inner_text().replace("train/validation_repair_rate", "")

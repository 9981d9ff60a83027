"""The review page, the version's description and the terminal summary."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
import shlex
from dataclasses import asdict, replace
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
import report_helpers as made
from evidence_helpers import page_evidence
from PIL import Image
from report_helpers import Page, attributes, record

from repairops.config import RULES, GateConfig, load_config
from repairops.gate import decide
from repairops.gate.evidence import Check, FieldCounts, PairedCounts, RepairCounts, RoutedCounts, Routing
from repairops.outcome import Outcome, Record
from repairops.outcome.logged import metrics
from repairops.outcome.plain import to_plain
from repairops.report import (
    NegativeFlip,
    Pictures,
    SamplePair,
    SuspectImage,
    check_figures,
    commands,
    comparisons,
    gallery,
    learning,
    lineage,
    render_markdown,
    render_page,
    render_terminal,
    statements,
)
from repairops.report.advice import next_steps
from repairops.report.formats import duration, fixed, number, percent, plain, signed, when
from repairops.report.pictures import GRID_BYTES, MAX_FLIPS, PICTURE_BYTES, fitted_png, png_size, png_uri
from repairops.validation.facts import ROW_RULES

MISSING = ("routing", "field_rows", "earlier")  # in these outcomes' evidence
ADVISORY = sum(getattr(GateConfig(), name) == "advisory" and rule.needs not in MISSING for name, rule in RULES.items())
HOSTILE = "<script>alert(1)</script>\"'`|*_\x1b[31m\n# x"


def page(name: str, pictures: Pictures | None = None) -> Page:
    return Page(render_page(record(made.OUTCOMES[name]()), pictures or Pictures()))


def page_of(name: str) -> str:
    return render_page(record(made.OUTCOMES[name]()), Pictures())


def check_of(found: Record, name: str) -> Check:
    check = statements.check(found, name)
    assert check
    return check


def cells(html: str, label: str) -> list[list[str]]:
    """The texts of all rows of the table, or of the first one after what is labelled or called so."""
    table = html[html.index(label) :] if label else html
    rows = re.findall(r"<tr.*?</tr>", table if not label else table[: table.index("</table>")], re.DOTALL)
    return [[Page(cell).text for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


# Every outcome


@pytest.mark.parametrize("name", made.OUTCOMES)
def test_every_outcome_gives_a_well_formed_page_with_its_verdict(name: str) -> None:
    outcome = made.OUTCOMES[name]()
    found = page(name, made.pictures())
    assert found.open == []
    assert statements.verdict_word(record(outcome)) in found.text
    assert statements.headline(record(outcome)) in found.text
    for landmark in ("header", "main", "footer", "nav", "h1"):
        assert len(found.all(landmark)) == 1
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    inside, outside = set(), set()
    for link in found.all("a"):
        (inside if str(link["href"]).startswith("#") else outside).add(str(link["href"]))
    assert inside <= {f"#{i}" for i in ids}
    assert all(address.startswith("https://mlflow.example.com") for address in outside)
    assert {a["aria-labelledby"] for a in found.all("section")} <= set(ids)


@pytest.mark.parametrize(
    ("name", "word", "sentence"),
    [
        ("passed", "Passed", "The repair passed its gate: 231 of 300 held-out failures are right now"),
        ("failed", "Failed", "The repair failed its gate: clean non-regression and ONNX parity failed."),
        (
            "inconclusive",
            "Inconclusive",
            "The gate could not decide: the evidence on clean non-regression is too thin.",
        ),
        ("nothing_to_repair", "Nothing to repair", "There was nothing to repair."),
        ("error", "Error", "The repair stopped with an error."),
        ("rejected", "Batch rejected", "The failure batch was rejected by validation, so no repair was tried."),
    ],
)
def test_verdict_words(name: str, word: str, sentence: str) -> None:
    outcome = made.OUTCOMES[name]()
    assert statements.verdict_word(record(outcome)) == word
    assert statements.headline(record(outcome)).startswith(sentence)
    assert render_terminal(record(outcome)).startswith(word.upper())
    assert render_markdown(record(outcome)).startswith(f"**{word}.**")


@pytest.mark.parametrize("name", [n for n in made.OUTCOMES if n not in ("passed", "guarded")])
def test_no_pass_says_why_and_what_next(name: str) -> None:
    outcome, text = made.OUTCOMES[name](), page(name).text
    assert statements.why(record(outcome))
    assert all(reason in text for reason in statements.why(record(outcome)))
    assert all(step in text for step in next_steps(record(outcome)))
    assert "Nothing was registered and no alias was moved." in text
    assert "repairops promote" not in text
    assert "repairops rollback" not in text


def test_next_steps_fit_the_cause() -> None:
    needed = made.inconclusive()["verdict"]["checks"][0]["figures"]["images_needed"]
    assert f"about {needed:,} images would settle it" in next_steps(record(made.inconclusive()))[0]
    assert "training.learning_rate" in next_steps(record(made.failed()))[0]
    assert "gate.onnx_parity=advisory" in next_steps(record(made.failed()))[1]
    assert "validation.*" in next_steps(record(made.rejected()))[2]
    assert "promote" in next_steps(record(made.passed()))[0]
    assert "register" in next_steps(record(made.passed() | {"registered": None}))[0]
    assert "rolls the alias back" in next_steps(record(made.passed() | {"promoted": True}))[0]


def too_little(**changed: Any) -> str:
    """What is advised where too few failures are repaired."""
    few = made.judged(replace(made.page_evidence(), heldout_repaired=40))
    outcome = made.passed() | few | {"outcome": "failed", "exit_code": 3, "registered": None} | changed
    return next_steps(record(outcome))[0]


def test_too_few_repairs_are_told_their_cause() -> None:
    whole = made.passed()
    cut = too_little()
    assert "cut to 75% of the way" in cut
    assert "the whole way repairs 74% of the failures at -0.20 points, and this one 71% at -0.06" in cut
    assert "validation set" in cut
    off = whole["config"] | {"guard": {"mode": "off"}}
    assert "guard.mode=auto" in too_little(config=off)
    to_the_end = whole["training"] | {"tradeoff": [p | {"chosen": p["weight"] == 1} for p in made.trade_off()]}
    assert "style.name" in too_little(training=to_the_end)
    plain = too_little(training=to_the_end, method={"name": "fine_tune", "recipe": "default", "style": "wct2"})
    assert "style" not in plain
    assert plain.startswith("Log more failures")
    assert "cut to" not in too_little(form=made.guarded()["form"])  # the whole way is served


def test_an_advisory_failure_is_not_named_as_the_reason() -> None:
    outcome = made.failed()
    outcome["verdict"]["checks"][5]["result"] = "FAIL"
    assert not any("Latency" in reason for reason in statements.why(record(outcome)))


def test_a_verdict_that_no_check_explains_says_why() -> None:
    off = dict.fromkeys(("clean_non_regression", "repair_rate", "class_recall", "onnx_parity"), "off")
    found = page_evidence()
    for evidence, outcome, reason in (
        (replace(found, challenger_finite=False), "failed", "The challenger's outputs hold NaN or infinity."),
        (replace(found, clean=PairedCounts(0, 0, 0, 0)), "inconclusive", "There is no clean image to compare on."),
    ):
        verdict = decide(evidence, GateConfig(**off))
        assert verdict.result == {"failed": "FAIL", "inconclusive": "INCONCLUSIVE"}[outcome]
        found = Record(outcome=outcome, evidence=evidence, verdict=verdict)
        assert statements.why(found) == [reason]
        assert reason in Page(render_page(found, Pictures())).text


def test_too_few_held_out_failures_name_the_number_that_is_needed() -> None:
    evidence = replace(page_evidence(), heldout_repaired=4, heldout_total=10)
    outcome = made.passed() | made.judged(evidence) | {"outcome": "inconclusive"}
    needed = outcome["verdict"]["checks"][1]["figures"]["failures_needed"]
    assert needed > 10
    assert f"about {needed:,} held-out ones" in next_steps(record(outcome))[0]


@pytest.mark.parametrize("kind", ["alias_moved", "not_promoted"])
def test_a_pass_without_its_promotion_shows_its_message(kind: str) -> None:
    outcome = made.passed() | {
        "outcome": kind,
        "exit_code": 5,
        "message": "The alias 'prod' of 'road-signs' was at version 3 and is at 9.",
    }
    assert statements.why(record(outcome)) == [outcome["message"]]
    assert statements.verdict_word(record(outcome)) == "Passed"
    assert "run the same command again" in next_steps(record(outcome))[0]
    assert statements.why(record(made.passed())) == []


@pytest.mark.parametrize("name", made.OUTCOMES)
def test_any_key_may_be_missing(name: str) -> None:
    whole = made.OUTCOMES[name]()
    for outcome in [{k: v for k, v in whole.items() if k != gone} for gone in whole] + [{}, {"outcome": name}]:
        found = record(outcome)
        assert Page(render_page(found, Pictures())).open == []
        assert render_markdown(found)
        assert render_terminal(found)


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf")])
def test_figures_that_are_no_number_show_as_missing(nothing: float | None) -> None:
    """What JSON keeps of them is null. (A value of another kind is refused where the file is read: test_outcome.)"""
    deep = made.passed()
    for check in deep["verdict"]["checks"]:
        check["figures"] = dict.fromkeys(check["figures"], nothing)
    for latency in deep["evidence"]["latency"]:
        latency |= {"champion_median_ms": nothing, "challenger_p99_ms": nothing}
    for row in (*deep["training"]["history"], *deep["training"]["tradeoff"]):
        row |= {"validation_accuracy": nothing}
    deep["training"] |= {"seconds": nothing, "step_shares": {"forward": nothing}, "peak_memory_mb": {"gpu": nothing}}
    deep["stages"] = {"pull": nothing}
    deep["seconds"] = deep["clusters"][0]["size"] = nothing
    before = {k: v for k, v in deep.items() if k != "evidence"}
    before["champion"] = before["challenger"] = {"clean_accuracy": nothing}
    for broken in (record(deep), record(before)):
        text = Page(render_page(broken, Pictures())).text
        assert "nan" not in text.lower()
        assert "None" not in text
        assert "nan" not in render_markdown(broken)
        assert "None" not in render_terminal(broken)


def test_the_written_and_the_live_record_give_the_same_page() -> None:
    live = record(made.passed())
    written = Outcome(json.loads(json.dumps(to_plain(live)))).record
    assert render_page(written, Pictures()) == render_page(live, Pictures())


# Safety: no network, nothing escapes


def test_nothing_is_asked_of_the_network() -> None:
    for html in (render_page(record(make()), made.pictures()) for make in made.OUTCOMES.values()):
        found = Page(html)
        assert {tag for tag, _ in found.elements} & {"link", "iframe", "object", "video", "form"} == set()
        assert "http://" not in html
        followed = {str(a["href"]) for a in found.all("a")}  # by a click alone
        assert all(place.startswith(("#", "https://mlflow.example.com")) for place in followed)
        assert "https://" not in html.replace("https://mlflow.example.com", "")
        assert "@import" not in html
        assert "url(" not in html
        sources = [
            a[k] for _, a in found.elements for k in ("src", "srcset", "poster", "action", "xlink:href") if k in a
        ]
        assert all(source and source.startswith("data:image/png;base64,") for source in sources)
        policy, script = found.all("meta")[1]["content"] or "", html.split("<script>")[1].split("</script>")[0]
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        assert found.all("script") == [{}]  # this one alone


def test_hostile_names_stay_text() -> None:
    outcome = made.renamed(made.passed(), HOSTILE)
    found = Page(render_page(record(outcome), made.pictures(name=HOSTILE)))
    assert found.all("script") == [{}]
    assert found.open == []
    assert "<script>alert(1)</script>" in found.text
    allowed = {
        "class",
        "id",
        "src",
        "alt",
        "width",
        "height",
        "role",
        "aria-label",
        "tabindex",
        "scope",
        "href",
        "open",
        "colspan",
        "data-label",
    }
    assert {
        k for tag, a in found.elements if tag in ("img", "th", "td", "pre", "code", "section") for k in a
    } <= allowed | {"aria-labelledby"}
    markdown = render_markdown(record(outcome))
    outside = "".join(markdown.split("```")[::2])
    assert "<" not in re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", outside))
    assert "\x1b" not in render_terminal(record(outcome)) + markdown
    assert shlex.split(commands.promote_command(record(outcome)))[:2] == ["repairops", "promote"]
    assert len(shlex.split(commands.promote_command(record(outcome)))) == 9


def test_markdown_tables_keep_their_columns() -> None:
    outcome = made.passed()
    outcome["verdict"]["checks"][0]["summary"] = "a | b\nc"
    rows = [line for line in render_markdown(record(outcome)).splitlines() if line.startswith("| Clean non-regression")]
    assert rows == [r"| Clean non-regression | PASS | required | a \| b c |"]


# Size and pictures


def test_page_of_a_thousand_failures_stays_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224), dtype=np.uint8)
    grid = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (700, 1400, 3), dtype=np.uint8)).save(grid, format="PNG")
    outcome = made.passed()
    outcome["clusters"] = [{"id": i, "size": 20, "labels": {f"class {c}": 1 for c in range(100)}} for i in range(50)]
    outcome["evidence"]["clean_by_class"] = {f"class {i}": to_plain(page_evidence().clean) for i in range(1000)}
    outcome["verdict"]["checks"][2]["figures"] = {}
    outcome["batches"] *= 500
    many = Pictures(
        grid.getvalue(),
        [SamplePair(i // 20, noise, noise, noise, noise) for i in range(1000)],
        [NegativeFlip(noise, "a", "a", "b")] * 1000,
    )
    html = render_page(record(outcome), many)
    assert len(html.encode()) < 3_000_000
    assert len(Page(html).all("img")) == 20 * 4 + MAX_FLIPS + 1
    assert "960 more rows fell less or rose" in Page(html).text
    assert "950 more batches" in Page(html).text


def test_pictures_are_scaled_to_the_bytes_they_may_take() -> None:
    image = np.zeros((3, 500, 400), np.uint8)
    few = Pictures(negative_flips=[NegativeFlip(image, "a", "a", "b")])
    many = Pictures(
        samples=[SamplePair(i, image, image, image) for i in range(200)],
        negative_flips=[NegativeFlip(image, "a", "a", "b")] * 99,
    )
    assert few.side == 112
    assert 3 * many.side**2 * (20 * 3 + MAX_FLIPS) <= PICTURE_BYTES
    with Image.open(io.BytesIO(_png(png_uri(image, 100)))) as opened:
        assert opened.size == (80, 100)


def test_pictures_keep_their_pixels() -> None:
    colour = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    with Image.open(io.BytesIO(_png(png_uri(colour)))) as opened:
        assert np.array_equal(np.asarray(opened), colour.transpose(1, 2, 0))
    grey = made.digits()[0]
    with Image.open(io.BytesIO(_png(png_uri(grey)))) as opened:
        assert opened.mode == "L"
        assert np.array_equal(np.asarray(opened), grey[0])


@pytest.mark.parametrize("image", [np.zeros((3, 4, 4)), np.zeros((2, 4, 4), np.uint8), np.zeros(4, np.uint8)])
def test_a_picture_of_another_kind_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be uint8"):
        png_uri(image)


def test_a_large_grid_is_made_to_fit() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)).save(buffer, format="PNG")
    png = buffer.getvalue()
    fitted = fitted_png(png)
    assert len(fitted) <= GRID_BYTES < len(png)
    width, height = png_size(fitted)
    assert width / height == pytest.approx(1.5, abs=0.02)
    assert fitted_png(fitted) == fitted


def test_every_picture_and_figure_has_words() -> None:
    found = page("passed", made.pictures())
    assert len(found.all("img")) == 5 * 2 * 4 + 5 + 11 + 1  # clusters, flips, judged failures, grid
    assert all(a.get("alt") for a in found.all("img"))
    assert found.all("svg")
    assert all(a.get("role") == "img" and a.get("aria-label") for a in found.all("svg"))


def test_samples_stand_with_their_cluster() -> None:
    digits = made.digits()
    samples = [
        SamplePair(1, digits[0], digits[1], digits[2], label="two"),
        SamplePair(9, digits[3], digits[4], digits[5]),
    ]
    outcome = made.passed()
    outcome["clusters"] = [{"id": 0, "size": 3, "labels": {"one": 3}}, {"id": 1, "size": 2, "labels": {"two": 2}}]
    html = render_page(record(outcome), Pictures(samples=samples))
    first, second, unknown = html.split('<div class="cluster">')[1:]
    assert "<img" not in first
    assert second.count("<img") == 3
    assert "Failure of cluster 1: two" in second
    assert "Cluster 9" in unknown


# Sections


def test_classes_come_worst_first_and_mark_what_is_beyond_the_margin() -> None:
    outcome = made.passed()
    outcome["evidence"]["clean_by_class"]["deer"] = asdict(PairedCounts(870, 63, 2, 65))
    found = comparisons.classes(record(outcome))
    worst = found["rows"][0]
    assert (worst["name"], signed(worst["value"]), worst["beyond"]) == ("deer", "−6.10", True)
    assert not any(row["beyond"] for row in found["rows"][1:])


def test_intervals_are_those_of_the_gate() -> None:
    """All clean images as one row have the bounds that the check writes, to the hundredth of a point."""
    found = record(made.passed())
    figures = check_of(found, "clean_non_regression").figures
    wanted = [figures["lower_points"], figures["upper_points"]]
    assert list(comparisons.bounds(page_evidence().clean, 0.95)) == pytest.approx(wanted, abs=0.01)
    figures = check_of(found, "repair_rate").figures
    assert comparisons.bounds(RepairCounts(231, 300), 0.95) == (figures["lower"], figures["upper"])


def test_failures_per_class_come_lowest_rate_first() -> None:
    found = comparisons.failure_classes(record(made.passed()))["rows"]
    assert (found[0]["name"], found[0]["counts"], percent(found[0]["value"])) == ("horse", RepairCounts(9, 22), "40.9%")
    assert [row["value"] for row in found] == sorted(row["value"] for row in found)
    assert ["horse", "22", "9", "40.9%"] in [row[:4] for row in cells(page_of("passed"), "Failures repaired per class")]


def test_slices_and_corruptions() -> None:
    outcome = made.passed()
    clean, failures = comparisons.slices(record(outcome))
    assert [(row["name"], row["counts"].n, signed(row["value"])) for row in clean["rows"]] == [
        ("site north", 2000, "−0.15"),
        ("site south", 8000, "−0.04"),
    ]
    rows = cells(page_of("passed"), "Slices of the clean set")
    assert rows[1][:5] == ["site north", "2,000", "92.0%", "91.8%", "−0.15"]
    assert [(row["name"], percent(row["value"])) for row in failures["rows"]] == [
        ("source camera 8", "68.9%"),
        ("source camera 7", "82.3%"),
    ]
    assert [row["name"] for row in comparisons.corruptions(record(outcome))["rows"]][::3] == [
        "jpeg compression",
        "gaussian noise",
    ]
    check = {"name": "corruptions", "level": "advisory", "result": "PASS", "summary": ""}
    outcome["verdict"]["checks"] = [check | {"figures": {"margin_points": 2.0}}]
    assert [row["beyond"] for row in comparisons.corruptions(record(outcome))["rows"]] == [True, False, False, False]


def test_latency_is_one_row_for_each_batch_size() -> None:
    _, *rows = cells(page_of("passed"), 'aria-label="Latency"')
    assert rows == [["1", "1.910", "1.930", "1.01", "2.400", "2.520"], ["32", "21.3", "21.8", "1.02", "24.0", "25.9"]]


def test_the_page_tells_how_fast_and_by_what_it_was_trained() -> None:
    found, given = made.passed(), made.passed()
    pace = {"learning_rate": 0.02, "clip": 39.7, "change": 0.0201, "lowered": 0}
    found["training"] |= {"optimizer": "sgd", "pace": pace}
    given["training"] |= {"optimizer": "adamw", "pace": {"learning_rate": 0.001, "clip": 0, "change": 0, "lowered": 0}}
    page = render_page(record(found), Pictures())
    assert "Trained by SGD from a learning rate of 0.02; a step at its default rate would change" in page
    assert "the weights by 2.0%. Gradients were cut at a norm of 39.7." in page
    assert learning.training(record(given))["pace"] == "Trained by AdamW from a learning rate of 0.001."
    assert learning.training(record(made.passed()))["pace"] == ""  # an older outcome


def test_training_starts_at_the_champion() -> None:
    found = learning.training(record(made.passed()))
    loss, accuracy = (chart["figure"] for chart in found["charts"])
    lines = [a["points"].split() for a in Page(loss).all("polyline") + Page(accuracy).all("polyline")]
    assert [len(points) for points in lines] == [5, 6, 6, 6]
    assert "over epochs 0 to 5; epoch 4 was chosen" in accuracy
    assert found["time"] == (
        "3 min 11 s · on cuda · 5,120 images per second · "
        "a step's time: augmentation 21%, forward 31%, backward 44%, update 4% · "
        "at most 2,310 MB of memory, 1,204 MB of GPU memory"
    )
    outcome = made.passed()
    outcome["training"].pop("champion")
    accuracy = learning.training(record(outcome))["charts"][1]["figure"]
    assert [len(a["points"].split()) for a in Page(accuracy).all("polyline")] == [5, 5, 5]


def test_a_rival_stands_beside_the_challenger_on_the_same_images() -> None:
    assert "Beside another method" not in page_of("passed")
    found = made.passed()
    clean = {"both_right": 9_000, "champion_only": 41, "challenger_only": 12, "both_wrong": 947}
    found["comparison"] = {
        "method": "fine_tune", "form": "hard", "validation_repair_rate": 0.4, "clean": clean,
        "heldout_repaired": 66, "heldout_total": 150, "seconds": 95.0,
    }  # fmt: skip
    _, own, other = cells(render_page(record(found), Pictures()), 'aria-label="Methods on the same images"')
    assert own[0].endswith(" (the challenger)")
    assert other == ["fine_tune", "two networks, hard", "66 of 150", "90.12%", "41", "12", "1 min 35 s"]


def test_trials_say_what_was_chosen_from() -> None:
    _, first, second = cells(page_of("passed"), "Trials")
    assert first[0] == "style_guided (chosen)"
    assert second == ["fine_tune", "0.03", "79 of 140", "94.04%", "21 s"]


def test_the_trade_off_names_its_chosen_point() -> None:
    found = learning.training(record(made.passed()))["trade_off"]
    assert ["0.75 (chosen)", "94.25%", "71.0%"] in cells(page_of("passed"), "Between champion and fine-tuned")
    assert "weight 0.75: accuracy 94.2%, repair rate 71.0% (chosen)" in found
    outcome = made.passed()
    outcome["training"]["tradeoff"] = outcome["training"]["tradeoff"][:1]
    assert learning.training(record(outcome))["trade_off"] == ""


def test_figures_by_epoch_name_the_chosen_one() -> None:
    rows = cells(page_of("passed"), "Figures by epoch")
    assert rows[4] == ["4 (chosen)", "0.2977", "94.10%", "74.00%", "86.00%", "0.012", "38 s"]
    assert rows[5][0] == "5"


def test_the_confusion_that_changed() -> None:
    heldout, clean = gallery.confusion(record(made.passed()))
    shown = page_of("passed")
    first = cells(shown, "Confusion that changed: held-out failures")[1]
    assert first[:4] == ["cat → dog", "41", "6", "−35"]
    assert [row[3] for row in cells(shown, "Confusion that changed: clean set")[1:]] == ["+6", "−4"]
    assert ["within" in row["figure"] for row in heldout["rows"]] == [True, True, True, False]
    (ring,) = attributes(clean["rows"][0]["figure"], "ring")
    assert float(ring["cx"]) == pytest.approx(7 + 38 / 44 * 186, abs=0.01)  # one scale for both tables


def test_repaired_failures_of_a_cluster() -> None:
    first, *_, last = gallery.clusters(record(made.passed()), Pictures())
    assert (first["repaired"], last["repaired"]) == ("98 of 120 held-out (82%)", "8 of 16 held-out (50%)")
    assert (first["look"], last["look"]) == tuple(
        f"additive noise, sigma 0.05 (0.02 to 0.09); {size} images" for size in (231, 28)
    )
    assert (first["styles"], last["styles"]) == ("subband_wct 70%, wct2 30%", "")
    outcome = made.passed()
    outcome["evidence"].pop("heldout_by_cluster")
    assert all(row["repaired"] == row["figure"] == "" for row in gallery.clusters(record(outcome), Pictures()))


def test_checks_come_in_groups_with_what_they_say_together() -> None:
    text = page("failed").text
    required = "2 of 4 pass; Clean non-regression and ONNX parity fail"
    assert f"Required, every one must pass before a promotion: {required}" in text
    advisory = f"{ADVISORY - 1} of {ADVISORY} pass; ONNX accuracy fails"
    assert f"Advisory, for the reviewer to weigh: {advisory}" in text


def test_a_rise_is_drawn_with_its_standard_error() -> None:
    figures = {"rise": 0.01, "max_rise": 0.02, "standard_error": 0.004, "confidence": 0.95}
    check = Check("calibration", "advisory", "PASS", "", figures)
    svg = check_figures.figure(check, width=212)  # 0..0.028 on 6..206
    (bar,) = attributes(svg, "range")
    assert float(bar["x"]) == pytest.approx(6 + 200 * (0.01 - 1.645 * 0.004) / 0.028, abs=0.05)
    assert float(bar["width"]) == pytest.approx(200 * 2 * 1.645 * 0.004 / 0.028, abs=0.05)
    assert [len(attributes(svg, kind)) for kind in ("point", "limit", "forbidden")] == [1, 1, 1]
    bare = check_figures.figure(replace(check, figures={"rise": 0.01, "max_rise": 0.02}))
    assert [len(attributes(bare, kind)) for kind in ("point", "range")] == [1, 0]


def test_an_unknown_check_is_shown_and_drawn_by_its_figures() -> None:
    """A check that the report does not know by name is drawn by the keys of its figures."""
    outcome = made.passed()
    rows = [{"name": "fog", "difference_points": -3.0}, {"name": "snow", "difference_points": 1.0}]
    new = {
        "name": "weather_effects",
        "level": "required",
        "result": "FAIL",
        "summary": "Fog falls.",
        "figures": {"margin_points": 2.0, "weathers": rows},
    }
    outcome["verdict"]["checks"] = [*outcome["verdict"]["checks"], new]
    found = check_of(record(outcome), "weather_effects")
    drawn = check_figures.figure(found)
    assert [len(attributes(drawn, kind)) for kind in ("dot", "beyond", "limit")] == [2, 1, 1]
    rows = cells(render_page(record(outcome), Pictures()), 'aria-label="Checks"')
    assert ["✕Fail", "Weather effectsFog falls."] in [row[:2] for row in rows]


def test_before_and_after_come_from_the_evidence_where_they_are_not_written() -> None:
    written = made.passed()
    bare = {k: v for k, v in written.items() if k not in ("champion", "challenger", "negative_flips")}
    assert statements.before_after(record(bare)) == statements.before_after(record(written))
    assert statements.before_after(record(written)) == [
        ("Clean accuracy (n = 10,000)", "92.57%", "92.51%", "−0.06 points"),
        ("Held-out failures right", "0 of 300", "231 of 300", "77.0% repaired"),
        ("Negative flips on the clean set", "–", "37 of 10,000", "0.37%"),
    ]


def test_a_sample_of_the_traffic_is_told_with_its_intervals() -> None:
    routing = Routing(RoutedCounts(4, 10_000), RoutedCounts(280, 300), field_rows=RoutedCounts(12, 880))
    counts = FieldCounts(900, 100, 880, 4, RepairCounts(18, 30))
    found = replace(record(made.passed()), evidence=replace(page_evidence(), field_rows=counts, routing=routing))
    assert statements.before_after(found)[3:] == [
        ("Accuracy on field traffic (n = 1,000)", "90.00%", "95.59%", "+5.59 points, +2.03 to +9.49"),
        ("Right answers in the field that broke", "–", "4 of 880", "0.45%"),
    ]
    shown = Page(render_page(found, Pictures()))
    assert "20 of them share a scene with a failure that has, and do not judge." in shown.text
    assert "95.59%" in shown.text
    assert "10.0% of it fails" in shown.text
    page = render_page(found, Pictures())
    assert ["Fails1,000 labelled images of the traffic", "10.0%", "8.5% to 11.7%"] in cells(page, "")
    assert ["Answered by the repaired network12 of 880 field rows", "1.36%", ""] in cells(page, "")
    assert "Accuracy on field traffic" in render_markdown(found)
    assert "Accuracy on field traffic" in render_terminal(found)
    figures = {each.name: each.value for each in metrics(found)}
    assert figures["judge/field_challenger_accuracy"] == pytest.approx(0.9559, abs=1e-4)
    assert figures["judge/field_routed"] == pytest.approx(12 / 880)
    assert figures["judge/field_accuracy_change_lower"] > 0.01
    assert not [name for name in (each.name for each in metrics(record(made.passed()))) if "field" in name]


def test_quarantined_rows_are_listed_by_rule() -> None:
    found = lineage.quality(record(made.passed()))
    assert found["rules"] == [("stale", 96), ("duplicate", 41), ("unknown_label", 12), ("does_not_decode", 7)]
    shown = page_of("passed")
    assert "1,156 rows were logged: 1,000 accepted, 156 quarantined." in Page(shown).text
    assert ["does not decode", "damaged, or no image at all", "7"] in cells(shown, "")


def suspected(**changes: Any) -> dict[str, Any]:
    listed = [
        {
            "sample_id": f"{i:064d}",
            "part": part,
            "label": "cat",
            "answer": "dog",
            "label_chance": 0.002,
            "answer_chance": 0.9,
        }
        for i, part in enumerate(("repair", "heldout"))
    ]
    found = {"mode": "report", "asked": 1000, "by_chance": 20.0, "known": 1800, "listed": listed, "quarantined": {}}
    return {**made.passed(), "suspect_labels": {**found, **changes}}


def test_failures_whose_label_looks_wrong_are_shown() -> None:
    outcome = suspected()
    first = record(outcome).suspect_labels.listed[0]
    picture = SuspectImage(np.full((3, 8, 8), 90, np.uint8), first, "frog")
    page = Page(render_page(record(outcome), Pictures(suspects=[picture])))
    assert (
        "2 of 1,000 accepted failures have a label that looks wrong; about 20 would if every label were right"
        in page.text
    )
    assert "They were trained on and judged by as logged" in page.text
    assert "The 1 surest; all are in outcome.json" in page.text
    assert "cat 0.2% → dog 90%champion: frogrepair" in " ".join(page.text.split())
    taken = suspected(mode="quarantine", quarantined={"repair": 1, "validation": 0, "heldout": 1})
    assert (
        "Taken out of training, choosing and judging: 1 repair and 1 heldout." in Page(render_page(record(taken))).text
    )
    assert "as logged; look at them" not in Page(render_page(record(taken))).text
    assert "None of the 1,000 accepted failures" in Page(render_page(record(suspected(listed=[])))).text
    assert "too few to tell" in Page(render_page(record(suspected(listed=[], note="It is too few to tell.")))).text
    assert "Labels that look wrong" not in page_of("passed")


def test_what_the_gate_could_show_is_told() -> None:
    power = [{"changed": 0.02, "power": 0.7, "classes": 0.9, "repair": 1.0, "gate": 0.63}]
    outcome = made.passed() | {"power": power, "least_harm": {"classes": 100, "images": 40, "lost": 8}}
    text = " ".join(Page(render_page(record(outcome))).text.split())
    assert "passes with a chance of 63% (clean accuracy 70%, recall of each class 90%, repair rate 100%)" in text
    assert "A loss of 8 of one class of 40 images is found with a chance of 80%." in text
    old = made.passed() | {"power": [{"changed": 0.02, "power": 0.7}]}
    assert "Known before the training" not in render_page(record(old))


def test_which_clean_images_chose_is_said_where_the_outcome_says_it() -> None:
    old = made.passed()
    assert "Clean images that choose" not in render_page(record(old), Pictures())
    assert learning.training(record(old))["validation"] == ""
    note = "2,000 of 10,000 images of the clean set choose; the other 8,000 judge."
    outcome = old | {
        "clean_validation": {"source": "clean set", "unseen": True, "images": 2000, "note": note},
        "training": old["training"] | {"validation_unseen": True},
        "sets": old["sets"] | {"clean_set": {"digest": "ef56" * 16, "images": 8000, "whole": {"images": 10_000}}},
    }
    assert learning.training(record(outcome))["validation"] == learning.UNSEEN
    page = render_page(record(outcome), Pictures())
    assert note in page
    assert "8,000 of 10,000 images, sha256 ef56" in page
    assert f"Chosen by clean images too: {note}" in render_markdown(record(outcome))
    outcome["training"] |= {"validation_unseen": False}
    assert learning.REMEMBERED in render_page(record(outcome), Pictures())


def test_every_quarantine_rule_has_its_meaning() -> None:
    assert list(lineage.MEANINGS) == list(ROW_RULES)


# Commands


def test_commands_of_a_pass() -> None:
    outcome = made.passed()
    assert (
        commands.promote_command(record(outcome)) == "repairops promote road-signs --version 4 --by NAME --reason TEXT"
    )
    assert commands.rollback_command(record(outcome)) == "repairops rollback road-signs"
    assert commands.promote_command(record(outcome | {"promoted": True})) == ""
    other = copy.deepcopy(outcome)
    other["model"]["alias"] = "live"
    assert commands.rollback_command(record(other)) == "repairops rollback road-signs@live"
    text = page("passed").text
    assert commands.gate_command(record(outcome)) in text
    assert commands.reproduce_command(record(outcome)) in text


def test_reproducing_gives_the_same_configuration_again() -> None:
    outcome = made.passed()
    outcome["config"]["model"]["mean"] = [0.1, 0.2, 0.3]
    outcome["config"]["training"]["horizontal_flip"] = True
    outcome["sets"]["validation_set"] = {"uri": "/data/more clean", "given": True, "digest": "ef", "images": 500}
    words = shlex.split(commands.reproduce_command(record(outcome)))
    values = dict(word.partition("=")[::2] for word in words[4::2])
    assert values["model"] == "models:/road-signs/3"
    assert values["failures"] == f"{'b2' * 16},{'c3' * 16}"
    assert values["rerun"] == "true"
    assert values["validation_set"] == "/data/more clean"
    assert not {"train_set", "clean_set"} & values.keys()  # logged with the model, so found again
    again = load_config(None, [*values["set"].split(";"), f"seed={values['seed']}"]).to_dict()
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(outcome["config"] | {"seed": 7}))


def test_markdown_holds_verdict_table_lineage_and_commands() -> None:
    text = render_markdown(record(made.passed()))
    assert "| Clean accuracy (n = 10,000) | 92.57% | 92.51% | −0.06 points |" in text
    assert "- Parent: road-signs version 3 (alias prod)" in text
    assert "`be17be17be17`: 812 rows, logged 2026-02-27 08:30 UTC" in text
    assert "`9c819c819c81`, seed 7" in text
    assert "```\nrepairops promote road-signs --version 4" in text
    assert "```\nrepairops rollback road-signs\n```" in text
    assert f"Advisory checks: {ADVISORY} of {ADVISORY} pass." in text
    assert "| ONNX parity | PASS | required |" in text
    assert "| Latency |" not in text


def test_markdown_shows_the_advisory_checks_that_do_not_pass() -> None:
    text = render_markdown(record(made.failed()))
    assert "| ONNX accuracy | FAIL | advisory |" in text
    assert f"Advisory checks: {ADVISORY - 1} of {ADVISORY} pass; ONNX accuracy fails." in text


def test_markdown_fits_a_description() -> None:
    """MLflow keeps 5,000 characters; a command of many batches is cut by nobody, and stands last."""
    outcome = made.failed()
    outcome["batches"] *= 20
    for name, value in (("many batches", outcome), *((name, make()) for name, make in made.OUTCOMES.items())):
        assert (
            len(render_markdown(record(value)).rpartition("Reproduce:")[0] or render_markdown(record(value))) < 5000
        ), name
    assert "- 30 more failure batches are in outcome.json" in render_markdown(record(outcome))


@pytest.mark.parametrize("name", made.OUTCOMES)
def test_terminal_summary_is_short_and_ascii(name: str) -> None:
    outcome = made.OUTCOMES[name]()
    text = render_terminal(record(outcome))
    assert len(text.splitlines()) <= 20
    assert text.isascii()
    assert text.splitlines()[-1].startswith("Next: ")


def test_terminal_summary_stays_short_where_everything_fails() -> None:
    outcome = made.failed()
    for check in outcome["verdict"]["checks"]:
        check |= {"level": "required", "result": "FAIL"}
    lines = render_terminal(record(outcome)).splitlines()
    assert len(lines) <= 20
    assert lines[-1].startswith("Next: ")


def test_terminal_summary_has_every_required_check_and_counts_the_advisory_ones() -> None:
    lines = render_terminal(record(made.failed())).splitlines()
    required = [line.split(maxsplit=1) for line in lines if line.startswith(("  PASS", "  FAIL"))]
    assert required == [
        ["FAIL", "Clean non-regression"],
        ["PASS", "Repair rate"],
        ["PASS", "Per-class clean recall"],
        ["FAIL", "ONNX parity"],
    ]
    assert f"  advisory      {ADVISORY - 1} of {ADVISORY} pass; ONNX accuracy fails" in lines


# Wording and contrast


def test_missing_numbers_are_a_dash() -> None:
    for missing in (None, float("nan"), float("inf")):
        assert number(missing) is None
        assert (fixed(missing), signed(missing), percent(missing), duration(missing)) == ("–",) * 4
    assert [number(other) for other in ("x", True, [1])] == [None] * 3
    assert plain(None) == plain(float("nan")) == plain("\n") == "–"


def test_numbers_in_words() -> None:
    assert [signed(v) for v in (0.5, -0.5, 0.0, -0.001)] == ["+0.50", "−0.50", "0.00", "0.00"]
    assert percent(0.12345, 2) == "12.35%" or percent(0.12345, 2) == "12.34%"
    assert fixed(12345.678, 1) == "12,345.7"
    assert [duration(v) for v in (0.42, 41, 59.6, 192, 3840)] == [
        "0.4 s",
        "41 s",
        "1 min 00 s",
        "3 min 12 s",
        "1 h 04 min",
    ]
    assert when("2026-03-02T15:05:11+01:00") == "2026-03-02 14:05 UTC"
    assert when("soon") == "soon"


def test_colours_have_aa_contrast_in_light_and_dark() -> None:
    source = files("repairops.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", source, re.DOTALL)
    assert len(blocks) == 3  # light, dark, print
    for block in blocks:
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{3,6})", block))
        for text in ("ink", "dim", "accent", "good", "bad", "unsure"):
            for ground in ("paper", "panel", "passed", "failed", "inconclusive"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground, colours)


def contrast(a: str, b: str) -> float:
    """WCAG 2 contrast ratio of two #rgb or #rrggbb colours."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _png(uri: str) -> bytes:
    return base64.b64decode(uri.removeprefix("data:image/png;base64,"))

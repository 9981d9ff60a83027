"""What the fitted degradation tells of failures under 15 corruptions and others of our own, beside what was true.

    python benchmarks/style_diagnosis.py TRAIN CLEAN --folder out [--corruptions fog,snow] [--photos 2500]

Writes one JSON line for each to FOLDER/diagnosis.jsonl and leaves out what is there already; --table prints the
Markdown tables from it: what was told with its values, and how often each component is told that is not there, or
missed. The true value is that of the failures themselves: the mean over their severities.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from degradations import TRUTHS
from style_failures import Failures, champion, failures, load_sets, run_missing

from repairops.bench.corruptions import blur, corrupt, weather
from repairops.core.styles.fitted.degradation import PARAMETERS
from repairops.core.styles.fitted.estimation import estimate, strengths, weigh
from repairops.core.styles.fitted.look import findings, sentence
from repairops.model.network import to_unit

ALLOWED = 0.3  # of the range of the truth over the severities


def point_spread(corruption: str) -> list[float]:
    """Standard deviation in pixels of the defocus kernel along one axis, and of the motion's trail, by severity.

    The trail's is along its direction and about its own centroid: that it lies on one side only shifts the image. It is
    that of the weights, before they are drawn on whole pixels, which widens it by 0.02 to 0.05.
    """
    if corruption == "motion_blur":
        widths = []
        for radius, sigma in blur.MOTION:
            place = torch.arange(2 * int(radius) + 1, dtype=torch.float64)
            weight = torch.exp(-place.square() / (2 * sigma**2))
            weight /= weight.sum()
            widths.append(math.sqrt((weight * place.square()).sum() - (weight * place).sum() ** 2))
        return widths
    point = torch.zeros(1, 1, 33, 33)
    point[..., 16, 16] = 1
    place = torch.arange(33.0) - 16
    spread = []
    for severity in range(1, 6):
        kernel = corrupt(point, corruption, severity, torch.Generator().manual_seed(0))[0, 0]
        spread.append(math.sqrt(float((kernel.sum(0) * place.square()).sum() / kernel.sum())))
    return spread


def fog_truth() -> tuple[list[float], list[float]]:
    """Contrast and root mean square of fog's layer, by severity, for an image whose maximum is 1."""
    generator = torch.Generator().manual_seed(0)
    contrasts, veils = [], []
    for amount, decay in weather.FOG:
        layer = weather.fractal(500, 32, 32, decay, generator, torch.device("cpu"))
        contrasts.append(1 / (1 + amount))
        veils.append(float(amount * layer.flatten(1).std(1).mean() / (1 + amount)))
    return contrasts, veils


def truths(corruption: str) -> dict[str, list[float]]:
    """The true value of each parameter that the corruption has, by severity, in the units of the findings."""
    if corruption in ("defocus_blur", "motion_blur"):
        return {"blur" if corruption == "defocus_blur" else "streak": point_spread(corruption)}
    if corruption == "fog":
        contrasts, veils = fog_truth()
        return {"contrast": contrasts, "veil": veils}
    known = {
        "gaussian_noise": {"noise": [0.04, 0.06, 0.08, 0.09, 0.10]},
        "shot_noise": {"shot": [count**-0.5 for count in (500, 250, 100, 75, 50)]},
        "impulse_noise": {"impulses": [1, 2, 3, 5, 7]},
        "brightness": {"shift": [0.05, 0.1, 0.15, 0.2, 0.3]},
        "contrast": {"contrast": [0.75, 0.5, 0.4, 0.3, 0.15]},
        "pixelate": {"coarseness": [0.95, 0.9, 0.85, 0.75, 0.65]},
        "jpeg_compression": {"blocking": [80, 65, 58, 50, 40]},
    }
    return known.get(corruption, {})


def examine(corruption: str, batch: Failures, clean: torch.Tensor) -> dict[str, object]:
    began = time.process_time()
    images, generator = to_unit(batch.images), torch.Generator().manual_seed(0)
    found = weigh(estimate(images, clean, generator), images, clean, generator)
    seconds = time.process_time() - began
    told, all_told = findings(found), findings(dataclasses.replace(found, evidence={}))
    checks = []
    for name, by_severity in truths(corruption).items():
        truth = float(torch.tensor(by_severity, dtype=torch.float32)[batch.severities - 1].mean())
        spread = max(by_severity) - min(by_severity)
        value = next((f.value for f in told if f.component == name), None)
        error = None if value is None else abs(value - truth) / spread
        checks.append({"parameter": name, "true": truth, "range": [min(by_severity), max(by_severity)],
                       "found": value, "error_of_range": error,
                       "within": error is not None and error <= ALLOWED})  # fmt: skip
    families = {name: parameter.family for name, parameter in PARAMETERS.items()} | {"streak": "streak"}
    strength, named = strengths(found), {finding.component for finding in told}
    fitted = [
        {"component": f.component, "value": f.value, "images": f.images, "told": f.component in named,
         "evidence": found.evidence[families[f.component]], "strength": strength[families[f.component]]}
        for f in all_told
    ]  # fmt: skip
    return {"corruption": corruption, "failures": len(batch.images), "unexplained": round(found.unexplained(), 1),
            "said": sentence(told, len(batch.images), found.unexplained()), "fitted": fitted,
            "findings": [vars(f) for f in told], "checks": checks, "cpu_seconds": round(seconds, 1)}  # fmt: skip


def judge(lines: list[dict[str, Any]]) -> dict[str, list[int]]:
    """By component: in how many batches it was told, and told though it is not there; is there, and is missed."""
    counts: dict[str, list[int]] = {}
    for line in lines:
        truth, told = TRUTHS[line["corruption"]], {finding["component"] for finding in line["findings"]}
        for name in told | set(truth.there):
            row = counts.setdefault(name, [0, 0, 0, 0])
            row[0] += name in told
            row[1] += name in told and name not in (*truth.there, *truth.fair)
            row[2] += name in truth.there
            row[3] += name in truth.there and name not in told
    return counts


def judged(lines: list[dict[str, Any]]) -> str:
    counts = judge(lines)
    counts["all"] = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows = ["| component | told | told but not there | there | missed |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(rows + [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in counts.items()])


def table(lines: list[dict[str, object]]) -> str:
    rows = [
        "| degradation | told | unexplained | parameter | true | found | off, % of its range |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in lines:
        checks = line["checks"] or [None]
        for check in checks:  # type: ignore[attr-defined]
            cells = ["", "", "", ""]
            if check:
                value, error = check["found"], check["error_of_range"]
                cells = [f"`{check['parameter']}`", f"{check['true']:.3g}", "-" if value is None else f"{value:.3g}",
                         "not found" if error is None else f"{100 * error:.0f}"]  # fmt: skip
            rows.append(
                f"| {line['corruption']} | {line['said']} | {line['unexplained']} | " + " | ".join(cells) + " |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("train", type=Path)
    parser.add_argument("clean", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("style-bench"))
    parser.add_argument("--champions", type=Path, help="Folder of the benchmark's champions; default: in FOLDER.")
    parser.add_argument("--epochs", type=int, default=7, help="Of the champion's training.")
    parser.add_argument("--corruptions", default=",".join(TRUTHS))
    parser.add_argument("--photos", type=int, default=2500, help="Clean images that are corrupted at five severities.")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)

    def prepare() -> Callable[[str], dict[str, Any]]:
        train, clean = load_sets(given.train, given.clean)
        classifier = champion(given.champions or given.folder / "champions", train, given.epochs)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:2000]
        scenes = to_unit(train.pixels[order])

        def run(corruption: str) -> dict[str, Any]:
            batch = failures(given.folder, classifier, clean, corruption, given.photos, given.batch, 0)
            return examine(corruption, batch, scenes)

        return run

    wanted = [(corruption,) for corruption in given.corruptions.split(",")]
    lines = run_missing(given.folder / "diagnosis.jsonl", wanted, ("corruption",), prepare)
    if given.table:
        sys.stdout.write(f"{table(lines)}\n\n{judged(lines)}\n")


if __name__ == "__main__":
    main()

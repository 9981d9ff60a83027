"""Outcomes as `outcome.json` holds them, one for each way that a repair can end, and pictures from digits."""

from __future__ import annotations

import copy
import functools
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
from evidence_helpers import CLASSES, CLUSTERS, page_evidence
from PIL import Image
from sklearn.datasets import load_digits

from repairops.config import Config, GateConfig
from repairops.gate import decide
from repairops.gate.evidence import (
    Evidence,
    FieldCounts,
    LatencyFigures,
    ParityCounts,
    RepairCounts,
    RoutedCounts,
    Routing,
)
from repairops.outcome import Outcome, Record
from repairops.outcome.given import Suspect
from repairops.outcome.plain import from_plain, to_plain
from repairops.report import GuardedImage, JudgedFailure, NegativeFlip, Pictures, SamplePair
from repairops.report.pictures import SuspectImage


@functools.cache
def verdict(evidence_json: str) -> str:
    """The gate's answer, asked once: exact tests over many parts take a second."""
    return json.dumps(to_plain(decide(from_plain(Evidence, json.loads(evidence_json)), GateConfig())))


def judged(found: Evidence | int) -> dict[str, Any]:
    """The keys of an outcome that evidence and gate give; a number: that many more negative flips in each class."""
    found = page_evidence(found) if isinstance(found, int) else found
    return {
        "evidence": to_plain(found),
        "verdict": json.loads(verdict(json.dumps(to_plain(found)))),
        "champion": {"clean_accuracy": found.clean.champion_right / found.clean.n, "clean_n": found.clean.n},
        "challenger": {
            "clean_accuracy": found.clean.challenger_right / found.clean.n,
            "heldout_repaired": found.heldout_repaired,
            "heldout_total": found.heldout_total,
        },
        "negative_flips": found.clean.champion_only,
    }


def history() -> list[dict[str, float]]:
    rates = (0.41, 0.58, 0.69, 0.74, 0.73)
    return [
        {
            "epoch": i + 1,
            "loss": 1.31 / (i + 1.4),
            "validation_accuracy": 0.938 + 0.001 * i,
            "validation_repair_rate": rate,
            "repair_failures_accuracy": min(0.99, rate + 0.12),
            "seconds": 38.2,
            "learning_rate": 0.03 * (1 - i / 5),
        }
        for i, rate in enumerate(rates)
    ]


def clusters() -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "size": size,
            "labels": dict(zip(CLASSES[i:], range(size // 4, 1, -9), strict=False)),
            "look": f"additive noise, sigma 0.05 (0.02 to 0.09); {size} images",
        }
        for i, size in enumerate((231, 142, 98, 61, 28))
    ]


def confusion() -> dict[str, Any]:
    """The wrong answers that changed, as counts of images."""
    heldout = [("cat", "dog", 41, 6), ("truck", "automobile", 28, 4), ("deer", "horse", 19, 7), ("bird", "frog", 3, 5)]
    clean = [("cat", "dog", 38, 44), ("ship", "airplane", 12, 8)]
    keys = ("true", "answer", "champion", "challenger")
    return {
        "confusion": {
            name: [dict(zip(keys, row, strict=True)) for row in rows]
            for name, rows in (("heldout", heldout), ("clean", clean))
        },
        "heldout_by_class": {name: {"repaired": 30 - 3 * i, "total": 36 - 2 * i} for i, name in enumerate(CLASSES[:8])},
    }


def trade_off() -> list[dict[str, Any]]:
    points = ((0.0, 0.9431, 0.0), (0.25, 0.9437, 0.31), (0.5, 0.9433, 0.58), (0.75, 0.9425, 0.71), (1.0, 0.9411, 0.74))
    return [
        {"weight": w, "validation_accuracy": a, "validation_repair_rate": r, "chosen": w == 0.75} for w, a, r in points
    ]


def provenance() -> dict[str, Any]:
    moves = [
        {"kind": "logged", "version_to": "1", "by": "alice", "at": "2026-01-09T10:00:00+00:00"},
        {"kind": "outside", "version_from": "1", "version_to": "2", "by": "outside repairops"},
        {
            "kind": "promotion",
            "version_from": "2",
            "version_to": "3",
            "by": "carol",
            "reason": "read the report",
            "at": "2026-02-01T10:00:00+00:00",
            "forced": True,
        },
    ]
    return {
        "registry": "https://mlflow.example.com",
        "experiment": "12",
        "failures_experiment": "9",
        "ran_by": "scheduler",
        "champion_by": "alice",
        "failures_by": {"be17" * 16: "line 4", "07aa" * 16: "bob"},
        "earlier_gates": ["e5" * 16, "f6" * 16],
        "alias_history": moves,
    }


def passed() -> dict[str, Any]:
    config = Config().to_dict()
    config["training"]["epochs"] = 3
    config["style"]["name"] = "subband_wct"
    return {
        "schema": 2,
        "outcome": "passed",
        "exit_code": 0,
        "message": "Gate passed; version 4 of 'road-signs' is registered as challenger.",
        "job_key": "5f2d" * 16,
        "created_at": "2026-03-02T14:05:11+00:00",
        "model": {
            "name": "road-signs",
            "version": "3",
            "alias": "prod",
            "uri": "models:/road-signs/3",
            "run_id": "a1" * 16,
        },
        "registered": {"name": "road-signs", "version": "4", "alias": "challenger", "uri": "models:/road-signs/4"},
        "promoted": False,
        "config": config,
        "config_digest": "9c81" * 16,
        "batches": [
            {"digest": "be17" * 16, "run_id": "b2" * 16, "rows": 812, "logged_at": "2026-02-27T08:30:00+00:00"},
            {"digest": "07aa" * 16, "run_id": "c3" * 16, "rows": 344, "logged_at": "2026-03-01T08:30:00+00:00"},
        ],
        "validation": {
            "rows": 1156,
            "accepted": 1000,
            "quarantined": {"stale": 96, "duplicate": 41, "unknown_label": 12, "does_not_decode": 7},
            "broken": [],
        },
        "split": {"repair": 560, "validation": 140, "heldout": 300},
        "clusters": clusters(),
        "style": {
            "name": "auto",
            "clusters": [
                {"cluster": 0, "styles": [{"style": "subband_wct", "share": 0.7}, {"style": "wct2", "share": 0.3}]}
            ],
        },
        "method": {"name": "style_guided", "recipe": "default", "style": "subband_wct"},
        "training": {
            "history": history(),
            "best_epoch": 4,
            "champion": {
                "validation_accuracy": 0.9431,
                "validation_repair_rate": 0.0,
                "repair_failures_accuracy": 0.0,
            },
            "step_shares": {"augmentation": 0.21, "forward": 0.31, "backward": 0.44, "update": 0.04},
            "peak_memory_mb": {"memory": 2310.0, "gpu_memory": 1204.0},
            "note": "",
            "seconds": 191.0,
            "device": "cuda",
            "images_per_second": 5120.0,
            "tradeoff": trade_off(),
            "trials": [
                {
                    "method": method,
                    "learning_rate": rate,
                    "epochs": 1,
                    "train_images": 12_000,
                    "seconds": 21.4,
                    "validation_repaired": repaired,
                    "validation_failures": 140,
                    "validation_right": 4702,
                    "validation_images": 5000,
                    "chosen": method == "style_guided",
                }
                for method, rate, repaired in (("style_guided", 0.03, 83), ("fine_tune", 0.03, 79))
            ],
        },
        "provenance": provenance(),
        "sets": {
            "train_set": {"uri": "mlflow-artifacts:/1", "digest": "ab12" * 16, "images": 50_000},
            "clean_set": {"uri": "mlflow-artifacts:/2", "digest": "cd34" * 16, "images": 10_000},
        },
        **judged(page_evidence()),
        **confusion(),
        "policy": config["gate"],
        "seconds": 262.4,
        "stages": {
            "resolve": 1.2,
            "validate": 6.8,
            "cluster": 3.1,
            "fine-tune": 191.0,
            "evaluate": 22.5,
            "export": 9.4,
        },
        "environment": {
            "repairops": "0.1.0",
            "mlflow": "3.17.2",
            "torch": "2.8.0",
            "python": "3.12.4",
            "device": "NVIDIA L4",
            "machine": "Linux x86_64",
        },
        "seed": 7,
        "commit": "41d0c2f9e7",
        "tracking": {"run_id": "d4" * 16, "experiment": "repairops/road-signs"},
    }


def failed() -> dict[str, Any]:
    parity = ParityCounts(reason="the operator aten::fft_rfft2 is not supported")
    found = judged(page_evidence(more_lost=14, parity=parity))
    return passed() | found | {"outcome": "failed", "exit_code": 3, "registered": None, "message": "The gate failed."}


def inconclusive() -> dict[str, Any]:
    found = judged(page_evidence(more_lost=4))
    return passed() | found | {"outcome": "inconclusive", "exit_code": 4, "registered": None}


def nothing_to_repair() -> dict[str, Any]:
    whole = passed()
    kept = {
        k: whole[k] for k in ("schema", "job_key", "created_at", "model", "config", "config_digest", "seed", "tracking")
    }
    message = "All 96 logged failures are classified correctly by version 3 now."
    validation = {"rows": 96, "accepted": 0, "quarantined": {"stale": 96}, "broken": []}
    return kept | {"outcome": "nothing_to_repair", "exit_code": 0, "message": message, "validation": validation}


def error() -> dict[str, Any]:
    message = (
        "The training loss became nan at step 212. Training stopped; the last good checkpoint is epoch-2. "
        "Lower training.learning_rate (a tenth is a good start) and run again."
    )
    whole = passed()
    kept = {
        k: whole[k]
        for k in ("schema", "job_key", "created_at", "model", "config", "batches", "validation", "split", "seed")
    }
    partial = {"history": [*history()[:2], {"epoch": 3, "loss": float("nan")}], "best_epoch": 2}
    return kept | {"outcome": "error", "exit_code": 1, "message": message, "training": partial, "registered": None}


def rejected() -> dict[str, Any]:
    outcome = error()
    for later in ("training", "split"):
        outcome.pop(later)
    broken = ["only 12 failures are left after quarantine, fewer than validation.min_rows = 30"]
    outcome["validation"] = {
        "rows": 61,
        "accepted": 12,
        "quarantined": {"does_not_decode": 38, "unknown_label": 11},
        "broken": broken,
    }
    outcome["message"] = f"The failure batch does not pass validation: {broken[0]}."
    return outcome


def routing() -> Routing:
    """Of a guarded version: 300 of 10,000 clean images and 276 of 300 held-out failures are routed."""
    clean = {name: RoutedCounts(12 + 4 * i, 1000) for i, name in enumerate(CLASSES)}
    heldout = {name: RoutedCounts(36 - i, 36) for i, name in enumerate(CLASSES[:8])}
    bins = (9100, 300, 120, 60, 40, 30, 20, 18, 12, 10, 8, 8, 6, 8, 10, 20, 30, 40, 60, 100)
    return Routing(
        clean=RoutedCounts(300, 10_000),
        heldout=RoutedCounts(276, 300),
        clean_by_class=clean,
        heldout_by_class=heldout,
        heldout_by_cluster={str(i): RoutedCounts(n - 2 * i, n) for i, (_, n) in enumerate(CLUSTERS)},
        heldout_by_source={"camera 7": RoutedCounts(176, 181), "camera 8": RoutedCounts(100, 119)},
        clean_by_slice={"day": RoutedCounts(20, 900), "dusk": RoutedCounts(44, 300)},
        clean_histogram=bins,
        heldout_histogram=(4, 3, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 7, 12, 40, 210),
        latency=(LatencyFigures(1, 1.92, 2.5, 1.98, 2.6), LatencyFigures(32, 21.4, 24.1, 22.0, 26.1)),
    )


def tried_forms() -> list[dict[str, Any]]:
    rows = (
        ("one", 0.0, 0.0, 1.0, -0.28, 0.31, True),
        ("hard", 0.41, 0.41, 0.05, -0.22, 0.58, True),
        ("mixed", 0.41, 0.95, 0.05, -0.16, 0.57, True),
        ("hard", 0.62, 0.62, 0.02, -0.10, 0.52, True),
        ("mixed", 0.62, 0.95, 0.02, -0.08, 0.5, True),
        ("hard", 0.2, 0.2, 0.2, -0.9, 0.62, False),
    )
    keys = ("form", "low", "high", "routed", "clean_change", "repaired", "kept")
    return [{**dict(zip(keys, row, strict=True)), "chosen": i == 1} for i, row in enumerate(rows)]


def guarded() -> dict[str, Any]:
    return passed() | {
        **judged(replace(page_evidence(), routing=routing())),
        "form": {"name": "hard", "separation": 0.981, "note": "", "tried": tried_forms()},
        "artifacts": {"onnx_sha256": "ab" * 32, "onnx_bytes": 22_600_000, "champion_onnx_bytes": 11_200_000},
    }


def suspects() -> list[dict[str, Any]]:
    keys = ("part", "label", "answer", "label_chance", "answer_chance")
    rows = (("repair", "cat", "dog", 0.002, 0.9), ("heldout", "cat", "dog", 0.01, 0.8))
    return [{"sample_id": f"{i:064d}", **dict(zip(keys, row, strict=True))} for i, row in enumerate(rows)]


def everything() -> dict[str, Any]:
    """A guarded version with a rival, a sample of the traffic, labels that look wrong and two looks."""
    sampled = replace(routing(), field_rows=RoutedCounts(12, 880))
    field_rows = FieldCounts(900, 100, 880, 4, RepairCounts(18, 30))
    found = guarded() | judged(replace(page_evidence(), routing=sampled, field_rows=field_rows))
    clean = {"both_right": 9_000, "champion_only": 41, "challenger_only": 12, "both_wrong": 947}
    found["comparison"] = {
        "method": "fine_tune", "form": "hard", "validation_repair_rate": 0.4, "clean": clean,
        "heldout_repaired": 66, "heldout_total": 300, "seconds": 95.0,
    }  # fmt: skip
    found["suspect_labels"] = {
        "mode": "report", "asked": 1000, "by_chance": 20.0, "known": 1800, "listed": suspects(), "quarantined": {},
    }  # fmt: skip
    noise, haze = "additive noise, sigma 0.05 (0.02 to 0.09)", "haze that lifts black by 0.21 (0.18 to 0.25)"
    found["style"] = {
        "name": "fitted_degradation",
        "summary": f"two looks: 60% {noise} / 40% {haze}",
        "clusters": [{"cluster": i, "look": look, "unexplained": 0.1} for i, look in enumerate((noise, haze))],
    }
    return found


OUTCOMES = {
    "passed": passed,
    "guarded": everything,
    "failed": failed,
    "inconclusive": inconclusive,
    "nothing_to_repair": nothing_to_repair,
    "error": error,
    "rejected": rejected,
}


def record(values: Mapping[str, Any]) -> Record:
    """The record of an outcome's values as they are read from a file."""
    return Outcome(to_plain(values)).record


def renamed(outcome: dict[str, Any], name: str) -> dict[str, Any]:
    """The outcome with a hostile `name` wherever a user's own name stands."""
    hostile = copy.deepcopy(outcome)
    hostile["model"] |= {"name": name, "alias": name, "uri": name}
    hostile["registered"] |= {"name": name, "alias": name, "uri": name}
    hostile["clusters"] = [{"id": 0, "size": 3, "labels": {name: 3}}]
    hostile["method"] = {"name": name, "style": name}
    hostile["stages"] = {name: 1.0}
    hostile["environment"] = dict.fromkeys(("repairops", "device"), name)
    hostile["validation"]["quarantined"] = {name: 3}
    hostile["training"]["note"] = name
    hostile["config"]["style"]["name"] = name
    move = dict.fromkeys(("kind", "version_from", "version_to", "by", "reason", "at"), name)
    hostile["provenance"] |= dict.fromkeys(("registry", "experiment", "failures_experiment", "champion_by"), name)
    hostile["provenance"] |= {"ran_by": name, "failures_by": {"be17" * 16: name}, "alias_history": [move]}
    hostile["tracking"] = {"run_id": name, "experiment": name}
    for check in hostile["verdict"]["checks"]:
        check["summary"] = name
        check["figures"] = {"classes": [{"name": name, "n": 9, "champion": 1.0, "challenger": 0.9}]}
    return hostile


def digits() -> np.ndarray:
    """uint8 (N, 1, 8, 8), real grey images."""
    images: np.ndarray = (load_digits().images * 15.9).astype(np.uint8)[:, None]
    return images


def pictures(samples: int = 2, flips: int = 5, name: str = "cat") -> Pictures:
    images = digits()
    grid = io.BytesIO()
    Image.fromarray(
        np.concatenate([np.concatenate(list(images[5 * r : 5 * r + 5, 0]), axis=1) for r in range(5)])
    ).save(grid, format="PNG")
    return Pictures(
        grid.getvalue(),
        [
            SamplePair(i % 5, images[i], images[i + 1], images[i + 2], images[i + 3], name, "dog")
            for i in range(5 * samples)
        ],
        [NegativeFlip(images[i], name, name, "dog") for i in range(flips)],
        [GuardedImage(images[i], name, name if i else "dog", 0.97 - i / 50) for i in range(4)],
        [GuardedImage(images[i], name, "dog", 0.01 + i / 50) for i in range(4, 7)],
        [JudgedFailure(images[i], name, i % 5, "dog", 0.9 - i / 50, name, 0.7 + i / 50) for i in range(8)],
        [JudgedFailure(images[i], name, i % 5, "dog", 0.9, "dog", 0.6) for i in range(8, 11)],
        [SuspectImage(images[i], from_plain(Suspect, each), "frog") for i, each in enumerate(suspects())],
    )


class Page(HTMLParser):
    """Elements and texts of a page; complains about tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "circle", "polyline"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def attributes(svg: str, kind: str) -> list[dict[str, str | None]]:
    return [a for _, a in Page(svg).elements if kind in (a.get("class") or "").split()]

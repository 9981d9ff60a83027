"""Evaluation: predictions once, counts derived from them.

Full float32 without autocast and TF32, so that champion and challenger are compared as they would be served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.fx import GraphModule

from repairops.data.records import CleanSet, GuardAnswers, HeldOutFailures, Predictions
from repairops.errors import ChampionAtChance, ChampionNotFinite, NotAClassifier
from repairops.gate.evidence import ConfidenceBin, PairedCounts, RepairCounts
from repairops.model.device import set_mode
from repairops.model.guarded import Guarded
from repairops.model.network import Classifier, to_input, to_unit
from repairops.model.traced import graph_mode, set_graph_mode


@dataclass(frozen=True, eq=False)
class Known:
    """What the champion has answered before it is judged: logits, float32 (N, K), on the clean set, and whether the
    failures' own `predicted` and `confidence` are its answers to them.
    """

    clean: np.ndarray
    failures: bool


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Champion and challenger on the clean set and the held-out failures, with the counts the gate decides from.

    clean_by_class: by class name, every class of the clean set's names, without images too.
    finite: no NaN or infinity in the logits on either set. outputs: the challenger's logits, float32 (N, K), on the
    clean set and on the held-out failures. guard: of a guarded challenger, on both.
    """

    champion_clean: Predictions
    challenger_clean: Predictions
    champion_heldout: Predictions
    challenger_heldout: Predictions
    clean: PairedCounts
    clean_by_class: dict[str, PairedCounts]
    champion_finite: bool
    challenger_finite: bool
    outputs: tuple[np.ndarray, np.ndarray]
    guard: tuple[GuardAnswers, GuardAnswers] | None = None

    @property
    def heldout_total(self) -> int:
        return len(self.challenger_heldout.right)

    @property
    def heldout_repaired(self) -> int:
        return int(self.challenger_heldout.right.sum())


def evaluate(
    champion: Classifier,
    challenger: Classifier,
    clean: CleanSet,
    heldout: HeldOutFailures,
    *,
    device: str | torch.device = "cpu",
    known: Known | None = None,
) -> Evaluation:
    """Runs the challenger once over the clean set and the held-out failures, the champion over what is not known."""
    sets = (clean.images, heldout.batch.images)
    after = [logits(challenger, images.pixels, device=device) for images in sets]
    on_clean = known.clean if known else logits(champion, sets[0].pixels, device=device)
    if known and known.failures:
        batch = heldout.batch
        on_failures = Predictions(batch.predicted, batch.confidence, batch.predicted == batch.images.labels)
    else:
        on_failures = predict(champion, sets[1].pixels, sets[1].labels, device=device)
    found = evaluation_of(on_clean, on_failures, after, clean, heldout)
    if not isinstance(challenger.network, Guarded):
        return found
    by_guard = [guard_answers(challenger, images.pixels, device=device) for images in sets]
    return replace(found, guard=(by_guard[0], by_guard[1]))


def evaluation_of(
    champion: np.ndarray,
    on_failures: Predictions,
    challenger: list[np.ndarray],
    clean: CleanSet,
    heldout: HeldOutFailures,
) -> Evaluation:
    """The evaluation from the champion's logits on the clean set, float32 (N, K), and answers on the held-out failures,
    and the challenger's logits on both.
    """
    sets = (clean.images, heldout.batch.images)
    before = [predictions(champion, clean.images.labels), on_failures]
    after = [predictions(out, images.labels) for out, images in zip(challenger, sets, strict=True)]
    labels, names = clean.images.labels, clean.images.class_names
    return Evaluation(
        champion_clean=before[0],
        challenger_clean=after[0],
        champion_heldout=before[1],
        challenger_heldout=after[1],
        clean=paired_counts(before[0].right, after[0].right),
        clean_by_class={
            name: paired_counts(before[0].right[labels == k], after[0].right[labels == k])
            for k, name in enumerate(names)
        },
        champion_finite=bool(np.isfinite(champion).all() and np.isfinite(on_failures.confidence).all()),
        challenger_finite=all(bool(np.isfinite(out).all()) for out in challenger),
        outputs=(challenger[0], challenger[1]),
    )


def paired_counts(champion_right: np.ndarray, challenger_right: np.ndarray) -> PairedCounts:
    """Counts of two bool arrays (N,) over the same images."""
    both = int((champion_right & challenger_right).sum())
    champion_only = int(champion_right.sum()) - both
    challenger_only = int(challenger_right.sum()) - both
    return PairedCounts(
        both, champion_only, challenger_only, len(champion_right) - both - champion_only - challenger_only
    )


def repaired_by(right: np.ndarray, parts: np.ndarray, names: Sequence[str] | None = None) -> dict[str, RepairCounts]:
    """Repaired and all failures by part: right bool (N,), parts (N,) of names, or of indices into `names`.

    Given names are all there, without failures too; found ones are sorted, and '' (unknown) is left out.
    """
    if names is None:
        names = sorted({str(part) for part in parts.tolist()} - {""})
        members = [parts == name for name in names]
    else:
        members = [parts == number for number in range(len(names))]
    return {n: RepairCounts(int(right[m].sum()), int(m.sum())) for n, m in zip(names, members, strict=True)}


def reliability(answers: Predictions, bins: int = 15) -> tuple[ConfidenceBin, ...]:
    """Accuracy and mean confidence by equal bins of confidence in 0..1; images without a finite answer are left out."""
    known = np.isfinite(answers.confidence)
    confidence, right = answers.confidence[known].astype(np.float64), answers.right[known]
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        n = int(inside.sum())
        mean = float(confidence[inside].mean()) if n else 0.0
        found.append(ConfidenceBin(number / bins, (number + 1) / bins, n, int(right[inside].sum()), mean))
    return tuple(found)


def predict(
    classifier: Classifier,
    pixels: Tensor,
    labels: np.ndarray,
    *,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
) -> Predictions:
    """The classifier's answers on uint8 pixels (N, C, H, W) with true labels int64 (N,)."""
    return predictions(logits(classifier, pixels, batch_size=batch_size, device=device), labels)


def predictions(outputs: np.ndarray, labels: np.ndarray) -> Predictions:
    """Answers from logits (N, K). An image with NaN or infinity in its logits is never right."""
    finite = np.isfinite(outputs).all(axis=1)
    usable = np.where(finite[:, None], outputs.astype(np.float64), 0.0)
    answers = usable.argmax(axis=1).astype(np.int64)
    powers = np.exp(usable - usable.max(axis=1, keepdims=True))
    confidence = np.where(finite, 1 / powers.sum(axis=1), np.nan).astype(np.float32)
    return Predictions(answers, confidence, (answers == labels) & finite)


def at_once(pixels: Tensor) -> int:
    """Images of an evaluation's batch: 256 of up to 90 pixels a side, then fewer, as features take memory."""
    return max(8, min(256, 2**21 // (pixels.shape[2] * pixels.shape[3])))


def logits(
    classifier: Classifier, pixels: Tensor, *, batch_size: int | None = None, device: str | torch.device = "cpu"
) -> np.ndarray:
    """Logits, float32 (N, K), of uint8 pixels (N, C, H, W), which may be memory-mapped: one batch is read at a time.

    batch_size: by default `at_once`. The classifier runs in eval mode on `device`; modes and device are as before when
    it returns.
    """
    device, batch_size = torch.device(device), batch_size or at_once(pixels)
    outputs = np.empty((len(pixels), classifier.spec.classes), np.float32)
    with evaluating(classifier, device):
        for start in range(0, len(pixels), batch_size):
            images = to_unit(pixels[start : start + batch_size].to(device))
            found = classifier(images)
            if len(found) != len(images):  # a single row would be taken for all
                raise NotAClassifier("The model", f"it returns {len(found)} rows of logits for {len(images)} images")
            outputs[start : start + batch_size] = found.float().cpu().numpy()
    return outputs


def guard_answers(
    classifier: Classifier, pixels: Tensor, *, batch_size: int | None = None, device: str | torch.device = "cpu"
) -> GuardAnswers:
    """Of uint8 pixels (N, C, H, W)."""
    device, found = torch.device(device), np.zeros((2, len(pixels)), np.float32)
    network, batch_size = classifier.network, batch_size or at_once(pixels)
    if isinstance(network, Guarded):
        with evaluating(network, device):
            for start in range(0, len(pixels), batch_size):
                images = to_input(to_unit(pixels[start : start + batch_size].to(device)), classifier.spec)
                probability = network.probability(images)
                both = torch.stack((probability, network.weight(probability)))
                found[:, start : start + batch_size] = both.float().cpu().numpy()
    return GuardAnswers(*found)


def check_not_at_chance(answers: Predictions, labels: np.ndarray, classes: int) -> None:
    """Raises ChampionAtChance where the accuracy shows no skill, ChampionNotFinite where no answer is a number.

    Chance is the agreement that the same answers would reach by luck, sum over classes of (share of answers x share
    of labels), as in Cohen's kappa: 1/classes for balanced sets, and the majority's share for a network that always
    answers the majority. Skill is an accuracy above it by the one-sided exact binomial test at 0.001, or, in sets
    too small for that test, half the way from chance to perfect.
    """
    n = len(labels)
    if n == 0:
        return
    if not np.isfinite(answers.confidence).any():
        raise ChampionNotFinite(n)
    label_shares = np.bincount(labels, minlength=classes) / n
    answer_shares = np.bincount(answers.labels, minlength=classes) / n
    several = np.count_nonzero(label_shares) > 1
    chance = float(label_shares @ answer_shares) if several else 1 / classes
    right = int(answers.right.sum())
    skilled = binomtest(right, n, min(chance, 1.0), alternative="greater").pvalue <= 1e-3
    if not skilled and right / n < (1 + chance) / 2:
        raise ChampionAtChance(right / n, n, classes)


@contextmanager
def evaluating(module: nn.Module, device: torch.device) -> Iterator[None]:
    """In eval mode on `device`, in full precision and without gradients; modes and device are as before afterwards."""
    modes = [(part, graph_mode(part) if isinstance(part, GraphModule) else part.training) for part in module.modules()]
    tensor = next(module.parameters(), None)
    home = tensor.device if tensor is not None else device
    set_mode(module, False)
    module.to(device)
    try:
        with torch.no_grad(), _full_precision(device):
            yield
    finally:
        module.to(home)
        for part, training in modes:
            part.training = training
            if isinstance(part, GraphModule) and training:
                set_graph_mode(part, training)


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    convolution, product = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolution.allow_tf32, product.allow_tf32, convolution.deterministic
    convolution.allow_tf32, product.allow_tf32, convolution.deterministic = False, False, True
    try:
        with torch.autocast("cuda", enabled=False):
            yield
    finally:
        convolution.allow_tf32, product.allow_tf32, convolution.deterministic = before

"""How like the failures a style's images are, through the champion's eyes: figures that explain a choice.

Clean images of the failures' classes are restyled, the champion answers, and those that it gets wrong are compared with
the failures, which it got wrong too. So both sides are selected alike, and what differs is the look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from repairops.core.styles.base import Style
from repairops.core.styles.depths import choose_layers, see

CONTENT = 384  # clean images restyled for each candidate
FEWEST = 12  # wrong answers below which all of the restyled images are compared


@dataclass(frozen=True)
class Likeness:
    """error_rate: the champion's on restyled images. confidence: its mean softmax probability of the wrong answers.
    distance: root mean square difference of the moments from the failures', in standard deviations of the failures,
    without what chance adds.
    """

    error_rate: float
    confidence: float
    distance: float


@torch.no_grad()
def measure(
    champion: nn.Module,
    styles: Iterable[Style],
    failures: tuple[Tensor, Tensor],
    members: Tensor,
    clean: tuple[Tensor, Tensor],
    generator: Generator,
) -> list[Likeness]:
    """Of each style's images, with references among `members`, to these failures.

    failures, clean: images float32 (N, C, H, W) in 0..1 and labels int64 (N,). members: int64 (m,), indices into the
    failures, at least one; they, the labels and the generator are on the CPU.
    """
    (references, labels), (images, clean_labels) = failures, clean
    pick = members[torch.randint(len(members), (CONTENT,), generator=generator)]
    content = same_classes(labels[pick], clean_labels, generator)
    layers = choose_layers(champion, references[:2])

    def look_at(shown: Tensor, truth: Tensor) -> Seen:
        features, logits = see(champion, shown, layers)
        return Seen([f.cpu() for f in features], logits.cpu(), truth)

    own = look_at(references[members.to(references.device)], labels[members])
    plain, pick = images[content.to(images.device)], pick.to(images.device)
    return compare([look_at(style.apply(plain, pick, generator), clean_labels[content]) for style in styles], own)


@dataclass(frozen=True, eq=False)
class Seen:
    """What the champion sees in N images: features (N, F) at each depth, logits (N, K); labels (N,): the truth."""

    features: list[Tensor]
    logits: Tensor
    labels: Tensor

    @property
    def wrong(self) -> Tensor:
        return self.logits.argmax(1) != self.labels

    @property
    def confidence(self) -> Tensor:
        return self.logits.softmax(1).amax(1)

    @property
    def blocks(self) -> list[Tensor]:
        """What is compared: the features at each depth, and the three highest probabilities."""
        return [*self.features, self.logits.softmax(1).sort(1, descending=True).values[:, :3]]


def compare(restyled: Sequence[Seen], failures: Seen) -> list[Likeness]:
    """Of S candidates' restyled images to the failures."""
    blocks = failures.blocks
    centre = [block.mean(0) for block in blocks]
    scale = [block.std(0, correction=0).clamp_min(1e-4) for block in blocks]

    def moments(seen: Seen) -> tuple[Tensor, float]:
        """First and second moments in units of the failures' own spread, each depth counting alike, and the squared
        length that chance alone gives them."""
        wrong = seen.wrong if int(seen.wrong.sum()) >= FEWEST else torch.ones_like(seen.wrong)
        parts, chance = [], 0.0
        for block, mean, deviation in zip(seen.blocks, centre, scale, strict=True):
            standard = ((block[wrong] - mean) / deviation).clamp(-5, 5)
            both = torch.cat([standard, (standard.square() - 1) / 2], 1)
            parts.append(both.mean(0) / both.shape[1] ** 0.5)
            chance += float(both.var(0).mean()) / len(both) / len(blocks)
        return torch.cat(parts) / len(parts) ** 0.5, chance

    found = []
    for seen in restyled:
        vector, chance = moments(seen)
        confidence = float(seen.confidence[seen.wrong].mean()) if seen.wrong.any() else 0.0
        squared = max(float(vector.double().square().sum()) - chance, 0.0)
        found.append(Likeness(float(seen.wrong.float().mean()), confidence, squared**0.5))
    return found


def same_classes(wanted: Tensor, labels: Tensor, generator: Generator) -> Tensor:
    """For each wanted label (B,) an index into labels (M,) with that label; any index where there is none."""
    order = torch.randperm(len(labels), generator=generator)
    chosen = torch.empty(len(wanted), dtype=torch.int64)
    for label in sorted(set(wanted.tolist())):
        places = (wanted == label).nonzero()[:, 0]
        pool = order[labels[order] == label]
        pool = pool if len(pool) else order
        chosen[places] = pool[torch.arange(len(places)) % len(pool)]
    return chosen

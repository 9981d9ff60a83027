"""Models that a stranger logs with plain `mlflow.pytorch.log_model`: does the default command end in a verdict?

    python benchmarks/strangers.py TRAIN CLEAN --folder out [--networks resnet10t,grey] [--formats pt2,pickle]
        [--seeds 0] [--set training.learning_rate=0.01 ...]

TRAIN, CLEAN: CIFAR-10 as two parquet files or ImageFolders; three classes of it are used, enlarged where the network
takes larger images. Each champion is trained with AdamW on the train part alone, and kept in FOLDER/champions. It is
logged in MLflow's default format (pt2) and as a pickle, in a registry of its own; up to 300 of its wrong answers under
Gaussian noise, severities 1 to 5, are logged as failures; and `repairops.repair` runs with its defaults, given the data
sets, mean and std, and what --set says. Networks from timm, transformers and lightning are left out where these are
not installed. One JSON line a job in FOLDER/strangers.jsonl, errors too; jobs that are there are left out. --table
prints the Markdown table.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from default_command import enter_registry, figures, job_parser
from style_failures import load_sets, run_missing
from torch import Generator, Tensor, nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.transforms import Normalize, v2

from repairops import load_config, log_failures, repair
from repairops.bench.corruptions import corrupt_pixels
from repairops.config import derive_seed
from repairops.data.records import ImageSet, InputSpec
from repairops.data.sets import from_arrays, write_parquet
from repairops.demo.champion import small_network
from repairops.errors import RepairError
from repairops.model.device import set_mode
from repairops.model.evaluation import logits
from repairops.model.network import Classifier, from_unit, to_unit

CLASSES = (0, 1, 6)  # airplane, automobile, frog
MEAN, STD = (0.48, 0.48, 0.46), (0.25, 0.25, 0.26)
TRAINED = 1500  # images that a champion is trained on
FAILURES = 300
log = logging.getLogger("repairops")


@dataclass(frozen=True)
class Stranger:
    """A network and how much of the data it gets.

    sides: of the images, from epoch to epoch of the champion's training; the last is its own. train, judging, choosing:
    images that the repair is given. inside: it normalises itself. needs: the package that makes it. settings: options
    beside the defaults, where an epoch takes long.
    """

    make: Callable[[], nn.Module]
    sides: tuple[int, ...] = (32,) * 8
    channels: int = 3
    train: int = 1000
    judging: int = 800
    choosing: int = 400
    inside: bool = False
    needs: str = "torch"
    settings: tuple[str, ...] = ()

    @property
    def side(self) -> int:
        return self.sides[-1]


class Layered(nn.Module):
    """Convolutions with LayerNorm over the channels and no other norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.deep, self.deep_norm = nn.Conv2d(32, 64, 2, 2), nn.LayerNorm(64)
        self.mixed, self.mixed_norm = nn.Conv2d(64, 64, 3, 1, 1), nn.LayerNorm(64)
        self.head = nn.Linear(64, len(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in (
            (self.stem, self.stem_norm), (self.deep, self.deep_norm), (self.mixed, self.mixed_norm)
        ):  # fmt: skip
            x = F.gelu(norm(convolution(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=len(CLASSES), **options)  # type: ignore[no-any-return]


def _timm_vit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(  # type: ignore[no-any-return]
        img_size=32, patch_size=4, embed_dim=64, depth=3, num_heads=4, num_classes=len(CLASSES)
    )


def _hugging_face() -> nn.Module:
    """Returns an object with logits."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"image_size": 32, "patch_size": 4, "hidden_size": 64, "intermediate_size": 128}
    return ViTForImageClassification(  # type: ignore[no-any-return]
        ViTConfig(**sizes, num_hidden_layers=3, num_attention_heads=4, num_labels=len(CLASSES))
    )


def _lightning() -> nn.Module:
    """BatchNorm, and what a LightningModule brings along."""
    from lightning import LightningModule

    class Module(LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.network = small_network(3, len(CLASSES))

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, number: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    return Module()


STRANGERS = {
    "timm resnet10t": Stranger(lambda: _timm("resnet10t"), needs="timm"),
    "timm vit": Stranger(_timm_vit, sides=(32,) * 14, needs="timm"),
    "hugging face vit": Stranger(_hugging_face, sides=(32,) * 14, needs="transformers"),
    "lightning": Stranger(_lightning, needs="lightning"),
    "mobilenet_v3_small at 64": Stranger(
        lambda: mobilenet_v3_small(num_classes=len(CLASSES)), sides=(64,) * 8, train=600, judging=500, choosing=200
    ),
    "normalize inside": Stranger(
        lambda: nn.Sequential(Normalize(MEAN, STD), small_network(3, len(CLASSES))), inside=True
    ),
    "normalize of v2 inside": Stranger(
        lambda: nn.Sequential(v2.Normalize(MEAN, STD), small_network(3, len(CLASSES))), inside=True
    ),
    "layer norm": Stranger(Layered, sides=(32,) * 14),
    "grey": Stranger(lambda: small_network(1, len(CLASSES)), channels=1),
    "resnet18 at 224": Stranger(
        lambda: resnet18(num_classes=len(CLASSES)), sides=(64,) * 6 + (224,), train=200, judging=120, choosing=60,
        settings=("training.epochs=2", "training.least_steps=30", "training.interpolation=4"),
    ),
}  # fmt: skip


class Strangers:
    """Champions with their data, and the jobs that repair them."""

    def __init__(self, train: Path, clean: Path, folder: Path) -> None:
        sets = load_sets(train, clean)
        self.names = tuple(sets[0].class_names[number] for number in CLASSES)
        self.train, self.clean = (self._some(found) for found in sets)
        self.folder = folder

    def _some(self, found: ImageSet) -> ImageSet:
        rows = np.flatnonzero(np.isin(found.labels, CLASSES))
        labels = np.searchsorted(CLASSES, found.labels[rows])
        return from_arrays(found.pixels[torch.from_numpy(rows)], labels, self.names)

    def parts(self, stranger: Stranger, seed: int) -> tuple[ImageSet, ...]:
        """Train, clean and validation images at the network's own size, and photos at theirs that become failures."""
        trained = np.random.default_rng(derive_seed(seed, "train")).permutation(len(self.train))
        order = np.random.default_rng(derive_seed(seed, "photos")).permutation(len(self.clean))
        judging, choosing, field = np.split(order, [stranger.judging, stranger.judging + stranger.choosing])
        return self.train.subset(trained[:TRAINED]), *(self.clean.subset(rows) for rows in (judging, choosing, field))

    def run(self, name: str, form: str, seed: int, settings: str) -> dict[str, Any]:
        stranger, began = STRANGERS[name], time.monotonic()
        parts = self.parts(stranger, seed)
        champion = self.champion(name, parts[0], seed)
        job = "-".join((name, form, str(seed), settings)).replace(" ", "_").replace("/", "_")[:100]
        folder = enter_registry(self.folder / "jobs" / job)
        train = parts[0].subset(np.arange(stranger.train))
        sizes = [sized(found, stranger) for found in (train, *parts[1:3])]
        paths = [folder / f"{role}.parquet" for role in ("train", "clean", "validation")]
        for found, path in zip(sizes, paths, strict=True):
            write_parquet(found, path)
        line = {"network": name, "format": form, "seed": seed, "settings": settings}
        answers = logits(champion, sizes[1].pixels).argmax(1)
        line["champion"] = 100 * float((answers == sizes[1].labels).mean())
        try:
            log_plainly(champion, form)
        except Exception as error:  # before repairops has seen anything of it
            return {**line, "outcome": "error", "error": f"MLflow does not log it: {type(error).__name__}"}
        try:
            log_failures("prod/cls", *failures(champion, parts[3], stranger, seed))
            config = load_config(overrides=[
                f"seed={seed}", "training.device=cpu", *stranger.settings, *said(champion.spec, stranger),
                *filter(None, settings.split("+")),
            ])  # fmt: skip
            outcome = repair(
                "prod/cls", train_set=paths[0], clean_set=paths[1], validation_set=paths[2], config=config, rerun=True
            )
        except Exception as error:  # an error is what is looked for
            shown = " ".join(str(error).split())
            if not isinstance(error, RepairError):
                traceback.print_exc()
            return {**line, "outcome": "error", "error": f"{type(error).__name__}: {shown}"[:600]}
        training = outcome.values.get("training", {})
        more = {key: training[key] for key in ("optimizer", "pace", "note") if training.get(key)}
        return {**line, **figures(outcome.values), **more, "whole_seconds": round(time.monotonic() - began)}

    def champion(self, name: str, train: ImageSet, seed: int) -> Classifier:
        """In eval mode. Its weights are kept."""
        stranger = STRANGERS[name]
        file = self.folder / "champions" / f"{name.replace(' ', '_')}-{seed}.pt"
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(seed, name) % 2**63)
            classifier = Classifier(stranger.make(), spec_of(stranger, self.names))
            if file.exists():
                classifier.load_state_dict(torch.load(file, weights_only=True))
            else:
                learn(classifier, train, stranger)
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.save(classifier.state_dict(), file)
        set_mode(classifier, training=False)
        return classifier


def spec_of(stranger: Stranger, names: tuple[str, ...]) -> InputSpec:
    if stranger.inside:
        return InputSpec(stranger.channels, stranger.side, stranger.side, names)
    mean, std = (values[: stranger.channels] for values in (MEAN, STD))
    return InputSpec(stranger.channels, stranger.side, stranger.side, names, mean=mean, std=std)


def said(spec: InputSpec, stranger: Stranger) -> list[str]:
    """What a stranger says of the input by options: nothing else stands in his model."""
    shape = [f"model.image_size={spec.height}", f"model.channels={spec.channels}"]
    return (shape if stranger.needs == "transformers" else []) + [
        f"model.{name}={','.join(map(str, getattr(spec, name)))}" for name in ("mean", "std") if not stranger.inside
    ]


def sized(images: ImageSet, stranger: Stranger) -> ImageSet:
    """The images as the network takes them: enlarged, or grey."""
    return from_arrays(resized(images.pixels, stranger), images.labels, images.class_names)


def resized(pixels: Tensor, stranger: Stranger, side: int = 0) -> Tensor:
    """uint8 (N, 3, H, W) to (N, C, S, S)."""
    images, side = to_unit(pixels), side or stranger.side
    if stranger.channels == 1:
        images = images.mean(1, keepdim=True)
    if side != images.shape[-1]:
        images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
    return from_unit(images)


def learn(classifier: Classifier, train: ImageSet, stranger: Stranger, batch: int = 50) -> None:
    """Trains in place with AdamW, one cycle, mirrored at random; at the last side of several on `stranger.train`."""
    optimizer = torch.optim.AdamW(classifier.parameters(), 1e-3, weight_decay=0.05)
    counts = [stranger.train if side == stranger.side else len(train) for side in stranger.sides]
    steps = sum(count // batch for count in counts)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    classifier.train()
    labels = torch.from_numpy(train.labels)
    for epoch, (side, count) in enumerate(zip(stranger.sides, counts, strict=True)):
        losses = []
        for rows in torch.randperm(count).split(batch):
            if len(rows) < batch:
                continue
            images = to_unit(resized(train.pixels[rows], stranger, side))
            images = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, images.flip(3), images)
            loss = F.cross_entropy(classifier(images), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        log.info("champion: epoch %d, loss %.3f", epoch + 1, np.mean(losses))


def log_plainly(champion: Classifier, form: str) -> None:
    """As MLflow's own pages do it; then the alias that is repaired. MLflow finds no signature where the output is no
    tensor, and refuses pt2 without one.
    """
    import mlflow.pytorch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    spec = champion.spec
    shape = TensorSpec(np.dtype(np.float32), (-1, spec.channels, spec.height, spec.width))
    example = np.zeros((2, spec.channels, spec.height, spec.width), np.float32)
    with mlflow.start_run():
        kind: dict[str, Any] = {"serialization_format": "pickle"} if form == "pickle" else {}
        if form == "pt2" and type(champion.network).__module__.startswith("transformers"):
            kind["signature"] = ModelSignature(Schema([shape]), Schema([TensorSpec(np.dtype(np.float32), (-1, 3))]))
        logged = mlflow.pytorch.log_model(
            champion.network, name="model", registered_model_name="cls", input_example=example, **kind
        )
    version = logged.registered_model_version
    mlflow.MlflowClient().set_registered_model_alias("cls", "prod", version)


def failures(champion: Classifier, field: ImageSet, stranger: Stranger, seed: int) -> tuple[Tensor, list[int]]:
    """Wrong answers under Gaussian noise, and their labels."""
    generator = Generator().manual_seed(derive_seed(seed, "noise"))
    random = np.random.default_rng(derive_seed(seed, "severities"))
    most = min(len(field), 1400 if stranger.side < 100 else 500)
    severities = random.integers(1, 6, most)
    noisy = field.pixels[:most].clone()
    for severity in range(1, 6):
        rows = torch.from_numpy(np.flatnonzero(severities == severity))
        noisy[rows] = corrupt_pixels(noisy[rows], "gaussian_noise", severity, generator)
    images = resized(noisy, stranger)
    wrong = np.flatnonzero(logits(champion, images).argmax(1) != field.labels[:most])[:FAILURES]
    return images[torch.from_numpy(wrong)], field.labels[wrong].tolist()


def table(lines: Sequence[dict[str, Any]]) -> str:
    rows = ["| network | format | champion | form | repaired | clean | verdict |", "| --- " * 7 + "|"]
    for line in lines:
        head = f"| {line['network']} | {line['format']} | {line['champion']:.1f}% |"
        if line["outcome"] == "error":
            rows.append(f"{head} - | - | - | {line['error']} |")
            continue
        share = 100 * line["repaired"] / max(line["heldout"], 1)
        rows.append(
            f"{head} {line['form']} | {line['repaired']} of {line['heldout']} ({share:.0f}%) | "
            f"{line['clean_change']:+.2f} | {line['verdict']} |"
        )
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> None:
    parser = job_parser(__doc__, "train", "clean", seeds="0")
    parser.add_argument("--networks", default=",".join(STRANGERS))
    parser.add_argument("--formats", default="pt2,pickle")
    given = parser.parse_args(arguments)
    paths = (given.train.resolve(), given.clean.resolve(), given.folder.resolve())
    names = [name for name in given.networks.split(",") if find_spec(STRANGERS[name].needs)]
    settings = "+".join(given.settings)
    wanted = [
        (n, form, int(s), settings) for s in given.seeds.split(",") for n in names for form in given.formats.split(",")
    ]
    paths[2].mkdir(parents=True, exist_ok=True)
    keys = ("network", "format", "seed", "settings")
    lines = run_missing(
        paths[2] / "strangers.jsonl", wanted, keys, lambda: Strangers(*paths).run, minutes=given.minutes
    )
    if given.table:
        sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

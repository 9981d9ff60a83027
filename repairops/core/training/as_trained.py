"""The network as a training runs it: memory format, mixed precision, compilation, ranks, time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repairops.core.training.clock import StepClock
from repairops.core.training.ranks import Ranks
from repairops.core.training.sharding import Sharded
from repairops.model.device import MixedPrecision, set_mode
from repairops.model.network import Classifier


class Timed(Classifier):
    """The same network, with the time of its forward passes.

    It is given images in NCHW order whatever a style returned: from others a convolution makes features in
    channels_last order, on which some networks' `view` fails. `reshape` and `view` set the strides of an axis of
    length 1 too (grey images), which `contiguous` leaves.
    """

    def __init__(self, inner: Classifier, clock: StepClock) -> None:
        super().__init__(inner.network, inner.spec)
        self._inner, self._clock = [inner], clock  # in a list: not a submodule of its own

    def forward(self, images: Tensor) -> Tensor:
        with self._clock.phase("forward"):
            return self._inner[0](images.reshape(-1).view(images.shape))  # type: ignore[no-any-return]


def training_network(
    classifier: Classifier, *, amp: bool, compiled: bool, ranks: Ranks, clock: StepClock
) -> Classifier:
    """What a method's loss calls; it shares the classifier's weights."""
    network: nn.Module = torch.compile(classifier.network) if compiled else classifier.network  # type: ignore[assignment]
    kind = MixedPrecision if amp else Classifier
    inner = kind(network, classifier.spec) if amp or compiled else classifier
    return Timed(inner if ranks.alone else Sharded(inner, ranks), clock)


def use_channels_last(classifier: Classifier, device: torch.device, amp: bool) -> bool:
    """Puts convolutions' weights in channels_last order, where the network has some and still computes the same.

    A network that calls `view` on its features may refuse that order; then it stays as it was. So does every network in
    float32 (no `amp`) on a GPU.
    """
    if not (amp or device.type == "cpu") or not any(isinstance(m, nn.Conv2d) for m in classifier.modules()):
        return False
    spec = classifier.spec
    probe = torch.linspace(0, 1, 2 * spec.channels * spec.height * spec.width, device=device)
    probe = probe.view(2, spec.channels, spec.height, spec.width)
    set_mode(classifier, training=False)
    with torch.no_grad():
        wanted = classifier(probe)
        classifier.to(memory_format=torch.channels_last)
        try:
            found = classifier(probe)
            if torch.allclose(found, wanted, rtol=1e-2, atol=1e-2):
                return True
        except RuntimeError:
            pass
        classifier.to(memory_format=torch.contiguous_format)
    return False

"""Fine-tuning a champion: any network, any method; resumable after each epoch, no global state touched."""

from repairops.core.training.loop import TrainingResult, train
from repairops.core.training.parts import split_train_set
from repairops.core.training.stopping import StoppingRule

__all__ = ["StoppingRule", "TrainingResult", "split_train_set", "train"]

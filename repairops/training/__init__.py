"""Fine-tuning a champion: any network, any method; resumable after each epoch, no global state touched."""

from repairops.training.loop import StoppingRule, TrainingResult, split_train_set, train

__all__ = ["StoppingRule", "TrainingResult", "split_train_set", "train"]

"""Fine-tuning a champion: any network, any method; resumable after each epoch, no global state touched."""

from repairops.core.training.loop import TrainingResult, train

__all__ = ["TrainingResult", "train"]

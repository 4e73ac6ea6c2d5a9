"""Save and load models with PyTorch; the only part of distillgan that imports it."""

from ._save import save_model, save_model_from_checkpoint

__all__ = ["save_model", "save_model_from_checkpoint"]

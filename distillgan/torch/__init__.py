"""Save and load models with PyTorch; the only part of distillgan that imports it."""

from ._attach import attach_vocoder
from ._diff import diff_values
from ._lazy import LazyTensors
from ._load import LoadedModel, load_model, register_architecture
from ._save import Model, Recipe, read_model, save_model, save_model_from_checkpoint
from ._vocoder import read_vocoder_state
from .networks import ConvVAE

__all__ = [
    "ConvVAE",
    "LazyTensors",
    "LoadedModel",
    "Model",
    "Recipe",
    "attach_vocoder",
    "diff_values",
    "load_model",
    "read_model",
    "read_vocoder_state",
    "register_architecture",
    "save_model",
    "save_model_from_checkpoint",
]

"""The model file for small generative audio: safe to open, quick to describe, provably intact.

Nothing here imports torch; saving and loading with PyTorch is in `distillgan.torch`.
"""

from ._safetensors import TensorSpec
from ._version import __version__
from .container import Container, read_manifest
from .errors import (
    AmbiguousModelError,
    CheckpointError,
    DistillganError,
    FormatError,
    IntegrityError,
    LegacyFormatError,
    ModelNotFoundError,
    PairingError,
    UnsupportedVersionError,
)
from .manifest import (
    MODEL_FILE_EXTENSION,
    MODEL_FORMAT_MARKER,
    SAVED_MODEL_VERSION,
    Manifest,
    ModelMetadata,
)
from .verify import Problem, verify

__all__ = [
    "MODEL_FILE_EXTENSION",
    "MODEL_FORMAT_MARKER",
    "SAVED_MODEL_VERSION",
    "AmbiguousModelError",
    "CheckpointError",
    "Container",
    "DistillganError",
    "FormatError",
    "IntegrityError",
    "LegacyFormatError",
    "Manifest",
    "ModelMetadata",
    "ModelNotFoundError",
    "PairingError",
    "Problem",
    "TensorSpec",
    "UnsupportedVersionError",
    "__version__",
    "read_manifest",
    "verify",
]

"""The model file for small generative audio: safe to open, quick to describe, provably intact.

Nothing here imports torch; saving and loading with PyTorch is in `distillgan.torch`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from ._diff import diff
    from .catalog import ModelEntry, ModelLibrary, VocoderInfo, delete_model
    from .edit import edit_metadata, strip_vocoder

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
    "ModelEntry",
    "ModelLibrary",
    "ModelMetadata",
    "ModelNotFoundError",
    "PairingError",
    "Problem",
    "TensorSpec",
    "UnsupportedVersionError",
    "VocoderInfo",
    "__version__",
    "delete_model",
    "diff",
    "edit_metadata",
    "read_manifest",
    "strip_vocoder",
    "verify",
]

# Half of what `import distillgan` would cost belongs to these; `distillgan inspect` needs none.
_LATER = {
    "ModelEntry": "catalog",
    "ModelLibrary": "catalog",
    "VocoderInfo": "catalog",
    "delete_model": "catalog",
    "diff": "_diff",
    "edit_metadata": "edit",
    "strip_vocoder": "edit",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__

"""The manifest: JSON bytes <-> types, closed, canonical, and checked at every door.

The class bodies are the schema (`json_schema()` writes it out). Objects that are open inside
stay raw bytes until somebody asks for them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Raw, UnsetType, field

from ._text import has_control
from .errors import FormatError, UnsupportedVersionError

MODEL_FORMAT_MARKER = "distillgan_model"
SAVED_MODEL_VERSION = 1
MODEL_FILE_EXTENSION = ".distillgan"
MAX_MANIFEST = 1024 * 1024
MAX_PREVIEW = 4 * 1024 * 1024
MAX_DEPTH = 32
_MAX_INTEGER = 2**63
_are_digests = re.compile("(?:blake3:[0-9a-f]{64})+").fullmatch
_BRACE = ord("{")
_SHOWN = 100  # characters of a key in a message

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Digest = Annotated[
    str,
    msgspec.Meta(min_length=71, max_length=71, extra_json_schema={"pattern": "^blake3:[0-9a-f]{64}$"}),
]
Object = Annotated[Raw, msgspec.Meta(extra_json_schema={"type": "object"})]


@dataclasses.dataclass
class ModelMetadata:
    """What people know of a model. Unknown numbers are None; dates are ISO 8601 text.

    Keys that this release does not know are kept in `extra`.
    """

    model_id: str = ""
    name: str = "Untitled Model"
    description: str = ""
    tags: list[str] = dataclasses.field(default_factory=list)
    dataset_name: str = ""
    dataset_file_count: int | None = None
    dataset_total_duration_s: float | None = None
    training_date: str = ""
    save_date: str = ""
    training_epochs: int | None = None
    final_train_loss: float | None = None
    final_val_loss: float | None = None
    has_analysis: bool = False
    n_active_components: int = 0
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


class Vae(
    msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The `vae` component: its architecture, and the sizes and digest of its safetensors member.

    `tensors` counts stored tensors, `parameters` their elements, buffers included; sizes are bytes.
    """

    architecture: str
    latent_dim: Count | None = None
    tensors: Count
    parameters: Count
    data_bytes: Count
    header_bytes: Count
    header_digest: Digest


class Vocoder(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """The `vocoder` component; `config` and `training_metadata` are returned as they came."""

    type: str
    config_json: Object | UnsetType = field(name="config", default=UNSET)
    training_metadata_json: Object | UnsetType = field(name="training_metadata", default=UNSET)
    tensors: Count
    parameters: Count
    data_bytes: Count
    header_bytes: Count
    header_digest: Digest

    @cached_property
    def config(self) -> dict[str, Any] | None:
        """The vocoder's own configuration, or None."""
        return decode_object(self.config_json, "vocoder.config")

    @cached_property
    def training_metadata(self) -> dict[str, Any] | None:
        """How the vocoder was trained (epochs, final_loss, training_date …), or None."""
        return decode_object(self.training_metadata_json, "vocoder.training_metadata")


class Preview(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The `preview.flac` member: digest, size in bytes, rate in Hz, length in seconds."""

    digest: Digest
    bytes: Count
    sample_rate: Count
    duration_s: float


class Manifest(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, dict=True
):
    """What a container says of itself. Fields that end in `_json` are the raw bytes of open objects."""

    format: str
    version: int
    written_by: str
    metadata_json: Object = field(name="metadata")
    spectrogram_config_json: Object | UnsetType = field(name="spectrogram_config", default=UNSET)
    training_config_json: Object = field(name="training_config")
    latent_analysis_json: Object | UnsetType = field(name="latent_analysis", default=UNSET)
    vae: Vae
    vocoder: Vocoder | None = None
    preview: Preview | None = None

    @cached_property
    def known(self) -> tuple[KnownMetadata, dict[str, Any]]:
        """The metadata as it stands in the file: its known fields, and the keys that are not."""
        return _decode_metadata(bytes(self.metadata_json))

    @cached_property
    def metadata(self) -> ModelMetadata:
        """Name, tags, dataset, losses and the rest of what people know of the model."""
        known, extra = self.known
        values = {name: getattr(known, name) for name in _KNOWN_FIELDS}
        return ModelMetadata(**{k: v for k, v in values.items() if v is not UNSET}, extra=extra)

    @cached_property
    def spectrogram_config(self) -> dict[str, Any] | None:
        """The mel spectrogram that the model was trained on, or None."""
        return decode_object(self.spectrogram_config_json, "spectrogram_config")

    @cached_property
    def training_config(self) -> dict[str, Any]:
        """How the model was trained."""
        return decode_object(self.training_config_json, "training_config") or {}

    @cached_property
    def latent_analysis(self) -> dict[str, Any] | None:
        """The latent analysis with its arrays in their JSON form, or None."""
        return decode_object(self.latent_analysis_json, "latent_analysis")

    @property
    def components(self) -> dict[str, Vae | Vocoder]:
        """The components that hold tensors, by name, in file order."""
        found: dict[str, Vae | Vocoder] = {"vae": self.vae}
        if self.vocoder is not None:
            found["vocoder"] = self.vocoder
        return found


class KnownMetadata(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The wire form of ModelMetadata: what is absent is UNSET, so that encoding gives the same bytes."""

    model_id: str
    name: str
    description: str | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    dataset_name: str | UnsetType = UNSET
    dataset_file_count: Count | UnsetType | None = UNSET
    dataset_total_duration_s: float | UnsetType | None = UNSET
    training_date: str | UnsetType = UNSET
    save_date: str
    training_epochs: Count | UnsetType | None = UNSET
    final_train_loss: float | UnsetType | None = UNSET
    final_val_loss: float | UnsetType | None = UNSET
    has_analysis: bool | UnsetType = UNSET
    n_active_components: Count | UnsetType = UNSET


class _Marker(msgspec.Struct):
    format: Any = None
    version: Any = None


_encode = msgspec.json.Encoder().encode
_decode_document = msgspec.json.Decoder(Manifest).decode
_decode_known = msgspec.json.Decoder(KnownMetadata).decode
_decode_marker = msgspec.json.Decoder(_Marker).decode
_decode_raw_object = msgspec.json.Decoder(dict[str, Raw]).decode
_KNOWN_FIELDS = tuple(KnownMetadata.__struct_fields__)
_JSON_ERRORS = (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError)


def decode_manifest(body: bytes) -> Manifest:
    """Read a manifest's bytes: closed schema, canonical spelling; open objects stay raw.

    Raises FormatError with a `manifest.…` code, UnsupportedVersionError for another version.
    """
    try:
        manifest = _decode_document(body)
    except _JSON_ERRORS as error:
        raise _explain(body, error) from None
    if manifest.format != MODEL_FORMAT_MARKER or manifest.version != SAVED_MODEL_VERSION:
        raise _explain(body, None)
    if _encode(manifest) != body:
        raise _explain_spelling(body)
    known, extra = _decode_metadata(bytes(manifest.metadata_json))
    manifest.__dict__["known"] = known, extra  # what the cached property would decode again
    _check_fields(manifest)
    if not body.isascii() or b"\\" in body or b"\x7f" in body:
        _check_text(manifest, known)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of a manifest, at most 1 MiB (else FormatError `manifest.size`)."""
    try:
        body = _encode(manifest)
    except UnicodeError:
        raise FormatError("manifest.text", "a text is not valid Unicode") from None
    if len(body) > MAX_MANIFEST:
        raise FormatError("manifest.size", f"{len(body)} bytes; at most {MAX_MANIFEST} are allowed")
    return body


def encode_metadata(metadata: ModelMetadata) -> Raw:
    """The wire form of metadata: unknown counts are absent, unknown losses null, extras follow."""
    known = {name: getattr(metadata, name) for name in _KNOWN_FIELDS}
    for name in ("dataset_file_count", "dataset_total_duration_s", "training_epochs"):
        if known[name] is None:
            del known[name]
    clash = set(metadata.extra) & set(_KNOWN_FIELDS)
    if clash:
        raise FormatError("manifest.schema", "a field cannot be an extra key", where=min(clash))
    try:
        checked = msgspec.convert(known, KnownMetadata)
    except msgspec.ValidationError as error:
        raise FormatError("manifest.schema", str(error), where="metadata") from None
    return encode_object(msgspec.to_builtins(checked) | metadata.extra, "metadata")


def encode_object(value: Mapping[str, Any], where: str) -> Raw:
    """An open object as canonical bytes.

    Values must be JSON's own (see `distillgan.torch` for the rest); `where` names the object in
    FormatError `manifest.depth`, `manifest.number` or `manifest.schema`.
    """
    _check_value(value, (where,), 1)
    try:
        return Raw(_encode(value))
    except (TypeError, UnicodeError, msgspec.MsgspecError) as error:
        raise FormatError("manifest.schema", f"cannot be written as JSON: {error}", where=where) from None


def decode_object(raw: Raw | UnsetType, where: str) -> dict[str, Any] | None:
    """Decode an open object, checking that it is canonical and at most 32 levels deep."""
    if raw is UNSET:
        return None
    body = bytes(raw)
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep(where) from None
    except (msgspec.ValidationError, OverflowError) as error:
        raise FormatError("manifest.number", str(error), where=where) from None
    except _JSON_ERRORS as error:
        raise FormatError("manifest.json", str(error), where=where) from None
    _check_value(value, (where,), 1)
    if _encode(value) != body:
        raise FormatError("manifest.canonical", "not in its canonical spelling", where=where)
    return dict(value)


def check_open_objects(manifest: Manifest) -> list[FormatError]:
    """Every fault of the objects that are open inside, which the doors leave raw."""
    asks: list[Callable[[], object]] = [
        lambda: decode_object(manifest.metadata_json, "metadata"),
        lambda: manifest.spectrogram_config,
        lambda: manifest.training_config,
        lambda: manifest.latent_analysis,
    ]
    if (vocoder := manifest.vocoder) is not None:
        asks += [lambda: vocoder.config, lambda: vocoder.training_metadata]
    found = []
    for ask in asks:
        try:
            ask()
        except FormatError as error:
            found.append(error)
    return found


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a manifest, from the types (2020-12)."""
    schema = msgspec.json.schema(Manifest)
    metadata = msgspec.json.schema(KnownMetadata)["$defs"]["KnownMetadata"]
    del metadata["description"]
    for part in schema["$defs"].values():  # what a model does not have is absent, never null
        part["properties"] = {
            key: kind["anyOf"][0] if "default" in kind and kind["default"] is None else kind
            for key, kind in part["properties"].items()
        }
        del part["description"]
    schema["$defs"]["Manifest"]["properties"]["metadata"] = metadata | {"title": "Metadata"}
    schema["$defs"]["Manifest"]["properties"]["format"] = {"const": MODEL_FORMAT_MARKER}
    schema["$defs"]["Manifest"]["properties"]["version"] = {"const": SAVED_MODEL_VERSION}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _decode_metadata(raw: bytes) -> tuple[KnownMetadata, dict[str, Any]]:
    try:
        known = _decode_known(raw)
    except _JSON_ERRORS as error:
        code = "manifest.schema" if isinstance(error, msgspec.ValidationError) else "manifest.json"
        raise FormatError(code, str(error), where="metadata") from None
    plain = _encode(known)
    return known, {} if plain == raw else _read_extra(raw, plain)


def _read_extra(raw: bytes, plain: bytes) -> dict[str, Any]:
    """The keys after the known ones, whose bytes without them are `plain`."""
    try:
        pairs = _decode_raw_object(raw)
        extra = {key: pairs[key] for key in pairs if key not in _KNOWN_FIELDS}
        spelled = plain[:-1] + b"," + _encode(extra)[1:]
        if spelled != raw or not extra:
            raise FormatError("manifest.canonical", "not in its canonical spelling", where="metadata")
        values = {key: msgspec.json.decode(value) for key, value in extra.items()}
    except _JSON_ERRORS as error:
        if isinstance(error, FormatError):
            raise
        code = "manifest.depth" if isinstance(error, RecursionError) else "manifest.json"
        raise FormatError(code, str(error), where="metadata") from None
    _check_value(values, ("metadata",), 1)
    return values


def _explain(body: bytes, error: Exception | None) -> FormatError:
    """Say what is wrong with a manifest, the gravest first: JSON, marker, version, schema."""
    try:
        body.decode()
        marker = _decode_marker(body)
    except RecursionError:
        return _too_deep("")
    except _JSON_ERRORS as broken:
        return FormatError("manifest.json", f"the manifest is not a JSON object: {broken}")
    if marker.format != MODEL_FORMAT_MARKER:
        return FormatError("manifest.marker", f"format is not {MODEL_FORMAT_MARKER!r}", where="format")
    if marker.version != SAVED_MODEL_VERSION or type(marker.version) is not int:
        newer = type(marker.version) is int and marker.version > SAVED_MODEL_VERSION
        cure = "; upgrade distillgan to read it" if newer else ""
        return UnsupportedVersionError(
            "manifest.version", f"the version is {marker.version!r}, not 1{cure}", where="version"
        )
    if isinstance(error, RecursionError):
        return _too_deep("")
    return FormatError("manifest.schema", str(error))


def _explain_spelling(body: bytes) -> FormatError:
    for key, value in _decode_raw_object(body).items():
        if bytes(value) == b"null":
            return FormatError("manifest.schema", "null; what a model does not have is absent", where=key)
    return FormatError("manifest.canonical", "the manifest is not in its canonical spelling")


def _too_deep(where: str) -> FormatError:
    return FormatError("manifest.depth", f"nested more than {MAX_DEPTH} levels deep", where=where)


def _check_fields(manifest: Manifest) -> None:
    """What the types cannot say at C speed: open values are objects, digests are hex."""
    vocoder, preview = manifest.vocoder, manifest.preview
    raws = [manifest.training_config_json, manifest.spectrogram_config_json, manifest.latent_analysis_json]
    digests = manifest.vae.header_digest
    if vocoder is not None:
        raws += (vocoder.config_json, vocoder.training_metadata_json)
        digests += vocoder.header_digest
    if preview is not None:
        digests += preview.digest
    for raw in raws:
        if raw is not UNSET and memoryview(raw)[0] != _BRACE:
            raise FormatError("manifest.schema", "a configuration is not a JSON object")
    if not _are_digests(digests):  # 71 characters each, so that one match tells for all
        raise FormatError("manifest.schema", "a digest is not 'blake3:' and 64 hex digits")


def _check_text(manifest: Manifest, known: KnownMetadata) -> None:
    texts = {
        "written_by": manifest.written_by,
        "vae.architecture": manifest.vae.architecture,
        "vocoder.type": manifest.vocoder.type if manifest.vocoder else "",
        "metadata.description": (known.description or "").replace("\t", "").replace("\n", ""),
    }
    for name in ("model_id", "name", "dataset_name", "training_date", "save_date"):
        texts[f"metadata.{name}"] = getattr(known, name) or ""
    for index, tag in enumerate(known.tags or ()):
        texts[f"metadata.tags[{index}]"] = tag
    for where, text in texts.items():
        if has_control(text):
            raise FormatError("manifest.text", "holds control characters", where=where)


_Place = tuple[Any, ...]  # (the place around it, the key or index in that); a text at the top


def _check_value(value: Any, place: _Place, depth: int) -> None:
    kind = type(value)
    if kind in (dict, list, tuple):
        if depth > MAX_DEPTH:
            raise _too_deep(_path(place))
        for key, item in value.items() if kind is dict else enumerate(value):
            if kind is dict and type(key) is not str:
                where = _path(place)
                raise FormatError("manifest.schema", f"the key {key!r} is not a string", where=where)
            _check_value(item, (place, key), depth + 1)
    elif kind is int:
        if not -_MAX_INTEGER <= value <= _MAX_INTEGER:
            raise FormatError("manifest.number", "an integer outside ±2^63", where=_path(place))
    elif kind is float:
        if not abs(value) < float("inf"):
            raise FormatError("manifest.number", "a number that is not finite", where=_path(place))
    elif value is not None and kind is not str and kind is not bool:
        problem = f"{kind.__name__} is no JSON value: give text, numbers, lists and dicts"
        raise FormatError("manifest.schema", problem, where=_path(place))


def _path(place: _Place) -> str:
    """A place as text; made only for a message, since a key may be half a megabyte long."""
    parts: list[str] = []
    while len(place) == 2:
        place, key = place
        parts.append(f"[{key}]" if type(key) is int else f".{key[:_SHOWN]}")
    return str(place[0]) + "".join(reversed(parts))

"""The manifest: closed, canonical, and what people know of a model."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillgan import FormatError, Manifest, ModelMetadata, UnsupportedVersionError
from distillgan.manifest import (
    check_open_objects,
    decode_manifest,
    encode_manifest,
    encode_metadata,
    encode_object,
    json_schema,
)

JSON = dict[str, Any]
DIGEST = "blake3:" + "0" * 64


def good(**changes: Any) -> JSON:
    sizes = {"tensors": 1, "parameters": 1, "data_bytes": 4, "header_bytes": 4096, "header_digest": DIGEST}
    manifest = {
        "format": "distillgan_model", "version": 1, "written_by": "test",
        "metadata": {"model_id": "1", "name": "Rain", "save_date": "2026-02-21"},
        "training_config": {}, "vae": {"architecture": "unknown", **sizes},
        "vocoder": {"type": "hifigan_v2", "config": {"a": 1}, **sizes},
        "preview": {"digest": DIGEST, "bytes": 10, "sample_rate": 8000, "duration_s": 0.5},
    }  # fmt: skip
    order = ("format", "version", "written_by", "metadata", "spectrogram_config", "training_config",
             "latent_analysis", "vae", "vocoder", "preview")  # fmt: skip
    merged = manifest | changes
    unknown = [key for key in merged if key not in order]
    return {key: merged[key] for key in (*order, *unknown) if key in merged}


def body(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def code_of(raw: bytes) -> str:
    with pytest.raises(FormatError) as caught:
        decode_manifest(raw)
    return caught.value.code


def inside(component: str, **changes: Any) -> bytes:
    return body(good(**{component: good()[component] | changes}))


def without(component: str, key: str) -> bytes:
    return body(good(**{component: {k: v for k, v in good()[component].items() if k != key}}))


def test_a_good_manifest_reads_and_is_written_as_it_was() -> None:
    raw = body(good())
    manifest = decode_manifest(raw)
    assert encode_manifest(manifest) == raw
    assert manifest.metadata == ModelMetadata(model_id="1", name="Rain", save_date="2026-02-21")
    assert (manifest.spectrogram_config, manifest.latent_analysis) == (None, None)
    assert manifest.vocoder is not None
    assert manifest.vocoder.config == {"a": 1}
    assert manifest.vocoder.training_metadata is None


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (body(good(new=1)), "manifest.schema"),
        (inside("vae", new=1), "manifest.schema"),
        (inside("vocoder", new=1), "manifest.schema"),
        (inside("preview", new=1), "manifest.schema"),
        (without("vae", "tensors"), "manifest.schema"),
        (without("metadata", "model_id"), "manifest.schema"),
        (without("metadata", "name"), "manifest.schema"),
        (without("metadata", "save_date"), "manifest.schema"),
        (inside("vae", tensors=-1), "manifest.schema"),
        (inside("vae", tensors=1.0), "manifest.schema"),
        (inside("vae", tensors=True), "manifest.schema"),
        (inside("vae", tensors=2**63), "manifest.schema"),
        (inside("vae", header_digest="sha256:" + "0" * 64), "manifest.schema"),
        (inside("vae", header_digest=DIGEST.replace("0", "A")), "manifest.schema"),
        (body(good(vocoder=None)), "manifest.schema"),
        (body(good(spectrogram_config=None)), "manifest.schema"),
        (body(good(training_config=[])), "manifest.schema"),
        (body(good(metadata=[])), "manifest.schema"),
        (body(good(format="distill_model")), "manifest.marker"),
        (body(good(format=1)), "manifest.marker"),
        (body([]), "manifest.json"),
        (body(good())[:-1], "manifest.json"),
        (body(good()) + b" ", "manifest.canonical"),
        (body(good()).replace(b":", b": ", 1), "manifest.canonical"),
        (body(good()).replace(b'"version":1', b'"version":1,"version":1'), "manifest.canonical"),
        (body(good()).replace(b"Rain", b"\\u0052ain"), "manifest.canonical"),
        (body(dict(reversed(good().items()))), "manifest.canonical"),
        (inside("metadata", name="a\x1bb"), "manifest.text"),
        (inside("metadata", name="a\nb"), "manifest.text"),
        (inside("metadata", name="a\x7fb"), "manifest.text"),
        (inside("metadata", model_id="a\u0085b"), "manifest.text"),
        (inside("vocoder", type="\x1b[31m"), "manifest.text"),
        (body(good(written_by="a\x00b")), "manifest.text"),
        (body(good()).replace(b"Rain", b"R\xffin"), "manifest.json"),
    ],
)  # fmt: skip
def test_a_manifest_with_one_thing_spoiled_is_refused(raw: bytes, code: str) -> None:
    assert code_of(raw) == code


@pytest.mark.parametrize("version", [0, 2, -1, "1", 1.5, None, True, 2**70])
def test_another_version_is_an_error_of_its_own(version: object) -> None:
    with pytest.raises(UnsupportedVersionError) as caught:
        decode_manifest(body(good(version=version)))
    assert caught.value.code == "manifest.version"
    assert ("upgrade" in str(caught.value)) == (version in (2, 2**70))


def test_a_later_version_with_new_keys_is_told_by_its_version() -> None:
    assert code_of(body(good(version=2, new=1))) == "manifest.version"


def test_a_description_may_hold_tabs_and_newlines() -> None:
    metadata = {"model_id": "1", "name": "Rain", "description": "a\tb\nc", "save_date": "2026"}
    raw = body(good(metadata=metadata))
    assert decode_manifest(raw).metadata.description == "a\tb\nc"
    assert code_of(body(good(metadata=metadata | {"description": "a\rb"}))) == "manifest.text"


def test_tags_hold_no_control_characters() -> None:
    metadata = {"model_id": "1", "name": "Rain", "tags": ["good", "a\x1bb"], "save_date": "2026"}
    with pytest.raises(FormatError) as caught:
        decode_manifest(body(good(metadata=metadata)))
    assert (caught.value.code, caught.value.where) == ("manifest.text", "metadata.tags[1]")


@pytest.mark.parametrize(
    "prefix", ["", '{"a":', '{"format":"distillgan_model","version":1,"training_config":']
)
def test_a_deep_manifest_is_a_format_error(prefix: str) -> None:
    assert code_of((prefix + "[" * 100_000).encode()) in ("manifest.depth", "manifest.json")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_format_error(raw: bytes) -> None:
    with pytest.raises(FormatError):
        decode_manifest(raw)


@pytest.mark.parametrize("key", ["spectrogram_config", "training_config", "latent_analysis"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b'{"a": 1}', "manifest.canonical"),
        (b'{"a":1,"a":2}', "manifest.canonical"),
        (b'{"a":1.50}', "manifest.canonical"),
        (b'{"a":1e400}', "manifest."),
        (b'{"a":9223372036854775809}', "manifest.number"),
        (b'{"a":-9223372036854775809}', "manifest.number"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "manifest.depth"),
    ],
)
def test_an_open_object_is_checked_when_it_is_asked_for(key: str, text: bytes, code: str) -> None:
    raw = body(good(**{key: "HERE"})).replace(b'"HERE"', text)
    manifest = decode_manifest(raw)
    assert next(error.code for error in check_open_objects(manifest)).startswith(code)
    with pytest.raises(FormatError) as caught:
        getattr(manifest, key)
    assert caught.value.code.startswith(code)
    assert caught.value.where.startswith(key)


def test_numbers_at_the_limits_read_back() -> None:
    values = {
        "least": -(2**63),
        "most": 2**63,
        "small": 5e-324,
        "large": 1.7976931348623157e308,
        "zero": -0.0,
    }
    config = encode_object(values, "c")
    raw = encode_manifest(msgspec.structs.replace(decode_manifest(body(good())), training_config_json=config))
    found = decode_manifest(raw)
    assert check_open_objects(found) == []
    assert found.training_config == values
    assert math.copysign(1, found.training_config["zero"]) == -1


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
objects = st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), values, max_size=5)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down."""
    return msgspec.json.encode(a) == msgspec.json.encode(b) and a == b


@settings(max_examples=200, deadline=None)
@given(objects, objects)
def test_open_objects_read_back_as_they_were_given(config: JSON, extra: JSON) -> None:
    metadata = ModelMetadata(model_id="1", save_date="2026", extra={f"x-{k}": v for k, v in extra.items()})
    base = decode_manifest(body(good()))
    raw = encode_manifest(
        msgspec.structs.replace(
            base, training_config_json=encode_object(config, "c"), metadata_json=encode_metadata(metadata)
        )
    )
    found = decode_manifest(raw)
    assert check_open_objects(found) == []
    assert same(found.training_config, config)
    assert found.metadata == metadata
    assert encode_manifest(found) == raw


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")))
counts = st.none() | st.integers(0, 2**63 - 1)
numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(
    st.builds(
        ModelMetadata, model_id=texts, name=texts, description=texts, tags=st.lists(texts, max_size=3),
        dataset_name=texts, dataset_file_count=counts, dataset_total_duration_s=numbers, training_date=texts,
        save_date=texts, training_epochs=counts, final_train_loss=numbers, final_val_loss=numbers,
        has_analysis=st.booleans(), n_active_components=st.integers(0, 2**63 - 1),
    )
)  # fmt: skip
def test_metadata_reads_back_as_it_was_given(metadata: ModelMetadata) -> None:
    before = dataclasses.replace(metadata)
    base = decode_manifest(body(good()))
    raw = encode_manifest(msgspec.structs.replace(base, metadata_json=encode_metadata(metadata)))
    assert decode_manifest(raw).metadata == metadata == before


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 5}, {"tags": "abc"}, {"tags": [1]}, {"tags": None}, {"training_epochs": -1},
        {"training_epochs": 1.5}, {"training_epochs": 2**63}, {"dataset_total_duration_s": math.inf},
        {"dataset_total_duration_s": 10**400}, {"final_train_loss": "low"}, {"extra": {"name": "x"}},
        {"extra": {"x": math.nan}}, {"extra": {"x": {1: 2}}}, {"extra": {"x": object()}},
        {"extra": {"x": "\ud800"}}, {"name": "\ud800"}, {"description": None},
    ],
    ids=lambda changes: f"{next(iter(changes))}-{type(next(iter(changes.values()))).__name__}",
)  # fmt: skip
def test_metadata_that_cannot_be_stored_is_a_format_error_when_written(changes: JSON) -> None:
    with pytest.raises(FormatError) as caught:
        encode_metadata(ModelMetadata(model_id="1", **changes))
    assert caught.value.code.startswith("manifest.")


def test_a_manifest_above_a_mebibyte_is_refused_when_written() -> None:
    large = encode_object({"text": "a" * (1 << 20)}, "training_config")
    with pytest.raises(FormatError) as caught:
        encode_manifest(msgspec.structs.replace(decode_manifest(body(good())), training_config_json=large))
    assert caught.value.code == "manifest.size"


def test_metadata_is_a_plain_dataclass_whose_fields_all_have_defaults() -> None:
    metadata = ModelMetadata()
    metadata.name = "Other"
    assert dataclasses.asdict(dataclasses.replace(metadata, tags=["a"]))["tags"] == ["a"]
    assert ModelMetadata().tags is not ModelMetadata().tags
    assert msgspec.convert(msgspec.to_builtins(metadata), ModelMetadata) == metadata


def test_the_json_schema_accepts_what_the_types_accept_and_refuses_a_new_key() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    validator.check_schema(json_schema())
    assert validator.is_valid(good())
    assert not validator.is_valid(good(new=1))
    assert not validator.is_valid(good(version=2))
    assert not validator.is_valid(json.loads(inside("vae", header_digest="md5:0")))
    assert not validator.is_valid(json.loads(without("metadata", "name")))


def test_a_manifest_is_immutable() -> None:
    manifest: Manifest = decode_manifest(body(good()))
    with pytest.raises(AttributeError):
        manifest.version = 2  # type: ignore[misc]

"""Opening a container: the manifest alone, or the whole structure and its headers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers import FIXTURES, flip
from torch_helpers import fixed_metadata, save, small_state, vocoder_state

from distillgan import Container, FormatError, IntegrityError, ModelNotFoundError, read_manifest
from distillgan.container import BufferSource, is_container

FULL = FIXTURES / "valid" / "full.distillgan"


def bytes_read() -> int:
    """What this process has read through system calls so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(lines[0].split()[1])


def test_reading_a_manifest_reads_a_few_kilobytes_of_a_large_file(tmp_path: Path) -> None:
    import torch

    path = save(tmp_path, {"w": torch.zeros(4_000_000)})
    read_manifest(path)
    before = bytes_read()
    assert read_manifest(path).vae.parameters == 4_000_000
    assert bytes_read() - before < 20_000
    before = bytes_read()
    with Container.open(path) as container:
        assert container.tensors("vae")["w"].shape == (4_000_000,)
    assert bytes_read() - before < 40_000


def test_a_container_lists_its_entries_and_tensors() -> None:
    with Container.open(FULL) as container:
        names = [entry.name for entry in container.entries]
        assert names[:3] == ["manifest.json", "vae.safetensors", "vocoder.safetensors"]
        assert container.components == ("vae", "vocoder")
        assert container.size == FULL.stat().st_size
        for component in container.components:
            for spec in container.tensors(component).values():
                assert spec.nbytes == spec.end - spec.begin


def test_an_alias_has_the_spec_of_its_tensor(tmp_path: Path) -> None:
    state = small_state()
    state["z.tied"] = state["conv.weight"]
    with Container.open(save(tmp_path, state)) as container:
        specs = container.tensors("vae")
        assert specs["z.tied"] is specs["conv.weight"]
        assert container.manifest.vae.tensors == 2
        assert container.manifest.vae.parameters == 19


def test_a_missing_file_is_not_found_at_every_door(tmp_path: Path) -> None:
    for path in (tmp_path / "none.distillgan", FULL / "below"):
        for door in (read_manifest, Container.open, is_container):
            with pytest.raises(ModelNotFoundError) as caught:
                door(path)
            assert str(caught.value) == f"Model file not found: {path}"


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop", "device"])
def test_what_is_no_regular_file_is_a_format_error_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.distillgan"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path = Path("/dev/zero")
    for door in (read_manifest, Container.open, is_container):
        with pytest.raises(FormatError) as caught:
            door(path)
        assert caught.value.code in ("file.type", "file.unreadable")
        assert caught.value.path == str(path)


def test_a_link_to_a_model_is_that_model(tmp_path: Path) -> None:
    (tmp_path / "link.distillgan").symlink_to(FULL)
    assert read_manifest(tmp_path / "link.distillgan") == read_manifest(FULL)


def test_paths_may_be_text_or_path_objects() -> None:
    assert read_manifest(str(FULL)).metadata == read_manifest(FULL).metadata
    assert read_manifest(os.fspath(FULL)).metadata.name


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    bad = tmp_path / "bad.distillgan"
    bad.write_bytes(FULL.read_bytes()[:-1])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        read_manifest(FULL)
        Container.open(FULL).close()
        for path in (bad, tmp_path, Path("/dev/zero")):
            with pytest.raises(FormatError):
                Container.open(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_twice_is_harmless() -> None:
    container = Container.open(FULL)
    container.close()
    container.close()


def test_small_members_are_read_with_their_crc_checked(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "valid" / "preview.distillgan", tmp_path))
    with Container.open(path) as container:
        entry = container.entry("preview.flac")
        assert entry is not None
        assert (container.read_entry("preview.flac") or b"")[:4] == b"fLaC"
        assert container.read_entry("manifest.json.sig") is None
    flip(path, entry.offset + 10)
    with Container.open(path) as container, pytest.raises(IntegrityError) as caught:
        container.read_entry("preview.flac")
    assert (caught.value.code, caught.value.where) == ("zip.crc", "preview.flac")


def test_a_damaged_header_names_its_component_and_leaves_the_other(tmp_path: Path) -> None:
    path = save(tmp_path, vocoder_state=vocoder_state())
    with Container.open(path) as container:
        flip(path, container.entry("vocoder.safetensors").offset + 100)
    with Container.open(path) as container:
        assert len(container.tensors("vae")) == 2
        with pytest.raises(IntegrityError) as caught:
            container.tensors("vocoder")
    assert (caught.value.code, caught.value.component) == ("digest.header", "vocoder")
    assert caught.value.where.startswith("vocoder.safetensors")


def test_asking_for_tensors_of_a_component_that_is_not_there_says_which_are() -> None:
    from distillgan import DistillganError

    with (
        Container.open(FIXTURES / "valid" / "plain.distillgan") as container,
        pytest.raises(DistillganError, match=r"vocoder.*vae"),
    ):
        container.tensors("vocoder")


def test_asking_for_an_unknown_component_is_an_error_of_ours() -> None:
    from distillgan import DistillganError

    with Container.open(FULL) as container, pytest.raises(DistillganError):
        container.tensors("discriminator")


def test_salvage_opens_a_cut_file_and_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "cut.distillgan"
    path.write_bytes(FULL.read_bytes()[:-30])
    container, problems = Container.salvage(path)
    with container, Container.open(FULL) as whole:
        assert [p.code for p in problems] == ["zip.truncated"]
        assert container.tensors("vae") == whole.tensors("vae")


def test_a_transport_file_is_opened_in_memory() -> None:
    with Container.open(FIXTURES / "valid" / "zst-single-segment.distillgan.zst") as container:
        assert isinstance(container.source, BufferSource)
        assert container.identity is None
        assert container.tensors("vae")


def test_reprs_are_text_and_html_is_escaped(tmp_path: Path) -> None:
    path = save(tmp_path / "<b>", metadata=fixed_metadata("<script>alert('\u202ex')</script>"))
    with Container.open(path) as container:
        assert "\u202e" not in repr(container)
        html = container._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html.replace("<br>", "")
    assert "\u202e" not in html
    assert "&lt;script&gt;alert(&#x27;" in html


def test_is_container_looks_at_the_first_bytes_only(tmp_path: Path) -> None:
    assert is_container(FULL)
    assert is_container(FIXTURES / "valid" / "zst-single-segment.distillgan.zst")
    assert not is_container(FIXTURES / "README.md")
    assert not is_container(FIXTURES / "real" / "hifigan_g_00000006")
    (tmp_path / "empty").touch()
    assert not is_container(tmp_path / "empty")

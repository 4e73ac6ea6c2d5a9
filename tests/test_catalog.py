"""A library tells what is in its folder: states, the index as a cache, references, order."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from _library import TRAINING, age, model_bytes, write_model
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from distillgan import _survey
from distillgan._index import INDEX_NAME, MAX_INDEX, Record, VocoderRecord
from distillgan.catalog import ModelEntry, ModelLibrary, VocoderInfo, delete_model
from distillgan.errors import (
    LEGACY_REFERENCE,
    AmbiguousModelError,
    DistillganError,
    LegacyFormatError,
    ModelNotFoundError,
)

REPO = Path(__file__).parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models: rain, snow in a subfolder, wind with a vocoder."""
    write_model(tmp_path / "rain.distillgan", "id-rain", "Rain", tags=["ambient"], description="On TIN")
    write_model(tmp_path / "sub" / "snow.distillgan", "id-snow", "Snow", tags=["Cold", "soft"])
    vocoder = {"type": "hifigan_v2", "training_metadata": TRAINING}
    write_model(tmp_path / "wind.distillgan", "id-wind", "Wind", vocoder=vocoder)
    return tmp_path


def index_of(folder: Path) -> dict:
    return json.loads((folder / INDEX_NAME).read_bytes())


def states(library: ModelLibrary) -> dict[str, str]:
    return {entry.file_path: entry.state for entry in library.list_all()}


def age_index(folder: Path, seconds: float = -60) -> None:
    age(folder / INDEX_NAME, seconds)


# What is listed


def test_a_library_lists_every_model_of_the_folder_and_its_subfolders(folder: Path) -> None:
    library = ModelLibrary(folder)
    assert states(library) == {"rain.distillgan": "ok", "sub/snow.distillgan": "ok", "wind.distillgan": "ok"}
    assert library.count() == len(library) == 3
    assert {entry.model_id for entry in library} == {"id-rain", "id-snow", "id-wind"}
    assert library.problems == []


def test_an_entry_holds_what_the_manifest_says(tmp_path: Path) -> None:
    known = {
        "description": "a\tb\nc", "dataset_name": "field", "dataset_file_count": 41,
        "dataset_total_duration_s": 63.5, "training_date": "2026-01-01", "training_epochs": 7,
        "final_train_loss": 4.5, "final_val_loss": None, "has_analysis": True, "n_active_components": 8,
        "tags": ["a", "b"],
    }  # fmt: skip
    vocoder = {"type": "hifigan_v2", "training_metadata": TRAINING}
    path = write_model(
        tmp_path / "m.distillgan", "id", "Näme", save_date="2026-02-02", vocoder=vocoder, **known
    )
    assert ModelLibrary(tmp_path).get("id") == ModelEntry(
        model_id="id",
        name="Näme",
        file_path="m.distillgan",
        file_size_bytes=path.stat().st_size,
        save_date="2026-02-02",
        vocoder=VocoderInfo("hifigan_v2", 200, 0.0342, "2026-02-21T10:30:00+00:00"),
        **known,
    )


def test_the_second_opening_answers_as_the_first(folder: Path) -> None:
    first = ModelLibrary(folder).list_all()
    assert ModelLibrary(folder).list_all() == first


@pytest.mark.parametrize("extra", [{"vocoder": 5}, {"file_path": "/etc"}, {"state": None, "mtime_ns": -1}])
def test_extra_keys_of_the_metadata_do_not_reach_the_entry(tmp_path: Path, extra: dict) -> None:
    write_model(tmp_path / "m.distillgan", "id", extra=extra)
    entry = ModelLibrary(tmp_path).get("id")
    assert entry is not None
    assert (entry.vocoder, entry.file_path, entry.state) == (None, "m.distillgan", "ok")


@pytest.mark.parametrize(
    "training",
    [
        {"epochs": "many"},
        {"epochs": -1},
        {"epochs": True},
        {"epochs": 1.5},
        {"final_loss": "x"},
        {"training_date": 7},
    ],
)
def test_junk_in_a_vocoders_training_is_unknown(tmp_path: Path, training: dict) -> None:
    vocoder = {"type": "x", "training_metadata": training}
    write_model(tmp_path / "m.distillgan", "id", vocoder=vocoder)
    entry = ModelLibrary(tmp_path).get("id")
    assert entry is not None and entry.vocoder == VocoderInfo("x")


@pytest.mark.parametrize(
    "raw", [b'{"epochs":1e999}', b'{"epochs":1, "epochs":2}', b'{"training_date":"\\ud800"}']
)
def test_training_metadata_that_is_bad_json_does_not_stop_a_listing(tmp_path: Path, raw: bytes) -> None:
    from distillgan._survey import _vocoder_info
    from distillgan.manifest import Vocoder

    vocoder = Vocoder(
        type="x", training_metadata_json=msgspec.Raw(raw),
        tensors=0, parameters=0, data_bytes=0, header_bytes=0, header_digest="",
    )  # fmt: skip
    assert _vocoder_info(vocoder).type == "x"


def test_links_hidden_and_other_files_are_invisible(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write_model(outside / "secret.distillgan", "id-secret")
    (folder / "link.distillgan").symlink_to(outside / "secret.distillgan")
    (folder / "linked").symlink_to(outside, target_is_directory=True)
    write_model(folder / ".hidden" / "h.distillgan", "id-hidden")
    write_model(folder / ".h.distillgan", "id-hidden-file")
    write_model(folder / "old.distill", "id-old")
    write_model(folder / "sent.distillgan.zst", "id-sent")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    library = ModelLibrary(folder)
    assert library.count() == 3
    assert library.problems == []


def test_a_folder_that_is_called_like_a_model_is_a_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "a.distillgan" / "b.distillgan", "id")
    assert states(ModelLibrary(tmp_path)) == {"a.distillgan/b.distillgan": "ok"}


def test_a_folder_that_does_not_exist_is_an_empty_library_and_stays_so(tmp_path: Path) -> None:
    assert ModelLibrary(tmp_path / "none").list_all() == []
    assert not (tmp_path / "none").exists()


def test_listing_an_empty_folder_writes_nothing(tmp_path: Path) -> None:
    ModelLibrary(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_library(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.distillgan", "id")
    with pytest.raises(NotADirectoryError):
        ModelLibrary(path)


# States


def test_an_unreadable_file_is_reported_with_its_code_and_stops_nobody(folder: Path) -> None:
    (folder / "bad.distillgan").write_bytes(b"")
    (folder / "cut.distillgan").write_bytes((folder / "rain.distillgan").read_bytes()[:-1])
    (folder / "page.distillgan").write_bytes(b"<html>")
    library = ModelLibrary(folder)
    assert library.count() == 3
    assert [(p.path, p.code) for p in library.problems][:2] == [
        ("bad.distillgan", "zip.truncated"),
        ("cut.distillgan", "zip.truncated"),
    ]
    assert len(library.problems) == 3
    assert ModelLibrary(folder).problems == library.problems


@pytest.mark.skipif(os.name == "nt", reason="pipes and sockets in folders are POSIX's")
def test_a_pipe_or_socket_is_a_problem_and_not_a_wait(folder: Path) -> None:
    os.mkfifo(folder / "pipe.distillgan")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path has 107 bytes at most
        listener.bind("s.distillgan")
        os.chdir(here)
        library = ModelLibrary(folder)
    assert [(p.path, p.code) for p in library.problems] == [
        ("pipe.distillgan", "file.type"),
        ("s.distillgan", "file.type"),
    ]


def test_a_transport_file_under_a_models_name_is_a_problem_and_is_not_decompressed(tmp_path: Path) -> None:
    (tmp_path / "m.distillgan").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert len(ModelLibrary(tmp_path).problems) == 1


def test_a_file_that_went_stays_listed_as_missing_with_what_was_known(folder: Path) -> None:
    known = ModelLibrary(folder).get("id-wind")
    (folder / "wind.distillgan").unlink()
    for _ in range(2):  # from the survey, then from the index
        library = ModelLibrary(folder)
        entry = library.get("id-wind")
        assert entry is not None and known is not None
        assert entry == dataclasses.replace(known, state="missing")
        assert library.count() == 3
    assert index_of(folder)["models"]["id-wind"]["state"] == "missing"


def test_a_missing_model_is_itself_again_when_its_file_comes_back(folder: Path) -> None:
    library = ModelLibrary(folder)
    body = (folder / "rain.distillgan").read_bytes()
    (folder / "rain.distillgan").unlink()
    assert library.refresh().missing == ("rain.distillgan",)
    (folder / "rain.distillgan").write_bytes(body)
    report = library.refresh()
    assert (report.added, report.missing, report.moved) == (("rain.distillgan",), (), ())
    assert set(states(library).values()) == {"ok"}


def test_a_missing_model_that_turns_up_elsewhere_has_moved(folder: Path) -> None:
    library = ModelLibrary(folder)
    aside = folder / "aside.bin"
    (folder / "rain.distillgan").rename(aside)
    library.refresh()
    aside.rename(folder / "again.distillgan")
    assert library.refresh().moved == (("rain.distillgan", "again.distillgan"),)
    assert library.count() == 3


def test_a_file_that_moved_is_the_same_model(folder: Path) -> None:
    library = ModelLibrary(folder)
    (folder / "rain.distillgan").rename(folder / "sub" / "drizzle.distillgan")
    report = library.refresh()
    assert report.moved == (("rain.distillgan", "sub/drizzle.distillgan"),)
    assert (report.added, report.missing, report.removed) == ((), (), ())
    entry = library.get("id-rain")
    assert entry is not None and (entry.file_path, entry.state) == ("sub/drizzle.distillgan", "ok")


def test_a_model_moved_over_another_replaces_it(folder: Path) -> None:
    library = ModelLibrary(folder)
    (folder / "rain.distillgan").replace(folder / "wind.distillgan")
    report = library.refresh()
    assert report.moved == (("rain.distillgan", "wind.distillgan"),)
    assert states(library) == {"sub/snow.distillgan": "ok", "wind.distillgan": "ok"}
    assert library.get("id-wind") is None


def test_two_files_that_swapped_names_are_both_listed(folder: Path) -> None:
    library = ModelLibrary(folder)
    (folder / "rain.distillgan").rename(folder / "x")
    (folder / "wind.distillgan").rename(folder / "rain.distillgan")
    (folder / "x").rename(folder / "wind.distillgan")
    assert len(library.refresh().moved) == 2
    entry = library.get("id-wind")
    assert entry is not None and entry.file_path == "rain.distillgan"


def test_a_file_replaced_in_place_is_read_again(folder: Path) -> None:
    library = ModelLibrary(folder)
    write_model(folder / "rain.distillgan", "id-rain", "Pouring rain")
    assert library.refresh().changed == ("rain.distillgan",)
    entry = ModelLibrary(folder).get("id-rain")
    assert entry is not None and entry.name == "Pouring rain"


class Listed:
    """A folder's entry as Windows gives it: with inode 0."""

    def __init__(self, entry: os.DirEntry[str]):
        self.path = entry.path
        self._entry = entry

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        status = list(self._entry.stat(follow_symlinks=follow_symlinks))
        mtime_ns = self._entry.stat(follow_symlinks=follow_symlinks).st_mtime_ns
        return os.stat_result([status[0], 0, *status[2:]], {"st_mtime_ns": mtime_ns})


def test_a_listing_without_inodes_reads_only_what_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk, read_status, read = _survey._walk, _survey.read_status, []
    monkeypatch.setattr(_survey, "_walk", lambda *given: ((path, Listed(e)) for path, e in walk(*given)))
    monkeypatch.setattr(
        _survey, "read_status", lambda path, **how: (read.append(path), read_status(path, **how))[1]
    )
    library = ModelLibrary(folder)
    assert len(read) == library.count() > 1
    write_model(folder / "rain.distillgan", "id-rain", "Pouring rain")
    assert library.refresh().changed == ("rain.distillgan",)
    assert read[library.count() :] == [str(folder / "rain.distillgan")]


def test_a_file_changed_within_the_clocks_grain_is_read_again(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.distillgan", "id", "Rain", old=False)
    status = path.stat()
    ModelLibrary(tmp_path)
    with path.open("r+b") as file:  # the same inode, size and mtime
        file.write(model_bytes("id", "Mist"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    entry = ModelLibrary(tmp_path).get("id")
    assert entry is not None and entry.name == "Mist"


def test_an_index_as_young_as_a_file_does_not_vouch_for_it(folder: Path) -> None:
    ModelLibrary(folder)
    index = index_of(folder)
    index["models"]["id-rain"]["name"] = "Poisoned"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    os.utime(folder / INDEX_NAME, ns=((folder / "rain.distillgan").stat().st_mtime_ns + 10**9,) * 2)
    entry = ModelLibrary(folder).get("id-rain")
    assert entry is not None and entry.name == "Rain"


def test_files_with_one_id_are_both_kept_and_told_apart_by_path(folder: Path) -> None:
    shutil.copy(folder / "rain.distillgan", folder / "copy.distillgan")
    library = ModelLibrary(folder)
    assert library.report.duplicates == ("copy.distillgan", "rain.distillgan")
    assert states(library)["copy.distillgan"] == states(library)["rain.distillgan"] == "duplicate"
    assert library.count() == 4
    assert set(index_of(folder)["duplicates"]) == {"copy.distillgan", "rain.distillgan"}
    assert states(ModelLibrary(folder)) == states(library)


def test_an_id_that_two_files_have_is_never_guessed(folder: Path) -> None:
    shutil.copy(folder / "rain.distillgan", folder / "copy.distillgan")
    library = ModelLibrary(folder)
    expected = (
        r"Ambiguous model reference 'id-rain'. Matches: 'copy.distillgan', 'rain.distillgan'. .*--new-id"
    )
    for ask in (library.get, library.resolve, library.delete):
        with pytest.raises(AmbiguousModelError, match=expected):
            ask("id-rain")
    with pytest.raises(AmbiguousModelError):
        delete_model("id-rain", folder)
    assert (folder / "copy.distillgan").exists() and (folder / "rain.distillgan").exists()


def test_a_duplicate_that_gets_its_own_id_or_goes_leaves_two_plain_models(folder: Path) -> None:
    shutil.copy(folder / "rain.distillgan", folder / "copy.distillgan")
    library = ModelLibrary(folder)
    write_model(folder / "copy.distillgan", "id-new")
    library.refresh()
    assert set(states(library).values()) == {"ok"}
    shutil.copy(folder / "rain.distillgan", folder / "third.distillgan")
    library.refresh()
    (folder / "third.distillgan").unlink()
    assert library.refresh().removed == ("third.distillgan",)
    assert set(states(library).values()) == {"ok"} and library.count() == 4


def test_a_known_model_that_cannot_be_read_now_is_missing_and_a_problem(folder: Path) -> None:
    library = ModelLibrary(folder)
    body = (folder / "rain.distillgan").read_bytes()
    (folder / "rain.distillgan").write_bytes(body[:-5])
    library.refresh()
    assert states(library)["rain.distillgan"] == "missing"
    assert [p.path for p in library.problems] == ["rain.distillgan"]
    (folder / "rain.distillgan").write_bytes(body)
    library.refresh()
    assert states(library)["rain.distillgan"] == "ok" and library.problems == []


def test_a_held_library_changes_on_refresh_only(folder: Path) -> None:
    library = ModelLibrary(folder)
    write_model(folder / "new.distillgan", "id-new")
    assert library.get("id-new") is None
    assert library.refresh().added == ("new.distillgan",)
    assert library.get("id-new") is not None


def test_what_a_library_returns_belongs_to_the_caller(folder: Path) -> None:
    library = ModelLibrary(folder)
    entry = library.get("id-wind")
    assert entry is not None and entry.vocoder is not None
    entry.name, entry.vocoder.type = "changed", "changed"
    entry.tags.append("changed")
    again = library.get("id-wind")
    assert again is not None and again.vocoder is not None
    assert (again.name, again.vocoder.type, again.tags) == ("Wind", "hifigan_v2", [])


def test_a_name_on_disk_that_is_not_unicode_is_listed_and_left_out_of_the_index(folder: Path) -> None:
    try:
        write_model(Path(os.fsdecode(os.fsencode(folder) + b"/\xff.distillgan")), "id-odd")
    except (OSError, ValueError):
        pytest.skip("this file system takes Unicode only")
    for _ in range(2):
        assert ModelLibrary(folder).count() == 4
    before = (folder / INDEX_NAME).stat()
    assert set(index_of(folder)["models"]) == {"id-rain", "id-snow", "id-wind"}
    ModelLibrary(folder)
    assert (folder / INDEX_NAME).stat().st_ino == before.st_ino


# The index is a cache


def test_the_index_holds_entries_by_id_and_what_tells_a_files_states_apart(folder: Path) -> None:
    ModelLibrary(folder)
    index = index_of(folder)
    assert index["version"] == 2
    assert set(index["models"]) == {"id-rain", "id-snow", "id-wind"}
    rain, status = index["models"]["id-rain"], (folder / "rain.distillgan").stat()
    assert (rain["file_size_bytes"], rain["mtime_ns"], rain["inode"]) == (
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
    )
    assert "vocoder" not in rain
    assert index["models"]["id-wind"]["vocoder"]["epochs"] == 200


def test_an_index_record_has_the_fields_of_an_entry() -> None:
    names = [field.name for field in dataclasses.fields(ModelEntry)]
    assert list(Record.__struct_fields__) == [*names, "mtime_ns", "inode"]
    names = [field.name for field in dataclasses.fields(VocoderInfo)]
    assert list(VocoderRecord.__struct_fields__) == names


def test_an_entry_survives_being_added(folder: Path) -> None:
    library = ModelLibrary(folder)
    for entry in library.list_all():
        library.add_entry(entry)
        assert library.get(entry.model_id) == entry


def test_entries_go_through_asdict_replace_and_msgspec(folder: Path) -> None:
    for entry in ModelLibrary(folder).list_all():
        body = msgspec.json.encode(entry)
        assert msgspec.json.decode(body, type=ModelEntry) == entry
        assert msgspec.convert(dataclasses.asdict(entry), ModelEntry) == dataclasses.replace(entry)


def test_the_index_is_written_only_when_something_changed(folder: Path) -> None:
    ModelLibrary(folder)
    before = (folder / INDEX_NAME).stat()
    ModelLibrary(folder).refresh()
    after = (folder / INDEX_NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_library_of_known_files_opens_none_of_them(folder: Path) -> None:
    ModelLibrary(folder)
    script = (
        "import sys; from distillgan.catalog import ModelLibrary\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        f"assert ModelLibrary({str(folder)!r}).count() == 3\n"
        "print([p for p in opened if p.endswith('.distillgan')])"
    )
    assert run_python(script) == "[]\n"


BROKEN = {
    "empty": b"",
    "cut": None,
    "not JSON": b"{[",
    "not UTF-8": b'{"version":2,"models":{"\xff":{}}}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "older": b'{"version": 1, "models": {}}',
    "no version": b'{"models": {}}',
    "version of another type": b'{"version": "2\x07", "models": {}}',
    "the app's": b'{"version": 2, "models": {"a": {"model_id": "a", "name": "b", "file_path": "c.distill"}}}',
    "unknown fields": b'{"version": 2, "models": {}, "vocoders": {}}',
    "types": b'{"version": 2, "models": {"a": 5}}',
    "numbers": b'{"version": 2, "models": {}, "problems": {"a": {"code":"", "message":"", "size": 1e999}}}',
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_index_costs_a_rescan_and_a_warning(
    folder: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = ModelLibrary(folder).list_all()
    body = BROKEN[kind]
    index = folder / INDEX_NAME
    index.write_bytes(index.read_bytes()[:-40] if body is None else body)
    with caplog.at_level(logging.WARNING):
        assert ModelLibrary(folder).list_all() == expected
    assert len(caplog.records) == 1 and INDEX_NAME in caplog.text
    assert set(index_of(folder)["models"]) == {"id-rain", "id-snow", "id-wind"}


def test_a_lost_index_is_written_again_without_a_word(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = ModelLibrary(folder)
    (folder / INDEX_NAME).unlink()
    library.refresh()
    assert len(index_of(folder)["models"]) == 3
    assert caplog.records == []


def test_a_newer_index_warns_and_is_left_as_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = b'{"version": 3, "things": []}'
    (folder / INDEX_NAME).write_bytes(newer)
    library = ModelLibrary(folder)
    write_model(folder / "new.distillgan", "id-new")
    library.refresh()
    assert library.count() == 4 and library.repair_index() == (0, 1) and library.delete("id-new")
    assert (folder / INDEX_NAME).read_bytes() == newer
    assert len(caplog.records) == 1 and "newer" in caplog.text


def test_an_index_above_256_mib_is_a_rescan(folder: Path) -> None:
    with (folder / INDEX_NAME).open("wb") as file:
        file.truncate(MAX_INDEX + 1)
    assert ModelLibrary(folder).count() == 3
    assert (folder / INDEX_NAME).stat().st_size < 10_000


def test_an_index_that_cannot_be_read_or_written_changes_no_answer(folder: Path) -> None:
    (folder / INDEX_NAME).mkdir()
    library = ModelLibrary(folder)
    assert library.count() == 3
    (folder / "rain.distillgan").unlink()
    assert library.refresh().missing == ("rain.distillgan",)
    assert library.delete("id-wind")
    assert [p.name for p in folder.glob("*.tmp")] == []


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_a_read_only_folder_works_without_an_index(folder: Path) -> None:
    if os.geteuid() == 0:
        # Root writes everywhere, so the whole answer is asked of a process without that right.
        for path in (folder, *folder.rglob("*"), *folder.parents):
            if path.stat().st_uid == 0 and path.is_relative_to("/tmp") and path != Path("/tmp"):
                path.chmod(0o755 if path.is_dir() else 0o644)
    else:
        folder.chmod(0o555)
    script = (
        "import os; from distillgan.catalog import ModelLibrary\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        f"library = ModelLibrary({str(folder)!r}); print(library.count(), library.refresh().added)"
    )
    assert run_python(script) == "3 ()\n"
    assert not (folder / INDEX_NAME).exists()
    folder.chmod(0o755)


def test_a_lock_that_is_not_to_be_had_leaves_the_answer_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distillgan import catalog
    from distillgan._atomic import library_lock

    monkeypatch.setattr(catalog, "_LOCK_SECONDS", 0.05)
    with library_lock(folder):
        library = ModelLibrary(folder)
        assert library.count() == 3
        assert not (folder / INDEX_NAME).exists()
    library.refresh()
    assert len(index_of(folder)["models"]) == 3


@pytest.mark.parametrize(
    "path", ["/etc/x.distillgan", "../x.distillgan", "a/../../x.distillgan", "a//x.distillgan"]
)
def test_no_path_of_an_index_leads_outside(folder: Path, path: str) -> None:
    ModelLibrary(folder)
    outside = write_model(folder.parent / "x.distillgan", "id-evil")
    index = index_of(folder)
    for state in ("ok", "missing"):
        record = {
            "model_id": "id-evil",
            "name": "Evil",
            "file_path": path,
            "file_size_bytes": 1,
            "state": state,
        }
        index["models"]["id-evil"] = record
        (folder / INDEX_NAME).write_text(json.dumps(index))
        library = ModelLibrary(folder)
        assert library.get("id-evil") is None
        assert library.delete("id-evil") is False
    assert outside.exists()
    with pytest.raises(ValueError, match="not a path inside"):
        library.path_of(ModelEntry("id-evil", "Evil", path, 1))
    outside.unlink()


def test_an_index_that_swaps_ids_cannot_make_delete_remove_the_wrong_file(folder: Path) -> None:
    ModelLibrary(folder)
    index = index_of(folder)
    models = index["models"]
    models["id-rain"], models["id-wind"] = (
        models["id-wind"] | {"model_id": "id-rain"},
        models["id-rain"] | {"model_id": "id-wind"},
    )
    (folder / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(DistillganError, match="holds another model by now"):
        delete_model("id-rain", folder)
    assert (folder / "rain.distillgan").exists() and (folder / "wind.distillgan").exists()
    assert ModelLibrary(folder).repair_index() == (0, 0)
    assert delete_model("id-rain", folder)
    assert not (folder / "rain.distillgan").exists()


# Asking


def test_get_of_an_unknown_id_is_none(folder: Path) -> None:
    assert ModelLibrary(folder).get("id-nobody") is None


def test_resolve_takes_an_id_an_exact_name_or_a_unique_beginning_of_an_id(tmp_path: Path) -> None:
    for model_id, name in (("6f9d-1", "Rain"), ("6f9e-2", "Snow"), ("Rain", "Named by id"), ("77aa", "6f9")):
        write_model(tmp_path / f"{model_id}.distillgan", model_id, name)
    library = ModelLibrary(tmp_path)
    answers = {ref: library.resolve(ref).model_id for ref in ("6f9d-1", "Snow", "Rain", "6f9", "6f9e", "7")}
    assert answers == {
        "6f9d-1": "6f9d-1", "Snow": "6f9e-2", "Rain": "Rain", "6f9": "77aa", "6f9e": "6f9e-2", "7": "77aa",
    }  # fmt: skip


@pytest.mark.parametrize("ref", ["", "now", "snow", "d-1", "ain", "rain.distillgan"])
def test_resolve_never_takes_a_substring(folder: Path, ref: str) -> None:
    with pytest.raises(ModelNotFoundError, match=f"^Model not found: {ref}"):
        ModelLibrary(folder).resolve(ref)


def test_a_reference_that_nothing_answers_to_gets_up_to_three_near_names(tmp_path: Path) -> None:
    for number, name in enumerate(("Rain 1", "Rain 2", "Rain 3", "Rain 4", "Thunder")):
        write_model(tmp_path / f"{number}.distillgan", f"id-{number}", name)
    library = ModelLibrary(tmp_path)
    with pytest.raises(ModelNotFoundError) as none:
        library.resolve("xyz")
    assert str(none.value) == "Model not found: xyz"
    with pytest.raises(ModelNotFoundError) as one:
        library.resolve("thundr")
    assert str(one.value) == "Model not found: thundr. Did you mean 'Thunder'?"
    with pytest.raises(ModelNotFoundError) as many:
        library.resolve("Rain")
    assert str(many.value).count("'Rain ") == 3


def test_an_ambiguous_reference_names_what_tells_its_matches_apart(tmp_path: Path) -> None:
    for model_id, name in (("6f-1", "a"), ("6f-2", "b"), ("77-1", "Rain"), ("77-2", "Rain")):
        write_model(tmp_path / f"{model_id}.distillgan", model_id, name)
    library = ModelLibrary(tmp_path)
    with pytest.raises(AmbiguousModelError) as by_id:
        library.resolve("6f")
    assert str(by_id.value) == (
        "Ambiguous model reference '6f'. Matches: 'a', 'b'. Use the model ID to be specific."
    )
    with pytest.raises(AmbiguousModelError) as by_name:
        library.resolve("Rain")
    assert str(by_name.value) == (
        "Ambiguous model reference 'Rain'. Matches: '77-1', '77-2'. Use the model ID to be specific."
    )


def test_a_reference_to_an_old_file_gets_the_old_formats_sentence(folder: Path) -> None:
    with pytest.raises(LegacyFormatError) as error:
        ModelLibrary(folder).resolve("rain.distill")
    assert str(error.value) == LEGACY_REFERENCE


@pytest.mark.parametrize(
    ("sort_by", "values"),
    [
        ("training_epochs", [None, 3, 10]),
        ("final_val_loss", [None, 0.5, 4.0]),
        ("name", ["apple", "Banana", "cherry"]),
        ("training_date", ["", "2026-01-01T00:00:00+05:00", "2025-12-31T23:00:00Z"]),
    ],
)
def test_sorting_puts_the_unknown_last_either_way(tmp_path: Path, sort_by: str, values: list) -> None:
    for number, value in enumerate(values):
        write_model(tmp_path / f"{number}.distillgan", str(number), **{"name": "x", sort_by: value})
    library = ModelLibrary(tmp_path)
    unknown = [v for v in values if v in (None, "")]
    known = [v for v in values if v not in (None, "")]
    assert [getattr(e, sort_by) for e in library.list_all(sort_by, reverse=False)] == known + unknown
    assert [getattr(e, sort_by) for e in library.list_all(sort_by, reverse=True)] == known[::-1] + unknown


def test_every_field_but_tags_can_be_sorted_by_and_others_are_refused(folder: Path) -> None:
    library = ModelLibrary(folder)
    for field in dataclasses.fields(ModelEntry):
        if field.name != "tags":
            assert len(library.list_all(field.name)) == len(library.list_all(field.name, reverse=False)) == 3
    assert library.list_all("vocoder")[0].name == library.list_all("vocoder", reverse=False)[0].name == "Wind"
    with pytest.raises(ValueError, match="cannot sort by 'loudness'"):
        library.list_all("loudness")


def test_search_looks_into_names_and_descriptions_and_takes_any_tag(folder: Path) -> None:
    library = ModelLibrary(folder)

    def names(*args: object, **kwargs: object) -> set[str]:
        return {entry.name for entry in library.search(*args, **kwargs)}

    assert names() == {"Rain", "Snow", "Wind"}
    assert names("on tin") == names("RAIN") == {"Rain"}
    assert names("n") == {"Rain", "Snow", "Wind"}
    assert names("hifigan") == set()
    assert names(tags=["ambient", "cold"]) == {"Rain", "Snow"}
    assert names("snow", ["soft"]) == {"Snow"} and names("snow", ["ambient"]) == set()


# Changing


def test_delete_removes_the_file_and_the_entry(folder: Path) -> None:
    library = ModelLibrary(folder)
    assert library.delete("id-rain") is True
    assert not (folder / "rain.distillgan").exists()
    assert library.get("id-rain") is None
    assert ModelLibrary(folder).get("id-rain") is None
    assert library.delete("id-rain") is False
    assert delete_model("id-snow", folder) is True
    assert delete_model("id-snow", folder) is False


def test_delete_of_a_missing_model_removes_nothing(folder: Path) -> None:
    library = ModelLibrary(folder)
    (folder / "rain.distillgan").unlink()
    assert library.delete("id-rain") is False
    assert states(library)["rain.distillgan"] == "missing"


def test_delete_follows_a_file_that_moved(folder: Path) -> None:
    library = ModelLibrary(folder)
    (folder / "rain.distillgan").rename(folder / "elsewhere.distillgan")
    assert library.delete("id-rain")
    assert not (folder / "elsewhere.distillgan").exists()


def test_delete_refuses_a_file_that_holds_another_model(folder: Path) -> None:
    library = ModelLibrary(folder)
    write_model(folder / "rain.distillgan", "id-other")
    with pytest.raises(DistillganError, match="holds another model by now"):
        library.delete("id-rain")
    assert (folder / "rain.distillgan").exists()


def test_delete_does_not_follow_a_link_out_of_the_library(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = ModelLibrary(folder)
    outside = tmp_path_factory.mktemp("outside")
    shutil.move(folder / "sub" / "snow.distillgan", outside)
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(outside, target_is_directory=True)
    with pytest.raises(DistillganError, match="behind a link"):
        library.delete("id-snow")
    assert (outside / "snow.distillgan").exists()


def test_delete_of_a_file_that_became_a_link_removes_the_link_only(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = ModelLibrary(folder)
    outside = Path(shutil.move(folder / "rain.distillgan", tmp_path_factory.mktemp("outside")))
    (folder / "rain.distillgan").symlink_to(outside)
    assert library.delete("id-rain")
    assert outside.exists() and not (folder / "rain.distillgan").is_symlink()


def test_a_library_that_is_itself_reached_by_a_link_can_delete(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    link = tmp_path_factory.mktemp("links") / "library"
    link.symlink_to(folder, target_is_directory=True)
    assert ModelLibrary(link).delete("id-snow")


def test_repair_counts_what_changed_since_the_library_was_opened(folder: Path) -> None:
    (folder / "wind.distillgan").rename(folder / "away.bin")
    assert ModelLibrary(folder).repair_index() == (0, 0)
    (folder / "away.bin").rename(folder / "wind.distillgan")
    ModelLibrary(folder)
    (folder / "wind.distillgan").unlink()
    library = ModelLibrary(folder)
    write_model(folder / "new.distillgan", "id-new")
    (folder / "rain.distillgan").unlink()
    library.refresh()
    assert library.repair_index() == (2, 1)
    assert library.repair_index() == (0, 0)
    assert set(states(library)) == {"new.distillgan", "sub/snow.distillgan"}
    assert set(index_of(folder)["models"]) == {"id-new", "id-snow"}


def test_repair_says_when_the_index_could_not_be_written(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    library = ModelLibrary(folder)
    assert library.repair_index() == (0, 0)
    assert caplog.text == ""
    (folder / INDEX_NAME).unlink()
    (folder / INDEX_NAME).mkdir()
    library.repair_index()
    assert "could not be written" in caplog.text


def test_repair_trusts_no_cached_record(folder: Path) -> None:
    ModelLibrary(folder)
    index = index_of(folder)
    index["models"]["id-rain"]["name"] = "Poisoned"
    (folder / INDEX_NAME).write_text(json.dumps(index))
    library = ModelLibrary(folder)
    assert library.resolve("id-rain").name == "Poisoned"
    library.repair_index()
    assert library.resolve("id-rain").name == "Rain"


def test_add_and_remove_act_on_the_listing_and_the_index_and_the_file_is_the_truth(folder: Path) -> None:
    library = ModelLibrary(folder)
    entry = library.resolve("Rain")
    assert library.remove("id-rain") is True and library.remove("id-rain") is False
    assert library.get("id-rain") is None and "id-rain" not in index_of(folder)["models"]
    library.add_entry(dataclasses.replace(entry, name="Claimed"))
    assert library.resolve("Claimed").model_id == "id-rain"
    assert ModelLibrary(folder).resolve("id-rain").name == "Rain"
    library.remove("id-rain")
    library.refresh()
    assert library.resolve("id-rain").name == "Rain"


@pytest.mark.parametrize("path", ["/abs.distillgan", "../up.distillgan", "x.txt", ""])
def test_an_entry_that_lies_outside_is_refused(folder: Path, path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        ModelLibrary(folder).add_entry(ModelEntry("id", "n", path, 1))


# Cost


def run_python(script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{REPO}{os.pathsep}{REPO / 'cli'}"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_catalog_imports_nothing_heavy(folder: Path) -> None:
    ModelLibrary(folder)
    script = (
        "import sys; from distillgan.catalog import ModelLibrary\n"
        f"ModelLibrary({str(folder)!r}).list_all()\n"
        "print({'torch', 'numpy', 'rich', 'filelock', 'zstandard'} & set(sys.modules))"
    )
    assert run_python(script) == "set()\n"


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="bytes read are counted by Linux")
def test_a_scan_reads_no_tensor_data(tmp_path: Path) -> None:
    for number in range(20):
        path = write_model(tmp_path / f"{number}.distillgan", str(number))
        with path.open("r+b") as file:  # a gigabyte of weights, as far as a listing can tell
            file.truncate(1 << 30)
    script = (
        "import sys; from distillgan.catalog import ModelLibrary\n"
        "read = lambda: int(open('/proc/self/io').readline().split()[1])\n"
        "ModelLibrary(sys.argv[2])\n"
        "before = read(); assert ModelLibrary(sys.argv[1]).count() == 20; print(read() - before)"
    )
    warm = write_model(tmp_path.parent / "warm" / "w.distillgan", "w").parent
    assert int(run_python(script, str(tmp_path), str(warm))) < 20 * 8192 + 4096


def test_an_entry_costs_less_than_two_kilobytes(tmp_path: Path) -> None:
    vocoder = {"type": "hifigan_v2", "training_metadata": TRAINING}
    for number in range(300):
        write_model(
            tmp_path / f"{number}.distillgan", f"6f9d0c9e-0000-0000-0000-{number:012}", f"Rain {number}",
            description=f"A recording of rain, take {number}", tags=["ambient", "rain"], dataset_name="field",
            dataset_file_count=41, dataset_total_duration_s=63.5, training_date="2026-02-21T10:30:00+00:00",
            training_epochs=7, final_train_loss=4.5, final_val_loss=4.3, vocoder=vocoder,
        )  # fmt: skip
    ModelLibrary(tmp_path)
    tracemalloc.start()
    held = [ModelLibrary(tmp_path)]
    for path in tmp_path.glob("*.distillgan"):
        path.touch()
    held.append(ModelLibrary(tmp_path))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used / sum(len(library) for library in held) < 2048


# Against a plain model of a library


PATHS = st.sampled_from(["a", "b", "sub/c", "sub/deep/d"]).map(lambda stem: f"{stem}.distillgan")
IDS = st.sampled_from(["id-1", "id-2", "id-3"])


class LibraryMachine(RuleBasedStateMachine):
    """The same things done to a library and to three dicts; after each look they agree."""

    @initialize()
    def start(self) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.files: dict[str, tuple[str, str] | None] = {}  # path: (id, name), None for a damaged file
        self.seen: dict[str, str] = {}  # what the last look found, path: id
        self.missing: set[str] = set()
        self.library = ModelLibrary(self.folder)

    def teardown(self) -> None:
        self.temporary.cleanup()

    @rule(path=PATHS, model_id=IDS, name=st.sampled_from(["Rain", "Snow"]), old=st.booleans())
    def write(self, path: str, model_id: str, name: str, old: bool) -> None:
        write_model(self.folder / path, model_id, name, old=old)
        self.files[path] = (model_id, name)

    @rule(path=PATHS)
    def damage(self, path: str) -> None:
        if path in self.files:
            (self.folder / path).write_bytes(b"PK\3\4")
            self.files[path] = None

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        if path in self.files:
            (self.folder / path).unlink()
            del self.files[path]

    @rule(path=PATHS, to=PATHS)
    def rename(self, path: str, to: str) -> None:
        if path in self.files and path != to:
            (self.folder / to).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).replace(self.folder / to)
            self.files[to] = self.files.pop(path)

    @rule()
    def refresh(self) -> None:
        self.library.refresh()
        self.look()

    @rule(lost=st.booleans())
    def reopen(self, lost: bool) -> None:
        if lost:
            (self.folder / INDEX_NAME).unlink(missing_ok=True)
            self.seen, self.missing = {}, set()
        self.library = ModelLibrary(self.folder)
        self.look()

    @rule()
    def repair(self) -> None:
        self.library.repair_index()
        self.seen, self.missing = {}, set()
        self.look()

    @rule(model_id=IDS)
    def delete(self, model_id: str) -> None:
        self.refresh()
        homes = [path for path, known in self.seen.items() if known == model_id]
        if len(homes) > 1:
            with pytest.raises(AmbiguousModelError):
                self.library.delete(model_id)
        else:
            assert self.library.delete(model_id) is bool(homes)
        if len(homes) == 1:
            assert not (self.folder / homes[0]).exists()
            del self.files[homes[0]], self.seen[homes[0]]
        self.look()

    def look(self) -> None:
        now = {path: known for path, known in self.files.items() if known is not None}
        ids = [model_id for model_id, _ in now.values()]
        self.missing |= {model_id for path, model_id in self.seen.items() if path not in now}
        self.missing -= set(ids)
        self.seen = {path: model_id for path, (model_id, _) in now.items()}
        expected = {
            (path, model_id, name, "duplicate" if ids.count(model_id) > 1 else "ok")
            for path, (model_id, name) in now.items()
        }
        entries = self.library.list_all()
        found = {(e.file_path, e.model_id, e.name, e.state) for e in entries if e.state != "missing"}
        assert found == expected
        assert sorted(e.model_id for e in entries if e.state == "missing") == sorted(self.missing)
        assert {p.path for p in self.library.problems} == {path for path in self.files if path not in now}


TestLibraryAgainstAPlainModel = LibraryMachine.TestCase
TestLibraryAgainstAPlainModel.settings = settings(
    max_examples=100, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)

"""The pieces of the page without a browser: what they make of entries, of files and of junk."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from _models import ANALYSIS, HOSTILE, array, sound, write_rich
from click.testing import CliRunner
from distillgan_cli.cmd_page import page

from distillgan.catalog import ModelEntry, ModelLibrary, VocoderInfo
from distillgan.errors import DistillganError

pytest.importorskip("gradio", reason="the page needs gradio")

from distillgan import _page_html as html
from distillgan import _page_model as opened
from distillgan._page_facts import glance, read_facts, read_sound
from distillgan._page_shelf import Question, Shelf
from distillgan._page_svg import analysis_pictures
from distillgan.page import TABLE_COLUMNS, render_cards, table_rows

ENTRY = ModelEntry(
    "id-1", "Rain on tin", "rain.distillgan", 8_300_000, dataset_name="field", dataset_file_count=41,
    training_date="2026-02-21T10:30:00+00:00", training_epochs=7, final_val_loss=4.3868, tags=["rain", "tin"],
    vocoder=VocoderInfo("hifigan_v2", 200, 0.03424, "2026-02-21T10:30:00+00:00"),
)  # fmt: skip


def text_of(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", markup))


def test_a_card_has_the_green_pill_with_epochs_and_the_loss_to_four_places() -> None:
    assert "HiFi-GAN 200 epochs, loss 0.0342" in text_of(render_cards([ENTRY]))
    other = ModelEntry("id-2", "Other", "o.distillgan", 10, vocoder=VocoderInfo("istftnet"))
    assert '<span class="dg-pill">istftnet</span> <span></span>' in render_cards([other])
    assert "dg-pill" not in render_cards([ModelEntry("id-3", "None", "n.distillgan", 10)])


def test_a_row_of_the_table_has_a_cell_for_each_column() -> None:
    (row,) = table_rows([ENTRY])
    assert dict(zip(TABLE_COLUMNS, row, strict=True)) == {
        "Name": "Rain on tin", "Dataset": "field", "Epochs": "7", "Val loss": "4.3868",
        "Vocoder": "HiFi-GAN (200ep)", "Size": "8.3 MB", "Trained": "2026-02-21", "Tags": "rain, tin",
        "State": "",
    }  # fmt: skip


def test_what_nobody_knows_leaves_no_trace() -> None:
    bare = ModelEntry("id-2", "Bare", "b.distillgan", 10)
    assert text_of(render_cards([bare])).split() == ["Bare", "VAE,", "10", "B"]
    assert "None" not in "".join(table_rows([bare])[0])


@pytest.mark.parametrize("text", [HOSTILE, '"><script>alert(1)</script>', "a\u202eb\u200b\x07", "'`${x}"])
def test_no_text_of_a_file_becomes_markup(text: str) -> None:
    entry = ModelEntry(
        text, text, "a.distillgan", 1, text, text, tags=[text], vocoder=VocoderInfo(text, 1, 0.5, text)
    )
    for markup in (
        render_cards([entry]),
        html.render_listing([entry], {}, "Table", html.Batch({"query": text}, 1, 2)),
        opened.render_unread(entry, text, text),
        opened.render_question(entry, text),
        html.render_summary(1, 1, text, []),
    ):
        tags = set(re.findall(r"<\s*([a-z0-9]+)", markup))
        assert not tags & {"img", "script", "textarea"}
        assert not {"\u202e", "\u200b", "\x07"} & set(re.sub(r'data-\w+="[^"]*"', "", markup))
        assert re.fullmatch(r'(?:[^<>]|<(?:[^<>"]|"[^"<>]*")*>)*', markup)


def test_a_file_name_that_is_not_unicode_has_a_key() -> None:
    key = html.entry_key(ModelEntry("id", "n", os.fsdecode(b"a\xff.distillgan"), 1))
    assert key == {"id": "id", "file": "a%FF.distillgan"}


def test_pictures_are_drawn_of_what_an_analysis_has() -> None:
    titles = [title for title, _ in analysis_pictures(ANALYSIS)]
    assert titles == ["Explained variance", "Slider ranges", "Feature correlations"]
    pictures = dict(analysis_pictures(ANALYSIS))
    assert "31.0%" in pictures["Explained variance"]
    assert "safe -2.30 to 2.40, warning from -2.90 to 3.30" in pictures["Slider ranges"]
    assert "rms_energy and 1 spectral_flatness: 0.92" in pictures["Feature correlations"]


@pytest.mark.parametrize(
    "junk",
    [
        {}, {"explained_variance_ratio": "x"}, {"explained_variance_ratio": {"dtype": "O", "base64": "AA=="}},
        {"explained_variance_ratio": {"dtype": "float32", "base64": "A"}},
        {"feature_correlations": {"a": None}},
        {"feature_correlations": []}, {"safe_min": [1], "safe_max": None}, {"explained_variance_ratio": {}},
    ],
)  # fmt: skip
def test_junk_in_an_analysis_is_no_picture(junk: dict[str, object]) -> None:
    assert list(analysis_pictures(junk)) == []


def test_numbers_that_are_none_are_left_out_of_a_picture() -> None:
    strange = {
        "explained_variance_ratio": array([float("nan"), float("inf"), -1.0, 0.5]),
        "safe_min": [None, True, "x"], "safe_max": [1, 2, 3], "warning_min": [], "warning_max": None,
        "feature_correlations": {"<b>": [float("nan"), 7, -7], "b": ["x"]},
        "suggested_labels": ["<i>", 3, "long " * 30],
    }  # fmt: skip
    for _, picture in analysis_pictures(strange):
        assert not re.search(r'="(nan|inf|-inf)', picture)
        assert "<b>" not in picture
        assert "<i>" not in picture


def test_facts_are_those_of_the_file(tmp_path: Path) -> None:
    path = write_rich(tmp_path / "a.distillgan", "a", "A", vocoder="hifigan_v2", preview=True, analysis=True)
    facts = read_facts(path)
    assert facts.problems == []
    assert facts.pairing is not None
    assert facts.pairing.verdict == "shapes and rates match"
    assert set(facts.tensors) == {"vae", "vocoder"}
    assert read_sound(path) == sound()
    assert glance(path, True) == (True, ())
    assert glance(tmp_path / "none.distillgan", True) == (False, ())


def test_a_damaged_file_tells_what_it_still_can(tmp_path: Path) -> None:
    path = write_rich(tmp_path / "a.distillgan", "a", "A", vocoder="hifigan_v2")
    body = path.read_bytes()
    path.write_bytes(body.replace(b"conv_pre", b"conv_prf", 1)[:-1] + b"\x01")
    facts = read_facts(path)
    assert facts.metadata.name == "A"
    assert set(facts.tensors["vae"]) > {"encoder.fc_mu.weight"}
    assert facts.tensors["vocoder"] == {}
    assert [problem.split(":")[0] for problem in facts.problems] == ["zip.structure", "digest.header"]
    assert dict(facts.fields)["Signature"] == "unknown: the archive is damaged"


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_a_page_of_models_reads_no_weights(tmp_path: Path) -> None:
    for number in range(20):
        write_rich(tmp_path / f"{number}.distillgan", str(number), "A", vocoder="hifigan_v2")
    shelf = Shelf(ModelLibrary(tmp_path))
    before = _bytes_read()
    assert shelf.listing(Question()).count("<article") == 20
    few = 20 * 48 * 1024  # manifests, headers, padding, the central directory
    weights = sum(file.stat().st_size for file in tmp_path.glob("*.distillgan"))
    assert _bytes_read() - before < few < weights / 50


def _bytes_read() -> int:
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]


def test_an_empty_library_says_what_to_do(tmp_path: Path) -> None:
    shelf = Shelf(ModelLibrary(tmp_path / "not there yet"))
    assert "distillgan pack CHECKPOINT.pt --library" in text_of(shelf.listing(Question()))


def test_without_gradio_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "distillgan.page", raising=False)
    result = CliRunner().invoke(page, ["--library", str(tmp_path)])
    assert isinstance(result.exception, DistillganError)
    assert "pip install 'distillgan[page]'" in str(result.exception)

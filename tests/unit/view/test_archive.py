"""Captures written to NPZ come back bit for bit, with the manifest; foreign files are refused."""

import json
import pickle
from dataclasses import replace
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from qformer_viz.view.archive import TENSORS, BadArchive, load_npz, manifest, save_csv, save_npz
from tests.support.fakes_ui import fake_capture


def test_round_trip_is_exact(tmp_path):
    capture = fake_capture(3)
    path = save_npz(capture, tmp_path / "a.npz", {"model": "x", "question": "what?"})
    back, about = load_npz(path)
    for name in TENSORS:
        assert torch.equal(getattr(back, name), getattr(capture, name)), name
    assert back.text_attention is None and "text_attention" not in about
    assert back.cross_layers == capture.cross_layers
    assert back.grid == capture.grid
    assert back.attn_implementation == capture.attn_implementation
    assert about == {"model": "x", "question": "what?"}


def test_what_the_qformer_read_is_kept(tmp_path):
    capture = replace(fake_capture(3), text_attention=torch.rand(6, 1, 2, 8, 5))
    back, _ = load_npz(save_npz(capture, tmp_path / "a.npz"))
    assert torch.equal(back.text_attention, capture.text_attention)
    about = manifest(capture, {}, image_sha256="ab")
    assert about["shapes"]["text_attention"] == [6, 1, 2, 8, 5] and "reads" in about["axes"]["text_attention"]
    assert "text_attention" not in manifest(fake_capture(3), {}, image_sha256="ab")["axes"]


def test_numpy_alone_reads_it(tmp_path):
    path = save_npz(fake_capture(), tmp_path / "a.npz")
    with np.load(path, allow_pickle=False) as archive:
        assert archive["cross_attention"].dtype == np.float32
        assert archive["cross_layers"].tolist() == [0, 2, 4]


@pytest.mark.parametrize("content", [b"", b"not a zip", pickle.dumps({"a": 1})])
def test_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(BadArchive, match=r"Found .*expected .*Fix: "):
        load_npz(path)


def test_pickled_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, cross_attention=np.array([{"a": 1}], object))
    with pytest.raises(BadArchive):
        load_npz(path)


def test_missing_array_is_named(tmp_path):
    path = save_npz(fake_capture(), tmp_path / "a.npz")
    with ZipFile(path) as whole, ZipFile(tmp_path / "b.npz", "w") as part:
        for name in whole.namelist():
            if name != "query_states.npy":
                part.writestr(name, whole.read(name))
    with pytest.raises(BadArchive, match="query_states"):
        load_npz(tmp_path / "b.npz")


def test_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_npz(tmp_path / "none.npz")


def test_manifest_is_plain_json_with_everything_that_was_promised():
    described = {
        "model": "m",
        "revision": None,
        "precision": "float32",
        "attn_implementation": {"qformer": "sdpa"},
        "versions": {"torch": "1"},
        "dtype": torch.float32,
    }
    capture = fake_capture()
    about = manifest(capture, described, image_sha256="ab", question="q", answer="a")
    assert json.loads(json.dumps(about)) == about
    assert about["shapes"]["cross_attention"] == list(capture.cross_attention.shape)
    assert about["image_sha256"] == "ab" and about["question"] == "q" and about["answer"] == "a"
    assert about["cross_layers"] == [0, 2, 4] and about["grid"] == [4, 4]
    assert about["attn_implementation"] == {"qformer": "sdpa"}
    assert about["qformer_attn_implementation"] == "eager"
    assert about["versions"]["torch"] == "1" and about["versions"]["numpy"]
    assert about["dtype"] == "torch.float32"


def test_csv_has_a_header_and_quotes(tmp_path):
    path = save_csv(["a", "b"], [["x, y", 1]], tmp_path / "a.csv")
    assert path.read_text().splitlines() == ["a,b", '"x, y",1']

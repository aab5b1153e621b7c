"""Archives from anybody: what is not ours is refused as BadArchive, before memory is asked for."""

import io
import struct
import tracemalloc
import zipfile
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qformer_viz.errors import BadArchive
from qformer_viz.view.archive import load_npz, save_npz
from tests.support.fakes_ui import fake_capture


@cache
def whole() -> bytes:
    """What `save_npz` writes."""
    return _saved()


def _saved() -> bytes:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return save_npz(fake_capture(3), Path(folder) / "a.npz", {"model": "x"}).read_bytes()


def entries() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(whole())) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path, changed, **options):
    """The archive with other entries in the place of some; None takes one away."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in (entries() | changed).items():
            if content is not None:
                archive.writestr(name, content)
    return path


def array(value) -> bytes:
    file = io.BytesIO()
    np.save(file, value, allow_pickle=True)
    return file.getvalue()


def header(text: str, content: bytes = b"") -> bytes:
    text = (text + "\n").encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


SHAPE = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}"
CROSS, MANIFEST, GRID, LAYERS = (
    f"{name}.npy" for name in ("cross_attention", "manifest", "grid", "cross_layers")
)
HOSTILE = {
    "a shape of terabytes": {CROSS: header(SHAPE.format("(1000000000000,)"), b"1234")},
    "a shape beyond 64 bits": {CROSS: header(SHAPE.format(f"({10**17}, {10**17}, {10**17})"))},
    "a negative shape": {CROSS: header(SHAPE.format("(-1,)"))},
    "a shape of digits without end": {CROSS: header(SHAPE.format(f"({'9' * 3000},)"))},
    "an empty shape": {CROSS: header(SHAPE.format("(0, 1, 2, 8, 17)"))},
    "a header that is code": {CROSS: header("__import__('os').system('true')")},
    "a header of brackets": {CROSS: header("(" * 3000)},
    "a header longer than it says": {CROSS: b"\x93NUMPY\x01\x00\xff\xff{"},
    "an unknown version": {CROSS: b"\x93NUMPY\x09\x00\x01\x00{"},
    "no array at all": {CROSS: b"GIF89a"},
    "nothing": {CROSS: b""},
    "objects": {CROSS: array(np.array([{"a": 1}], object))},
    "other numbers": {CROSS: array(np.zeros((3, 1, 2, 8, 17)))},
    "records": {CROSS: array(np.zeros(3, [("a", "f4"), ("b", "f4")]))},
    "one dimension": {CROSS: array(np.zeros(3, np.float32))},
    "no dimension": {CROSS: array(np.float32(3))},
    "tensors that do not belong together": {"query_tokens.npy": array(np.zeros((3, 3), np.float32))},
    "text for numbers": {GRID: array(np.array("ab"))},
    "numbers for text": {MANIFEST: array(np.array(7))},
    "a manifest that is no JSON": {MANIFEST: array(np.array("{"))},
    "a manifest that is a list": {MANIFEST: array(np.array("[]"))},
    "a manifest of brackets": {MANIFEST: array(np.array("[" * 100_000))},
    "a manifest of letters that are none": {
        MANIFEST: header("{'descr': '<U1', 'fortran_order': False, 'shape': (), }", b"\xff\xff\xff\xff")
    },
    "several manifests": {MANIFEST: array(np.array(["{}", "{}"]))},
    "a manifest of a hundred megabytes": {MANIFEST: array(np.array("7" * 25_000_000))},
    "a grid of three": {GRID: array(np.array([2, 2, 4]))},
    "a grid of nothing": {GRID: array(np.array([0, 16]))},
    "a negative grid": {GRID: array(np.array([-4, -4]))},
    "a grid of another size": {GRID: array(np.array([4, 5]))},
    "no layers": {LAYERS: array(np.array([], np.int64))},
    "too many layers": {LAYERS: array(np.arange(4))},
    "layers out of order": {LAYERS: array(np.array([4, 2, 0]))},
    "layers that are not there": {LAYERS: array(np.array([0, 2, 99]))},
    "a negative layer": {LAYERS: array(np.array([-2, 0, 2]))},
    "a format of its own": {"format.npy": array(np.array([1, 1]))},
    "a format of text": {"format.npy": array(np.array("1"))},
    "no grid": {GRID: None},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused(tmp_path, what):
    path = packed(tmp_path / "a.npz", HOSTILE[what], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(BadArchive, match=r"Found .*; expected .*Fix: "):
        load_npz(path)


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packings_are_refused(tmp_path, packing):
    with pytest.raises(BadArchive, match="packed in another way"):
        load_npz(packed(tmp_path / "a.npz", {}, compression=packing))


def test_a_bomb_is_refused_by_what_it_declares(tmp_path):
    """96 MB of noughts in 100 kB, where 64 MB are let in: nothing of them is unpacked."""
    content = header(SHAPE.format("(24000000,)"), bytes(96_000_000))
    path = packed(tmp_path / "a.npz", {CROSS: content}, compression=zipfile.ZIP_DEFLATED)
    del content
    tracemalloc.start()
    with pytest.raises(BadArchive, match=r"0\.1 GB.*at most 0\.1 GB.*limit="):
        load_npz(path, limit=64_000_000)
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_size_that_is_a_lie_is_refused(tmp_path):
    """The directory of the archive declares fewer bytes than there are, or more."""
    for size in (200, 1_000_000):
        content = bytearray(packed(tmp_path / "a.npz", {}).read_bytes())
        at = content.rindex(b"PK\x01\x02", 0, content.rindex(CROSS.encode()))
        content[at + 24 : at + 28] = struct.pack("<I", size)
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(BadArchive):
            load_npz(tmp_path / "b.npz")


def test_an_encrypted_entry_is_refused(tmp_path):
    content = bytearray(packed(tmp_path / "a.npz", {}).read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(CROSS.encode()))
    content[at + 8] |= 1
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BadArchive, match="encrypted"):
        load_npz(tmp_path / "a.npz")


def test_a_folder_is_refused_and_a_missing_file_is_missing(tmp_path):
    with pytest.raises(BadArchive):
        load_npz(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_npz(tmp_path / "none.npz")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, share):
    path = tmp_path / "a.npz"
    path.write_bytes(whole()[: int(len(whole()) * share)])
    with pytest.raises(BadArchive):
        load_npz(path)


def test_columns_first_and_bytes_the_other_way_are_read(tmp_path):
    changed = np.load(io.BytesIO(entries()[CROSS]))
    for value in (np.asfortranarray(changed), changed.astype(">f4")):
        path = packed(tmp_path / "a.npz", {CROSS: array(value)})
        assert np.array_equal(load_npz(path)[0].cross_attention.numpy(), changed)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert"]), st.floats(0, 1, exclude_max=True), st.binary(max_size=8)
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "a.npz"


def changed(content: bytes, changes) -> bytes:
    found = bytearray(content)
    for kind, where, by in changes:
        at = int(where * len(found))
        if kind == "insert":
            found[at:at] = by
        elif kind == "cut":
            del found[at : at + len(by)]
        else:
            found[at : at + len(by)] = by
    return bytes(found)


def loads_or_is_refused(path):
    try:
        capture, about = load_npz(path)
    except BadArchive:
        return
    assert isinstance(about, dict) and capture.image(0).grid == capture.grid


@settings(max_examples=300, deadline=None, derandomize=True)
@given(CHANGES)
def test_any_damage_to_the_file_is_a_bad_archive(place, changes):
    place.write_bytes(changed(whole(), changes))
    loads_or_is_refused(place)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(entries())), CHANGES)
def test_any_damage_to_an_entry_is_a_bad_archive(place, name, changes):
    """Within a sound archive, so that the sum of the entry agrees, and near its head, where the header is."""
    content = entries()[name]
    head, rest = content[:160], content[160:]
    packed(place, {name: changed(head, changes) + rest})
    loads_or_is_refused(place)

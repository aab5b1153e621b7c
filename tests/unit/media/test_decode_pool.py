"""Uploads are decoded in children with limits: the same pictures, and nothing that harms the server or its visitors."""

import contextlib
import io
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from qformer_viz.errors import ImageError
from qformer_viz.media import decode_pool, decoder_handle, decoder_process, image_decoder
from qformer_viz.media.decode_pool import Pool
from tests.campaigns import bombs, seeds, uploads

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sends signals")
SOUND = seeds.sound_files()
SLOW = bombs.gif_frames(80_000)
"""About a second of walking from frame to frame."""


@pytest.fixture(scope="module")
def pool():
    with contextlib.closing(Pool(children=2)) as made:
        yield made


def small():
    return seeds.picture("PNG", "RGB", {})


def busy(pool, data, refusals):
    """A thread that decodes, once it has its child."""

    def work():
        try:
            pool.decode(data)
        except ImageError as error:
            refusals.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    with pool._changed:
        while not pool._busy:
            assert pool._changed.wait(30)
    return thread


@pytest.mark.parametrize("name", SOUND)
def test_a_child_gives_what_this_process_gives(pool, name):
    there, here = pool.decode(SOUND[name]), image_decoder.decode(SOUND[name])
    assert (there.sha256, there.size, there.notices) == (here.sha256, here.size, here.notices)
    assert [frame.tobytes() for frame in there.frames] == [frame.tobytes() for frame in here.frames]
    assert (there.video is None) == (here.video is None)
    if here.video:
        assert (there.video.timestamps, there.video.length) == (here.video.timestamps, here.video.length)


def test_a_large_picture_is_the_same_too(pool):
    size = (4700, 5300)
    image = seeds.scene(3, (7, 6)).resize((470, 530)).resize(size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=70)
    there, here = pool.decode(file.getvalue()), image_decoder.decode(file.getvalue())
    assert (
        there.sha256 == here.sha256
        and there.size == size
        and max(there.image.size) == image_decoder.WORKING_SIDE
    )
    near = np.asarray(image.resize(there.image.size, Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(np.asarray(there.image) - near).mean() < 2


@linux
def test_missing_pixels_are_not_filled_with_what_memory_held(pool):
    """libtiff leaves out the lines of a fax that it cannot make out, and says nothing."""
    whole, refused = SOUND["tiff_fax"], 0
    for place in range(60, 400, 10):
        data = whole[:place] + bytes(4) + whole[place + 4 :]
        try:
            first = pool.decode(data)
        except ImageError as error:
            refused += "pixels are missing" in str(error)
        else:
            assert {pool.decode(data).sha256 for _ in range(3)} == {first.sha256}
    assert refused > 3


def test_every_way_in_ends_alike(pool, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(small())
    shas = {decode_pool.decode(source).sha256 for source in (path, str(path), small(), Image.open(path))}
    assert shas == {image_decoder.decode(path).sha256}
    frames = [
        path,
        small(),
        seeds.scene(8),
        np.asarray(seeds.scene(9)),
        seeds.scene(8),
        tmp_path / "none.png",
    ]
    assert decode_pool.decode(frames).sha256 == image_decoder.decode(frames).sha256
    with pytest.raises(ImageError, match="no file"):
        decode_pool.decode(tmp_path / "none.png")
    with pytest.raises(ImageError, match="no pictures"):
        decode_pool.decode([])
    with pytest.raises(ImageError, match="MiB"):
        decode_pool.decode(path, max_bytes=10)
    with pytest.raises(ImageError, match="megapixels"):
        decode_pool.decode(path, max_pixels=100)


def test_an_ordinary_picture_costs_little_more(pool):
    """Processor time of this process and the children, each the mean of ten."""
    file = io.BytesIO()
    seeds.scene(1, (160, 120)).resize((1632, 1224)).save(file, "JPEG", quality=85)
    data, me = file.getvalue(), psutil.Process()

    def cost(decode):
        children = [psutil.Process(pid) for pid in pool.processes()]
        before = [process.cpu_times() for process in (me, *children)]
        for _ in range(10):
            decode(data)
        after = [process.cpu_times() for process in (me, *children)]
        return sum(b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True)) / 10

    pool.decode(data)
    assert (
        min(cost(pool.decode) for _ in range(3)) - min(cost(image_decoder.decode) for _ in range(3)) < 0.030
    )


def test_nobody_waits_for_anothers_bomb(pool):
    """Whoever comes while a slow file is decoded has gone before it is done."""
    pool.decode(small())
    refusals = []
    thread = busy(pool, SLOW, refusals)
    for _ in range(3):
        pool.decode(small())
    assert thread.is_alive()
    thread.join()


@linux
def test_bombs_at_the_same_moment_leave_room_for_others():
    """A fourth file is decoded while three bombs are under way, whose children have the lowest priority."""
    with contextlib.closing(Pool(seconds=20)) as pool:
        threads = [busy(pool, SLOW, []) for _ in range(3)]
        with pool._changed:
            while len(pool._busy) < 3:
                assert pool._changed.wait(30)
            bombs_at_work = [child.process for child in pool._busy]
        while not all(child.slow for child in tuple(pool._busy)):
            assert all(thread.is_alive() for thread in threads)
            time.sleep(0.01)
        for process in bombs_at_work:
            assert psutil.Process(process.pid).nice() == 19
            process.send_signal(signal.SIGSTOP)
        others = [threading.Thread(target=pool.decode, args=(small(),), daemon=True) for _ in range(4)]
        for thread in others:
            thread.start()
        for thread in others:
            thread.join(20)
        assert not any(thread.is_alive() for thread in others) and len(pool._busy) == 3
        for process in bombs_at_work:
            process.send_signal(signal.SIGCONT)
        for thread in threads:
            thread.join()


def test_a_child_of_low_priority_is_not_used_again():
    with contextlib.closing(Pool(seconds=20)) as pool:
        pool.decode(small())
        (child,) = pool.processes()
        busy(pool, SLOW, []).join()
        assert pool.processes() not in ([], [child])


def test_few_idle_children_are_kept(monkeypatch):
    monkeypatch.setattr(decoder_handle, "SLOW", 60)
    with contextlib.closing(Pool(seconds=20)) as pool:
        threads = [busy(pool, SLOW, []) for _ in range(decode_pool.IDLE + 2)]
        for thread in threads:
            thread.join()
        assert len(pool.processes()) == decode_pool.IDLE


def test_no_more_children_than_there_may_be(pool):
    threads = [threading.Thread(target=pool.decode, args=(small(),)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(pool.processes()) <= 2


@linux
def test_processor_time_is_limited(monkeypatch):
    monkeypatch.setattr(decoder_handle.Child, "look", lambda self: None)  # by the system alone
    with contextlib.closing(Pool(children=1, seconds=0.2)) as pool:
        pool.decode(small())
        (child,) = pool.processes()
        before = sum(psutil.Process(child).cpu_times()[:2])
        spent = psutil.Process().cpu_times()
        with pytest.raises(ImageError, match="processor time"):
            pool.decode(SLOW)
        now = psutil.Process().cpu_times()
        ended = now.children_user + now.children_system - spent.children_user - spent.children_system
        assert ended - before < 0.4
        assert pool.processes() not in ([], [child]) and pool.decode(small()).size == seeds.scene().size


@linux
def test_memory_is_limited_and_the_child_lives_on():
    with contextlib.closing(Pool(children=1, memory=40 * 2**20)) as pool:
        pool.decode(small())
        children = pool.processes()
        with pytest.raises(ImageError, match="memory"):
            pool.decode(bombs.saved("PNG", (4000, 4000)))
        assert pool.processes() == children and pool.decode(small()).size == seeds.scene().size


@linux
def test_a_child_that_hangs_is_ended():
    with contextlib.closing(Pool(children=1, wall=0.5)) as pool:
        pool.decode(small())
        (child,) = pool.processes()
        psutil.Process(child).suspend()
        with pytest.raises(ImageError, match="processor time"):
            pool.decode(small())
        assert not psutil.pid_exists(child) and pool.decode(small()).size == seeds.scene().size


def test_a_child_that_dies_over_a_file_is_told_of_and_replaced():
    with contextlib.closing(Pool(children=1)) as pool:
        pool.decode(small())
        refusals = []
        thread = busy(pool, SLOW, refusals)
        with pool._changed:
            (child,) = pool._busy
        while not child.asked:
            pass
        child.process.kill()
        thread.join()
        assert "made its decoder stop" in refusals[0]
        assert pool.decode(small()).size == seeds.scene().size


def test_a_child_that_died_before_is_no_fault_of_the_next_file(monkeypatch):
    """Not even where it dies after it was last seen alive."""
    seen = iter([True])
    alive = property(lambda child: next(seen, False) or child.process.poll() is None)
    with contextlib.closing(Pool(children=1)) as pool:
        pool.decode(small())
        (child,) = pool._idle
        child.process.kill()
        child.process.wait()
        monkeypatch.setattr(decoder_handle.Child, "alive", alive)
        assert pool.decode(small()).size == seeds.scene().size


def answering(reply):
    """The code of a child that answers every file so."""
    return (
        "import sys, time\n"
        f"sys.stdout.buffer.write({decoder_process.READY!r}); sys.stdout.buffer.flush()\n"
        "sys.stdin.buffer.read(1)\n"
        f"sys.stdout.buffer.write({reply!r}); sys.stdout.buffer.flush()\n"
        "sys.stdin.buffer.read()\n"
    )


def replied(pixels=b"", **content):
    text = json.dumps({"size": [2, 2], "notices": [], "frames": [[2, 2]], "film": None} | content).encode()
    return decoder_process.REPLY.pack(len(text)) + text + pixels


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff\xff\xff",
        b"\0\0\0\4oops",
        b"\0\0\0\2[]",
        replied(frames=[[2, 2**20]]),
        replied(frames=[[2, -2]]),
        replied(frames=[[2.5, 2]]),
        replied(frames=[]),
        replied(frames=[[2, 2]] * 4),
        replied(bytes(48), frames=[[2, 2]] * 4, video={"moments": [1], "length": 4}),
        replied(bytes(48), frames=[[2, 2]] * 4, video={"moments": [], "length": 1e400}),
        replied(bytes(12), size=[0, 2]),
        replied(bytes(12), notices=[{}]),
        replied(bytes(12), notices=7),
        b"\0\0\xff\xff" + b"[" * 65535,
        decoder_process.REPLY.pack(13) + b'{"error": [1]',
    ],
    ids=lambda reply: repr(reply[:60]),
)
def test_nonsense_is_refused(reply, monkeypatch):
    monkeypatch.setattr(decoder_handle, "_code", lambda *limits: answering(reply))
    with contextlib.closing(Pool(children=1, wall=5)) as pool:
        pool.warm()
        (child,) = pool.processes()
        with pytest.raises(ImageError, match=r"made its decoder stop \(it answered nonsense\)"):
            pool.decode(small())
        assert not psutil.pid_exists(child)


def test_what_is_no_nonsense_is_taken(monkeypatch):
    monkeypatch.setattr(decoder_handle, "_code", lambda *limits: answering(replied(bytes(range(12)))))
    with contextlib.closing(Pool(children=1, wall=5)) as pool:
        assert pool.decode(small()).image.tobytes() == bytes(range(12))


def test_a_child_that_cannot_start_is_said_to_be_the_servers_trouble(monkeypatch):
    monkeypatch.setattr(decoder_handle, "_code", lambda *limits: "raise SystemExit(3)")
    with contextlib.closing(Pool(children=1)) as pool, pytest.raises(ImageError, match="does not start"):
        pool.decode(small())


@pytest.mark.parametrize(
    ("limits", "make", "words"),
    [
        ({"seconds": 0.2}, lambda: SLOW, "processor time"),
        ({"memory": 40 * 2**20}, lambda: bombs.saved("PNG", (6000, 4000)), "400 MB of memory"),
    ],
)
def test_without_limits_of_the_system_children_are_watched(limits, make, words, monkeypatch):
    """As where the system sets none: what a child spends and holds is looked at from here."""
    none = dict.fromkeys(decoder_process.system_limits(), False)
    code = decoder_handle._code
    patch = f"decoder_process.system_limits = lambda: {none}; main("
    monkeypatch.setattr(decoder_process, "system_limits", lambda: none)
    monkeypatch.setattr(
        decoder_handle,
        "_code",
        lambda *given: code(*given).replace(
            " main(", f" from qformer_viz.media import decoder_process; {patch}"
        ),
    )
    assert patch in decoder_handle._code(1, 1, 1)
    with contextlib.closing(Pool(children=1, **limits)) as pool:
        pool.decode(small())
        with pytest.raises(ImageError, match=words):
            pool.decode(make())
        assert pool.decode(small()).size == seeds.scene().size


def test_what_cannot_be_limited_is_said_once(monkeypatch, caplog):
    assert sys.platform != "linux" or decode_pool.unset_limits() == ()
    monkeypatch.setattr(decoder_process, "system_limits", lambda: {"processor time": True, "memory": False})
    monkeypatch.setattr(decode_pool, "_pool", None)
    with caplog.at_level(logging.WARNING):
        first, second = decode_pool.pool(), decode_pool.pool()
    first.close()
    assert first is second and [record.message for record in caplog.records] == list(
        decode_pool.unset_limits()
    )
    assert "No limit can be set on the memory" in caplog.text and "50 times a second" in caplog.text


PARENT = """
import sys
from qformer_viz.media import decode_pool
pool = decode_pool.pool()
pool.decode(sys.stdin.buffer.read())
print(*pool.processes(), flush=True)
input_ = open(0, "rb", closefd=False)
signal = __import__("signal"); signal.pause()
"""


@linux
def test_children_end_with_their_parent_however_it_ends():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        parent.stdin.write(small())
        parent.stdin.close()
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert not alive and gone


def test_a_copy_of_the_server_has_children_of_its_own(monkeypatch):
    monkeypatch.setattr(decode_pool, "_pool", None)
    first = decode_pool.pool()
    with contextlib.closing(first):
        first.decode(small())
        monkeypatch.setattr(decode_pool, "_inherited", [])
        monkeypatch.setattr(decode_pool, "_making", None)
        decode_pool._after_fork()
        with contextlib.closing(decode_pool.pool()) as second:
            assert second is not first and second.decode(small()).size == seeds.scene().size
            assert psutil.pid_exists(first.processes()[0]) and first.processes() != second.processes()


def test_a_folder_with_modules_of_the_same_names_is_no_place_to_import_from(tmp_path, monkeypatch):
    for name in ("model", "PIL", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Pool(children=1)) as pool:
        assert pool.decode(small()).size == seeds.scene().size


def test_a_child_loads_no_model_library():
    start = decoder_handle._code(1.0, 30.0, 2**28).partition("from qformer_viz.media.decoder_process")[0]
    code = (
        start
        + "import qformer_viz.media.decoder_process as worker; from qformer_viz.media import image_decoder\n"
        "worker._warm(image_decoder); print({'torch', 'transformers', 'gradio'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@linux
def test_a_campaign_of_damaged_files_and_bombs():
    findings = uploads.run(count=500, seed=23)
    assert findings.hold(), str(findings)
    assert findings.bombs == len(bombs.BOMBS) and findings.accepted > 100 and findings.refused > 200

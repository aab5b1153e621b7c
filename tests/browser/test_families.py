"""Every published kind of checkpoint, tiny, through the running page: chosen in the picker, captioned, asked, streamed,
explained and exported; the kinds that see films are given one."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from tests.support import checkpoint_factory as factory
from tests.support.serving import serve

pytestmark = pytest.mark.browser
IDLE = """n => document.querySelectorAll('#chat .message').length >= n
  && !document.body.classList.contains('qfv-busy')"""


def frames(count):
    return [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), np.uint8))
        for seed in range(count)
    ]


def upload(count):
    file, pictures = io.BytesIO(), frames(count)
    pictures[0].save(file, "PNG", save_all=True, append_images=pictures[1:], duration=100)
    return {"name": "picture.png", "mimeType": "image/png", "buffer": file.getvalue()}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folders = tmp_path_factory.mktemp("checkpoints")
    for kind in factory.KINDS:
        factory.write(folders / kind, kind)
    with serve("app", "--offer", *(str(folders / kind) for kind in factory.KINDS)) as address:
        yield address


def explained(page):
    """Every word is there, or random weights have said nothing, which is told; that is wiped when what follows the
    answer comes later than the click, and then asked for again."""
    for _ in range(20):
        page.locator("#why-run").click()
        try:
            return page.wait_for_function(
                """document.querySelector('.qfv-chip')
                  || document.querySelector('#why-told').innerText.includes('no finished answer')""",
                timeout=5_000,
            )
        except TimeoutError:
            continue
    raise AssertionError(page.locator("#right").inner_text())


@pytest.mark.parametrize("kind", factory.KINDS)
def test_a_kind_is_chosen_looked_into_and_talked_with(open_page, url, kind):
    page = open_page(url)
    page.set_default_timeout(60_000)
    page.locator("#model input").click()
    page.get_by_role("option", name=kind, exact=True).click()
    page.wait_for_function("kind => document.querySelector('#header').innerText.includes(kind)", arg=kind)
    film = factory.KINDS[kind][0] != "blip2"
    page.locator("#image input[type=file]").set_input_files(upload(4))
    page.wait_for_function(IDLE, arg=2)  # the notice on its frames, and the caption
    told = page.locator("#chat").inner_text()
    assert ("A film: its 4 frames are seen" if film else "only the first frame of 4") in told
    page.wait_for_function("n => document.querySelectorAll('#canvas .qfv-frame').length === n", arg=4 * film)
    assert page.locator("#canvas .qfv-item").count() == factory.QUERIES
    assert f"{factory.QUERIES} queries" in page.locator("#canvas").inner_text()
    page.locator("#question textarea").fill("what is it?")
    page.locator("#send").click()
    page.wait_for_function(IDLE, arg=4)
    explained(page)
    page.get_by_role("tab", name="Images").click()
    page.locator("#across-run").click()
    page.wait_for_function(
        "document.querySelectorAll('.qfv-album figure').length === 13"
    )  # twelve photographs and the mean
    assert f"{kind} over 12 images" in page.locator("#across-told").inner_text()
    assert "Error" not in page.locator("#right").inner_text()
    page.get_by_role("tab", name="Export").click()
    with page.expect_download() as started:
        page.locator("#export-npz").click()
    with np.load(started.value.path()) as saved:
        assert saved["cross_attention"].shape[:2] == (2, 4 if film else 1)
        assert kind in str(saved["manifest"])

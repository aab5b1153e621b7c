"""`python app.py` as a newcomer starts it: the bundled model, its page, two visitors, a phone, the API, a stranger."""

import base64
import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image

from qformer_viz.view.archive import load_npz
from tests.support.serving import call, serve
from tests.support.yardstick import slowness

pytestmark = pytest.mark.browser
EXAMPLES = Path(__file__).parents[2] / "assets" / "examples"
NAMES = [Path(name).stem for name in json.loads((EXAMPLES / "scenes.json").read_text())]
START_SECONDS, CAPTION_SECONDS = 15, 2  # times the slowness of the machine
POSITIONS = (
    "left",
    "right",
    "center",
    "top left",
    "top right",
    "bottom left",
    "bottom right",
    "top",
    "bottom",
)
CAPTIONED = """() => document.querySelector('#canvas .qfv-host')?.dataset.image
  && document.querySelectorAll('#chat .message').length && !document.body.classList.contains('qfv-busy')"""


@pytest.fixture(scope="module")
def started():
    slowness()
    began = time.monotonic()
    with serve("app") as url:
        yield url, time.monotonic() - began


@pytest.fixture
def url(started):
    return started[0]


def test_every_tab_is_in_sight_on_a_laptop(url, open_page):
    page = open_page(url, width=1280, height=800)
    page.get_by_role("tab", name="About", exact=True).wait_for()
    assert not page.get_by_role("button", name="More tabs").is_visible()


def choose(page, name):
    """Click an example and wait for caption and canvas; returns seconds."""
    before = page.evaluate("document.querySelector('#canvas .qfv-host')?.dataset.image ?? ''")
    began = time.monotonic()
    page.locator("#examples button.thumbnail-item").nth(NAMES.index(name)).click()
    page.wait_for_function(
        f"before => ({CAPTIONED})() && document.querySelector('#canvas .qfv-host').dataset.image !== before",
        arg=before,
    )
    return time.monotonic() - began


def messages(page):
    return [line.strip() for line in page.locator("#chat .message").all_inner_texts()]


def ask(page, question):
    """The answer, when it is complete."""
    count = len(messages(page))
    page.locator("#question textarea").fill(question)
    page.locator("#send").click()
    page.wait_for_function(
        "n => document.querySelectorAll('#chat .message').length >= n"
        " && !document.body.classList.contains('qfv-busy')",
        arg=count + 2,
    )
    return messages(page)[-1]


def test_it_is_served_within_seconds(started):
    _, seconds = started
    print(f"from `python app.py` to its address: {seconds:.1f} s (slowness {slowness():.2f})")
    assert seconds <= START_SECONDS * slowness()


def test_an_example_is_captioned_and_drawn_within_two_seconds(url, open_page):
    page = open_page(url)
    page.wait_for_selector("#examples button.thumbnail-item")
    first, *later = [choose(page, name) for name in NAMES[:4]]
    print(f"caption and canvas of the first example: {first:.2f} s; of later ones: {min(later):.2f} s")
    assert first <= CAPTION_SECONDS * slowness()


def test_a_conversation_about_an_example(url, open_page):
    page = open_page(url)
    page.wait_for_selector("#examples button.thumbnail-item")
    choose(page, "cat-and-dog")
    caption = messages(page)[-1]
    assert "cat" in caption and "dog" in caption
    assert ask(page, "is there a rocket?") == "no"
    assert ask(page, "Is there a dog") == "yes"
    assert "BLIP-2 emoji (bundled)" in page.locator("#header").inner_text()


def test_two_visitors_at_once_get_their_own_answers(url, open_page):
    one, two = open_page(url), open_page(url)
    for page, name in ((one, "cat-and-dog"), (two, "breakfast")):
        page.wait_for_selector("#examples button.thumbnail-item")
        choose(page, name)
    assert "cat" in messages(one)[-1] and "donut" in messages(two)[-1]
    assert ask(one, "is there a cat?") == "yes"
    assert ask(two, "is there a cat?") == "no"
    shown = [
        page.evaluate("document.querySelector('#canvas .qfv-host').dataset.image") for page in (one, two)
    ]
    assert shown[0] != shown[1]


def test_a_phone_by_touch(url, open_page):
    page = open_page(url, width=390, height=844, touch=True)
    page.wait_for_selector("#examples button.thumbnail-item")
    page.locator("#examples button.thumbnail-item").first.tap()
    page.wait_for_function(CAPTIONED)
    stage = page.locator("#canvas .qfv-stage")
    stage.scroll_into_view_if_needed()
    stage.tap(position={"x": 100, "y": 100})
    page.wait_for_function("qfvHandle.get().patch !== null && qfvHandle.get().pinned")
    page.locator("#canvas .qfv-item").nth(7).tap()
    assert page.evaluate("qfvHandle.get().queries") == [7]
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_stranger_is_announced_and_answered_all_the_same(url, open_page):
    page = open_page(url)
    buffer = io.BytesIO()
    Image.effect_noise((300, 200), 120).convert("RGB").save(buffer, "PNG")
    page.locator("#image input[type=file]").set_input_files(
        {"name": "noise.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    )
    page.wait_for_function(CAPTIONED)
    assert re.search(
        r"only knows emoji\s+scenes.*--model Salesforce", page.locator("#chat").inner_text(), re.S
    )


def test_the_api_serves_several_clients_at_once(url, tmp_path):
    names = ["cat-and-dog", "breakfast"] * 3

    def work(name):
        client = Client(url, verbose=False, download_files=str(tmp_path))
        try:
            image = handle_file(EXAMPLES / f"{name}.png")
            said = client.predict(image, "is there a cat?", api_name="/ask")
            path = client.predict(image, "", api_name="/attention")
            return said, client.predict(image, api_name="/caption"), load_npz(path)
        finally:
            client.close()

    with ThreadPoolExecutor(len(names)) as pool:
        found = list(pool.map(work, names))
    for name, ((answer, notice), (caption, _), (capture, manifest)) in zip(names, found, strict=True):
        assert notice == ""
        assert answer == ("yes" if "cat" in name else "no")
        assert ("cat" in caption) == ("cat" in name)
        assert capture.cross_attention.shape == (3, 1, 6, 32, 257)
        assert manifest["model"] == "blip2-emoji"
    hashes = {manifest["image_sha256"] for _, _, (_, manifest) in found}
    assert len(hashes) == 2


def test_a_data_url_over_the_limit_is_refused_in_words(url):
    large = "data:image/png;base64," + base64.b64encode(bytes(21 * 2**20)).decode()
    refused = call(url, "caption", [{"path": "x", "url": large}])
    assert not refused["ok"] and "at most 20 MiB" in refused["text"], refused["text"][:300]
    small = "data:image/png;base64," + base64.b64encode((EXAMPLES / "cat-and-dog.png").read_bytes()).decode()
    assert "cat" in call(url, "caption", [{"path": "x", "url": small}])["text"]


def test_the_match_tab_ranks_texts_for_an_example(url, open_page):
    page = open_page(url)
    page.wait_for_selector("#examples button.thumbnail-item")
    choose(page, "cat-and-dog")
    page.get_by_role("tab", name="Match").click()
    page.locator("#match-texts textarea").fill("a rocket\na cat and a dog\ntwo cats")
    page.locator("#match-compare").click()
    page.wait_for_selector("#match-table tbody tr")
    first, *others = page.locator("#match-table tbody tr").all_inner_texts()
    assert first.startswith("a cat and a dog") and len(others) == 2
    page.locator("#match-show").click()
    page.wait_for_function("document.querySelector('#canvas').innerText.includes('this image and text')")


def test_the_questions_tab_compares_what_instructblip_looks_at(url, open_page):
    page = open_page(url)
    page.wait_for_selector("#examples button.thumbnail-item")
    choose(page, "cat-and-dog")
    page.locator("#model input").click()
    page.get_by_role("option", name="InstructBLIP emoji").click()
    page.wait_for_function(
        f"({CAPTIONED})() && document.querySelector('#header').innerText.includes('InstructBLIP emoji')"
    )
    assert ask(page, "is there a cat?") == "yes"
    assert ask(page, "where is the dog?") in POSITIONS
    page.get_by_role("tab", name="Questions").click()
    page.wait_for_function("document.querySelector('#questions-second input').value === 'where is the dog?'")
    page.locator("#questions-compare").click()
    page.wait_for_selector(".qfv-difference figure canvas")
    assert page.locator(".qfv-difference figcaption").all_inner_texts()[:2] == [
        "is there a cat?",
        "where is the dog?",
    ]
    moved = page.locator(".qfv-difference [role=status]").inner_text()
    assert re.search(r"moved [\d.]+ %", moved), moved


def test_the_query_that_matters_most_for_the_answer_is_on_the_canvas_of_every_picture(
    url, open_page, tmp_path
):
    page, client = open_page(url), Client(url, verbose=False, download_files=str(tmp_path))
    page.wait_for_selector("#examples button.thumbnail-item")
    queries = []
    for name in NAMES[:3]:
        found = client.predict(handle_file(EXAMPLES / f"{name}.png"), "", "knockout", api_name="/explain")
        lost = [sum(column) for column in zip(*found["queries"], strict=True)]
        queries.append(lost.index(max(lost)))
        choose(page, name)
        page.wait_for_function("query => qfvHandle.get().query === query", arg=queries[-1])
    client.close()
    assert len(set(queries)) > 1 and "q=" not in page.evaluate("location.hash")
    # A word that names something is chosen first, and a method runs by being chosen.
    chosen = page.locator(".qfv-chip[aria-checked=true] span").inner_text()
    assert chosen not in ("a", "and", "to", "of", "the", ",")
    page.locator(".qfv-why select").select_option(label="Gradient × attention")
    page.locator(".qfv-why-body:not(.qfv-waits)").wait_for()
    assert "computed" not in page.locator(".qfv-why-told").inner_text()
    page.locator(".qfv-chip").last.click()
    page.locator(".qfv-why-body:not(.qfv-waits)").wait_for()


def test_words_are_taken_apart_unasked_and_are_in_no_link_until_chosen(url, open_page):
    page = open_page(url)
    choose(page, "rocket-and-star")
    chips = page.locator(".qfv-chip")
    chips.filter(has_text="rocket").wait_for()
    assert ask(page, "is there a cat?") == "no"
    page.wait_for_function("document.querySelectorAll('.qfv-chip').length === 1")
    assert chips.first.inner_text().startswith("no") and "word=" not in page.evaluate("location.hash")
    chips.first.click()
    assert page.evaluate("location.hash").endswith("&word=0")


def test_a_link_reopens_an_example_with_query_layer_head_and_word(url, open_page):
    """The address of a view opens the same view in another browser; that of an upload names no image."""
    page = open_page(url)
    choose(page, "cat-and-dog")
    page.locator("#why-run").click()
    page.locator(".qfv-chip", has_text="dog").click()
    page.locator(".qfv-why .qfv-moved button").first.click()
    fragment = page.evaluate("location.hash")
    query = page.evaluate("qfvHandle.get().query")
    assert fragment == f"#q={query}&layer=4&head=mean&example=cat%20and%20dog&word=7"
    other = open_page(url + fragment)
    other.locator(".qfv-chip[aria-checked=true]", has_text="dog").wait_for(timeout=60_000)
    assert other.evaluate("[qfvHandle.get().query, qfvHandle.get().layer]") == [query, 4]
    assert other.evaluate("location.hash") == fragment
    picture = io.BytesIO()
    Image.new("RGB", (60, 50), "teal").save(picture, "PNG")
    upload = {"name": "cat-and-dog.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    other.locator("#image input[type=file]").set_input_files(upload)
    other.wait_for_function("!location.hash.includes('example')")
    assert re.fullmatch(r"#q=\d+&layer=4&head=mean", other.evaluate("location.hash"))

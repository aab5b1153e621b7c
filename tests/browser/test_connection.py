"""A busy server, one that was started anew, and one that has let go of a visitor: the page goes on."""

import json
import re
import shutil
import socket

import httpx
import pytest
from gradio.utils import get_upload_folder

from tests.support.serving import serve

pytestmark = pytest.mark.browser


def says(page, text):
    page.wait_for_function("text => document.querySelector('#chat').innerText.includes(text)", arg=text)


def choose(page, number=0):
    page.locator("#examples button.thumbnail-item").nth(number).click()
    says(page, "picture")


def ask(page, question):
    page.locator("#question textarea").fill(question)
    page.locator("#send").click()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_a_conversation_goes_on_after_the_server_was_started_anew(open_page, port, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # of this test alone, for it deletes files there
    navigations = []
    with serve("tests.support.serve_fake", "--port", port) as url:
        page = open_page(url)
        page.on("framenavigated", lambda frame: navigations.append(frame.url.split("#")[0]))
        choose(page)
        shown = page.locator("#chat").inner_text()
        ask(page, "how many?")
        says(page, "you asked how many?")
        page.wait_for_function("!document.body.classList.contains('qfv-busy')")
        # Something is under way when the server goes, so that the stream of results breaks off.
        page.locator("#why-run").click()
        page.wait_for_selector(".qfv-chip")
        page.locator(".qfv-why select").select_option(label="Held")
        page.get_by_role("button", name="Run Held").click()
        page.locator("#why-told .progress-text, #why-told .progress-level").first.wait_for()
    upload = page.locator("#image img").first.get_attribute("src").split("/file=")[1]
    assert upload.startswith(get_upload_folder())
    shutil.rmtree(upload.rsplit("/", 1)[0])
    ask(page, "what else?")
    page.locator("#qfv-waiting").get_by_text("does not answer").wait_for()
    with serve("tests.support.serve_fake", "--port", port):
        says(page, "you asked what else?")
        text = page.locator("#chat").inner_text()
        assert shown in text and "you asked how many?" in text, "the bubbles stay"
        assert "goes on from the picture" in text
        page.wait_for_function("!document.querySelector('#qfv-waiting').innerText")
        ask(page, "and now?")
        says(page, "you asked and now?")
        assert page.locator("#chat").inner_text().count("goes on from the picture") == 1
        # The picture that was uploaded again is the one that had been shown, to the pixel.
        digest = page.locator("#canvas .qfv-host").get_attribute("data-image")
        assert shown.split()[-1] in digest
    assert set(navigations) <= {url}, "the page is never loaded anew"


def test_who_was_let_go_is_told_and_goes_on(open_page):
    with serve("tests.support.serve_fake", "--memory", "1") as url:
        first = open_page(url)
        choose(first)
        ask(first, "how many?")
        says(first, "you asked how many?")
        second = open_page(url)
        choose(second, 1)
        first.get_by_role("tab", name="Why").click()
        first.locator("#why-run").click()
        first.locator("#why-told").get_by_text("The server no longer holds what this page shows").wait_for()
        says(first, "you asked how many?")
        ask(first, "what else?")
        says(first, "you asked what else?")
        assert "you asked how many?" in first.locator("#chat").inner_text()
        first.locator("#why-run").click()
        first.locator("#why-view").get_by_text("asked").first.wait_for()


def test_a_refused_event_is_sent_again_and_no_chain_is_cut(open_page):
    with serve("tests.support.serve_fake") as url:
        page = open_page(url)
        refused = []

        def busy(route):
            if len(refused) < 4:
                refused.append(route.request.post_data)
                detail = f"Queue is full. Max size is 7 and size is {9 - len(refused)}."
                route.fulfill(
                    status=503, content_type="application/json", body=json.dumps({"detail": detail})
                )
            else:
                route.fallback()

        page.route("**/queue/join*", busy)
        page.locator("#examples button.thumbnail-item").first.click()
        page.locator("#qfv-waiting").get_by_text(re.compile(r"place [6-9] in the queue")).wait_for()
        says(page, "picture")
        page.locator("#canvas .qfv-host[data-image]").wait_for()
        page.wait_for_function("!document.querySelector('#qfv-waiting').innerText")
        assert len(refused) == 4


def test_a_full_queue_is_refused_in_the_words_that_the_page_reads():
    with serve("tests.support.serve_fake", "--queue", "0") as url:
        config = httpx.get(f"{url}config").json()
        number = next(each["id"] for each in config["dependencies"] if each["api_name"] == "caption")
        body = {"data": [None], "fn_index": number, "session_hash": "x"}
        reply = httpx.post(f"{url}gradio_api/queue/join", json=body)
    assert reply.status_code == 503
    assert re.search(r"size is (\d+)\.?$", reply.json()["detail"])

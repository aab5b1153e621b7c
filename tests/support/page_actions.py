"""What a visitor does on the page in a browser, and what a test reads from it."""

import io

import numpy as np
from PIL import Image

CELL = ".js-plotly-plot .nsewdrag"


def picture(colour="red", size=(60, 40), kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return {"name": f"{colour}.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def upload(page, file=None):
    page.locator("#image input[type=file]").set_input_files(file or picture())


def said(page, text):
    """Wait until the conversation shows the text."""
    page.wait_for_function(
        "text => (document.querySelector('#chat')?.innerText ?? '').includes(text)", arg=text
    )


def captioned(page, file=None):
    """Upload and wait for the caption and the canvas."""
    upload(page, file)
    page.wait_for_function("/picture [0-9a-f]{8}/.test((document.querySelector('#chat')?.innerText ?? ''))")
    page.wait_for_selector("#canvas .qfv-host[data-image]")


def ask(page, question):
    page.locator("#question textarea").fill(question)
    page.locator("#send").click()


def selection(page):
    return page.evaluate("qfvHandle.get()")


def text(page):
    return page.locator("#chat").inner_text()


def choose(page, name):
    page.locator("#model input").click()
    page.get_by_role("option", name=name).click()


def drawn(page):
    """What the overlay shows in the middle of every patch, `[256, 4]`, read back from the canvas."""
    return np.array(
        page.evaluate("""() => {
            const c = document.querySelector(".qfv-overlay"), x = c.getContext("2d"), out = [];
            for (let p = 0; p < 256; p++) {
                const [column, row] = [p % 16 + .5, Math.floor(p / 16) + .5];
                const at = [column * c.width / 16, row * c.height / 16].map(Math.floor);
                out.push([...x.getImageData(...at, 1, 1).data]);
            }
            return out;
        }""")
    )

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from qformer_viz.view.stage_payload import canvas_payload
from qformer_viz.view.standalone_page import STATIC, STATIC_SCRIPTS, stage_script, standalone_page
from tests.support.planted import blobs, picture

EVIL = "</script><img src=x onerror=alert(1)><!--\u2028&\"'"
META = {
    "model": EVIL,
    "precision": "float32",
    "caption": EVIL,
    "conversation": [[EVIL, EVIL], ["", "a second caption"]],
    "notes": [EVIL],
    "facts": {EVIL: EVIL, "revision": "abc"},
}


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.text, self._open = [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def payload():
    return canvas_payload(blobs(), picture(), meta=META)


@pytest.fixture(scope="module")
def html(payload):
    return standalone_page(payload, title=EVIL)


def test_it_is_small(payload, html):
    assert len(html.encode()) - len(payload["image"]["src"]) < 2_000_000


def test_the_payload_survives_and_cannot_leave_its_element(payload, html):
    (text,) = re.findall(r'<script type="application/json" id="qfv-data">(.*?)</script>', html, re.S)
    assert "<" not in text and "&" not in text and "\u2028" not in text
    assert json.loads(text) == payload


def test_hostile_text_stays_text(html):
    elements = Elements(html)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2 and "img" not in tags
    assert not [a for _, attrs in elements.found for a in attrs if a.startswith("on")]
    # Title, heading, model, caption, question, answer, note, fact name, fact value.
    assert "".join(elements.text).count(EVIL) == 9


def test_everything_said_and_known_is_on_the_page(html):
    text = "".join(Elements(html).text)
    assert all(word in text for word in ("float32", "a second caption", "revision", "abc"))


def test_the_policy_allows_exactly_its_own_script_and_style(html):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    allowed = re.findall(r"'sha256-([^']*)'", policy)
    blocks = re.findall(r"<style>(.*?)</style>", html, re.S) + re.findall(
        r"<script>(.*?)</script>", html, re.S
    )
    hashes = [base64.b64encode(hashlib.sha256(b.encode()).digest()).decode() for b in blocks]
    assert len(hashes) == 2
    assert sorted(allowed) == sorted(hashes)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_nothing_points_outside(html):
    for tag, attrs in Elements(html).found:
        for name in ("src", "href", "action", "data"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, attrs)
    assert not re.findall(r"@import|url\(\s*['\"]?http", html)


def test_figures_are_embedded_or_refused(payload):
    page = standalone_page(payload, figures=[("<b>", "data:image/png;base64,AA")])
    assert '<img src="data:image/png;base64,AA" alt="&lt;b&gt;">' in page
    with pytest.raises(ValueError, match="embed the picture"):
        standalone_page(payload, figures=[("x", "https://example.org/x.png")])


def test_the_list_of_scripts_is_complete():
    assert sorted(STATIC_SCRIPTS) == sorted(p.name for p in STATIC.glob("stage*.js"))
    assert "</script" not in stage_script().lower()

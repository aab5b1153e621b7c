"""HTML of the page: text from elsewhere is escaped, whoever writes it."""

import ast
import re
from pathlib import Path

import pytest
from markupsafe import Markup

from qformer_viz.ui.components import alert, facts, joined, markup, side_by_side, table

UI = Path(__file__).parents[2] / "qformer_viz" / "ui"
EVIL = "<img src=x onerror='alert(1)'>"
TAG = re.compile(r"</?[a-z]")


def test_values_are_escaped_and_html_is_kept():
    assert markup("<b title='{text}'>{html}</b>", text=EVIL, html=Markup("<i>a</i>")) == (
        "<b title='&lt;img src=x onerror=&#39;alert(1)&#39;&gt;'><i>a</i></b>"
    )
    assert markup("{share:.1%}", share=0.5) == "50.0%"
    assert joined(["<", Markup("<br>")]) == "&lt;<br>"


@pytest.mark.parametrize(
    "html",
    [
        alert(EVIL),
        facts([(EVIL, EVIL, EVIL)], warning=EVIL, lead=EVIL),
        table([EVIL], [[EVIL, EVIL]], caption=EVIL),
        side_by_side(EVIL, [(EVIL, EVIL, EVIL)]),
    ],
)
def test_every_helper_escapes(html):
    assert isinstance(html, Markup) and "<img" not in html and "&lt;img src=x" in html


def unsafe(source: str) -> list[int]:
    """Lines that put values into HTML without `markup`: by an f-string, by % or by +, or by a template that is not
    written out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            texts = [part.value for part in node.values if isinstance(part, ast.Constant)]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
            sides = (node.left, node.right)
            texts = [side.value for side in sides if isinstance(side, ast.Constant)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "markup":
            texts = ["<a"] * (not isinstance(node.args[0], ast.Constant | ast.Name))
        else:
            continue
        if any(isinstance(text, str) and TAG.search(text) for text in texts):
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "path", [each.relative_to(UI).as_posix() for each in sorted(UI.rglob("*.py"))], ids=str
)
def test_no_html_is_made_by_hand(path):
    assert unsafe((UI / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "code",
    ['f"<b>{word}</b>"', '"<b>%s</b>" % word', '"<b>" + word', 'markup("a" + word)', 'markup(f"{word}")'],
)
def test_html_that_is_made_by_hand_is_found(code):
    assert unsafe(code) == [1]


def test_what_is_made_with_the_helper_passes():
    assert unsafe('markup("<b>{word}</b>", word=f"{word}")') == []

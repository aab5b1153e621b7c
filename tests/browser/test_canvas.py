"""The canvas in a real browser: what is drawn, every way of choosing, and that nothing leaves the page."""

import io
import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from qformer_viz import attention_maps
from qformer_viz.view import palette
from qformer_viz.view.stage_payload import canvas_payload, error_bound, unpack
from qformer_viz.view.standalone_page import standalone_page
from tests.support.page_actions import drawn, selection
from tests.support.planted import blobs, home, picture

pytestmark = pytest.mark.browser

CAPTURE = blobs()
EVIL = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'
META = {
    "model": EVIL,
    "precision": "float32",
    "caption": EVIL,
    "conversation": [[EVIL, EVIL]],
    "facts": {EVIL: EVIL},
}


@pytest.fixture(scope="module")
def payload():
    return canvas_payload(CAPTURE, picture(), meta=META)


@pytest.fixture(scope="module")
def url(payload, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(standalone_page(payload, title=EVIL), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def explorer(open_page, url):
    """open_page for the standalone page, ready to use; at query 0 and the mean over layers unless told otherwise."""

    def open_(fragment="#q=0&layer=mean", **options):
        page = open_page(url + fragment, **options)
        page.wait_for_selector(".qfv-item")
        return page

    return open_


def centre(page, patch):
    """Where a patch lies on the page."""
    box = page.locator(".qfv-stage").bounding_box()
    row, column = divmod(patch, 16)
    return box["x"] + (column + 0.5) * box["width"] / 16, box["y"] + (row + 0.5) * box["height"] / 16


def weights(query, layer=None, head=None):
    return attention_maps.select(CAPTURE.cross_attention, layer, head)[0, query, 1:].numpy()


def focused():
    """The query whose map in the last cross-attention layer, averaged over heads, has the lowest entropy."""
    maps = attention_maps.select(CAPTURE.cross_attention, layer=2)[0]
    return int(attention_maps.entropy(attention_maps.patches(maps)).argmin())


def test_it_opens_from_a_file_and_shows_the_facts(explorer):
    page = explorer()
    assert page.locator(".qfv-item").count() == 32
    assert "Query 00 · mean of layers 0, 2, 4 · mean of 4 heads" in page.locator(".qfv-status").inner_text()
    assert (
        page.get_by_text("float32").count() >= 1
        and "not an explanation" in page.locator(".qfv-note").inner_text()
    )
    box = page.locator(".qfv-stage").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(320 / 200, rel=0.01)


def test_it_opens_on_the_most_focused_query_of_the_last_layer(explorer):
    assert focused() != 0
    now = selection(explorer(""))
    assert (now["queries"], now["layer"], now["head"]) == ([focused()], 4, "mean")


def test_the_query_is_chosen_anew_until_the_visitor_chooses(explorer, payload):
    page = explorer("#layer=4")
    suggest = "([query, picture]) => document.dispatchEvent(new CustomEvent('qfv:suggest', {detail: {query, picture}}))"
    auto = page.get_by_role("button", name="Auto", exact=True)
    assert selection(page)["queries"] == [focused()] and auto.get_attribute("aria-pressed") == "true"
    # A suggestion is for one picture; of another one nothing changes.
    page.evaluate(suggest, [17, "data:other"])
    assert selection(page)["queries"] == [focused()]
    page.evaluate(suggest, [17, payload["image"]["src"]])
    assert selection(page)["queries"] == [17] and not selection(page)["chosen"]
    assert page.evaluate("location.hash") == "#layer=4&head=mean"
    # Maps of another model, and another picture, have a query of their own; back here it is the suggested one again.
    other = canvas_payload(CAPTURE, picture(100, 100))
    for shown in (payload | {"meta": META | {"visiting": "Maps of another"}}, other):
        page.evaluate("p => qfvHandle.setPayload(p)", shown)
        assert selection(page)["queries"] == [focused()]
    page.evaluate("p => qfvHandle.setPayload(p)", payload)
    assert selection(page)["queries"] == [17]
    page.evaluate("document.dispatchEvent(new CustomEvent('qfv:suggest', {detail: null}))")
    assert selection(page)["queries"] == [focused()]
    # What the visitor chooses stays, whatever comes, until the choice is given back.
    page.locator('.qfv-item[data-query="5"]').click()
    assert auto.get_attribute("aria-pressed") == "false"
    page.evaluate(suggest, [17, payload["image"]["src"]])
    for shown in (other, payload):
        page.evaluate("p => qfvHandle.setPayload(p)", shown)
        assert selection(page)["queries"] == [5] and page.evaluate("location.hash").startswith("#q=5&")
    auto.click()
    assert selection(page)["queries"] == [17]


def test_statistics_agree_with_the_library_to_the_quantisation(explorer, payload):
    page = explorer()
    for layer, head in [("mean", "mean"), (2, "mean"), ("mean", 3), (4, 1)]:
        shown = page.evaluate(
            "([l, h]) => (qfvHandle.select({layer: l, head: h}), qfvHandle.stats())", [layer, head]
        )
        index = None if layer == "mean" else CAPTURE.cross_layers.index(layer)
        chosen = attention_maps.select(CAPTURE.cross_attention, index, None if head == "mean" else head)[0]
        parts = attention_maps.patches(chosen)
        assert np.allclose(shown["cls"], attention_maps.cls_share(chosen), atol=1e-4)
        assert np.allclose(shown["entropy"], attention_maps.entropy(parts), atol=0.02)
        assert np.allclose(shown["effective"], attention_maps.effective_patches(parts), rtol=0.02)
        peaks = chosen[:, 1:].amax(-1).numpy()
        assert np.allclose(shown["peak"], peaks, rtol=error_bound(payload["levels"]) + 1e-3)


def test_every_patch_is_drawn_in_the_colour_of_its_value(explorer, payload):
    page = explorer()
    page.evaluate("qfvHandle.select({queries: [9], layer: 4, head: 2, scale: 'map', opacity: 1})")
    values = unpack(payload)[0][2, 2, 9].astype(np.float32)
    level = np.floor(values / values.max() * 255 + 0.5).astype(int)
    expected = palette.table("viridis")[level].astype(int)
    # A value on the edge of a step may fall to either side: one colour further at most.
    neighbours = [palette.table("viridis")[np.clip(level + d, 0, 255)].astype(int) for d in (-1, 1)]
    # The canvas keeps colours multiplied by their alpha, in bytes: what is half clear is known to a few steps only.
    *shown, alpha = drawn(page).T
    shown, slack = np.stack(shown, 1), 1 + 128 / np.maximum(alpha, 1)
    agrees = [(np.abs(shown - each) <= slack[:, None]).all(-1) for each in (expected, *neighbours)]
    assert np.any(agrees, 0).all() and agrees[0].mean() > 0.9


@pytest.mark.parametrize("name", palette.STOPS)
def test_browser_and_python_use_the_same_colours(explorer, name):
    table = explorer().evaluate("s => [...QFormerViz.paint.table(s)]", palette.STOPS[name])
    assert table == palette.table(name).ravel().tolist()


def test_low_values_let_the_picture_through_as_in_python(explorer):
    page = explorer()
    for top, opacity in ((1, 0.5), (0.2, 1), (0, 1)):
        shares = page.evaluate(
            "a => [0, .05, .25, 1].map(v => QFormerViz.paint.cover(v, ...a))", [top, opacity]
        )
        assert shares == pytest.approx(palette.cover([0, 0.05, 0.25, 1], top, opacity).tolist())
    assert page.evaluate("[0, .25, 1].map(v => QFormerViz.paint.cover(v, 1, .5))") == [0, 0.25, 0.5]


def test_no_weight_leaves_the_picture_as_it_is_and_the_legend_agrees(explorer, payload):
    page = explorer()
    page.evaluate("qfvHandle.select({queries: [9], layer: 4, head: 2, scale: 'map'})")
    values = unpack(payload)[0][2, 2, 9]
    assert drawn(page)[:, 3] == pytest.approx(255 * palette.cover(values, values.max(), 0.75), abs=1.5)
    bar = np.array(
        page.evaluate("""() => {
        const bar = document.querySelector(".qfv-scale");
        return [...bar.getContext("2d").getImageData(0, 0, 256, 1).data];
    }""")
    ).reshape(256, 4)
    assert bar[0, 3] == 0 and bar[:, 3] == pytest.approx(
        255 * palette.cover(np.arange(256), 255, 0.75), abs=1
    )
    page.get_by_label("Opacity of the map").fill("40")
    assert page.evaluate(
        "document.querySelector('.qfv-scale').getContext('2d').getImageData(255, 0, 1, 1).data[3]"
    ) == pytest.approx(0.4 * 255, abs=1)


def test_thumbnails_lie_over_the_dimmed_picture(explorer):
    page = explorer()
    page.evaluate("qfvHandle.select({layer: 4, head: 2, scale: 'map'})")
    alpha = page.evaluate("""[...document.querySelectorAll(".qfv-thumb")].map(c =>
        [...c.getContext("2d").getImageData(0, 0, 16, 16).data].filter((_, i) => i % 4 === 3))""")
    assert all(max(one) == 255 and min(one) < 40 for one in alpha)
    below = page.locator(".qfv-thumb").first.evaluate("c => getComputedStyle(c).backgroundImage")
    assert "data:image/jpeg" in below and "rgba(20, 24, 32, 0.7)" in below


def test_keys_move_through_queries_layers_and_patches(explorer):
    page = explorer()
    page.locator(".qfv-stage").focus()
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
        seen.append(selection(page)["query"])
    assert seen == [1, 2, 1, 0, 31]
    layers = []
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
        layers.append(selection(page)["layer"])
    assert layers == [0, 2, 0, "mean", 4]
    page.keyboard.press("Shift+ArrowRight")
    first = selection(page)["patch"]
    assert first == home(31)
    page.keyboard.press("Shift+ArrowUp")
    assert selection(page)["patch"] == first - 16
    page.keyboard.press("Escape")
    assert selection(page)["patch"] is None


def test_focus_is_visible_and_every_control_is_named(explorer):
    page = explorer()
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.evaluate("qfvHandle.select({patch: 3})")
    unnamed = page.evaluate("""[...document.querySelectorAll(
            ".qfv button, .qfv select, .qfv input, .qfv [role]")]
        .filter(e => !(e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label")))
        .map(e => e.outerHTML)""")
    assert unnamed == []
    stops = page.evaluate("""['.qfv-list', '.qfv-segs'].map(s =>
        [...document.querySelectorAll(s)].map(g => g.querySelectorAll('[tabindex="0"]').length))""")
    assert all(n == 1 for group in stops for n in group)


def test_the_contact_sheet_is_operated_by_keyboard(explorer):
    page = explorer()
    page.locator('.qfv-item[data-query="0"]').focus()
    page.keyboard.press("ArrowRight")
    assert selection(page)["queries"] == [1]
    page.keyboard.press("Control+ArrowRight")
    page.keyboard.press("Control+ArrowRight")
    assert selection(page)["queries"] == [1]
    page.keyboard.press("Space")
    assert selection(page)["queries"] == [1, 3]
    page.keyboard.press("Enter")
    assert selection(page)["queries"] == [3]
    page.keyboard.press("End")
    assert selection(page)["queries"] == [31]
    assert page.evaluate("document.activeElement.dataset.query") == "31"


def test_clicks_select_and_compare(explorer):
    page = explorer()
    item = lambda q: page.locator(f'.qfv-item[data-query="{q}"]')  # noqa: E731
    item(7).click()
    item(12).click(modifiers=["Shift"])
    page.get_by_role("button", name="Compare").click()
    item(20).click()
    assert selection(page)["queries"] == [7, 12, 20]
    selected = page.locator('.qfv-item[aria-selected="true"]').evaluate_all(
        "n => n.map(e => +e.dataset.query)"
    )
    assert selected == [7, 12, 20]
    assert "Mean of queries 07, 12, 20" in page.locator(".qfv-status").inner_text()
    assert "Outlines" in page.locator(".qfv-caption").inner_text()
    assert page.locator(".qfv-table tbody tr").count() == 4
    item(12).click()
    assert selection(page)["queries"] == [7, 20]


def test_the_mean_of_several_queries_is_what_is_drawn(explorer):
    page = explorer()
    page.evaluate("qfvHandle.select({queries: [3, 18], scale: 'raw', opacity: 1})")
    shown = page.locator(".qfv-table tbody tr").last.inner_text().split("\t")
    mean = (weights(3) + weights(18)) / 2
    assert float(shown[-1]) == pytest.approx(mean.max(), rel=0.01)


def test_core_is_the_smallest_set_with_half_of_the_attention(explorer):
    members = explorer().evaluate("[...QFormerViz.maps.core(new Float32Array([.1, .4, .05, .25, .2]))]")
    assert members == [0, 1, 0, 1, 0]


def test_outlines_follow_the_border_of_a_set(explorer):
    edges = explorer().evaluate("QFormerViz.paint.border(new Uint8Array([1, 1, 0, 1, 0, 0, 0, 0, 0]), 3, 3)")
    assert len(edges) == 8
    lines = explorer().evaluate(
        "[QFormerViz.paint].map(p => p.lines(p.border([1,1,0, 1,0,0, 0,0,0], 3, 3), 10, 10, 2))[0]"
    )
    # An L of three cells, two units inside: a closed path whose every end meets another.
    ends = sorted(tuple(end) for line in lines for end in (line[:2], line[2:]))
    assert ends[::2] == ends[1::2]


def test_hovering_a_patch_ranks_the_queries(explorer):
    page = explorer()
    patch = home(11)
    page.mouse.move(*centre(page, patch))
    expected = np.argsort([-weights(q)[patch] for q in range(32)])[:10].tolist()
    assert page.locator(".qfv-rank").evaluate_all("n => n.map(e => +e.dataset.query)")[:3] == expected[:3]
    assert expected[0] == int(page.locator(".qfv-rank .qfv-who").first.inner_text())
    value = float(page.locator(".qfv-rank .qfv-num").first.inner_text())
    assert value == pytest.approx(weights(expected[0])[patch], rel=0.01)
    page.mouse.move(2, 2)
    assert selection(page)["patch"] is None and not page.locator(".qfv-rank").first.is_visible()


def test_a_click_pins_a_patch_and_escape_frees_it(explorer):
    page = explorer()
    page.mouse.click(*centre(page, 40))
    page.mouse.move(*centre(page, 200))
    assert selection(page)["patch"] == 40
    page.locator(".qfv-rank").first.click()
    assert selection(page)["query"] == int(page.locator(".qfv-rank").first.get_attribute("data-query"))
    page.keyboard.press("Escape")
    assert selection(page)["patch"] is None


def test_sorting_orders_the_sheet_and_the_steps(explorer):
    page = explorer()
    order = lambda: page.locator(".qfv-item").evaluate_all("n => n.map(e => +e.dataset.query)")  # noqa: E731
    for button, key in [("CLS", [-x for x in page.evaluate("qfvHandle.stats().cls")]),
                        ("entropy", page.evaluate("qfvHandle.stats().entropy"))]:  # fmt: skip
        page.get_by_role("radio", name=button, exact=True).click()
        assert order() == np.argsort(key, kind="stable").tolist()
    first, second = order()[:2]
    page.evaluate("q => qfvHandle.select({query: q})", first)
    page.get_by_role("button", name="Next query").click()
    assert selection(page)["query"] == second
    page.get_by_role("radio", name="index", exact=True).click()
    assert order() == list(range(32))


def test_the_legend_speaks_in_real_numbers(explorer):
    page = explorer()
    ticks = lambda: [float(t) for t in page.locator(".qfv-ticks span").all_inner_texts()]  # noqa: E731
    top = float(attention_maps.select(CAPTURE.cross_attention)[0, :, 1:].max())
    assert ticks() == pytest.approx([0, top / 2, top], rel=0.01)
    assert "one scale for all 32 maps" in page.locator(".qfv-caption").inner_text()
    page.get_by_label("Scale", exact=True).select_option("raw")
    assert ticks() == [0, 0.5, 1]
    page.get_by_label("Scale", exact=True).select_option("map")
    page.evaluate("qfvHandle.select({query: 20})")
    assert ticks()[2] == pytest.approx(weights(20).max(), rel=0.01) and weights(20).max() < 0.9 * top
    assert "do not compare" in page.locator(".qfv-caption").inner_text()
    page.get_by_role("radio", name="smooth").click()
    assert "Interpolated" in page.locator(".qfv-caption").inner_text()


def test_cls_is_always_shown(explorer):
    page = explorer()
    share = 100 * float(attention_maps.select(CAPTURE.cross_attention)[0, 0, 0])
    assert f"{share:.1f} %" in page.locator(".qfv-cls").first.inner_text()
    assert f"{share:.1f} % on CLS" in page.locator(".qfv-status").inner_text()


def test_other_views_select_and_hear_of_selections(explorer):
    page = explorer()
    page.evaluate("window.heard = []; document.addEventListener('qfv:select', e => heard.push(e.detail))")
    page.evaluate(
        "document.dispatchEvent(new CustomEvent('qfv:set', {detail: {queries: [4, 9], layer: 2, head: 1}}))"
    )
    now = selection(page)
    assert (now["queries"], now["layer"], now["head"]) == ([4, 9], 2, 1)
    heard = page.evaluate("heard")
    assert [(h["queries"], h["source"]) for h in heard] == [([4, 9], "set")]
    page.evaluate(
        "document.dispatchEvent(new CustomEvent('qfv:set', {detail: {queries: [99], layer: 7, head: -1}}))"
    )
    now = selection(page)
    assert (now["queries"], now["layer"], now["head"]) == ([4, 9], 4, "mean")


def test_the_address_holds_the_selection(explorer):
    page = explorer("#q=7,3&layer=2&head=1&patch=33")
    now = selection(page)
    assert (now["queries"], now["layer"], now["head"], now["patch"]) == ([7, 3], 2, 1, 33)
    page.evaluate("qfvHandle.select({query: 5, patch: null})")
    assert page.evaluate("location.hash") == "#q=5&layer=2&head=1"
    found = selection(explorer("#q=%3Cscript%3E&layer=x&head=99"))["fragment"]
    assert found == f"q={focused()}&layer=4&head=mean"


def test_a_new_payload_keeps_the_settings_that_still_exist(explorer, payload):
    page = explorer()
    page.evaluate("qfvHandle.select({query: 20, layer: 2, head: 3, opacity: .4, patch: 9})")
    small = canvas_payload(blobs(1, 2, 8, (4, 6)), picture(100, 100))
    page.evaluate("p => qfvHandle.setPayload(p)", small)
    assert page.locator(".qfv-item").count() == 8
    now = selection(page)
    assert (now["queries"], now["layer"], now["head"], now["opacity"], now["patch"]) == (
        [0],
        0,
        "mean",
        0.4,
        None,
    )
    page.evaluate("p => qfvHandle.setPayload(p)", payload)
    assert page.locator(".qfv-item").count() == 32 and selection(page)["opacity"] == 0.4


def test_no_payload_is_a_friendly_state_and_a_broken_one_says_so(explorer, payload):
    page = explorer()
    page.evaluate("qfvHandle.setPayload(null)")
    assert "Choose an image" in page.locator(".qfv-empty").inner_text()
    page.evaluate("p => qfvHandle.setPayload(p)", {**payload, "shape": [3, 4, 32, 9]})
    assert "could not be drawn" in page.get_by_role("alert").inner_text()
    page.evaluate("p => qfvHandle.setPayload(p)", payload)
    assert page.locator(".qfv-item").count() == 32


def test_two_on_one_page_are_apart_and_destroy_leaves_nothing(explorer, payload):
    page = explorer()
    page.evaluate(
        """async p => {
        const root = document.body.appendChild(document.createElement("div"));
        root.id = "second";
        window.second = QFormerViz.mount(root, p, {});
        await second.ready;
    }""",
        payload,
    )
    page.evaluate("second.select({query: 30})")
    assert selection(page)["query"] == 0
    page.evaluate("second.destroy()")
    assert page.evaluate("document.getElementById('second').childElementCount") == 0
    page.evaluate("document.dispatchEvent(new CustomEvent('qfv:set', {detail: {queries: [2]}}))")
    assert page.evaluate("second.get().query") == 30 and selection(page)["query"] == 2


def test_files_are_made_in_the_browser(explorer):
    page = explorer()
    page.evaluate("qfvHandle.select({queries: [3, 7], layer: 2})")

    def save(name):
        with page.expect_download() as got:
            page.get_by_role("button", name=name).click()
        return got.value.suggested_filename, got.value.path().read_bytes()

    name, data = save("PNG")
    assert name == "qformer-viz_q03-q07_layer-2_head-mean.png" and Image.open(io.BytesIO(data)).width == 1264
    name, data = save("SVG")
    root = ET.fromstring(data)
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{svg}g/{svg}rect")) == 256 and not list(root.iter(f"{svg}script"))
    assert root.find(f"{svg}image").get("href").startswith("data:image/jpeg")
    name, data = save("Sheet")
    assert name == "qformer-viz_sheet_layer-2_head-mean.png" and Image.open(io.BytesIO(data)).height > 500


def test_hostile_text_is_shown_and_not_run(explorer):
    page = explorer()
    page.wait_for_function("document.querySelector('.qfv-image').complete")
    assert page.evaluate("window.hacked") is None
    assert page.locator("[onerror]").count() == 0
    assert page.get_by_text(EVIL).count() >= 3


def test_nothing_leaves_the_page(open_page, payload, tmp_path):
    # Without its policy, which would hide a request by refusing it.
    html, dropped = re.subn("<meta http-equiv[^>]*>", "", standalone_page(payload))
    assert dropped == 1
    (tmp_path / "open.html").write_text(html, encoding="utf-8")
    page = open_page((tmp_path / "open.html").as_uri())
    page.wait_for_selector(".qfv-item")
    exercise(page)
    assert page.requests == []


def exercise(page):
    """Many different interactions; the milliseconds each redraw took, drawing flushed."""
    return page.evaluate("""() => {
        const h = qfvHandle, times = [];
        const canvas = document.querySelector(".qfv-overlay");
        const run = change => {
            const start = performance.now();
            h.select(change);
            canvas.getContext("2d").getImageData(0, 0, 1, 1);
            document.body.offsetHeight;
            times.push(performance.now() - start);
        };
        for (let i = 0; i < 60; i++) run({query: i % 32});
        for (let i = 0; i < 60; i++) run({patch: (i * 37) % 256});
        for (const scale of ["raw", "map", "shared"])
            for (const palette of ["magma", "cividis", "viridis"]) run({scale, palette});
        for (const layer of [0, 2, 4, "mean"]) for (const head of [0, 1, 2, 3, "mean"]) run({layer, head});
        for (let i = 0; i < 20; i++) run({opacity: i / 20});
        for (let i = 0; i < 20; i++) run({queries: [i, i + 4, i + 8]});
        for (let i = 0; i < 10; i++) run({drawing: i % 2 ? "cells" : "smooth", query: i});
        return times;
    }""")


def test_redraws_take_less_than_a_frame(explorer):
    page = explorer()
    exercise(page)
    # The quietest of five rounds: what others run on a shared machine is no cost of ours.
    times = min((sorted(exercise(page)) for _ in range(5)), key=lambda t: t[len(t) // 2])
    median, late = times[len(times) // 2], times[math.floor(0.95 * len(times))]
    print(f"redraw: median {median:.1f} ms, 95th percentile {late:.1f} ms, of {len(times)}")
    assert median < 16
    assert page.evaluate("qfvHandle.lastRedrawMs") > 0


@pytest.mark.parametrize("width", [390, 768, 1440])
def test_no_width_scrolls_sideways(explorer, width):
    page = explorer(width=width, height=844, touch=width == 390)
    page.evaluate("qfvHandle.select({queries: [0, 5, 9, 14, 20], patch: 255})")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # The contact sheet scrolls by itself on a phone.
    outside = page.evaluate("""[...document.querySelectorAll(".qfv *")].filter(e => e.offsetParent &&
        !e.closest(".qfv-list") && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className)""")
    assert outside == []


def test_touch_selects_and_pins(explorer):
    page = explorer(width=390, height=844, touch=True)
    page.locator('.qfv-item[data-query="6"]').tap()
    assert selection(page)["queries"] == [6]
    page.locator(".qfv-stage").scroll_into_view_if_needed()
    page.touchscreen.tap(*centre(page, 88))
    assert selection(page)["patch"] == 88 and page.locator(".qfv-rank").first.is_visible()


def test_dark_follows_the_reader_and_the_host(explorer, payload):
    ink = "getComputedStyle(document.querySelector('.qfv')).color"
    light, dark = (sum(json.loads(page.evaluate(ink).replace("rgb(", "[").replace(")", "]")))
                   for page in (explorer(), explorer(dark=True)))  # fmt: skip
    assert light < 200 < 500 < dark
    page = explorer()
    hosted = page.evaluate(
        """async p => {
        const root = document.body.appendChild(document.createElement("div"));
        const handle = QFormerViz.mount(root, p, {});
        await handle.ready;
        const read = () => getComputedStyle(root.querySelector(".qfv-status")).color;
        const light = read();
        document.body.classList.add("dark");
        return [light, read()];
    }""",
        payload,
    )
    assert hosted[0] != hosted[1]


def test_strips_are_drawn_and_said_to_be_stretched(explorer):
    page = explorer()
    page.evaluate("p => qfvHandle.setPayload(p)", canvas_payload(CAPTURE, picture(2000, 2)))
    box = page.locator(".qfv-stage").bounding_box()
    assert box["height"] > 80 and "own aspect ratio" in page.locator(".qfv-caption").inner_text()

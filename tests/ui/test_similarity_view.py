"""What the tabs compute: every choice of a menu shows the numbers its name promises."""

import torch

from qformer_viz.analysis import query_similarity as measures
from qformer_viz.attention_maps import select
from qformer_viz.ui.app_context import Geometry
from qformer_viz.ui.inspector import similarity_view
from tests.support.fakes_ui import CROSS, HEADS, LAYERS, QUERIES, fake_capture


def test_each_space_of_the_similarity_tab_is_the_one_it_names():
    capture = fake_capture()
    tokens, *states, maps = similarity_view.spaces(Geometry(LAYERS, CROSS, HEADS, QUERIES))
    assert states[0] == "States before layer 0" and states[-1] == f"States after layer {LAYERS - 1}"
    shown = [
        similarity_view.compare(capture, name, similarity_view.RAW, "mean", "mean")[0] for name in states
    ]
    for matrix, entering in zip(shown, capture.query_states[:, 0], strict=True):
        torch.testing.assert_close(matrix, measures.cosine(entering, centre=False))
    learned, name, signed = similarity_view.compare(capture, tokens, similarity_view.CENTRED, "mean", "mean")
    torch.testing.assert_close(learned, measures.cosine(capture.query_tokens, centre=True))
    assert signed and name == "centred cosine"
    of_maps, _, signed = similarity_view.compare(capture, maps, similarity_view.RAW, "4", "1")
    chosen = select(capture.cross_attention, CROSS.index(4), 1)[0]
    torch.testing.assert_close(of_maps, measures.attention_similarity(chosen))
    assert not signed

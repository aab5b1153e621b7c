"""What the tabs compute: every choice of a menu shows the numbers its name promises."""

import torch

from qformer_viz import similarity as measures
from qformer_viz.attention import select
from qformer_viz.ui import similarity
from qformer_viz.ui.services import Geometry
from tests.fakes_ui import CROSS, HEADS, LAYERS, QUERIES, fake_capture


def test_each_space_of_the_similarity_tab_is_the_one_it_names():
    capture = fake_capture()
    tokens, *states, maps = similarity.spaces(Geometry(LAYERS, CROSS, HEADS, QUERIES))
    assert states[0] == "States before layer 0" and states[-1] == f"States after layer {LAYERS - 1}"
    shown = [similarity.compare(capture, name, similarity.RAW, "mean", "mean")[0] for name in states]
    for matrix, entering in zip(shown, capture.query_states[:, 0], strict=True):
        torch.testing.assert_close(matrix, measures.cosine(entering, centre=False))
    learned, name, signed = similarity.compare(capture, tokens, similarity.CENTRED, "mean", "mean")
    torch.testing.assert_close(learned, measures.cosine(capture.query_tokens, centre=True))
    assert signed and name == "centred cosine"
    of_maps, _, signed = similarity.compare(capture, maps, similarity.RAW, "4", "1")
    chosen = select(capture.cross_attention, CROSS.index(4), 1)[0]
    torch.testing.assert_close(of_maps, measures.attention_similarity(chosen))
    assert not signed

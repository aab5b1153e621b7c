"""The plotly figures: values end up where the axes say, whatever the order."""

import numpy as np
import pytest

from qformer_viz.view.figures.figure_style import LEAST, query_label
from qformer_viz.view.figures.head_losses import heads_figure
from qformer_viz.view.figures.mass_centres import centre_figure
from qformer_viz.view.figures.message_losses import message_figure
from qformer_viz.view.figures.query_effects import effects_figure
from qformer_viz.view.figures.query_measures import measure_figure
from qformer_viz.view.figures.query_pairs import pairs_figure
from qformer_viz.view.figures.query_self_attention import self_attention_figure
from qformer_viz.view.figures.shapley_bars import shapley_figure
from qformer_viz.view.figures.similarity_matrix import similarity_figure


def test_every_cell_shows_the_pair_its_axes_name():
    matrix = np.arange(16, dtype=float).reshape(4, 4) / 16
    order = [2, 0, 3, 1]
    heat = similarity_figure(matrix, order, "likeness", signed=False).data[0]
    for row, first in enumerate(heat.y):
        for column, second in enumerate(heat.x):
            assert heat.z[row][column] == pytest.approx(matrix[int(first), int(second)], abs=1e-4)
    assert [int(label) for label in heat.x] == order


def test_signed_values_have_white_at_zero_and_unsigned_ones_start_at_zero():
    signed, unsigned = (similarity_figure(np.eye(2), [0, 1], "s", signed=s).data[0] for s in (True, False))
    assert (signed.zmin, signed.zmax) == (-1, 1)
    assert (unsigned.zmin, unsigned.zmax) == (0, 1)


def test_matrix_is_square_on_screen_with_its_first_row_on_top():
    figure = similarity_figure(np.eye(3), range(3), "s", signed=True)
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.scaleanchor == "x"
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "category"


def test_measure_figure_has_one_row_per_layer_and_names_its_unit():
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    figure = measure_figure(values, ["layer 0", "mean"], "Entropy", "nats")
    heat = figure.data[0]
    assert np.asarray(heat.z).tolist() == values.tolist()
    assert list(heat.y) == ["layer 0", "mean"] and list(heat.x) == ["00", "01"]
    assert heat.colorbar.title.text == "Entropy (nats)"


@pytest.mark.parametrize(("weight", "shown"), [(3.0, 3.0), (1e-4, LEAST)])
def test_effects_of_next_to_nothing_look_like_nothing(weight, shown):
    values, names = weight * np.array([0.5, -1.0]), ["00", "01"]
    for heat in (
        effects_figure(values[None], ["no"], names, "nats").data[0],
        pairs_figure(np.outer(values, [0, 1]), names, "no").data[0],
    ):
        assert (heat.zmin, heat.zmax) == pytest.approx((-shown, shown))
    axis = shapley_figure(values, 0 * values, values / 2, names, "no").layout.yaxis.range
    assert axis is None if weight > LEAST else axis == (-LEAST, LEAST)


def test_heads_stand_in_their_layer_and_two_figures_share_a_scale():
    figure = heads_figure([[0.5, -0.01], [0.0, 3.0]], [1.0, 4.0], (2, 4), "Cross-attention", 7.0)
    heat = figure.data[0]
    assert list(heat.x) == ["0", "1", "all"] and list(heat.y) == ["layer 2", "layer 4"]
    assert heat.z[0] == pytest.approx([0.5, -0.01, 1.0]) and heat.z[1] == pytest.approx([0, 3, 4])
    assert (heat.zmin, heat.zmax) == (-7, 7) and list(heat.text) == [["0.5", "", "1.0"], ["", "3.0", "4.0"]]


def test_what_is_told_and_read_has_a_bar_for_each():
    figure = message_figure([0.5, 0.0], [1.0, 2.0], ["00", "01"], [0.25], ["<b>"])
    told, alone, text = figure.data
    assert (list(told.y), list(alone.y), list(text.y)) == ([0.5, 0], [1, 2], [0.25])
    assert list(text.x) == ["“&lt;b&gt;”"] and figure.layout.yaxis.range is None
    little = message_figure([0.01, 0.0], None, ["00", "01"], [], [])
    assert [bar.name for bar in little.data] == ["hidden from the other queries"]
    assert little.layout.yaxis.range == (-LEAST, LEAST)


def test_self_attention_is_ordered_and_the_text_stays_behind():
    own = np.arange(9, dtype=float).reshape(3, 3) / 10
    figure = self_attention_figure(own, np.array([[0.1], [0.2], [0.3]]), [2, 0, 1], ["it"])
    heat, text = figure.data
    assert list(heat.y) == list(text.y) == list(heat.x) == ["02", "00", "01"] and list(text.x) == ["“it”"]
    assert heat.z[0] == pytest.approx([0.8, 0.6, 0.7]) and heat.z[1] == pytest.approx([0.2, 0, 0.1])
    assert np.concatenate(text.z) == pytest.approx([0.3, 0.1, 0.2])
    assert heat.coloraxis == text.coloraxis == "coloraxis" and figure.layout.coloraxis.cmin == 0
    assert [row.xaxis for row in figure.data] == ["x", "x2"]
    assert figure.layout.xaxis.domain[1] < figure.layout.xaxis2.domain[0]
    assert figure.layout.xaxis.title.text == "attended to" and figure.layout.xaxis2.title.text is None
    (alone,) = self_attention_figure(own, None, [2, 0, 1], []).data
    assert list(alone.x) == ["02", "00", "01"]


def test_centres_have_their_origin_in_the_top_left_corner_and_the_images_shape():
    figure = centre_figure([[0.1, 0.9], [0.5, 0.5]], [1.0, 0.25], [0.2, 0.3], "CLS share", aspect=2.0)
    dots = figure.data[0]
    assert list(dots.x) == pytest.approx([0.1, 0.5]) and list(dots.y) == pytest.approx([0.9, 0.5])
    assert list(figure.layout.yaxis.range) == [1, 0]
    assert figure.layout.yaxis.scaleratio == 2.0
    assert dots.marker.size[0] > dots.marker.size[1]
    assert list(dots.text) == [query_label(0), query_label(1)]

"""The plotly figures: values end up where the axes say, whatever the order."""

import numpy as np
import pytest

from qformer_viz.view.figures import (
    LEAST,
    centre_figure,
    effects_figure,
    measure_figure,
    pairs_figure,
    query_label,
    shapley_figure,
    similarity_figure,
)


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


def test_centres_have_their_origin_in_the_top_left_corner_and_the_images_shape():
    figure = centre_figure([[0.1, 0.9], [0.5, 0.5]], [1.0, 0.25], [0.2, 0.3], "CLS share", aspect=2.0)
    dots = figure.data[0]
    assert list(dots.x) == pytest.approx([0.1, 0.5]) and list(dots.y) == pytest.approx([0.9, 0.5])
    assert list(figure.layout.yaxis.range) == [1, 0]
    assert figure.layout.yaxis.scaleratio == 2.0
    assert dots.marker.size[0] > dots.marker.size[1]
    assert list(dots.text) == [query_label(0), query_label(1)]

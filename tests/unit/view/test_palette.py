import numpy as np
import plotly.colors
import pytest

from qformer_viz.errors import BadSelection
from qformer_viz.view.palette import DEFAULT, OUTLINES, STOPS, colour, rgb, table

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


def lightness(colours, vision):
    linear = np.where(colours <= 10.31475, colours / 255 / 12.92, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(VISION[vision]).T, 0, 1)
    luminance = seen @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", STOPS)
def test_more_is_lighter_for_every_kind_of_vision(name, vision):
    seen = lightness(table(name).astype(float), vision)
    # Over a tenth of the scale, so that rounding to bytes cannot hide or cause a fall.
    assert (np.diff(seen[::25]) > 0).all()
    assert seen[-1] - seen[0] > 55


@pytest.mark.parametrize("name", ["viridis", "magma", "inferno", "cividis"])
def test_the_scales_are_the_published_ones(name):
    published = plotly.colors.get_colorscale(name.capitalize())
    at = [round(255 * position) for position, _ in published]
    expected = np.array([rgb(text) for _, text in published])
    assert np.abs(table(name)[at].astype(int) - expected).max() <= 8


def test_values_meet_the_ends_and_the_middle_of_the_table():
    values = np.array([-1, 0, 0.25, 0.5, 9])
    assert (colour(values, 0.5) == table(DEFAULT)[[0, 0, 128, 255, 255]]).all()
    assert (colour(values, 0.0) == table(DEFAULT)[0]).all()
    assert colour(np.zeros((4, 5)), 1).shape == (4, 5, 3)


def test_an_unknown_scale_is_refused_by_name():
    with pytest.raises(BadSelection, match=r"'jet'.*viridis"):
        table("jet")
    assert not {"jet", "rainbow", "hsv"} & set(STOPS)


def test_outlines_differ_and_are_not_black():
    assert len(set(OUTLINES)) == len(OUTLINES) == 8
    assert all(max(rgb(c)) > 100 for c in OUTLINES)


def test_the_table_cannot_be_changed_by_a_caller():
    with pytest.raises(ValueError, match="read-only"):
        table(DEFAULT)[0] = 0

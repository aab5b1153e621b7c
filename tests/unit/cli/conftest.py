"""A picture to give to commands."""

import pytest
from PIL import Image


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (30, 20), "red").save(path)
    return str(path)

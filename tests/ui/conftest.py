"""What the tests of the page without a browser share: the services of a fake model and a visitor who asked."""

import pytest

from qformer_viz.ui.conversation import Session
from tests.support.conversing import ask, looked
from tests.support.fakes_ui import fake_services


@pytest.fixture
def services():
    """A module whose tests need another model has a fixture of this name of its own."""
    return fake_services()


@pytest.fixture
def session(services, tmp_path):
    """A visitor whose question about an image was answered."""
    return ask(services, looked(services, Session(), tmp_path), "what is it?")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of uploads."""
    monkeypatch.setattr("qformer_viz.ui.components.get_upload_folder", lambda: str(tmp_path))
    return tmp_path

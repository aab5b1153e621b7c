"""A method is one file: a module of `qformer_viz.attribution.methods` that defines METHOD."""

import sys

from qformer_viz import METHODS
from qformer_viz.attribution import load_methods, methods

SOURCE = """
import torch

from qformer_viz.attribution.method import Method


def compute(context):
    return torch.ones(len(context.words), context.scorer.queries.shape[1], 16)


METHOD = Method("ones", "Ones", compute, "", shows="nothing", hides="everything", order=2)
"""


def test_a_file_more_is_a_method_more(tmp_path, monkeypatch):
    (tmp_path / "ones.py").write_text(SOURCE)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    try:
        found = load_methods()
    finally:
        sys.modules.pop("qformer_viz.attribution.methods.ones", None)
    assert set(found) - set(METHODS) == {"ones"} and list(found).index("ones") < 4
    assert found["ones"].title == "Ones"


def test_every_method_says_what_it_shows_and_hides():
    assert next(iter(METHODS)) == "knockout" and len(METHODS) == 9
    for name, method in METHODS.items():
        assert method.name == name and method.shows and method.hides and method.title

"""The Gradio interface: `build(services)` returns the page; one file per tab."""

from qformer_viz.domains.domain import SceneMaker
from qformer_viz.ui.app_context import AppContext, Geometry, Limits
from qformer_viz.ui.page import build, launch_options

__all__ = ["AppContext", "Geometry", "Limits", "SceneMaker", "build", "launch_options"]

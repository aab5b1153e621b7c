"""The Gradio interface: `build(services)` returns the page; one file per tab."""

from qformer_viz.ui.app_context import Geometry, Limits, SceneMaker, Services
from qformer_viz.ui.page import build, launch_options

__all__ = ["Geometry", "Limits", "SceneMaker", "Services", "build", "launch_options"]

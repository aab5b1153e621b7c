"""The Gradio interface: `build(services)` returns the page; one file per tab."""

from .build import build, launch_options
from .services import Geometry, Limits, SceneMaker, Services

__all__ = ["Geometry", "Limits", "SceneMaker", "Services", "build", "launch_options"]

"""Methods that say which queries and patches a word came from.

`METHODS` holds every method by name; the app, the benchmark, the command line and `explain` offer them. To add one, add
a file to `qformer_viz.attribution.methods`.
"""

import pkgutil
from importlib import import_module

from qformer_viz.attribution import methods
from qformer_viz.attribution.context import ExplanationContext
from qformer_viz.attribution.method import Method

__all__ = ["METHODS", "ExplanationContext", "Method", "load_methods"]


def load_methods() -> dict[str, Method]:
    """Every method that a module of `qformer_viz.attribution.methods` defines, by name, in order."""
    names = [each.name for each in pkgutil.iter_modules(methods.__path__)]
    found = [import_module(f"{methods.__name__}.{name}").METHOD for name in names]
    return {method.name: method for method in sorted(found, key=lambda each: (each.order, each.name))}


METHODS = load_methods()

"""The inspector: the tabs below the canvas, one file each. A file that defines a `VIEW` is a tab; nothing else is to be
edited."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qformer_viz.ui.inspector.view import InspectorView


def inspector_views() -> "tuple[InspectorView, ...]":
    """Every view of this package.

    Returns:
        The `VIEW` of each module that has one, from the lowest to the highest order.

    Raises:
        ValueError: Two views have one id.
    """
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    views = [module.VIEW for module in modules if hasattr(module, "VIEW")]
    ids = [view.id for view in views]
    if shared := sorted({each for each in ids if ids.count(each) > 1}):
        raise ValueError(f"Two views of the inspector have the id {shared[0]!r}. Give each an id of its own.")
    return tuple(sorted(views, key=lambda view: (view.order, view.id)))

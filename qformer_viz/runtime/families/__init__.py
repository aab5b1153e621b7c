"""Families of models, one file each: every module here, but for `family`, defines a `FAMILY`."""

import pkgutil
from functools import cache
from importlib import import_module

from qformer_viz.runtime.families.family import Family, ModelClass

__all__ = ["Family", "ModelClass", "all_families", "family_of_type", "find_family"]


@cache
def all_families() -> dict[str, Family]:
    """Every family by its name."""
    modules = (import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in found}


def find_family(name: str) -> Family:
    """The family of that name; for a name that is not known, one without model classes, which loads nothing."""
    return all_families().get(name) or Family(name)


def family_of_type(model_type: str | None) -> Family:
    """The family whose checkpoints have this `model_type` in their configuration."""
    for family in all_families().values():
        if model_type in family.model_classes:
            return family
    return Family(str(model_type))

"""Adapters of PEFT (LoRA and its relatives) are put on their base model, and in float merged into it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.adapter_folder import CONFIG, WEIGHTS, Adapter
from qformer_viz.runtime.device_memory import FLOAT, among

INSTALL = "pip install peft, or merge it where it was trained (merge_and_unload, then save_pretrained)"


def check_installed(adapter: Adapter, whole: bool) -> None:
    """Raises CheckpointError where PEFT is missing. whole: the folder holds a whole model, too."""
    if importlib.util.find_spec("peft") is not None:
        return
    if whole:
        raise CheckpointError(
            f"The folder {adapter.name!r} holds a whole model and an adapter ({adapter.kind}) for it, which PEFT puts "
            f"on. PEFT is not installed: {INSTALL}; or move {CONFIG} and {WEIGHTS} away to load the model alone."
        )
    raise CheckpointError(f"{adapter.name!r} is an adapter ({adapter.kind}), which needs PEFT: {INSTALL}.")


@contextmanager
def without_adapter(folder: Path) -> Iterator[str]:
    """A folder with the same files but those of an adapter: transformers would put it on, where PEFT is installed, in a
    way of its own."""
    with TemporaryDirectory(prefix="qformer-viz-") as place:
        for path in folder.resolve().iterdir():
            if path.name in (CONFIG, WEIGHTS):
                continue
            try:
                os.symlink(path, Path(place) / path.name, target_is_directory=path.is_dir())
            except OSError:  # not allowed to everybody on Windows
                (shutil.copytree if path.is_dir() else shutil.copy)(path, Path(place) / path.name)
        yield place


def put_on(model: torch.nn.Module, adapter: Adapter, merge: bool) -> str:
    """Put an adapter on its base model, in place.

    Args:
        model: the base, a transformers model.
        adapter: what to put on.
        merge: add its weights to those of the base, which leaves a model like any other. Without, as for a base in 8 or
            4 bit, whose weights would be rounded once more, its layers stay; those of the Q-Former and of what is never
            quantised are merged even so, and modules that were trained whole take the place of the base's.
    Returns:
        One line that says what was done.
    Raises:
        CheckpointError: for an adapter of another model, or of a kind that is not put on layers.
    """
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    try:
        with warnings.catch_warnings(record=True) as met:
            warnings.simplefilter("always")
            if PeftConfig.from_pretrained(str(adapter.folder)).is_prompt_learning:
                raise CheckpointError(
                    f"The adapter {adapter.name!r} ({adapter.kind}) changes the prompt, not the layers of a model, "
                    "which is not supported. Give one that does, such as LoRA."
                )
            wrapped = PeftModel.from_pretrained(model, str(adapter.folder))
            if merge:
                wrapped.merge_and_unload(safe_merge=True)
    except CheckpointError:
        raise
    except Exception as error:  # PEFT and torch share no base class for what does not fit
        raise CheckpointError(_unfit(adapter, str(error))) from error
    lacking = [str(each.message) for each in met if "missing adapter keys" in str(each.message)]
    if lacking:
        raise CheckpointError(_unfit(adapter, lacking[0]))
    if not merge:
        for name, layer in list(model.named_modules()):
            if isinstance(layer, ModulesToSaveWrapper):
                model.set_submodule(name, layer.modules_to_save[layer.active_adapter])
        for name, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer) and among(name, FLOAT):
                layer.merge(safe_merge=True)
                model.set_submodule(name, layer.get_base_layer())
    how = "merged into" if merge else "on"
    more = f"; further adapters in that folder: {', '.join(adapter.others)}" if adapter.others else ""
    return f"adapter {adapter.name} ({adapter.kind}) {how} its base{more}"


def _unfit(adapter: Adapter, error: str) -> str:
    first = (error.strip().splitlines() or ["no reason given"])[0][:200].rstrip(". ")
    return (
        f"The adapter {adapter.name!r} does not fit its base model {Path(adapter.base).name!r}: {first}. Give it the "
        f"model that it was trained on ({CONFIG}, base_model_name_or_path)."
    )

"""The only `from_pretrained` and the only quantisation; device and precision with the reason printed."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

from qformer_viz.errors import CheckpointError, OutOfDeviceMemory
from qformer_viz.runtime import device_memory, folder_checks, weight_checks
from qformer_viz.runtime.adapters import check_installed, put_on, without_adapter
from qformer_viz.runtime.checkpoints import WHOLE, Checkpoint, family_settings, resolve
from qformer_viz.runtime.device_memory import Plan, plan, weight_bytes
from qformer_viz.runtime.device_queue import apart
from qformer_viz.runtime.families import all_families, family_of_type
from qformer_viz.runtime.families.retrieval import FAMILY as RETRIEVAL_FAMILY
from qformer_viz.runtime.image_encoder import Observe
from qformer_viz.runtime.matcher import Matcher
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.runtime.saved_precision import check_asked, saved_kind, to_float

RETRIEVAL = "Blip2ForImageTextRetrieval"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"


def load(
    name_or_path: str | Path = "blip2-emoji",
    *,
    quantization: str | None = AUTO,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    observe: Observe | None = None,
    allow: Collection[str] = (),
) -> Pipeline:
    """Load a listed checkpoint, a folder that save_pretrained wrote, or a hub id named in `allow`.

    quantization None, "8bit" (LLM.int8), "4bit" (NF4) or "auto": as little as the free memory asks for. device and
    dtype None: chosen, the reason printed. What does not fit is refused before it is loaded.
    observe(model) is a context manager entered around every Q-Former pass; what it records becomes
    EncodedImage.capture. Safetensors only, no remote code. Raises CheckpointError, OutOfDeviceMemory.
    """
    checkpoint = resolve(name_or_path, allow)
    if quantization not in (None, AUTO, *device_memory.SHARE):
        raise CheckpointError(f'quantization is {quantization!r}; expected "auto", None, "8bit" or "4bit".')
    config = _attempt(checkpoint, transformers.AutoConfig.from_pretrained)
    if config.model_type not in _model_types():
        raise CheckpointError(
            f"{checkpoint.id} is a {config.model_type!r} model; expected one with a Q-Former and a language "
            f"model ({', '.join(_model_types())}). Choose another checkpoint."
        )
    if _is_retrieval(config):
        raise CheckpointError(
            f"{checkpoint.id} compares texts with images and has no language model to answer with. Load it with "
            "qformer_viz.load_matcher, or choose another checkpoint."
        )
    family = family_of_type(config.model_type)
    classes = family.model_classes[config.model_type]
    if not checkpoint.family:
        checkpoint = replace(checkpoint, **family_settings(config.model_type, config.text_config.model_type))
    checkpoint = replace(checkpoint, family=family.name)
    module, _, processor_class = classes.processor.partition(":")
    processor = _attempt(checkpoint, getattr(import_module(module), processor_class).from_pretrained)
    checkpoint, settings = folder_checks.check(checkpoint, processor, config)
    model, quantization, reason, place = _open(checkpoint, config, classes.model, device, dtype, quantization)
    model.config.update(settings)
    if (saved := saved_kind(checkpoint.id, config)) is not None:
        possible = tuple(each for each in checkpoint.precisions if each == saved or not each.endswith("bit"))
        checkpoint = replace(checkpoint, precisions=possible)
    return Pipeline(
        checkpoint, model, processor, quantization=quantization, reason=reason, observe=observe, device=place
    )


def _model_types() -> list[str]:
    """Every `model_type` that some family loads."""
    return [name for family in all_families().values() for name in family.model_classes]


def load_matcher(
    name_or_path: str | Path = "Salesforce/blip2-itm-vit-g",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    observe: Observe | None = None,
    allow: Collection[str] = (),
) -> Matcher:
    """Load a BLIP-2 retrieval checkpoint; arguments and errors as for `load`."""
    checkpoint = resolve(name_or_path, allow)
    config = _attempt(checkpoint, transformers.AutoConfig.from_pretrained)
    if not _is_retrieval(config):
        raise CheckpointError(
            f"{checkpoint.id} has no matching head; expected a {RETRIEVAL}. Load it with qformer_viz.load, or choose "
            "another checkpoint."
        )
    checkpoint = replace(checkpoint, family=RETRIEVAL_FAMILY.name, precisions=WHOLE)
    processor = _attempt(checkpoint, transformers.Blip2Processor.from_pretrained)
    folder_checks.check_picture_size(checkpoint.id, processor.image_processor, config.vision_config)
    model, _, reason, _ = _open(checkpoint, config, RETRIEVAL, device, dtype, None)
    return Matcher(checkpoint, model, processor, reason=reason, observe=observe)


def _is_retrieval(config: Any) -> bool:
    return RETRIEVAL in (config.architectures or ())


def _open(
    checkpoint: Checkpoint,
    config: Any,
    model_class: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    quantization: str | None,
) -> tuple[Any, str | None, str, torch.device]:
    """The complete model, for inference only, its quantization, the reason for its device and precision, which is
    printed, and that device: on ZeroGPU, which lends a GPU by the call, the weights wait on the CPU."""
    place, place_reason = choose_device(device)
    library_class = getattr(transformers, model_class)
    adapter = checkpoint.adapter
    if adapter is not None:
        check_installed(adapter, whole=adapter.folder == checkpoint.folder)
    saved = saved_kind(checkpoint.id, config)
    if saved is not None:
        quantization = check_asked(checkpoint.id, saved, quantization)
    how = _plan(checkpoint, config, library_class, place, dtype, quantization)
    reason = f"device {place} ({place_reason}), {str(how.precision).removeprefix('torch.')} ({how.reason})"
    options: dict[str, Any] = {"dtype": how.precision, "use_safetensors": True, "output_loading_info": True}
    quantised = saved or how.quantization
    if quantised is not None:
        settings = _quantization(quantised, how.precision)
    if saved is not None:
        reason += f", saved in {saved}" if how.quantization else f", saved in {saved} and taken back to float"
    elif how.quantization is not None:
        options["quantization_config"] = settings
    if how.quantization is not None:
        reason += f", {how.quantization} weights except the Q-Former"
    home = torch.device("cpu") if place.type == "cuda" and os.environ.get("SPACES_ZERO_GPU") else place
    if quantised is not None or home.type != "cpu":
        options["device_map"] = {"": home}

    def read() -> tuple[Any, str]:
        with _place_of(checkpoint) as location:
            model, info = _attempt(checkpoint, library_class.from_pretrained, location, **options)
        if saved is not None:
            to_float(model, how.precision, None if how.quantization is None else device_memory.FLOAT)
        adapted = "" if adapter is None else f", {put_on(model, adapter, merge=how.quantization is None)}"
        weight_checks.check(checkpoint.id, model, info)
        return model.eval().requires_grad_(False), adapted

    model, adapted = apart(read)
    reason += adapted
    print(f"{checkpoint.title}: {reason}")
    return model, how.quantization, reason, place


def _place_of(checkpoint: Checkpoint) -> AbstractContextManager[str]:
    """What `from_pretrained` is given for the weights: of a folder that holds an adapter, too, the rest."""
    if checkpoint.adapter is not None and checkpoint.adapter.folder == checkpoint.folder:
        return without_adapter(checkpoint.folder)
    return nullcontext(checkpoint.location)


def _attempt(checkpoint: Checkpoint, loader: Any, location: str | None = None, **options: Any) -> Any:
    """Call a from_pretrained; whatever it raises becomes an error that names the fix."""
    if checkpoint.folder is None:
        options["revision"] = checkpoint.revision
    else:
        options["local_files_only"] = True
    bar = transformers_logging.is_progress_bar_enabled()
    if checkpoint.folder is not None:
        transformers_logging.disable_progress_bar()
    try:
        return loader(location or checkpoint.location, trust_remote_code=False, **options)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfDeviceMemory(
            f"{checkpoint.id} does not fit into memory ({_first_line(error)}). Load it with "
            'quantization="8bit" or "4bit", or choose a smaller checkpoint.'
        ) from error
    except Exception as error:
        # transformers, safetensors, tokenizers and the hub client share no base class below Exception.
        raise CheckpointError(_explain(checkpoint, error)) from error
    finally:
        if bar:
            transformers_logging.enable_progress_bar()


def _explain(checkpoint: Checkpoint, error: Exception) -> str:
    detail = _first_line(error)
    if checkpoint.folder is not None:
        return (
            f"The folder {checkpoint.folder.name!r} cannot be loaded: {detail}. It must hold config.json, "
            "the weights as safetensors, and the processor's and tokenizer's files; save the model and its "
            "processor there again with save_pretrained."
        )
    return (
        f"{checkpoint.id} could not be fetched from the hub or its cache: {detail}. Check the network (or "
        f"unset HF_HUB_OFFLINE), download it beforehand with `hf download {checkpoint.id}`, or use the "
        "bundled model blip2-emoji, which needs no network."
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    if text.endswith(":") and len(lines) > 1:
        text += f" {lines[1].strip()}"  # huggingface_hub's validation errors say what is wrong in the second
    return text[:300].rstrip(". ")


def _quantization(kind: str, precision: torch.dtype) -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise CheckpointError(
            f'quantization="{kind}" needs bitsandbytes, which is not installed: pip install -r '
            "requirements.txt."
        )
    # On every pass of every layer it would say that it casts what is not float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if kind == "8bit":
        return transformers.BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=list(device_memory.FLOAT)
        )
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=precision,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=list(device_memory.FLOAT),
    )


def choose_device(device: str | torch.device | None) -> tuple[torch.device, str]:
    """A device as asked for, or the best that is there, and why."""
    if device is not None:
        try:
            place = torch.device(device)
        except RuntimeError as error:
            raise CheckpointError(
                f'device is {device!r}; expected "cpu", "cuda", "cuda:1", "mps" or None.'
            ) from error
        if place.type == "cuda" and not torch.cuda.is_available():
            raise CheckpointError(
                f"device {place} was asked for, but no CUDA device was found. Leave it out."
            )
        return place, "as asked"
    if torch.cuda.is_available():
        return torch.device("cuda", 0), torch.cuda.get_device_name(0)
    if torch.backends.mps.is_available():
        return torch.device("mps"), "no CUDA device, Apple GPU found"
    return torch.device("cpu"), "no CUDA device found"


def has_bfloat16(place: torch.device) -> bool:
    """Whether a GPU computes in bfloat16. `torch.cuda.is_bf16_supported` says so of those, too, that only imitate it,
    such as a T4, in many times the time of float16."""
    return torch.cuda.get_device_capability(place)[0] >= 8


def _plan(
    checkpoint: Checkpoint,
    config: Any,
    model_class: Any,
    place: torch.device,
    dtype: str | torch.dtype | None,
    quantization: str | None,
) -> Plan:
    """Precision and quantization, as asked or the best that fits, with the reason. Refuses before loading."""
    if dtype is not None:
        asked = _DTYPES.get(str(dtype).removeprefix("torch."))
        if asked is None:
            raise CheckpointError(f"dtype is {dtype!r}; expected {', '.join(_DTYPES)} or None.")
    else:
        asked = None
    if asked is not None and str(asked).removeprefix("torch.") not in checkpoint.precisions:
        raise CheckpointError(
            f"{checkpoint.id} has a language model of the T5 kind ({config.text_config.model_type}), which overflows "
            'in float16. Choose dtype="bfloat16".'
        )
    known = checkpoint.parameters or _stored_parameters(checkpoint)
    if known is not None and known < 0.5:
        found = None if quantization == AUTO else quantization
        reason = "as asked" if asked is not None else "small enough for full precision"
        return Plan(asked or torch.float32, found, None, reason)
    sizes: dict[tuple[torch.dtype, str | None], int] = {}

    def size(precision: torch.dtype, kind: str | None = None) -> int:
        if (precision, kind) not in sizes:
            sizes[precision, kind] = weight_bytes(model_class, config, precision, kind)
        return sizes[precision, kind]

    choices = _choices(checkpoint, asked, quantization, place, size)
    kinds = [kind for kind in device_memory.SHARE if kind in checkpoint.precisions and place.type != "mps"]
    return plan(checkpoint.id, choices, size, place, device_memory.free(place), kinds)


def _choices(
    checkpoint: Checkpoint,
    asked: torch.dtype | None,
    quantization: str | None,
    place: torch.device,
    size: Callable[..., int],
) -> list[device_memory.Choice]:
    """(precision, quantization, why), the best first."""
    whole: list[tuple[torch.dtype, str]]
    if asked is not None:
        whole = [(asked, "as asked")]
    elif place.type == "cuda" and not has_bfloat16(place):
        half = (torch.float16, "this GPU has no bfloat16")
        whole_only = (torch.float32, "this GPU has no bfloat16, and T5 overflows in float16")
        whole = [half if "float16" in checkpoint.precisions else whole_only]
    elif place.type == "cpu" and size(torch.float32) < 0.5 * device_memory.physical():
        whole = [(torch.float32, "it fits into memory in full"), (torch.bfloat16, "half of full precision")]
    else:
        whole = [(torch.bfloat16, "half of full precision")]
    if quantization != AUTO:
        return [(precision, quantization, why) for precision, why in whole]
    choices: list[device_memory.Choice] = [(precision, None, why) for precision, why in whole]
    if place.type != "mps" and importlib.util.find_spec("bitsandbytes") is not None:
        precision = whole[-1][0]
        choices += [
            (precision, kind, "the rest of the memory is too small for more") for kind in device_memory.SHARE
        ]
    return choices


def _stored_parameters(checkpoint: Checkpoint) -> float | None:
    """Billions, judged by a folder's files at two bytes each; None for a hub id."""
    if checkpoint.folder is None:
        return None
    return sum(file.stat().st_size for file in checkpoint.folder.glob("*.safetensors")) / 2e9

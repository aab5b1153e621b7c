"""Find the Q-Former of a model by its structure, so that no list of model classes has to be kept.

A wrapper may stand between a module and its name: PEFT's `modules_to_save` keeps the original beside a trained copy for
every adapter, torch.compile and activation checkpointing put a module inside another. A module's plain name leaves the
wrappers out; modules of one plain name are copies of which one runs at a time.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from qformer_viz.errors import NotAQFormer

_INNER = frozenset(
    {"original_module", "modules_to_save", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
)


@dataclass(frozen=True, eq=False)
class QFormerModules:
    """The copies of a model's Q-Former, one of which runs at a time; the model that owns its query_tokens, or None; the
    copies of the ViT's patch convolution; and the configured grid (gh, gw), or None."""

    qformers: tuple[nn.Module, ...]
    owner: nn.Module | None
    convs: tuple[nn.Module, ...]
    grid: tuple[int, int] | None


def find_qformer(model: nn.Module) -> QFormerModules:
    """The one Q-Former of a model, its owner (which holds query_tokens) and its patch grid. Raises NotAQFormer."""
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise NotAQFormer(f"a {kind}", "a transformers model", "pass the model itself, such as pipe.model")
    found: dict[str, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        if _is_qformer(module):
            found.setdefault(plain_name(name), []).append((name, module))
    if len(found) != 1:
        raise _not_one(model, list(found))
    (plain,) = found
    if not plain:
        raise NotAQFormer(
            f"a {kind} without the query_tokens that it is given",
            "the model that owns both",
            "pass the whole model, not model.qformer",
        )
    copies = found[plain]
    owner = _owner(model, copies[0][0])
    vision = getattr(getattr(owner, "config", None), "vision_config", None)
    grid = None
    if vision is not None:
        (height, width), (tall, wide) = _pair(vision.image_size), _pair(vision.patch_size)
        grid = height // tall, width // wide
    return QFormerModules(tuple(module for _, module in copies), owner, _patch_convs(model, owner), grid)


def parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(plain name, module) of all parts that do the work: every copy, and no wrapper around them."""
    for name, part in module.named_modules():
        # The dictionary of PEFT's trained copies has the name of what it holds, and does no work either.
        if not _INNER & part._modules.keys() and not name.endswith("modules_to_save"):
            yield plain_name(name), part


def plain_name(name: str) -> str:
    """A module's dotted name without the wrappers: "qformer" for "qformer.modules_to_save.adapter"."""
    name = re.sub(r"(?<![^.])modules_to_save\.[^.]+", "original_module", name)
    return ".".join(part for part in name.split(".") if part not in _INNER)


def _owner(model: nn.Module, name: str) -> nn.Module | None:
    """The nearest module above the Q-Former that holds query_tokens."""
    while name:
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)
        if isinstance(getattr(module, "query_tokens", None), Tensor):
            return module
    return None


def _patch_convs(model: nn.Module, owner: nn.Module | None) -> tuple[nn.Module, ...]:
    """The copies of the first convolution of the model's ViT. In a model of unknown make: of the first one that cuts
    patches."""
    vision = getattr(owner, "vision_model", None)
    if isinstance(vision, nn.Module):
        convs = [(name, part) for name, part in parts(vision) if isinstance(part, nn.Conv2d)]
    else:
        convs = [
            (name, part)
            for name, part in parts(model)
            if isinstance(part, nn.Conv2d) and part.kernel_size == part.stride != (1, 1)
        ]
    return tuple(part for name, part in convs if name == convs[0][0])


def _not_one(model: nn.Module, names: list[str]) -> NotAQFormer:
    kind, expected = type(model).__name__, "exactly one module with encoder.layer[i].crossattention.attention"
    expected += ".query and .key"
    if names:
        holder = names[0].rpartition(".")[0]
        return NotAQFormer(
            f"{len(names)} Q-Formers in {kind} ({', '.join(names)})",
            expected,
            f"pass the part that holds the one you mean, such as model.get_submodule({holder!r})",
        )
    like = [name for name, part in model.named_modules() if "qformer" in type(part).__name__.lower()]
    built = f"; {like[0] or 'the model itself'} has that name and another structure" if like else ""
    return NotAQFormer(
        f"no Q-Formers in {kind}{built}",
        expected,
        "pass one model with a Q-Former, for instance Blip2ForConditionalGeneration or "
        "InstructBlipForConditionalGeneration",
    )


def _is_qformer(module: nn.Module) -> bool:
    # Children first: asking a module for an attribute that it lacks is slow, and most modules lack this one.
    layers = getattr(module._modules.get("encoder"), "layer", None)
    if not isinstance(layers, nn.ModuleList):
        return False
    blocks = [getattr(layer, "attention", None) for layer in layers]
    crosses = [layer.crossattention for layer in layers if hasattr(layer, "crossattention")]
    attentions = [getattr(block, "attention", None) for block in blocks + crosses]
    return bool(crosses) and all(hasattr(a, "query") and hasattr(a, "key") for a in attentions)


def _pair(size: int | Iterable[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width

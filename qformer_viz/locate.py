"""Find the Q-Former of a model by its structure, so that no list of model classes has to be kept."""

from dataclasses import dataclass

from torch import Tensor, nn

from .errors import NotAQFormer


@dataclass(frozen=True, eq=False)
class Site:
    """A Q-Former, the model that owns it, the ViT's patch convolution, the configured grid (gh, gw)."""

    qformer: nn.Module
    owner: nn.Module
    conv: nn.Module | None
    grid: tuple[int, int]

    @property
    def layers(self) -> nn.ModuleList:
        return self.qformer.encoder.layer

    @property
    def cross_layers(self) -> tuple[int, ...]:
        return tuple(i for i, layer in enumerate(self.layers) if hasattr(layer, "crossattention"))


def find(model: nn.Module) -> Site:
    """The one Q-Former of a model, its owner (which holds query_tokens) and its patch grid."""
    kind = type(model).__name__
    if not isinstance(model, nn.Module):
        raise NotAQFormer(f"a {kind}", "a transformers model", "pass the model itself, such as pipe.model")
    names = [name for name, module in model.named_modules() if _is_qformer(module)]
    if len(names) != 1:
        raise NotAQFormer(
            f"{len(names) or 'no'} Q-Formers in {kind}" + (f" ({', '.join(names)})" if names else ""),
            "exactly one module with encoder.layer[i].crossattention.attention.query and .key",
            "pass one model with a Q-Former, for instance Blip2ForConditionalGeneration or "
            "InstructBlipForConditionalGeneration",
        )
    qformer = model.get_submodule(names[0])
    owner = model.get_submodule(names[0].rpartition(".")[0])
    vision = getattr(getattr(owner, "config", None), "vision_config", None)
    if not isinstance(getattr(owner, "query_tokens", None), Tensor) or vision is None:
        raise NotAQFormer(
            f"a Q-Former in {kind} without query_tokens and config.vision_config beside it",
            "the model that owns both",
            "pass the whole model, not model.qformer",
        )
    convs = (m for m in getattr(owner, "vision_model", nn.Identity()).modules() if isinstance(m, nn.Conv2d))
    rows, columns = (a // b for a, b in zip(_pair(vision.image_size), _pair(vision.patch_size), strict=True))
    return Site(qformer, owner, next(convs, None), (rows, columns))


def _is_qformer(module: nn.Module) -> bool:
    # Children first: asking a module for an attribute that it lacks is slow, and most modules lack this one.
    layers = getattr(module._modules.get("encoder"), "layer", None)
    if not isinstance(layers, nn.ModuleList):
        return False
    blocks = [getattr(layer, "attention", None) for layer in layers]
    crosses = [layer.crossattention for layer in layers if hasattr(layer, "crossattention")]
    attentions = [getattr(block, "attention", None) for block in blocks + crosses]
    return bool(crosses) and all(hasattr(a, "query") and hasattr(a, "key") for a in attentions)


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)

"""Which checkpoints this program loads, how each is spoken to, and what may be said about it.

Prompts are those of the BLIP-2 paper (arXiv 2301.12597) and its reference code. Nothing is loaded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qformer_viz.asset_folder import ASSETS
from qformer_viz.domains.domain import Domain
from qformer_viz.domains.domain_registry import EMOJI_SCENES, find_domain
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.adapter_folder import Adapter, base_of, find_adapter
from qformer_viz.runtime.families import Family, family_of_type, find_family
from qformer_viz.runtime.families.blip2 import FAMILY as BLIP2
from qformer_viz.runtime.families.instructblip import FAMILY as INSTRUCTBLIP
from qformer_viz.runtime.families.retrieval import FAMILY as RETRIEVAL
from qformer_viz.runtime.folder_layout import advice, models_inside

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
CARD = "explorer.json"
"""Optional file in a local folder that sets any of title, question_prompt, caption_prompt, world, licence."""


PRECISIONS = ("float32", "float16", "bfloat16", "8bit", "4bit")
PROMPTS = ("question_prompt", "caption_prompt")
WHOLE = PRECISIONS[:3]
"""Of a retrieval model, which nothing here loads in fewer bits."""
_NO_HALF = tuple(precision for precision in PRECISIONS if precision != "float16")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    id               name for `qformer_viz.load`, and the hub id where there is one
    family           "blip2", "instructblip" or "retrieval"; "" until the configuration has been read
    question_prompt  what the language model reads after the image; {} is the question
    caption_prompt   the same for a caption
    own_prompts      names of those two that are known to be its own; they come before a tokenizer's chat template
    chat             whether it is spoken to through the chat template of its tokenizer
    world            name of its training domain, as explorer.json holds it; `domain` is the object
    precisions       in which it is safe to load, of PRECISIONS
    gigabytes        of its weights in each of PRECISIONS; None: judged by the files
    revision         the hub revision to load; None is the newest
    verified         whether this project has run these very weights
    adapter          what PEFT puts on the model of this entry
    """

    id: str
    title: str
    family: str = ""
    question_prompt: str = "Question: {} Answer:"
    caption_prompt: str = "a photo of"
    world: str = "photographs"
    licence: str = "unknown"
    precisions: tuple[str, ...] = PRECISIONS
    gigabytes: tuple[float, ...] | None = None
    revision: str | None = None
    verified: bool = False
    folder: Path | None = None
    own_prompts: tuple[str, ...] = ()
    chat: bool = False
    adapter: Adapter | None = None

    @property
    def model_family(self) -> Family:
        """What its family can do."""
        return find_family(self.family)

    @property
    def domain(self) -> Domain:
        """What it was trained on."""
        return find_domain(self.world)

    @property
    def location(self) -> str:
        """What `from_pretrained` is given."""
        if self.folder:
            return str(self.folder)
        return self.adapter.base if self.adapter else self.id

    @property
    def parameters(self) -> float | None:
        """In billions."""
        return None if self.gigabytes is None else self.gigabytes[0] / 4

    def memory(self, precision: str = "bfloat16") -> float | None:
        """GB of the weights in one of `precisions`, as `qformer_viz.runtime.device_memory.weight_bytes` counts them;
        None: not known."""
        known = dict(zip(PRECISIONS, self.gigabytes or (), strict=False))
        return known.get(precision) if precision in self.precisions else None


_OPT = "MIT (Salesforce); the OPT language model under Meta's OPT-175B licence, research use"
_VICUNA = "research use (Salesforce; Vicuna and LLaMA licences)"
_OPT_3B = (14.98, 7.70, 7.49, 3.99, 2.29)
_OPT_7B = (31.01, 15.72, 15.51, 8.09, 4.48)
_T5_XL = (15.51, 8.97, 7.75, 4.56, 3.01)
_MIT = "MIT (Salesforce); FlanT5 under Apache-2.0"


def _blip2(name: str, title: str, *gigabytes: float) -> Checkpoint:
    opt = "opt" in name
    return Checkpoint(
        id=f"Salesforce/{name}",
        title=title,
        family=BLIP2.name,
        **BLIP2.prompts(t5=not opt),
        licence=_OPT if opt else _MIT,
        # T5 overflows in float16.
        precisions=PRECISIONS if opt else _NO_HALF,
        gigabytes=gigabytes,
        own_prompts=PROMPTS,
    )


def _instructblip(name: str, title: str, *gigabytes: float) -> Checkpoint:
    """These see films too: transformers' InstructBlipVideo is the same weights, given four frames."""
    return Checkpoint(
        id=f"Salesforce/{name}",
        title=title,
        family=INSTRUCTBLIP.name,
        **INSTRUCTBLIP.prompts(t5="vicuna" not in name),
        licence=_VICUNA if "vicuna" in name else _MIT,
        precisions=PRECISIONS if "vicuna" in name else _NO_HALF,
        gigabytes=gigabytes,
        own_prompts=PROMPTS,
    )


def _bundled(name: str, title: str, family: str, *gigabytes: float) -> Checkpoint:
    return Checkpoint(
        id=name,
        title=title,
        family=family,
        world=EMOJI_SCENES.name,
        licence="Apache-2.0; trained on openly licensed emoji artwork",
        precisions=PRECISIONS if find_family(family).chats else WHOLE,
        gigabytes=gigabytes,
        verified=True,
        folder=ASSETS / name,
        own_prompts=PROMPTS,
    )


_ENTRIES = (
    _bundled("blip2-emoji", "BLIP-2 emoji (bundled)", BLIP2.name, 0.03, 0.02, 0.02, 0.01, 0.01),
    _bundled(
        "instructblip-emoji", "InstructBLIP emoji (bundled)", INSTRUCTBLIP.name, 0.04, 0.02, 0.02, 0.02, 0.01
    ),
    _bundled("blip2-emoji-itm", "BLIP-2 emoji retrieval (bundled)", RETRIEVAL.name, 0.03, 0.03, 0.02),
    *(
        Checkpoint(
            id=f"Salesforce/{name}",
            title=title,
            family=RETRIEVAL.name,
            licence="MIT (Salesforce)",
            precisions=WHOLE,
            gigabytes=(4.69, 2.67, 2.34),
        )
        for name, title in (
            ("blip2-itm-vit-g", "BLIP-2 retrieval"),
            ("blip2-itm-vit-g-coco", "BLIP-2 retrieval, tuned on COCO"),
        )
    ),
    _blip2("blip2-opt-2.7b", "BLIP-2 OPT-2.7B", *_OPT_3B),
    _blip2("blip2-opt-6.7b", "BLIP-2 OPT-6.7B", *_OPT_7B),
    _blip2("blip2-opt-2.7b-coco", "BLIP-2 OPT-2.7B, tuned on COCO captions", *_OPT_3B),
    _blip2("blip2-opt-6.7b-coco", "BLIP-2 OPT-6.7B, tuned on COCO captions", *_OPT_7B),
    _blip2("blip2-flan-t5-xl", "BLIP-2 FlanT5-XL", *_T5_XL),
    _blip2("blip2-flan-t5-xl-coco", "BLIP-2 FlanT5-XL, tuned on COCO captions", *_T5_XL),
    _blip2("blip2-flan-t5-xxl", "BLIP-2 FlanT5-XXL", 48.39, 28.43, 24.20, 14.36, 9.59),
    _instructblip("instructblip-vicuna-7b", "InstructBLIP Vicuna-7B", 31.65, 15.83, 15.83, 8.37, 4.75),
    _instructblip("instructblip-vicuna-13b", "InstructBLIP Vicuna-13B", 56.77, 28.38, 28.38, 14.72, 8.09),
    _instructblip("instructblip-flan-t5-xl", "InstructBLIP FlanT5-XL", 15.83, 8.97, 7.91, 4.72, 3.17),
    _instructblip("instructblip-flan-t5-xxl", "InstructBLIP FlanT5-XXL", 48.71, 28.43, 24.36, 14.53, 9.75),
)

CHECKPOINTS: dict[str, Checkpoint] = {entry.id: entry for entry in _ENTRIES}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CARD_TEXTS = {"title", "question_prompt", "caption_prompt", "world", "licence"}


def resolve(name_or_path: str | Path, allow: Collection[str] = ()) -> Checkpoint:
    """The entry for a listed name, a local folder, or a hub id that the operator allowed.

    Raises CheckpointError for anything else; nothing is read from the network.
    """
    name = str(name_or_path)
    if name in CHECKPOINTS:
        entry = CHECKPOINTS[name]
        if entry.folder and not (entry.folder / "config.json").is_file():
            raise CheckpointError(
                f"The bundled model {name!r} is not in {entry.folder.parent.name}/{entry.folder.name}. Get "
                "the repository complete (git checkout -- assets), or give another checkpoint."
            )
        return entry
    if name and Path(name).is_dir():
        return _local(Path(name).resolve(), allow)
    if name and Path(name).is_file():
        raise CheckpointError(_of_file(Path(name)))
    if name in set(allow):
        return Checkpoint(id=name, title=name, world="unknown")
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        raise CheckpointError(
            f"{name!r} is neither a folder here nor on the list of checkpoints ({', '.join(CHECKPOINTS)}). "
            f"If you trust it, pass allow=({name!r},) to qformer_viz.load, or --allow {name} to the program."
        )
    raise CheckpointError(
        f"There is no checkpoint {name!r}: expected a listed name ({', '.join(CHECKPOINTS)}) or a folder "
        "saved with save_pretrained. Check the spelling or the path."
    )


def is_t5(text_type: str | None) -> bool:
    """Whether a language model of this `model_type` is of the T5 kind (t5, mt5, umt5, longt5, t5gemma, switch), whose
    activations overflow in float16."""
    return "t5" in str(text_type) or text_type == "switch_transformers"


def family_settings(model_type: str | None, text_type: str | None) -> dict[str, Any]:
    """family, prompts and safe precisions of a checkpoint that is on no list, by the types that its configuration and
    its language model's give."""
    t5 = is_t5(text_type)
    precisions = _NO_HALF if t5 else PRECISIONS
    family = family_of_type(model_type)
    return {"family": family.name, "precisions": precisions, **family.prompts(t5)}


def _of_file(path: Path) -> str:
    """What to do with a single file."""
    if path.suffix in PICKLES:
        return (
            f"{path.name} is a file of torch.save, as LAVIS publishes its weights. Such files can run code, so they "
            "are not opened. Convert it with transformers' script (convert_blip_2_original_to_pytorch.py or "
            "convert_instructblip_original_to_pytorch.py), save model and processor with save_pretrained, and give "
            "that folder. The published weights are on the hub, converted (Salesforce/...)."
        )
    return f"{path.name} is a file; expected the folder that save_pretrained wrote. Give its folder."


def _on_base(adapter: Adapter, allow: Collection[str]) -> Checkpoint:
    """The entry of an adapter: its base's, which must be allowed itself, under a name of its own."""
    base = resolve(base_of(adapter), allow)
    if base.adapter is not None:
        raise CheckpointError(
            f"The adapter {adapter.name!r} was trained on {base.id!r}, which has an adapter itself. Merge that one "
            "into its base first."
        )
    title = f"{adapter.name} (adapter on {base.title})"
    return replace(base, id=adapter.name, title=title, verified=False, adapter=adapter)


def _local(folder: Path, allow: Collection[str] = ()) -> Checkpoint:
    adapter = find_adapter(folder)
    if not (folder / "config.json").is_file():
        if adapter is not None:
            return _on_base(adapter, allow)
        pickles = sorted(path for suffix in PICKLES for path in folder.glob(f"*{suffix}"))
        if pickles and not models_inside(folder):
            raise CheckpointError(_of_file(pickles[0]))
        raise CheckpointError(
            f"The folder {folder.name!r} has no config.json, so it is not a saved transformers model. {advice(folder)}"
        )
    entry = Checkpoint(
        id=folder.name,
        title=folder.name,
        world="unknown",
        folder=folder,
        adapter=adapter,
        **_folder_settings(folder),
    )
    card = folder / CARD
    if not card.is_file():
        return entry
    try:
        texts = json.loads(card.read_text(encoding="utf-8"))
        unknown = set(texts) - _CARD_TEXTS
        if unknown or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError(f"only strings for {', '.join(sorted(_CARD_TEXTS))} are read, found {texts}")
        if texts.get("question_prompt", "{}").count("{}") != 1:
            raise ValueError("question_prompt must hold {} once, where the question goes")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{folder.name}/{CARD} cannot be used: {error}. Correct or delete it."
        ) from error
    return replace(entry, **texts, own_prompts=tuple(name for name in PROMPTS if name in texts))


def _folder_settings(folder: Path) -> dict[str, Any]:
    """`family_settings` of a folder; nothing where its configuration cannot be read, as the loader will say."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return family_settings(config.get("model_type"), (config.get("text_config") or {}).get("model_type"))
    except (OSError, ValueError, AttributeError):
        return {}

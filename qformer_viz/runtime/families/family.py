"""What a family of models is: how its checkpoints are loaded, prompted and given images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NotRequired, TypedDict


@dataclass(frozen=True)
class ModelClass:
    """Classes of one `model_type` of a configuration.

    model      name of the class in transformers
    processor  "module:class" of what reads the processor's files
    token      "image" or "video": the kind of the placeholder that the projected queries replace
    """

    model: str
    processor: str
    token: str = "image"


class Prompts(TypedDict):
    """Prompts of a checkpoint; one without `caption_prompt` has the default of `Checkpoint`."""

    question_prompt: str
    caption_prompt: NotRequired[str]


@dataclass(frozen=True)
class Family:
    """One family; a module of `qformer_viz.runtime.families` defines it as `FAMILY`.

    name             as in `Checkpoint.family`
    model_classes    by the `model_type` of a checkpoint's configuration
    chats            whether it has a language model that answers
    reads_questions  whether its Q-Former reads the question, so that every question has maps of its own
    sees_video       whether the language model may be given the queries of several frames
    question_prompt  what the language model reads after the image, by kind of language model ("t5", or "" for others);
                     {} is the question
    caption_prompt   the same for a caption; None is the default of `Checkpoint`
    """

    name: str
    model_classes: Mapping[str, ModelClass] = field(default_factory=dict)
    chats: bool = True
    reads_questions: bool = False
    sees_video: bool = False
    question_prompt: Mapping[str, str] = field(default_factory=lambda: {"": "Question: {} Answer:"})
    caption_prompt: str | None = None

    def prompts(self, t5: bool) -> Prompts:
        """The prompts of a checkpoint that brings none of its own. t5: whether its language model is a T5."""
        question = self.question_prompt.get("t5" if t5 else "", self.question_prompt[""])
        if self.caption_prompt is None:
            return {"question_prompt": question}
        return {"question_prompt": question, "caption_prompt": self.caption_prompt}

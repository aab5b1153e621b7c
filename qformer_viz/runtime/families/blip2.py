"""BLIP-2 (Li et al. 2023, arXiv 2301.12597): a Q-Former that sees the image alone."""

from qformer_viz.runtime.families.family import Family, ModelClass

FAMILY = Family(
    "blip2",
    {"blip-2": ModelClass("Blip2ForConditionalGeneration", "transformers:Blip2Processor")},
    question_prompt={"": "Question: {} Answer:", "t5": "Question: {} Short answer:"},
)

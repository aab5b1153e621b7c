"""InstructBLIP (Dai et al. 2023, arXiv 2305.06500): a Q-Former that reads the question beside the image.

InstructBlipVideo of transformers is the same weights, given four frames.
"""

from qformer_viz.runtime.families.family import Family, ModelClass

FAMILY = Family(
    "instructblip",
    {
        "instructblip": ModelClass(
            "InstructBlipForConditionalGeneration", "transformers:InstructBlipProcessor"
        ),
        "instructblipvideo": ModelClass(
            "InstructBlipVideoForConditionalGeneration",
            "qformer_viz.runtime.video_processor:VideoProcessor",
            token="video",
        ),
    },
    reads_questions=True,
    sees_video=True,
    question_prompt={"": "{}"},
    caption_prompt="A short image description:",
)

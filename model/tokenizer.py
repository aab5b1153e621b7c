"""The tokenizer: GPT-2's byte-level BPE trained on the text of the domain, with OPT's special tokens.

Every word of the domain is one token; any other text still has an encoding, byte by byte.
"""

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from model import scene_text
from model.wordings import MORE, PLAIN
from qformer_viz.domains.emoji.scenes import NOUNS, SIZE_LEVELS, random_scene

EOS, PAD, UNKNOWN, IMAGE = "</s>", "<pad>", "<unk>", "<image>"
VOCABULARY = 1500


def corpus(scenes: int = 400, seed: int = 0) -> list[str]:
    """Text that holds every word of the domain often enough to become one token."""
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(scenes):
        scene = random_scene(rng)
        lines.append(scene_text.CAPTION_HISTORY.format(scene_text.caption(scene, rng)))
        for question in scene_text.questions(scene, rng, 12, wording="all"):
            for form in (question.text, question.text.capitalize()):
                lines.append(" " + scene_text.TURN_HISTORY.format(form, question.answer))
                lines.append(form)
        lines.append(" ".join(["", *scene_text.description(scene, rng)]))
    words = [
        *NOUNS,
        *map(scene_text.plural, NOUNS),
        *SIZE_LEVELS,
        *scene_text.NUMBERS,
        *scene_text.COLUMNS,
        *scene_text.ROWS,
    ]
    words += [
        word for patterns in scene_text.grammar().values() for line in patterns for word in line.split()
    ]
    words += [word for forms in (*PLAIN.values(), *MORE.values()) for form in forms for word in _bare(form)]
    return lines + [f" {word}" for word in words] * 20


def _bare(form: str) -> list[str]:
    """The words of a pattern without its fields and punctuation."""
    return [word.strip("?,:") for word in form.split() if "{" not in word]


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Deterministic: the same text gives the same ids. Starts every text with `</s>`, as OPT does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [PAD, EOS, UNKNOWN, IMAGE]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=5,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{EOS} $A", pair=f"{EOS} $A $B", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )

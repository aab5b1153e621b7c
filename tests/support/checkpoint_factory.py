"""Folders that look like the published checkpoints, in tiny widths: the libraries' configuration classes, processor
files, tokenizers of the published kinds trained on a few sentences, and sharded safetensors."""

import json
from pathlib import Path

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.support import tiny_models

SENTENCES = [
    "a photo of a cat sitting on a mat",
    "a photo of two dogs and a red ball",
    "Question: what is in the picture? Answer: a cat and a dog",
    "Question: how many are there? Short answer: two",
    "A short image description: the dog is to the left of the cat.",
    "what is it? where is the ball? it is on the mat, under a tree",
]
LETTERS = sorted({letter for sentence in SENTENCES for letter in sentence})
QUERIES, SIDE, IMAGE_TOKEN, VIDEO_TOKEN = 4, 28, "<image>", "<video>"
KINDS = {
    "blip2-opt": ("blip2", "opt"),
    "blip2-flan-t5": ("blip2", "t5"),
    "instructblip-flan-t5": ("instructblip", "t5"),
    "instructblip-vicuna": ("instructblip", "llama"),
    "instructblipvideo-vicuna": ("instructblipvideo", "llama"),
    "instructblipvideo-flan-t5": ("instructblipvideo", "t5"),
    "blip2-qwen": ("blip2", "qwen"),
}
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- set parts = message.content.split('</think>') %}"
    "{{- (parts | last | trim if message.role == 'assistant' else message.content) + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
"""Does what Qwen3's does: ChatML, no thoughts in earlier answers, an empty thought where thinking is off."""


def write(folder, kind, *, seed=0, shard="60KB"):
    """A complete checkpoint of one of KINDS; returns the folder."""
    family, language = KINDS[kind]
    inner, reader, placeholder = tokenizers(family, language)
    text = _text(language, inner)
    config = tiny_models.config(
        family,
        vision_config=tiny_models.vision(image_size=SIDE),
        qformer_config=tiny_models.qformer(vocab_size=len(reader) if reader else 64),
        text_config=text,
        num_query_tokens=QUERIES,
        **placeholder,
    )
    hf_model = tiny_models.build(family, config, seed=seed)
    hf_model.save_pretrained(folder, max_shard_size=shard)
    images = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    if family == "instructblipvideo":
        return _save_film_processor(folder, images, inner, reader)
    return save_processor(folder, processor(images, inner, reader, QUERIES))


def tokenizers(family, language):
    """(the language model's, that of the Q-Former where it reads, the ids of the placeholders), as published."""
    inner = {"opt": _gpt2_style, "t5": _t5_style, "llama": _llama_style, "qwen": _qwen_style}[language]()
    # The published InstructBLIP folders know both kinds of placeholder.
    tokens = {"blip2": [IMAGE_TOKEN], "instructblip": [IMAGE_TOKEN, VIDEO_TOKEN]}.get(family, [VIDEO_TOKEN])
    inner.add_special_tokens({"additional_special_tokens": tokens})
    placeholder = {f"{token[1:-1]}_token_index": inner.convert_tokens_to_ids(token) for token in tokens}
    return inner, None if family == "blip2" else _bert_style(), placeholder


def processor(images, inner, reader, queries):
    """That of a BLIP-2, or with a `reader` of an InstructBLIP."""
    if reader is None:
        return transformers.Blip2Processor(images, inner, num_query_tokens=queries)
    return transformers.InstructBlipProcessor(images, inner, reader, num_query_tokens=queries)


def save_processor(folder, processor):
    """Its files; those of an InstructBLIP as Salesforce's folders have them, which name the class for films."""
    processor.save_pretrained(folder)
    if isinstance(processor, transformers.InstructBlipProcessor):
        about = {
            "processor_class": "InstructBlipVideoProcessor",
            "num_query_tokens": processor.num_query_tokens,
        }
        (Path(folder) / "processor_config.json").write_text(json.dumps(about), encoding="utf-8")
        processor.image_processor.save_pretrained(folder)
    return folder


IMAGE_PROCESSORS = {
    "squash": ("BlipImageProcessor", {"size": "square"}),
    "crop": ("CLIPImageProcessor", {"size": "short", "do_center_crop": True, "crop_size": "square"}),
    "crop by BlipImageProcessor": (
        "BlipImageProcessor",
        {"size": "short", "do_center_crop": True, "crop_size": "square"},
    ),
    "crop a margin": ("BitImageProcessor", {"size": "larger", "do_center_crop": True, "crop_size": "square"}),
    "crop only": ("CLIPImageProcessor", {"do_resize": False, "do_center_crop": True, "crop_size": "square"}),
    "pad right and below": ("BlipImageProcessor", {"size": "within", "do_pad": True, "pad_size": "square"}),
    "pad around": ("DonutImageProcessor", {"size": "square", "do_align_long_axis": False}),
    "pad with a colour": ("LlavaImageProcessor", {"size": "short", "do_pad": True, "crop_size": "square"}),
}
"""What people's folders have in place of the published processors, which squash: class and settings."""


def with_image_processor(folder, name, side=SIDE):
    """Give a folder of `write` another image processor, one of IMAGE_PROCESSORS; returns the folder."""
    kind, settings = IMAGE_PROCESSORS[name]
    sizes = {
        "square": {"height": side, "width": side},
        "short": {"shortest_edge": side},
        "larger": {"shortest_edge": side * 8 // 7},
        "within": {"max_height": side, "max_width": side},
    }
    about = {key: sizes[value] if isinstance(value, str) else value for key, value in settings.items()}
    about["image_processor_type"] = kind
    path = Path(folder) / "processor_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if "image_processor" in content:
        path.write_text(json.dumps(content | {"image_processor": about}), encoding="utf-8")
    else:
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def _save_film_processor(folder, images, inner, reader):
    """What the library's own, which needs torchvision, writes."""
    inner.save_pretrained(folder)
    reader.save_pretrained(Path(folder) / "qformer_tokenizer")
    prepared = {"video_processor_type": "InstructBlipVideoVideoProcessor", "do_sample_frames": False}
    prepared |= json.loads(images.to_json_string())
    about = {
        "processor_class": "InstructBlipVideoProcessor",
        "num_query_tokens": QUERIES,
        "video_processor": prepared,
    }
    (Path(folder) / "processor_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def _gpt2_style():
    """OPT's: byte-level BPE, </s> in front, <pad> 1, padded left."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES, trainer)
    inner.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **names)


def _t5_style():
    """FlanT5's: Unigram pieces with ▁ for a space, </s> behind."""
    inner = Tokenizer(models.Unigram())
    inner.normalizer = normalizers.Replace(" {2,}", " ")
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=LETTERS,
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES, trainer)
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def _llama_style():
    """Vicuna's: BPE with byte fallback and ▁ for a space, <s> in front."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=specials[:3], show_progress=False)
    inner.train_from_iterator(SENTENCES, trainer)
    inner.add_tokens(specials[3:])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **names)


def _qwen_style():
    """Qwen3's: byte-level BPE without a token in front, ends of turns, two added tokens for thoughts that are not
    special, and a chat template."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SENTENCES, trainer)
    inner.add_tokens(["<think>", "</think>"])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **names)
    made.chat_template = CHAT_TEMPLATE
    return made


def _bert_style():
    """What InstructBLIP's Q-Former reads with: WordPiece, lower case, [CLS] and [SEP]."""
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    inner.train_from_iterator(SENTENCES, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def special_ids(inner):
    """bos_token_id, eos_token_id and pad_token_id, those that there are."""
    names = ("bos_token", "eos_token", "pad_token")
    return {f"{name}_id": getattr(inner, f"{name}_id") for name in names if getattr(inner, name)}


def _text(language, inner):
    own = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if language == "t5" else {}
    size = -(-len(inner) // 64) * 64
    return tiny_models.text(language, vocab_size=size, **special_ids(inner), **own)

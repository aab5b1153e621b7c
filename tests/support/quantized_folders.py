"""Checkpoints saved in 8 or 4 bit."""

import shutil

import torch
import transformers

CLASSES = {
    "blip2": transformers.Blip2ForConditionalGeneration,
    "instructblip": transformers.InstructBlipForConditionalGeneration,
}


def save_quantized(source, bits, folder, skip=None):
    """What a user gets who loads a folder in so many bits, perhaps with parts skipped, and saves it again."""
    whole, kind = source
    settings = transformers.BitsAndBytesConfig(**{f"load_in_{bits}": True}, llm_int8_skip_modules=skip)
    options = {"quantization_config": settings, "device_map": {"": "cpu"}, "dtype": torch.float32}
    quantised = CLASSES[kind.split("-")[0]].from_pretrained(whole, **options)
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    quantised.save_pretrained(folder)
    return folder

"""Checkpoint folders as people have them: each function makes a folder of `tests/support/checkpoint_factory.py` an
odd one."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.support import checkpoint_factory as factory

KINDS = ("blip2-opt", "blip2-flan-t5", "instructblip-vicuna", "instructblip-flan-t5", "blip2-qwen")
PLACEHOLDERS = (factory.IMAGE_TOKEN, factory.VIDEO_TOKEN)
LAYERS = {
    "vision_config": ("num_hidden_layers",),
    "qformer_config": ("num_hidden_layers",),
    "text_config": ("num_hidden_layers", "num_layers", "num_decoder_layers"),
}


def edit(path, change):
    """Change a JSON file by a function of its content."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_weights(folder, change):
    """Change the weights, which are in one file, by a function of their dictionary."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})


def from_2023(folder):
    """As transformers before 4.46 saved it: no placeholder in configuration and tokenizer, a processor without the
    number of queries, settings of the image processor in a file of their own."""

    def forget(config):
        for name in ("image_token_index", "video_token_index"):
            config.pop(name, None)

    def forget_tokens(tokenizer):
        kept = [token for token in tokenizer["added_tokens"] if token["content"] not in PLACEHOLDERS]
        tokenizer["added_tokens"] = kept

    edit(folder / "config.json", forget)
    edit(folder / "tokenizer.json", forget_tokens)
    drop = ("extra_special_tokens", "additional_special_tokens", "added_tokens_decoder", "image_token")
    edit(folder / "tokenizer_config.json", lambda config: [config.pop(name, None) for name in drop])
    about = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    images = about.get("image_processor")
    if images:
        (folder / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    (folder / "processor_config.json").unlink()
    return folder


def without_room(folder):
    """As Vicuna's of 2023: no row of the embeddings is free."""
    size = _first_placeholder(folder)
    from_2023(folder)
    edit(folder / "config.json", lambda config: config["text_config"].update(vocab_size=size))
    return folder


def with_end(folder, source):
    """Only one file knows how an answer ends: the tokenizer, config.json or generation_config.json; the two others say
    the unknown or the padding token. Returns the folder and the end."""
    tokenizer, generation = factory_tokenizer(folder), folder / "generation_config.json"
    other = tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    end = tokenizer.eos_token_id if source == "tokenizer" else len(factory.LETTERS)
    edit(
        folder / "config.json",
        lambda config: config["text_config"].update(eos_token_id=end if source == "config" else other),
    )
    edit(generation, lambda config: config.update(eos_token_id=end if source == "generation" else other))
    return folder, end


def other_picture_size(folder):
    """The processor of another model."""
    size = {"height": 2 * factory.SIDE, "width": 2 * factory.SIDE}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        edit(path, lambda config: config.update(size=size))
    else:
        edit(folder / "processor_config.json", lambda config: config["image_processor"].update(size=size))
    return folder


def fewer_layers(folder, part):
    """config.json says one layer less than the file holds."""

    def shorten(config):
        for name in LAYERS[part]:
            if name in config[part]:
                config[part][name] -= 1
        if "layer_types" in config[part]:
            config[part]["layer_types"].pop()

    edit(folder / "config.json", shorten)
    return folder


def with_tensors(folder, **tensors):
    """More tensors than the model has; dots in a name are written as double underscores."""
    more = {name.replace("__", "."): value for name, value in tensors.items()}
    edit_weights(folder, lambda weights: weights.update(more))
    return folder


def spoilt(folder, part, value):
    """One number of one tensor is NaN or infinite. Returns the tensor's name."""
    names = []

    def spoil(weights):
        names.extend(name for name in weights if name.startswith(part) and weights[name].dim() == 2)
        weights[names[-1]][1, 2] = value

    edit_weights(folder, spoil)
    return names[-1]


def trainer_output(folder, parent):
    """What a Trainer leaves: the models lie in checkpoint-N."""
    for step in (10, 20):
        shutil.copytree(folder, parent / f"checkpoint-{step}")
    (parent / "trainer_state.json").write_text("{}", encoding="utf-8")
    return parent


def hub_cache(folder, parent, name="org--name"):
    """A hub's cache with two snapshots; returns the folder of the cache and the current snapshot's."""
    repository = parent / f"models--{name}"
    for revision in ("1111", "0000"):
        shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1111\n", encoding="utf-8")
    return parent, repository / "snapshots" / "1111"


def factory_tokenizer(folder):
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder)


def _first_placeholder(folder):
    return factory_tokenizer(folder).convert_tokens_to_ids(factory.IMAGE_TOKEN)


def copy(folder, target):
    """A folder to change."""
    return Path(shutil.copytree(folder, target))

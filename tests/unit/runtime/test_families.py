"""Every published kind of checkpoint, tiny: from its folder through caption, chat, capture, explanation and export, in
every precision; and the real geometry's weights by name and shape, without allocating one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import qformer_viz
from qformer_viz import METHODS
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.evaluation import doctor
from qformer_viz.evaluation.library_maps import library_attention
from qformer_viz.types import Decoding
from qformer_viz.view.archive import load_npz, manifest, save_npz
from qformer_viz.view.stage_payload import canvas_payload
from qformer_viz.view.standalone_page import standalone_page
from tests.support import checkpoint_factory as factory
from tests.support import published

SHORT = Decoding(max_new_tokens=6)
PRECISIONS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "8bit": {"quantization": "8bit"},
    "4bit": {"quantization": "4bit"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: factory.write(tmp_path_factory.mktemp(kind), kind) for kind in factory.KINDS}


def picture(seed):
    noise = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", factory.KINDS)
def test_the_whole_way(folders, kind, precision, tmp_path):
    assert len(list(folders[kind].glob("model-*.safetensors"))) > 2
    pipe = qformer_viz.load(folders[kind], device="cpu", observe=qformer_viz.capture, **PRECISIONS[precision])
    encoded = pipe.encode(picture(1))
    answer = pipe.caption(encoded, SHORT)
    assert answer.finish in ("eos", "length", "empty") and len(answer.tokens) == len(answer.logprobs)
    # A conversation of two turns, streamed, ends where the whole answer does.
    first = pipe.ask(encoded, "what is it?", (), SHORT)
    history = [("what is it?", first.text)]
    *_, last = pipe.stream_ask(encoded, "how many are there?", history, SHORT)
    whole = pipe.ask(encoded, "how many are there?", history, SHORT)
    assert (last.text, last.token_ids) == (whole.text, whole.token_ids)
    # What was captured is what the library itself computes.
    own = library_attention(pipe, encoded)
    elsewhere = (encoded.capture.cross_attention[:, 0] - own).abs().sum(-1).mean() / 2
    assert elsewhere < (1e-5 if precision == "float32" else 0.02)
    assert encoded.capture.cross_layers == (0, 2)
    explained = next(said for said in (answer, first, whole, _said(pipe)) if said.token_ids)
    asked = (
        encoded if explained is answer or pipe.family == "blip2" else pipe.encode(picture(1), "what is it?")
    )
    case = prepare(pipe, asked, explained)
    for name, method in METHODS.items():
        if not method.slow:
            assert attribute(case, name).scores.isfinite().all(), name
    about = manifest(encoded.capture, pipe.describe(), image_sha256=encoded.sha256, question=None, answer="x")
    path = save_npz(encoded.capture, tmp_path / "capture.npz", about)
    restored, said = load_npz(path)
    assert torch.equal(restored.cross_attention, encoded.capture.cross_attention)
    assert json.dumps(said) and "canvas" in standalone_page(canvas_payload(restored, encoded.image))


def _said(pipe):
    """Some answer with a word in it."""
    for seed in range(2, 30):
        answer = pipe.caption(picture(seed), SHORT)
        if answer.token_ids:
            return answer
    raise AssertionError("random weights that never say a word")


@pytest.mark.slow
@pytest.mark.parametrize("kind", factory.KINDS)
def test_the_doctor_finds_nothing_wrong(folders, kind):
    load = lambda: qformer_viz.load(folders[kind], device="cpu", observe=qformer_viz.capture)  # noqa: E731
    report = doctor.examine(load, picture(3))
    failed = [what for what, holds, _ in report.checks if not holds]
    assert set(failed) <= {"the image matters", "the caption has words"}, report.text()


@pytest.mark.parametrize("kind", factory.KINDS)
def test_words_come_back_as_they_were_read(folders, kind):
    pipe = qformer_viz.load(folders[kind], device="cpu")
    tokenizer = pipe.processor.tokenizer
    for sentence in factory.SENTENCES:
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).strip() == sentence


# Names as the published files have them, and their shapes: vision, Q-Former and projection, then the language model's.
COMMON = {
    "query_tokens": (1, 32, 768),
    "vision_model.embeddings.class_embedding": (1, 1, 1408),
    "vision_model.embeddings.position_embedding": (1, 257, 1408),
    "vision_model.embeddings.patch_embedding.weight": (1408, 3, 14, 14),
    "vision_model.encoder.layers.38.self_attn.qkv.weight": (4224, 1408),
    "vision_model.encoder.layers.38.mlp.fc1.weight": (6144, 1408),
    "vision_model.post_layernorm.weight": (1408,),
    "qformer.encoder.layer.10.crossattention.attention.key.weight": (768, 1408),
    "qformer.encoder.layer.11.attention.attention.query.weight": (768, 768),
    "qformer.encoder.layer.11.intermediate_query.dense.weight": (3072, 768),
}
LANGUAGE = {
    "opt-2.7b": {"language_model.model.decoder.layers.31.fc1.weight": (10240, 2560), "width": 2560},
    "opt-6.7b": {"language_model.model.decoder.layers.31.fc1.weight": (16384, 4096), "width": 4096},
    "flan-t5-xl": {
        "language_model.encoder.block.23.layer.1.DenseReluDense.wi_0.weight": (5120, 2048),
        "width": 2048,
    },
    "flan-t5-xxl": {
        "language_model.decoder.block.23.layer.1.EncDecAttention.q.weight": (4096, 4096),
        "width": 4096,
    },
    "vicuna-7b": {"language_model.model.layers.31.mlp.gate_proj.weight": (11008, 4096), "width": 4096},
    "vicuna-13b": {"language_model.model.layers.39.self_attn.q_proj.weight": (5120, 5120), "width": 5120},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", published.names())
def test_published_weights_have_the_names_and_shapes_that_the_library_asks_for(name):
    model_class, config = published.config(name)
    with torch.device("meta"):
        shapes = {
            key: tuple(weight.shape) for key, weight in model_class._from_config(config).state_dict().items()
        }
    if "itm" in name:
        assert shapes["vision_projection.weight"] == (256, 768) and shapes["itm_head.weight"] == (2, 768)
        expected = {key: shape for key, shape in COMMON.items() if not key.startswith("language")}
    else:
        language = dict(next(value for key, value in LANGUAGE.items() if key in name))
        width = language.pop("width")
        norm = "qformer.embeddings.layernorm.weight" if "instruct" in name else "qformer.layernorm.weight"
        expected = COMMON | language | {"language_projection.weight": (width, 768), norm: (768,)}
    assert {key: shapes.get(key) for key in expected} == expected
    crossing = {key.split(".")[3] for key in shapes if ".crossattention." in key}
    assert sorted(map(int, crossing)) == [0, 2, 4, 6, 8, 10]
    assert ("qformer.embeddings.word_embeddings.weight" in shapes) == ("instructblip" in name)

"""The bundled model as it ships: loads with transformers alone, says what its card says, and looks at objects."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

import qformer_viz
from model import attention_pointing, retrieval_evaluation, scene_text
from model.evaluation import answer_scenes, fresh_scenes, image_slots, summarise
from model.inference import BatchInference
from model.model_card import card_of
from model.retrieval_evaluation import evaluate_pool
from qformer_viz.attention_maps import entropy, patches, select
from qformer_viz.cli import app_setup
from qformer_viz.domains.emoji.ood_detector import photograph_crops
from qformer_viz.domains.emoji.ood_images import OOD_IMAGES
from qformer_viz.domains.emoji.scenes import Scene, patch_labels, random_scene, render
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.stage_updates import as_text
from tests.support.yardstick import slowness

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assets" / "blip2-emoji"
MATCHING_FOLDER = ROOT / "assets" / "blip2-emoji-itm"
INSTRUCT_FOLDER = ROOT / "assets" / "instructblip-emoji"
SPEAKING = (FOLDER, INSTRUCT_FOLDER)
FOLDERS = (*SPEAKING, MATCHING_FOLDER)
EXAMPLES = json.loads((ROOT / "assets" / "examples" / "scenes.json").read_text())
SCENES = 80


@pytest.fixture(scope="module")
def card():
    return card_figures(FOLDER)


def card_figures(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def inference():
    return BatchInference(FOLDER)


@pytest.fixture(scope="module")
def sheet(card):
    """The first of the scenes the card was measured on; training never draws from this seed."""
    return fresh_scenes(SCENES, card["seed"])


@pytest.fixture(scope="module")
def features(inference, sheet):
    return inference.vision([render(scene).image for scene, _ in sheet])


@pytest.fixture(scope="module")
def pipe():
    return qformer_viz.load("blip2-emoji", observe=qformer_viz.capture)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_small_files_safetensors_only_and_a_card_made_of_its_figures(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert all(file.stat().st_size < 10_000_000 for file in files)
    assert not [file.name for file in files if file.suffix in (".bin", ".pt", ".pkl")]
    assert (folder / "README.md").read_text() == card_of(folder)


def test_plain_transformers_suffice():
    loaded = Blip2ForConditionalGeneration.from_pretrained(FOLDER, dtype="float32")
    processor = Blip2Processor.from_pretrained(FOLDER)
    picture = Image.open(ROOT / "assets/examples/cat-and-dog.png")
    inputs = processor(images=picture, text="a photo of", return_tensors="pt")
    said = processor.decode(loaded.generate(**inputs, max_new_tokens=20)[0], skip_special_tokens=True)
    assert scene_text.caption_nouns(said) == Counter(cat=1, dog=1)


def test_the_figures_to_keep(card):
    assert card["model"]["noun_f1"]["value"] >= 0.95 and card["model"]["exact"]["value"] >= 0.95
    unseen = card["unseen_styles"]["all"]
    assert unseen["noun_f1"]["value"] >= 0.7 and unseen["exact"]["value"] >= 0.75
    assert card["wordings"]["unseen"]["value"] >= 0.85
    matching = card_figures(MATCHING_FOLDER)["model"]
    assert matching["image_of_text_reranked_1"]["value"] >= 0.9 and matching["matching_hard"]["value"] >= 0.95


@pytest.mark.parametrize("folder", SPEAKING, ids=lambda folder: folder.name)
def test_fresh_scenes_give_the_figures_of_the_card(folder, sheet, features):
    """The ViT is the same in all, so its features are too."""
    card, inference = card_figures(folder), BatchInference(folder)
    found = summarise(answer_scenes(inference, sheet, image_slots(inference, features)))
    for name in ("noun_f1", "exact"):
        wide = card["model"][name]["high"] - card["model"][name]["low"]
        # A part of the card's scenes: its interval, wider by the root of the ratio, and as much again.
        slack = wide * (card["scenes"] / SCENES) ** 0.5
        assert found[name] == pytest.approx(card["model"][name]["value"], abs=slack), name


def test_answers_come_from_the_image(card, inference, sheet, features):
    wrong = summarise(answer_scenes(inference, sheet[:40], image_slots(inference, features[:40].roll(1, 0))))
    assert wrong["noun_f1"] < 0.35 and wrong["exact"] < card["model"]["exact"]["value"] - 0.2


def test_the_captured_maps_are_those_the_card_measures(inference, pipe, sheet, features):
    part = attention_pointing.measure(inference, features[:8], [scene for scene, _ in sheet[:8]])
    shares = []
    for scene, _ in sheet[:8]:
        drawn = render(scene)
        capture = pipe.encode(drawn.image).capture
        maps = patches(capture.cross_attention[:, 0].mean(1)).numpy()
        shares.append(maps[..., patch_labels(drawn).ravel() >= 0].sum(-1).mean(-1))
    layers = part["layers"]
    assert tuple(map(int, layers)) == capture.cross_layers
    assert np.mean(shares, 0) == pytest.approx([layer["all"] for layer in layers.values()], abs=2e-3)
    # A query whose region holds an object looks at objects when it first and when it last looks.
    assert min(layers["0"]["own"], layers["4"]["own"]) > 2 * part["area_of_objects"]


def test_the_map_on_which_the_canvas_opens_lies_on_an_object(pipe, sheet):
    """The most focused map of the last layer that cross-attends; averaged over layers it does no more often."""

    def peak(maps):
        maps = patches(maps)
        return maps[entropy(maps).argmin()].argmax()

    hits = []
    for scene, _ in sheet[:40]:
        drawn = render(scene)
        maps = pipe.encode(drawn.image).capture.cross_attention
        on = patch_labels(drawn).ravel() >= 0
        hits.append([on[peak(select(maps, layer)[0])] for layer in (2, None)])
    last, mean = np.mean(hits, 0)
    assert last >= 0.95 and last >= mean


def test_most_examples_are_captioned_with_exactly_their_nouns(pipe):
    """Each noun as often as it is there; the card's F1 lets a noun in seven be wrong."""
    right = 0
    for name, data in EXAMPLES.items():
        scene = Scene.from_dict(data)
        said = scene_text.caption_nouns(
            pipe.caption(ROOT / "assets" / "examples" / f"{Path(name).stem}.png").text
        )
        right += said == Counter(item.noun for item in scene.objects)
    assert right >= 0.7 * len(EXAMPLES)


def test_the_payload_of_an_example_is_small(pipe):
    services = app_setup.make_context(pipe)
    for path in sorted((ROOT / "assets" / "examples").glob("*.png")):
        session = Session(encoded=pipe.encode(path))
        assert 50_000 < len(as_text(services, session).encode()) <= 700_000


def test_a_conversation_keeps_its_thread(pipe):
    encoded = pipe.encode(ROOT / "assets/examples/cat-and-dog.png")
    history = []
    for question, answer in (
        ("is there a cat?", "yes"),
        ("is there a rocket?", "no"),
        ("how many dogs are there?", "one"),
    ):
        said = pipe.ask(encoded, question, history=history).text
        assert said == answer, question
        history.append((question, said))


def test_ood_images_get_the_notice_and_scenes_do_not(card, pipe):
    notice = app_setup.chat_model(pipe).ood_check
    rng = np.random.default_rng(5)
    scenes = [notice(pipe.encode(render(random_scene(rng)).image)) for _ in range(20)]
    assert sum(said is not None for said in scenes) <= 1
    for name, draw in OOD_IMAGES.items():
        if card["familiarity"]["detected"][name] < 0.95:
            continue
        said = notice(pipe.encode(draw(rng)))
        assert said and "emoji" in said and "--model" in said, name
    detected = card["familiarity"]["detected"]
    assert sum(share >= 0.95 for share in detected.values()) >= 4
    noticed = [notice(pipe.encode(picture)) is not None for picture in photograph_crops()]
    assert np.mean(noticed) == pytest.approx(detected["photographs"], abs=0.02) and np.mean(noticed) > 0.9


def test_words_outside_its_world_are_recognised(pipe):
    unread = app_setup.chat_model(pipe).unknown_words
    for question in ("How many cats are there?", "what is to the left of the dog?", "is there an owl?"):
        assert unread(question) == ()
    assert unread("is there a giraffe, or a Zebra?") == ("giraffe", "zebra")
    assert unread("<b>?!") == () and unread("") == ()


@pytest.mark.parametrize("name", [folder.name for folder in SPEAKING])
def test_loaded_within_a_second_and_a_scene_captioned_within_three_tenths(name, sheet):
    def seconds(work):
        began = time.perf_counter()
        done = work()
        return time.perf_counter() - began, done

    loading, pipe = min((seconds(lambda: qformer_viz.load(name)) for _ in range(3)), key=lambda pair: pair[0])
    scenes = [render(scene).image for scene, _ in sheet[:8]]
    captioning = [seconds(lambda image=image: pipe.caption(image))[0] for image in scenes]
    print(
        f"{name}: loaded in {loading:.2f} s, a scene captioned in {np.median(captioning):.3f} s (median of 8)"
    )
    assert loading < 1 * slowness() and np.median(captioning) < 0.3 * slowness()


def test_questions_move_the_maps_of_instructblip_and_of_it_alone(pipe, sheet):
    instruct = qformer_viz.load("instructblip-emoji", observe=qformer_viz.capture)
    picture = render(sheet[0][0]).image
    for chat_model, moves in ((pipe, False), (instruct, True)):
        one, other = (
            chat_model.encode(picture, f"is there a {noun}?").capture.cross_attention
            for noun in ("cat", "rocket")
        )
        assert bool((one - other).abs().max() > 1e-3) == moves


def test_the_matcher_judges_as_its_card_says():
    card = card_figures(MATCHING_FOLDER)
    scenes = [scene for scene, _ in fresh_scenes(card["pool"], card["seed"], asked=0)]
    records = evaluate_pool(
        retrieval_evaluation.Matcher(MATCHING_FOLDER), scenes, np.random.default_rng(card["seed"] + 5)
    )
    found = retrieval_evaluation.summarise(records)
    for name in ("image_of_text_reranked_1", "matching_hard", "matching_edited"):
        wide = card["model"][name]["high"] - card["model"][name]["low"]
        slack = wide * (card["scenes"] / len(scenes)) ** 0.5
        assert found[name] == pytest.approx(card["model"][name]["value"], abs=slack), name


def test_the_library_ranks_what_an_example_shows():
    matcher = qformer_viz.load_matcher("blip2-emoji-itm", observe=qformer_viz.capture)
    texts = ["a cat and a dog", "two cats", "a donut and a tree", "a rocket"]
    best, *others = matcher.rank(ROOT / "assets/examples/cat-and-dog.png", texts)
    assert best.text == texts[0] and best.probability > 0.5 > others[0].probability
    assert best.capture.cross_attention.shape == (3, 1, 6, 32, 257)
    # What leaves something out is wrong to it, as card, README and the Match tab say.
    assert "whole captions" in matcher.describe()["caution"]
    assert matcher.rank(ROOT / "assets/examples/cat-and-dog.png", ["a dog"])[0].probability < 0.05


def test_the_app_opens_the_match_tab_beside_a_bundled_model(pipe):
    assert app_setup.default_matcher(pipe) == "blip2-emoji-itm"

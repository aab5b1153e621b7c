"""Usable information where it is known by hand, and a bottleneck that was built to let one label through."""

import json
import math
from dataclasses import dataclass, field

import pytest
import torch

from qformer_viz.analysis import bottleneck, information
from qformer_viz.analysis.information import PROBES, usable_information
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.command import Backend
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.domains.emoji.backgrounds import BACKGROUNDS
from qformer_viz.domains.emoji.ground_truth import labels
from qformer_viz.domains.emoji.scenes import NOUNS, STYLES, random_scene
from qformer_viz.errors import BadShape, BadValues

N = 2500


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coin(n=N, share=0.5, seed=1):
    return (torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share).long()


def entropy(share):
    return -(share * math.log2(share) + (1 - share) * math.log2(1 - share))


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("flipped", [0.0, 0.1, 0.5])
def test_a_noisy_channel_passes_what_shannon_says(kind, flipped):
    label = coin()
    said = torch.where(coin(share=flipped, seed=2).bool(), 1 - label, label) if flipped else label
    features = 0.1 * noise(N, 3, 4)
    features[:, :, 0] += 2.0 * said[:, None] - 1
    found = usable_information(features, {"coin": label}, kind)["coin"]
    capacity = 1 - (entropy(flipped) if flipped else 0)
    assert found.bits == pytest.approx(capacity, abs=0.06)
    assert found.low <= found.bits <= found.high and found.high - found.low < 0.15
    assert found.entropy == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_an_uneven_label_has_less_to_tell():
    label = coin(share=0.1)
    features = noise(N, 1, 4)
    features[:, 0, 0] = label.float()
    found = usable_information(features, {"rare": label, "other": coin(share=0.9, seed=5)}, "linear")
    assert found["rare"].entropy == pytest.approx(entropy(0.1), abs=0.06)
    assert found["rare"].bits == pytest.approx(found["rare"].entropy, rel=0.05)
    assert found["other"].bits == pytest.approx(0, abs=0.02)


@pytest.mark.slow
def test_binary_parts_are_summed():
    parts = torch.stack([coin(seed=seed) for seed in range(3)], 1).bool()
    features = noise(N, 2, 5)
    features[:, 0, :2] = 4.0 * parts[:, :2].float()  # the third is not in them
    found = usable_information(features, {"parts": parts}, "attention")["parts"]
    assert found.entropy == pytest.approx(3, abs=0.02) and found.bits == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("kind", PROBES)
def test_noise_tells_nothing_and_costs_nothing(kind):
    """Hundreds of channels to learn by heart, and nothing to be learned."""
    labels = {
        "rare": coin(400, 0.1),
        "parts": torch.stack([coin(400, 0.1, seed) for seed in range(3)], 1).bool(),
    }
    found = usable_information(noise(400, 3, 200), labels, kind)
    assert found["rare"].bits == pytest.approx(0, abs=0.02)
    assert found["parts"].bits == pytest.approx(0, abs=0.06)
    assert found["parts"].entropy == pytest.approx(3 * entropy(0.1), abs=0.4)


def test_what_was_learned_by_heart_is_forgotten(monkeypatch):
    monkeypatch.setattr(information, "SETTINGS", ((0.05, 0.0),))
    found = usable_information(noise(400, 1, 200), {"it": coin(400)}, "linear")["it"]
    assert found.bits == pytest.approx(0, abs=0.05)


@pytest.mark.slow
def test_attention_finds_what_stands_anywhere_and_a_mean_drowns():
    """One vector of twenty, marked by its first channel, holds the label in its second; the others contradict it."""
    label, place = coin(), torch.randint(20, (N,), generator=torch.Generator().manual_seed(3))
    features = 3 * noise(N, 20, 4)
    features[..., 0] = 0
    features[torch.arange(N), place, 0] = 6
    features[torch.arange(N), place, 1] = 2.0 * label - 1
    bits = {kind: usable_information(features, {"it": label}, kind)["it"].bits for kind in PROBES}
    assert bits["linear"] < 0.1 and bits["attention"] > 0.8


@pytest.mark.slow
def test_attention_knows_the_place_in_the_row():
    label = coin()
    features = noise(N, 16, 3)
    features[:, 5, 0] = 2.0 * label - 1
    bits = {kind: usable_information(features, {"it": label}, kind)["it"].bits for kind in PROBES}
    assert bits["attention"] > 0.9 > 0.5 > bits["linear"]


@pytest.mark.slow
def test_it_repeats_and_leaves_everything_as_it_was():
    features, label = noise(200, 2, 3), coin(200)
    before, state = features.clone(), torch.get_rng_state()
    steps = []
    with torch.no_grad():
        first = usable_information(
            features, {"a": label, "b": label}, on_progress=lambda *at: steps.append(at)
        )
    assert first == usable_information(features, {"a": label, "b": label}) and first["a"] == first["b"]
    assert first != usable_information(features, {"a": label, "b": label}, seed=1)
    assert features.equal(before) and torch.get_rng_state().equal(state) and steps == [(1, 2), (2, 2)]


@pytest.mark.slow
def test_half_precision_reads_the_same():
    features, label = noise(400, 2, 3), coin(400)
    features[:, 0, 0] += 3.0 * label
    exact, half = (usable_information(each, {"it": label})["it"].bits for each in (features, features.half()))
    assert exact > 0.5 and half == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("shape", "count", "kind", "error"),
    [
        ((200, 3), 200, "linear", BadShape),
        ((200, 2, 3), 199, "linear", BadShape),
        ((200, 2, 3), 200, "magic", BadValues),
        ((50, 2, 3), 50, "linear", BadValues),
    ],
)
def test_what_does_not_fit_is_refused(shape, count, kind, error):
    with pytest.raises(error, match="Fix"):
        usable_information(noise(*shape), {"it": coin(count)}, kind)
    with pytest.raises(BadShape):
        usable_information(noise(200, 2, 3), {})


@dataclass
class Encoded:
    vision: torch.Tensor
    queries: torch.Tensor


@dataclass
class Narrow:
    """Patches that show two coins; the second query hands on the first coin, where asked the second one."""

    name: str = "narrow"
    family: str = "instructblip"
    asked: list = field(default_factory=list)

    def encode(self, image, question=None):
        number, one, two = image
        self.asked.append(question)
        vision, queries = 0.1 * noise(1, 7, 4, seed=number), 0.1 * noise(1, 3, 4, seed=number + 10**6)
        vision[0, 2, 0], vision[0, 4, 1] = 2.0 * one - 1, 2.0 * two - 1
        queries[0, 1, 0] = 2.0 * (two if question else one) - 1
        return Encoded(vision, queries)


def coins(count):
    pairs = zip(coin(count).tolist(), coin(count, seed=9).tolist(), strict=True)
    return [((n, one, two), {"one": one, "two": two}) for n, (one, two) in enumerate(pairs)]


@pytest.mark.slow
def test_what_passes_and_what_does_not():
    told = []
    found = bottleneck.measure(Narrow(), coins(600), ["the other?"], lambda *at: told.append(at))
    assert found["sizes"] == {"patches": [7, 4], "queries": [3, 4]} and found["images"] == 600
    assert all(found["patches"]["attention"][name]["bits"] > 0.8 for name in ("one", "two"))
    passed = found["queries"]["attention"]
    assert passed["one"]["bits"] > 0.8 and passed["two"]["bits"] < 0.1
    # One query holds it, and asked for the other coin it hands on that one.
    assert found["each"]["one"][1] > 0.8 and max(found["each"]["one"][0], found["each"]["one"][2]) < 0.1
    asked = found["asked"]["the other?"]
    assert asked["two"]["bits"] > 0.8 and asked["one"]["bits"] < 0.1
    assert json.loads(json.dumps(found)) == found
    # 600 images; two labels by two probes of two sides, by one probe of each of three queries, and of what was asked.
    assert told[599] == ("images", 600) and told[-1] == ("probes", 2 * 2 * 2 + 3 * 2 + 2)
    rows = bottleneck.table(found).splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| one", "| two"]
    assert (
        float(rows[2].split(" | ")[-1].strip(" |")) > 0.9
        and float(rows[3].split(" | ")[-1].strip(" |")) < 0.1
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["blip2", "instructblip"])
def test_the_command_asks_only_who_reads_questions(family, tmp_path, capsys):
    pipe, out = Narrow(family=family), tmp_path / "found.json"
    backend = Backend(lambda *_, **__: pipe, None, (), labelled=coins)
    argv = ["bottleneck", "--scenes", "120", "--questions", "the other?", "--out", str(out)]
    assert cli.main(argv, backend) == 0
    told, err = capsys.readouterr()
    found = json.loads(out.read_text())
    asked = ["the other?"] if family == "instructblip" else []
    assert list(found["asked"]) == asked and set(pipe.asked) == {None, *asked}
    assert told.startswith("narrow, 120 scenes") and bottleneck.table(found) in told and "images 120" in err


def test_too_few_scenes_are_refused_on_a_line_of_its_own(capsys):
    backend = Backend(lambda *_, **__: Narrow(), None, (BadValues,), labelled=coins)
    assert cli.main(["bottleneck", "--scenes", "30"], backend) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "error: Found 30 examples; expected 100 or more. Fix: give more examples."
    )


def test_retention_of_next_to_nothing_is_not_told():
    sides = [
        {"it": {"bits": bits, "entropy": 2.0}, "that": {"bits": 1.0, "entropy": 2.0}} for bits in (0.19, 0.1)
    ]
    assert bottleneck.retention(*sides) == {"it": None, "that": 1.0}
    assert bottleneck.retention(*sides[::-1])["it"] is None
    sides[0]["it"]["bits"] = 0.4
    assert bottleneck.retention(*sides)["it"] == 0.25


def test_labels_say_what_a_scene_shows():
    for seed in range(40):
        scene = random_scene(seed)
        found = labels(scene)
        assert {NOUNS[i] for i in found["nouns"].nonzero()[0]} == {item.noun for item in scene.objects}
        assert found["number"] + 1 == len(scene.objects)
        assert {STYLES[i] for i in found["artwork"].nonzero()[0]} == {item.style for item in scene.objects}
        first = sorted(scene.objects, key=lambda item: item.x)[0]
        assert NOUNS[found["first"]] == first.noun
        assert found["size"] == (0 if first.size <= 50 else 1 if first.size <= 74 else 2)
        assert BACKGROUNDS[found["background"]] == scene.background.kind
        assert 1 <= found["places"].sum() <= len(scene.objects)
        row, column = int(first.y // (224 / 3)), int(first.x // (224 / 3))
        assert found["places"][3 * min(row, 2) + min(column, 2)]


def test_labelled_scenes_are_fresh_and_repeat():
    (image, known), (other, _) = EMOJI_SCENES.labelled_images(2)
    assert image.size == (224, 224) and image.tobytes() != other.tobytes()
    again, same = next(EMOJI_SCENES.labelled_images(1))
    assert again.tobytes() == image.tobytes() and str(same) == str(known)

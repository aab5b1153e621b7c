"""What is inside, over many images: on the fake, whose losses are known, and as a command."""

import json

import pytest
import torch
from PIL import Image

from qformer_viz.analysis import ablation_study
from qformer_viz.cli import dispatch as cli
from qformer_viz.cli.command import Backend
from qformer_viz.media.image_decoder import decode
from tests.support.fakes_ui import CROSS, FakeError, FakePipeline

IMAGES = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "white")]


@pytest.mark.slow
def test_losses_are_those_of_the_words_that_came_from_the_image():
    done = []
    found = ablation_study.measure(FakePipeline(), IMAGES, ["what is it?"], done.append)
    assert done == [1, 2, 3] and found["images"] == 3 and found["model"] == "fake"
    assert found["cross_layers"] == list(CROSS) and list(found["asked"]) == ["", "what is it?"]
    caption, answer = found["asked"].values()
    # The first word of every text comes from language.
    assert (caption["words"], answer["words"]) == (3, 12)
    for one in (caption, answer):
        assert one["head"] == [2, 2, 2] and one["cross"] == [[0, 0, 0], [0, 0, 0], [2, 2, 2]]
        assert one["own"][3] == [1, 1, 1] and not any(map(any, one["own"][:3]))
        assert one["apart"] == [1.5] * 3 and one["needs"] == 1 and one["loudest"] == []
        assert one["unheard"] == [0.5] * 3 and one["unread"] == [1, 1, 1]
    # The fake's captions differ and lose the same; its answers do not differ.
    assert caption["pairs"] == 2 and caption["follows_talk"] == 0 and caption["follows_cross"] == [0, 0, 0]
    assert answer["pairs"] == 0
    assert json.loads(json.dumps(found)) == found
    rows = ablation_study.table(found).splitlines()
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|") and rows[3].startswith(
        "| “what is it?” | 12 |"
    )
    assert "2.00 (2.00 to 2.00), cross-attention 4" in rows[2] and rows[2].endswith("| none |")
    assert rows[-1] == "| the caption | 2 | 0% | 0% | 0% | 0% |"


def test_intervals_are_over_images(monkeypatch):
    """A picture with more words counts for no more draws."""
    given = []
    monkeypatch.setattr(
        ablation_study, "interval", lambda values, images: given.append((values, images)) or (0, 0, 0)
    )
    ablation_study.measure(FakePipeline(), IMAGES[:2], ["what is it?"])
    assert [0, 0, 0, 0, 1, 1, 1, 1] in [images for _, images in given]


def test_those_heard_most_are_named_with_their_share():
    queries = torch.tensor([4, 4, 1, 4, 7, 1, 2, 0])
    lost = torch.tensor([2.0, 1.5, 3.0, 0.9, 1.1, 1.2, 1.0, 0.1])
    assert ablation_study._loudest(queries, lost) == [[1, 0.25], [4, 0.25], [2, 0.125]]
    assert ablation_study._loudest(queries, lost * 0) == []


def test_without_words_or_images_there_is_nothing_to_tell():
    found = ablation_study.measure(FakePipeline(), IMAGES[:1], ["nothing"])
    assert found["asked"]["nothing"] == {"words": 0, "pairs": 0} and "nothing" not in ablation_study.table(
        found
    )
    assert ablation_study.measure(FakePipeline(), [])["asked"] == {"": {"words": 0, "pairs": 0}}


@pytest.mark.parametrize("own", [False, True])
def test_the_command_measures_the_world_or_ones_own_pictures(tmp_path, capsys, own):
    for number, image in enumerate(IMAGES):
        image.save(tmp_path / f"{number}.png")
    pictures = sorted(map(str, tmp_path.glob("*.png")))[:2]
    backend = Backend(
        lambda name, **_: FakePipeline(),
        decode,
        (FakeError,),
        unseen=lambda pipe, count: pytest.fail("asked for") if own else iter(IMAGES[:count]),
    )
    out = tmp_path / "inside.json"
    argv = ["--pictures", *pictures] if own else ["--images", "2"]
    assert cli.main(["inside", *argv, "--questions", "what is it?", "--out", str(out)], backend) == 0
    told = capsys.readouterr()
    assert "fake, 2 images, nats lost" in told.out and "image 2" in told.err
    assert json.loads(out.read_text())["asked"]["what is it?"]["words"] == 8
    assert cli.main(["inside", *argv, "--questions", "--json"], backend) == 0
    assert list(json.loads(capsys.readouterr().out)["asked"]) == [""]


class Followed(FakePipeline):
    """Answers are colours. A picture's answer is the likelier one where its talk, or its second cross-attention, is in
    place; the first layer changes nothing, and the third goes half the way."""

    def caption(self, image, decoding=None):
        return self._answer("a red" if image.image.getpixel((0, 0)) == (255, 0, 0) else "a blue", "eos")

    def said(self, encoded):
        return self.caption(encoded).text

    def scorer(self, encoded, answer):
        own, found = self.caption(encoded).text == answer.text, super().scorer(encoded, answer)

        class Scorer(type(found)):
            def isolate_queries(self, reference):
                if reference is None:
                    return super().isolate_queries(reference)
                return torch.tensor([[0.0, -1.0 if reference == answer.text else -2.0]])

            def ablate_heads(self, own_heads, cross, reference, on_progress=None):
                if reference is None:
                    return super().ablate_heads(own_heads, cross, reference, on_progress)
                assert not own_heads.any() and cross.flatten(1).sum(1).tolist() == [2, 2, 2]
                return torch.tensor([[0.0, 0.0 if own else -9.0], [0.0, -9.0 if own else 0.0], [-1.0, -1.0]])

        return Scorer(found.queries, found.words)


def test_an_answer_follows_what_makes_the_other_likelier():
    one = ablation_study.measure(Followed(), [IMAGES[0], IMAGES[1], IMAGES[1], IMAGES[0]])["asked"][""]
    assert one["pairs"] == 2 and one["follows_talk"] == 1 and one["follows_cross"] == [0, 1, 0]
    heads = ablation_study.table(ablation_study.measure(Followed(), IMAGES[:2])).splitlines()
    assert heads[-1] == "| the caption | 1 | 100% | 0% | 100% | 0% |" and heads[-3].endswith(
        "| cross-attention 4 |"
    )

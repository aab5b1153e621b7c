"""The Images tab without a browser."""

import json
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

import qformer_viz
from qformer_viz.domains.domain_registry import EMOJI_SCENES, find_domain
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.explanation_cache import STOPPED
from qformer_viz.ui.inspector import image_sets_view
from qformer_viz.view.stage_payload import unpack
from tests.support.conversing import ask, looked, pictures, still
from tests.support.fakes_ui import QUERIES, FakeDomain, FakePipeline, fake_capture, fake_services
from tests.support.planted import looking_at


def encoded(services, session, files):
    return image_sets_view.encoded(services, session, services.of(session), files, still)


def test_the_pictures_of_the_program_are_looked_at_where_there_are_no_others(folder):
    paths = pictures(folder, "red", "green", "blue")
    services = fake_services(domain=FakeDomain(samples=tuple(paths)))
    told, view, plot = image_sets_view.looked(services, Session(), None, still)
    assert "Fake &lt;b&gt;model&lt;/b&gt; over 3 images:" in told
    found = qformer_viz.image_set_statistics(
        [services.chat_model.pipe.encode(path).capture for path in paths]
    )
    assert np.allclose(plot["value"].data[0].z, found.content_dependence, atol=1e-4) and plot["visible"]
    assert plot["value"].data[0].y == ("layer 0", "layer 2", "layer 4", "mean")
    shown = json.loads(view)
    assert np.allclose(shown["content_dependence"], found.content_dependence, atol=1e-3)
    assert [image["image"]["width"] for image in shown["images"]] == [60] * 3
    for image, path in zip(shown["images"], paths, strict=True):
        maps, cls = unpack(image)
        cross = services.chat_model.pipe.encode(path).capture.cross_attention[:, 0].mean(1)
        assert np.allclose(maps[:, 0], cross[..., 1:], atol=0.01)
        assert np.allclose(cls[:, 0], cross[..., 0], atol=1e-3)


def test_large_pictures_are_sent_small(folder):
    Image.new("RGB", (1200, 600), "red").save(folder / "large.png")
    seen = encoded(fake_services(), Session(), [str(folder / "large.png"), *pictures(folder, "blue")])
    shown = image_sets_view.sample_images(
        seen, qformer_viz.image_set_statistics([each.capture for each in seen])
    )
    assert [image["image"]["width"] for image in shown["images"]] == [256, 60] and seen[0].image.width == 1200


def test_no_more_pictures_than_the_server_allows(folder):
    paths = pictures(folder, "red", "green", "blue")
    services = fake_services(domain=FakeDomain(samples=tuple(paths * 20)))
    services = replace(services, limits=replace(services.limits, images=2))
    assert "over 2 images" in image_sets_view.looked(services, Session(), None, still)[0]
    for chosen in (paths, paths[:1]):
        told, view, plot = image_sets_view.looked(services, Session(), chosen, still)
        assert f"{len(chosen)} images were chosen. Choose 2 to 2." in told
        assert view == "" and not plot["visible"]
    assert "over 2 images" in image_sets_view.looked(services, Session(), paths[1:], still)[0]


def test_a_bad_file_is_named_and_one_from_elsewhere_refused(folder, tmp_path_factory):
    (good,) = pictures(folder, "red")
    (folder / "bad <i>.png").write_bytes(b"no picture")
    told, view, _ = image_sets_view.looked(
        fake_services(), Session(), [good, str(folder / "bad <i>.png")], still
    )
    assert "bad &lt;i&gt;.png: " in told and view == ""
    elsewhere = pictures(tmp_path_factory.mktemp("elsewhere"), "blue")
    told, view, _ = image_sets_view.looked(fake_services(), Session(), [good, *elsewhere], still)
    assert "not uploaded to this server" in told and view == ""


def test_of_what_moves_the_first_frame_is_seen(folder):
    first, second = (Image.new("RGB", (30, 20), colour) for colour in ("red", "blue"))
    first.save(folder / "moves.gif", save_all=True, append_images=[second], duration=300)
    services = fake_services(FakePipeline(family="instructblip"))
    seen = encoded(services, Session(), [str(folder / "moves.gif"), *pictures(folder, "green")])
    assert [len(each.frames) for each in seen] == [1, 1]


def test_where_the_question_is_read_all_pictures_get_the_last_one(folder, tmp_path):
    paths = pictures(folder, "red", "green")
    for family, read in (("instructblip", "what is it?"), ("blip2", None)):
        services = fake_services(FakePipeline(family=family))
        session = looked(services, Session(), tmp_path)
        assert [each.question for each in encoded(services, session, paths)] == [None, None]
        session = ask(services, session, "what is it?")
        assert [each.question for each in encoded(services, session, paths)] == [read, read]


def test_it_can_be_stopped(folder):
    session, services = Session(), fake_services()

    def stop(*_, **__):
        session.pause.set()

    told, view, _ = image_sets_view.looked(services, session, pictures(folder, "red", "green", "blue"), stop)
    assert STOPPED in told and view == "" and services.chat_model.pipe.encoded == 2
    assert (
        "over 3 images"
        in image_sets_view.looked(services, session, pictures(folder, "red", "green", "blue"), still)[0]
    )


def test_collapse_over_the_set_is_announced(folder):
    class Dull(FakePipeline):
        def encode(self, image, question=None):
            found = super().encode(image, question)
            capture = fake_capture(1)
            states = torch.ones_like(capture.query_states)
            return replace(found, capture=replace(looking_at([3] * QUERIES), query_states=states))

    told, _, _ = image_sets_view.looked(
        fake_services(Dull()), Session(), pictures(folder, "red", "green"), still
    )
    assert "Signs of collapse: " in told and "the image hardly matters" in told


def test_the_program_has_pictures_of_every_world():
    from itertools import islice

    assert len([*islice(EMOJI_SCENES.sample_images(), 24)]) == 24
    assert len([*find_domain("photographs").sample_images()]) == 12
    assert [*find_domain("cartoons").sample_images()] == [*find_domain("photographs").sample_images()]

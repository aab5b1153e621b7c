"""app.py: options, services for the bundled world, and refusals that name the fix."""

import asyncio
import base64
import socket
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from PIL import Image

import qformer_viz
from qformer_viz import ui
from qformer_viz.cli import app_address, app_setup
from qformer_viz.cli.commands import app_command
from qformer_viz.domains import domain_registry
from qformer_viz.domains.domain import Domain, Example, SceneMaker
from qformer_viz.domains.domain_registry import EMOJI_SCENES
from qformer_viz.domains.emoji import example_gallery
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime import checkpoints
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.model_cache import tidy
from qformer_viz.ui import launch_options
from qformer_viz.ui.app_context import ChatModel
from qformer_viz.ui.components import facts, head
from qformer_viz.ui.conversation import Session
from qformer_viz.ui.event_groups import at_once
from qformer_viz.ui.inspector import image_sets_view
from qformer_viz.ui.inspector.about_view import header
from tests.support.fakes_ui import (
    FakeDomain,
    FakeMatcher,
    FakePipeline,
    fake_choice,
    fake_services,
    fake_speaker,
)
from tests.support.serving import call, serve

ROOT = Path(__file__).parents[2]


def build(services):
    """The page, built inside a loop: outside one Gradio makes its own and leaves it open. In a thread, for
    Playwright keeps a loop of its own in this one."""

    async def inside():
        return ui.build(services)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, inside()).result()


@pytest.fixture
def taken():
    """A port that something listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_served_to_this_machine_only_unless_asked():
    args = app_command.app_parser().parse_args([])
    assert args.host == "127.0.0.1" and args.share is False and args.model == "blip2-emoji"


def test_every_variable_is_documented():
    text = app_command.app_parser().format_help()
    for name in ("MODEL", "QUANTIZATION", "DEVICE", "ALLOW", "HOST", "PORT"):
        assert f"QFORMER_VIZ_{name}" in text


def test_a_taken_port_is_refused_before_anything_is_loaded(taken, capsys, monkeypatch):
    monkeypatch.setattr(app_setup, "load", lambda *_: pytest.fail("loaded"))
    assert app_command.main(["--port", str(taken)]) == 2
    err = capsys.readouterr().err
    assert str(taken) in err and "--port" in err


def test_the_next_free_port_is_taken(taken, monkeypatch):
    monkeypatch.setattr(app_address, "FIRST_PORT", taken)
    assert taken < app_address.free_port("127.0.0.1") < taken + app_address.PORTS


@pytest.mark.slow
def test_unknown_checkpoint_is_refused_in_words():
    command = [sys.executable, "app.py", "--model", "no/such"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: " in done.stderr and "no/such" in done.stderr and "Traceback" not in done.stderr


def test_geometry_is_read_from_the_configuration():
    qformer = SimpleNamespace(num_hidden_layers=6, cross_attention_frequency=2, num_attention_heads=3)
    found = app_setup.geometry(SimpleNamespace(qformer_config=qformer, num_query_tokens=32))
    assert (found.layers, found.cross_layers, found.heads, found.queries) == (6, (0, 2, 4), 3, 32)


def test_scene_maker_draws_what_was_chosen():
    maker = EMOJI_SCENES.scene_maker()
    image = maker.render(["cat", "dog"], maker.layouts[0], None)
    assert image.size == (224, 224)
    with pytest.raises(ValueError, match="one to 4 nouns"):
        maker.render([], maker.layouts[0], None)


@pytest.mark.slow
def test_privacy_and_limits_of_the_page():
    services = fake_services()
    options, page = launch_options(services), build(services)
    assert options["share"] is False and options["enable_monitoring"] is False
    assert options["run_history"] is False and options["max_file_size"] == services.limits.upload
    assert page.analytics_enabled is False and page.api_open is False
    assert page.delete_cache == (600, services.limits.cache_seconds)


@pytest.mark.slow
def test_what_changes_a_session_waits_its_turn_and_nobody_waits_for_long_work():
    page = build(fake_services(precisions={"8bit": FakePipeline}, matcher=FakeMatcher(), **fake_choice()))
    lanes = {}
    for function in page.fns.values():
        if function.fn is not None:
            function.name = getattr(function.fn, "func", function.fn).__name__
            lanes.setdefault(function.concurrency_id, {})[function.name] = function
    (session,) = (
        block for block in page.blocks.values() if isinstance(getattr(block, "value", None), Session)
    )
    changing = [fn for fn in page.fns.values() if session in fn.outputs]
    # A question is taken or refused at once; whether an answer is still growing is looked at.
    assert {fn.name for fn in changing if fn.concurrency_id != "chat"} == {"pose"}
    assert {"look", "look_at_film", "answer", "change", "retry", "clear"} <= set(lanes["chat"])
    assert {fn.concurrency_limit for fn in lanes["chat"].values()} == {1}
    assert {
        "start",
        "compute",
        "check",
        "weigh",
        "paint",
        "run_change",
        "look",
        "look_at",
        "pair",
        "compare",
    } <= set(lanes["long"])
    assert {fn.concurrency_limit for fn in lanes["long"].values()} == {4}
    assert set(lanes["load"]) == {"read", "compare"}
    assert {"caption", "ask", "attention", "explain"} <= set(lanes["api"])


@pytest.mark.slow
def test_page_without_examples_or_scene_maker_builds():
    assert build(fake_services(scene_maker=None, ood_check=None))


@pytest.mark.slow
def test_text_from_elsewhere_is_escaped():
    evil = "<img src=x onerror=alert(1)>"
    assert evil not in facts([(evil, evil, evil)], warning=evil)
    pipe = FakePipeline(name=evil, reason=f'"{evil}')
    page = build(fake_services(pipe, domain=FakeDomain(evil)))
    shown = [block.value for block in page.blocks.values() if block.get_block_name() == "html"]
    assert any("Fake &lt;b&gt;model" in str(value) for value in shown)
    assert not any(evil in str(value) for value in shown)


@pytest.mark.slow
def test_a_space_is_reached_from_outside_and_can_be_duplicated(monkeypatch):
    assert app_address.open_host({}) == "127.0.0.1"
    assert app_address.open_host({"SYSTEM": "spaces"}) == "0.0.0.0"
    assert app_address.open_host({"GRADIO_SERVER_NAME": "::"}) == "::"

    def duplicates():
        kinds = [type(block).__name__ for block in build(fake_services()).blocks.values()]
        return kinds.count("DuplicateButton")

    assert duplicates() == 0
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "someone/qformer-viz")
    assert duplicates() == 1


def test_head_closes_no_script_early():
    text = head()
    assert text.count("<script>") == text.count("</script>") == 7
    assert text.count("<style>") == text.count("</style>") == 3
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text


def stand_in(world=EMOJI_SCENES.name, family="blip2", title="One", parameters=9e6, device="cpu"):
    """What `make_services` needs of a pipeline, without a model."""
    qformer = SimpleNamespace(num_hidden_layers=2, cross_attention_frequency=2, num_attention_heads=3)
    return SimpleNamespace(
        checkpoint=Checkpoint(
            id=title.lower(), title=title, family=family, world=world, folder=Path("no/such")
        ),
        model=SimpleNamespace(
            config=SimpleNamespace(qformer_config=qformer, num_query_tokens=4),
            num_parameters=lambda: parameters,
        ),
        processor=SimpleNamespace(tokenizer=None),
        family=family,
        device=torch.device(device),
    )


def test_uploads_are_decoded_in_a_child_process():
    from qformer_viz.media import decode_pool

    assert app_setup.make_context(stand_in()).decode is decode_pool.decode


def test_other_models_are_loaded_when_chosen_and_only_once():
    first, second = stand_in(), stand_in(family="instructblip", title="Two")
    loaded = []
    services = app_setup.make_context(first, others={second.checkpoint: lambda: loaded.append(1) or second})
    assert list(services.models) == ["One", "Two"] and services.compares_questions and not loaded
    assert services.models["One"]() is services.chat_model
    assert services.models["Two"]() is services.models["Two"]() and services.models["Two"]().reads_questions
    assert len(loaded) == 1


@pytest.mark.slow
def test_a_model_that_is_dropped_is_freed_though_its_images_live_on():
    """A visitor's image holds no weights of the model that encoded it."""
    from tests.support import fake_checkpoints as fakes

    pipe = fakes.pipeline(observe=qformer_viz.capture)
    encoded = pipe.encode(Image.new("RGB", (40, 30), "red"))
    weights = weakref.ref(pipe.model)
    del pipe
    tidy()
    assert weights() is None and encoded.queries.isfinite().all()


def test_offered_checkpoints_are_named_and_not_read(tmp_path):
    from qformer_viz.errors import CheckpointError

    (tmp_path / "config.json").write_text('{"model_type": "instructblip"}')
    args = app_command.app_parser().parse_args(["--offer", "Salesforce/blip2-opt-2.7b", str(tmp_path)])
    found = app_setup.offered(args)
    assert [(entry.title, entry.family) for entry in found] == [
        ("BLIP-2 OPT-2.7B", "blip2"),
        (tmp_path.name, "instructblip"),
    ]
    services = app_setup.make_context(stand_in(), others=found)
    assert list(services.models) == ["One", "BLIP-2 OPT-2.7B", tmp_path.name] and services.compares_questions
    with pytest.raises(CheckpointError, match="allow"):
        app_setup.offered(app_command.app_parser().parse_args(["--offer", "someone/theirs"]))


def test_a_model_alone_offers_no_choice_and_compares_no_questions():
    services = app_setup.make_context(stand_in(world="photographs"))
    assert list(services.models) == ["One"] and not services.compares_questions and not services.examples


def test_small_models_are_quick_and_all_on_a_gpu():
    assert app_setup.chat_model(stand_in()).quick
    assert not app_setup.chat_model(stand_in(world="photographs", parameters=3.7e9)).quick
    assert app_setup.chat_model(stand_in(world="photographs", parameters=3.7e9, device="cuda:0")).quick


@dataclass(frozen=True)
class Squares(Domain):
    """A domain that a newcomer adds: one file and a line in the registry."""

    name: str = "squares"
    is_bundled: bool = True
    matcher: str = "square-matcher"
    folder: Path = Path()

    def reference_images(self):
        yield Image.new("RGB", (8, 8), "red")

    def examples(self):
        return (Example(self.folder / "square.png", "a square"),)

    def scene_maker(self):
        return SceneMaker(("square",), ("row",), (), lambda *_: Image.new("RGB", (8, 8)))

    def ood_check(self, folder):
        return lambda encoded: f"No square, says {folder}."

    def unknown_words(self, tokenizer):
        return lambda question: [word for word in question.split() if word != "square"]


def test_a_domain_that_is_added_is_used_by_the_page(tmp_path, monkeypatch):
    squares = Squares(folder=tmp_path)
    monkeypatch.setitem(domain_registry.DOMAINS, squares.name, squares)
    (tmp_path / "config.json").write_text("{}")
    matcher = Checkpoint(squares.matcher, "Fits", "retrieval", world="squares", folder=tmp_path)
    other = Checkpoint("two", "Two", "blip2", world="squares", folder=tmp_path)
    monkeypatch.setattr(
        checkpoints, "CHECKPOINTS", checkpoints.CHECKPOINTS | {each.id: each for each in (matcher, other)}
    )
    pipe = stand_in(world="squares")
    services = app_setup.make_context(pipe)
    assert services.examples == ((tmp_path / "square.png", "a square"),)
    assert services.scene_maker.nouns == ("square",)
    model = services.chat_model
    assert model.domain is squares and "Knows squares" in header(
        ChatModel(FakePipeline(), model.geometry, squares)
    )
    assert model.ood_check(None) == f"No square, says {pipe.checkpoint.folder}."
    assert model.unknown_words("square dance") == ["dance"]
    seen = image_sets_view.encoded(
        fake_services(domain=squares), Session(), fake_speaker(), None, lambda done, of: None
    )
    assert [each.image.getpixel((0, 0)) for each in seen] == [(255, 0, 0)]
    args = app_command.app_parser().parse_args([])
    assert app_setup.default_matcher(pipe) == "square-matcher" and list(
        app_setup.bundled_beside(pipe, args)
    ) == [other]


def test_bundled_models_keep_to_themselves(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    here = {"world": EMOJI_SCENES.name, "folder": tmp_path}
    entries = [
        Checkpoint("one", "One", "blip2", **here),
        Checkpoint("two", "Two", "instructblip", **here),
        Checkpoint(EMOJI_SCENES.matcher, "Fits", "retrieval", **here),
        Checkpoint("gone", "Gone", "blip2", world=EMOJI_SCENES.name, folder=tmp_path / "gone"),
        Checkpoint("Salesforce/x", "Photographs", "blip2"),
    ]
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", {entry.id: entry for entry in entries})
    args = app_command.app_parser().parse_args([])
    assert [entry.id for entry in app_setup.bundled_beside(stand_in(), args)] == ["two"]
    assert app_setup.default_matcher(stand_in()) == EMOJI_SCENES.matcher
    photographs = stand_in(world="photographs")
    assert (
        app_setup.bundled_beside(photographs, args) == {} and app_setup.default_matcher(photographs) is None
    )


def test_several_steps_are_one_event():
    one, two, three, told, plot = (gr.Textbox(render=False) for _ in range(5))
    steps = [
        (lambda a, b: (a + b, a), [one, two], [told, plot]),
        (lambda: [1], None, three),
        (lambda b: "b" + b, two, one),
    ]
    fn, read, written = at_once(steps)
    assert [each is known for each, known in zip(read, (one, two), strict=True)] == [True, True]
    assert written == [told, plot, three, one] and fn("x", "y") == ["xy", "x", [1], "by"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"compares_questions": True} | fake_choice()])
def test_a_new_picture_costs_few_requests(options):
    """Each is a queue, a request and an answer: a dozen took longer than the caption."""
    page = build(fake_services(matcher=FakeMatcher(), precisions={"8bit": FakePipeline}, **options))
    (view,) = (each for each in page.blocks.values() if getattr(each, "elem_id", "") == "canvas")
    fed = [fn for fn in page.fns.values() if view in fn.outputs]
    looking = {fn.trigger_after for fn in fed if fn.trigger_after is not None}
    following = [sum(fn.trigger_after == each for fn in page.fns.values()) for each in looking]
    assert max(following) <= 7
    # What lags behind a change of the model is not read: Gradio would refuse the whole event.
    others = [each for each in page.blocks.values() if getattr(each, "elem_id", "") == "versus-other"]
    assert not any(
        other in fn.inputs for fn in page.fns.values() if fn.trigger_after in looking for other in others
    )
    # Nothing is written twice by what follows a picture.
    for each in looking:
        written = [out for fn in page.fns.values() if fn.trigger_after == each for out in fn.outputs]
        assert len(written) == len({id(out) for out in written})


@pytest.mark.slow
def test_starts_behind_a_proxy_on_gradios_port(taken, monkeypatch):
    """Universities and firms set HTTP_PROXY without NO_PROXY; Gradio asks its own server through it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    proxies = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY")
    for name in proxies:
        monkeypatch.setenv(name, f"http://127.0.0.1:{taken}")
    for name in ("NO_PROXY", "no_proxy", "QFORMER_VIZ_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
    with serve("app") as url:
        assert url == f"http://127.0.0.1:{port}/"
        for name in proxies:
            monkeypatch.delenv(name)  # only the server is behind the proxy
        # An address is printed before the server has reached itself, and nothing is answered before it has.
        picture = (ROOT / "assets" / "examples" / "concert.png").read_bytes()
        data = "data:image/png;base64," + base64.b64encode(picture).decode()
        assert call(url, "caption", [{"url": data, "meta": {"_type": "gradio.FileData"}}])["ok"]


def test_our_variables_come_before_gradios(monkeypatch):
    for name, value in (("SERVER_NAME", "0.0.0.0"), ("SERVER_PORT", "9000"), ("SHARE", "True")):
        monkeypatch.setenv(f"GRADIO_{name}", value)
    args = app_command.app_parser().parse_args([])
    assert (args.host, args.port, args.share) == ("0.0.0.0", 9000, True)
    monkeypatch.setenv("QFORMER_VIZ_HOST", "127.0.0.1")
    monkeypatch.setenv("QFORMER_VIZ_PORT", "9001")
    args = app_command.app_parser().parse_args([])
    assert (args.host, args.port) == ("127.0.0.1", 9001)


def test_as_many_ports_are_tried_as_gradio_would(taken, monkeypatch):
    monkeypatch.setattr(app_address, "FIRST_PORT", taken)
    monkeypatch.setenv("GRADIO_NUM_PORTS", "1")
    with pytest.raises(SystemExit, match=f"ports {taken} to {taken} are in use"):
        app_address.free_port("127.0.0.1")


def test_a_repository_that_is_not_complete_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(example_gallery, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="git checkout -- assets/examples"):
        EMOJI_SCENES.examples()
    (tmp_path / "scenes.json").write_text('{"cat.png": {}}')
    with pytest.raises(CheckpointError, match=r"cat\.png missing"):
        EMOJI_SCENES.examples()
    (tmp_path / "scenes.json").write_text("{")
    with pytest.raises(CheckpointError, match="assets/examples cannot be read"):
        EMOJI_SCENES.scene_maker()


@pytest.mark.slow
def test_missing_artwork_is_told_in_one_line(tmp_path):
    """In a process of its own, for the artwork is read when its module is."""
    code = (
        "import pathlib, qformer_viz.asset_folder as a; a.ASSETS = pathlib.Path('none')\n"
        "from qformer_viz.domains.domain_registry import EMOJI_SCENES\n"
        "try: EMOJI_SCENES.scene_maker()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "git checkout -- assets/emoji" in found.stdout and found.stdout.startswith("CheckpointError")

"""A pipeline over trips, with a GPU that pickles what goes in and what comes out as ZeroGPU's worker does."""

import gc
import inspect
import pickle
import sys
import threading
import weakref
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import qformer_viz
from qformer_viz import METHODS
from qformer_viz.analysis.head_ablation import ablate_heads, ablate_query_messages
from qformer_viz.attribution.explanation import attribute, prepare
from qformer_viz.attribution.reference_activations import activations_for_patching, reference_activations
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.cli import app_setup
from qformer_viz.cli.commands import app_command
from qformer_viz.errors import QuestionError
from qformer_viz.evaluation.library_maps import library_attention
from qformer_viz.runtime import device_memory
from qformer_viz.runtime.checkpoints import Checkpoint
from qformer_viz.runtime.pipeline import Pipeline
from qformer_viz.runtime.zerogpu import RemotePipeline, remote, zero_gpu
from qformer_viz.types import Decoding
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import FAMILIES, picture

SHORT = Decoding(max_new_tokens=6)


class Lent:
    """A decorator like spaces.GPU: arguments and results are pickled, and of what is raised only the name is told."""

    def __init__(self):
        self.calls = []

    def __call__(self, function):
        def called(*args, **options):
            names = [each for each in args if isinstance(each, str)]
            first = args[0] if isinstance(args[0], str) else args[0].__name__
            self.calls.append(names[0] if first.startswith("_method") else first)
            with self.worker():
                found = function(*self.carried(args), **options)
            return self.streamed(found) if inspect.isgeneratorfunction(function) else self.carried(found)

        return called

    def streamed(self, found):
        with self.worker():
            for each in found:
                yield self.carried(each)

    @staticmethod
    @contextmanager
    def worker():
        try:
            yield
        except Exception as error:
            raise RuntimeError(f"ZeroGPU worker error: {type(error).__name__}") from None

    @staticmethod
    def carried(value):
        return pickle.loads(pickle.dumps(value))


@pytest.fixture(params=FAMILIES, ids="-".join)
def both(request):
    pipe = fakes.pipeline(*request.param, observe=qformer_viz.capture)
    lent = Lent()
    return pipe, remote(pipe, lent), lent


def test_it_sees_and_says_the_same(both):
    pipe, remote, _ = both
    encoded = remote.encode(picture(3), "what?")
    own = pipe.encode(picture(3), "what?")
    assert torch.equal(encoded.queries, own.queries) and encoded.owner is None
    assert torch.equal(encoded.capture.cross_attention, own.capture.cross_attention)
    assert remote.caption(encoded, SHORT).text == pipe.caption(own, SHORT).text
    history = [("what?", "a thing")]
    assert (
        remote.ask(encoded, "how many?", history, SHORT).tokens
        == pipe.ask(own, "how many?", history, SHORT).tokens
    )
    *_, last = remote.stream_ask(encoded, "how many?", history, SHORT)
    assert last.tokens == pipe.ask(own, "how many?", history, SHORT).tokens
    assert remote.describe() == pipe.describe()
    torch.testing.assert_close(library_attention(remote, encoded), library_attention(pipe, own))


def test_a_film_makes_the_trip(both):
    pipe, remote, lent = both
    frames = [picture(seed) for seed in range(4)]
    encoded, own = remote.encode(frames, "what?"), pipe.encode(frames, "what?")
    assert remote.sees_video == pipe.sees_video and torch.equal(encoded.queries, own.queries)
    assert [frame.tobytes() for frame in encoded.frames] == [frame.tobytes() for frame in own.frames]
    assert remote.encode(encoded, "what?") is encoded and encoded.timestamps == own.timestamps
    assert remote.ask(encoded, "what?", (), SHORT).tokens == pipe.ask(own, "what?", (), SHORT).tokens
    # Two films that begin alike are not taken for one another.
    other = remote.encode([*frames[:3], picture(9)], "what?")
    assert (
        torch.equal(other.queries, encoded.queries) != pipe.sees_video
        and lent.calls.count("encode_each") == 2
    )


def test_what_is_known_here_is_not_asked_again(both):
    _, remote, lent = both
    for _ in range(2):
        encoded = remote.encode(picture(3))
        remote.caption(encoded, SHORT)
        reference_activations(remote, encoded.question)
        reference_activations(remote, encoded.question)
        reference_activations(remote, encoded.question)
    assert lent.calls == ["encode_each", "caption", "compute_reference"]
    remote.caption(encoded, Decoding(max_new_tokens=6, do_sample=True))
    remote.caption(encoded, Decoding(max_new_tokens=6, do_sample=True))
    assert lent.calls.count("caption") == 3
    remote.forget()
    remote.encode(picture(3))
    assert lent.calls.count("encode_each") == 2


def test_several_images_are_one_trip(both):
    pipe, remote, lent = both
    pictures = [picture(seed) for seed in range(11)]
    known = remote.encode(pictures[4], "what?")
    lent.calls.clear()
    read = []
    seen = list(remote.encode_each((read.append(each) or each for each in [pictures[0], *pictures]), "what?"))
    assert lent.calls == ["encode_each", "encode_each"] and len(read) == 12
    # Asked for before, and twice within a trip: not computed again.
    assert seen[5] is known and seen.pop(0) is seen[0]
    for own, encoded in zip(pipe.encode_each(pictures, "what?"), seen, strict=False):
        assert torch.equal(own.queries, encoded.queries)
    # A set is not kept.
    next(remote.encode_each(iter(pictures), "what?"))
    assert len(lent.calls) == 3
    assert remote.encode(pictures[4], "what?") is known and len(lent.calls) == 3


def test_explanations_are_the_same(both):
    pipe, remote, _ = both
    own = pipe.encode(picture(4))
    answer = pipe.caption(own, SHORT)
    encoded = remote.encode(picture(4))
    cases = prepare(pipe, own, answer), prepare(remote, encoded, answer)
    for name in METHODS:
        here, there = (attribute(case, name).scores for case in cases)
        torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-3)
    keep = torch.tensor([True, False, True, True])
    for where in ("qformer", "vit"):
        torch.testing.assert_close(
            remote.hidden(encoded, keep, where).queries,
            pipe.hidden(own, keep, where).queries,
            atol=1e-5,
            rtol=1e-4,
        )
    ours, theirs = (case.scorer for case in cases)
    assert theirs.repeats(encoded.queries).tolist() == [True] and theirs.words == ours.words
    assert theirs.likeliest_tokens(encoded.queries, 2) == ours.likeliest_tokens(own.queries, 2)
    assert remote.qformer_text_tokens(encoded.question) == pipe.qformer_text_tokens(own.question)
    for here, there in zip(
        activations_for_patching(pipe, own), activations_for_patching(remote, encoded), strict=True
    ):
        torch.testing.assert_close(here, there)
    for work in (ablate_heads, ablate_query_messages):
        here, there = map(work, cases)
        for name, value in vars(here).items():
            torch.testing.assert_close(getattr(there, name), value, atol=1e-4, rtol=1e-3)


def test_long_explanations_are_one_trip(both):
    _, remote, lent = both
    encoded = remote.encode(picture(4))
    case = prepare(remote, encoded, remote.caption(encoded, SHORT))
    case.cached("ends", lambda: case.scorer.score(encoded.queries.repeat(2, 1, 1)))
    for name in ("occlusion", "rise"):
        lent.calls.clear()
        attribute(case, name)
        assert lent.calls == ["shown"], name


def test_errors_travel_as_themselves(both):
    pipe, remote, _ = both
    with pytest.raises(QuestionError, match="too long"):
        remote.ask(picture(3), "word " * 400)
    with pytest.raises(QuestionError, match="too long"):
        list(remote.stream_ask(picture(3), "word " * 400))
    answer = pipe.caption(picture(3), SHORT)
    with pytest.raises(QuestionError, match="no word"):
        scorer = make_scorer(remote, remote.encode(picture(3)), replace(answer, token_ids=()))
        scorer.attention()


def test_weights_are_brought_to_the_device_in_the_trip(monkeypatch):
    """They wait where they were read; `spaces` keeps its functions for ever, and must not keep a model."""
    model, processor = fakes.parts()
    pipe = Pipeline(
        Checkpoint(id="a", title="a", family="blip2"), model, processor, device=torch.device("meta")
    )
    assert pipe.device.type == "meta" and model.language_projection.weight.device.type == "cpu"
    lent = []
    remote = RemotePipeline(pipe, lambda function: lent.append(function) or function)
    gone = weakref.ref(pipe)
    where = "language_projection.weight"
    monkeypatch.setattr(pipe, "hidden", lambda: str(gone().model.get_parameter(where).device))
    assert remote.hidden() == "meta"
    del remote, pipe, model
    monkeypatch.undo()
    gc.collect()
    assert gone() is None and len(lent) == 2


def test_a_stream_can_be_stopped(both):
    _, remote, _ = both
    stop, seen = threading.Event(), []
    for answer in remote.stream_caption(picture(3), Decoding(max_new_tokens=30), stop):
        seen.append(answer)
        stop.set()
    assert seen[-1].finish is not None and len(seen) <= 2


def test_on_zero_gpu_a_model_is_read_into_main_memory_and_makes_trips(monkeypatch, tmp_path):
    folder = fakes.save(tmp_path / "local")
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    monkeypatch.setitem(sys.modules, "spaces", type("spaces", (), {"GPU": Lent()}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", None)
    args = app_setup.hosted(app_command.app_parser().parse_args(["--offer", str(folder)]))
    ((entry, load),) = app_setup.offered(args).items()
    with monkeypatch.context() as imitated:
        imitated.setattr(torch.cuda, "get_device_name", lambda *_: "an imitation")
        offered = load()
    assert isinstance(offered, RemotePipeline) and entry.folder == folder
    assert offered.device.type == "cuda" and "device cuda" in offered.reason
    assert {weight.device.type for weight in offered.model.parameters()} == {"cpu"}


def test_only_a_space_with_a_lent_gpu_has_trips(monkeypatch):
    pipe = fakes.pipeline()
    assert zero_gpu() is None and app_setup.placed(pipe) is pipe
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", None)
    monkeypatch.setenv("SPACES_ZERO_GPU", "1")
    monkeypatch.setitem(sys.modules, "spaces", type("spaces", (), {"GPU": Lent()}))
    assert app_setup.placed(pipe) is pipe
    pipe.device = torch.device("cuda")
    remote = app_setup.placed(pipe)
    assert isinstance(remote, RemotePipeline)
    # What is cheap on one's own machine is a trip here.
    assert app_setup.chat_model(pipe).quick and not app_setup.chat_model(remote).quick
    # transformers asks in every pass, and the answer would wake CUDA in the process that serves.
    assert torch.cuda.is_current_stream_capturing() is False
    assert device_memory.free(torch.device("cuda")) == float("inf")
    assert app_setup.hosted(app_command.app_parser().parse_args([])).device == "cpu"
    assert (
        app_setup.hosted(app_command.app_parser().parse_args(["--model", "Salesforce/blip2-opt-2.7b"])).device
        == "cuda"
    )
    assert app_setup.hosted(app_command.app_parser().parse_args(["--device", "cpu"])).device == "cpu"
    beside = ["--offer", "instructblip-emoji", "Salesforce/blip2-opt-2.7b"]
    assert app_setup.hosted(app_command.app_parser().parse_args(beside)).device == "cuda"
    assert app_setup.hosted(app_command.app_parser().parse_args(beside[:2])).device == "cpu"

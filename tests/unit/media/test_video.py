"""Moving pictures: which frames are seen, what InstructBLIP makes of them, and what is refused."""

import io
import struct
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import qformer_viz
from qformer_viz.errors import ImageError
from qformer_viz.evaluation.library_maps import library_attention
from qformer_viz.media import video
from qformer_viz.media.image_decoder import decode
from tests.support import checkpoint_factory as factory
from tests.support.films import FILM, FILM_KINDS, SHORT, noise


def gif(count, size=(40, 50), format="PNG"):
    """An animated file without loss."""
    file, frames = io.BytesIO(), [noise(seed, size) for seed in range(count)]
    frames[0].save(file, format, save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("length", "indices"), [(4, [0, 1, 2, 3]), (8, [0, 2, 4, 6]), (10, [0, 2, 5, 7]), (2, [0, 0, 1, 1])]
)
def test_frames_are_spread_evenly_from_the_first_on(length, indices):
    assert video.sample(length) == indices
    decoded = decode(gif(length))
    assert [same(frame, noise(index)) for frame, index in zip(decoded.frames, indices, strict=True)] == [
        True
    ] * 4
    assert decoded.video.timestamps == tuple(f"frame {index + 1}" for index in indices)
    assert decoded.video.length == length and same(decoded.image, noise(0))
    assert ("its 4 frames" if length == 4 else f"4 frames of {length}") + " are seen" in decoded.notices[0]


def test_the_digest_is_that_of_all_frames_and_a_still_has_its_own():
    film, other = decode([noise(0), noise(1)]), decode([noise(0), noise(2)])
    assert film.sha256 != other.sha256 and film.still().sha256 == decode(noise(0)).sha256
    assert film.still().video is None and "only the first frame of 2" in film.still().notices[0]
    assert decode(noise(0)).still() is not None and decode(noise(0)).video is None


def test_a_list_of_pictures_is_a_film():
    decoded = decode([np.asarray(noise(seed)) for seed in range(6)])
    assert decoded.video.timestamps == ("picture 1", "picture 2", "picture 4", "picture 5")
    assert same(decoded.frames[2], noise(3))


def test_pictures_of_several_sizes_and_of_none_are_no_film():
    with pytest.raises(ImageError, match=r"one size; these have 20 × 10, 50 × 40"):
        decode([noise(0), noise(1, (10, 20))])
    with pytest.raises(ImageError, match="no pictures"):
        decode([])


def test_one_too_long_to_look_through_is_sampled_from_its_beginning(monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 40 * 50 * 8)
    assert decode(gif(20)).video.timestamps == ("frame 1", "frame 3", "frame 5", "frame 7")
    monkeypatch.setattr(video, "MAX_PIXELS", 40 * 50 * 3)
    assert decode(gif(20)).video is None and "only the first frame of 20" in decode(gif(20)).notices[0]


def test_one_with_a_damaged_frame_is_a_still():
    data = gif(8)
    decoded = decode(data[: 3 * len(data) // 4])
    assert decoded.video is None and same(decoded.image, noise(0))


def test_a_picture_of_the_callers_own_is_left_at_its_first_frame():
    picture = Image.open(io.BytesIO(gif(8)))
    assert decode(picture).video is not None and picture.tell() == 0


def film_bytes(count=20, size=(48, 64), rate=10, format="mp4", codec="mpeg4", step=10):
    """A film that grows lighter, frame k has the value 10 k, with a white corner at the top left."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.gop_size = 7  # so that most of the frames that are looked for lie between two key frames
        for number in range(count):
            array = np.full((*size, 3), step * number, np.uint8)
            array[: size[0] // 2, : size[1] // 2] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)
    return file.getvalue()


@pytest.mark.parametrize("format", ["mp4", "matroska", "avi"])
def test_a_video_file_is_a_film(format):
    decoded = decode(film_bytes(format=format))
    levels = [round(np.asarray(frame)[-4:, -4:].mean() / 10) for frame in decoded.frames]
    assert levels == [0, 5, 10, 15]
    assert decoded.video.timestamps == ("0.0 s", "0.5 s", "1.0 s", "1.5 s")
    assert decoded.image.size == (64, 48) and "are seen" in decoded.notices[0]


def test_a_frame_late_in_a_video_is_not_reached_through_all_before_it(monkeypatch):
    data = film_bytes(count=48, step=5)
    monkeypatch.setattr(video, "MAX_SOUGHT", 64 * 48 * 8)
    levels = [round(np.asarray(frame)[-4:, -4:].mean() / 5) for frame in decode(data).frames]
    assert levels == [0, 12, 24, 36]


def test_where_key_frames_are_far_apart_the_frame_that_was_reached_is_shown_with_its_moment(monkeypatch):
    monkeypatch.setattr(video, "MAX_SOUGHT", 64 * 48 * 3)
    decoded = decode(film_bytes(count=48, step=5))
    levels = [round(np.asarray(frame)[-4:, -4:].mean() / 5) for frame in decoded.frames]
    assert levels != [0, 12, 24, 36] and levels[0] == 0 and levels == sorted(levels)
    assert decoded.video.timestamps == tuple(f"{level / 10:.1f} s" for level in levels)


@pytest.mark.parametrize("format", ["mp4", "matroska", "avi"])
def test_a_video_is_decoded_by_one_thread(format, monkeypatch):
    """What many threads hold and spend would be hard to bound."""
    threads, frame = [], video._frame
    monkeypatch.setattr(
        video, "_frame", lambda *given: threads.append(given[1].codec_context.thread_count) or frame(*given)
    )
    decode(film_bytes(format=format))
    assert threads == [1] * 4


def test_a_video_frame_that_its_decoder_calls_corrupt_is_refused(monkeypatch):
    data = film_bytes()

    class Corrupt:
        def __init__(self, frame):
            self.frame = frame

        def __getattr__(self, name):
            return True if name == "is_corrupt" else getattr(self.frame, name)

    import av

    decoded = av.container.InputContainer.decode

    class Container:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def decode(self, stream):
            return map(Corrupt, decoded(self.file, stream))

    frames = video._frames
    monkeypatch.setattr(video, "_frames", lambda file, keep: frames(Container(file), keep))
    with pytest.raises(ImageError, match="damaged where it is looked at"):
        decode(data)


def test_a_video_held_upright_is_seen_upright():
    """A phone stores what its sensor saw and how to turn it: here a quarter to the right, in the track's matrix."""
    data = film_bytes()
    track = data.index(b"tkhd")
    straight = (0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = (0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    at = data.index(struct.pack(">9i", *straight), track)
    decoded = decode(data[:at] + struct.pack(">9i", *turned) + data[at + 36 :])
    assert decoded.image.size == (48, 64)
    lightest = np.asarray(decoded.image)[..., 0] > 200
    assert (
        lightest[:32, 24:].mean() > 0.9 and lightest[:32, :24].mean() < 0.1
    )  # it was at the left of the sensor


def test_a_video_needs_pyav_and_says_so(monkeypatch):
    data = film_bytes()
    monkeypatch.setattr(video, "can_read_videos", lambda: False)
    with pytest.raises(ImageError, match="pip install av"):
        decode(data)


@pytest.mark.parametrize("cut", [40, 200, 0.5])
def test_a_damaged_video_is_an_image_error(cut):
    data = film_bytes()
    cut = int(cut * len(data)) if cut < 1 else cut
    with pytest.raises(ImageError, match=r"video"):
        decode(data[:cut])


def test_a_video_that_is_too_large_is_refused(monkeypatch):
    data = film_bytes()
    monkeypatch.setattr(video, "MAX_SIZE", 64 * 48 - 1)
    with pytest.raises(ImageError, match="64 × 48, too large"):
        decode(data)


def test_sound_alone_is_no_film():
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 16000
        for packet in [*stream.encode(sound), *stream.encode()]:
            out.mux(packet)
    with pytest.raises(ImageError, match="only sound"):
        decode(file.getvalue())


@pytest.mark.parametrize(
    "data", [b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile '/etc/passwd'\n"]
)
def test_a_playlist_which_could_name_other_files_is_never_opened(data):
    assert video.container(data) is None
    with pytest.raises(ImageError, match="not an image"):
        decode(data)


def test_a_picture_costs_no_video_library():
    before = {name for name in sys.modules if name == "av" or name.startswith("av.")}
    decode(gif(8))
    assert {name for name in sys.modules if name == "av" or name.startswith("av.")} == before


# What a model makes of it.


def stock(pipe, question, tokens=6):
    """The library's own InstructBlipVideo on the same weights and frames."""
    hf_model, processor = pipe.model, pipe.processor
    if not isinstance(hf_model, transformers.InstructBlipVideoForConditionalGeneration):
        config = hf_model.config.to_dict()
        config |= {"model_type": "instructblipvideo", "video_token_index": config["image_token_index"]}
        config = transformers.InstructBlipVideoConfig(
            **{key: value for key, value in config.items() if key not in ("model_type", "architectures")}
        )
        other = transformers.InstructBlipVideoForConditionalGeneration(config).eval()
        other.load_state_dict(hf_model.state_dict())
        other.language_model.generation_config = hf_model.language_model.generation_config
        hf_model = other
    pixels = processor.image_processor(FILM, return_tensors="pt")["pixel_values"][None]
    reading = processor.qformer_tokenizer(question, return_tensors="pt", return_token_type_ids=False)
    slots = [hf_model.config.video_token_index] * 4 * factory.QUERIES
    ids = torch.tensor([slots + processor.tokenizer(question)["input_ids"]])
    out = hf_model.generate(
        pixel_values=pixels,
        qformer_input_ids=reading["input_ids"],
        qformer_attention_mask=reading["attention_mask"],
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
    )[0].tolist()
    ends = pipe._generator.ends
    new = out[1:] if hf_model.config.text_config.model_type == "t5" else out[ids.shape[1] :]
    return next((new[:at] for at, token in enumerate(new) if token in ends), new)


@pytest.mark.parametrize("kind", FILM_KINDS)
def test_an_answer_about_a_film_is_the_librarys_own(pipes, kind):
    pipe, question = pipes[kind], "how many are there?"
    assert list(pipe.ask(FILM, question, (), SHORT).token_ids) == stock(pipe, question)
    assert pipe.checkpoint.question_prompt == "{}"
    assert list(pipe.caption(FILM, SHORT).token_ids) == stock(pipe, pipe.checkpoint.caption_prompt)


def test_a_film_has_placeholders_of_its_own_where_the_model_knows_them(pipes):
    for kind in FILM_KINDS:
        prompts, config = pipes[kind]._prompts, pipes[kind].model.config
        still, film = prompts.ids("x"), prompts.ids("x", 4 * factory.QUERIES)
        assert film[: 4 * factory.QUERIES] == (config.video_token_index,) * 4 * factory.QUERIES
        own = getattr(config, "image_token_index", config.video_token_index)
        assert still[: factory.QUERIES] == (own,) * factory.QUERIES


@pytest.mark.parametrize("kind", FILM_KINDS)
def test_every_frame_is_seen_as_if_it_were_alone(pipes, kind):
    pipe = pipes[kind]
    whole, alone = pipe.encode(FILM), [pipe.encode(frame) for frame in FILM]
    assert whole.queries.shape[1] == 4 * factory.QUERIES and whole.frames[3].size == (50, 40)
    torch.testing.assert_close(whole.queries, torch.cat([each.queries for each in alone], 1))
    maps = whole.capture.cross_attention
    assert maps.shape[1] == 4
    for frame, each in enumerate(alone):
        torch.testing.assert_close(maps[:, frame], each.capture.cross_attention[:, 0])
        torch.testing.assert_close(
            maps[:, frame], library_attention(pipe, whole, frame), atol=1e-5, rtol=1e-4
        )


@pytest.mark.parametrize("kind", FILM_KINDS)
def test_a_conversation_about_a_film_streams_and_ends_alike(pipes, kind):
    pipe = pipes[kind]
    encoded = pipe.encode(FILM, "what is it?")
    first = pipe.ask(encoded, "what is it?", (), SHORT)
    history = [("what is it?", first.text)]
    *_, last = pipe.stream_ask(encoded, "where?", history, SHORT)
    fresh = qformer_viz.runtime.pipeline.Pipeline(pipe.checkpoint, pipe.model, pipe.processor)
    assert last.token_ids == fresh.ask(FILM, "where?", history, SHORT).token_ids
    assert "4 frames are seen" in last.notices[0]


def test_blip2_sees_the_first_frame_and_says_so(pipes):
    pipe = pipes["blip2-opt"]
    encoded, still = pipe.encode(FILM), pipe.encode(FILM[0])
    assert torch.equal(encoded.queries, still.queries) and encoded.sha256 == still.sha256
    assert "only the first frame of 4" in pipe.caption(FILM, SHORT).notices[0] and encoded.timestamps == ()


def test_another_model_sees_the_film_again(pipes):
    """A visitor who changes to BLIP-2 and back has not lost the film."""
    first = pipes["blip2-opt"].encode(FILM)
    again = pipes["instructblip-vicuna"].encode(first)
    assert len(again.frames) == 4 and torch.equal(
        again.queries, pipes["instructblip-vicuna"].encode(FILM).queries
    )


@pytest.mark.parametrize("where", ["qformer", "vit"])
def test_patches_are_hidden_in_every_frame(pipes, where):
    pipe = pipes["instructblipvideo-vicuna"]
    keep = torch.tensor([True, False, True, True])
    whole = pipe.hidden(pipe.encode(FILM), keep, where)
    alone = [pipe.hidden(pipe.encode(frame), keep, where).queries for frame in FILM]
    torch.testing.assert_close(whole.queries, torch.cat(alone, 1))


@pytest.mark.parametrize("where", ["qformer", "vit"])
def test_patches_are_hidden_in_single_frames(pipes, where):
    pipe = pipes["instructblipvideo-vicuna"]
    keep = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    whole = pipe.hidden(pipe.encode(FILM), keep, where)
    alone = [pipe.hidden(pipe.encode(f), k, where).queries for f, k in zip(FILM, keep, strict=True)]
    torch.testing.assert_close(whole.queries, torch.cat(alone, 1))
    changed = (whole.queries - pipe.encode(FILM).queries).abs().unflatten(1, (4, -1)).amax((0, 2, 3))
    assert changed[0] < 1e-5 < 1e-4 < changed[1:].min()

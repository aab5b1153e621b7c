"""The pipeline against stock `generate`, and against itself without its caches."""

import dataclasses
import gc
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

import qformer_viz.runtime.generation
from qformer_viz.attribution.reference_activations import reference_activations
from qformer_viz.domains.photographs import Photographs
from qformer_viz.errors import ImageError, OutOfDeviceMemory, QuestionError
from qformer_viz.runtime.lru_cache import LRUCache
from qformer_viz.runtime.token_text import Wording
from qformer_viz.types import Answer, Decoding
from tests.support import fake_checkpoints as fakes
from tests.support.fake_checkpoints import FAMILIES, picture
from tests.support.occupied import occupied

SHORT = Decoding(max_new_tokens=12)
QUESTION = "what is on the left?"


def stock(pipe, image, prompt, **options):
    """New token ids of the library's own generate, end-of-sequence removed, and its raw logits."""
    inputs = pipe.processor(images=image, text=prompt, return_tensors="pt")
    out = pipe.model.generate(**inputs, output_logits=True, return_dict_in_generate=True, **options)
    start = inputs["input_ids"].shape[1] if pipe.model.config.use_decoder_only_language_model else 1
    ids = out.sequences[0, start:].tolist()
    return [token for token in ids if token not in (fakes.END, fakes.PAD)], out


class Count:
    """Calls and positions read by a module, as forward hooks see them."""

    def __init__(self, module):
        self.calls, self.positions = 0, 0
        self.handle = module.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, module, args, kwargs):
        self.calls += 1
        given = kwargs.get("inputs_embeds")
        given = kwargs.get("input_ids") if given is None else given
        self.positions += 0 if given is None else given.shape[1]


@pytest.mark.parametrize(("family", "language"), FAMILIES)
@pytest.mark.parametrize("question", [None, QUESTION, "Größe? 猫"])
def test_greedy_is_stock_token_by_token(family, language, question):
    pipe = fakes.pipeline(family, language)
    answer = pipe.caption(picture(), SHORT) if question is None else pipe.ask(picture(), question, (), SHORT)
    ids, out = stock(pipe, picture(), answer.prompt, max_new_tokens=12, do_sample=False)
    assert list(answer.token_ids) == ids and len(ids) > 5
    expected = [
        torch.log_softmax(logits[0], -1)[token].item() for logits, token in zip(out.logits, ids, strict=False)
    ]
    assert answer.logprobs == pytest.approx(expected, abs=1e-4)
    assert answer.text == pipe.processor.decode(ids, skip_special_tokens=True).strip()
    assert "".join(answer.tokens).strip() == answer.text and len(answer.tokens) == len(ids)


@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_beams_are_stock_and_their_logprobs_those_of_a_clean_pass(family, language):
    pipe = fakes.pipeline(family, language)
    answer = pipe.caption(picture(), Decoding(max_new_tokens=8, num_beams=3))
    ids, _ = stock(pipe, picture(), answer.prompt, max_new_tokens=8, num_beams=3, do_sample=False)
    assert list(answer.token_ids) == ids and ids
    forced = forced_logprobs(pipe, picture(), answer.prompt, ids)
    assert answer.logprobs == pytest.approx(forced, abs=1e-4)


def forced_logprobs(pipe, image, prompt, ids):
    """Independent route: the whole model's forward on prompt and result."""
    inputs = dict(pipe.processor(images=image, text=prompt, return_tensors="pt"))
    new = torch.tensor([ids])
    if pipe.model.config.use_decoder_only_language_model:
        before = inputs["input_ids"].shape[1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], new], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        logits = pipe.model(**inputs).logits[:, before - 1 : -1]
    else:
        start = torch.full((1, 1), fakes.PAD)
        logits = pipe.model(**inputs, decoder_input_ids=torch.cat([start, new[:, :-1]], dim=1)).logits
    return logits.log_softmax(-1)[0].gather(1, new.T)[:, 0].tolist()


def test_repetition_penalty_is_stock_but_logprobs_stay_raw():
    pipe = fakes.pipeline()
    answer = pipe.caption(picture(), Decoding(max_new_tokens=10, repetition_penalty=3.0))
    ids, _ = stock(pipe, picture(), answer.prompt, max_new_tokens=10, repetition_penalty=3.0, do_sample=False)
    assert list(answer.token_ids) == ids
    assert ids != list(pipe.caption(picture(), Decoding(max_new_tokens=10)).token_ids)
    assert answer.logprobs == pytest.approx(forced_logprobs(pipe, picture(), answer.prompt, ids), abs=1e-4)


def test_sampling_repeats_with_its_seed_and_disturbs_no_one_else():
    pipe, other = fakes.pipeline(), fakes.pipeline()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hot = Decoding(max_new_tokens=12, do_sample=True, temperature=2.0, seed=1)
    first = pipe.caption(picture(), hot)
    assert torch.equal(torch.rand(3), expected)
    assert other.caption(picture(), hot).token_ids == first.token_ids
    assert pipe.caption(picture(), dataclasses.replace(hot, seed=2)).token_ids != first.token_ids
    raw = forced_logprobs(pipe, picture(), first.prompt, list(first.token_ids))
    assert first.logprobs == pytest.approx(raw, abs=1e-4)


def test_unseeded_sampling_is_drawn_anew():
    pipe = fakes.pipeline()
    hot = Decoding(max_new_tokens=12, do_sample=True, temperature=3.0)
    assert len({pipe.caption(picture(), hot).token_ids for _ in range(4)}) > 1


def test_one_vision_pass_for_any_number_of_questions():
    pipe = fakes.pipeline()
    vision, qformer = Count(pipe.model.vision_model), Count(pipe.model.qformer)
    encoded = pipe.encode(picture())
    for question in ("one?", "two?", "three?"):
        pipe.ask(encoded, question, (), SHORT)
        pipe.ask(picture(), question, (), SHORT)
    pipe.caption(picture(), SHORT)
    assert (vision.calls, qformer.calls) == (1, 1)
    assert pipe.encode(picture()) is encoded


def test_instructblip_runs_vit_once_and_qformer_once_per_question():
    pipe = fakes.pipeline("instructblip")
    vision, qformer = Count(pipe.model.vision_model), Count(pipe.model.qformer)
    encoded = pipe.encode(picture())
    for question in ("one?", "two?", "one?"):
        pipe.ask(encoded, question, (), SHORT)
    pipe.caption(encoded, SHORT)
    assert (vision.calls, qformer.calls) == (1, 3)
    assert pipe.encode(picture(), "two?").question == "Question: two? Answer:"
    assert not torch.equal(pipe.encode(picture(), "two?").queries, encoded.queries)


def test_simultaneous_encodes_of_one_image_run_the_model_once():
    pipe = fakes.pipeline()
    entered, seen = threading.Event(), []
    vision = Count(pipe.model.vision_model)

    def slow(*_):
        entered.set()
        gate.wait(5)

    gate = threading.Event()
    pipe.model.vision_model.register_forward_hook(slow)
    threads = [threading.Thread(target=lambda: seen.append(pipe.encode(picture()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert entered.wait(5)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert vision.calls == 1 and len(seen) == 4 and len({id(encoded) for encoded in seen}) == 1


def test_threads_get_what_they_get_alone():
    pipe = fakes.pipeline()
    alone = {seed: fakes.pipeline().ask(picture(seed), QUESTION, (), SHORT).token_ids for seed in range(4)}
    assert len(set(alone.values())) > 1
    together = {}

    def work(seed):
        together[seed] = [pipe.ask(picture(seed), QUESTION, (), SHORT).token_ids for _ in range(3)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert together == {seed: [ids] * 3 for seed, ids in alone.items()}


@pytest.mark.parametrize("family", ["blip2", "instructblip"])
def test_looking_at_a_set_of_pictures_pushes_nothing_out(family):
    pipe = fakes.pipeline(family)
    known, vision = pipe.encode(picture(0)), Count(pipe.model.vision_model)
    seen = list(pipe.encode_each((picture(seed) for seed in range(20)), None))
    assert seen[0] is known and pipe.encode(picture(0)) is known and vision.calls == 19
    pipe.encode(picture(0), QUESTION)
    assert vision.calls == 19
    assert torch.equal(pipe.encode(picture(1)).queries, seen[1].queries) and vision.calls == 20


def test_the_image_cache_is_bounded():
    pipe = fakes.pipeline()
    for seed in range(20):
        pipe.encode(picture(seed))
    assert len(pipe.encoder._encoded) == 16
    vision = Count(pipe.model.vision_model)
    pipe.encode(picture(19))
    pipe.encode(picture(0))
    assert vision.calls == 1


def test_what_was_used_last_is_kept_longest():
    cache = LRUCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), len(cache)) == (1, None, 3, 2)


def test_a_known_answer_costs_no_language_model_pass():
    pipe = fakes.pipeline()
    first = pipe.ask(picture(), QUESTION, [("", "a cat")], SHORT)
    language = Count(pipe.model.language_model)
    again = pipe.ask(picture(), QUESTION, [("", "a cat")], SHORT)
    streamed = list(pipe.stream_ask(picture(), QUESTION, [("", "a cat")], SHORT))
    assert again == first and streamed[-1] == first
    assert [len(partial.tokens) for partial in streamed] == [*range(1, 12), 12]
    assert language.calls == 0
    pipe.ask(picture(), QUESTION, [("", "a dog")], SHORT)
    assert language.calls > 0


def test_what_is_known_does_not_wait_for_a_model_that_is_busy():
    pipe = fakes.pipeline()
    first, given = pipe.caption(picture(), SHORT), []
    with occupied(pipe._queue):
        thread = threading.Thread(target=lambda: given.append(pipe.caption(picture(), SHORT)), daemon=True)
        thread.start()
        thread.join(5)
        assert given == [first]


def test_answers_belong_to_the_queries_not_to_the_pixels():
    """A knocked-out EncodedImage must not be given the whole image's answer."""
    pipe = fakes.pipeline()
    encoded = pipe.encode(picture())
    whole = pipe.caption(encoded, SHORT)
    blank = dataclasses.replace(encoded, queries=torch.zeros_like(encoded.queries))
    assert pipe.caption(blank, SHORT).logprobs != whole.logprobs


def test_an_image_encoded_by_another_pipeline_is_encoded_again():
    one, two = fakes.pipeline(), fakes.pipeline(seed=3)
    foreign = two.caption(one.encode(picture()), SHORT)
    assert foreign.token_ids == two.caption(picture(), SHORT).token_ids
    assert foreign.token_ids != one.caption(picture(), SHORT).token_ids


TURNS = ["what is this?", "where is it?", "how many?", "is it large?"]


def conversation(pipe, decoding=SHORT):
    answers, history = [], []
    for question in TURNS:
        answers.append(pipe.ask(picture(), question, history, decoding))
        history.append((question, answers[-1].text))
    return answers


@pytest.mark.parametrize("decoding", [SHORT, Decoding(max_new_tokens=12, do_sample=True, seed=4)])
def test_a_conversation_reuses_its_keys_and_values_exactly(decoding):
    pipe, plain = fakes.pipeline(), fakes.pipeline()
    plain._generator.reuse = False
    read, all_of_it = Count(pipe.model.language_model), Count(plain.model.language_model)
    reused, fresh = conversation(pipe, decoding), conversation(plain, decoding)
    assert [answer.token_ids for answer in reused] == [answer.token_ids for answer in fresh]
    for ours, theirs in zip(reused, fresh, strict=True):
        assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-4)
    # Without reuse every turn reads its whole prompt; with it only what the turns before did not read.
    prompts = [len(pipe._prompts.ids(answer.prompt)) for answer in reused]
    # The last token of an answer is never read, but an end-of-sequence comes after all of them.
    written = sum(len(answer.token_ids) - (answer.finish == "length") for answer in reused)
    assert all_of_it.positions == sum(prompts) + written
    assert read.positions < all_of_it.positions / 2


def test_two_users_of_one_image_do_not_touch_each_others_keys_and_values():
    pipe = fakes.pipeline()
    cats = pipe.ask(picture(), QUESTION, [("", "a cat")], SHORT)
    held = [prefix for _, prefix in pipe._generator._prefixes.items()]
    before = [(keys.clone(), values.clone()) for prefix in held for keys, values in prefix.layers]
    assert before
    pipe.ask(picture(), QUESTION, [("", "a dog")], SHORT)
    pipe.ask(picture(), "why?", [("", "a cat"), (QUESTION, cats.text)], Decoding(max_new_tokens=3))
    after = [pair for prefix in held for pair in prefix.layers]
    for (keys, values), (old_keys, old_values) in zip(after, before, strict=True):
        assert torch.equal(keys, old_keys) and torch.equal(values, old_values)
    again = fakes.pipeline().ask(picture(), "why?", [("", "a cat"), (QUESTION, cats.text)], SHORT)
    assert (
        pipe.ask(picture(), "why?", [("", "a cat"), (QUESTION, cats.text)], SHORT).token_ids
        == again.token_ids
    )


def test_a_growing_conversation_keeps_one_cache_and_all_of_them_are_bounded():
    pipe = fakes.pipeline()
    conversation(pipe)
    assert len(pipe._generator._prefixes) == 1
    for seed in range(12):
        pipe.caption(picture(seed), Decoding(max_new_tokens=2))
    assert len(pipe._generator._prefixes) == qformer_viz.runtime.generation.PREFIXES


@pytest.mark.parametrize("options", [{"language": "t5"}, {"quantization": "8bit"}])
def test_no_reuse_where_it_is_not_exact(options):
    pipe = fakes.pipeline(**options)
    conversation(pipe)
    pipe.caption(picture(), Decoding(max_new_tokens=4, num_beams=2))
    assert len(pipe._generator._prefixes) == 0


def test_beams_neither_use_nor_leave_keys_and_values():
    pipe = fakes.pipeline()
    pipe.caption(picture(), Decoding(max_new_tokens=4, num_beams=2))
    assert len(pipe._generator._prefixes) == 0


@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_a_stream_grows_to_the_whole_answer(family, language):
    pipe = fakes.pipeline(family, language)
    partials = list(pipe.stream_ask(picture(), QUESTION, (), SHORT))
    whole = fakes.pipeline(family, language).ask(picture(), QUESTION, (), SHORT)
    assert partials[-1].token_ids == whole.token_ids and partials[-1].finish == whole.finish == "length"
    assert [len(partial.token_ids) for partial in partials] == [*range(1, 13), 12]
    for partial in partials[:-1]:
        count = len(partial.token_ids)
        assert partial.finish is None and partial.token_ids == whole.token_ids[:count]
        assert partial.logprobs == pytest.approx(whole.logprobs[:count], abs=1e-6)


def test_beams_stream_their_result_only():
    partials = list(fakes.pipeline().stream_caption(picture(), Decoding(max_new_tokens=5, num_beams=2)))
    assert [partial.finish for partial in partials] == ["length"]


def test_stop_ends_the_stream_and_is_not_remembered():
    pipe, stop = fakes.pipeline(), threading.Event()
    long = Decoding(max_new_tokens=200)
    partials = []
    for partial in pipe.stream_caption(picture(), long, stop):
        partials.append(partial)
        if len(partial.tokens) == 3:
            stop.set()
    assert partials[-1].finish == "stopped" and 3 <= len(partials[-1].tokens) < 200
    assert pipe.caption(picture(), long).finish == "length"


def stream_threads():
    return [thread for thread in threading.enumerate() if thread.name == "qformer-stream"]


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_an_abandoned_stream_leaves_no_thread_and_no_lock(leave):
    pipe = fakes.pipeline()
    language = Count(pipe.model.language_model)
    answers = pipe.stream_caption(picture(), Decoding(max_new_tokens=300))
    next(answers)
    assert len(stream_threads()) == 1
    if leave == "close":
        answers.close()
    del answers
    gc.collect()
    assert stream_threads() == [] and language.calls < 300
    assert pipe.ask(picture(), QUESTION, (), SHORT).finish == "length"


def test_a_stream_that_waits_for_the_model_can_be_stopped():
    pipe, stop = fakes.pipeline(), threading.Event()
    pipe.encode(picture())
    with occupied(pipe._queue):
        answers = pipe.stream_caption(picture(), SHORT, stop)
        stop.set()
        assert [answer.finish for answer in answers] == ["stopped"]
    assert stream_threads() == []


def test_errors_of_the_worker_are_raised_to_the_consumer():
    pipe = fakes.pipeline()
    with pytest.raises(QuestionError, match="empty"):
        next(pipe.stream_ask(picture(), "  "))
    with pytest.raises(ImageError):
        list(pipe.stream_caption(b"no image", SHORT))

    def fail(*_):
        raise RuntimeError("planted")

    handle = pipe.model.language_model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="planted"):
        list(pipe.stream_caption(picture(), SHORT))
    handle.remove()
    assert stream_threads() == [] and pipe.caption(picture(), SHORT).tokens


def test_an_answer_that_ends_at_once_says_so():
    first = fakes.pipeline().caption(picture(), SHORT).token_ids[0]
    pipe = fakes.pipeline(end=first)
    answer = pipe.caption(picture(), SHORT)
    assert (answer.text, answer.tokens, answer.logprobs, answer.finish) == ("", (), (), "empty")
    assert [partial.finish for partial in pipe.stream_caption(picture(3), SHORT)][-1] in {
        "empty",
        "eos",
        "length",
    }


def test_an_end_token_finishes_and_is_left_out():
    ids = fakes.pipeline().caption(picture(), SHORT).token_ids
    last = next(i for i in range(3, 12) if ids[i] not in ids[:i])
    answers = list(fakes.pipeline(end=[fakes.END, ids[last]]).stream_caption(picture(), SHORT))
    assert answers[-1].token_ids == ids[:last] and answers[-1].finish == "eos"
    assert all(ids[last] not in partial.token_ids for partial in answers)


@pytest.mark.parametrize("question", ["", "   \n\t", "\x00\x07", None, 7, ["what?"]])
def test_questions_that_are_none(question):
    with pytest.raises(QuestionError, match=r"empty|expected text"):
        fakes.pipeline().ask(picture(), question)


@pytest.mark.parametrize("question", ["<image> </s> <b>x</b> {0} {}", "a\ud800b\x00c", "🐈\u200d⬛ שלום"])
def test_markup_and_odd_characters_are_text(question):
    pipe = fakes.pipeline()
    answer = pipe.ask(picture(), question, [(question, "{} <image>")], SHORT)
    ids = pipe._prompts.ids(answer.prompt)
    assert ids.count(fakes.IMAGE) == fakes.QUERIES and ids.count(fakes.END) == 1
    assert answer.tokens


def test_an_over_long_question_is_refused_with_the_counts():
    pipe = fakes.pipeline()
    with pytest.raises(QuestionError) as caught:
        pipe.ask(picture(), "x" * 500, (), SHORT)
    # 4 image slots, </s>, "Question: " and " Answer:" around the question: one token per letter.
    assert str(4 + 1 + 10 + 500 + 8) in str(caught.value)
    assert str(fakes.POSITIONS) in str(caught.value) and "12 are kept" in str(caught.value)
    room = fakes.POSITIONS - 12 - (4 + 1 + 10 + 8)
    assert pipe.ask(picture(), "x" * room, (), SHORT).finish == "length"
    with pytest.raises(QuestionError):
        pipe.ask(picture(), "x" * (room + 1), (), SHORT)


def test_an_instruction_too_long_for_the_qformer_is_refused():
    with pytest.raises(QuestionError, match="Q-Former reads at most 400"):
        fakes.pipeline("instructblip", "t5").encode(picture(), "x" * 450)


def test_turns_that_no_longer_fit_go_oldest_first_with_a_notice():
    pipe = fakes.pipeline()
    history = [("", "a" * 150), ("b?", "b" * 150), ("c?", "c" * 100)]
    answer = pipe.ask(picture(), "d?", history, SHORT)
    assert "aaa" not in answer.prompt and "bbb" in answer.prompt and "ccc" in answer.prompt
    assert any("oldest turn was left out" in notice for notice in answer.notices)
    assert pipe.ask(picture(), "d?", history[1:], SHORT).notices == ()


def test_history_is_written_as_finished_turns():
    answer = fakes.pipeline().ask(picture(), "how many?", [("", "a cat."), ("what?", "yes")], SHORT)
    assert answer.prompt == ("a photo of a cat. Question: what? Answer: yes. Question: how many? Answer:")
    with pytest.raises(QuestionError, match="pair"):
        fakes.pipeline().ask(picture(), "how many?", ["what?"], SHORT)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("planted"), MemoryError(), RuntimeError("can't allocate memory: planted")],
)
def test_out_of_memory_empties_the_caches_and_the_pipeline_goes_on(error):
    pipe = fakes.pipeline()
    before = pipe.caption(picture(), SHORT)

    def fail(*_):
        raise error

    handle = pipe.model.language_model.register_forward_pre_hook(fail)
    with pytest.raises(OutOfDeviceMemory, match="quantization"):
        pipe.ask(picture(), QUESTION, (), SHORT)
    handle.remove()
    assert not any(map(len, (pipe.encoder._encoded, pipe._answers, pipe._generator._prefixes)))
    assert pipe.caption(picture(), SHORT).token_ids == before.token_ids


class Watcher:
    """An `observe` that notes what ran inside, in which thread."""

    def __init__(self):
        self.passes = []

    def __call__(self, hf_model):
        watcher = self

        class Inside:
            def __enter__(self):
                self.seen = []
                self.handles = [
                    part.register_forward_hook(lambda *_, name=name: self.seen.append(name))
                    for name, part in hf_model.named_children()
                ]
                self.thread = threading.get_ident()
                watcher.passes.append(self)
                self.result = self
                return self

            def __exit__(self, *_):
                assert threading.get_ident() == self.thread
                for handle in self.handles:
                    handle.remove()

        return Inside()


@pytest.mark.parametrize("family", ["blip2", "instructblip"])
def test_observe_surrounds_exactly_the_pass_and_is_kept_as_record(family):
    watcher = Watcher()
    pipe = fakes.pipeline(family, observe=watcher)
    encoded = pipe.encode(picture())
    assert encoded.capture is watcher.passes[0]
    list(pipe.stream_ask(encoded, QUESTION, (), SHORT))
    names = [inside.seen for inside in watcher.passes]
    if family == "blip2":
        assert names == [["vision_model", "qformer", "language_projection"]]
    else:
        assert names[1] == ["qformer", "language_projection"]
    assert torch.equal(encoded.queries, fakes.pipeline(family).encode(picture()).queries)


def test_log_probabilities_read_many_at_once_are_those_of_the_stream():
    long = Decoding(max_new_tokens=2 * qformer_viz.runtime.generation.STEPS_HELD + 5)
    answer = fakes.pipeline().caption(picture(), long)
    *_, streamed = fakes.pipeline().stream_caption(picture(), long)
    assert len(answer.logprobs) == len(answer.tokens) == long.max_new_tokens
    assert answer.logprobs == pytest.approx(streamed.logprobs, abs=1e-4)


@pytest.mark.parametrize("family", ["blip2", "instructblip"])
def test_what_was_encoded_and_asked_can_still_be_differentiated(family):
    """Explanations need gradients of a pipeline that has already answered."""
    pipe = fakes.pipeline(family)
    encoded = pipe.encode(picture())
    pipe.ask(encoded, QUESTION, (), SHORT)
    pipe.ask(encoded, "why?", [(QUESTION, "so")], SHORT)
    queries = encoded.queries.clone().requires_grad_()
    ids = torch.tensor([pipe._prompts.caption(1).ids])
    logits = pipe.model.language_model(inputs_embeds=pipe._generator.embed(ids, queries)).logits
    logits[0, -1].log_softmax(-1)[7].backward()
    assert queries.grad.abs().sum() > 0
    assert not any(tensor.is_inference() for tensor in (encoded.queries, encoded.vision))


@pytest.mark.parametrize("family", FAMILIES, ids="-".join)
def test_the_means_are_those_of_every_reference_image_and_the_vit_sees_each_once(family, monkeypatch):
    pictures = [picture(seed) for seed in range(11)]
    monkeypatch.setattr(Photographs, "reference_images", lambda domain: iter(pictures))
    pipe = fakes.pipeline(*family)
    reads = family[0] == "instructblip"
    each = [pipe.encode(image, QUESTION) for image in pictures]
    question = each[0].question
    vision = Count(pipe.model.vision_model)
    features, queries = (
        reference_activations(pipe, question).features,
        reference_activations(pipe, question).queries,
    )
    assert vision.calls == len(pictures)
    torch.testing.assert_close(features, torch.cat([e.vision for e in each]).mean(0, keepdim=True))
    torch.testing.assert_close(queries, torch.cat([e.queries for e in each]).mean(0, keepdim=True))
    assert not features.requires_grad and not queries.requires_grad
    if reads:
        other = pipe.encode(pictures[0]).question
        assert not torch.allclose(
            reference_activations(pipe, other).queries, queries
        ) and vision.calls == len(pictures)
        pipe.forget()
        reference_activations(pipe, other)
        assert vision.calls == 2 * len(pictures)


def test_forget_lets_go():
    pipe = fakes.pipeline()
    pipe.caption(picture(), SHORT)
    vision, language = Count(pipe.model.vision_model), Count(pipe.model.language_model)
    pipe.forget()
    pipe.caption(picture(), SHORT)
    assert vision.calls == 1 and language.calls > 0


def test_describe_is_json_and_names_the_computation():
    description = json.loads(json.dumps(fakes.pipeline(reason="because").describe()))
    assert description["model"] == "fake" and description["precision"] == "float32"
    assert description["attn_implementation"]["qformer"] == "sdpa" and description["reason"] == "because"
    assert description["versions"]["transformers"]


def test_image_notices_reach_the_answer():
    answer = fakes.pipeline().caption(Image.new("RGB", (400, 20)), SHORT)
    assert any("Extreme shape" in notice for notice in answer.notices)


def test_pieces_keep_characters_that_need_several_tokens_whole():
    tokenizer = fakes.tokenizer()
    ids = tokenizer("a 猫!", add_special_tokens=False)["input_ids"]
    growing = Wording(tokenizer)
    assert [growing.grow(ids[:end]) for end in range(1, 7)] == ["a", "a", "a", "a", "a 猫", "a 猫!"]
    assert growing.pieces == ["a", " ", "", "", "猫", "!"]
    cut = Wording(tokenizer)
    cut.grow(ids[:4])
    assert cut.grow(ids[:4], last=True) == "a �" and cut.pieces == ["a", " ", "", "�"]


def test_a_partial_answer_is_an_answer():
    partial = next(fakes.pipeline().stream_caption(picture(), SHORT))
    assert isinstance(partial, Answer) and partial.finish is None and partial.seconds > 0


@pytest.mark.parametrize(("family", "language"), FAMILIES)
def test_hidden_patches(family, language):
    """From the Q-Former they are no keys; from the ViT they never were: both against the modules' own arithmetic."""
    pipe = fakes.pipeline(family, language)
    encoded = pipe.encode(picture(3), "what?")
    keep = torch.tensor([True, False, True, True])
    nothing = pipe.hidden(encoded, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(nothing.queries, encoded.queries, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        pipe.hidden(encoded, torch.ones(4, dtype=torch.bool), "vit").queries,
        encoded.queries,
        atol=1e-5,
        rtol=1e-4,
    )
    seen, unseen = (pipe.hidden(encoded, keep, where) for where in ("qformer", "vit"))
    assert seen.fingerprint != encoded.fingerprint != unseen.fingerprint != seen.fingerprint
    # Not attending to a token is the same as its not being there.
    fewer = encoded.vision[:, [0, 1, 3, 4]]
    inputs = None if encoded.question is None else pipe._prompts.instruction_inputs(encoded.question)
    with torch.no_grad():
        expected = pipe.encoder.queries(fewer, inputs)
    torch.testing.assert_close(seen.queries, expected, atol=1e-5, rtol=1e-4)
    # What is under a patch that the ViT never gets makes no difference; under one that it gets it does.
    pixels = np.asarray(encoded.image.resize((28, 28))).copy()
    pixels[:14, 14:] = 255 - pixels[:14, 14:]
    square = Image.fromarray(np.asarray(encoded.image.resize((28, 28))))
    both = [pipe.encode(image, "what?") for image in (square, Image.fromarray(pixels))]
    for where, same in (("vit", True), ("qformer", False)):
        first, second = (pipe.hidden(each, keep, where).queries for each in both)
        assert torch.allclose(first, second, atol=1e-5) == same
    with pytest.raises(ValueError, match='"qformer" or "vit"'):
        pipe.hidden(encoded, keep, "nowhere")
    answer = pipe.ask(seen, "what?", decoding=Decoding(max_new_tokens=4))
    assert answer.finish

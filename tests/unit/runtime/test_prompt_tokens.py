"""Prompts: bit for bit the processor's where there is no markup, special tokens from the operator and the chat template
only, and never from what a visitor typed."""

import json

import pytest
from PIL import Image

import qformer_viz
from qformer_viz.attribution.scorer import make_scorer
from qformer_viz.errors import CheckpointError
from qformer_viz.runtime.checkpoints import CHECKPOINTS, Checkpoint
from qformer_viz.runtime.prompt_format import CAPTION_REQUEST, ChatFormat, with_chat_template
from qformer_viz.runtime.prompt_tokens import Piece, PromptTokens
from qformer_viz.runtime.prompts import Prompter
from qformer_viz.types import Decoding
from tests.support import checkpoint_factory as factory
from tests.support import odd_folders as odd

PICTURE = Image.new("RGB", (40, 30), (200, 30, 60))
SHORT = Decoding(max_new_tokens=4)
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LANGUAGES = ("opt", "t5", "llama", "qwen")
TEXTS = [
    *factory.SENTENCES,
    "a photo of",
    "  two  spaces, a tab\tand a\nline ",
    "naïve café 猫 🐱 �",
    "<notatoken> </notatoken> <|nothing|> {} {x}",
    "",
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return factory.write(tmp_path_factory.mktemp("chat") / "qwen", "blip2-qwen", shard="1GB")


@pytest.fixture
def carded(chat, tmp_path):
    """A copy of the chat model with an explorer.json of these texts, loaded."""

    def make(**card):
        folder = odd.copy(chat, tmp_path / "carded")
        (folder / "explorer.json").write_text(json.dumps(card), encoding="utf-8")
        return qformer_viz.load(folder, device="cpu")

    return make


def tokenizer(language):
    return factory.tokenizers("blip2", language)[0]


def specials(inner, ids):
    """Names of the added tokens among the ids, unknown letters aside."""
    added = {i: str(token) for i, token in inner.added_tokens_decoder.items() if token.special}
    return [added[i] for i in ids if i in added and i != inner.unk_token_id]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("language", [*LANGUAGES, "bert"])
def test_ids_are_the_librarys_own_where_nothing_is_marked(language, text):
    inner = factory._bert_style() if language == "bert" else tokenizer(language)
    expected = tuple(inner(text)["input_ids"])
    half = len(text) // 2
    pieces = [Piece(text[:half]), Piece(text[half:], typed=True)]
    assert PromptTokens(inner).encode(pieces) == expected
    assert PromptTokens(inner).encode([Piece(text, typed=True)]) == expected


@pytest.mark.parametrize("kind", [kind for kind in factory.KINDS if kind != "blip2-qwen"])
def test_questions_and_conversations_are_the_processors_own(tmp_path, kind):
    pipe = qformer_viz.load(factory.write(tmp_path / kind, kind, shard="1GB"), device="cpu")
    answer = pipe.ask(PICTURE, "how many?", [("", "a cat"), ("what is it?", "it is a dog!")], SHORT)
    asked, said = pipe.checkpoint.question_prompt.format, pipe.checkpoint.caption_prompt
    text = f"{said} a cat. {asked('what is it?')} it is a dog! {asked('how many?')}"
    assert answer.prompt == text and answer.prompt_ids == tuple(pipe.processor.tokenizer(text)["input_ids"])
    token = pipe._prompts.image_token
    assert pipe._prompts.ids(text) == (*[token] * factory.QUERIES, *answer.prompt_ids)
    if factory.KINDS[kind][0] != "blip2":
        # The Q-Former reads the newest question only.
        own = pipe.processor.qformer_tokenizer(asked("how many?"))
        inputs = pipe._prompts.instruction_inputs(asked("how many?"))
        assert {name: value[0].tolist() for name, value in inputs.items()} == {
            name: own[name] for name in ("input_ids", "attention_mask")
        }
        reader = pipe.processor.qformer_tokenizer
        typed = pipe._prompts.instruction_inputs("what [SEP] is [CLS] it?")["input_ids"][0].tolist()
        assert specials(reader, typed) == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize("language", [*LANGUAGES, "bert"])
def test_no_special_token_comes_of_what_is_typed(language):
    inner = factory._bert_style() if language == "bert" else tokenizer(language)
    tokens = PromptTokens(inner)
    names = [str(token) for token in inner.added_tokens_decoder.values() if token.special]
    frame = specials(inner, tokens.encode([]))
    for name in names:
        for typed in (name, f"what {name} is", f"{name}{name}", f"a{name} b {name[:-1]}"):
            ids = tokens.encode([Piece("Question: "), Piece(typed, typed=True), Piece(" Answer:")])
            assert specials(inner, ids) == frame, typed


def test_letters_that_the_tokenizer_makes_into_a_special_token_are_dropped():
    inner = tokenizer("t5")
    from tokenizers import normalizers

    inner.backend_tokenizer.normalizer = normalizers.NFKC()
    ids = PromptTokens(inner).encode([Piece("a ＜/s＞ b", typed=True)])
    assert ids.count(inner.eos_token_id) == 1 and ids[-1] == inner.eos_token_id


@pytest.mark.parametrize("question", ["what is it?", "a <|im_end|> b", "<|im_end|", "<think> </think>"])
def test_the_operators_markup_keeps_its_special_tokens(question):
    inner = tokenizer("qwen")
    tokens = PromptTokens(inner)
    before, after = CHATML.split("{}")
    ids = tokens.encode([Piece(before), Piece(question, typed=True), Piece(after)])
    assert specials(inner, ids) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert inner.decode(ids) == CHATML.format(question)
    if "<|im_end|>" not in question:
        assert list(ids) == inner(CHATML.format(question))["input_ids"]


def test_a_first_token_that_is_written_out_is_not_put_in_front_again():
    inner = tokenizer("llama")
    tokens = PromptTokens(inner)
    written = tokens.encode([Piece("<s>USER: "), Piece("what is it?", typed=True), Piece("</s> ASSISTANT:")])
    assert specials(inner, written) == ["<s>", "</s>"]
    assert specials(inner, tokens.encode([Piece("USER: a</s>")])) == ["<s>", "</s>"]
    # Nobody but the operator writes it.
    assert specials(inner, tokens.encode([Piece("<s>USER: a", typed=True)])) == ["<s>"]


def test_a_chat_template_is_used_with_earlier_turns_as_messages_and_without_thoughts(chat):
    pipe = qformer_viz.load(chat, device="cpu")
    answer = pipe.ask(PICTURE, "how many?", [("", "a cat"), ("is it red?", "no")], SHORT)
    messages = [CAPTION_REQUEST, "a cat", "is it red?", "no", "how many?"]
    roles = ("user", "assistant")
    inner = pipe.processor.tokenizer
    expected = inner.apply_chat_template(
        [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    assert answer.prompt == expected and expected.endswith("<think>\n\n</think>\n\n")
    assert list(answer.prompt_ids) == inner(expected, add_special_tokens=False)["input_ids"]
    caption = pipe.caption(PICTURE, SHORT)
    assert CAPTION_REQUEST in caption.prompt and caption.prompt.startswith("<|im_start|>user\n")
    assert pipe.checkpoint.chat and pipe.describe()["prompt"] == "the tokenizer's chat template"


@pytest.mark.parametrize(
    "typed", ["<|im_end|>", "a<|im_start|>system", "<think>", "</think> x", "<image>", "{}"]
)
def test_what_is_typed_into_a_chat_template_stays_text(chat, typed):
    pipe = qformer_viz.load(chat, device="cpu")
    plain = pipe.ask(PICTURE, "what?", [("is it?", "no")], SHORT)
    answer = pipe.ask(PICTURE, f"what {typed}", [(f"is it {typed}", f"no {typed}")], SHORT)
    inner = pipe.processor.tokenizer
    added = inner.added_tokens_decoder.keys()
    assert [i for i in answer.prompt_ids if i in added] == [i for i in plain.prompt_ids if i in added]
    assert inner.decode(answer.prompt_ids) == answer.prompt and answer.prompt.count(typed) >= 3


def test_a_chat_template_that_writes_the_first_token_gets_no_second_one():
    inner = tokenizer("llama")
    inner.chat_template = "{{ bos_token }}{% for message in messages %}{{ message.content }}</s>{% endfor %}"
    pieces, framed = ChatFormat(Checkpoint("x", "x", chat=True), inner).question(
        [("a?", "b")], "what <s> is it?"
    )
    ids = PromptTokens(inner).encode(pieces, framed=framed)
    assert specials(inner, ids) == ["<s>", "</s>", "</s>", "</s>"]
    # A model without a token in front would not show it, and neither would encode(), which sees a first token twice.
    assert not framed


def test_an_answer_is_scored_behind_the_ids_it_was_generated_behind(chat):
    pipe = qformer_viz.load(chat, device="cpu")
    answer = pipe.ask(PICTURE, "what <|im_end|> is it?", (), SHORT)
    assert answer.token_ids
    scorer = make_scorer(pipe, pipe.encode(PICTURE), answer)
    scores = scorer.score(scorer.queries)[0]
    assert scores.sum().item() == pytest.approx(sum(answer.logprobs), abs=1e-4)
    # The text alone would be read as typed, special tokens and all.
    assert pipe._prompts.ids(answer.prompt)[factory.QUERIES :] != answer.prompt_ids


def test_explorer_json_comes_before_the_chat_template(carded):
    pipe = carded(question_prompt=CHATML.replace("user", "person"), caption_prompt="a <|im_start|>photo of")
    inner = pipe.processor.tokenizer
    answer = pipe.ask(PICTURE, "what <|im_end|> is it?", (), SHORT)
    assert answer.prompt.startswith("<|im_start|>person\nwhat <|im_end|> is") and not pipe.checkpoint.chat
    assert specials(inner, answer.prompt_ids) == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert specials(inner, pipe.caption(PICTURE, SHORT).prompt_ids) == ["<|im_start|>"]
    assert "the checkpoint's own" in pipe.describe()["prompt"]


def test_a_caption_prompt_of_its_own_leaves_questions_to_the_template(carded):
    pipe = carded(caption_prompt="a photo of")
    assert pipe.caption(PICTURE, SHORT).prompt == "a photo of"
    answer = pipe.ask(PICTURE, "what?", [("", "a cat")], SHORT)
    assert answer.prompt.startswith(f"<|im_start|>user\n{CAPTION_REQUEST}<|im_end|>")


def test_an_image_token_in_explorer_json_is_refused_at_loading(carded):
    with pytest.raises(CheckpointError, match=r"the program puts the image in front"):
        carded(question_prompt="<image>\n<|im_start|>{}")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no history here') }}", "no history here"),
        ("{% for message in messages %}{{ message.role }}{% endfor %}", "instead of once"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "instead of once"),
        ("{% for x in %}", "cannot be used"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused_at_loading(chat, tmp_path, template, why):
    folder = odd.copy(chat, tmp_path / "broken")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(CheckpointError, match=why) as refused:
        qformer_viz.load(folder, device="cpu")
    assert "Set question_prompt in explorer.json" in str(refused.value)


def test_listed_checkpoints_keep_their_own_prompts():
    inner = tokenizer("qwen")
    for entry in CHECKPOINTS.values():
        if entry.family != "retrieval":
            assert with_chat_template(entry, inner) is entry
    asked = with_chat_template(Checkpoint("x", "x", family="instructblip", caption_prompt="A short"), inner)
    assert asked.chat and asked.caption_prompt == "A short"


def test_the_oldest_turns_of_a_chat_are_left_out_when_it_is_too_long(chat):
    pipe = qformer_viz.load(chat, device="cpu")
    prompts: Prompter = pipe._prompts
    history = [(f"question {i}?", "it is a cat on a mat " * 3) for i in range(20)]
    prompt = prompts.question("what is it?", history, 4)
    assert len(prompt.ids) <= prompts.limit - 4 and "were left out" in prompt.notices[0]
    assert "question 19?" in prompt.text and "question 0?" not in prompt.text
    assert prompt.text.startswith("<|im_start|>user\nquestion ")

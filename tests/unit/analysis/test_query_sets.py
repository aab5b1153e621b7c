"""Queries together, on games whose answer is known, and on the bundled model."""

import dataclasses
import itertools

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

import qformer_viz
from qformer_viz import ExplanationContext
from qformer_viz.analysis.query_sets import (
    ablation_loss,
    minimal_sufficient_set,
    pairwise_interactions,
    shapley_values,
)
from qformer_viz.analysis.token_readout import logit_lens
from qformer_viz.attribution.explanation import prepare
from qformer_viz.attribution.methods import knockout
from qformer_viz.attribution.methods.knockout import ends
from qformer_viz.domains.emoji.scenes import random_scene, render
from qformer_viz.runtime.token_text import text_of


class Game:
    """A word is worth what `value(present [q] bool)` says; a second word is worth nothing."""

    words = ("worth", "nothing")

    def __init__(self, players, value):
        self.queries = torch.ones(1, players, 2)
        self.value, self.asked = value, 0

    def score(self, queries, on_progress=None):
        self.asked += len(queries)
        worth = [self.value(row[:, 0].bool().tolist()) for row in queries]
        return torch.tensor([[w, 0.0] for w in worth])

    def repeats(self, queries):
        return self.score(queries)[:, 0] >= self.value([True] * self.queries.shape[1])


def case(players, value):
    return ExplanationContext(Game(players, value), None, torch.zeros(1, players, 2))


def glove(there):
    """One left glove (0), two right ones (1, 2): only a pair is worth something. Query 3 is worth 2 by itself."""
    return 6.0 * (there[0] and (there[1] or there[2])) + 2.0 * there[3]


def test_losses_and_pairs_by_hand():
    game = case(4, glove)
    away = torch.tensor([[True, False, False, False], [False, True, True, False], [False] * 4])
    assert ablation_loss(game, away)[:, 0].tolist() == [6, 6, 0]
    found = pairwise_interactions(game, [0, 1, 2, 3])
    # Either right glove stands in for the other; beside the left one gone, a right one costs nothing more.
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 0, 6, 0], [0, 6, 0, 0], [0, 0, 0, 0]]
    assert not found[1].any()
    assert pairwise_interactions(game, [2, 1])[0].tolist() == [[0, 6], [6, 0]] and pairwise_interactions(
        game, [1]
    ).tolist() == [[[0]], [[0]]]


def exact(players, value):
    shares = torch.zeros(players)
    for order in itertools.permutations(range(players)):
        there = [False] * players
        for player in order:
            before = value(there)
            there[player] = True
            shares[player] += value(there) - before
    return shares / len(list(itertools.permutations(range(players))))


def test_shapley_values_are_those_of_every_order():
    expected = exact(4, glove)
    assert expected.tolist() == [4, 1, 1, 2]
    found = shapley_values(case(4, glove), permutations=2000)
    assert found.permutations == 2000
    assert (found.values[0] - expected).abs().max() < 4 * found.error[0].max() < 0.3
    assert found.values[0, 3] == 2 and found.error[0, 3] == 0
    assert found.values[0].sum() == pytest.approx(8, abs=1e-4) and not found.values[1].any()


def test_an_order_and_its_reverse_are_one_draw():
    """In a game of two, each order beside its reverse is exact at once, and says so."""
    found = shapley_values(case(2, lambda there: float(there[0] and there[1])), permutations=6)
    assert found.values[0].tolist() == [0.5, 0.5] and found.error[0].tolist() == [0, 0]
    assert shapley_values(case(2, lambda there: 1.0 * there[0]), permutations=1).error.isnan().all()


def test_the_smallest_set_needs_each_of_its_queries():
    game = case(4, glove)
    assert minimal_sufficient_set(game, order=[2, 0, 1, 3]) == [0, 2, 3]
    assert minimal_sufficient_set(game) in ([0, 1, 3], [0, 2, 3])
    assert minimal_sufficient_set(case(3, lambda there: 0.0)) == []


def test_shapley_is_told_and_can_be_stopped():
    heard = []
    told = dataclasses.replace(case(4, glove), on_progress=lambda done, of: heard.append((done, of)))
    shapley_values(told, permutations=6)
    assert heard == [(2, 6), (4, 6), (6, 6)]


@pytest.fixture(scope="module")
def bundled():
    pipe = qformer_viz.load("blip2-emoji", observe=qformer_viz.capture)
    encoded = pipe.encode(render(random_scene(61_003, min_objects=2, max_objects=2)).image)
    return pipe, encoded, prepare(pipe, encoded, pipe.caption(encoded))


@pytest.mark.slow
def test_on_the_bundled_model(bundled):
    real = bundled[-1]
    image_gain = (ends(real)[0] - ends(real)[1]).tolist()
    found = shapley_values(real, permutations=4)
    assert found.values.sum(-1).tolist() == pytest.approx(image_gain, abs=1e-3)
    # The loss of every query at once is the gain, and that of one the knock-out.
    every = torch.ones(1, 32, dtype=torch.bool)
    assert ablation_loss(real, every)[0].tolist() == pytest.approx(image_gain, abs=1e-3)
    one = torch.eye(32, dtype=torch.bool)[7:8]
    torch.testing.assert_close(
        ablation_loss(real, one)[0], knockout.effects(real)[:, 7], atol=1e-4, rtol=1e-4
    )


def test_the_few_that_are_kept_say_the_same_answer(bundled):
    pipe, encoded, real = bundled
    kept = minimal_sufficient_set(real)
    assert 0 < len(kept) < 32

    def said(queries):
        away = torch.ones(1, 32, dtype=torch.bool)
        away[0, queries] = False
        changed = knockout.replaced(encoded.queries, real.baseline, away)
        return pipe.caption(dataclasses.replace(encoded, queries=changed)).text

    assert said(kept) == pipe.caption(encoded).text
    assert all(said([q for q in kept if q != without]) != said(kept) for without in kept)


def test_what_queries_spell_is_read_off_the_output_layer(bundled):
    pipe, encoded, real = bundled
    rows = logit_lens(real, 3, baseline_corrected=False)
    head = pipe.model.language_model.get_output_embeddings()
    with torch.no_grad():
        shares = head(encoded.queries)[0].softmax(-1)
    assert len(rows) == 32 and all(len(row) == 3 for row in rows)
    for row, share in zip(rows, shares, strict=True):
        assert [value for _, value in row] == pytest.approx(share.topk(3).values.tolist(), rel=1e-4)
    # Some spell a byte that writes nothing: they are called by its name.
    words = [pipe.processor.tokenizer.decode([token]).strip() for token in shares.argmax(-1).tolist()]
    plain = {q: word for q, word in enumerate(words) if word and word.isascii() and word.isprintable()}
    assert len(plain) > 2 and {q: rows[q][0][0] for q in plain} == plain
    assert all(text.strip() for row in rows for text, _ in row)
    assert rows != logit_lens(real, 3)


def test_a_token_is_shown_as_what_it_writes():
    """Not by its bytes as the vocabulary writes them, unless they write nothing that can be shown."""
    vocabulary = {"Ġcat": 0, "Ã©": 1, "Ã": 2, "©": 3, "Ġ": 4, "Ċ": 5}
    built = Tokenizer(BPE(vocab=vocabulary, merges=[("Ã", "©")]))
    built.decoder = ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built)
    assert [text_of(tokenizer, token) for token in range(7)] == ["cat", "é", "Ã", "©", "Ġ", "Ċ", "token 6"]

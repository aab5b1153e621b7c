"""Captions, questions and descriptions say what is true of the scene, and nothing that is in doubt."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import scene_text
from qformer_viz.domains.emoji.backgrounds import Background
from qformer_viz.domains.emoji.scenes import NOUNS, Scene, SceneObject, layout_scene, random_scene

seeds = st.integers(0, 10**6)
PLAIN = Background("plain", (200, 200, 200), (0, 0, 0), 0.0, 20.0, 0)


def scene_of(*items):
    return Scene(tuple(SceneObject(noun, "noto", x, y, size) for noun, x, y, size in items), PLAIN)


def all_questions(scene, draws=300):
    rng = np.random.default_rng(1)
    found = (scene_text.ask(scene, kind, rng) for kind in scene_text.QUESTION_TYPES for _ in range(draws))
    return {q.text: q for q in found if q}


def from_description(scene, seed=0):
    """Read the scene back from its written description: (noun, column, row, size) per object."""
    words = [w for w in scene_text.description(scene, np.random.default_rng(seed)) if w != scene_text.FILLER]
    rows = [tuple(words[i : i + 4]) for i in range(0, len(words), 4)]
    return [(n, scene_text.COLUMNS.index(c), scene_text.ROWS.index(r), s) for n, c, r, s in rows]


def test_answers_for_a_scene_worked_out_by_hand():
    scene = scene_of(("cat", 40, 40, 45), ("dog", 180, 45, 95), ("bus", 112, 190, 45), ("bus", 40, 190, 45))
    asked = all_questions(scene)
    expected = {
        "is there a cat?": "yes",
        "is there an apple?": "no",
        "how many buses are there?": "two",
        "how many objects are there?": "four",
        "where is the cat?": "top left",
        "what is in the top right?": "dog",
        "what is at the bottom?": "bus",
        "what is in the center?": "nothing",
        "is the cat to the left of the dog?": "yes",
        "is the dog to the left of the cat?": "no",
        "where is the cat relative to the dog?": "left",
        "how big is the dog?": "large",
        "which is bigger, the cat or the dog?": "dog",
        "is the cat smaller than the dog?": "yes",
        "what is below the dog?": "bus",
    }
    for question, answer in expected.items():
        assert asked[question].answer == answer, question
    assert "where is the bus?" not in asked
    assert "is the cat above the dog?" not in asked


@settings(deadline=None, max_examples=100)
@given(seeds)
def test_every_answer_follows_from_the_written_description(seed):
    """What the language model reads decides each answer: the ceiling of reading is one."""
    scene = random_scene(seed)
    read = from_description(scene, seed)
    counts = Counter(noun for noun, *_ in read)
    by_noun = {item[0]: item for item in read}
    zone = {n: scene_text.ZONES[r // 3][c // 3] for n, c, r, _ in read}
    here = Counter((scene_text.ZONES[r // 3][c // 3], n) for n, c, r, _ in read)
    for q in scene_text.questions(scene, np.random.default_rng(seed), 12):
        words = q.text.removesuffix("?").replace(",", "").split()
        named = [scene_text.SINGULARS.get(w, w) for w in words if w in NOUNS or w in scene_text.SINGULARS]
        if q.type == "presence":
            assert q.answer == ("yes" if counts[named[0]] else "no")
        elif q.type == "count":
            assert q.answer == scene_text.NUMBERS[counts[named[0]] if named else sum(counts.values())]
        elif q.type == "position" and named:
            assert counts[named[0]] == 1 and q.answer == zone[named[0]]
        elif q.type == "position":
            place = q.text.removesuffix("?").split(" the ", 1)[1]
            assert {n for z, n in here if z == place} == ({q.answer} - {"nothing"})
        elif q.type == "size" and len(named) == 1:
            assert q.answer == by_noun[named[0]][3]
        elif q.type == "size":
            order = ["small", "medium", "large"]
            a, b = (order.index(by_noun[n][3]) for n in named)
            assert a != b
            first_wins = (a > b) == ("bigger" in words)
            assert q.answer in (named[not first_wins], "yes" if first_wins else "no")
        elif len(named) == 2 and q.answer in ("yes", "no"):
            (_, ca, ra, _), (_, cb, rb, _) = (by_noun[n] for n in named)
            truth = {"left": ca < cb, "right": ca > cb, "above": ra < rb, "below": ra > rb}
            assert q.answer == ("yes" if next(v for k, v in truth.items() if k in words) else "no")
        elif len(named) == 2:
            first, second = named if "relative" in words else named[::-1]
            (_, ca, ra, _), (_, cb, rb, _) = by_noun[first], by_noun[second]
            if abs(ca - cb) > abs(ra - rb):
                assert q.answer == ("left" if ca < cb else "right")
            else:
                assert q.answer == ("above" if ra < rb else "below")
        else:
            _, cb, rb, _ = by_noun[named[0]]
            side = next(w for w in ("left", "right", "above", "below") if w in words)
            axis, sign = (1 if side in ("left", "right") else 2), (1 if side in ("right", "below") else -1)
            own = {"left": cb, "right": cb, "above": rb, "below": rb}[side]
            beyond = {item[0] for item in read if item[0] != named[0] and sign * (item[axis] - own) > 0}
            assert beyond == {q.answer}


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_captions_name_every_object_as_often_as_it_is_there(seed):
    scene = random_scene(seed)
    true = Counter(item.noun for item in scene.objects)
    references = scene_text.reference_captions(scene, np.random.default_rng(seed))
    assert len(set(references)) == len(references) >= 1
    for caption in references:
        assert caption == caption.lower()
        assert scene_text.caption_nouns(caption) == true, caption


def test_a_caption_states_a_relation_only_where_it_is_clear():
    clear = scene_of(("cat", 40, 110, 45), ("dog", 180, 112, 45))
    said = {scene_text.caption(clear, np.random.default_rng(i)) for i in range(20)}
    assert said == {"a cat to the left of a dog", "a dog to the right of a cat"}
    diagonal = scene_of(("cat", 40, 40, 45), ("dog", 180, 180, 45))
    assert scene_text.caption(diagonal, np.random.default_rng(0)) in ("a cat and a dog", "a dog and a cat")


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("two cats and a dog", {"cat": 2, "dog": 1}),
        ("an owl to the left of an egg, with three fish", {"owl": 1, "egg": 1, "fish": 3}),
        ("two very big cats", {"cat": 1}),
        ("nothing here", {}),
    ],
)
def test_nouns_of_a_caption(caption, nouns):
    assert scene_text.caption_nouns(caption) == nouns


def test_types_are_mixed_and_yes_and_no_are_balanced():
    rng = np.random.default_rng(3)
    asked = [q for _ in range(400) for q in scene_text.questions(random_scene(rng, min_objects=2), rng, 6)]
    kinds = Counter(q.type for q in asked)
    assert min(kinds.values()) > 0.1 * len(asked)
    presence = [q.answer == "yes" for q in asked if q.type == "presence"]
    assert 0.4 < np.mean(presence) < 0.6


def test_descriptions_fill_the_slots_exactly():
    scene = layout_scene(["cat", "dog", "bus", "key"], "grid")
    rng = np.random.default_rng(0)
    words = scene_text.description(scene, rng)
    assert len(words) == 32 and words.count(scene_text.FILLER) == 16
    piled = scene_text.piled_description(scene, rng)
    assert len(piled) == 32
    assert sorted(word for slot in piled for word in slot if slot != [scene_text.FILLER]) == sorted(
        w for w in words if w != scene_text.FILLER
    )


def test_the_grammar_lists_patterns_that_are_really_asked():
    listed = scene_text.grammar()
    asked = set().union(*(all_questions(random_scene(seed), 60) for seed in range(30)))
    for kind in scene_text.QUESTION_TYPES:
        for pattern in listed[kind]:
            parts = pattern.replace("{nouns}", "{noun}").replace("{zone}", "{noun}").split("{noun}")
            assert any(q.startswith(parts[0]) and all(p.strip() in q for p in parts) for q in asked), pattern


def test_plurals_are_distinct_words_except_fish():
    assert scene_text.plural("strawberry") == "strawberries" and scene_text.plural("fish") == "fish"
    assert len({scene_text.plural(noun) for noun in NOUNS}) == 64
    assert scene_text.with_article("owl") == "an owl" and scene_text.with_article("cat") == "a cat"

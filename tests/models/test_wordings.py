"""Paraphrases: what is taught, what is kept back, and that answers do not depend on the wording."""

from string import Formatter

import numpy as np
import pytest

from model import scene_text, wordings
from qformer_viz.domains.emoji.scenes import UNSEEN_STYLES, random_scene, render


def fields(form: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(form) if name}


def test_no_unseen_sentence_is_ever_taught():
    taught = {form for forms in (*wordings.PLAIN.values(), *wordings.MORE.values()) for form in forms}
    assert not taught & {form for forms in wordings.UNSEEN.values() for form in forms}


def test_every_intent_has_all_wordings_with_the_same_fields():
    assert set(wordings.MORE) == set(wordings.UNSEEN) > set(wordings.PLAIN)
    for intent, forms in wordings.MORE.items():
        known = set().union(*map(fields, (*forms, *wordings.PLAIN.get(intent, ()))))
        assert set().union(*map(fields, wordings.UNSEEN[intent])) <= known
        if intent != "presence":
            assert len({frozenset(fields(form)) for form in forms}) == 1


@pytest.mark.parametrize("wording", wordings.WORDINGS)
def test_questions_come_in_the_wording_asked_for(wording):
    rng = np.random.default_rng(0)
    allowed = {
        "plain": wordings.PLAIN,
        "all": {**wordings.MORE, **{k: (*wordings.MORE[k], *v) for k, v in wordings.PLAIN.items()}},
        "unseen": wordings.UNSEEN,
    }[wording]
    openings = {form.split("{")[0] for forms in allowed.values() for form in forms}
    for _ in range(60):
        for question in scene_text.questions(random_scene(rng), rng, 6, wording=wording):
            assert any(question.text.startswith(opening) for opening in openings), question
            assert "{" not in question.text


def ends(scene, axis, sign):
    return sorted((sign * (o.x, o.y)[axis], o.noun) for o in scene.objects)


def test_furthest_and_biggest_are_told_from_the_scene():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(400):
        scene = random_scene(rng, min_objects=2)
        for question in scene_text.questions(scene, rng, 6, wording="unseen"):
            for end, axis, sign in (("left", 0, 1), ("right", 0, -1), ("up", 1, 1), ("down", 1, -1)):
                if f"furthest {end}" in question.text:
                    assert question.answer == ends(scene, axis, sign)[0][1]
                    seen.add(end)
            for word, pick in (("biggest", max), ("tiniest", min)):
                if word in question.text:
                    assert question.answer == pick(scene.objects, key=lambda o: o.size).noun
                    seen.add(word)
    assert seen == {"left", "right", "up", "down", "biggest", "tiniest"}


@pytest.mark.parametrize("style", UNSEEN_STYLES)
def test_unseen_artwork_is_drawn_for_every_noun_it_names(style):
    rng = np.random.default_rng(2)
    for noun in UNSEEN_STYLES[style]:
        drawn = render(random_scene(rng, max_objects=1, nouns=(noun,), styles=(style,)))
        assert drawn.masks.sum() > 100, noun


def test_mumbling_leaves_every_word_that_matters_in_its_order():
    rng = np.random.default_rng(2)
    question = "is the dog to the left of the cat in this image?"
    heard = [wordings.mumble(question, rng) for _ in range(200)]
    matter = [word for word in question.split() if word not in wordings.EMPTY]
    for said in heard:
        assert [word for word in said.split() if word in matter] == matter
    invented = {word for said in heard for word in said.split()} - set(question.split())
    assert len(invented) > 50 and len(set(heard)) > 150
    known = {
        word
        for forms in (*wordings.PLAIN.values(), *wordings.MORE.values())
        for f in forms
        for word in f.split()
    }
    assert len(invented & known) < 0.05 * len(invented)


def test_comparisons_need_two_things():
    rng = np.random.default_rng(3)
    kinds = set()
    for _ in range(300):
        scene = random_scene(rng, min_objects=2)
        for question in scene_text.questions(scene, rng, 6, {"comparison": 1.0}, "all"):
            kinds.add(question.type)
            assert question.answer in ("yes", "no") or question.answer in {
                item.noun for item in scene.objects
            }
            named = [noun for noun in {o.noun for o in scene.objects} if noun in question.text]
            ranked = any(word in question.text for word in ("furthest", "most", "est"))
            assert ranked or named
    assert kinds == {"position", "relation", "size"}

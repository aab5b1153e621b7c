"""Paraphrases of the questions: those of the training, and those kept for the evaluation.

`PLAIN` is the grammar that the interface shows; `MORE` are the paraphrases of training; no sentence of `UNSEEN` is ever
trained on, and some of its words are not either. Fields: {one} "a cat", {many} "cats", {noun} and {other} "cat",
{where} "at the top", {side} "to the left of", {word} "bigger", {end} "left" or "high up", {rank} "biggest".
"""

import numpy as np

PLAIN: dict[str, tuple[str, ...]] = {
    "presence": (
        "is there {one}?",
        "are there any {many}?",
        "do you see {one}?",
        "is there {one} in the picture?",
    ),
    "count_all": ("how many objects are there?", "how many things are there?"),
    "count": ("how many {many} are there?", "how many {many} do you see?"),
    "where": ("where is the {noun}?", "in which part of the picture is the {noun}?"),
    "what_at": ("what is {where}?",),
    "beside_yes_no": ("is the {noun} {side} the {other}?",),
    "beside_where": (
        "where is the {noun} relative to the {other}?",
        "on which side of the {other} is the {noun}?",
    ),
    "beside_what": ("what is {side} the {other}?",),
    "size": ("how big is the {noun}?", "what size is the {noun}?"),
    "bigger_which": ("which is {word}, the {noun} or the {other}?",),
    "bigger_yes_no": ("is the {noun} {word} than the {other}?",),
}

MORE: dict[str, tuple[str, ...]] = {
    "presence": (
        "do you see any {many}?",
        "can you see {one}?",
        "can you see any {many} here?",
        "is {one} in this image?",
        "are there {many} in the image?",
        "does the picture show {one}?",
        "does this image have any {many}?",
        "is {one} shown here?",
        "have you found {one}?",
        "tell me whether there is {one}",
        "please say if there are any {many}",
        "i want to know if there is {one}",
        "{one}?",
        "any {many}?",
        "any {many} in the scene?",
    ),
    "count_all": (
        "how many items are in the picture?",
        "what is the number of things?",
        "count the objects",
        "count everything you see",
        "how many objects does the image show?",
        "please count all things in this scene",
        "what is the total number of objects here?",
        "tell me how many things you see",
    ),
    "count": (
        "count the {many}",
        "what is the number of {many}?",
        "how many {many} are in the picture?",
        "how many {many} can you see here?",
        "how many {many} does the image show?",
        "please count all {many} in this scene",
        "tell me how many {many} there are",
        "{many}, how many?",
        "i want to know the number of {many}",
        "how many of the things are {many}?",
    ),
    "where": (
        "where can you see the {noun}?",
        "where in the image is the {noun}?",
        "what is the position of the {noun}?",
        "tell me where the {noun} is",
        "the {noun} is where?",
        "at which place is the {noun} shown?",
        "please find the {noun}",
        "in what area of the scene is the {noun}?",
        "where does the picture show the {noun}?",
        "which corner or side has the {noun}?",
    ),
    "what_at": (
        "what do you see {where}?",
        "what is {where} of the picture?",
        "which object is {where}?",
        "what thing is shown {where}?",
        "{where}, what is there?",
        "tell me what is {where}",
        "what can you see {where} of the image?",
        "name the object {where}",
        "which thing is {where} of this scene?",
    ),
    "beside_yes_no": (
        "would you say the {noun} is {side} the {other}?",
        "can you see the {noun} {side} the {other}?",
        "do you see the {noun} {side} the {other}?",
        "is it true that the {noun} is {side} the {other}?",
        "tell me whether the {noun} is {side} the {other}",
        "the {noun} is {side} the {other}, right or wrong?",
        "is the {noun} found {side} the {other} in this image?",
    ),
    "beside_where": (
        "seen from the {other}, where is the {noun}?",
        "where does the {noun} stand, as seen from the {other}?",
        "tell me where the {noun} is relative to the {other}",
        "in which direction from the {other} is the {noun}?",
        "compared to the {other}, where is the {noun}?",
        "what is the position of the {noun} relative to the {other}?",
    ),
    "beside_what": (
        "what can you see {side} the {other}?",
        "which object is {side} the {other}?",
        "tell me what is {side} the {other}",
        "what thing is {side} the {other} in the picture?",
        "what do you see {side} the {other}?",
        "name the thing {side} the {other}",
        "{side} the {other}, what is there?",
    ),
    "size": (
        "how large is the {noun}?",
        "tell me how big the {noun} is",
        "is the {noun} small, medium or large?",
        "what is the size of the {noun}?",
        "the {noun} is of what size?",
        "how big does the {noun} look?",
        "please say how large the {noun} is here",
    ),
    "bigger_which": (
        "the {noun} or the {other}, which one is {word}?",
        "which of the two is {word}, the {noun} or the {other}?",
        "what is {word}, the {noun} or the {other}?",
        "which one looks {word}, the {noun} or the {other}?",
        "tell me which is {word}: the {noun} or the {other}",
        "compare the {noun} and the {other}, which is {word}?",
    ),
    "bigger_yes_no": (
        "would you say the {noun} is {word} than the {other}?",
        "does the {noun} look {word} than the {other}?",
        "tell me whether the {noun} is {word} than the {other}",
        "is it true that the {noun} is {word} than the {other}?",
        "compared to the {other}, is the {noun} {word}?",
        "the {noun} is {word} than the {other}, right or wrong?",
    ),
    "extreme": (
        "what is furthest {end}?",
        "which object is furthest {end}?",
        "what thing is the furthest {end} in the picture?",
        "tell me which thing is most {end}",
        "name the object that is furthest {end}",
        "of all things, which is furthest {end}?",
    ),
    "rank": (
        "what is the {rank} object?",
        "which thing is the {rank}?",
        "which object is the {rank} in the picture?",
        "tell me the {rank} thing you see",
        "name the {rank} thing",
        "of all objects, which is the {rank}?",
    ),
}

UNSEEN: dict[str, tuple[str, ...]] = {
    "presence": (
        "do you see any {many} in this scene?",
        "could you spot {one} somewhere?",
        "is {one} visible?",
        "does the scene contain any {many}?",
        "are {many} present here?",
    ),
    "count_all": (
        "how many objects can be counted here?",
        "tell me the total number of things",
        "what number of items does the scene contain?",
    ),
    "count": (
        "how many {many} appear in this image?",
        "give me the number of {many} here",
        "can you count the {many}?",
        "what is the total of {many}?",
    ),
    "where": (
        "where would i find the {noun}?",
        "can you tell me where the {noun} is?",
        "in which area of the image do you see the {noun}?",
        "what place does the {noun} have?",
    ),
    "what_at": (
        "what object can be seen {where}?",
        "can you tell me what is {where}?",
        "looking {where}, what do you see?",
    ),
    "beside_yes_no": (
        "does the {noun} stand {side} the {other}?",
        "am i right that the {noun} is {side} the {other}?",
        "is the {noun} located {side} the {other}?",
    ),
    "beside_where": (
        "where do you see the {noun}, relative to the {other}?",
        "can you say in which direction from the {other} the {noun} is?",
        "where is the {noun} compared to the {other}?",
    ),
    "beside_what": (
        "what object stands {side} the {other}?",
        "can you name the object {side} the {other}?",
        "which thing do you see {side} the {other}?",
    ),
    "size": (
        "can you tell me how large the {noun} is?",
        "what size does the {noun} have?",
        "how big would you say the {noun} is?",
    ),
    "bigger_which": (
        "which object is {word}: the {noun} or the {other}?",
        "of the {noun} and the {other}, which is {word}?",
        "can you tell which one is {word}, the {noun} or the {other}?",
    ),
    "bigger_yes_no": (
        "do you see that the {noun} is {word} than the {other}?",
        "is the {noun} the {word} one compared to the {other}?",
        "can we say the {noun} is {word} than the {other}?",
    ),
    "extreme": (
        "which thing is furthest {end}?",
        "can you name the thing furthest {end}?",
        "what do you see furthest {end}?",
    ),
    "rank": (
        "which of the things is the {rank}?",
        "can you tell me what the {rank} object is?",
        "what is the {rank} thing in this image?",
    ),
}

WORDINGS = ("plain", "all", "unseen")
# Words that a question is still understood without.
EMPTY = frozenset(
    {
        *(
            "do",
            "does",
            "you",
            "see",
            "seen",
            "can",
            "any",
            "there",
            "are",
            "is",
            "here",
            "in",
            "this",
            "that",
        ),
        *("image", "picture", "scene", "thing", "object", "one", "please", "tell", "me", "would", "say"),
        *("the", "a", "an", "looks", "look", "show", "shown", "have", "found"),
    }
)
# Share of them that `mumble` replaces or leaves out, and of gaps where it puts a word in.
MUMBLED, ADDED = 0.25, 0.06
# Share of plain sentences where all wordings are trained.
PLAIN_SHARE = 0.4


def phrase(intent: str, rng: np.random.Generator, wording: str, **fields: str) -> str:
    """A sentence that asks `intent`. `wording`: "plain", "all" (as trained) or "unseen" (for evaluation only)."""
    if wording == "plain" or (wording == "all" and intent in PLAIN and rng.random() < PLAIN_SHARE):
        forms = PLAIN[intent]
    else:
        forms = {"all": MORE, "unseen": UNSEEN}[wording][intent]
    form = forms[0] if len(forms) == 1 else forms[rng.integers(len(forms))]
    return form.format(**fields)


def mumble(question: str, rng: np.random.Generator) -> str:
    """The question with some of its empty words replaced by invented ones, some left out, and some put between."""
    words: list[str] = []
    for word in question.split():
        if word in EMPTY and rng.random() < MUMBLED:
            if rng.random() < 0.5:
                words.append(_invented(rng))
        else:
            words.append(word)
        if rng.random() < ADDED and not word.endswith("?"):
            words.append(_invented(rng))
    return " ".join(words)


def _invented(rng: np.random.Generator) -> str:
    return (
        "".join(
            "bcdfghjklmnprstvwz"[rng.integers(18)] + "aeiouy"[rng.integers(6)]
            for _ in range(rng.integers(2, 4))
        )
        + ("", "n", "t", "ble", "ing")[rng.integers(5)]
    )

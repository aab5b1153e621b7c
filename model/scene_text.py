"""The text of a scene: captions, questions with their answers, and a written description.

Everything follows from the scene; a question is asked only where its answer is beyond doubt. All lower case.
Needs numpy only.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from model.wordings import phrase
from qformer_viz.domains.emoji.scenes import (
    IMAGE_SIZE,
    NOUNS,
    SIZE_LEVELS,
    ZONES,
    Scene,
    SceneObject,
    size_level,
    zone,
)

CAPTION_PROMPT = "a photo of"
QUESTION_PROMPT = "Question: {} Answer:"
# A finished caption or turn as it stands in the history of a conversation; pieces are joined by a space.
CAPTION_HISTORY = "a photo of {}."
TURN_HISTORY = "Question: {} Answer: {}."

QUESTION_TYPES = ("presence", "count", "position", "relation", "size")
NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = ("to the left of", "to the right of", "above", "below")
_SIDES = ("left", "right", "above", "below")
COLUMNS = "abcdefghi"
ROWS = "123456789"
FILLER = "-"
DESCRIPTION_SLOTS = 32

# Pixels between two centres before one counts as beside or above the other, and how far the
# other axis must stay behind before a single word names the direction.
APART = 40.0
DOMINANT = 30.0

_PLURALS = {"fish": "fish", "octopus": "octopuses", "butterfly": "butterflies", "strawberry": "strawberries"}
_PLURALS |= {"snowman": "snowmen", "cactus": "cactuses", "tomato": "tomatoes", "bus": "buses"}


@dataclass(frozen=True)
class Question:
    """A question, its exact short answer, and its type (one of `QUESTION_TYPES`)."""

    text: str
    answer: str
    type: str


def plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


SINGULARS = {plural(noun): noun for noun in NOUNS}


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def cell(item: SceneObject) -> tuple[int, int]:
    """Column and row of the centre on a 9 x 9 grid; three cells make a zone."""
    column, row = (min(8, int(value / (IMAGE_SIZE / 9))) for value in (item.x, item.y))
    return column, row


def unique_objects(scene: Scene) -> list[SceneObject]:
    """Objects whose noun occurs once, so that "the cat" is one object."""
    counts = Counter(item.noun for item in scene.objects)
    return [item for item in scene.objects if counts[item.noun] == 1]


def relation(a: SceneObject, b: SceneObject) -> str | None:
    """The one of `RELATIONS` that says where `a` is as seen from `b`, or None where none is clear."""
    dx, dy = a.x - b.x, a.y - b.y
    (ca, ra), (cb, rb) = cell(a), cell(b)
    if abs(dx) >= APART and abs(dx) >= abs(dy) + DOMINANT and abs(ca - cb) > abs(ra - rb):
        return RELATIONS[0] if dx < 0 else RELATIONS[1]
    if abs(dy) >= APART and abs(dy) >= abs(dx) + DOMINANT and abs(ra - rb) > abs(ca - cb):
        return RELATIONS[2] if dy < 0 else RELATIONS[3]
    return None


def holds(a: SceneObject, b: SceneObject, name: str) -> bool | None:
    """Whether `a` is `name` (one of `RELATIONS`) `b`; None where the centres are too close to say."""
    axis = a.x - b.x if name in RELATIONS[:2] else a.y - b.y
    if abs(axis) < APART:
        return None
    return (axis < 0) == (name in (RELATIONS[0], RELATIONS[2]))


# ---- captions


def _counted(noun: str, count: int) -> str:
    return with_article(noun) if count == 1 else f"{NUMBERS[count]} {plural(noun)}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(scene: Scene, rng: np.random.Generator, related: bool = True) -> str:
    """A caption without its prompt, naming every object: "a cat above a dog, with two cars".

    With `related`, the first two nouns are joined by their relation where both are single and it is clear.
    """
    counts = Counter(item.noun for item in scene.objects)
    nouns = [list(counts)[i] for i in rng.permutation(len(counts))]
    parts = [_counted(noun, counts[noun]) for noun in nouns]
    if related and len(nouns) >= 2 and counts[nouns[0]] == counts[nouns[1]] == 1:
        first, second = (next(o for o in scene.objects if o.noun == noun) for noun in nouns[:2])
        where = relation(first, second)
        if where:
            rest = f", with {_listed(parts[2:])}" if parts[2:] else ""
            return f"{parts[0]} {where} {parts[1]}{rest}"
    return _listed(parts)


def reference_captions(scene: Scene, rng: np.random.Generator, count: int = 5) -> list[str]:
    """Up to `count` different captions that are all true of the scene."""
    sampled = [caption(scene, rng, related=bool(i % 2)) for i in range(4 * count)]
    return list(dict.fromkeys(sampled))[:count]


def stated_relation(text: str) -> tuple[str, str, str] | None:
    """The relation that a caption states: noun, one of `RELATIONS`, noun."""
    for name in RELATIONS:
        first, found, second = text.partition(f" {name} ")
        if found and first.split() and len(second.split()) > 1:
            return first.split()[-1], name, second.split()[1].strip(",.")
    return None


def relation_holds(text: str, scene: Scene) -> bool | None:
    """Whether the relation that a caption states is the true one; None where it states none.

    A noun that is not in the scene exactly once has no relation.
    """
    stated = stated_relation(text)
    if stated is None:
        return None
    single = {item.noun: item for item in unique_objects(scene)}
    first, name, second = stated
    return first in single and second in single and relation(single[first], single[second]) == name


def true_of(text: str, scene: Scene) -> bool:
    """Whether a caption names exactly the scene's objects, and the relation it states, if any, is the true one."""
    counts = Counter(item.noun for item in scene.objects)
    return caption_nouns(text) == counts and relation_holds(text, scene) is not False


def false_caption(scene: Scene, rng: np.random.Generator, tries: int = 8) -> tuple[str, str]:
    """A caption that is nearly true of the scene, and what is wrong with it: "noun", "count" or "relation".

    It is the true caption of a changed scene: one kind renamed, one object more or less, or all mirrored both ways.
    """
    kind = _pick(rng, ("noun", "count", "relation"))
    for attempt in range(tries):
        objects = list(scene.objects)
        if kind == "count" and len(objects) > 1 and (len(objects) == len(NUMBERS) - 1 or rng.random() < 0.5):
            objects.pop(rng.integers(len(objects)))
        elif kind == "count":
            objects.append(_pick(rng, objects))
        elif kind == "relation" and attempt < tries // 2:
            objects = [replace(o, x=IMAGE_SIZE - o.x, y=IMAGE_SIZE - o.y) for o in objects]
        else:
            kind = "noun"
            old, new = _pick(rng, objects).noun, _absent(scene, rng)
            objects = [replace(o, noun=new) if o.noun == old else o for o in objects]
        changed = caption(replace(scene, objects=tuple(objects)), rng)
        if not true_of(changed, scene):
            return changed, kind
    raise AssertionError("an absent noun makes every caption false")


def caption_nouns(text: str) -> Counter[str]:
    """The nouns a caption names, with how often: "two cats and a dog" gives cat 2, dog 1."""
    words = text.lower().replace(",", " ").replace(".", " ").split()
    found: Counter[str] = Counter()
    number = 1
    for word in words:
        if word in NUMBERS:
            number = NUMBERS.index(word)
        elif word in NOUNS or word in SINGULARS:
            found[word if word in NOUNS else SINGULARS[word]] += number
            number = 1
        else:
            number = 1
    return found


# ---- questions


def _presence(scene: Scene, rng: np.random.Generator, wording: str) -> Question:
    present = sorted({item.noun for item in scene.objects})
    if rng.random() < 0.5:
        noun, answer = present[rng.integers(len(present))], "yes"
    else:
        noun, answer = _absent(scene, rng), "no"
    asked = phrase("presence", rng, wording, one=with_article(noun), many=plural(noun))
    return Question(asked, answer, "presence")


def _count(scene: Scene, rng: np.random.Generator, wording: str) -> Question:
    if rng.random() < 0.25:
        return Question(phrase("count_all", rng, wording), NUMBERS[len(scene.objects)], "count")
    counts = Counter(item.noun for item in scene.objects)
    # One kind of object at a time, repeated nouns first: "one" would otherwise be nearly always right.
    repeated = sorted(noun for noun in counts if counts[noun] > 1)
    if repeated and rng.random() < 0.6:
        noun = _pick(rng, repeated)
    else:
        noun = _absent(scene, rng) if rng.random() < 0.25 else _pick(rng, sorted(counts))
    return Question(phrase("count", rng, wording, many=plural(noun)), NUMBERS[counts[noun]], "count")


def _position(scene: Scene, rng: np.random.Generator, wording: str) -> Question | None:
    if wording != "plain" and rng.random() < 0.2:
        return _extreme(scene, rng, wording)
    single = unique_objects(scene)
    if single and rng.random() < 0.6:
        item = _pick(rng, single)
        return Question(phrase("where", rng, wording, noun=item.noun), zone(item), "position")
    here: dict[str, set[str]] = {}
    for item in scene.objects:
        here.setdefault(zone(item), set()).add(item.noun)
    name = _pick(rng, sorted(here)) if rng.random() < 0.8 else ZONES[rng.integers(3)][rng.integers(3)]
    nouns = here.get(name, {"nothing"})
    if len(nouns) > 1:
        return None
    where = f"on the {name}" if name in ("left", "right") else f"in the {name}"
    where = f"at the {name}" if name in ("top", "bottom") else where
    return Question(phrase("what_at", rng, wording, where=where), next(iter(nouns)), "position")


def _extreme(scene: Scene, rng: np.random.Generator, wording: str) -> Question | None:
    """What is furthest to one end, if it is so clearly."""
    ends = (("left", 0, 1), ("right", 0, -1), ("up", 1, 1), ("down", 1, -1))
    end, axis, sign = ends[rng.integers(4)]
    order = sorted(scene.objects, key=lambda o: sign * (o.x, o.y)[axis])
    first = order[0]
    others = [o for o in order if o.noun != first.noun]
    if not others or abs((others[0].x, others[0].y)[axis] - (first.x, first.y)[axis]) < APART:
        return None
    return Question(phrase("extreme", rng, wording, end=end), first.noun, "position")


def _relation(scene: Scene, rng: np.random.Generator, wording: str) -> Question | None:
    single = unique_objects(scene)
    if len(single) < 2:
        return None
    first, second = (single[i] for i in rng.permutation(len(single))[:2])
    form = rng.random()
    if form < 0.4:
        name = _pick(rng, RELATIONS)
        true = holds(first, second, name)
        text = phrase("beside_yes_no", rng, wording, noun=first.noun, side=name, other=second.noun)
        return None if true is None else Question(text, "yes" if true else "no", "relation")
    if form < 0.7:
        where = relation(first, second)
        if where is None:
            return None
        asked = phrase("beside_where", rng, wording, noun=first.noun, other=second.noun)
        return Question(asked, where.removeprefix("to the ").removesuffix(" of"), "relation")
    name = _pick(rng, RELATIONS)
    axis, sign = (0 if name in RELATIONS[:2] else 1), (1 if name in (RELATIONS[0], RELATIONS[2]) else -1)
    lead = [
        (sign * ((second.x, second.y)[axis] - (o.x, o.y)[axis]), o.noun)
        for o in scene.objects
        if o is not second
    ]
    on_side = {noun for distance, noun in lead if distance > 0}
    if len(on_side) != 1 or any(0 < distance < APART for distance, _ in lead):
        return None
    asked = phrase("beside_what", rng, wording, side=name, other=second.noun)
    return Question(asked, on_side.pop(), "relation")


def _size(scene: Scene, rng: np.random.Generator, wording: str) -> Question | None:
    if wording != "plain" and rng.random() < 0.2:
        return _rank(scene, rng, wording)
    single = unique_objects(scene)
    if not single:
        return None
    levels = list(SIZE_LEVELS)
    form = rng.random()
    if len(single) < 2 or form < 0.5:
        item = _pick(rng, single)
        return Question(phrase("size", rng, wording, noun=item.noun), size_level(item.size), "size")
    first, second = (single[i] for i in rng.permutation(len(single))[:2])
    difference = levels.index(size_level(first.size)) - levels.index(size_level(second.size))
    if difference == 0:
        return None
    word = _pick(rng, ("bigger", "smaller"))
    wins = (difference > 0) == (word == "bigger")
    pair = {"word": word, "noun": first.noun, "other": second.noun}
    if form < 0.75:
        return Question(
            phrase("bigger_which", rng, wording, **pair), (first if wins else second).noun, "size"
        )
    return Question(phrase("bigger_yes_no", rng, wording, **pair), "yes" if wins else "no", "size")


def _rank(scene: Scene, rng: np.random.Generator, wording: str) -> Question | None:
    """The biggest or smallest kind of object, if its size has another word than the next one's."""
    levels = list(SIZE_LEVELS)
    biggest = bool(rng.random() < 0.5)
    order = sorted(scene.objects, key=lambda o: -o.size if biggest else o.size)
    others = [o for o in order if o.noun != order[0].noun]
    if not others or levels.index(size_level(others[0].size)) == levels.index(size_level(order[0].size)):
        return None
    rank = _pick(rng, ("biggest", "largest") if biggest else ("smallest", "tiniest"))
    return Question(phrase("rank", rng, wording, rank=rank), order[0].noun, "size")


def _compare(scene: Scene, rng: np.random.Generator, wording: str) -> Question | None:
    """Only the questions of which two things' places or sizes must be compared."""
    question = _pick(
        rng, (_relation, _relation, _size, _extreme, _rank) if wording != "plain" else (_relation, _size)
    )(scene, rng, wording)
    # The size and the side of one thing are looked up, not compared.
    return None if question is None or question.answer in (*SIZE_LEVELS, *_SIDES) else question


_ASK = {"presence": _presence, "count": _count, "position": _position, "relation": _relation, "size": _size}
_ASK["comparison"] = _compare


def ask(
    scene: Scene, kind: str, rng: np.random.Generator, tries: int = 8, wording: str = "plain"
) -> Question | None:
    """A random question of one type or of type "comparison", the hard part of the last three; None if the scene
    allows no clear one; `wording` as in `wordings.phrase`."""
    for _ in range(tries):
        question = _ASK[kind](scene, rng, wording)
        if question is not None:
            return question
    return None


def questions(
    scene: Scene,
    rng: np.random.Generator,
    count: int,
    mix: dict[str, float] | None = None,
    wording: str = "plain",
) -> list[Question]:
    """`count` different questions (fewer if the scene has no more to ask); `mix` gives the share of each type,
    without it they come evenly."""
    found: dict[str, Question] = {}
    for i in range(4 * count):
        even = QUESTION_TYPES[i % len(QUESTION_TYPES)]
        question = ask(
            scene, rng.choice(list(mix), p=list(mix.values())) if mix else even, rng, wording=wording
        )
        if question is not None:
            found.setdefault(question.text, question)
        if len(found) == count:
            break
    chosen = list(found.values())
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    present = {item.noun for item in scene.objects}
    return _pick(rng, [noun for noun in NOUNS if noun not in present])


def _pick(rng: np.random.Generator, options):
    return options[rng.integers(len(options))]


# ---- the written description and the grammar


def description_words(item: SceneObject) -> list[str]:
    """One object in four words: noun, column a-i, row 1-9, size."""
    column, row = cell(item)
    return [item.noun, COLUMNS[column], ROWS[row], size_level(item.size)]


def description(scene: Scene, rng: np.random.Generator) -> list[str]:
    """The scene as `DESCRIPTION_SLOTS` words: its objects in random order, fillers between them."""
    items = [description_words(scene.objects[i]) for i in rng.permutation(len(scene.objects))]
    free = DESCRIPTION_SLOTS - sum(map(len, items))
    gaps = np.diff(np.sort(rng.integers(0, free + 1, len(items))), prepend=0, append=free)
    words: list[str] = []
    for gap, item in zip(gaps, [*items, []], strict=True):
        words += [FILLER] * int(gap) + item
    return words


def piled_description(scene: Scene, rng: np.random.Generator) -> list[list[str]]:
    """As `description`, but each object's four words share one slot; every slot is a list of words."""
    slots: list[list[str]] = [[FILLER] for _ in range(DESCRIPTION_SLOTS)]
    places = rng.permutation(DESCRIPTION_SLOTS)[: len(scene.objects)]
    for place, item in zip(places, scene.objects, strict=True):
        slots[place] = description_words(item)
    return slots


def grammar() -> dict[str, list[str]]:
    """The language of the training: nouns, question patterns by type, answers."""
    return {
        "nouns": list(NOUNS),
        "presence": ["is there a {noun}?", "are there any {nouns}?", "do you see a {noun}?"],
        "count": ["how many {nouns} are there?", "how many objects are there?"],
        "position": ["where is the {noun}?", "what is in the {zone}?"],
        "relation": [
            *(f"is the {{noun}} {name} the {{noun}}?" for name in RELATIONS),
            "where is the {noun} relative to the {noun}?",
            *(f"what is {name} the {{noun}}?" for name in RELATIONS),
        ],
        "size": [
            "how big is the {noun}?",
            "which is bigger, the {noun} or the {noun}?",
            "is the {noun} smaller than the {noun}?",
        ],
        "zones": [name for row in ZONES for name in row],
        "sizes": list(SIZE_LEVELS),
        "numbers": list(NUMBERS),
    }

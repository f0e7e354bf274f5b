"""The drawn scenes and what is said about them."""

import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from dexar_fast.demo.labels import ASPECTS, IGNORE, LEAST_PART, patch_labels
from dexar_fast.demo.language import COLOURS, KINDS, NUMBERS, PLACES, SHAPES, Question, Text
from dexar_fast.demo.scenes import (
    CELL,
    HELD_OUT_SEEDS,
    MAX_OBJECTS,
    RADII,
    RGB,
    SIDE,
    TRAINING_SEEDS,
    Scene,
    draw_background,
    draw_scene,
)

SEEDS = range(40)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in SEEDS]


def test_a_seed_gives_the_same_scene() -> None:
    one, two, other = draw_scene(5), draw_scene(5), draw_scene(6)
    assert one.image.tobytes() == two.image.tobytes()
    assert (one.description, one.questions) == (two.description, two.questions)
    assert [o.box for o in one.objects] == [o.box for o in two.objects]
    assert one.image.tobytes() != other.image.tobytes()


def test_a_seed_gives_the_scene_it_always_gave() -> None:
    """The released figures and documents name scenes by seed, so what a seed means must not drift."""
    assert str(draw_scene(3).description) == (
        "at the top left a small yellow star . "
        "at the top middle a large yellow triangle . "
        "at the top right a small black star . "
        "at the bottom left a small green star . "
        "at the bottom right a large green cross . "
        "there are five objects in all ."
    )


@pytest.mark.parametrize("count", range(1, MAX_OBJECTS + 1))
def test_the_number_of_objects_can_be_chosen(count: int) -> None:
    assert len(draw_scene(11, count).objects) == count


def test_scenes_have_one_to_six_objects_in_nine_places() -> None:
    many = [draw_scene(seed) for seed in range(150)]
    assert {len(scene.objects) for scene in many} == set(range(1, MAX_OBJECTS + 1))
    assert {thing.place for scene in many for thing in scene.objects} == set(PLACES)
    assert {(t.colour, t.shape) for s in many for t in s.objects} == {(c, s) for c in COLOURS for s in SHAPES}


@pytest.mark.parametrize("count", [0, 7, -1])
def test_an_impossible_number_of_objects_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"n_objects must be from 1 to 6, not {count}"):
        draw_scene(0, count)


def test_a_scale_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="scale must be a whole number from 1, not 0"):
        draw_scene(0, scale=0)


def test_held_out_and_training_seeds_are_apart() -> None:
    assert HELD_OUT_SEEDS.stop <= TRAINING_SEEDS.start


def test_masks_are_exactly_the_painted_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        picture = np.asarray(scene.image).astype(int)
        background = draw_background(scene.seed).astype(int)
        inside = scene.mask(range(len(scene.objects)))
        assert (picture[~inside] == background[~inside]).all()
        for thing in scene.objects:
            off = abs(picture[thing.mask] - np.array(RGB[thing.colour]))
            assert off.max() <= 38, (scene.seed, thing)  # shade and grain
            nearest = min(RGB, key=lambda c: abs(picture[thing.mask].mean(axis=0) - np.array(RGB[c])).sum())
            assert nearest == thing.colour


def test_masks_do_not_overlap_and_lie_in_their_place(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert sum(o.mask.astype(int) for o in scene.objects).max() == 1  # type: ignore[union-attr]
        for thing in scene.objects:
            row, column = divmod(PLACES.index(thing.place), 3)
            assert (
                thing.mask[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL].sum() == thing.mask.sum()
            )


def test_boxes_bound_masks_and_sizes_are_told_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            rows, columns = np.nonzero(thing.mask)
            assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (
                top,
                bottom,
                left,
                right,
            )
            assert (max(right - left, bottom - top) > 2 * RADII["small"][1] + 1) == (thing.size == "large")


def test_masks_cannot_be_changed_by_accident(scenes: list[Scene]) -> None:
    thing = scenes[0].objects[0]
    with pytest.raises(ValueError, match="read-only"):
        thing.mask[0, 0] = True
    with pytest.raises(FrozenInstanceError):
        thing.colour = "red"  # type: ignore[misc]


def test_a_larger_scale_shows_the_same_scene() -> None:
    small, large = draw_scene(4), draw_scene(4, scale=3)
    assert large.image.size == (3 * SIDE, 3 * SIDE)
    assert large.description == small.description
    for one, three in zip(small.objects, large.objects, strict=True):
        assert (three.mask[1::3, 1::3] == one.mask).all()  # the middle pixel of each 3 x 3 block sits at the same place


def test_objects_are_described_in_reading_order(scenes: list[Scene]) -> None:
    for scene in scenes:
        places = [PLACES.index(thing.place) for thing in scene.objects]
        assert places == sorted(places)


def test_the_description_names_every_object_and_counts_them(scenes: list[Scene]) -> None:
    for scene in scenes:
        *clauses, total = str(scene.description).removesuffix(" .").split(" . ")
        assert clauses == [f"{o.place} a {o.size} {o.colour} {o.shape}" for o in scene.objects]
        assert NUMBERS.index(total.split()[2]) + 1 == len(scene.objects)


def test_six_objects_take_sixty_words_or_more() -> None:
    for seed in range(30):
        assert len(draw_scene(seed, 6).description.words) >= 60


def test_words_refer_to_the_objects_they_are_true_of(scenes: list[Scene]) -> None:
    for scene in scenes:
        for text in (scene.description, *(q.answer for q in scene.questions)):
            for word, refers in zip(text.words, text.refers_to, strict=True):
                for index in refers:
                    thing = scene.objects[index]
                    true_of = {thing.colour, thing.shape, thing.size, *thing.place.split()}
                    assert word in true_of or word == "yes" or word in NUMBERS, (scene.seed, str(text), word)
        named = [{i for w, r in zip(scene.description.words, scene.description.refers_to, strict=True)
                  if w in COLOURS for i in r}]  # fmt: skip
        assert named == [set(range(len(scene.objects)))]


def test_function_words_refer_to_nothing(scenes: list[Scene]) -> None:
    words = zip(scenes[0].description.words, scenes[0].description.refers_to, strict=True)
    assert all(refers == () for word, refers in words if word in {"at", "the", "in", "a", ".", "there", "all"})


def test_the_mask_of_a_word_is_the_union_of_its_objects(scenes: list[Scene]) -> None:
    scene = next(scene for scene in scenes if len(scene.objects) > 2)
    assert not scene.mask(()).any()
    assert (scene.mask((0, 2)) == (scene.objects[0].mask | scene.objects[2].mask)).all()


def test_words_and_references_must_match_in_number() -> None:
    with pytest.raises(ValueError, match="2 words but 1 references"):
        Text(("a", "star"), ((),))


def _true_answers(scene: Scene, question: Question) -> set[str]:
    """All answers that are true, worked out from the objects alone."""
    words = question.text.split()
    things = scene.objects
    if question.kind == "count":
        colours = [word for word in words if word in COLOURS]
        return {NUMBERS[sum(not colours or t.colour == colours[0] for t in things) - 1]}
    if question.kind == "presence":
        return {"yes" if any((t.colour, t.shape) == (words[3], words[4]) for t in things) else "no"}
    if question.kind == "content":
        return {f"a {t.size} {t.colour} {t.shape}" for t in things if t.place in question.text}
    meant = [t for t in things if t.colour in words or t.shape in words]
    return {getattr(t, question.kind) for t in meant}


def test_every_question_has_one_true_answer(scenes: list[Scene]) -> None:
    for scene in scenes:
        for question in scene.questions:
            assert _true_answers(scene, question) == {str(question.answer)}, (scene.seed, question)


def test_questions_are_of_all_kinds_without_repeats(scenes: list[Scene]) -> None:
    assert {q.kind for scene in scenes for q in scene.questions} == set(KINDS)
    for scene in scenes:
        assert max(Counter(q.text for q in scene.questions).values()) == 1


def test_presence_is_as_often_no_as_yes_and_no_is_not_given_away(scenes: list[Scene]) -> None:
    answers: Counter[str] = Counter()
    hard = 0
    for scene in scenes:
        for question in scene.questions:
            if question.kind == "presence":
                answers[str(question.answer)] += 1
                colour, shape = question.text.split()[3:5]
                seen = any(t.colour == colour for t in scene.objects) and any(t.shape == shape for t in scene.objects)
                hard += seen and str(question.answer) == "no"
    assert answers["yes"] == answers["no"]
    assert hard >= answers["no"] / 3


def test_patch_labels_name_the_object_that_covers_the_patch() -> None:
    scene = draw_scene(2)
    labels = patch_labels(scene.objects, 8).reshape(12, 12, len(ASPECTS))
    assert (labels[..., 4] == 1).sum() == len(scene.objects)  # one centre each
    for thing in scene.objects:
        covered = thing.mask.reshape(12, 8, 12, 8).sum(axis=(1, 3))
        shown = labels[covered >= LEAST_PART]
        assert (shown[:, 0] == COLOURS.index(thing.colour) + 1).all()
        assert (shown[:, 1] == SHAPES.index(thing.shape) + 1).all()
        assert (labels[(covered > 0) & (covered < LEAST_PART), 0] != 0).all()
    nowhere = ~scene.mask(range(len(scene.objects))).reshape(12, 8, 12, 8).any(axis=(1, 3))
    assert (labels[nowhere][:, :4] == 0).all()
    assert set(np.unique(labels[..., 0])) <= {IGNORE, *range(len(COLOURS) + 1)}


def test_scenes_need_no_torch() -> None:
    code = "import sys, dexar_fast.demo.scenes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

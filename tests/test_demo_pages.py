"""Drawn pages and the richer scenes: exact truth, and a language that says what is there."""

import numpy as np
import pytest

from dexar_fast.demo.deep import tokenizer
from dexar_fast.demo.language import PLACES, Text
from dexar_fast.demo.pages import CHARACTERS, HEIGHT, WIDTH, draw_page
from dexar_fast.demo.reader import MOST_TOKENS, build_tokenizer
from dexar_fast.demo.rich_language import CASUAL, PIECES, PROMPTS, RICH, describe, relation
from dexar_fast.demo.rich_scenes import draw_rich_scene
from dexar_fast.demo.scenes import FEW_SHAPES, SIDE, SIZES, draw_scene, draw_sized_scene
from dexar_fast.demo.train_reader import IGNORE, LEAST_INK, patch_labels
from dexar_fast.evaluate.data import DEMO, open_data

PAGES = range(40)


# --- pages ---


def test_a_seed_draws_one_page() -> None:
    first, again, other = draw_page(5), draw_page(5), draw_page(6)
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.text, first.image.size) == (again.text, (WIDTH, HEIGHT))
    assert first.image.tobytes() != other.image.tobytes()


def test_glyphs_spell_the_text_and_stand_where_the_ink_is() -> None:
    for seed in PAGES:
        page = draw_page(seed)
        assert "".join(glyph.character for glyph in page.glyphs) == page.text.replace(" ", "")
        assert len(page.text) + 1 <= MOST_TOKENS
        assert page.text == " ".join(page.text.split())
        pixels = np.asarray(page.image).astype(float).mean(axis=2)
        everything = page.mask(range(len(page.glyphs)))
        # Dilated by a pixel: soft edges carry some ink, too.
        near = np.pad(everything, 1)
        near = near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:] | everything
        assert abs(pixels[everything].mean() - pixels[~near].mean()) > 4 * pixels[~near].std()
        for glyph in page.glyphs:
            left, top, right, bottom = glyph.box
            assert glyph.mask[top:bottom, left:right].sum() == glyph.mask.sum() > 0
            assert glyph.mask[top].any()
            assert glyph.mask[:, right - 1].any()


def test_words_own_their_glyphs_in_reading_order() -> None:
    for seed in PAGES:
        page = draw_page(seed)
        words = page.words()
        assert [word for word, _ in words] == page.text.split()
        assert [index for _, glyphs in words for index in glyphs] == list(range(len(page.glyphs)))
        for word, glyphs in words:
            assert "".join(page.glyphs[index].character for index in glyphs) == word
            lefts = [page.glyphs[index].box[0] for index in glyphs]
            assert lefts == sorted(lefts)


def test_letters_and_digits_all_occur() -> None:
    seen = {glyph.character for seed in range(300) for glyph in draw_page(seed).glyphs}
    assert seen == set(CHARACTERS)


def test_the_reader_has_a_token_for_each_character() -> None:
    tokenizer = build_tokenizer()
    for seed in PAGES:
        text = draw_page(seed).text
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_patches_are_labelled_by_the_character_with_most_ink() -> None:
    page = draw_page(3)
    labels = patch_labels(page).reshape(HEIGHT // 8, WIDTH // 8, 2)
    for (row, column), _ in np.ndenumerate(labels[..., 0]):
        ink = [int(g.mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].sum()) for g in page.glyphs]
        if max(ink) == 0:
            assert labels[row, column].tolist() == [0, 0]
        elif max(ink) < LEAST_INK:
            assert labels[row, column].tolist() == [IGNORE, IGNORE]
        else:
            character, place = labels[row, column]
            assert page.text[place - 1] == CHARACTERS[character - 1] == page.glyphs[int(np.argmax(ink))].character


# --- richer scenes and their language ---


def test_objects_wear_their_pattern() -> None:
    spread: dict[str, list[float]] = {}
    for seed in range(60):
        scene = draw_rich_scene(seed)
        pixels = np.asarray(scene.image).astype(float).mean(axis=2)
        for thing in scene.objects:
            spread.setdefault(thing.pattern, []).append(float(pixels[thing.mask].std()))
    assert max(spread["plain"]) < min(spread["striped"] + spread["spotted"])


def test_lines_and_specks_are_of_no_object() -> None:
    """Outside the objects a scene differs from its background only where something thin was drawn."""
    from dexar_fast.demo.scenes import draw_background

    shares = []
    for seed in range(20):
        scene = draw_rich_scene(seed)
        changed = (np.asarray(scene.image) != draw_background(seed)).any(axis=2)
        shares.append(changed[~scene.mask(range(len(scene.objects)))].mean())
    assert 0.0 < np.mean(shares) < 0.05


@pytest.mark.parametrize("prompt", PROMPTS)
def test_every_word_refers_to_what_it_is_about(prompt: str) -> None:
    for seed in range(30):
        scene = draw_rich_scene(seed)
        text = describe(scene.objects, prompt)
        spoken = {value: key for key, value in CASUAL.items()}
        for word, refers_to in zip(text.words, text.refers_to, strict=True):
            kind = RICH.kind_of(word, refers_to)
            values = {
                getattr(scene.objects[i], kind) for i in refers_to if kind in ("colour", "shape", "size", "pattern")
            }
            assert not values or values == {word} or values == {spoken[word]}
        assert str(text).count(" . ") == len(scene.objects) + (len(scene.objects) > 1)


def test_a_relation_holds_in_the_picture() -> None:
    for seed in range(60):
        things = draw_rich_scene(seed).objects
        for one in things:
            for other in things:
                if one is other:
                    continue
                (x, y), (to_x, to_y) = one.centre, other.centre
                row, to_row = PLACES.index(one.place) // 3, PLACES.index(other.place) // 3
                said = relation(one, other)
                assert said == ("left of" if x < to_x else "right of") if row == to_row else True
                assert said == ("above" if y < to_y else "below") if row != to_row else True


def test_questions_about_relations_are_answered_both_ways() -> None:
    answers = [
        str(question.answer)
        for seed in range(60)
        for question in draw_rich_scene(seed).questions
        if question.kind == "relation"
    ]
    assert 0.35 < answers.count("yes") / len(answers) < 0.65


def test_some_words_are_two_tokens_and_all_survive() -> None:
    words = tokenizer()
    assert words.tokenize("a striped triangle") == ["a", "strip", "##ed", "tri", "##angle"]
    assert all(len(words.tokenize(word)) == 2 for word in PIECES)
    for seed in range(30):
        scene = draw_rich_scene(seed)
        texts: list[str | Text] = [*PROMPTS, *(describe(scene.objects, prompt) for prompt in PROMPTS)]
        texts += [text for question in scene.questions for text in (question.text, question.answer)]
        for text in map(str, texts):
            ids = words(text)["input_ids"]
            assert words.unk_token_id not in ids
            assert words.decode(ids) == text


# --- scenes of several sizes ---


def test_scenes_come_in_every_size_with_objects_in_their_thirds() -> None:
    for seed, size in enumerate(SIZES):
        scene = draw_sized_scene(seed)
        assert scene.image.size == size
        assert not np.asarray(scene.image)[0].any()  # the frame
        for thing in scene.objects:
            assert thing.mask.shape == size[::-1]
            assert thing.shape in FEW_SHAPES
            third = int(thing.centre[1] * 3 / size[1]) * 3 + int(thing.centre[0] * 3 / size[0])
            assert PLACES[third] == thing.place
        assert not np.any(np.sum([thing.mask for thing in scene.objects], axis=0) > 1)


def test_scenes_too_small_for_three_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 84"):
        draw_scene(0, size=(SIDE, 60))


# --- data sets ---


@pytest.mark.parametrize("name", list(DEMO))
def test_a_data_set_gives_every_word_its_pixels(name: str) -> None:
    data = open_data(name)
    assert data.name == name
    kinds = set()
    for index in range(8):
        sample = data[index]
        assert sample.key == data.key(index)
        assert sample.mask is not None
        assert sample.answer is not None
        assert sample.mask.shape == sample.image.size[::-1]
        assert sorted(sample.words) == list(range(len(sample.answer.split())))
        for truth in sample.words.values():
            kinds.add(truth.kind)
            assert truth.mask is None or (truth.mask & ~sample.mask).sum() == 0
    wanted = {
        "demo-reader": {"text", "number"},
        "demo-deep": {"colour", "shape", "size", "place", "number", "relation", "several tokens", "function"},
        "demo-qwen": {"colour", "shape", "size", "place", "number", "function"},
    }
    assert wanted.get(name, set()) <= kinds

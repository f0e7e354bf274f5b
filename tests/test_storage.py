"""Saving and loading: everything comes back, nothing is lost when a write fails, nothing foreign is read."""

import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from dexar_fast import Explainer, Explanation, InputError

from .tiny import picture, tiny_llava, tiny_processor


@pytest.fixture(scope="module")
def explanation() -> Explanation:
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    return explainer.explain(picture(), "what is <it>?", " a star ✓", unfiltered=True, text_set="content_only")


@pytest.mark.parametrize("name", ["e.safetensors", "e.npz", "e"])
def test_exact_is_bit_for_bit(explanation: Explanation, tmp_path: Path, name: str) -> None:
    loaded = Explanation.load(explanation.save(tmp_path / name, exact=True))
    for field in fields(Explanation):
        before, after = getattr(explanation, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert after.dtype == before.dtype, field.name
            np.testing.assert_array_equal(after, before, err_msg=field.name)
        elif field.name == "image":
            np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        else:
            assert after == before, field.name


def test_compact_maps_are_close_and_scores_exact(explanation: Explanation, tmp_path: Path) -> None:
    compact, exact = tmp_path / "compact", tmp_path / "exact"
    loaded = Explanation.load(explanation.save(compact))
    explanation.save(exact, exact=True)
    np.testing.assert_allclose(loaded.token_maps, explanation.token_maps, atol=2.5e-4)
    np.testing.assert_array_equal(loaded.image_scores, explanation.image_scores)
    assert loaded.token_maps.dtype == np.float32
    assert compact.stat().st_size < exact.stat().st_size


def test_without_image_and_unfiltered_maps(explanation: Explanation, tmp_path: Path) -> None:
    bare = replace(explanation, image=None, unfiltered_token_maps=None, unfiltered_answer_map=None)
    loaded = Explanation.load(bare.save(tmp_path / "bare"))
    assert loaded.image is None
    assert loaded.unfiltered_token_maps is None


def test_targets_and_foils_come_back(tmp_path: Path) -> None:
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    words = explainer.explain(picture(), "what?", " a red ✓", targets="words", contrast=" blue")
    loaded = Explanation.load(words.save(tmp_path / "words", exact=True))
    assert (loaded.targets, loaded.foils, loaded.settings) == (words.targets, words.foils, words.settings)
    assert len(loaded.words()) == len(loaded.token_maps) == 3 < len(loaded.tokens)
    np.testing.assert_array_equal(loaded.words()[1].map, words.words()[1].map)
    some = explainer.explain(picture(), "what?", "ab", contrast=[None, "d"])
    assert Explanation.load(some.save(tmp_path / "some")).foils == some.foils
    found = explainer.alternatives(picture(), "what?", " a red", token=1, k=3)
    loaded = Explanation.load(found.save(tmp_path / "found"))
    assert loaded.targets == found.targets


def test_files_of_the_first_format_load(explanation: Explanation, tmp_path: Path) -> None:
    """Which knew neither targets nor foils."""
    path = explanation.save(tmp_path / "old")
    with safe_open(path, framework="numpy") as file:
        arrays, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["explanation"]  # noqa: SIM118
    old = json.loads(header)
    assert old["format_version"] == 3
    del old["targets"], old["foils"]
    save_file(arrays, path, metadata={"explanation": json.dumps({**old, "format_version": 1})})
    loaded = Explanation.load(path)
    assert (loaded.targets, loaded.foils, loaded.tokens) == (None, None, explanation.tokens)


def test_several_pictures_without_a_map(explanation: Explanation, tmp_path: Path) -> None:
    """Tokens without a place: each is a cell of its own."""
    pictures = (picture(), picture(20, 50))
    flat = {"token_maps": explanation.token_maps.reshape(len(explanation.tokens), -1)}
    several = replace(
        explanation, image=pictures, grid=None, answer_map=explanation.answer_map.ravel(), **flat,
        unfiltered_token_maps=None, unfiltered_answer_map=None,
    )  # fmt: skip
    loaded = Explanation.load(several.save(tmp_path / "several", exact=True))
    assert [one.size for one in loaded.image] == [one.size for one in pictures]
    np.testing.assert_array_equal(loaded.token_maps, several.token_maps)


@pytest.mark.parametrize("foreign", ["token_maps.7", "weights"])
def test_unknown_array_is_named(explanation: Explanation, tmp_path: Path, foreign: str) -> None:
    path = explanation.save(tmp_path / "e.safetensors")
    with safe_open(path, framework="numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file({**arrays, foreign: np.zeros(3)}, path, metadata)
    with pytest.raises(InputError, match=rf"unknown arrays {foreign}; it was not written by"):
        Explanation.load(path)
    del arrays["token_ids"]
    save_file(arrays, path, metadata)
    with pytest.raises(InputError, match="lacks token_ids"):
        Explanation.load(path)


def test_failed_write_leaves_the_old_file(
    explanation: Explanation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = explanation.save(tmp_path / "e.safetensors")
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace(explanation, tokens=["changed"] * len(explanation.tokens)).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_loads_without_torch(explanation: Explanation, tmp_path: Path) -> None:
    path = explanation.save(tmp_path / "e.safetensors")
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from dexar_fast import Explanation\n"
        f"e = Explanation.load({str(path)!r}); e.overlay(); e.to_html({str(tmp_path / 'r.html')!r})\n"
        "print(len(e.tokens))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(explanation.tokens)


def test_foreign_files_are_named(explanation: Explanation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path: no file .*nothing"):
        Explanation.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("hello, this is no explanation at all")
    with pytest.raises(InputError, match=r"is not a saved explanation, or is cut off"):
        Explanation.load(tmp_path / "text")
    whole = explanation.save(tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"is not a saved explanation, or is cut off"):
        Explanation.load(tmp_path / "cut")
    save_file({"weight": np.zeros(3)}, tmp_path / "weights")
    with pytest.raises(InputError, match=r"holds something other than an explanation"):
        Explanation.load(tmp_path / "weights")
    newer = json.dumps({"format": "dexar_fast.result.explanation", "format_version": 99})
    save_file({"weight": np.zeros(3)}, tmp_path / "newer", metadata={"explanation": newer})
    with pytest.raises(InputError, match=r"format version 99, this release reads up to 3; upgrade"):
        Explanation.load(tmp_path / "newer")


def test_overlay_arguments(explanation: Explanation) -> None:
    assert explanation.overlay().size == (40, 30)
    assert explanation.overlay(-1).tobytes() == explanation.overlay(len(explanation.tokens) - 1).tobytes()
    assert explanation.overlay(word=0).size == (40, 30)
    with pytest.raises(InputError, match=r"token, word: expected one of them"):
        explanation.overlay(0, word=0)
    with pytest.raises(InputError, match=r"token: expected an index from -\d+ to \d+; got 99"):
        explanation.overlay(99)
    with pytest.raises(InputError, match=r"word: expected an index from"):
        explanation.overlay(word=99)


def test_maps_of_all_methods_come_back(tmp_path: Path) -> None:
    explainer = Explainer(tiny_llava(dtype=torch.float32), tiny_processor())
    names = ["dexar-focus", "dexar", "attention"]
    several = explainer.explain([picture(), picture(20, 50)], "what?", " a red ✓", method=names, grounding=True)
    loaded = Explanation.load(several.save(tmp_path / "several", exact=True))
    assert loaded.methods == several.methods == tuple(names)
    for name in names:
        one, other = several.of_method(name), loaded.of_method(name)
        assert (other.method, other.settings) == (name, one.settings)
        for field in ("token_weights", "image_scores", "text_scores", "token_map_ranges"):
            np.testing.assert_array_equal(getattr(other, field), getattr(one, field), err_msg=field)
        for of_image, expected in zip(other.token_maps, one.token_maps, strict=True):
            np.testing.assert_array_equal(of_image, expected)
    np.testing.assert_array_equal(loaded.log_probabilities, several.log_probabilities)
    assert not np.array_equal(several.maps("dexar")[0], several.maps("attention")[0])


def test_files_of_one_method_load(explanation: Explanation, tmp_path: Path) -> None:
    """As the second format has them."""
    path = explanation.save(tmp_path / "old")
    with safe_open(path, framework="numpy") as file:
        arrays, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["explanation"]  # noqa: SIM118
    old = json.loads(header)
    del old["methods"]
    save_file(arrays, path, metadata={"explanation": json.dumps({**old, "format_version": 2})})
    loaded = Explanation.load(path)
    assert loaded.methods == ("dexar",)
    np.testing.assert_array_equal(loaded.text_scores, explanation.text_scores)


def test_npz_is_one_that_numpy_reads_without_pickle(explanation: Explanation, tmp_path: Path) -> None:
    path = explanation.save(tmp_path / "e.npz")
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["token_maps"], explanation.token_maps.astype(np.float16))
        assert json.loads(str(file["explanation"]))["tokens"] == explanation.tokens


def test_a_file_is_what_it_holds_whatever_its_name(explanation: Explanation, tmp_path: Path) -> None:
    older = explanation.save(tmp_path / "e").rename(tmp_path / "older.npz")
    assert Explanation.load(older).tokens == explanation.tokens
    other = explanation.save(tmp_path / "e.npz").rename(tmp_path / "other.safetensors")
    assert Explanation.load(other).tokens == explanation.tokens


@pytest.mark.parametrize(("name", "way"), [("e.csv", "to_csv"), ("e.JSON", "to_json"), ("e.pkl", "")])
def test_names_of_other_files_are_refused(explanation: Explanation, tmp_path: Path, name: str, way: str) -> None:
    with pytest.raises(
        InputError, match=rf"path: expected a name that ends in .safetensors or .npz; got {name}.*{way}"
    ):
        explanation.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_pickles_and_compressed_files_are_refused(explanation: Explanation, tmp_path: Path) -> None:
    with np.load(explanation.save(tmp_path / "e.npz")) as file:
        arrays = dict(file)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    with pytest.raises(InputError, match=r"small\.npz is not a saved explanation.*without compression"):
        Explanation.load(tmp_path / "small.npz")
    np.savez(tmp_path / "pickle.npz", **{**arrays, "token_ids": np.array([print], dtype=object)})
    with pytest.raises(InputError, match=r"pickle\.npz is not a saved explanation.*allow_pickle"):
        Explanation.load(tmp_path / "pickle.npz")

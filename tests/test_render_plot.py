"""The matplotlib figure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dexar_fast.errors import InputError
from dexar_fast.inputs.targets import Foil, Target
from dexar_fast.render.plot import MOST_TOKENS, plot

from .explanations import make_explanation, with_targets

matplotlib = pytest.importorskip("matplotlib", reason="plot() is an optional extra")


def titles(tokens: Sequence[int] | None = None, **options: object) -> list[str]:
    return [axes.get_title() for axes in plot(make_explanation(), tokens=tokens, **options).axes]  # type: ignore[arg-type]


def test_the_default_is_the_answer_map_and_the_heaviest_tokens_in_order() -> None:
    explanation = make_explanation()
    heaviest = sorted(np.argsort(-explanation.token_weights)[:MOST_TOKENS])
    expected = [f"{explanation.tokens[i].strip()}  {explanation.token_weights[i]:#.3g}" for i in heaviest]
    assert titles() == ["answer map", *expected]


def test_chosen_tokens_come_in_the_callers_order() -> None:
    explanation = make_explanation()
    shown = titles([5, 1, -1])
    assert [title.split()[0] for title in shown[1:]] == [explanation.tokens[i].strip() for i in (5, 1, -1)]


def test_panels_show_the_overlay_of_their_token() -> None:
    figure = plot(make_explanation(), tokens=[4, 14], heatmap_opacity=1.0)
    first, second = (np.asarray(axes.images[0].get_array()) for axes in figure.axes[1:])
    assert first.shape == (384, 512, 3)  # 640 x 480 at most 512 wide
    assert (first != second).any()


def test_dollar_signs_and_line_breaks_are_drawn_as_text(tmp_path: object) -> None:
    figure = plot(make_explanation(["$x^", "\n", " $5 and $6", "_", ""]))
    figure.savefig(f"{tmp_path}/figure.png")  # mathtext would raise on "$x^ ... $"
    titles = {axes.get_title().rsplit("  ", 1)[0] for axes in figure.axes[1:]}
    assert titles == {"$x^", "\\n", "$5 and $6", "_", "(no text)"}


def test_characters_that_the_own_font_lacks_come_from_an_installed_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    figure = plot(make_explanation(["\U0001d49c"]))  # a script A: in no text font of matplotlib
    figure.savefig(f"{tmp_path}/own.png")
    lacks = [str(one.message) for one in recwarn if "missing from font" in str(one.message)]
    monkeypatch.setattr("dexar_fast.render.fonts._FURTHER", ("No Such Font", "STIXGeneral"))
    recwarn.clear()
    figure = plot(make_explanation(["\U0001d49c"]))
    figure.savefig(f"{tmp_path}/further.png")
    assert figure.axes[1].title.get_fontfamily()[-1] == "STIXGeneral"
    assert lacks
    assert len(recwarn) == 0


def test_notebooks_show_it_without_pyplot() -> None:
    from IPython.core.formatters import DisplayFormatter

    data, _ = DisplayFormatter().format(plot(make_explanation(), tokens=[0]))
    assert data["image/png"].startswith(b"\x89PNG")


def test_nothing_global_is_touched() -> None:
    before = dict(matplotlib.rcParams)
    pyplot_loaded = "matplotlib.pyplot" in sys.modules
    plot(make_explanation(), tokens=[0])
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_loaded


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "dexar_fast.render.figure", raising=False)
    with pytest.raises(ImportError, match=r"pip install dexar-fast\[plot\]"):
        plot(make_explanation())


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InputError, match="tokens: expected indices from -34 to 33, got 34"):
        plot(make_explanation(), tokens=[34])
    with pytest.raises(InputError, match=r"tokens: expected indices from -34 to 33, got 1\.5"):
        plot(make_explanation(), tokens=[1.5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="heatmap_opacity"):
        plot(make_explanation(), heatmap_opacity=2)
    with pytest.raises(InputError, match="colormap"):
        plot(make_explanation(), colormap="jet")


def test_targets_are_titled_with_foil_and_probability() -> None:
    explanation = make_explanation(["a", " pag", "od", "a"])
    explanation = with_targets(explanation, Target("a", 0, 1), Target("pagoda", 1, 4), Target("tower", 1, 4, 7, 0.125))
    foils = (None, Foil(5, " $tem"), Foil(6, "ple"), None)
    figure = plot(replace(explanation, foils=foils))
    shown = [axes.get_title().rsplit("  ", 1)[0] for axes in figure.axes[1:]]
    assert shown == ["a", "pagoda, not $tem / ple", "tower 12%, not $tem / ple"]
    with pytest.raises(InputError, match="tokens: expected indices from -3 to 2, got 3"):
        plot(explanation, tokens=[3])

"""The command `app`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..errors import InputError
from .failures import failures_as_exit_codes
from .options import AppLang, Debug, Device, Dtype, Load, Model, parse_lang, parse_settings
from .progress import shown_progress


def browser_app(
    model: Model = "demo",
    host: Annotated[str, typer.Option(help="Address to listen at. The default is reached from this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int | None, typer.Option(help="By default the first free one from 7860 on.", min=1, max=65535)
    ] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    lang: AppLang = "en",
    debug: Debug = False,
) -> None:
    """Ask about a picture in the browser, watch the answer with its maps, and click its words.

    \b
    Examples:
      dexar-fast app
      dexar-fast app -m llava-hf/llava-1.5-7b-hf --port 9000
      dexar-fast app --lang de

    \b
    Exit codes: 0 stopped, 1 the run failed, 2 bad input.
    """
    with failures_as_exit_codes(debug):
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when it is imported
        try:
            from ..app.run import run
        except ModuleNotFoundError as error:
            raise InputError(f'app: needs {error.name}; pip install "dexar-fast[app]"') from error
        from .run import load_explainer, name_the_demo

        assert model is not None
        said = parse_lang(lang)
        name_the_demo(model, quiet=False)
        with shown_progress(quiet=False) as progress:
            explainer = load_explainer(model, progress, device=device, dtype=dtype, **parse_settings("--load", load))
        run(explainer, host, port, lang=said)

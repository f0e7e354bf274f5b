"""Serve the app until stopped."""

from __future__ import annotations

import gradio as gr

from ..errors import InputError
from ..explainer import Explainer
from ..render.languages import ENGLISH, Language
from .blocks import CSS, create_app

MOST = "16mb"
"""Of a picture."""


def run(
    explainer: Explainer,
    host: str = "127.0.0.1",
    port: int | None = None,
    *,
    lang: Language = ENGLISH,
    wait: bool = True,
) -> str:
    """Serve the app at an address of this machine; nothing is shared with others, and nothing is reported home.

    Args:
        explainer: the model.
        host: the default is reached from this machine alone.
        port: None takes the first free one from 7860 on.
        lang: see `create_app`.
        wait: until Ctrl-C; else the address is returned at once, and the app ends with the process.

    Raises:
        InputError: nothing can listen there, or there is no such language.
    """
    system = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # fonts of the network else
    app = create_app(explainer, lang=lang)
    try:
        _, address, _ = app.launch(
            server_name=host, server_port=port, share=False, theme=system, css=CSS, prevent_thread_lock=True,
            quiet=True, max_file_size=MOST, footer_links=[], ssr_mode=False,
        )  # fmt: skip
    except OSError as error:
        raise InputError(f"host, port: cannot listen at {host}:{port} ({error})") from error
    print(f"The app is at {address} (Ctrl-C stops)", flush=True)
    if wait:
        app.block_thread()
    return str(address)

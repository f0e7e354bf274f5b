"""The command `serve`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import InputError
from .failures import failures_as_exit_codes
from .options import Debug, Device, Dtype, Load, Model, Quiet, parse_settings
from .progress import shown_progress


def serve(
    model: Model = "demo",
    host: Annotated[str, typer.Option(help="Address to listen at. The default is reached from this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A host name under which clients call; repeat it. Others are refused."),
    ] = None,
    queue: Annotated[int, typer.Option(help="Requests that may wait; more are told to come again.", min=0)] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds for an answer, waiting included.", min=1)] = 120,
    max_mib: Annotated[int, typer.Option(help="Largest request, in MiB.", min=1)] = 16,
    max_pixels: Annotated[int, typer.Option(help="Largest picture.", min=1)] = 20_000_000,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 512,
    device: Device = None,
    dtype: Dtype = "auto",
    load: Load = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Answer questions about pictures over HTTP, with the maps of every word, and serve a page to try it.

    There are no accounts and no encryption: put a proxy in front before others reach it.

    \b
    Examples:
      dexar-fast serve
      dexar-fast serve -m llava-hf/llava-1.5-7b-hf --port 9000
      curl -F image=@photo.jpg -F prompt="What is it?" http://127.0.0.1:8000/explain

    \b
    Exit codes: 0 stopped by SIGTERM, 1 the run failed, 2 bad input, 130 interrupted.
    """
    with failures_as_exit_codes(debug):
        try:
            from ..serve import Limits, run
        except ModuleNotFoundError as error:
            raise InputError(f'serve: needs {error.name}; pip install "dexar-fast[serve]"') from error
        from .run import load_explainer, name_the_demo

        assert model is not None
        limits = Limits(
            queue=queue,
            seconds=timeout,
            most_bytes=max_mib << 20,
            most_pixels=max_pixels,
            most_tokens=max_tokens,
        )
        name_the_demo(model, quiet)
        with shown_progress(quiet) as progress:
            explainer = load_explainer(model, progress, device=device, dtype=dtype, **parse_settings("--load", load))

        def ready(address: str) -> None:
            print(address if quiet else f"Serving {address} (Ctrl-C stops)")
            sys.stdout.flush()

        run(explainer, host, port, limits, hosts=name or (), ready=ready)

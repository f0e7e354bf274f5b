"""Errors become one line on stderr and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ..errors import DexarFastError, InputError, UnsupportedModelError
from ..inputs.tokens import printable

RUN_FAILED = 1
BAD_INPUT = 2


@contextmanager
def failures_as_exit_codes(debug: bool) -> Iterator[None]:
    """Print an exception as one line and exit: 2 where the user can mend the call, 1 where the run failed.

    Args:
        debug: let the exception through, with its traceback.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # the way out of typer itself, and of `dexar-fast ... | head`
    except (InputError, UnsupportedModelError) as error:
        _stop(error, str(error), BAD_INPUT, debug)
    except DexarFastError as error:
        _stop(error, str(error), RUN_FAILED, debug)
    except Exception as error:
        _stop(error, f"{type(error).__name__}: {error} (--debug shows the traceback)", RUN_FAILED, debug)


def _stop(error: Exception, message: str, code: int, debug: bool) -> None:
    if debug:
        raise error
    # A message may quote a checkpoint, a file's name, an answer: what a terminal would obey is shown as an escape.
    print("dexar-fast:", printable(" ".join(message.split())), file=sys.stderr)
    raise typer.Exit(code) from error

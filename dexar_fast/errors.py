"""What goes wrong for a user. Every message names the argument, what was expected, what came, and the way out."""

from __future__ import annotations

from numbers import Integral


class DexarFastError(Exception):
    """Base of all errors that this package raises on purpose."""


class InputError(DexarFastError, ValueError):
    """An argument is not usable: an image, a prompt, an answer, a layer, an option."""


class UnsupportedModelError(DexarFastError, TypeError):
    """The model's family, its weights or its device cannot be explained."""


class SelfCheckError(DexarFastError, RuntimeError):
    """The local gradient does not describe this model's layer: results would be wrong, so there are none."""


class NotFiniteError(DexarFastError, ArithmeticError):
    """A score or map is NaN or infinite; the message names the layer and the token."""


def check_count(name: str, value: object, of: str) -> None:
    """Refuse what is no whole number from 1 on.

    Raises:
        InputError: says so.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name}: expected a number of {of} from 1 on; got {value!r}")

"""The web service: explanations over HTTP, one model for many clients. Needs the extra ``serve``.

Import from here: `create_app` for a server of your own, `Limits`, and `run`, which serves until it is stopped.
"""

from .app import create_app
from .limits import Limits
from .run import run

__all__ = ["Limits", "create_app", "run"]

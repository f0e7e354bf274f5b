"""What the hub answers when a model is asked for, and why its files cannot be had."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import InputError

_TIMEOUT = 10  # seconds that the hub has to answer


def _is_folder(model: str | PathLike[str]) -> bool:
    """Whether it is, or is meant to be, a folder: hub ids hold one slash at most."""
    name = str(model)
    return isinstance(model, Path) or name.startswith((".", "/")) or name.count("/") > 1 or Path(name).exists()


def from_cache_alone(model: str | PathLike[str], revision: str | None) -> bool:
    """Whether the hub cannot be reached, or does not give a model that is in the cache. It is asked once.

    Raises:
        InputError: it does not give a model that is not in the cache.
    """
    if _is_folder(model):
        return False
    if constants.is_offline_mode():
        return True
    try:
        get_hf_file_metadata(hf_hub_url(str(model), "config.json", revision=revision), timeout=_TIMEOUT)
    except EntryNotFoundError:
        return False  # a model of another kind, which transformers will name
    except HFValidationError:
        return False
    except HfHubHTTPError as error:
        if isinstance(try_to_load_from_cache(str(model), "config.json", revision=revision), str):
            return True
        raise unreachable(model, revision, error) from error
    except Exception:  # what the hub's client raises without a network depends on the release of that client
        return True
    return False


def hub_error(error: BaseException) -> HfHubHTTPError | None:
    """What the hub answered, if that is behind an error."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, HfHubHTTPError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def unreachable(model: str | PathLike[str], revision: str | None, error: BaseException) -> InputError:
    """Why a model's files cannot be had, in two lines."""
    name = str(model)
    answered = hub_error(error)
    if isinstance(answered, GatedRepoError):
        return InputError(
            f"model: {name!r} is gated: its owners ask you to accept their terms.\n"
            f"Accept them at https://huggingface.co/{name}, then log in (hf auth login) or set HF_TOKEN."
        )
    if isinstance(answered, RevisionNotFoundError):
        return InputError(f"revision: {name!r} has no {revision!r}.\nPass a branch, a tag or the hash of a commit.")
    if isinstance(answered, RepositoryNotFoundError):
        return InputError(
            f"model: the hub has no {name!r} that you may see.\n"
            "Check the name; for a private model log in (hf auth login) or set HF_TOKEN."
        )
    if _is_folder(model):
        return InputError(f'model: {name!r} is no folder with a config.json.\nPass a folder, a hub id, or "demo".')
    if constants.is_offline_mode():
        return InputError(
            f"model: {name!r} is neither a folder with a config.json nor in the cache, and HF_HUB_OFFLINE forbids to "
            'look on the hub.\nUnset it, or pass a folder, a cached hub id, or "demo".'
        )
    return InputError(
        f"model: {name!r} is neither a folder with a config.json, nor a hub id that can be reached or is cached.\n"
        'Check the name and the network, or pass a folder or "demo".'
    )

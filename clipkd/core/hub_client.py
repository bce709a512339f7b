"""The Hugging Face hub: files that are what was pinned or announced, errors in our words. No torch here."""

from __future__ import annotations

import errno
import hashlib
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipkd.core.disk import FULL, explained
from clipkd.core.environment import redacted
from clipkd.core.errors import DataError, InputError, MachineError
from clipkd.core.files import sha256
from clipkd.core.progress import say

Wanted = Any
"""A teacher, student or dataset of the hub: has kind, name, title, thing, verb, hub_id and revision."""
WEIGHTS = "model.safetensors"
DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SHA256_DIGITS = 64
ETAG_TIMEOUT = 30.0
"""Seconds to wait for the hub's first answer about a file."""
CONVERT = (
    "Pickled weights are not loaded, because they can run code. To convert them, use `from_pretrained` and "
    "`save_pretrained` with transformers, on a machine where you trust them, and give that folder as the teacher; "
    "or ask https://huggingface.co/spaces/safetensors/convert to open a pull request and pin its commit."
)


class MissingFile(InputError):
    """A repository of the hub has no such file."""


def verified_file(wanted: Wanted, name: str) -> Path:
    """Return the path of one file in the Hugging Face cache; its bytes are those that were pinned or announced.

    huggingface_hub itself takes any file of the right size.
    """
    path = bring(wanted, name)
    expected = (wanted.weights_sha256 if name == WEIGHTS else None) or announced(path)
    if expected is None or expected in digests(path, len(expected)):
        return path
    say(f"{wanted.title}: {name} in the Hugging Face cache is damaged; downloading it again")
    path = bring(wanted, name, again=True)
    actual = digests(path, len(expected))
    if expected not in actual:
        algorithm = "sha256" if len(expected) == SHA256_DIGITS else "sha1"
        raise DataError(
            f"{name} of {wanted.hub_id} at {wanted.revision} is not the expected file: "
            f"{algorithm} expected {expected}, actual {actual[0]}"
        )
    return path


def announced(cached: Path) -> str | None:
    """Return the digest that the hub announced for a file, where the cache knows it.

    The cache names a file after its ETag: the sha256 of a large one, git's sha1 of a small one. The path that it
    gives is a link to that (one step: the link's target may itself be a link into a store with other names).
    """
    name = cached.readlink().name if cached.is_symlink() else ""
    return name if DIGEST.fullmatch(name) else None


def digests(path: Path, digits: int) -> list[str]:
    """Return what a file's digest of so many hex digits may be: its sha256, or its sha1 as git takes it, or plainly."""
    if digits == SHA256_DIGITS:
        return [sha256(path)]
    content = path.read_bytes()
    blobs = (b"blob %d\0" % len(content) + content, content)
    return [hashlib.sha1(blob, usedforsecurity=False).hexdigest() for blob in blobs]


def bring(wanted: Wanted, name: str, again: bool = False) -> Path:
    """Return the path of one file in the Hugging Face cache, downloaded if need be."""
    from huggingface_hub import hf_hub_download

    with hub_errors(wanted, name):
        return Path(
            hf_hub_download(
                wanted.hub_id,
                name,
                repo_type=wanted.thing,
                revision=wanted.revision,
                etag_timeout=ETAG_TIMEOUT,
                force_download=again,
                library_name="clipkd",
            )
        )


@contextmanager
def hub_errors(wanted: Wanted, name: str, verb: str | None = None) -> Iterator[None]:
    """Turn what goes wrong at the hub into our errors, and have its downloads keep our limits.

    The hub's own messages are not passed on: they may hold signed addresses.

    Args:
        wanted: what is asked for.
        name: which part of it, in the words of a message.
        verb: the command that is to be given again where the hub can be reached; None: what brings it.
    """
    from huggingface_hub import constants, errors

    from clipkd.core.hub_limits import limit_downloads

    hub, model, commit = redacted(constants.ENDPOINT), wanted.hub_id, wanted.revision or "main"
    who = f"{wanted.kind} '{wanted.name}'"
    limit_downloads()
    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{who}: {model} is gated: ask for access at {hub}/{model}, then set HF_TOKEN") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise InputError(f"{who}: {hub} knows no {wanted.thing} '{model}' (or it is private: set HF_TOKEN)") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{who}: {model} has no commit {commit}") from None
    except errors.RemoteEntryNotFoundError:
        advice = f". {CONVERT}" if name == WEIGHTS else ""
        raise MissingFile(f"{who}: {model} has no {name} at {commit}{advice}") from None
    except (OSError, ValueError, errors.HTTPError) as error:
        raise MachineError(out_of_reach(wanted, name, error, verb or wanted.verb)) from None


def out_of_reach(wanted: Wanted, name: str, error: Exception, verb: str) -> str:
    """Return the message for a file that can't be had here and now."""
    from huggingface_hub import constants

    if isinstance(error, OSError) and error.errno in FULL:
        return f"{wanted.kind} '{wanted.name}': {explained(error, Path(constants.HF_HUB_CACHE))}"
    if isinstance(error, OSError) and error.errno in {errno.EROFS, errno.EACCES}:
        return f"{wanted.kind} '{wanted.name}': can't write {constants.HF_HUB_CACHE}: {error.strerror}"
    cause = error.__cause__ or error  # huggingface_hub wraps what happened on the network
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    elif status is not None:
        reason = f"{redacted(constants.ENDPOINT)} answers with status {status}"
    else:
        reason = f"{redacted(constants.ENDPOINT)} can't be reached ({type(cause).__name__})"
    # A dataset's name alone does not say where it comes from.
    source = f" --dataset-source {shlex.quote(wanted.source)}" if wanted.kind == "dataset" else ""
    typed = getattr(wanted, "typed", wanted.name)  # a teacher's name may be one that clipkd made
    return (
        f"{wanted.kind} '{wanted.name}': {name} of {wanted.hub_id} is not on this machine, and {reason}. "
        f"Where there is internet, run: clipkd {verb} {shlex.quote(typed)}{source}"
    )

"""Upload of an export to the Hugging Face hub. The token comes from HF_TOKEN or `hf auth login`, no other way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipkd.core.artifacts import open_artifact, read_manifest
from clipkd.core.download import shown
from clipkd.core.errors import InputError, MachineError
from clipkd.core.hub import HUB_ID
from clipkd.export.formats import EXPORT

CARD = "README.md"


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload an export in one commit; return the commit's address.

    Every byte is checked against the folder's manifest first, the model card excepted: it may be edited.

    Raises:
        InputError: the folder is no export for the hub; the repository's name or the token is refused.
        DataError: a file is damaged.
        MachineError: the hub can't be reached or fails.
    """
    if not HUB_ID.fullmatch(repository):
        raise InputError(f"'{repository}' is no name on the hub: a name is OWNER/MODEL")
    if not (folder / "manifest.json").is_file() or not (folder / CARD).is_file():
        raise InputError(
            f"{folder} is no folder that `clipkd export --format hf` wrote: it lacks {CARD} or its manifest"
        )
    files = read_manifest(folder)["files"]
    open_artifact(folder, EXPORT, only=[name for name in files if name != CARD])
    from huggingface_hub import HfApi

    api = HfApi(library_name="clipkd")
    with hub_errors(repository):
        address = api.create_repo(repository, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=address,
            folder_path=folder,
            allow_patterns=[*files, "manifest.json"],
            commit_message="Upload by clipkd push",
        )
    return shown(done.commit_url)


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn what goes wrong at the hub into our errors; its own messages are not passed on."""
    from huggingface_hub import constants, errors

    hub = shown(constants.ENDPOINT)
    try:
        yield
    except (errors.HFValidationError, errors.BadRequestError):
        raise InputError(f"{hub} refuses '{repository}': a name is OWNER/MODEL") from None
    except errors.LocalTokenNotFoundError:
        raise InputError("no token for the hub: set HF_TOKEN, or run `hf auth login`") from None
    except (OSError, ValueError, errors.HTTPError) as error:
        cause = error.__cause__ or error
        response = getattr(error, "response", None) or getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if status in (401, 403, 404):
            raise InputError(
                f"{hub} refuses '{repository}' (status {status}): set HF_TOKEN to a token that may write there"
            ) from None
        reason = f"answers with status {status}" if status else f"can't be reached ({type(cause).__name__})"
        raise MachineError(f"{hub} {reason}; nothing is half uploaded: a commit is whole or absent") from None

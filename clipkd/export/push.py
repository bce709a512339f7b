"""Upload of an export to the Hugging Face hub. The token comes from HF_TOKEN or `hf auth login`, no other way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, errors

from clipkd.core.artifacts import MANIFEST, open_artifact, read_manifest
from clipkd.core.environment import masked, redacted
from clipkd.core.errors import InputError, MachineError
from clipkd.core.hub import HUB_ID
from clipkd.export.files import CARD, EMBEDDINGS_EXPORT, EXPORT

REPOSITORIES = {EXPORT: "model", EMBEDDINGS_EXPORT: "dataset"}
"""Kind of export -> kind of repository."""
HF_EXPORTS = "`clipkd export --format hf` (or onnx) or `clipkd export-embeddings --format hf`"


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Upload an export of a student or of embeddings in one commit; return the commit's address.

    Every byte is checked against the folder's manifest first, the model card excepted: it may be edited.

    Raises:
        InputError: the folder is not an export for the hub; the hub refuses the repository's name, the token or the
            card's header.
        DataError: a file is damaged.
        MachineError: the hub can't be reached or fails.
    """
    if not HUB_ID.fullmatch(repository):
        raise InputError(f"invalid repository name '{repository}': use OWNER/NAME")
    for name in (MANIFEST, CARD):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}; push a folder written by {HF_EXPORTS}")
    manifest = read_manifest(folder)
    kind, files = manifest["kind"], manifest["files"]
    if kind not in REPOSITORIES or manifest["identity"]["format"] not in {"hf", "onnx"}:
        raise InputError(f"{folder} is not an export for the hub; push a folder written by {HF_EXPORTS}")
    open_artifact(folder, kind, only=[name for name in files if name != CARD])
    api = HfApi(library_name="clipkd")
    with hub_errors(repository):
        address = api.create_repo(repository, repo_type=REPOSITORIES[kind], private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=address,
            repo_type=REPOSITORIES[kind],
            folder_path=folder,
            allow_patterns=[*files, MANIFEST],
            commit_message="Upload by clipkd push",
        )
    return redacted(done.commit_url)


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn the hub's errors into ours; its own messages are passed on of the card only: others may hold the token."""
    hub = redacted(constants.ENDPOINT)
    try:
        yield
    except (errors.HFValidationError, errors.BadRequestError):
        raise InputError(f"{hub} rejected the repository name '{repository}': use OWNER/NAME") from None
    except errors.LocalTokenNotFoundError:
        raise InputError(f"no token for {hub}: set HF_TOKEN, or run `hf auth login`") from None
    except (OSError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        cause = error.__cause__ or error
        if isinstance(cause, errors.BadRequestError):  # with its list of what is wrong in the card's header
            raise InputError(
                f"{hub} refuses {CARD}: mend its header, or export again with another --license. {masked(str(error))}"
            ) from None
        response = getattr(error, "response", None) or getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if status in (401, 403, 404):
            raise InputError(
                f"{hub} denied access to '{repository}' (status {status}): set HF_TOKEN to a token with write access"
            ) from None
        if constants.HF_HUB_OFFLINE:
            raise MachineError(f"nothing was sent to {hub}: HF_HUB_OFFLINE is set; unset it to push") from None
        reason = f"answered with status {status}" if status else f"can't be reached ({type(cause).__name__})"
        raise MachineError(f"{hub} {reason}; no commit was made, so run `clipkd push` again later") from None

"""Uploads a checkpoint to the Hugging Face Hub, with a model card."""

import re
from pathlib import Path

from ivggt_jax.weights import place
from ivggt_jax.weights.card import model_card, training_record
from ivggt_jax.weights.checkpoint import is_checkpoint, open_directory
from ivggt_jax.weights.place import CONFIG_FILE, TENSOR_FILE
from ivggt_jax.weights.tensor_file import CheckpointError

NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")
"""Licences as the Hub spells them: apache-2.0, cc-by-nc-sa-4.0, other."""
CARD = "README.md"


def find_student(folder: Path) -> Path:
    """The checkpoint in a folder: itself or, for a training run, its best student. Raises CheckpointError for others."""
    for path in (folder, folder / "best", folder / "student"):
        if is_checkpoint(path):
            return path
    raise CheckpointError(f"{folder} is no checkpoint of this project, and no training run with one: convert it first")


def push_to_hub(
    folder: str | Path, name: str, *, licence: str, private: bool = False, revision: str | None = None
) -> str:
    """Upload a checkpoint to the Hub, in one commit with its model card. Returns the commit's address.

    A README.md in the checkpoint's folder is the card; without one it is generated from the checkpoint and the record of its
    training run, if any. The repository is created if necessary. $HF_TOKEN and `hf auth login` work as usual.

    Args:
        folder: a checkpoint, or a training run, whose best student is taken.
        name: owner/name.
        licence: as the Hub spells it, such as apache-2.0. You are responsible for it: derived weights keep their original's.
        private: whether to make a new repository private.
        revision: a branch, created if necessary; by default the main one.

    Raises CheckpointError when the folder has no complete checkpoint, and for whatever prevents the upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    if not NAME.fullmatch(name):
        raise CheckpointError(f"{name!r} is not the name of a repository on the Hub, owner/name")
    if not LICENCE.fullmatch(licence):
        raise CheckpointError(
            f"{licence!r} is no licence as the Hub spells them: apache-2.0, mit, cc-by-nc-4.0, other, …"
        )
    checkpoint = find_student(Path(folder))
    description, _ = open_directory(checkpoint)  # complete, and with the declared shapes
    card: Path | bytes = checkpoint / CARD
    if not (checkpoint / CARD).is_file():
        card = model_card(name, licence, description, training_record(checkpoint), revision).encode()
    files = {CARD: card, **{file: place.find(checkpoint, file) for file in (CONFIG_FILE, TENSOR_FILE)}}
    additions = [CommitOperationAdd(path, content) for path, content in files.items() if content is not None]
    api = HfApi(library_name="ivggt_jax")
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        message = f"Weights of {checkpoint.resolve().name} for ivggt_jax"
        return str(api.create_commit(name, additions, commit_message=message, revision=revision).commit_url)
    except (OSError, RuntimeError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        raise CheckpointError(_explain(name, error)) from error


def _explain(name: str, error: Exception) -> str:
    """One line for a failed upload, with the remedy."""
    from huggingface_hub import constants, errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401 or isinstance(error, errors.LocalTokenNotFoundError):
        return f"{constants.ENDPOINT} asks who you are: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
    if status == 403:
        return f"the access token may not write to {name}: make one that may, or choose another owner"
    if status is None and isinstance(error, errors.HTTPError):  # type: ignore[attr-defined]
        return f"{constants.ENDPOINT} cannot be reached; nothing was pushed"
    return f"{name} was not pushed ({str(error).partition(chr(10))[0]}); nothing of it is on the Hub"

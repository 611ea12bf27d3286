"""Published weights: what there is, under which licence, and a cache where each is downloaded and converted once."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ivggt_jax.weights.tensor_file import CheckpointError


@dataclass(frozen=True)
class Published:
    """A file of weights on the Hugging Face Hub."""

    file: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where weights came from."""

    name: str
    """The published name, or the name of the file that was converted."""
    revision: str | None = None
    """The commit on the Hub."""
    sha256: str | None = None
    licence: str | None = None


PUBLISHED = {
    "lch01/StreamVGGT": Published("checkpoints.pth", "CC BY-NC-SA 4.0, non-commercial"),
    "facebook/VGGT-1B": Published("model.safetensors", "non-commercial; its page on the Hub has the terms"),
    "facebook/VGGT-1B-Commercial": Published("vggt_1B_commercial.pt", "the terms accepted on its page on the Hub"),
}
"""The names that `load` and `--checkpoint` take."""

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """Where converted models are kept: $IVGGT_CACHE, or ~/.cache/ivggt_jax."""
    return Path(os.environ.get("IVGGT_CACHE") or Path.home() / ".cache" / "ivggt_jax")


def cached(name: str, convert: Callable[[Path, Source, Path], None]) -> Path:
    """The directory of a published model in the cache.

    When it is missing, the file is fetched and `convert(file, source, directory)` makes the directory, under a lock: of
    processes that ask at once, one does it and the others wait.

    Raises CheckpointError, see `fetch`; also when the cache cannot be written.
    """
    directory = cache_folder() / name.replace("/", "--")
    if directory.exists():
        return directory
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _announced(FileLock(f"{directory}.lock"), name):
            if not directory.exists():
                convert(*fetch(name), directory)
    except OSError as error:
        raise CheckpointError(explain_disk(directory, error)) from error
    return directory


@contextmanager
def _announced(lock: FileLock, name: str) -> Iterator[None]:
    """Hold a lock; say so where another process has to finish first."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process to prepare {name}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch(name: str) -> tuple[Path, Source]:
    """Download a published file with huggingface_hub, into its own cache, unless it is there already.

    Returns the file and its source. $HF_ENDPOINT, $HF_TOKEN, $HF_HOME and $HF_HUB_OFFLINE work as everywhere.

    Raises CheckpointError for whatever keeps the file away: a gated or missing repository, no network, a full disk, …
    """
    # Imported here: only downloads need it, and it takes a while.
    import huggingface_hub as hugging_face
    from huggingface_hub import errors

    try:
        file = Path(hugging_face.hf_hub_download(name, PUBLISHED[name].file))
    # Beside its own errors: hf_xet, which fetches large files for it, raises RuntimeError for a lost connection and for a
    # full disk; proxies and tokens that it cannot use end in ImportError or ValueError.
    except (OSError, RuntimeError, ImportError, ValueError, errors.HTTPError) as error:
        raise CheckpointError(_explain_download(name, error)) from error
    return file, Source(name=name, revision=file.parent.name, licence=PUBLISHED[name].licence)


def _explain_download(name: str, error: Exception) -> str:
    """One line for a failed download, with the way out."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    file = PUBLISHED[name].file
    by_hand = f"or download {file} from {page} by hand and give its path"
    if isinstance(error, errors.LocalEntryNotFoundError):
        # The library says so of everything that kept it from asking for the file; the cause tells what it was.
        cause = error.__cause__
        if constants.HF_HUB_OFFLINE:
            return f"{name} was not downloaded before and offline mode is set (HF_HUB_OFFLINE); unset it, {by_hand}"
        if not isinstance(cause, errors.HfHubHTTPError | errors.FileMetadataError):
            return f"{name} was not downloaded before and {constants.ENDPOINT} cannot be reached; connect, {by_hand}"
        error = cause
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f"{name} is gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{page} has no file {file}; look there for its weights and give their path"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{page} is missing or private; log in with `hf auth login` or set HF_TOKEN, {by_hand}"
    if status == 401:
        return f"{constants.ENDPOINT} does not accept the access token; log in anew with `hf auth login`, or unset HF_TOKEN"
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return explain_disk(Path(constants.HF_HUB_CACHE), error)
    reason = str(error).partition("\n")[0]
    return f"{name} could not be downloaded ({reason}); try again, {by_hand}"


def explain_disk(path: Path, error: OSError) -> str:
    """One line for a failed write, naming the place."""
    if error.errno in _NO_SPACE:
        return f"no space left to write {path}; make room, or set IVGGT_CACHE and HF_HOME to another disk"
    return f"{path} cannot be written: {error.strerror or error}"

"""Weights on the Hugging Face Hub: published models with their licences, and a cache in which each is converted once."""

import errno
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ivggt_jax.weights.tensor_file import CheckpointError
from ivggt_jax.weights.weight_files import SUFFIXES, choose, find_weights, shards_of


@dataclass(frozen=True)
class Published:
    """A file of weights on the Hugging Face Hub."""

    file: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin of weights."""

    name: str
    """The published name, or the name of the converted file."""
    revision: str | None = None
    """The commit on the Hub."""
    sha256: str | None = None
    """Digest of the file; for several shards see `ivggt_jax.weights.weight_files.digest`."""
    licence: str | None = None


PUBLISHED = {
    "lch01/StreamVGGT": Published("checkpoints.pth", "CC BY-NC-SA 4.0, non-commercial"),
    "facebook/VGGT-1B": Published("model.safetensors", "non-commercial; its page on the Hub has the terms"),
    "facebook/VGGT-1B-Commercial": Published("vggt_1B_commercial.pt", "the terms accepted on its page on the Hub"),
}
"""Published names; for other repositories the files are looked up."""

LEAST_ANNOUNCED = 10**7
"""File size in bytes from which a download is announced."""

_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w-][\w./-]*))?")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_folder() -> Path:
    """Folder of converted models: $IVGGT_CACHE, or ~/.cache/ivggt_jax."""
    return Path(os.environ.get("IVGGT_CACHE") or Path.home() / ".cache" / "ivggt_jax")


def is_name(text: str) -> bool:
    """Whether a text names a repository, "owner/name" or "owner/name@revision", rather than a missing file."""
    match = _NAME.fullmatch(text)
    if match is None or text.endswith((*SUFFIXES, ".json")):
        return False
    return match["repository"] in PUBLISHED or not Path(text).parent.is_dir()


def cached(name: str, convert: Callable[[Path, Source, Path], None]) -> Path:
    """The cache directory of a model on the Hub, "owner/name" or "owner/name@revision".

    If it is missing, the file is downloaded and `convert(file, source, directory)` creates the directory. A lock makes sure that
    only one process does this while others wait.

    Raises CheckpointError like `fetch`, and when the cache cannot be written.
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
    """Hold a lock; print a message if another process has to finish first."""
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
    """Download the weights of "owner/name" or "owner/name@revision" with huggingface_hub, into its own cache.

    Returns the file (of several, the one to start with) and its source. $HF_ENDPOINT, $HF_TOKEN, $HF_HOME and $HF_HUB_OFFLINE
    work as usual.

    Raises CheckpointError for whatever prevents the download: a gated or missing repository, no network, a full disk, …
    """
    # Imported here, because it takes a while and only downloads need it.
    from huggingface_hub import errors

    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name!r} is not the name of a repository on the Hub, owner/name or owner/name@revision")
    repository, revision = match["repository"], match["revision"]
    published = PUBLISHED.get(repository)
    try:
        if published is None:
            return _fetch_any(repository, revision)
        file = _download(repository, published.file, revision, published.licence)
    # Other errors besides its own: hf_xet, which transfers large files for it, raises RuntimeError for a lost connection and
    # for a full disk; unusable proxies and tokens cause ImportError or ValueError.
    except (OSError, RuntimeError, ImportError, ValueError, errors.HTTPError) as error:  # type: ignore[attr-defined]
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(_explain_download(repository, revision, error)) from error
    return file, Source(name=repository, revision=file.parent.name, licence=published.licence)


def _download(repository: str, file: str, revision: str | None, licence: str | None = None) -> Path:
    import huggingface_hub as hugging_face

    with _retries_in_one_line():
        if not isinstance(hugging_face.try_to_load_from_cache(repository, file, revision=revision), str):
            _announce(repository, file, revision, licence)
        return Path(hugging_face.hf_hub_download(repository, file, revision=revision))


def _announce(repository: str, file: str, revision: str | None, licence: str | None) -> None:
    """Print what is downloaded, its size and its licence. Raises CheckpointError when there is no room for it."""
    import huggingface_hub as hugging_face
    from huggingface_hub import constants

    size = 0
    with suppress(Exception):  # the download itself meets the same error next, retries and explains it
        size = hugging_face.get_hf_file_metadata(hugging_face.hf_hub_url(repository, file, revision=revision)).size or 0
    if size < LEAST_ANNOUNCED:
        return
    folder = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if free < size:
        raise CheckpointError(
            f"{repository}/{file} takes {size / 1e9:.2f} GB and there are {free / 1e9:.2f} GB free for {folder}; make room, or "
            "set HF_HOME to another disk"
        )
    terms = f" ({licence})" if licence else ""
    print(f"downloading {repository}/{file}, {size / 1e9:.2f} GB{terms}, to {folder}", file=sys.stderr)


@contextmanager
def _retries_in_one_line() -> Iterator[None]:
    """Replace the library's two lines per retry by a single line for the first one."""
    said: list[str] = []

    def tell_first(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not any(words in message for words in ("thrown while requesting", "Retrying in", "Trying to resume")):
            return True
        if not said:
            said.append(message)
            print("the Hub does not answer as it should: trying again, for up to half a minute", file=sys.stderr)
        return False

    loggers = [logging.getLogger(f"huggingface_hub.{name}") for name in ("utils._http", "file_download")]
    for logger in loggers:
        logger.addFilter(tell_first)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(tell_first)


def _fetch_any(repository: str, revision: str | None) -> tuple[Path, Source]:
    """Find a repository's weight files, and download them with its config.json."""
    import huggingface_hub as hugging_face
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        folder = Path(hugging_face.snapshot_download(repository, revision=revision))
        return find_weights(folder), Source(name=repository, revision=folder.name)
    with _retries_in_one_line():
        listing = hugging_face.HfApi().model_info(repository, revision=revision)
    names = [entry.rfilename for entry in listing.siblings or ()]
    entry = choose([name for name in names if "/" not in name], f"{constants.ENDPOINT}/{repository}")
    licence = listing.card_data.get("license") if listing.card_data else None
    file = _download(repository, entry, revision, licence)
    commit = file.parent.name
    for name in (*shards_of(file), *({"config.json"} & set(names))):
        _download(repository, name, commit)
    return file, Source(name=repository, revision=commit, licence=licence)


def _explain_download(name: str, revision: str | None, error: Exception) -> str:
    """One line for a failed download, with the remedy."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    file = PUBLISHED[name].file if name in PUBLISHED else "its weights"
    by_hand = f"or download {file} from {page} by hand and give the path"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        # The library reports this for anything that kept it from asking for the file; the cause has the details.
        cause = error.__cause__
        if constants.HF_HUB_OFFLINE:
            return f"{name} was not downloaded before and offline mode is set (HF_HUB_OFFLINE); unset it, {by_hand}"
        if not isinstance(cause, errors.HfHubHTTPError | errors.FileMetadataError):
            return f"{name} was not downloaded before and {constants.ENDPOINT} cannot be reached; connect, {by_hand}"
        error = cause
    if isinstance(error, errors.HTTPError) and not isinstance(error, errors.HfHubHTTPError):  # type: ignore[attr-defined]
        return f"{name} was not downloaded before and {constants.ENDPOINT} cannot be reached; connect, {by_hand}"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError) or status == 403:
        return f"{name} is gated: accept its terms at {page}, then log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{page} has no revision {revision!r}; its page lists branches, tags and commits"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{page} has no file {file}; look there for its weights and give their path"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"no file or folder {name!r} is here, and {page} is missing or private; log in with `hf auth login` or set "
            f"HF_TOKEN, {by_hand}"
        )
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

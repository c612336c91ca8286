"""Where a model's files are: a folder, or a snapshot in the local cache of the Hugging Face hub. No network, no torch.

A name like `org/name` is looked up in the cache that `hf download` and diffusers fill (`HF_HOME`, `HF_HUB_CACHE`);
nothing is ever downloaded, because a server should not begin by fetching hundreds of gigabytes that nobody asked for.
"""

from __future__ import annotations

import re
from pathlib import Path

from gfdit.errors import UsageError
from gfdit.models import embedded_model_path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
#: What a snapshot of the cache is named: the folder of a repository, `snapshots`, a commit.
_REPOSITORY = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")


def model_folder(given: Path | None, revision: str | None = None) -> Path:
    """The folder of a model: the embedded one for None, a folder, or a hub id's snapshot (`revision`: a branch, tag or
    commit; default: main). Raises UsageError, naming the fix, when there is none here."""
    if given is None or given.is_dir():
        if revision is not None:
            raise UsageError(f"`--revision {revision}` goes with a hub id like `org/name`, not with a folder")
        return embedded_model_path() if given is None else given
    if not _HUB_ID.fullmatch(str(given)):
        hint = "give the folder of a saved diffusers pipeline, or a hub id like `org/name`"
        raise UsageError(f"no model folder `{given}`", hint=hint)
    return _snapshot(str(given), revision)


def model_name(folder: Path) -> str:
    """The name under which a folder's model is served: a cached repository's, a folder's own, or its parent's where it
    is called `checkpoint`."""
    folder = folder.absolute()
    repository = _REPOSITORY.fullmatch(folder.parent.parent.name)
    if folder.parent.name == "snapshots" and repository is not None:
        return repository["name"]
    return folder.parent.name if folder.name == "checkpoint" else folder.name


def _snapshot(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # here: a folder needs none of it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        wanted = repository if revision is None else f"{repository} --revision {revision}"
        hint = f"run `hf download {wanted}` first; gfdit downloads nothing"
        at = "" if revision is None else f" at revision `{revision}`"
        raise UsageError(f"`{repository}`{at} is no folder, and not in the local hub cache", hint=hint) from error
    except HFValidationError as error:
        raise UsageError(f"`{repository}` is no folder and no hub id: {error}") from error

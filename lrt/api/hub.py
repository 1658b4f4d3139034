"""Maps and vectors on the Hugging Face hub: `push` and `pull`.

Tokens are those of `hf auth login`; none is read or stored here. Only the files that a map or vector consists
of are sent or fetched: JSON, safetensors and a README. What is fetched is checked like any folder: sizes,
digests and shapes. Nothing in it is executed.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo
from yaml import YAMLError

from lrt.api.fitted_map import FittedMap
from lrt.api.map_folder import read_map
from lrt.api.map_grid import MapGrid
from lrt.api.origin import write_origin
from lrt.corpora.hub_revisions import TIMEOUT, is_commit
from lrt.errors import InvalidValue, UserError
from lrt.mapping.artifact import MAP
from lrt.steering import SteeringVector
from lrt.steering.map_folder import SUMS_FILE
from lrt.steering.model_card import PAGE_FILE, is_as_written, map_page, vector_page
from lrt.steering.vectors import VECTOR
from lrt.storage.artifact import ArtifactKind
from lrt.storage.durable import write_durably
from lrt.storage.sealed import opened

log = logging.getLogger(__name__)

_NAME = r"[A-Za-z0-9][\w.-]*"
_REVISION = r"[\w.+/-]+"
_REFERENCE = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(@(?P<revision>{_REVISION}))?")
_LICENCE = r"[\w.+-]+"
_OTHERS_ALLOWED = re.compile(r"\.gitattributes|README\.md|LICEN[CS]E.*")
LARGEST_CARD = 2**24  # bytes
LARGEST_HEADER = 2**20  # bytes of a safetensors file beside its tensors
LOGIN = "Log in with a token that may: hf auth login"


class HubError(UserError):
    """The hub refuses, cannot be reached, or has no such map or vector; the message says what to do."""


class HubUnreachable(HubError):
    """No answer from the hub: offline, or it breaks off."""


Page = Callable[[str, str | None], str]


@dataclass(frozen=True)
class Kind:
    """A kind of folder that can be published.

    artifact   Its weights and its card.
    others     Files that it may have beside them.
    read       Reads and checks a folder. Returns what writes its model card, from its address on the hub and
               the licence if there is one. Raises UserError for a folder that is not whole.
    """

    artifact: ArtifactKind
    others: tuple[str, ...]
    read: Callable[[Path], Page]

    @property
    def files(self) -> tuple[str, ...]:
        """All but the model card; the artifact's own card last."""
        return (*self.others, self.artifact.weights_file, self.artifact.card_file)


def _read_map(folder: Path) -> Page:
    return partial(map_page, read_map(folder).card)


def _read_vector(folder: Path) -> Page:
    return partial(vector_page, SteeringVector.load(folder))


KINDS = (Kind(MAP, (SUMS_FILE,), _read_map), Kind(VECTOR, (), _read_vector))


def push(
    artifact: str | PathLike[str] | FittedMap | MapGrid | SteeringVector,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    licence: str | None = None,
) -> str:
    """Publish a map or a vector, with a model card made from its data; the URL of the commit.

    One commit replaces what the repository held of it: others see the whole old one or the whole new one. A
    README.md that somebody wrote or edited stays, and the log says so.

    artifact    The object, or its folder.
    repository  `org/name`. It is made where it does not exist. One that holds something else is refused.
    private     Make the repository private. One that exists must be so already.
    revision    Branch to push to, made where it does not exist; None: the main branch.
    licence     The hub's identifier, such as "apache-2.0", for the model card. None: that of the model card
                that is there.

    Raises InvalidValue for an argument that cannot be used, HubError where the hub refuses or cannot be
    reached, and the errors of `load_map` and `SteeringVector.load` for a damaged folder.
    """
    if not is_reference(repository) or "@" in repository:
        raise InvalidValue(
            f"repository={repository!r}; it must be org/name, as the hub writes it, and `revision` the branch"
        )
    if revision is not None and (is_commit(revision) or not re.fullmatch(_REVISION, revision)):
        raise InvalidValue(f"revision={revision!r}; it must be the name of a branch, which a push moves")
    if licence is not None and not re.fullmatch(_LICENCE, licence):
        raise InvalidValue(f"licence={licence!r}; it must be the hub's identifier, such as apache-2.0")
    with _folder_of(artifact) as folder:
        kind = _kind_of(folder)
        page = kind.read(folder)
        present = {name for name in kind.files if (folder / name).is_file()}
        api = HfApi()
        with _explained(f"push to {repository}"):
            existing = _info(api, repository)
        if existing is not None:
            _check_may_replace(existing, kind, repository, private)
        with _explained(f"push to {repository}"):
            if existing is None:
                # None, not False: an organisation may have private as its default
                api.create_repo(repository, private=private or None)
            if revision is not None:
                api.create_branch(repository, branch=revision, exist_ok=True)
            before = api.model_info(repository, revision=revision, timeout=TIMEOUT)
        _check_may_replace(before, kind, repository, private)
        old = _page_there(api, before, repository)
        stale = ({*kind.files} - present) & _names(before)
        operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in sorted(stale)]
        operations += [CommitOperationAdd(name, folder / name) for name in sorted(present)]
        words, stated = _contents(old) if old.strip() else ("", None)
        if is_as_written(old) or not words.strip():
            address = f"{repository}@{revision}" if revision else repository
            new = page(address, licence or stated)
            operations.append(CommitOperationAdd(PAGE_FILE, new.encode()))
        else:
            log.warning(
                "%s of %s was written or edited by somebody, so it stays as it is, with its licence. For a "
                "new model card, delete it there and push again",
                PAGE_FILE,
                repository,
            )
        with _explained(f"push to {repository}"):
            commit = api.create_commit(
                repository,
                operations,
                commit_message=f"{kind.artifact.name.capitalize()} by lrt",
                revision=revision,
                parent_commit=before.sha,
            )
    return f"{api.endpoint}/{repository}/tree/{commit.oid}"


def pull(reference: str, folder: str | PathLike[str] | None = None) -> Path:
    """Fetch a map or a vector from the hub, check it, and return its folder.

    reference  `org/name`, or `org/name@revision` with a branch, tag or commit. Only a commit cannot move; the
               log says which it is, and `origin.json` of `folder`.
    folder     Where to put it; a map or vector there is replaced. None: it stays in the hub's cache.

    Without a connection, or with HF_HUB_OFFLINE=1, the cache is used.

    Raises InvalidValue for a reference or folder that cannot be used, HubError where the hub has no such map
    or vector, cannot be reached, or has files that are damaged or altered.
    """
    pulled = fetch(reference)
    try:
        pulled.kind.read(pulled.folder)
    except UserError as error:
        raise HubError(
            f"{reference} cannot be used: {error}. If the repository is whole, delete {pulled.folder} and "
            "pull again"
        ) from error
    if folder is None:
        return pulled.folder
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidValue(f"folder={str(folder)!r} is a file; name a folder")
    others = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if others and pulled.kind.artifact.card_file not in others:
        raise InvalidValue(
            f"folder={str(folder)!r} holds other files ({_few(others)}) and no "
            f"{pulled.kind.artifact.name}; name an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # a folder with its card is whole: the card is removed first and written last
    (folder / pulled.kind.artifact.card_file).unlink(missing_ok=True)
    for name in (PAGE_FILE, *pulled.kind.files):
        path = pulled.folder / name
        if path.is_file():
            write_durably(folder / name, partial(_copied, path))
        else:
            (folder / name).unlink(missing_ok=True)
    write_origin(folder, pulled.kind.artifact.card_file, pulled.repository, pulled.commit)
    return folder


@dataclass(frozen=True)
class Pulled:
    """A map or vector in the hub's cache, whose digests nobody has compared yet.

    commit  The one that the revision was when it was fetched.
    """

    kind: Kind
    folder: Path
    repository: str
    commit: str


def is_reference(name: object) -> bool:
    """Whether this is text such as `org/name` or `org/name@revision`."""
    return isinstance(name, str) and _REFERENCE.fullmatch(name) is not None


def fetch(reference: str) -> Pulled:
    """As `pull` without a folder, for a caller that reads the files, and so checks them, at once."""
    named = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if named is None:
        raise InvalidValue(f"reference={reference!r}; it must be org/name or org/name@revision")
    repository, revision = named["repository"], named["revision"]
    api, action = HfApi(), f"pull {reference}"
    try:
        with _explained(action):
            info = _info(api, repository, revision, files_metadata=True)
    except HubUnreachable as unreachable:
        snapshot = _cached(api, repository, revision, unreachable)
    else:
        if info is None:
            raise HubError(f"cannot {action}: {_no_repository(repository)}")
        snapshot = _download(api, info, repository, revision, action)
    kind = _kind_of(snapshot)
    log.info("Pulled %s of %s at commit %s", kind.artifact.name, repository, snapshot.name)
    return Pulled(kind, snapshot, repository, snapshot.name)


# -- folders ------------------------------------------------------------------------------------------


@contextmanager
def _folder_of(artifact: str | PathLike[str] | FittedMap | MapGrid | SteeringVector) -> Iterator[Path]:
    """The folder of an artifact; an object is saved to a temporary one."""
    match artifact:
        case FittedMap() | MapGrid() | SteeringVector():
            with tempfile.TemporaryDirectory(prefix="lrt-push-") as name:
                artifact.save(name)
                yield Path(name)
        case str() | PathLike():
            yield Path(artifact)
        case _:
            raise InvalidValue(
                f"artifact is a {type(artifact).__name__}; it must be a map, a steering vector, or the "
                "folder of one"
            )


def _kind_of(folder: Path) -> Kind:
    """Raises InvalidValue where a folder is not exactly one of what can be published."""
    kinds = [kind for kind in KINDS if (folder / kind.artifact.card_file).is_file()]
    if len(kinds) != 1:
        wanted = " or ".join(f"a {kind.artifact.name} ({kind.artifact.card_file})" for kind in KINDS)
        raise InvalidValue(f"{folder} must hold {wanted}; it holds {'both' if kinds else 'neither'}")
    return kinds[0]


def _copied(source: Path, temporary: Path) -> None:
    shutil.copyfile(source, temporary)


# -- repositories -------------------------------------------------------------------------------------


def _info(
    api: HfApi, repository: str, revision: str | None = None, *, files_metadata: bool = False
) -> ModelInfo | None:
    """What the hub says of a repository; None where there is none that this user may see."""
    try:
        return api.model_info(repository, revision=revision, files_metadata=files_metadata, timeout=TIMEOUT)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return None


def _page_there(api: HfApi, info: ModelInfo, repository: str) -> str:
    """The README.md of a repository; empty where it has none."""
    if PAGE_FILE not in _names(info):
        return ""
    with _explained(f"push to {repository}"):
        path = Path(api.hf_hub_download(repository, PAGE_FILE, revision=info.sha))
    return path.read_bytes().decode(errors="replace")


def _contents(page: str) -> tuple[str, str | None]:
    """What follows a model card's header, and its licence if it is an identifier."""
    try:
        card = ModelCard(page, ignore_metadata_errors=True)
    except (ValueError, TypeError, YAMLError):  # a header that cannot be read
        return page, None
    licence = card.data.get("license")
    return card.text, licence if isinstance(licence, str) and re.fullmatch(_LICENCE, licence) else None


def _names(info: ModelInfo) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}


def _check_may_replace(info: ModelInfo, kind: Kind, repository: str, private: bool) -> None:
    """Raise InvalidValue for a repository of something else, and a public one where a private is wanted."""
    if private and not info.private:
        raise InvalidValue(
            f"private=True, but {repository} exists and is public. Make it private in its settings on the "
            "hub, or name another repository"
        )
    others = {name for name in _names(info) if not _OTHERS_ALLOWED.fullmatch(name)}
    if others and kind.artifact.card_file not in others:
        raise InvalidValue(
            f"{repository} holds something else than a {kind.artifact.name}: {_few(others)}. Name an empty "
            "repository, or one that does not exist"
        )


def _download(api: HfApi, info: ModelInfo, repository: str, revision: str | None, action: str) -> Path:
    """The snapshot of a map's or vector's files; their sizes are compared with the card's before."""
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    kinds = [kind for kind in KINDS if kind.artifact.card_file in sizes]
    if len(kinds) != 1:
        wanted = " or ".join(f"a {kind.artifact.name} ({kind.artifact.card_file})" for kind in KINDS)
        raise HubError(
            f"cannot {action}: the repository must hold {wanted}, and holds {_few(sizes) or 'nothing'}"
        )
    (kind,) = kinds
    card_file, weights_file = kind.artifact.card_file, kind.artifact.weights_file
    for name in (card_file, PAGE_FILE):
        if sizes.get(name, 0) > LARGEST_CARD:
            raise HubError(
                f"cannot {action}: {name} has {sizes[name]:,} bytes; at most {LARGEST_CARD:,} allowed"
            )
    with _explained(action):
        card = Path(api.hf_hub_download(repository, card_file, revision=info.sha))
    stated = _stated_sizes(card, kind)
    for name in (weights_file, *kind.others):
        least = stated.get(name, 0)
        most = least if name == weights_file else least + LARGEST_HEADER
        if name in sizes and not least <= sizes[name] <= most:
            raise HubError(
                f"cannot {action}: {name} has {sizes[name]:,} bytes, its card says {stated.get(name, 0):,}. "
                "Nothing of it was downloaded"
            )
    with _explained(action):
        files = [PAGE_FILE, *kind.files]
        snapshot = Path(api.snapshot_download(repository, revision=revision, allow_patterns=files))
    if snapshot.name != info.sha:
        raise HubError(f"cannot {action}: it moved or broke off while it was read. Pull again")
    return snapshot


def _stated_sizes(card: Path, kind: Kind) -> dict[str, int]:
    """Bytes by file, as a card says; of the sums those of their tensors."""
    try:
        content = opened(card.read_bytes())
        stated = {kind.artifact.weights_file: int(content["weights"]["bytes"])}
        if sums := content["card"].get("sums"):
            stated[SUMS_FILE] = int(sums["bytes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(f"{card} is not the card of a {kind.artifact.name}: {error}") from error
    return stated


def _cached(api: HfApi, repository: str, revision: str | None, unreachable: HubUnreachable) -> Path:
    files = [PAGE_FILE, *(name for kind in KINDS for name in kind.files)]
    try:
        folder = api.snapshot_download(
            repository, revision=revision, allow_patterns=files, local_files_only=True
        )
    except LocalEntryNotFoundError:
        raise HubError(f"{unreachable}. It is not in the cache either") from unreachable
    log.warning("%s. Using the cached files of %s", unreachable, repository)
    return Path(folder)


# -- errors -------------------------------------------------------------------------------------------


def _no_repository(repository: str) -> str:
    return f"the hub has no model repository {repository}, or it is private. Check the name. {LOGIN}"


def _few(names: Any) -> str:
    """Some of the names, sorted."""
    first = sorted(names)[:4]
    return ", ".join(first) + (", ..." if len(names) > 4 else "")


@contextmanager
def _explained(action: str) -> Iterator[None]:
    """What the hub's client raises, as a HubError."""
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"cannot {action}: it is gated. Accept its conditions on the hub, and log in: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(f"cannot {action}: there is no such repository, or it is private. {LOGIN}") from error
    except RevisionNotFoundError as error:
        raise HubError(f"cannot {action}: the repository has no such branch, tag or commit") from error
    except HfHubHTTPError as error:
        raise _of_status(action, error) from error
    except ValueError as error:  # what the hub says of the model card
        raise HubError(f"cannot {action}: the hub refuses: {error}") from error
    except OfflineModeIsEnabled as error:
        raise HubUnreachable(
            f"cannot {action}: offline mode is on. Unset HF_HUB_OFFLINE to reach the hub"
        ) from error
    except Exception as error:  # the hub's HTTP client raises errors of many classes
        raise HubUnreachable(
            f"cannot {action}: the connection to the hub failed ({type(error).__name__}: {error}). Try "
            "again; a push that failed has changed no file there"
        ) from error


def _of_status(action: str, error: HfHubHTTPError) -> HubError:
    status, reason = error.response.status_code, error.server_message or str(error).strip()
    match status:
        case 401 | 403:
            return HubError(f"cannot {action}: the hub refuses ({status}: {reason}). {LOGIN}")
        case 404:
            return HubError(
                f"cannot {action}: the hub has no such repository or revision ({reason}). {LOGIN}"
            )
        case 409 | 412:
            return HubError(
                f"cannot {action}: the repository changed meanwhile ({status}: {reason}). Try again"
            )
        case _ if status >= 500 or status in (408, 429):
            return HubUnreachable(f"cannot {action}: the hub failed ({status}: {reason}). Try again later")
    return HubError(f"cannot {action}: the hub refuses ({status}: {reason})")

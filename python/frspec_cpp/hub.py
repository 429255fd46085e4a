"""Models by name: GGUF files of the Hugging Face Hub, in the cache that everything else shares."""

from __future__ import annotations

import fnmatch
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_SPLIT = re.compile(r"^(?P<name>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")
_DEFAULT_QUANT = "Q4_K_M"
_DRAFTERS = ("eagle2-", "eagle3-")
# Files beside a model that are none, as llama.cpp knows them.
_NO_MODELS = (*_DRAFTERS, "mmproj", "imatrix", "mtp-", "dflash-", "dspark-")
_SHOWN = 20  # names in a message, at most


def _hub() -> Any:
    """The huggingface_hub package.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ModuleNotFoundError as error:
        raise ImportError(
            f"models by name need the 'huggingface_hub' package ({error}): pip install 'frspec_cpp[hub]'"
        ) from error
    return huggingface_hub


def _listed(names: Iterable[str]) -> str:
    """The names in a row, not too many."""
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return (", ".join(found[:_SHOWN]) or "none") + more


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _is_later_part(path: str) -> bool:
    split = _SPLIT.match(path)
    return split is not None and int(split["part"]) != 1


def choose(files: Sequence[str], quant: str | None, pattern: str | None, is_drafter: bool = False) -> str | None:
    """The GGUF file that a user means, of a split one the first part; None: there is none such.

    Args:
        files: Of the repository, by their paths in it.
        quant: The quantization in the file's name, in any case; None: Q4_K_M, or else whatever comes first.
        pattern: The file's path, or a pattern of it as of a shell; it goes before `quant`.
        is_drafter: Files named as EAGLE drafters are meant, where there are any.

    Raises:
        ValueError: Several files match `pattern`.
    """
    found = sorted(path for path in files if path.endswith(".gguf") and not _is_later_part(path))
    if pattern is not None:
        matching = [path for path in found if fnmatch.fnmatchcase(path, pattern)]
        split = _SPLIT.match(pattern)
        if not matching and split is not None:  # another part of the file was named
            matching = [path for path in found if path == f"{split['name']}-00001-of-{split['count']}.gguf"]
        if len(matching) > 1:
            raise ValueError(f"filename: found {pattern!r}, which is {_listed(matching)}, expected one of them")
        return matching[0] if matching else None
    models = [path for path in found if not any(word in _file_name(path).lower() for word in _NO_MODELS)]
    if is_drafter:
        drafters = [path for path in found if _file_name(path).lower().startswith(_DRAFTERS)]
        models = drafters or models
    wanted = re.compile(rf"(?<![A-Z0-9]){re.escape(quant or _DEFAULT_QUANT)}[./-]", re.IGNORECASE)
    for path in models:
        if wanted.search(path):
            return path
    return models[0] if models and quant is None else None


def parts_of(path: str) -> list[str]:
    """The file itself, or all parts of the one that `path` is the first part of."""
    split = _SPLIT.match(path)
    if split is None:
        return [path]
    return [f"{split['name']}-{part:05}-of-{split['count']}.gguf" for part in range(1, int(split["count"]) + 1)]


class _Repository:
    """One repository, on the hub or in the cache.

    Args:
        name: ``"USER/REPO"`` or ``"USER/REPO:QUANT"``.
        revision: A branch, a tag or a commit; None: ``main``.
        token: An access token; None: HF_TOKEN, or as logged in.
        cache_dir: The hub's cache; None: the usual one.
        local_dir: A folder of one's own instead of it.
        offline: Never ask the hub.
    """

    def __init__(
        self,
        name: str,
        revision: str | None,
        token: str | None,
        cache_dir: str | os.PathLike[str] | None,
        local_dir: str | os.PathLike[str] | None,
        offline: bool,
    ) -> None:
        self._hub = _hub()
        self.name, colon, quant = name.partition(":")
        self.quant = None if quant.lower() in ("", "latest") else quant
        if colon and not quant:
            raise ValueError(f"{name}: found no quantization behind the colon, expected USER/REPO:QUANT")
        if self.name.count("/") != 1:
            raise ValueError(f"{name}: expected the name of a model on the hub, USER/REPO or USER/REPO:QUANT")
        self._hub.utils.validate_repo_id(self.name)
        self._revision = revision
        self._token = token
        self._cache = Path(cache_dir or self._hub.constants.HF_HUB_CACHE)
        self._local = None if local_dir is None else Path(local_dir)
        # Why the hub cannot be asked; empty: it can.
        self._unreachable = "the hub is not asked (offline)" if offline or self._hub.constants.HF_HUB_OFFLINE else ""
        self._offline = bool(self._unreachable)

    def find(self, pattern: str | None, is_drafter: bool) -> Path:
        """The file that is meant, or its first part, with all others beside it."""
        files = self._files()
        path = choose(files, self.quant, pattern, is_drafter)
        if path is None:
            raise self._nothing(files, pattern)
        parts = parts_of(path)
        missing = [part for part in parts if part not in files]
        if missing:
            where = "the cache" if self._unreachable else "the repository"
            raise FileNotFoundError(
                f"{self.name}: {self._unreachable or path}: found no {_listed(missing)} in {where}, expected all parts"
            )
        if self._unreachable:
            if not self._offline:
                warnings.warn(f"{self.name}: {self._unreachable}; {path} of the cache is taken", stacklevel=4)
            return self._folder() / path
        first = self._fetch(parts[0], self._revision)
        # All parts are of one commit: the branch may move in between.
        commit = self._revision if self._local else first.relative_to(self._cache.absolute()).parts[2]
        for part in parts[1:]:
            self._fetch(part, commit)
        return first

    def _files(self) -> list[str]:
        """Paths of the repository's files; where the hub cannot be reached, of those that are here."""
        errors = self._hub.errors
        if not self._unreachable:
            try:
                info = self._hub.HfApi(token=self._token).model_info(self.name, revision=self._revision)
                return [sibling.rfilename for sibling in info.siblings or []]
            except errors.GatedRepoError as error:
                raise self._refused() from error
            except errors.RepositoryNotFoundError as error:
                raise FileNotFoundError(
                    f"{self.name}: found no such model on {self._hub.constants.ENDPOINT}; if it is a private one, "
                    "expected a token that opens it (HF_TOKEN, or hf auth login)"
                ) from error
            except errors.RevisionNotFoundError as error:
                raise FileNotFoundError(
                    f"{self.name}: found no revision {self._revision!r}, expected a branch, a tag or a commit"
                ) from error
            # What is raised without a connection depends on the HTTP library, which changes with the package's version.
            except Exception as error:
                self._unreachable = _reason(error)
        folder = self._folder()
        if not folder.is_dir():
            return []
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf") if path.is_file()]

    def _folder(self) -> Path:
        """Where the files of the revision lie, or would."""
        if self._local:
            return self._local
        revision = self._revision or "main"
        repository = self._cache / ("models--" + self.name.replace("/", "--"))
        reference = repository / "refs" / revision
        commit = reference.read_text().strip() if reference.is_file() else revision
        return repository / "snapshots" / commit

    def _fetch(self, path: str, revision: str | None) -> Path:
        """Downloads a file, or what is missing of it; shows a bar on a terminal."""
        try:
            found = self._hub.hf_hub_download(
                self.name,
                path,
                revision=revision,
                token=self._token,
                cache_dir=self._cache,
                local_dir=self._local,
            )
        except self._hub.errors.GatedRepoError as error:
            raise self._refused() from error
        except OSError as error:
            if error.errno is not None:  # of this machine: a full disk, a folder that may not be written to
                raise
            raise self._broken_off(path, error) from error
        except Exception as error:  # see _files
            raise self._broken_off(path, error) from error
        return Path(found).absolute()

    def _broken_off(self, path: str, error: Exception) -> Exception:
        return ConnectionError(
            f"{self.name}: {path}: could not be downloaded: {_reason(error)}; what is there is kept, and trying again "
            "goes on from it"
        )

    def _refused(self) -> Exception:
        return PermissionError(
            f"{self.name}: the hub does not give its files to this token (HF_TOKEN, or hf auth login); expected one of "
            f"an account that has accepted the terms at {self._hub.constants.ENDPOINT}/{self.name}"
        )

    def _nothing(self, files: list[str], pattern: str | None) -> Exception:
        """What is wrong where no file is the one that is meant."""
        gguf = sorted(path for path in files if path.endswith(".gguf"))
        wanted = f"a file {pattern}" if pattern else f"a file of {self.quant}" if self.quant else "a GGUF file"
        if not self._unreachable:
            there = _listed(gguf) + ("" if gguf else " (frspec-convert converts checkpoints)")
            return ValueError(f"{self.name}: found no {wanted.removeprefix('a ')}, expected one of: {there}")
        if gguf:
            where = f"{self._unreachable}; expected {wanted} in the cache"
            return FileNotFoundError(f"{self.name}: {where}, found of this model {_listed(gguf)}")
        return FileNotFoundError(
            f"{self.name}: {self._unreachable}; expected it in the cache, {self._local or self._cache}, found there: "
            f"{_listed(self._cached())}"
        )

    def _cached(self) -> list[str]:
        """The GGUF files of the cache: ``"USER/REPO: file"``."""
        return sorted(
            {
                f"{path.relative_to(self._cache).parts[0].removeprefix('models--').replace('--', '/', 1)}: {path.name}"
                for path in self._cache.glob("models--*/snapshots/*/**/*.gguf")
            }
        )


def _reason(error: Exception) -> str:
    """What keeps the hub from being asked, in one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"the hub cannot be reached ({text[:200]})"


def find_model(
    repo_id: str,
    filename: str | None = None,
    *,
    is_drafter: bool = False,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """A GGUF file of the Hugging Face Hub, fetched where it is not here yet.

    Without a connection, what the cache has is taken, with a warning. The package's own settings hold: HF_ENDPOINT,
    HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and so on.

    Args:
        repo_id: ``"USER/REPO"``, or ``"USER/REPO:QUANT"`` with a quantization such as Q8_0; without one it is Q4_K_M,
            or the first file where there is none.
        filename: Instead of QUANT: the file's path in the repository, or a pattern of it (``"*q8_0.gguf"``).
        is_drafter: The file of a drafter is meant, where the repository has both.
        revision: A branch, a tag or a commit; None: ``main``.
        token: An access token; None: HF_TOKEN, or as logged in with ``hf auth login``.
        cache_dir: The hub's cache; None: the usual one.
        local_dir: A folder of your own for the files, instead of the cache.
        local_files_only: Never ask the hub.

    Returns:
        The file, or the first part of a split one, whose other parts lie beside it.

    Raises:
        ImportError: The package huggingface_hub is not installed (extra ``hub``).
        FileNotFoundError: There is no such repository, or no connection, and the file is not in the cache.
        ValueError: The repository has no such file, or several that match.
        PermissionError: The repository's terms were not accepted.
        ConnectionError: A download broke off; the next call goes on with it.
    """
    repository = _Repository(repo_id, revision, token, cache_dir, local_dir, local_files_only)
    return repository.find(filename, is_drafter)

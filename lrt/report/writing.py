"""Writing the files of a report: each appears whole, or an error names the setting to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lrt.errors import UserError
from lrt.storage.durable import write_durably


class ReportUnwritable(UserError, OSError):
    """The report's folder cannot be created or written to."""


def write_files(folder: Path, files: Mapping[str, bytes], setting: str) -> None:
    """Write `files` by name into `folder`, which is created if missing.

    Each is written under a temporary name and then renamed: a reader never sees half a page. Raises
    ReportUnwritable naming the folder, the cause and `setting`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_durably(folder / name, content)
    except OSError as error:
        raise ReportUnwritable(
            error.errno,
            f"cannot write the report ({error.strerror}); set {setting}= to a writable folder",
            str(folder),
        ) from error

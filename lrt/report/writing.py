"""A report's files: all of them whole under their names, or an error that says what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lrt.storage.durable import write_durably


class ReportUnwritable(OSError):
    """The folder of a report cannot be made or written to."""


def write_files(folder: Path, files: Mapping[str, bytes], setting: str) -> None:
    """Write `files` by name into `folder`, making it where it is missing.

    Each is written under a temporary name and renamed, so that a reader never sees half a page.
    Raises ReportUnwritable naming the folder, the cause and `setting`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_durably(folder / name, content)
    except OSError as error:
        raise ReportUnwritable(
            error.errno,
            f"cannot write the report ({error.strerror}); give a folder that can be written to with {setting}=...",
            str(folder),
        ) from error

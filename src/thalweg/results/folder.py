"""The folder of a study: one file per claim and a manifest, each written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from thalweg.errors import ThalwegError
from thalweg.results.record import ClaimRecord, Size

FORMAT = 2
MANIFEST = "manifest.json"
#: Where parts of claims that are not finished yet lie.
PARTS = ".parts"
#: What the manifest's own entries must be, where they are there.
_ENTRIES: dict[str, type] = {
    "size": str,
    **dict.fromkeys(("order", "shipped"), list),
    **dict.fromkeys(("fingerprints", "seconds", "seeds", "dtype", "versions"), dict),
}


class ResultsFolder:
    """A folder of results, opened for reading or made ready for writing.

    Args:
        path: The folder.
        manifest: What is known of the run: versions, command, the size, durations.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as somewhere:
        ...     folder = ResultsFolder.create(somewhere + "/results", size="quick")
        ...     folder.names()
        []
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | Path) -> ResultsFolder:
        """Open a folder that a study wrote.

        Args:
            path: The folder.

        Returns:
            The folder, its manifest read and checked.

        Raises:
            ThalwegError: If it is missing, is no results folder, is of another format, or is
                damaged.
        """
        path = Path(path)
        try:
            is_folder, is_ours = path.is_dir(), (path / MANIFEST).is_file()
        except OSError as cause:
            raise ThalwegError(
                f"results folder {path} cannot be read ({cause.strerror}): name another folder"
            ) from None
        if not is_folder:
            raise ThalwegError(
                f"results folder {path}: no such folder; run `thalweg study --out {path}` first"
            )
        if not is_ours:
            raise ThalwegError(
                f"results folder {path} has no {MANIFEST}: name a folder that `thalweg study` wrote"
            )
        try:
            manifest = _read(path / MANIFEST)
        except ThalwegError as cause:
            raise ThalwegError(
                f"results folder {path} cannot be used ({cause}): move it away, or name another "
                "folder"
            ) from None
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise ThalwegError(
                f"results folder {path} must be of format {FORMAT}, got {found!r}: it was written "
                "by another version of thalweg; keep it, and name another folder"
            )
        for entry, kind in _ENTRIES.items():
            if not isinstance(manifest.get(entry, kind()), kind):
                raise ThalwegError(
                    f"{path / MANIFEST} must have a {kind.__name__} under {entry!r}, got "
                    f"{manifest[entry]!r}: move it away, or name another folder"
                )
        return cls(path, manifest)

    @classmethod
    def create(cls, path: str | Path, *, size: Size = "standard") -> ResultsFolder:
        """Open a folder for writing, making it where it is missing.

        Args:
            path: The folder.
            size: The size of the study; two sizes never share a folder.

        Returns:
            The folder. Nothing in it has been changed.

        Raises:
            ThalwegError: If the folder cannot be written, or holds something else.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as cause:
            raise ThalwegError(
                f"results folder {path} cannot be written ({cause.strerror}): choose another --out"
            ) from None
        # A run killed while it wrote its first file leaves a part of it, which is nobody's.
        if all(_is_part(file) for file in path.iterdir()):
            return cls(path, {"format": FORMAT, "size": size})
        folder = cls.open(path)
        there = folder.manifest.get("size", "standard")
        if there != size:
            raise ThalwegError(
                f"results folder {path} holds a {there} study and this is a {size} one: choose "
                "another --out"
            )
        return folder

    def names(self) -> list[str]:
        """Return the names of the claims on file, in the order of the study, others behind them."""
        order = {name: i for i, name in enumerate(self.manifest.get("order", []))}
        found = [
            file.stem
            for file in self.path.glob("*.json")
            if file.name != MANIFEST and not file.name.startswith(".")
        ]
        return sorted(found, key=lambda name: (order.get(name, len(order)), name))

    def read(self, name: str) -> ClaimRecord:
        """Read the record of a claim.

        Args:
            name: The claim.

        Returns:
            Its record.

        Raises:
            ThalwegError: If the file is missing or damaged.
        """
        file = self.path / f"{name}.json"
        try:
            return ClaimRecord.from_json(_read(file))
        except ThalwegError as cause:
            reason = str(cause).removeprefix(f"{file} ")
            raise ThalwegError(
                f"results file {file} cannot be used ({reason}): {self.remedy(name)}"
            ) from None

    def remedy(self, name: str) -> str:
        """Return what to do about a claim's file that cannot be used."""
        if name not in self.manifest.get("shipped", [name]):
            return "measure it again with study(..., fresh=True), or move the file away"
        size = self.manifest.get("size", "standard")
        option = "" if size == "standard" else f"--{size} "
        return (
            f"measure it again with `thalweg study {option}--only {name} --fresh --out "
            f"{self.path}`, or move the file away if it is no claim's"
        )

    def write(self, record: ClaimRecord) -> None:
        """Write the record of a claim, whole or not at all.

        Args:
            record: The record.

        Raises:
            ThalwegError: If the file cannot be written; what was on file is still there.
        """
        _write(self.path / f"{record.name}.json", record.to_json())

    def forget_parts(self, name: str) -> None:
        """Throw away what was kept of a claim's measurement before it was finished.

        Args:
            name: The claim.
        """
        shutil.rmtree(self.path / PARTS / name, ignore_errors=True)
        with contextlib.suppress(OSError):  # parts of other claims are in it
            (self.path / PARTS).rmdir()

    def write_manifest(self, **entries: Any) -> None:
        """Add entries to the manifest and write it, whole or not at all.

        Args:
            **entries: What to add.

        Raises:
            ThalwegError: If the file cannot be written; what was on file is still there.
        """
        self.manifest.update(entries)
        _write(self.path / MANIFEST, self.manifest)


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ThalwegError(f"{file} is missing") from None
    except OSError as cause:
        raise ThalwegError(f"{file} cannot be read ({cause.strerror})") from None
    except ValueError:  # includes what is not UTF-8 and what is not JSON
        raise ThalwegError(f"{file} is cut off or is not JSON") from None


def _is_part(file: Path) -> bool:
    return file.name == PARTS or (file.name.startswith(".") and file.suffix == ".part")


def write_whole(file: Path, text: str) -> None:
    """Write a file so that a reader finds the old text or the new, never a part.

    Args:
        file: Where.
        text: What.
    """
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as part:
            part.write(text)
            part.flush()
            os.fsync(part.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _write(file: Path, data: Any) -> None:
    text = json.dumps(data, allow_nan=False, separators=(",", ":")) + "\n"
    try:
        write_whole(file, text)
    except OSError as cause:
        raise ThalwegError(
            f"results file {file} cannot be written ({cause.strerror}): make room for it and run "
            "the same command again; it goes on from what is on file"
        ) from None

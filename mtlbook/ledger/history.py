"""What git knows: every committed version of a file, and what came before what.

The history is read in one call of git; contents are read when they are asked for, each version
once. The files as they lie on disk count as one more commit, after the last one.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mtlbook.ledger.provenance import git_environment

NOW = "the working tree"


class HistoryError(RuntimeError):
    """There is no history to look at, or only a part of it."""


@dataclass(frozen=True)
class Commit:
    """A commit.

    Attributes
    ----------
    parents : tuple of str
        The first one is the one that a merge went into.
    files : mapping of str to str
        Path below the root to what identifies the content.
    """

    parents: tuple[str, ...]
    files: Mapping[str, str]


class Versions:
    """The present files of a folder, without a past.

    Parameters
    ----------
    root : Path
    folders : sequence of str
        Only what lies in these is looked at; each ends with ``/``.
    """

    def __init__(self, root: Path, folders: tuple[str, ...]) -> None:
        self.root, self.folders = root, folders
        self._contents: dict[str, bytes] = {}
        self.commits = {NOW: Commit((), self._on_disk())}

    @property
    def now(self) -> Mapping[str, str]:
        """The files on disk."""
        return self.commits[NOW].files

    def read(self, blob: str) -> bytes:
        """The content that an entry of ``files`` names."""
        return self._contents[blob]

    def versions(self, path: str) -> list[str]:
        """The distinct contents that a path had, in the order of their appearance."""
        found = (commit.files.get(path) for commit in self.commits.values())
        return list(dict.fromkeys(blob for blob in found if blob))

    def paths(self, folder: str) -> list[str]:
        """All paths below a folder that there ever were."""
        shared = {id(commit.files): commit.files for commit in self.commits.values()}
        return sorted({p for files in shared.values() for p in files if p.startswith(folder)})

    def _on_disk(self) -> dict[str, str]:
        files = {}
        for folder in self.folders:
            for path in sorted((self.root / folder).rglob("*")):
                if path.is_file():
                    content = path.read_bytes()
                    # as git names it
                    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                    self._contents[blob] = content
                    files[path.relative_to(self.root).as_posix()] = blob
        return files


class History(Versions):
    """The commits that led to the present files of a folder.

    Parameters
    ----------
    root : Path
        A folder under git's control.
    folders : sequence of str
        As in `Versions`.

    Raises
    ------
    HistoryError
        Without git, outside a repository, without a commit, or in a shallow clone.
    """

    def __init__(self, root: Path, folders: tuple[str, ...]) -> None:
        super().__init__(root, folders)
        self._reader: subprocess.Popen | None = None
        self._before: dict[str, frozenset[str]] = {}
        if self._git("rev-parse", "--is-shallow-repository").strip() != b"false":
            raise HistoryError(
                "this is a shallow clone, whose history is cut off; get the rest with: "
                "git fetch --unshallow"
            )
        commits = self._log()
        self.commits = commits | {NOW: Commit((next(reversed(commits)),), self.now)}

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_) -> None:
        if self._reader is not None:
            self._reader.communicate()

    def read(self, blob: str) -> bytes:
        if blob not in self._contents:
            if self._reader is None:
                options = {
                    "stdin": subprocess.PIPE,
                    "stdout": subprocess.PIPE,
                    "env": git_environment(),
                }
                self._reader = subprocess.Popen(self._command("cat-file", "--batch"), **options)
            self._reader.stdin.write(blob.encode() + b"\n")
            self._reader.stdin.flush()
            header = self._reader.stdout.readline().split()
            if len(header) != 3:
                raise HistoryError(f"git has lost the content {blob}; try: git fsck")
            self._contents[blob] = self._reader.stdout.read(int(header[2]))
            self._reader.stdout.read(1)
        return self._contents[blob]

    def origins(self, same: Callable[[Commit], bool], of: str = NOW) -> list[str]:
        """The commits that brought what a commit has: no parent of theirs has it.

        Parameters
        ----------
        same : callable
            Whether a commit has the same.
        of : str
            By default the present files.
        """
        found, seen, todo = [], set(), [of]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                have = [p for p in self.commits[name].parents if same(self.commits[p])]
                found += [] if have else [name]
                todo += have
        return found

    def before(self, name: str) -> frozenset[str]:
        """All commits that come before one."""
        if name not in self._before:
            found, todo = set(), list(self.commits[name].parents)
            while todo:
                parent = todo.pop()
                if parent not in found:
                    found.add(parent)
                    todo += self.commits[parent].parents
            self._before[name] = frozenset(found)
        return self._before[name]

    def days(self) -> dict[str, str]:
        """The day of every commit."""
        log = self._git("log", "--format=%H %cs").decode()
        return dict(line.split() for line in log.splitlines())

    def steps(self, path: str) -> Iterator[tuple[str, list[str]]]:
        """Commits that changed a path, each with those parents that had it, too."""
        for name, commit in self.commits.items():
            blob = commit.files.get(path)
            parents = [self.commits[parent].files.get(path) for parent in commit.parents]
            if blob and any(parents) and blob not in parents:
                yield name, [p for p, b in zip(commit.parents, parents, strict=True) if b]

    def _command(self, *arguments: str) -> list[str]:
        # what `git replace` puts in the place of a commit is not its history
        return ["git", "--no-replace-objects", "-C", str(self.root), *arguments]

    def _git(self, *arguments: str) -> bytes:
        try:
            options = {"capture_output": True, "check": True, "env": git_environment()}
            done = subprocess.run(self._command(*arguments), **options)
        except FileNotFoundError as error:
            raise HistoryError("git is not installed, and the history is git's") from error
        except subprocess.CalledProcessError as error:
            why = error.stderr.decode(errors="replace").strip().splitlines() or [str(error)]
            raise HistoryError(f"git has no history here ({why[0]})") from error
        return done.stdout

    def _log(self) -> dict[str, Commit]:
        log = self._git(
            *("log", "--topo-order", "--reverse", "--raw", "--no-abbrev", "--no-renames", "-z"),
            *("--root", "--relative", "--diff-merges=first-parent", "--format=%x01%H %P%x02"),
            "--encoding=UTF-8",
        )
        commits: dict[str, Commit] = {}
        for entry in log.decode("utf-8", errors="surrogateescape").split("\x01")[1:]:
            head, _, raw = entry.partition("\x02")
            name, *parents = head.split()
            before = commits[parents[0]].files if parents else {}
            changes = dict(self._changes(raw))
            # commits that change nothing here share one mapping
            files = {k: v for k, v in {**before, **changes}.items() if v} if changes else before
            commits[name] = Commit(tuple(parents), files)
        return commits

    def _changes(self, raw: str) -> Iterator[tuple[str, str | None]]:
        fields = iter(raw.strip("\0\n").split("\0"))
        for field in fields:
            if field.startswith(":"):
                new, path = field.split()[3], next(fields)
                if path.startswith(self.folders):
                    yield path, None if set(new) == {"0"} else new

"""Downloads: from the public source or a mirror, resumed where they broke off, right or gone.

A file is what the registry says of it: by its hash, or, for an archive whose packing may change, by
the hashes of the files in it. Only what is right gets its name; what is wrong is thrown away.

``MTLBOOK_MIRROR`` names a folder or a base address that holds the files in place of the sources:
the file of ``https://host/path`` is ``host/path`` there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mtlbook.datasets import archive
from mtlbook.datasets.registry import Download, require

RETRIES = 2  # after a failed download, with pauses of a second and more
CONNECT = 10.0  # seconds until a server has to answer
STALL = 30.0  # seconds that it may be silent, and over which its speed is measured
SLOWEST = 200  # bytes a second
CHUNK = 2**16


def into(folder: Path, files: Sequence[Download], store: Path) -> None:
    """Download files, and link them into a folder at the places where they are looked for.

    Parameters
    ----------
    folder : Path
        A scratch folder of the set.
    files : sequence of Download
    store : Path
        Where downloads are kept until `forget`, laid out like a mirror. Right ones in it are not
        downloaded again, and parts of others are resumed.

    Raises
    ------
    OSError
        The network, or the folder.
    RuntimeError
        A file is not the expected one, after `RETRIES` more tries.
    """
    if not files:
        return
    pooch = require("pooch", "reproduce")
    names = {file.url: below(file.url) for file in files}
    fetcher = pooch.create(
        path=store,
        base_url="",
        registry={names[file.url]: file.known_to_pooch for file in files},
        urls={name: url for url, name in names.items()},
        retry_if_failed=RETRIES,
    )
    pooch.get_logger().setLevel("WARNING")
    for file in files:
        kept = store / names[file.url]
        if kept.is_file() and not _is_right(kept, file):
            kept.unlink()
        try:
            fetcher.fetch(names[file.url], downloader=_Downloader(file, kept))
        except ValueError as error:  # pooch's error for another hash, and ours
            raise RuntimeError(f"{address(file.url)}: {error}") from error
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        try:
            os.link(kept, place)
        except OSError:  # a file system without links
            shutil.copyfile(kept, place)


def forget(files: Sequence[Download], store: Path) -> None:
    """Remove downloads, finished or not."""
    for file in files:
        kept = store / below(file.url)
        for path in (kept, _part(kept)):
            path.unlink(missing_ok=True)


def below(url: str) -> str:
    """Where the file of an address stands on a mirror: ``host/path``."""
    parts = urlsplit(url)
    return f"{parts.hostname}{parts.path}"


def address(url: str) -> str:
    """Where a file comes from: its public source, or its place on the mirror."""
    mirror = os.environ.get("MTLBOOK_MIRROR", "").rstrip("/ ")
    if not mirror:
        return url
    if "://" in mirror:
        mirror = mirror.strip()
    if mirror.lower().startswith("file://"):
        mirror = url2pathname(urlsplit(mirror).path)
    return f"{mirror if _is_web(mirror) else Path(mirror).expanduser()}/{below(url)}"


class _Downloader:
    """What pooch calls to bring a file; it has the file checked and goes on from a part."""

    def __init__(self, file: Download, kept: Path):
        self.file, self.part = file, _part(kept)

    def __call__(self, url: str, output_file: str, pooch) -> None:
        source = address(url)
        if _is_web(source):
            _resume(source, self.part, self.file.size)
        else:
            _copy(source, self.part, self.file.size)
        try:
            _check(self.part, self.file)
        except ValueError:
            self.part.unlink()
            raise
        os.replace(self.part, output_file)


def _copy(source: str, part: Path, most: int | None) -> None:
    """Copy a file of a mirror, unless it is larger than the wanted one."""
    if most is not None and (size := os.path.getsize(source)) > most:
        raise RuntimeError(f"expected at most {most} bytes, found {size}")
    try:
        shutil.copyfile(source, part)
    except OSError:  # half of a file on a mirror is copied from its beginning again
        part.unlink(missing_ok=True)
        raise


def _is_right(path: Path, file: Download) -> bool:
    try:
        _check(path, file)
    except ValueError:
        return False
    return True


def _check(path: Path, file: Download) -> None:
    """Raise a ``ValueError`` unless the file is the expected one, as far as that is known."""
    size = path.stat().st_size
    if file.size is not None and size > file.size:
        raise ValueError(f"expected at most {file.size} bytes, found {size}")
    if file.holds is not None:
        archive.check(path, file.holds)
    elif file.hash is not None:
        algorithm, _, expected = file.hash.partition(":")
        found = _digest(path, algorithm)
        if found != expected:
            raise ValueError(f"expected {algorithm} {expected}, found {found}: does not match")


def _digest(path: Path, algorithm: str) -> str:
    """A hash of a file; ``git`` is the name that git gives to its content."""
    with path.open("rb") as content:
        if algorithm != "git":
            return hashlib.file_digest(content, algorithm).hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        while chunk := content.read(CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def _resume(url: str, part: Path, most: int | None) -> None:
    """Download to ``part``, from where it ends if it is there."""
    requests = require("requests", "reproduce")
    from urllib3.exceptions import HTTPError

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(CONNECT, STALL)) as answer:
        if answer.status_code == 416:  # the part is no beginning of what is there now
            part.unlink()
            raise requests.ConnectionError(f"{url}: has no more than {have} bytes")
        answer.raise_for_status()
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            part.unlink(missing_ok=True)
            raise RuntimeError(f"{url}: expected a file, found a page of HTML")
        begins = f"bytes {have}-"
        if answer.status_code != 206:
            have = 0
        elif not answer.headers.get("Content-Range", begins).startswith(begins):
            part.unlink()
            raise requests.ConnectionError(f"{url}: expected the rest from byte {have} on")
        coded = answer.headers.get("Content-Encoding", "identity") != "identity"  # though not asked
        if coded and have:
            part.unlink()
            raise requests.ConnectionError(f"{url}: expected the rest as it is, got it compressed")
        length = None if coded else answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if most is not None and (total or 0) > most:
            part.unlink(missing_ok=True)
            raise RuntimeError(f"{url}: expected at most {most} bytes, announced are {total}")
        try:
            with part.open("ab" if have else "wb") as file:
                for chunk in _chunks(answer, url, total, have, coded):
                    have += len(chunk)
                    if most is not None and have > most:
                        break
                    file.write(chunk)
                    file.flush()  # what has come is there also after a kill
        except HTTPError as error:  # the server broke off; the part stays
            raise requests.ConnectionError(f"{url}: {error}") from error
    if most is not None and have > most:
        part.unlink()
        raise RuntimeError(f"{url}: expected at most {most} bytes, found more")
    if total is not None and have < total:
        raise requests.ConnectionError(f"{url}: expected {total} bytes, {have} came")


def _chunks(answer, url: str, total: int | None, have: int, coded: bool) -> Iterator[bytes]:
    """What a server sends, as it comes; an error where it comes too slowly."""
    requests, tqdm = require("requests", "reproduce"), require("tqdm", "reproduce").tqdm
    bar = {"unit": "B", "unit_scale": True, "desc": url.rpartition("/")[2][:30], "leave": False}
    with tqdm(total=total, initial=have, disable=not sys.stderr.isatty(), **bar) as progress:
        since, came = time.monotonic(), 0
        # read1 gives what has come; read would wait for all of it, however slowly that comes
        read = getattr(answer.raw, "read1", answer.raw.read)
        if coded:
            read = partial(answer.raw.read, decode_content=True)
        while chunk := read(CHUNK):
            yield chunk
            progress.update(len(chunk))
            came += len(chunk)
            if (seconds := time.monotonic() - since) > STALL:
                if came < SLOWEST * seconds:
                    raise requests.ConnectionError(
                        f"{url}: stalled, {came} bytes in {seconds:.0f} s"
                    )
                since, came = time.monotonic(), 0


def _part(kept: Path) -> Path:
    return kept.with_name(kept.name + ".part")


def _is_web(address: str) -> bool:
    return address.lower().startswith(("http://", "https://"))

"""From public sources to loaded sets, against a server on the loopback address and a folder."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from mtlbook import datasets
from mtlbook.datasets import DataError, archive, cache, download, efficientnet, registry, workplace
from tests import loopback, made_up_data, made_up_sources

for module in ("PIL", "yaml", "torchvision", "pooch", "scipy", "filelock"):
    pytest.importorskip(module)
FETCHED = [name for name in datasets.names() if datasets.info(name)["tier"] == "fetched"]
URL = "https://files.example/below/school.mat"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache; failures are tried again without a pause."""
    import pooch

    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("MTLBOOK_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_checked", {})
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch):
    with loopback.running() as server:
        monkeypatch.setenv("MTLBOOK_MIRROR", server.address)
        yield server


@pytest.fixture(scope="module")
def made_up():
    return made_up_sources.everything()


@pytest.fixture
def sources(made_up, server, monkeypatch):
    """All public sources, with small files; what libraries know of the real ones is put aside."""
    import torchvision.datasets as tv

    served, known, manifests = made_up
    for url, content in served.items():
        server.put(url, content)
    for name, entry in known.items():
        monkeypatch.setitem(registry.entries(), name, entry)
    monkeypatch.setattr(archive, "manifest", manifests.__getitem__)
    md5 = {url.rpartition("/")[2]: hashlib.md5(c).hexdigest() for url, c in served.items()}
    zips = {name: md5[f"{name}.zip"] for name in tv.Omniglot.zips_md5}
    monkeypatch.setattr(tv.Omniglot, "zips_md5", zips)
    monkeypatch.setattr(tv.MNIST, "resources", [(n, None) for n, _ in tv.MNIST.resources])
    lists = {p: [u, f, md5[f]] for p, (u, f, _) in tv.USPS.split_list.items()}
    monkeypatch.setattr(tv.USPS, "split_list", lists)
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", md5["cifar-10-python.tar.gz"])
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(tv.CIFAR10, part, [[n, None] for n, _ in getattr(tv.CIFAR10, part)])
    monkeypatch.setattr(tv.CIFAR10, "meta", {**tv.CIFAR10.meta, "md5": None})
    monkeypatch.setattr(efficientnet, "installed", lambda: True)
    monkeypatch.setattr(
        efficientnet,
        "features",
        lambda images, **_: images.float().mean((1, 2, 3))[:, None] / 255 + torch.arange(1280),
    )
    return served


@pytest.mark.parametrize("name", FETCHED)
def test_from_the_source_to_the_tasks(name, sources, folder):
    path = datasets.fetch(name)
    assert path.parent == folder and datasets.status(name) == "cached"
    loaded = datasets.load(name)
    assert loaded.samples and all(task.inputs.isfinite().all() for task in loaded)
    assert not (folder / ".fetch").exists()
    assert not [p for p in folder.iterdir() if p.name.startswith(".") and p.name[1] in "fp"]


def test_from_a_folder_in_the_place_of_a_server(made_up, sources, folder, tmp_path, monkeypatch):
    for url, content in made_up[0].items():
        file = tmp_path / "mirror" / download.below(url)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    monkeypatch.setenv("MTLBOOK_MIRROR", str(tmp_path / "mirror"))
    datasets.fetch("office_caltech10")
    assert datasets.published_splits(5)["caltech10"][0].tolist() == [0, 3]
    shutil.rmtree(tmp_path / "mirror")
    with pytest.raises(DataError, match=r"No such file.*mtlbook data fetch school"):
        datasets.fetch("school")


def test_sets_of_one_source_are_downloaded_once(sources, server, folder):
    names = ["office_caltech10", "office_caltech10_efflite0"]
    for count, name in enumerate(names, 1):
        datasets.fetch(name, then=names[count:])
    assert len([path for path, _ in server.asked if "OfficeCaltech" in path]) == 1
    assert not (folder / ".fetch").exists()


# ---------------------------------------------------------------- servers that misbehave

BODY = bytes(range(256)) * 40


@pytest.fixture
def one(folder, server, monkeypatch):
    """School, from one small file with a known hash."""
    file = registry.Download(
        url=URL,
        path="school.mat",
        hash=f"sha256:{hashlib.sha256(BODY).hexdigest()}",
        size=len(BODY),
    )
    nothing = dict.fromkeys(("sha256", "content_sha256", "size", "unpacked"))
    entry = replace(registry.entry("school"), downloads=(file,), **nothing)
    monkeypatch.setitem(registry.entries(), "school", entry)
    arrays = {"X": np.zeros((2, 28)), "y": np.zeros(2), "task": np.zeros(2, dtype=np.int16)}
    monkeypatch.setitem(datasets.FETCHERS, "school", lambda scratch: arrays)
    monkeypatch.setattr(download, "STALL", 0.2)
    return entry


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


WRONG = {
    "HTML with status 200": (loopback.html, "a page of HTML"),
    "wrong bytes": (BODY[::-1], "does not match"),
    "too many bytes": (BODY + b"more", "at most"),
    "announces 1e15 bytes": (loopback.huge, "announced are 1000000000000000"),
    "nothing": (b"", "does not match"),
}
BROKEN = {
    "truncates": (loopback.truncated(BODY), "came|IncompleteRead"),
    "breaks off a chunked answer": (loopback.broken_chunk(BODY), "IncompleteRead|broken|expected"),
    "stalls": (loopback.stalled(BODY, 1.0), "timed out"),
}


@pytest.mark.parametrize("how", WRONG)
def test_wrong_answer_is_one_clear_error_and_nothing_is_left(how, one, server, folder):
    answer, why = WRONG[how]
    server.put(URL, answer)
    with pytest.raises(DataError, match=rf"(?s)school.npz is missing.*({why}).*data fetch school"):
        datasets.fetch("school")
    assert list(folder.iterdir()) == []
    server.put(URL, BODY)
    assert datasets.fetch("school").is_file()


@pytest.mark.parametrize("how", BROKEN)
def test_broken_answer_is_resumed_by_the_next_call(how, one, server, folder):
    answer, why = BROKEN[how]
    server.put(URL, answer)
    with pytest.raises(DataError, match=rf"(?s)school.npz is missing.*({why}).*data fetch school"):
        datasets.fetch("school")
    assert files(folder) == ["school.mat.part"]
    server.put(URL, BODY)
    server.asked.clear()
    assert datasets.fetch("school").is_file()
    assert [of for _, of in server.asked] == [f"bytes={len(BODY) // 2}-"]
    assert files(folder) == ["school.npz", "school.npz.content_sha256"]


def test_a_rest_that_does_not_begin_where_it_was_asked_for(one, server, folder, monkeypatch):
    """Where no hash is known, nothing else would tell."""
    file = replace(one.downloads[0], hash=None, size=2 * len(BODY))
    monkeypatch.setitem(registry.entries(), "school", replace(one, downloads=(file,)))
    part = workplace.store(folder) / f"{download.below(URL)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:100])
    got = []
    made = datasets.FETCHERS["school"]
    read = lambda scratch: got.append((scratch / "school.mat").read_bytes()) or made(scratch)  # noqa: E731
    monkeypatch.setitem(datasets.FETCHERS, "school", read)
    server.put(URL, loopback.misplaced(BODY))
    datasets.fetch("school")
    assert got == [BODY] and [of for _, of in server.asked] == ["bytes=100-", None]


def test_a_file_of_a_mirror_is_copied_if_it_may_be_the_one(one, folder, tmp_path, monkeypatch):
    """Not where it is larger; and half a copy, on a full disk, goes."""
    file = tmp_path / "mirror" / download.below(URL)
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY + b"more")
    monkeypatch.setenv("MTLBOOK_MIRROR", str(tmp_path / "mirror"))
    copied = []

    def full(source, target):
        copied.append(source)
        Path(target).write_bytes(BODY[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DataError, match=f"expected at most {len(BODY)} bytes, found"):
        datasets.fetch("school")
    assert copied == []
    file.write_bytes(BODY)
    with pytest.raises(DataError, match="No space left"):
        datasets.fetch("school")
    assert len(copied) == 1 and list(folder.iterdir()) == []


@pytest.mark.parametrize("how", ["file://{}", " FILE://{}/ "])
def test_a_folder_may_be_named_as_an_address(how, one, folder, tmp_path, monkeypatch):
    file = tmp_path / "mir ror" / download.below(URL)
    file.parent.mkdir(parents=True)
    file.write_bytes(BODY)
    place = (tmp_path / "mir ror").as_uri().removeprefix("file://")
    monkeypatch.setenv("MTLBOOK_MIRROR", how.format(place))
    assert datasets.fetch("school").is_file()


def test_an_address_may_be_written_in_capitals(one, server, folder, monkeypatch):
    monkeypatch.setenv("MTLBOOK_MIRROR", f" {server.address.upper()}/ ")
    server.put(URL, BODY)
    assert datasets.fetch("school").is_file()


def test_a_server_that_compresses_unasked(one, server, folder):
    """What it sends is unpacked; a rest of what is packed cannot be joined to what is not."""
    server.put(URL, loopback.compressed(BODY))
    part = workplace.store(folder) / f"{download.below(URL)}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:100])
    assert datasets.fetch("school").is_file()
    assert [of for _, of in server.asked] == ["bytes=100-", None]


def test_two_that_fetch_one_set_at_once_download_it_once(one, server, folder):
    server.put(URL, loopback.trickling(BODY, 0.02, step=1024))
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(datasets.fetch, ["school"] * 2))
    assert paths[0] == paths[1] and len(server.asked) == 1


def test_trickling_server_does_not_hold_us_for_ever(one, server, folder):
    server.put(URL, loopback.trickling(BODY, 0.05))
    with pytest.raises(DataError, match="stalled"):
        datasets.fetch("school")


def _packed(names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in names.items():
            packed.writestr(name, content)
    return file.getvalue()


ZIPS = {
    "leads out": ({"top/a": b"right", "top/../../b": b"evil"}, "names inside the archive"),
    "bomb": ({"top/a": bytes(10**7)}, "expected 5 bytes, found 10000000"),
    "wrong file": ({"top/a": b"wrong"}, "a: expected sha256"),
    "lacks a file": ({"top/b": b"right"}, "expected the file a"),
}


@pytest.mark.parametrize("how", [*ZIPS, "no zip"])
def test_wrong_archive(how, one, server, folder, monkeypatch):
    names, why = ZIPS.get(how, ({}, "expected a zip archive"))
    file = replace(one.downloads[0], hash=None, holds="a.csv", size=10**6)
    monkeypatch.setitem(registry.entries(), "school", replace(one, downloads=(file,)))
    right = archive.Original("a", 5, hashlib.sha256(b"right").hexdigest())
    monkeypatch.setattr(archive, "manifest", lambda name: [right])
    server.put(URL, _packed(names) if names else b"no zip")
    with pytest.raises(DataError, match=why):
        datasets.fetch("school")
    assert list(folder.iterdir()) == []
    server.put(URL, _packed({"other-top/a": b"right"}))
    assert datasets.fetch("school").is_file()


# ---------------------------------------------------------------- kills, and what they leave


def test_parts_that_are_made_are_not_made_again(tmp_path):
    made = []

    def make(rows):
        if rows.start == 4 and len(made) < 3:
            made.append(None)
            raise KeyboardInterrupt
        made.append(rows)
        return np.arange(rows.start, rows.stop)

    with pytest.raises(KeyboardInterrupt), workplace.of(tmp_path, "a") as scratch:
        (scratch / "download").write_text("linked")
        workplace.in_parts(scratch, 5, make, size=2)
    assert files(tmp_path) == ["00000000-of-5-by-2.npy", "00000002-of-5-by-2.npy"]
    with workplace.of(tmp_path, "a") as scratch:
        assert workplace.in_parts(scratch, 5, make, size=2).tolist() == [0, 1, 2, 3, 4]
        assert [rows.start for rows in made if rows] == [0, 2, 4]
        workplace.finished(scratch)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_by_the_next_fetch(one, server, folder):
    for name in (".fetch-usps_16-abc", ".publish-abc"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half").write_text("half")
    (folder / ".verified-abc").write_text("{")
    server.put(URL, BODY)
    datasets.fetch("school")
    assert files(folder) == ["school.npz", "school.npz.content_sha256"]


def test_one_process_at_a_time_and_the_lock_goes_too(tmp_path, monkeypatch):
    """Threads have locks of their own; what is removed while others wait for it splits none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no folder for temporary files"))
    (tmp_path / "cache").mkdir()
    inside, most = [], []

    def work(number):
        for _ in range(4):
            with workplace.of(tmp_path / "cache", f"set{number}"):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == [1] * 16
    assert [path.name for path in tmp_path.rglob("*")] == ["cache"]


# ---------------------------------------------------------------- the commands that messages name


def commands_in(text):
    """The commands that lines of ``data list``, or skip messages, tell the reader to run."""
    return re.findall(r"mtlbook (data (?:fetch|verify) \w+)", text)


def put_gated(folder, monkeypatch):
    """The folders that have to be obtained by hand, in their real layout."""
    import torchvision.datasets as tv

    folder.mkdir(exist_ok=True)
    for name, fill in made_up_data.FILES.items():
        if callable(fill):
            fill(folder / name)
            known = replace(registry.entry(name), **made_up_data.COUNTS.get(name, {}))
            monkeypatch.setitem(registry.entries(), name, known)
    tables = sorted((folder / "celeba").glob("*.txt"))
    lists = [(None, hashlib.md5(path.read_bytes()).hexdigest(), path.name) for path in tables]
    monkeypatch.setattr(tv.CelebA, "file_list", lists)


def test_every_skip_message_and_every_line_of_the_list_names_a_command_that_works(
    sources, folder, monkeypatch, capsys, root
):
    workflow = pytest.importorskip("mtlbook.workflow")
    from mtlbook import cli
    from mtlbook.workflow import catalogue

    catalogue._missing_data.cache_clear()
    monkeypatch.setenv("MTLBOOK_ROOT", str(root))
    path = root / "notebooks" / "experiments.yaml"
    runs = [r for p in catalogue.PROFILES for r in workflow.expand(path, p)]
    needed = {data for e in workflow.load_experiments(path).values() for data in e.sets}
    missing = {name for name in needed if not datasets.available(name)}
    named = {c for run in runs if run.skip for c in commands_in(run.skip)}
    assert {command.split()[-1] for command in named} == missing
    assert cli.main(["data", "list"]) == 0
    listed = commands_in(capsys.readouterr().out)
    of_files = [n for n in datasets.names() if datasets.info(n)["file"]]
    assert [command.split()[-1] for command in listed] == of_files
    put_gated(folder, monkeypatch)
    for command in [*named, *listed]:
        assert cli.main(command.split()) == 0, (command, capsys.readouterr().err)
    assert all(datasets.available(name) for name in datasets.names())
    catalogue._missing_data.cache_clear()
    assert not any(run.skip for p in catalogue.PROFILES for run in workflow.expand(path, p))
    catalogue._missing_data.cache_clear()


def test_all_goes_on_after_a_failure_and_names_each_licence_once(
    sources, server, folder, monkeypatch, capsys
):
    from mtlbook import cli

    del server.answers[f"/{download.below(registry.entry('school').downloads[0].url)}"]
    assert cli.main(["data", "fetch", "--all"]) == 1
    out, err = capsys.readouterr()
    assert "school.npz is missing" in err and "404" in err
    for name in FETCHED:
        assert (datasets.status(name) == "cached") == (name != "school"), name
    assert out.count("school: licence: ") == 1
    assert cli.main(["data", "fetch", "--all"]) == 1
    assert capsys.readouterr().out.count("licence") == 1  # of what is to be downloaded alone


# ---------------------------------------------------------------- the cache


def test_odd_files_in_the_cache(sources, folder):
    path = datasets.fetch("school")
    cache._checked.clear()
    (folder / ".verified.json").write_text("[]")
    assert datasets.status("school") == "cached"
    np.save(folder / "array.npy", np.zeros(3))
    (folder / "array.npy").replace(path)
    assert datasets.status("school") == "corrupt"
    assert "expected an npz file" in datasets.verify("school")[0]["why"]


NOTES = {
    "a list": b"[]",
    "other notes": b'{"school.npz": 3, "sarcos.npz": {"stamp": []}}',
    "no text": b"\xff\xfe\x00",
    "nested too deeply": b"[" * 100_000,
    "nothing": b"",
}


@pytest.mark.parametrize("content", NOTES.values(), ids=NOTES)
def test_odd_notes_in_the_cache_cost_a_hash_only(content, sources, folder):
    datasets.fetch("school")
    cache._checked.clear()
    (folder / ".verified.json").write_bytes(content)
    assert datasets.load("school").sha256 == datasets.identity("school")
    assert files(folder) == [".verified.json", "school.npz", "school.npz.content_sha256"]


def test_notes_that_are_right_and_say_too_little_are_not_believed(sources, folder):
    datasets.fetch("school")
    right = datasets.identity("school")
    cache._checked.clear()
    notes = json.loads((folder / ".verified.json").read_text())
    del notes["school.npz"]["sha256"]
    (folder / ".verified.json").write_text(json.dumps(notes))
    assert datasets.identity("school") == right


@pytest.mark.posix("named pipes")
def test_pipes_in_the_place_of_notes_are_not_read(sources, folder):
    """Nobody writes into them, so that their end never comes."""
    datasets.fetch("school")
    cache._checked.clear()
    for name in (".verified.json", "school.npz.content_sha256"):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    found = []
    asking = Thread(target=lambda: found.append(datasets.status("school")), daemon=True)
    asking.start()
    asking.join(30)
    assert found


def test_without_a_home_the_folder_of_the_data_has_to_be_named(monkeypatch, capsys):
    from mtlbook import cli
    from mtlbook.datasets import derived

    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("MTLBOOK_DATA", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    assert cli.main(["data", "list"]) == 2
    assert "expected a home" in (told := capsys.readouterr().err) and "MTLBOOK_DATA" in told
    made = {"numbers": np.arange(3)}
    assert derived.derived("numbers", lambda: made, files=[], packages=[]) == made


def test_a_folder_in_the_place_of_the_notes(sources, folder):
    datasets.fetch("school")
    cache._checked.clear()
    (folder / ".verified.json").unlink(missing_ok=True)
    (folder / ".verified.json").mkdir()
    assert datasets.status("school") == "cached"
    assert not list(folder.glob(".verified-*"))


def _encrypted() -> bytes:
    """A zip whose member says that it needs a password."""
    packed = bytearray(_packed({"X.npy": b"\x93NUMPY"}))
    for name, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(name) + offset] |= 1
    return bytes(packed)


def _npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


ODD = {
    "empty": b"",
    "a zip of nothing": _packed({}),
    "a zip of something else": _packed({"X.npy": b"no array", "readme.txt": b"text"}),
    "encrypted": _encrypted(),
    "objects": _npz(X=np.array([{}, None], dtype=object)),
    "a header nested too deeply": _packed({"X.npy": b"\x93NUMPY\x01\x00\x00\x20" + b"(" * 8192}),
    "less than nothing": _packed(
        {"X.npy": _npz(X=np.zeros(5))[37:].replace(b"(5,)", b"(-5,)").split(b"PK")[0]}
    ),
    "other arrays": _npz(Z=np.zeros(2)),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_odd_files_are_corrupt_and_stop_no_other_set(content, folder, capsys):
    from mtlbook import cli

    folder.mkdir()
    (folder / "school.npz").write_bytes(content)
    assert cli.main(["data", "list"]) == 0
    assert cli.main(["data", "verify", "school", "digits"]) == 1
    told = capsys.readouterr()
    assert re.search(r"school +corrupt +.*school\.npz is corrupt: expected sha256", told.out)
    assert re.search(r"digits +embedded +as expected", told.out)
    assert not told.err


def test_a_file_that_is_far_too_large_is_not_even_hashed(folder, monkeypatch):
    folder.mkdir()
    (folder / "school.npz").touch()
    os.truncate(folder / "school.npz", 10**13)  # without a byte on the disk
    monkeypatch.setattr(cache, "file_sha256", lambda path: pytest.fail("reads it all"))
    assert datasets.status("school") == "corrupt"
    assert "a file of 10000000000000 bytes" in datasets.verify("school")[0]["why"]


ODD_PLACES = {
    "a circle of links": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes files of POSIX")
@pytest.mark.parametrize("make", ODD_PLACES.values(), ids=ODD_PLACES)
def test_what_is_no_file_stands_in_nobodys_way(make, sources, folder):
    folder.mkdir()
    make(folder / "school.npz")
    assert {row["state"] for row in datasets.table() if row["name"] == "school"} == {"missing"}
    if (folder / "school.npz").is_dir():  # may hold somebody's files
        with pytest.raises(DataError, match="is a folder, in the place of the file"):
            datasets.fetch("school")
        assert files(folder) == []
    else:
        datasets.fetch("school")
        assert datasets.status("school") == "cached"


@pytest.mark.posix("links need a privilege")
@pytest.mark.parametrize("place", ["a file", "a circle of links"])
def test_a_cache_that_is_no_folder(place, folder, capsys):
    from mtlbook import cli

    folder.touch() if place == "a file" else folder.symlink_to(folder.name)
    assert cli.main(["data", "list"]) == 0
    assert cli.main(["data", "verify", "school"]) == 1
    assert cli.main(["data", "fetch", "school"]) == 1
    assert "MTLBOOK_DATA" in capsys.readouterr().err


def test_a_full_disk_is_said_and_leaves_nothing_half(sources, folder, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        with pytest.raises(DataError, match="No space left on device"):
            datasets.fetch("school")
    assert not [name for name in files(folder) if name.endswith(".npz")]
    datasets.fetch("school")
    assert files(folder) == ["school.npz", "school.npz.content_sha256"]


def test_parts_are_kept_when_the_disk_is_full(one, server, folder, monkeypatch):
    made = []

    def make(scratch):
        def part(rows):
            made.append(rows.start)
            if len(made) == 3:
                raise OSError(28, "No space left on device")
            return np.zeros(len(rows), dtype=np.int16)

        task = workplace.in_parts(scratch, 3, part, size=1)
        return {"X": np.zeros((3, 28)), "y": np.zeros(3), "task": task}

    monkeypatch.setitem(datasets.FETCHERS, "school", make)
    server.put(URL, BODY)
    with pytest.raises(DataError, match="No space left on device"):
        datasets.fetch("school")
    datasets.fetch("school")
    assert made == [0, 1, 2, 2] and len(server.asked) == 1


def test_changed_byte_with_size_and_time_kept(sources, folder):
    path = datasets.fetch("school")
    assert datasets.status("school") == "cached"
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert datasets.verify("school")[0]["ok"] is False
    assert datasets.status("school") == "corrupt"


def test_header_that_claims_too_much_is_not_believed(folder, monkeypatch):
    folder.mkdir()
    header = io.BytesIO()
    claimed = {"descr": "<f8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(header, claimed)
    (folder / "school.npz").write_bytes(_packed({"X.npy": header.getvalue()}))
    assert "claims 8000000000000000 bytes" in datasets.verify("school")[0]["why"]
    np.savez_compressed(folder / "school.npz", X=np.zeros(10**6))  # a bomb
    assert "at most" in datasets.verify("school")[0]["why"]


def test_one_unreadable_file_stops_no_listing(sources, folder, monkeypatch):
    datasets.fetch("school")

    def unreadable(path):
        raise PermissionError(13, "Permission denied", str(path))

    cache._checked.clear()
    (folder / ".verified.json").unlink(missing_ok=True)
    monkeypatch.setattr(cache, "file_sha256", unreadable)
    states = {row["name"]: row["state"] for row in datasets.table()}
    assert states["school"] == "corrupt" and states["notmnist"] == "missing"
    (folder / "imageclef_da").mkdir()
    (folder / "imageclef_da" / "cList.txt").write_bytes(b"\xff\xfe no text")
    assert datasets.status("imageclef_da") == "corrupt"


KILLED = """
import os, signal
import numpy as np
from pathlib import Path
from mtlbook.datasets import workplace

def make(rows):
    if rows.start == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.arange(rows.start, rows.stop)

with workplace.of(Path("."), "a") as scratch:
    (scratch / "linked").write_text("a download")
    workplace.in_parts(scratch, 6, make, size=2)
"""


@pytest.mark.posix("no SIGKILL")
def test_killed_while_it_computes(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path)
    assert killed.returncode == -9 and "linked" in files(tmp_path)
    made = []

    def make(rows):
        made.append(rows.start)
        return np.arange(rows.start, rows.stop)

    with workplace.of(tmp_path, "a") as scratch:  # the lock went with its owner
        assert not (scratch / "linked").exists()
        assert workplace.in_parts(scratch, 6, make, size=2).tolist() == list(range(6))
        workplace.finished(scratch)
    assert made == [4] and list(tmp_path.iterdir()) == []

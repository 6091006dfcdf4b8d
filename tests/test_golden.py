"""Numbers stay where they are: golden trajectories, and what may take their place."""

import json
import subprocess

import golden
import pytest

from mtlbook.numerics import NUMERICS

STUDIES = (*NUMERICS,)


def test_every_study_has_golden_values():
    assert set(golden.STUDIES) == set(NUMERICS)
    assert {path.stem for path in golden.GOLDEN.glob("*.json")} == set(NUMERICS)


@pytest.mark.parametrize("study", STUDIES)
def test_the_code_gives_the_golden_values(study):
    old = golden.stored(study)
    assert old["numerics"] == NUMERICS[study], "record anew: python tests/golden.py --write"
    found = golden.differences(
        old["values"], golden.measure(study), golden.TOLERANCES.get(study, golden.TOLERANCE)
    )
    advice = f"{len(found)} values of {study} have changed; if they are meant to, bump its version"
    assert not found, "\n".join([advice, *found[:10]])


def test_differences_see_numbers_words_and_what_is_gone():
    old = {"a": [1.0, 2.0], "b": {"c": "laf"}, "d": 0.0}
    assert golden.differences(old, old | {"new": 3}) == []
    assert golden.differences(old, old | {"a": [1.0, 2.0 + 1e-8]}) == []
    assert golden.differences(old, old | {"a": [1.0, 2.001]}) == ["a[1]: was 2.0, is 2.001"]
    assert golden.differences(old, old | {"a": [1.0]}) == ["a[1]: was 2.0, is gone"]
    assert golden.differences(old, old | {"b": {"c": "tt"}}) == ["b > c: was laf, is tt"]
    assert golden.differences(old, old | {"d": float("nan")}) == ["d: was 0.0, is nan"]


def test_a_change_needs_a_bump_and_a_bump_a_change():
    old = {"numerics": 2, "values": {"a": 1.0}}
    assert golden.check("mrn", None, {"a": 1.0}, 1) == []
    assert golden.check("mrn", old, {"a": 1.0, "new": 5.0}, 2) == []
    assert golden.check("mrn", old, {"a": 2.0}, 2) == ["a: was 1.0, is 2.0"]
    assert golden.check("mrn", old, {"a": 2.0}, 3) == []
    assert "no value has changed" in golden.check("mrn", old, {"a": 1.0}, 3)[0]
    assert "version 2 or above" in golden.check("mrn", old, {"a": 2.0}, 1)[0]


@pytest.mark.parametrize("study", STUDIES)
def test_committed_values_have_kept_to_that(study, root):
    """Along the history, too: somebody may have edited the files by hand."""
    path = f"data/golden/{study}.json"

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60
        )
        return done.stdout if done.returncode == 0 else ""

    newer = golden.stored(study)
    for commit in git("log", "--format=%H", "--", path).split():
        text = git("show", f"{commit}:{path}")
        if not text:
            continue  # the commit removed the file
        older = json.loads(text)
        found = golden.check(study, older, newer["values"], newer["numerics"])
        assert not found, f"{commit}: {found[:3]}"
        newer = older

"""Whether a result still says what the present code, data and choices would give.

It does if it carries the numerics version that the code has (``mtlbook.numerics``: a few steps of
every arm guard it), if all its runs were made on one version of the data, and if the results whose
choices it took over are unchanged. Hashes of source files stay in the provenance for information.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mtlbook.ledger.results import Result
from mtlbook.numerics import NUMERICS

# Of what all runs of a result have to have one version; numerics are compared in any case.
_ONE = ("data", "notebook")


def stale(result: Result, known: Mapping[str, Result]) -> list[str]:
    """The reasons why a result is not current; empty if it is.

    Parameters
    ----------
    result : Result
    known : mapping of experiment to Result
        What is committed now, the used tunings among it.
    """
    reasons = [] if result.numerics else ["it carries no numerics version"]
    for study, version in result.numerics.items():
        now = NUMERICS.get(study)
        if version != now:
            reasons.append(f"measured under version {version} of {study}, the code's is {now}")
    if several := [name for name in _ONE if name in result.provenance.get("mixed", ())]:
        reasons.append(f"its runs mix versions of {', '.join(several)}")
    for name, sha256 in result.uses.items():
        if name not in known:
            reasons.append(f"the tuning {name} that it used is not there")
        elif known[name].content_sha256() != sha256:
            reasons.append(f"the tuning {name} that it used has changed since")
    return reasons


def same_data(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two results describe the same data: one hash, and fingerprints that agree."""
    if a.get("sha256") != b.get("sha256"):
        return False
    prints = a.get("fingerprint"), b.get("fingerprint")
    return None in prints or fingerprints_agree(*prints)


def fingerprints_agree(a: Sequence[float], b: Sequence[float], *, tolerance: float = 1e-5) -> bool:
    """Whether two fingerprints are of the same data, up to a relative error of ``tolerance``.

    Lengths are logarithms and projections are of vectors of length one, so that one absolute
    tolerance is a relative one of the data; nothing agrees with what is not a number.
    """
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))

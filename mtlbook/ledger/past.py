"""What has to hold between the present files and their history.

- A rule is older than the run it judges: the commit at which a run was made, and the commit before
  the one that brought its result, have the claim as it is now. Otherwise the claim says why
  (``revised``), in words that are not older than the change.
- A result changes only with a new run; none disappears, nor a claim that was judged.
- What a result was measured with, its experiment and notebook, is what it was then.
- A printed row, once copied from a paper, stays.
- A verdict changes only with its claim or its result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mtlbook.ledger import contents
from mtlbook.ledger.contents import Reader, digest, measured, runs_of, same, started
from mtlbook.ledger.findings import Finding
from mtlbook.ledger.history import NOW, Commit, History

_CHANGED_LATER = (
    "; a rule is committed before the run it judges. If the change is meant, say why in a new "
    "revised: of the claim or of its file"
)


def check(
    reader: Reader, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Finding], dict[str, str]]:
    """What the history does not allow, and the claims that were revised after their run.

    Parameters
    ----------
    reader : Reader
        Of a `History`.
    rows : sequence of dict
        As `audit` returns them.

    Returns
    -------
    findings : list of Finding
    revised : dict of str to str
        Claims whose file says why they were changed, or first asked, after their run; and why.
    """
    past = _Past(reader)
    findings, revised = past.rules(rows)
    for found in (past.results(), past.setups(), past.gone(), past.marks()):
        findings += found
    findings += [*past.printed(), *past.verdicts()]
    return findings, revised


class _Past:
    def __init__(self, reader: Reader) -> None:
        self.reader, self.history = reader, reader.versions
        assert isinstance(self.history, History)
        self.now = self.history.commits[NOW]
        self._brought: dict[str, list[str]] = {}
        self._verdicts: dict[str | None, dict[str, dict]] = {}

    def brought(self, experiment: str) -> list[str]:
        """The commits that brought the runs of the present result."""
        if experiment not in self._brought:
            path = f"{contents.RESULTS}{experiment}.json"
            wanted = self._started(self.now, path)
            self._brought[experiment] = self.history.origins(
                lambda commit: self._started(commit, path) == wanted
            )
        return self._brought[experiment]

    def _started(self, commit: Commit, path: str) -> frozenset | None:
        content = self.reader.parse(commit, path)
        return started(content) if isinstance(content, dict) else None

    # rules

    def rules(self, rows: Sequence[Mapping[str, Any]]) -> tuple[list[Finding], dict[str, str]]:
        findings, revised = [], {}
        unknown: dict[str, set[str]] = {}
        for row in rows:
            claim = self.reader.claims(self.now).get(row["claim"])
            result = self.reader.result(self.now, row["experiment"])
            if claim is None or result is None or not row["result_file"]:
                continue
            anchors, strange = self._anchors(row["experiment"], result)
            if strange:
                unknown[row["experiment"]] = strange
            younger = [a for a in anchors if self._judged(a, row["claim"]) != claim.judged]
            if anchors and not younger:
                continue
            if self._declared(row["claim"]):
                revised[row["claim"]] = claim.why
                continue
            was = self._judged(younger[0], row["claim"]) if younger else None
            what = "is not there" if was is None else f"has another {_differing(was, claim.judged)}"
            where = (
                f"commit {younger[0][:10]}, before the runs of" if younger else "no commit before"
            )
            findings.append(
                Finding(
                    "rule",
                    f"{claim.path}: claim {row['claim']}",
                    f"expected as it is now in {where} {row['result_file']}; there it {what}"
                    + _CHANGED_LATER,
                    digest([claim.judged, sorted(started(result))]),
                )
            )
        for experiment, strange in unknown.items():
            findings.append(
                Finding(
                    "commit",
                    f"{contents.RESULTS}{experiment}.json",
                    "expected runs made at commits that come before the one that brought the "
                    f"result, got {', '.join(sorted(c[:10] for c in strange))}",
                    digest(sorted(strange)),
                )
            )
        return findings, revised

    def _anchors(self, experiment: str, result: Mapping) -> tuple[list[str], set[str]]:
        """The commits that must know the claim already; and those that runs name in error."""
        brought = self.brought(experiment)
        anchors = {parent for name in brought for parent in self.history.commits[name].parents}
        made_at = {str(of.get("git_commit")) for of in runs_of(result).values()} - {"None"}
        before = frozenset.intersection(*map(self.history.before, brought))
        return sorted(anchors | (made_at & before)), made_at - before

    def _judged(self, name: str, claim: str) -> dict[str, Any] | None:
        found = self.reader.claims(self.history.commits[name]).get(claim)
        return found.judged if found else None

    def _declared(self, claim: str) -> bool:
        """Whether the present words on why the claim was revised came with its change, or later."""
        now = self.reader.claims(self.now)[claim]
        origins = self.history.origins(
            lambda commit: (c := self.reader.claims(commit).get(claim)) and c.judged == now.judged
        )
        befores = {parent for name in origins for parent in self.history.commits[name].parents}
        said = [self._revised(name, claim, now.path) for name in befores]
        return bool(now.revised) and now.revised not in said

    def _revised(self, name: str, claim: str, path: str) -> list:
        commit = self.history.commits[name]
        found = self.reader.claims(commit).get(claim)
        file = self.reader.parse(commit, path)
        return found.revised if found else list((file or {}).get("revised") or [])

    # results

    def results(self) -> Iterator[Finding]:
        for path in self.history.paths(contents.RESULTS):
            versions = [
                content
                for blob in self.history.versions(path)
                if isinstance(content := self.reader.content(blob, ".json"), dict)
            ]
            for i, new in enumerate(versions):
                runs = started(new)
                # a version without a run of its own tells of the runs of an earlier one
                earlier = [old for old in versions[:i] if runs <= started(old)]
                if any(measured(new) == measured(old) for old in earlier):
                    continue
                if not earlier:
                    yield from self._kept(path, versions[:i], new)
                    continue
                old = earlier[-1]
                yield Finding(
                    "result",
                    path,
                    f"{_differing(measured(old), measured(new))}: expected as committed before, "
                    f"for the runs are the same; found {_examples(old, new)}",
                    digest([measured(old), measured(new)]),
                )

    def _kept(self, path: str, earlier: Sequence[Mapping], new: Mapping) -> Iterator[Finding]:
        """Runs that only their date tells from earlier ones; numbers that changed without a run."""
        runs = runs_of(new)
        for run, when in sorted(started(new).difference(*map(started, earlier))):
            for was in (runs_of(old).get(run) for old in earlier):
                if was and _cost(was) is not None and _cost(was) == _cost(runs[run]):
                    yield Finding(
                        "result",
                        path,
                        f"run {run} of {when}: expected to have taken another time and memory than "
                        f"that of {was.get('started')}, found {_cost(was)}: the same run, dated "
                        "anew",
                        digest([run, when, was]),
                    )
                    break
        for old in reversed(earlier):
            for run, when in sorted(started(new) & started(old)):
                before, after = contents.records_of(old, run), contents.records_of(new, run)
                if before is not None and before != after:
                    found = _examples({"records": before}, {"records": after})
                    yield Finding(
                        "result",
                        path,
                        f"records of run {run}: expected as committed before, for the run is the "
                        f"one of {when}; found {found}",
                        digest([run, before, after]),
                    )
            return

    def setups(self) -> Iterator[Finding]:
        """Experiments and notebooks that changed since the result was brought."""
        for path in self.history.now:
            result = (
                self.reader.parse(self.now, path) if path.startswith(contents.RESULTS) else None
            )
            if not isinstance(result, dict):
                continue
            now = contents.setup(self.reader, self.now, result)
            for name in self.brought(path.removeprefix(contents.RESULTS).removesuffix(".json")):
                then = contents.setup(self.reader, self.history.commits[name], result)
                if then != now:
                    yield Finding(
                        "setup",
                        path,
                        f"{_differing(then, now)} of the experiment changed since commit "
                        f"{name[:10]}, which brought the result ({contents.EXPERIMENTS}, "
                        f"notebooks/{now['notebook']})",
                        digest([then, now]),
                    )

    def gone(self) -> Iterator[Finding]:
        for path in self.history.paths(contents.RESULTS):
            if path not in self.history.now:
                states = [digest(self.history.versions(path))]
                yield Finding("gone", path, "expected the committed result, found none", states[0])
        now, seen = self.reader.claims(self.now), set()
        for commit in self.history.commits.values():
            claims = self.reader.claims(commit)
            for parent in map(self.history.commits.get, commit.parents):
                before = self.reader.claims(parent)
                for claim in before.keys() - claims.keys() - now.keys() - seen:
                    had = before[claim].content.get("experiments") or ()
                    paths = {f"{contents.RESULTS}{name}.json" for name in had}
                    # what is asked of the print alone is judged as soon as it is asked
                    if not had or paths & (parent.files.keys() | commit.files.keys()):
                        seen.add(claim)
                        yield Finding(
                            "gone",
                            f"{before[claim].path}: claim {claim}",
                            "expected the claim, for it has been judged; found it removed",
                            digest(before[claim].judged),
                        )

    def marks(self) -> Iterator[Finding]:
        """Claims that are marked as not the paper's own, and then no more."""
        for path in self.history.now:
            if contents.lies_in(path, contents.CLAIMS) and path.endswith(".yaml"):
                versions = [self.reader.content(b, ".yaml") for b in self.history.versions(path)]
                marks = [content.get("mark") for content in versions if isinstance(content, dict)]
                now = (self.reader.parse(self.now, path) or {}).get("mark")
                for mark in {mark for mark in marks if mark} - {now}:
                    message = f"expected the mark {mark!r} as committed before, found {now!r}"
                    yield Finding("mark", path, message, digest([mark, now]))

    # what papers print, and what was judged

    def printed(self) -> Iterator[Finding]:
        for path in self.history.paths(contents.PRINTED):
            now = self.reader.parse(self.now, path) or []
            lost: dict[str, dict] = {}
            for blob in self.history.versions(path):
                for row in self.reader.content(blob, ".csv") or ():
                    if not any(row.items() <= other.items() for other in now):
                        lost[digest(row)] = row
            for state, row in lost.items():
                cells = ", ".join(str(cell) for cell in row.values())
                yield Finding(
                    "printed", path, f"expected the printed row {cells}, found it no more", state
                )

    def verdicts(self) -> Iterator[Finding]:
        """Verdicts that changed although neither claim nor result did: another judge."""
        for name, parents in self.history.steps(contents.VERDICTS):
            new = self._rows(name)
            changed = []
            for claim, row in new.items():
                olds = [self._rows(parent).get(claim) for parent in parents]
                if all(
                    self._moved(claim, old, row, name, p)
                    for old, p in zip(olds, parents, strict=True)
                ):
                    changed.append(claim)
            if changed:
                rows = {c: [[self._rows(p).get(c) for p in parents], new[c]] for c in changed}
                more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
                yield Finding(
                    "judge",
                    contents.VERDICTS,
                    f"the verdicts on {', '.join(changed[:4])}{more} changed in "
                    f"{name if name == NOW else f'commit {name[:10]}'}, although claim and result "
                    "did not",
                    digest(rows),
                )

    def _rows(self, name: str) -> dict[str, dict]:
        return self._rows_of(self.history.commits[name])

    def _rows_of(self, commit: Commit) -> dict[str, dict]:
        blob = commit.files.get(contents.VERDICTS)
        if blob not in self._verdicts:
            rows = self.reader.parse(commit, contents.VERDICTS)
            rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
            self._verdicts[blob] = {str(row["claim"]): row for row in rows if "claim" in row}
        return self._verdicts[blob]

    def _moved(self, claim: str, old: dict | None, new: dict, name: str, parent: str) -> bool:
        """Whether a verdict differs from a parent's, which was written on the same grounds."""
        if old is None:
            return False
        differing = {key for key in old.keys() & new.keys() if not same(old[key], new[key])}
        if not differing or (differing == {"holm"} and self._family(claim, name, parent)):
            return False
        experiments = {row.get("experiment") for row in (old, new)}
        grounds = self._grounds(name, claim, experiments)
        if grounds != self._grounds(parent, claim, experiments):
            return False
        # a verdict may be written some commits after its result
        written = self.history.origins(
            lambda commit: self._rows_of(commit).get(claim) == old, parent
        )
        return all(self._grounds(commit, claim, experiments) == grounds for commit in written)

    def _family(self, claim: str, name: str, parent: str) -> bool:
        """Whether tests beside a claim's changed, which Holm's correction of it rests on, too."""
        paper, _, _ = claim.partition(".")
        new, old = (
            {c: row.get("p") for c, row in self._rows(of).items() if c.startswith(f"{paper}.")}
            for of in (name, parent)
        )
        return new != old

    def _grounds(self, name: str, claim: str, experiments: set) -> list:
        """What a verdict rests on: the claim, and results."""
        commit = self.history.commits[name]
        results = [self.reader.result(commit, experiment) for experiment in sorted(experiments)]
        return [self._judged(name, claim), *(measured(result or {}) for result in results)]


def _cost(run: Mapping[str, Any]) -> tuple | None:
    """What no second run takes again to the last digit: seconds, and memory."""
    seconds = run.get("wall_seconds")
    return None if seconds is None else (seconds, run.get("peak_memory_mb"))


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    return ", ".join(sorted(key for key in {*a, *b} if a.get(key) != b.get(key)))


def _examples(old: Mapping[str, Any], new: Mapping[str, Any], count: int = 2) -> str:
    """The first records that changed, or the size of the change."""
    before = [json.dumps(r, sort_keys=True) for r in old.get("records") or ()]
    after = [json.dumps(r, sort_keys=True) for r in new.get("records") or ()]
    known = set(before)
    changed = [record for record in after if record not in known]
    if changed:
        return f"{len(changed)} other records, for example " + "; ".join(changed[:count])
    return f"{len(after)} records where {len(before)} were"

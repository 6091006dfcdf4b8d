"""What an audit finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes
    ----------
    kind : str
        What was looked at, in a word.
    subject : str
        The file and, where there is one, the claim.
    message : str
        What was expected and what was found.
    state : str or None
        The digest of what was found: a finding that is accepted is accepted in this state only.
        None where nothing can be accepted, for ``mtlbook audit --write`` mends it.
    """

    kind: str
    subject: str
    message: str
    state: str | None = None

    @property
    def name(self) -> str:
        """What an acceptance calls it."""
        return f"{self.kind}: {self.subject}"

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}"

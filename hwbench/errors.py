"""The exceptions that cross rooms. Each carries one line a user can act on."""

from __future__ import annotations


class RequestError(Exception):
    """The request is wrong: exit code 2, one line saying what, where and what to do.

    Args:
        what: what is wrong.
        where: file, line and key, or the path concerned.
        hint: what to do about it.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(self.line())

    def line(self) -> str:
        """The one line that is printed."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text} Hint: {self.hint}" if self.hint else text
        return " ".join(text.split())


class Unsupported(Exception):
    """A capability is absent. The reason goes into the table; it is a result, not a failure."""

    def __init__(self, reason: str) -> None:
        self.reason = " ".join(reason.split())
        super().__init__(self.reason)

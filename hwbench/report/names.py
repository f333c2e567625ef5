"""Names from models and specs, made fit to be shown: whatever else they hold stays theirs."""

_ELLIPSIS = "…"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def printable(value: str) -> str:
    """One line without control characters, which neither XML nor a reader can take."""
    spaced = " ".join(value.split())
    return "".join(each if each.isprintable() else _REPLACEMENT for each in spaced)


def shortened(value: str, length: int) -> str:
    """At most ``length`` characters: both ends of a name tell more than its middle."""
    name = printable(value)
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return name[:head] + _ELLIPSIS + name[len(name) - (length - 1 - head) :]

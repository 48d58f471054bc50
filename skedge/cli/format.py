"""Values as an operator reads them in a table: times, costs, reasons. Nothing here is printed unescaped."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from skedge.core.reasons import Reason

NOTHING = "-"
_SENTENCES = {reason.word: reason.sentence for reason in Reason}


def clean(text: str) -> str:
    """Return the text on one line, with everything that a terminal would obey escaped; names come from other sites."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text) or NOTHING


def span(seconds: float | None) -> str:
    """Return a duration with its two largest units: ``850ms``, ``12s``, ``3m12s``, ``2h05m``, ``3d04h``."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def cost(perceived: str) -> str:
    """Return an exact fraction ``num/den`` readable: ``13``, or ``12.25 (49/4)``; other text as it is."""
    top, _, bottom = perceived.partition("/")
    if not (top.isdecimal() and bottom.isdecimal() and int(bottom)):
        return clean(perceived)
    if int(top) % int(bottom) == 0:
        return str(int(top) // int(bottom))
    return f"{int(top) / int(bottom):.2f} ({perceived})"


def measured_cost(cost: int, parts: Mapping[str, int]) -> str:
    """Return a link's cost, and what it is made of where it is measured: base, round trip, loss."""
    return f"{cost} ({parts['base']}+{parts['rtt']}+{parts['loss']})" if parts else str(cost)


def number(value: float | None, unit: str = "", digits: int = 0) -> str:
    """Return a number with its unit, or ``-`` where it is not known."""
    return NOTHING if value is None else f"{value:.{digits}f}{unit}"


def yes(value: bool) -> str:
    """Return yes or no."""
    return "yes" if value else "no"


def reason(word: str) -> str:
    """Return a reason with its sentence, ``-`` for none."""
    if word in ("", Reason.NONE.word):
        return NOTHING
    return f"{clean(word)}: {_SENTENCES[word]}" if word in _SENTENCES else clean(word)


def listing(values: tuple[str, ...]) -> str:
    """Return the values separated by a comma and a space."""
    return ", ".join(clean(value) for value in values) or NOTHING


def endpoint(text: str) -> str:
    """Return ``IP:PORT`` in its canonical form, IPv6 in brackets. Raises ValueError with the sentence."""
    host, _, port = text.rpartition(":")
    way_out = "give IP:PORT, such as 10.0.0.7:41234 or [fd00::7]:41234"
    if not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{clean(text)} has no port from 1 to 65535; {way_out}")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"{clean(text)} has no IP address; {way_out}") from None
    if bracketed != (address.version == 6):
        raise ValueError(f"{clean(text)} is ambiguous; {way_out}")
    return f"[{address}]:{int(port)}" if bracketed else f"{address}:{int(port)}"

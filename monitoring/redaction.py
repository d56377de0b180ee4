"""Passwords are cut out of whatever is written into a log."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import parse_qs, quote, unquote, unquote_plus, urlsplit

HIDDEN = "***"
# Up to the last @: passwords that nobody encoded may hold one, too. The word "password" is how messages show what a URL looks like.
_IN_URL = re.compile(r"(://[^\s:/@'\"]*):(?!password@[^\s@]*(?:\s|$))\S*@")
_IN_QUERY = re.compile(r"([?&]password=)[^\s&'\"]*", re.IGNORECASE)
_SHORT = 6  # characters; a password shorter than that is likely to be a part of innocent words


class Redaction:
    """Replaces passwords in text: those in any URL, and those of the given URLs wherever and however they are written."""

    def __init__(self, *urls: str | None) -> None:
        forms = {form for url in urls if url for password in _passwords(url) for form in _forms(password)}
        longest_first = sorted(forms - {""}, key=lambda form: (-len(form), form))
        self._known = re.compile("|".join(map(_pattern, longest_first)), re.IGNORECASE) if longest_first else None

    def __call__(self, text: str) -> str:
        """Return the text without passwords."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_URL.sub(rf"\1:{HIDDEN}@", text))

    def plain(self, value: object) -> object:
        """Return a value as JSON knows it, without passwords; a number that JSON has no way to write as text."""
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if abs(value) < float("inf") else str(value)
        if isinstance(value, Mapping):
            return {self(str(name)): self.plain(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(one) for one in value]
        if isinstance(value, BaseException):
            return self(f"{type(value).__name__}: {value}")
        return self(value if isinstance(value, str) else repr(value))


def _passwords(url: str) -> Iterator[str]:
    """Yield what may be the password of a URL, as it stands there: some are no URLs, because nobody encoded the password."""
    user, at, _ = url.partition("://")[2].rpartition("@")
    if at:
        yield user.partition(":")[2]
    with suppress(ValueError):
        parts = urlsplit(url)
        yield parts.password or ""
        yield from parse_qs(parts.query).get("password", [])


def _forms(password: str) -> set[str]:
    """Return the ways in which a password may stand in a text."""
    plain = {password, unquote(password), unquote_plus(password)}
    forms = {*plain, *(" ".join(one.split()) for one in plain)}
    for one in plain:
        forms |= {quote(one), quote(one, safe=""), repr(one)[1:-1], ascii(one)[1:-1], json.dumps(one)[1:-1]}
        forms.add(repr(one.encode(errors="surrogateescape"))[2:-1])
        forms |= {written.replace("'", "\\'") for written in (repr(one)[1:-1], ascii(one)[1:-1])}  # where the text has both quotes
    return forms


def _pattern(password: str) -> str:
    found = re.escape(password)
    return found if len(password) >= _SHORT else rf"(?<![A-Za-z0-9]){found}(?![A-Za-z0-9])"

"""The codec `idna` of the single executable, in place of the standard library's.

`socket.getaddrinfo` looks it up for every host name. The real one brings a megabyte of Unicode
tables; this one knows names that are ASCII already.
"""

from __future__ import annotations

import codecs


def encode(text: str, errors: str = "strict") -> tuple[bytes, int]:
    """Return the host name as it is; UnicodeEncodeError if it is not ASCII."""
    return text.encode("ascii", errors), len(text)


def decode(data: bytes, errors: str = "strict") -> tuple[str, int]:
    """Return the host name as it is; UnicodeDecodeError if it is not ASCII."""
    return bytes(data).decode("ascii", errors), len(data)


def getregentry() -> codecs.CodecInfo:
    """Return what `encodings` looks for."""
    return codecs.CodecInfo(encode, decode, name="idna")

"""Text from outside (file names, comms, arguments) as it may be shown."""


def printable(text: str, limit: int | None = None) -> str:
    """`text` on one line, harmless to a terminal: controls as \\xNN, and no more than `limit` characters of it."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(one if one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8 (PEP 383)
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"

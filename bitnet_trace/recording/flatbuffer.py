"""The one thing that pyarrow does not tell of a message before it has decompressed it: whether it is compressed.

A compressed batch may be a thousand times larger than its file. The writer compresses nothing, so nothing that is
compressed is read. Layouts: flatbuffers' "Internals"; Arrow's format/Message.fbs.
"""

import struct

# Arrow: Message.header and RecordBatch.compression, as numbers of fields
_HEADER, _COMPRESSION = 2, 3


def is_compressed(metadata: memoryview) -> bool:
    """Whether the record batch of a message (its flatbuffer, without the length before it) has a compressed body.

    Raises ValueError where it is no such thing.
    """
    try:
        header = _field(metadata, _reference(metadata, 0), _HEADER)
        if header is None:
            raise ValueError("a message without a header")
        return _field(metadata, _reference(metadata, header), _COMPRESSION) is not None
    except struct.error as error:
        raise ValueError(str(error)) from None


def has_header(metadata: memoryview) -> bool:
    """Whether a message (its flatbuffer) has what its type says. Raises ValueError where it is no such thing."""
    try:
        return _field(metadata, _reference(metadata, 0), _HEADER) is not None
    except struct.error as error:
        raise ValueError(str(error)) from None


def _reference(data: memoryview, at: int) -> int:
    """Where an offset that lies at `at` points to."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Where that field of a table lies; None when the table has none."""
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    if vtable < 0:
        raise ValueError("a table without a layout")
    entry = 4 + 2 * number
    if entry + 2 > struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + int(offset) if offset else None

"""The struct taskstats of a kernel, as bytes."""

from bitnet_trace.capture.taskstats_layout import layout


def payload(version=16, **values):
    """Members that are not given are 0; `version` is the struct's."""
    record = bytearray(layout(version).itemsize)
    for name, value in {"version": version, **values}.items():
        kind, offset = layout(version).fields[name][:2]
        data = value if isinstance(value, bytes) else int(value).to_bytes(kind.itemsize, "little")
        record[offset : offset + len(data)] = data
    return bytes(record)

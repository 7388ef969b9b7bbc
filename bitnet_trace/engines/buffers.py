"""The sizes of its buffers that an engine prints when it allocates them."""

import re

# llama.cpp and its forks since 2024: `llama_kv_cache_init:        CPU KV buffer size =    16.00 MiB`
_LINE = re.compile(r"\b(?P<what>KV|RS|compute|output|model)? *buffer size *= *(?P<mib>[0-9]{1,9}\.[0-9]{1,4}) MiB")
_NAMES = {"KV": "KV cache", "RS": "state cache", "compute": "compute buffer", "output": "output buffer"}
_WEIGHTS = "weights buffer"  # `CPU buffer size` or `CPU model buffer size`
_MAX_BUFFERS = 1000


def parse_buffers(text: str) -> list[tuple[str, int]]:
    """(what it is for, bytes to a hundredth of a MiB) of each buffer that a program's output tells of."""
    lines = _LINE.finditer(text)
    found = [(_NAMES.get(line["what"], _WEIGHTS), round(float(line["mib"]) * (1 << 20))) for line in lines]
    return list(dict.fromkeys(found))[:_MAX_BUFFERS]

"""Functions without names, recognised by their machine code: the tables [[code]] of probes/*.toml."""

import functools
from collections.abc import Iterable

from bitnet_trace.engines import code
from bitnet_trace.engines.elf import Elf
from bitnet_trace.engines.probes import CodeShape, load_probe_sets

_MAX_BYTES = 1 << 15  # a kernel is smaller; larger ones have a bit of everything


@functools.cache
def known_shapes() -> tuple[CodeShape, ...]:
    """All of them. Raises TraceError where a file of probes/ is wrong."""
    return tuple(shape for one in load_probe_sets() for shape in one.shapes)


def shape_of(elf: Elf, begin: int, end: int, shapes: Iterable[CodeShape] | None = None) -> str | None:
    """What the code of a function looks like, by the first shape that it has; None: by none of them."""
    if end - begin > _MAX_BYTES:
        return None
    listing = "\n".join(str(instruction) for instruction in code.instructions(elf, begin, end - begin))
    for shape in known_shapes() if shapes is None else shapes:
        if all(one.search(listing) for one in shape.has) and not any(one.search(listing) for one in shape.lacks):
            return shape.name
    return None

"""What a sampled function is for, by its demangled name and its file: the tables [[function]] of probes/*.toml."""

import fnmatch
import functools
import re
from collections.abc import Iterable

from bitnet_trace.engines.names import plain
from bitnet_trace.engines.probes import FunctionRole, load_probe_sets

_UNNAMED = "[[]*[]]"  # the pattern of what has no name
_PLACE = re.compile(r"\[(.+?)(\+0x[0-9a-f]+)?(, (.+))?\]")


@functools.cache
def known_roles() -> tuple[FunctionRole, ...]:
    """All of them. Raises TraceError where a file of probes/ is wrong."""
    return tuple(role for one in load_probe_sets() for role in one.functions)


def role_of(
    function: str, module: str | None = None, roles: Iterable[FunctionRole] | None = None
) -> FunctionRole | None:
    """The role whose longest pattern fits the name; else one for its file as a whole; None: nothing is known of it.

    Parameters, template arguments, clones (`.part.0`) and `(anonymous namespace)` are left out of the name first. Of a
    place without a name (`[libomp.so.5+0x5f3d0]`) the file is the name, or what it was recognised as.
    """
    chosen = known_roles() if roles is None else tuple(roles)
    unnamed = _PLACE.fullmatch(function)
    name = (unnamed[4] or unnamed[1]) if unnamed else plain(function)
    fitting = (
        [
            (len(pattern.replace("*", "")), role)
            for role in chosen
            for pattern in role.names
            if name.startswith(_literal(pattern)) and fnmatch.fnmatchcase(name, pattern)
        ]
        if _any_name(chosen).match(name)
        else []
    )
    if fitting:
        return max(fitting, key=lambda one: one[0])[1]
    file = (module or "").rpartition("/")[2]
    of_file = [role for role in chosen if file and any(fnmatch.fnmatchcase(file, one) for one in role.files)]
    if unnamed and not of_file:
        return next((role for role in chosen if _UNNAMED in role.names), None)
    return next(iter(of_file), None)


@functools.lru_cache(maxsize=4096)
def _literal(pattern: str) -> str:
    """What a pattern begins with: looked at first, for a pattern is compiled when it is first used."""
    return re.split(r"[*?[]", pattern, maxsplit=1)[0]


@functools.lru_cache(maxsize=16)
def _any_name(roles: tuple[FunctionRole, ...]) -> re.Pattern[str]:
    """Whether any pattern fits: most names fit none, and one expression is faster than hundreds."""
    return re.compile("|".join(fnmatch.translate(pattern) for role in roles for pattern in role.names) or "(?!)")

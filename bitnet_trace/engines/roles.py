"""What a sampled function is for, by its demangled name: the tables [[function]] of probes/*.toml."""

import fnmatch
import functools
import re
from collections.abc import Iterable

from bitnet_trace.engines.probes import FunctionRole, load_probe_sets

_CLONE = re.compile(r"\.(cold|part|isra|constprop|lto_priv|llvm|_omp_fn|omp_outlined|\d).*$")


@functools.cache
def known_roles() -> tuple[FunctionRole, ...]:
    """All of them. Raises TraceError where a file of probes/ is wrong."""
    return tuple(role for one in load_probe_sets() for role in one.functions)


def role_of(function: str, roles: Iterable[FunctionRole] | None = None) -> FunctionRole | None:
    """The role whose longest pattern fits the name; None: nothing is known of it.

    Parameters, template arguments, clones (`.part.0`) and `(anonymous namespace)` are left out of the name first.
    """
    name = plain(function)
    fitting = [
        (len(pattern.replace("*", "")), role)
        for role in (known_roles() if roles is None else roles)
        for pattern in role.names
        if fnmatch.fnmatchcase(name, pattern)
    ]
    return max(fitting, key=lambda one: one[0])[1] if fitting else None


@functools.lru_cache(maxsize=8192)
def plain(function: str) -> str:
    """`a::f<int>(int) [clone .part.0]` to `a::f`."""
    name = function.replace("(anonymous namespace)::", "")
    kept, depth = [], 0
    for character in name:
        if character == "(" and not depth:
            break
        depth += character == "<"
        if not depth:
            kept.append(character)
        depth -= character == ">"
    return _CLONE.sub("", "".join(kept).strip())

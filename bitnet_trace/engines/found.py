"""What the files of one program show together: which engine it is, and which roles none of them has."""

from collections.abc import Collection, Iterable
from typing import Protocol


class Found(Protocol):
    """What was found in one file: its engine or None, the roles that are probed, (role, reason) for the others."""

    @property
    def engine(self) -> str | None: ...

    @property
    def roles(self) -> Collection[str]: ...

    @property
    def missing(self) -> Collection[tuple[str, str]]: ...


def engine_of(files: Iterable[Found]) -> str | None:
    """A fork that one of the files shows, else llama.cpp, else None."""
    engines = {found.engine for found in files if found.engine}
    forks = sorted(engines - {"llama.cpp"})
    return forks[0] if forks else next(iter(engines), None)


def missing_roles(files: Iterable[Found]) -> list[tuple[str, str]]:
    """(role, reason) for the roles that none of a program's files has a probe for, each once.

    The reason is that of the file with most roles: the engine's library says more than the program that imports it.
    """
    files = sorted(files, key=lambda found: -len(found.roles))
    probed = {role for found in files for role in found.roles}
    reasons: dict[str, str] = {}
    for found in files:
        for role, reason in found.missing:
            if role not in probed:
                reasons.setdefault(role, reason)
    return list(reasons.items())

"""What an experiment is: a TOML file, read and checked whole before anything runs."""

import hashlib
import json
import shlex
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bitnet_trace.errors import TraceError
from bitnet_trace.experiment.factors import PREFIXES, Level, Machine, factor
from bitnet_trace.experiment.figures import FIGURES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

READY = Path(__file__).parent / "specs"
_MAX_BYTES = 1 << 20
_KEYS = {
    "name", "title", "command", "headline", "also", "factors", "baseline", "measure", "exclude", "demo", "binaries",
}  # fmt: skip
_NAME_LIMIT = 100


@dataclass(frozen=True)
class Measure:
    """How it is measured. `repeats`: untraced runs of each cell; `traced`: traced ones; `budget_s`: nothing
    is begun that would not end in that time (two untraced blocks always are); `expected_s`: of a run, for plans.
    """

    repeats: int = 5
    traced: int = 3
    warm_up: int = 1
    cool_down_s: float = 0.0
    order: str = "random"
    seed: int = 1
    timeout_s: float = 600.0
    budget_s: float | None = None
    expected_s: float | None = None


@dataclass(frozen=True)
class Spec:
    """A checked one. `factors`: name and levels; `baseline`: the label of one level of each; `headline`: the figure
    that the verdict is of, `also`: others that are judged; `demo`: what the demo's program is told besides;
    `binaries`: at least so many levels of the factor `binary` are to be named in the command line."""

    name: str
    title: str
    command: tuple[str, ...] | None
    factors: tuple[tuple[str, tuple[Level, ...]], ...]
    baseline: dict[str, str]
    headline: str = "decode_tokens_per_s"
    also: tuple[str, ...] = ()
    measure: Measure = field(default_factory=Measure)
    exclude: tuple[dict[str, str], ...] = ()
    demo: dict[str, Any] = field(default_factory=dict)
    binaries: int = 0

    def digest(self) -> str:
        """The same for experiments whose results belong together: not of how often it is repeated."""
        value = [self.command, [(name, [(one.label, one.value) for one in levels]) for name, levels in self.factors]]
        text = json.dumps([value, self.baseline, self.exclude, self.measure.seed, self.measure.order], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def ready_names() -> list[str]:
    """The specs that come with the program."""
    return sorted(path.stem for path in READY.glob("*.toml"))


def load(name: str, machine: Machine) -> Spec:
    """The spec of that file, or the ready one of that name. Raises TraceError."""
    path = READY / f"{name}.toml" if name in ready_names() else Path(name)
    try:
        table = tomllib.loads(_content(path, name).decode())
    except UnicodeDecodeError:
        raise TraceError(f"{name} is no text", "a spec is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise TraceError(f"{name}: {error}", "a spec is a TOML file") from None
    except RecursionError:
        raise TraceError(f"{name}: lists within lists within lists", "a spec is a TOML file") from None
    return read(table, path.stem, machine)


def _content(path: Path, name: str) -> bytes:
    """Of a file, that is: a pipe would keep us waiting, /dev/zero has no end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TraceError(f"{name} is not a file", "name a TOML file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise TraceError(
            f"there is no spec {name}", f"name a TOML file, or one of: {', '.join(ready_names())}"
        ) from None
    except ValueError:
        raise TraceError(f"there is no spec {name!r}", "name a TOML file") from None
    if len(content) > _MAX_BYTES:
        raise TraceError(f"{name} is larger than a spec can be", "name a TOML file")
    return content


def read(table: Mapping[str, Any], name: str, machine: Machine) -> Spec:
    """The spec of a parsed file. Raises TraceError with what is wrong first."""
    _check_keys(table, _KEYS, "the spec")
    factors = tuple(_factors(table.get("factors"), machine))
    if not factors:
        raise TraceError(
            "the spec has no factors: nothing would be compared", 'add [factors] policy = ["other", "batch"]'
        )
    headline, also = table.get("headline", "decode_tokens_per_s"), table.get("also", [])
    if not isinstance(also, list):
        raise TraceError(f"also = {also!r} is no list", 'also = ["wall_ns"]')
    for one in (headline, *also):
        if not isinstance(one, str) or one not in FIGURES:
            raise TraceError(f"{one!r} is no figure", f"figures: {', '.join(FIGURES)}")
    labels = {factor_name: [level.label for level in levels] for factor_name, levels in factors}
    return Spec(
        name=_name(table, name),
        title=_text(table, "title", ""),
        command=_command(table.get("command")),
        factors=factors,
        baseline={
            **{one: own[0] for one, own in labels.items()},
            **_chosen(table.get("baseline", {}), labels, "baseline"),
        },
        headline=headline,
        also=tuple(also),
        measure=_measure(table.get("measure", {})),
        exclude=tuple(_chosen(one, labels, "exclude") for one in _tables(table.get("exclude", []))),
        demo=_demo(table.get("demo", {})),
        binaries=_integer("binaries", table.get("binaries", 0), 0, 100),
    )


def with_command(spec: Spec, command: Sequence[str]) -> Spec:
    """The spec, over another command."""
    return replace(spec, command=tuple(command))


def _factors(table: Any, machine: Machine) -> "list[tuple[str, tuple[Level, ...]]]":
    if table is None:
        return []
    if not isinstance(table, dict):
        raise TraceError("[factors] is no table", 'write [factors] and below it policy = ["other", "fifo:80"]')
    found = []
    for name, levels in table.items():
        if name in PREFIXES and isinstance(levels, dict):
            found += [_factor(f"{name}.{rest}", own, machine) for rest, own in levels.items()]
        else:
            found.append(_factor(name, levels, machine))
    return found


def _factor(name: str, raw: Any, machine: Machine) -> tuple[str, tuple[Level, ...]]:
    kind = factor(name)
    pairs = (
        list(raw.items()) if isinstance(raw, dict) else [(None, one) for one in raw] if isinstance(raw, list) else None
    )
    if pairs is None:
        raise TraceError(f"the levels of {name} are no list", f"write {name} = [{json.dumps(raw, default=str)}]")
    if not pairs:
        raise TraceError(f"factor {name} has no levels: the matrix is empty", f"levels: {kind.help}")
    levels = tuple(kind.level(label, value, machine) for label, value in pairs)
    labels = [level.label for level in levels]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise TraceError(f"factor {name} has the level {twice!r} twice", "name it once; repeats are in [measure]")
    return name, levels


def _chosen(table: Any, labels: Mapping[str, Sequence[str]], what: str) -> dict[str, str]:
    if not isinstance(table, dict):
        heading = "[[exclude]]" if what == "exclude" else f"[{what}]"
        raise TraceError(f"{what} is no table", f'write {heading} and below it policy = "other"')
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat.update(
            {f"{name}.{rest}": one for rest, one in value.items()} if isinstance(value, dict) else {name: value}
        )
    chosen = {}
    for name, value in flat.items():
        if name not in labels:
            raise TraceError(f"{what} names {name!r}, which is no factor of this spec", f"factors: {', '.join(labels)}")
        label = str(value).lower() if isinstance(value, bool) else str(value)
        if label not in labels[name]:
            raise TraceError(f"{what}: {name} has no level {label!r}", f"levels: {', '.join(labels[name])}")
        chosen[name] = label
    return chosen


def _tables(raw: Any) -> list[Any]:
    if not isinstance(raw, list):
        raise TraceError("exclude is no list of tables", "write [[exclude]]")
    return raw


def _command(raw: Any) -> tuple[str, ...] | None:
    if raw is None:
        return None
    try:
        words = shlex.split(raw) if isinstance(raw, str) else raw
    except ValueError as error:
        raise TraceError(f"command: {error}", "write it as a list of words") from None
    if not isinstance(words, list) or not words or not all(isinstance(one, str) and "\0" not in one for one in words):
        raise TraceError(
            "command is no list of words", 'command = ["llama-cli", "-m", "model.gguf", "-t", "{threads}"]'
        )
    return tuple(words)


# key of [measure]: (type, least, most)
_LIMITS: dict[str, tuple[type, float, float]] = {
    "repeats": (int, 2, 10_000),
    "traced": (int, 0, 1000),
    "warm_up": (int, 0, 100),
    "cool_down_s": (float, 0, 3600),
    "seed": (int, 0, 2**63),
    "timeout_s": (float, 1, 86_400),
    "budget_s": (float, 1, 10_000_000),
    "expected_s": (float, 0, 86_400),
}


def _measure(raw: Any) -> Measure:
    if not isinstance(raw, dict):
        raise TraceError("measure is no table", "write [measure] and below it repeats = 5")
    _check_keys(raw, {*_LIMITS, "order"}, "[measure]")
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "order":
            if value not in ("random", "listed"):
                raise TraceError(f"order = {value!r}", "random (in blocks) or listed")
            values[key] = value
            continue
        kind, least, most = _LIMITS[key]
        if kind is int:
            values[key] = _integer(key, value, int(least), int(most))
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise TraceError(f"{key} = {value!r} is not between {least:g} and {most:g}", "write a number")
        values[key] = float(value)
    return Measure(**values)


def _demo(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise TraceError("demo is no table", "write [demo] and below it tokens = 32")
    _check_keys(raw, {"tokens", "arguments", "refused"}, "[demo]")
    words = raw.get("arguments", [])
    if not isinstance(words, list) or not all(isinstance(one, str) for one in words):
        raise TraceError(f"arguments = {words!r} is no list of words", 'arguments = ["--no-mmap"]')
    _integer("tokens", raw.get("tokens", 1), 1, 100_000)
    return dict(raw)


def _integer(key: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise TraceError(f"{key} = {value!r} is not between {least:g} and {most:g}", "write a whole number")
    return value


def _name(table: Mapping[str, Any], default: str) -> str:
    """The folder of results is named after it."""
    name = _text(table, "name", default)
    if not name.isprintable() or "/" in name or not 0 < len(name) <= _NAME_LIMIT:
        raise TraceError(f"name = {name!r} cannot be part of a file's name", "a word or two")
    return name


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise TraceError(f"{where} has an unknown key {unknown[0]!r}", f"known: {', '.join(sorted(known))}")


def _text(table: Mapping[str, Any], key: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise TraceError(f"{key} = {value!r} is no text", f'{key} = "..."')
    return value

"""Function names: which symbols a pattern of probes/*.toml means.

A pattern is a C name (`llama_decode`), a qualified C++ name (`llama_context::decode`) or one with its parameter list
(`llama_context::decode(llama_batch_ext const&)`); `*` stands for any run of characters. It means functions whose
whole name it is: no lambda inside of the function, and no compiler's clone (`.cold`, `.part.0`, `.isra.0`), whose
arguments are not the function's, unless the pattern names the clone (`ggml_graph_compute_thread.isra.0`). Template
arguments and the return type that templates carry are left out unless the pattern has template arguments.
"""

import fnmatch
import functools
import re
from dataclasses import dataclass
from typing import Any

import cxxfilt  # type: ignore[import-untyped]
import itanium_demangler  # type: ignore[import-untyped]

_ANONYMOUS = "(anonymous namespace)"
_CLONE = re.compile(
    r"\.(cold|part|isra|constprop|lto_priv|llvm|_omp_fn|omp_outlined|resolver|ifunc|default|arch_|avx|sse|fma|bmi|\d).*$"
)
_BRACKETS_IN_OPERATORS = re.compile(r"\boperator *(\(\)|<<=?|>>=?|<=>|->\*?|[<>]=?)")
_INNERMOST_BRACKETS = re.compile(r"<[^<>()]*>|\([^<>()]*\)")
_AFTER_PARAMETERS = re.compile(r"( const| volatile| &&?|\[clone [^]]*\]?| )+$")
# Past this length names are generated (expression templates); the parser's cost grows with the square of it.
_MAX_MANGLED = 2048


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A symbol taken apart. `parameters` is None for C functions, "()" with the parentheses for C++ ones."""

    plain: str
    templated: str
    parameters: str | None
    clone: str

    def __str__(self) -> str:
        return self.templated + (self.parameters or "") + self.clone


@functools.lru_cache(maxsize=4096)
def parse_symbol(symbol: str) -> FunctionName | None:
    """The parts of a symbol's name; None for what is no plain function (lambdas, thunks, unknown manglings)."""
    symbol = symbol.split("@")[0]
    if not symbol.startswith("_Z"):
        name, dot, clone = symbol.partition(".")
        return FunctionName(name, name, None, dot + clone)
    mangled, dot, clone = symbol.partition(".")
    if len(mangled) > _MAX_MANGLED:
        return None
    try:
        node = itanium_demangler.parse(mangled)
        if node is None or node.kind != "func" or node.name is None:
            return None
        function = node.name.value if node.name.kind == "cv_qual" else node.name
        parameters = "(" + ", ".join(str(kind) for kind in node.arg_tys if str(kind) != "void") + ")"
        return FunctionName(_without_templates(function), _scoped(str(function)), _scoped(parameters), dot + clone)
    except Exception:
        # The parser has no error type of its own: malformed and unsupported names end in any built-in exception.
        return None


def pretty(symbol: str) -> str:
    """A symbol's name for people: demangled where that is possible."""
    name = parse_symbol(symbol)
    return symbol if name is None else str(name)


def readable(symbol: str) -> str:
    """A symbol's name as the C++ library has it, which knows lambdas and local names too; no return type.

    Clones keep their suffix: `f(int).part.0`.
    """
    if not symbol.startswith("_Z"):
        return symbol
    mangled, dot, clone = symbol.partition(".")
    try:
        demangled = str(cxxfilt.demangle(mangled)) if len(mangled) <= _MAX_MANGLED else mangled
    except cxxfilt.Error:
        return symbol
    return without_return_type(demangled) + dot + clone


def without_return_type(name: str) -> str:
    """`int f<3>(int)` to `f<3>(int)`: templates carry it, no others do."""
    if " " not in name.replace(_ANONYMOUS, "", 1).partition("(")[0]:
        return name
    text, depth, cut = name.replace(_ANONYMOUS, "_" * len(_ANONYMOUS)), 0, 0
    for at, character in enumerate(text):
        if not depth and (character == "(" or text.startswith("operator", at)):
            break
        depth += (character == "<") - (character == ">")
        if character == " " and not depth:
            cut = at + 1
    return name[cut:]


@functools.lru_cache(maxsize=8192)
def plain(function: str) -> str:
    """`int a::f<int>(int) [clone .part.0]` to `a::f`; of a lambda `f(int)::{lambda(int)#1}` it is `f::{lambda#1}`."""
    name, n_left = function.replace(_ANONYMOUS + "::", ""), 1
    if "operator" in name:
        name = _BRACKETS_IN_OPERATORS.sub("operator", name)
    while n_left:
        name, n_left = _INNERMOST_BRACKETS.subn("", name)
    return _AFTER_PARAMETERS.sub("", _CLONE.sub("", name)).rpartition(" ")[2]


def matches(pattern: str, symbol: str) -> bool:
    """Whether a symbol is a function that the pattern means."""
    if not all(part in symbol for part in _literal_parts(pattern)):
        return False
    name = parse_symbol(symbol)
    if name is None:
        return False
    wanted, parameters = _split_parameters(pattern)
    wanted, dot, clone = wanted.partition(".")
    if not fnmatch.fnmatchcase(name.clone, dot + clone):
        return False
    if parameters is not None and (name.parameters is None or _squeezed(parameters) != _squeezed(name.parameters)):
        return False
    if "<" in wanted:
        return fnmatch.fnmatchcase(_squeezed(name.templated), _squeezed(wanted))
    return fnmatch.fnmatchcase(name.plain, wanted)


def needle(pattern: str) -> bytes:
    """Bytes that the name of every symbol meant by the pattern contains, as long as possible."""
    name, _ = _split_parameters(pattern)
    last = _without_template_arguments(name.partition(".")[0]).replace(_ANONYMOUS + "::", "").rpartition("::")[2]
    if "::" not in name or "*" in last:
        return max(re.split(r"[*?]", last), key=len).encode()
    # In _ZN13llama_context6decodeE… its length goes before a name. What stands before the last one may be more than
    # the scopes' names: template arguments.
    return f"{len(last)}{last}".encode()


@functools.cache
def _literal_parts(pattern: str) -> tuple[str, ...]:
    """Texts that stand in the symbol of whatever the pattern means: a test that is cheaper than taking it apart."""
    scopes = _without_template_arguments(_split_parameters(pattern)[0]).replace(_ANONYMOUS + "::", "").split("::")
    return tuple(part for scope in scopes if scope != "std" for part in re.split(r"[*?]", scope) if part)


def _split_parameters(pattern: str) -> tuple[str, str | None]:
    at = pattern.find("(", len(_ANONYMOUS) if pattern.startswith(_ANONYMOUS) else 0)
    return (pattern, None) if at < 0 else (pattern[:at], pattern[at:])


def _without_template_arguments(name: str) -> str:
    """`a<b<c> >::d` to `a::d`."""
    kept, depth = [], 0
    for character in name:
        depth += character == "<"
        if not depth:
            kept.append(character)
        depth -= character == ">"
    return "".join(kept)


def _without_templates(node: Any) -> str:
    """The qualified name of a demangler's name node, template arguments and ABI tags left out."""
    if node.kind == "abi":
        return _without_templates(node.value)
    if node.kind == "qual_name":
        return "::".join(_without_templates(part) for part in node.value if part.kind != "tpl_args")
    return _scoped(str(node))


def _scoped(text: str) -> str:
    """The demangler's spelling turned into that of c++filt and debuggers."""
    return text.replace("_GLOBAL__N_1", _ANONYMOUS).replace("<(int)", "<").replace(", (int)", ", ")


def _squeezed(text: str) -> str:
    return text.replace(" ", "")

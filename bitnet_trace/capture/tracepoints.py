"""Tracepoints whose name, arguments or values differ between kernels: the kernel's types are asked, not its version.

The functions take what the kernel says as data, so that any kernel's answer can be tried on any machine.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# A tracepoint's arguments as C types; None where the kernel has no such tracepoint.
Parameters = Callable[[str], Sequence[str] | None]
# Bytes from a struct's start to a member; None where the kernel has no such member.
Offset = Callable[[str], int | None]

_ABSENT = -1
_MAX_OPCODES = 64
_NO_TRACEPOINT = "this kernel has no such tracepoint"
# Opcodes whose result, when it is positive, is a number of bytes.
_BYTE_OPCODES = {
    *("READ", "READV", "READ_FIXED", "READV_FIXED", "WRITE", "WRITEV", "WRITE_FIXED", "WRITEV_FIXED"),
    *("SEND", "SENDMSG", "SEND_ZC", "SENDMSG_ZC", "RECV", "RECVMSG", "SPLICE", "TEE"),
}
_TLB_REASONS = ("TLB_LOCAL_SHOOTDOWN", "TLB_LOCAL_MM_SHOOTDOWN", "TLB_REMOTE_SEND_IPI", "TLB_REMOTE_SHOOTDOWN")


@dataclass(frozen=True)
class Layout:
    """What is attached of one subject, and the numbers its programs are compiled with.

    `attach`: tracepoint to BPF function. `missing`: tracepoint to the reason why there is nothing to attach to.
    """

    constants: Mapping[str, int] = field(default_factory=dict)
    attach: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def io_uring(parameters: Parameters, offset: Offset, opcodes: Sequence[str]) -> Layout:
    """Where ring, request, opcode, user data and result lie in the arguments of io_uring's tracepoints.

    A request is known by its address where both ends tell it, else by its user data. Positions are numbers of
    arguments, -1 where an argument is absent and read from the request (`struct io_kiocb`) instead.
    """
    submit, arguments = _first(parameters, "io_uring_submit_req", "io_uring_submit_sqe")
    completed = parameters("io_uring_complete")
    created = parameters("io_uring_create")
    names = ("io_uring_submit_req", "io_uring_complete", "io_uring_create")
    if arguments is None or completed is None or created is None:
        present = {"io_uring_submit_req": arguments, "io_uring_complete": completed, "io_uring_create": created}
        return Layout(missing={name: _why(name, present) for name in names})
    at_submit, at_end = _positions(arguments), _positions(completed)
    kiocb = {
        "KIOCB_RING": offset("io_kiocb.ctx"),
        "KIOCB_OPCODE": offset("io_kiocb.opcode"),
        # a member of its own before it became the request's future completion
        "KIOCB_USER_DATA": _first_of(offset, "io_kiocb.cqe.user_data", "io_kiocb.user_data"),
    }
    wanted = {"KIOCB_RING": "ring", "KIOCB_OPCODE": "opcode", "KIOCB_USER_DATA": "user_data"}
    readable = "request" in at_submit
    unknown = [
        one for member, one in wanted.items() if one not in at_submit and (not readable or kiocb[member] is None)
    ]
    if unknown or "ring" not in at_end or not at_end.keys() & {"completion", "result"}:
        return Layout(missing=dict.fromkeys(names, "its arguments are of a form that is not known"))
    by_address = "request" in at_submit and "request" in at_end
    constants = {name: _ABSENT if value is None else value for name, value in kiocb.items()}
    for prefix, positions, keys in (
        ("IO_SUBMIT", at_submit, ("ring", "request", "opcode", "user_data")),
        ("IO_COMPLETE", at_end, ("ring", "request", "user_data", "result", "completion")),
        ("IO_CREATE", _positions(created), ("ring",)),
    ):
        constants.update({f"{prefix}_{key.upper()}": positions.get(key, _ABSENT) for key in keys})
    constants["IO_BY_ADDRESS"] = int(by_address)
    constants["IO_BYTE_OPCODES"] = sum(1 << number for number, name in enumerate(opcodes) if name in _BYTE_OPCODES)
    attach = {
        submit: "on_io_uring_submit",
        "io_uring_complete": "on_io_uring_complete",
        "io_uring_create": "on_io_uring_create",
    }
    missing = {}
    queued, overflow = parameters("io_uring_queue_async_work"), parameters("io_uring_cqe_overflow")
    at_queue = _positions(queued or ()) if by_address else {}
    at_overflow = _positions(overflow or ())
    constants["IO_QUEUE_RING"] = at_queue.get("ring", _ABSENT)
    constants["IO_QUEUE_REQUEST"] = at_queue.get("request", _ABSENT)
    constants["IO_OVERFLOW_RING"] = at_overflow.get("ring", _ABSENT)
    for name, found, usable in (
        ("io_uring_queue_async_work", queued, "request" in at_queue),
        ("io_uring_cqe_overflow", overflow, "ring" in at_overflow),
    ):
        if usable:
            attach[name] = f"on_{name}"
        else:
            missing[name] = _NO_TRACEPOINT if found is None else "its request cannot be told"
    return Layout(constants, attach, missing)


def io_uring_opcodes(enumerators: Mapping[str, int] | None) -> list[str]:
    """Names of the opcodes from 0 on (`READ_FIXED`), of enum io_uring_op; empty when the kernel does not say."""
    names = {value: name.removeprefix("IORING_OP_") for name, value in (enumerators or {}).items()}
    known = {value: name for value, name in names.items() if name != "LAST" and 0 <= value < _MAX_OPCODES}
    return [known.get(value, "") for value in range(max(known, default=-1) + 1)]


def names_by_number(enumerators: Mapping[str, int] | None) -> list[str]:
    """The names of an enum that counts from 0; an empty one where a number has none."""
    known = {value: name for name, value in (enumerators or {}).items() if 0 <= value < _MAX_OPCODES}
    return [known.get(value, "") for value in range(max(known, default=-1) + 1)]


def sched_switch(parameters: Parameters) -> Mapping[str, int]:
    """Positions of the task that leaves, of the one that comes, and of the former's state; -1: it is no argument."""
    types = parameters("sched_switch") or ()
    tasks = [position for position, kind in enumerate(types) if kind == "struct task_struct *"]
    previous, following = tasks if len(tasks) == 2 else (1, 2)
    state = next((position for position, kind in enumerate(types) if kind in ("unsigned int", "u32")), _ABSENT)
    return {"SWITCH_PREVIOUS": previous, "SWITCH_NEXT": following, "SWITCH_STATE": state}


def tlb_flush(parameters: Parameters, enumerators: Mapping[str, int] | None, format_text: str | None = None) -> Layout:
    """The reasons of tlb_flush by the kernel's enum, or where its types lack that by the tracepoint's format."""
    arguments = parameters("tlb_flush")
    if arguments is None:
        return Layout(missing={"tlb_flush": _NO_TRACEPOINT})
    reasons = dict(enumerators or _printed_reasons(format_text or ""))
    lacking = [name for name in _TLB_REASONS if name not in reasons]
    if lacking or len(arguments) != 2:
        return Layout(missing={"tlb_flush": f"the kernel does not say what its reasons mean: {', '.join(lacking)}"})
    return Layout({name: reasons[name] for name in _TLB_REASONS}, {"tlb_flush": "on_tlb_flush"})


def huge_pages(parameters: Parameters, offset: Offset) -> Layout:
    """Where the outcome of a collapse lies: the last argument. Whose memory it is, mm_struct.owner says (memcg)."""
    anonymous, of_file = parameters("mm_collapse_huge_page"), parameters("mm_khugepaged_collapse_file")
    owner = offset("mm_struct.owner")
    if anonymous is None or owner is None:
        why = _NO_TRACEPOINT if anonymous is None else "this kernel does not say whose memory it is (CONFIG_MEMCG)"
        return Layout(missing={"mm_collapse_huge_page": why})
    constants = {"COLLAPSE_STATUS": len(anonymous) - 1, "MM_OWNER": owner, "COLLAPSE_FILE_STATUS": _ABSENT}
    attach = {"mm_collapse_huge_page": "on_mm_collapse_huge_page"}
    words = [place for place, kind in enumerate(of_file or ()) if kind in ("long unsigned int", "unsigned long")]
    if of_file is None or len(words) < 2:
        return Layout(constants, attach, {"mm_khugepaged_collapse_file": _NO_TRACEPOINT})
    constants.update(COLLAPSE_FILE_STATUS=len(of_file) - 1, COLLAPSE_FILE_ADDRESS=words[1])
    return Layout(constants, {**attach, "mm_khugepaged_collapse_file": "on_mm_khugepaged_collapse_file"})


def page_cache(
    parameters: Parameters, offset: Offset, page_flags: Mapping[str, int] | None, counting: bool = False
) -> Layout:
    """How large a folio is that came into the page cache, and of which file. Nothing where only counters are kept."""
    name = "mm_filemap_add_to_page_cache"
    places = {
        "FOLIO_MAPPING": offset("folio.mapping"),
        "FOLIO_FLAGS": offset("folio.flags"),
        "FOLIO_ORDER": _first_of(offset, "folio._flags_1", "folio._folio_order"),  # the low byte of the one
        "FOLIO_HEAD": (page_flags or {}).get("PG_head"),
        "MAPPING_HOST": offset("address_space.host"),
    }
    if counting:
        return Layout()
    if parameters(name) != ["struct folio *"]:
        return Layout(missing={name: _NO_TRACEPOINT})
    if None in places.values():
        return Layout(missing={name: "this kernel does not say how large its folios are"})
    constants = {key: value for key, value in places.items() if value is not None}
    attach = {name: f"on_{name}"}
    ahead = ("page_cache_sync_ra", "page_cache_async_ra")
    if any((parameters(one) or [""])[0] != "struct inode *" or len(parameters(one) or ()) != 4 for one in ahead):
        return Layout(constants, attach, dict.fromkeys(ahead, _NO_TRACEPOINT))
    return Layout({**constants, "READAHEAD_INODE": 0}, {**attach, **{one: f"on_{one}" for one in ahead}})


def _printed_reasons(format_text: str) -> dict[str, int]:
    """`{ 2, "local shootdown" }` of a tracefs format as TLB_LOCAL_SHOOTDOWN: 2."""
    found = {text.lower(): int(number) for number, text in re.findall(r'\{ (\d+), "([^"]+)" \}', format_text)}
    printed = {"TLB_REMOTE_SEND_IPI": "remote ipi send"}
    spelled = {name: printed.get(name, name.removeprefix("TLB_").replace("_", " ").lower()) for name in _TLB_REASONS}
    return {name: found[text] for name, text in spelled.items() if text in found}


def _positions(types: Sequence[str]) -> dict[str, int]:
    """What each argument of an io_uring tracepoint is, told by its type: the order has changed, the types have not."""
    positions: dict[str, int] = {}
    for position, kind in enumerate(types):
        if kind == "struct io_kiocb *":
            positions.setdefault("request", position)
        elif kind == "struct io_uring_cqe *":
            positions.setdefault("completion", position)
        elif kind in ("void *", "struct io_ring_ctx *"):
            positions.setdefault("request" if "ring" in positions else "ring", position)
        elif kind in ("u64", "long long unsigned int", "unsigned long long"):
            positions.setdefault("user_data", position)
        elif kind == "u8":
            positions.setdefault("opcode", position)
        elif kind in ("int", "s32", "long int", "long"):
            positions.setdefault("result", position)
    return positions


def _first(parameters: Parameters, *names: str) -> tuple[str, Sequence[str] | None]:
    for name in names:
        found = parameters(name)
        if found is not None:
            return name, found
    return names[0], None


def _first_of(offset: Offset, *paths: str) -> int | None:
    return next((found for found in map(offset, paths) if found is not None), None)


def _why(name: str, present: Mapping[str, object]) -> str:
    if present[name] is None:
        return _NO_TRACEPOINT
    return f"of no use without {', '.join(other for other, found in present.items() if found is None)}"

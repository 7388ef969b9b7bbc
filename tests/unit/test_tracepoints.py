"""Where other kernels put the arguments of their tracepoints, from their recorded prototypes; and reading BTF."""

import re
import struct
from pathlib import Path

import pytest

from bitnet_trace.capture import btf
from bitnet_trace.capture.tracepoints import huge_pages, io_uring, io_uring_opcodes, page_cache, sched_switch, tlb_flush

DATA = Path(__file__).parent.parent / "data/tracepoints"
OPCODES = ["NOP", "READV", "WRITEV", "FSYNC", "READ_FIXED", "WRITE_FIXED", "POLL_ADD"]
OFFSETS = {"io_kiocb.ctx": 96, "io_kiocb.opcode": 64, "io_kiocb.cqe.user_data": 80}
REASONS = {
    "TLB_FLUSH_ON_TASK_SWITCH": 0,
    "TLB_REMOTE_SHOOTDOWN": 1,
    "TLB_LOCAL_SHOOTDOWN": 2,
    "TLB_LOCAL_MM_SHOOTDOWN": 3,
    "TLB_REMOTE_SEND_IPI": 4,
}


def prototypes(kernel):
    """The function that the kernel's types are asked with."""
    found = {}
    for name, arguments in re.findall(r"^void (\w+)\((.*)\);$", (DATA / f"{kernel}.txt").read_text(), re.MULTILINE):
        found[name] = [re.sub(r"(?<=\*|\s)\w+$", "", one.strip()).strip() for one in arguments.split(",")]
    return found.get


def positions(layout, prefix):
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in layout.constants.items()
        if name.startswith(prefix) and value >= 0
    }


def test_recorded_prototypes_are_read_as_types():
    assert prototypes("5.15")("io_uring_queue_async_work") == [
        "void *",
        "int",
        "void *",
        "struct io_wq_work *",
        "unsigned int",
    ]


SUBMIT = {
    "5.8": ("io_uring_submit_sqe", {"ring": 0, "opcode": 1, "user_data": 2}),
    "5.15": ("io_uring_submit_sqe", {"ring": 0, "request": 1, "opcode": 2, "user_data": 3}),
    "5.19": ("io_uring_submit_sqe", {"ring": 0, "request": 1, "user_data": 2, "opcode": 3}),
    "6.1": ("io_uring_submit_sqe", {"request": 0}),
    "6.2": ("io_uring_submit_sqe", {"request": 0}),
    "6.8": ("io_uring_submit_req", {"request": 0}),
    "6.18": ("io_uring_submit_req", {"request": 0}),
}
COMPLETE = {
    "5.8": {"ring": 0, "user_data": 1, "result": 2},
    "5.15": {"ring": 0, "user_data": 1, "result": 2},
    "5.19": {"ring": 0, "request": 1, "user_data": 2, "result": 3},
    "6.1": {"ring": 0, "request": 1, "user_data": 2, "result": 3},
    "6.2": {"ring": 0, "request": 1, "user_data": 2, "result": 3},
    "6.8": {"ring": 0, "request": 1, "user_data": 2, "result": 3},
    "6.18": {"ring": 0, "request": 1, "completion": 2},
}
QUEUE = {"5.19": {"ring": 0, "request": 1}, **{kernel: {"request": 0} for kernel in ("6.1", "6.2", "6.8", "6.18")}}
SWITCH = {
    **dict.fromkeys(["5.8", "5.15"], (1, 2, -1)),
    "sched_switch-5.18-rc": (2, 3, 1),
    **dict.fromkeys(["5.19", "6.1", "6.2", "6.8", "6.18"], (1, 2, 3)),
}


@pytest.mark.parametrize("kernel", SUBMIT)
def test_arguments_of_io_uring(kernel):
    layout = io_uring(prototypes(kernel), OFFSETS.get, OPCODES)
    submit, at_submit = SUBMIT[kernel]
    assert layout.attach[submit] == "on_io_uring_submit"
    assert layout.attach["io_uring_complete"] == "on_io_uring_complete"
    assert layout.attach["io_uring_create"] == "on_io_uring_create"
    assert positions(layout, "IO_SUBMIT_") == at_submit
    assert positions(layout, "IO_COMPLETE_") == COMPLETE[kernel]
    assert positions(layout, "IO_CREATE_") == {"ring": 1}
    assert layout.constants["IO_BY_ADDRESS"] == (kernel not in ("5.8", "5.15"))
    assert positions(layout, "IO_QUEUE_") == QUEUE.get(kernel, {})
    assert ("io_uring_queue_async_work" in layout.attach) == (kernel in QUEUE)
    assert ("io_uring_queue_async_work" in layout.missing) == (kernel not in QUEUE)
    assert ("io_uring_cqe_overflow" in layout.attach) == (kernel not in ("5.8", "5.15"))
    assert layout.constants["IO_BYTE_OPCODES"] == 0b110110


def test_user_data_was_a_member_of_its_own():
    offsets = {**OFFSETS, "io_kiocb.user_data": 56}
    del offsets["io_kiocb.cqe.user_data"]
    assert io_uring(prototypes("6.2"), offsets.get, OPCODES).constants["KIOCB_USER_DATA"] == 56


def without(kernel, *names):
    return lambda name: None if name in names else prototypes(kernel)(name)


def test_a_kernel_without_io_uring():
    layout = io_uring({}.get, OFFSETS.get, [])
    names = ("io_uring_submit_req", "io_uring_complete", "io_uring_create")
    assert layout.missing == dict.fromkeys(names, "this kernel has no such tracepoint")
    assert not layout.attach
    assert not layout.constants


def test_one_tracepoint_that_is_needed_is_missing():
    layout = io_uring(without("6.18", "io_uring_complete"), OFFSETS.get, OPCODES)
    assert layout.missing["io_uring_complete"] == "this kernel has no such tracepoint"
    assert layout.missing["io_uring_submit_req"] == "of no use without io_uring_complete"
    assert not layout.attach


@pytest.mark.parametrize("gone", ["io_uring_queue_async_work", "io_uring_cqe_overflow"])
def test_one_tracepoint_that_is_not_needed_is_missing(gone):
    layout = io_uring(without("6.18", gone), OFFSETS.get, OPCODES)
    assert layout.missing == {gone: "this kernel has no such tracepoint"}
    assert layout.attach["io_uring_complete"] == "on_io_uring_complete"


@pytest.mark.parametrize(
    ("submit", "complete"),
    [
        (["struct io_new *"], ["struct io_ring_ctx *", "void *", "struct io_uring_cqe *"]),
        (["struct io_kiocb *"], ["struct io_new *"]),
        (["struct io_kiocb *"], ["struct io_ring_ctx *", "void *"]),
    ],
)
def test_arguments_that_are_not_known_are_not_guessed(submit, complete):
    known = {"io_uring_submit_req": submit, "io_uring_complete": complete, "io_uring_create": ["int", "void *"]}
    layout = io_uring(known.get, OFFSETS.get, OPCODES)
    assert layout.missing["io_uring_complete"] == "its arguments are of a form that is not known"
    assert not layout.attach


def test_a_request_whose_members_are_not_known():
    layout = io_uring(prototypes("6.18"), {}.get, OPCODES)
    assert not layout.attach


def test_opcodes_by_number():
    assert io_uring_opcodes({"IORING_OP_READV": 1, "IORING_OP_NOP": 0, "IORING_OP_WRITE": 3, "IORING_OP_LAST": 4}) == [
        "NOP",
        "READV",
        "",
        "WRITE",
    ]
    assert io_uring_opcodes(None) == []


@pytest.mark.parametrize("kernel", SWITCH)
def test_arguments_of_a_switch(kernel):
    assert tuple(sched_switch(prototypes(kernel)).values()) == SWITCH[kernel]


@pytest.mark.parametrize("kernel", SUBMIT)
def test_tlb_flush_has_one_form(kernel):
    assert tlb_flush(prototypes(kernel), REASONS).attach == {"tlb_flush": "on_tlb_flush"}


def test_reasons_of_the_enum():
    moved = {**REASONS, "TLB_REMOTE_SEND_IPI": 9}
    layout = tlb_flush(prototypes("5.15"), moved)
    assert layout.attach == {"tlb_flush": "on_tlb_flush"}
    assert layout.constants == {name: n for name, n in moved.items() if name != "TLB_FLUSH_ON_TASK_SWITCH"}


@pytest.mark.parametrize("kernel", ["5.15", "6.18"])
def test_reasons_of_the_format_are_those_of_the_enum(kernel):
    text = (DATA / f"tlb_flush-{kernel}.format").read_text()
    assert tlb_flush(prototypes(kernel), None, text) == tlb_flush(prototypes(kernel), REASONS)


@pytest.mark.parametrize(
    ("parameters", "enumerators", "reason"),
    [
        ({}.get, REASONS, "this kernel has no such tracepoint"),
        (prototypes("5.15"), None, "does not say what its reasons mean: TLB_LOCAL_SHOOTDOWN"),
        (prototypes("5.15"), {"TLB_LOCAL_SHOOTDOWN": 1}, "TLB_REMOTE_SEND_IPI, TLB_REMOTE_SHOOTDOWN"),
    ],
)
def test_tlb_flush_that_cannot_be_understood_is_not_attached(parameters, enumerators, reason):
    layout = tlb_flush(parameters, enumerators)
    assert reason in layout.missing["tlb_flush"]
    assert not layout.attach


# ---- BTF: Documentation/bpf/btf.rst -------------------------------------------------------------------------------

INT, PTR, STRUCT, ENUM, TYPEDEF, CONST, PROTO = 1, 2, 4, 6, 8, 10, 13


def image(*types):
    """A BTF file of (name, kind, vlen, size or type, extra words and names)."""
    strings, body = b"\0", b""

    def name_offset(text):
        nonlocal strings
        if not text:
            return 0
        strings += text.encode() + b"\0"
        return len(strings) - len(text) - 1

    for name, kind, vlen, target, *extra in types:
        body += struct.pack("<III", name_offset(name), kind << 24 | vlen, target)
        for word in extra:
            body += struct.pack("<i", name_offset(word) if isinstance(word, str) else word)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
    return btf.Btf(header + body + strings)


KERNEL = image(
    ("int", INT, 0, 4, 32),  # 1
    ("", PTR, 0, 0),  # 2: void *
    ("thing", STRUCT, 1, 8, "member", 1, 0),  # 3
    ("", CONST, 0, 3),  # 4
    ("", PTR, 0, 4),  # 5: const struct thing *
    ("u32", TYPEDEF, 0, 1),  # 6
    ("", PROTO, 4, 0, "", 2, "", 5, "", 6, "", 1),  # 7
    ("", PTR, 0, 7),  # 8
    ("btf_trace_happens", TYPEDEF, 0, 8),  # 9
    ("why", ENUM, 2, 4, "BECAUSE", 7, "NOT", -1),  # 10
    ("", PROTO, 1, 0, "", 2),  # 11
    ("", PTR, 0, 11),  # 12
    ("btf_trace_nothing", TYPEDEF, 0, 12),  # 13
)


def test_parameters_of_a_tracepoint():
    assert KERNEL.parameters("happens") == ["struct thing *", "u32", "int"]
    assert KERNEL.parameters("nothing") == []
    assert KERNEL.parameters("else") is None


def test_enumerators():
    assert KERNEL.enumerators("why") == {"BECAUSE": 7, "NOT": -1}
    assert KERNEL.enumerators("thing") is None


ANONYMOUS = ["struct mm_struct *", "int", "int"]
OF_FILE = [
    *("struct mm_struct *", "struct folio *", "long unsigned int", "long unsigned int", "bool", "struct file *", "int"),
    "int",
]


@pytest.mark.parametrize(
    ("prototypes_of", "offsets", "constants", "missing"),
    [
        (
            {"mm_collapse_huge_page": ANONYMOUS, "mm_khugepaged_collapse_file": OF_FILE},
            {"mm_struct.owner": 1296},
            {"COLLAPSE_STATUS": 2, "COLLAPSE_FILE_STATUS": 7, "COLLAPSE_FILE_ADDRESS": 3, "MM_OWNER": 1296},
            [],
        ),
        (
            {"mm_collapse_huge_page": ANONYMOUS},
            {"mm_struct.owner": 8},
            {"COLLAPSE_STATUS": 2, "COLLAPSE_FILE_STATUS": -1, "MM_OWNER": 8},
            ["mm_khugepaged_collapse_file"],
        ),
        ({"mm_collapse_huge_page": ANONYMOUS}, {}, {}, ["mm_collapse_huge_page"]),
        ({}, {"mm_struct.owner": 8}, {}, ["mm_collapse_huge_page"]),
    ],
)
def test_collapses(prototypes_of, offsets, constants, missing):
    found = huge_pages(prototypes_of.get, offsets.get)
    assert found.constants == constants
    assert list(found.missing) == missing


FOLIO = {"folio.mapping": 24, "folio.flags": 0, "folio._flags_1": 64, "address_space.host": 0}
ADDED = {"mm_filemap_add_to_page_cache": ["struct folio *"]}
ASKED = ["struct inode *", "long unsigned int", "struct file_ra_state *", "long unsigned int"]
AHEAD = {"page_cache_sync_ra": ASKED, "page_cache_async_ra": ASKED}


def test_the_page_cache():
    found = page_cache((ADDED | AHEAD).get, FOLIO.get, {"PG_head": 6})
    assert {**found.constants} == {
        "FOLIO_MAPPING": 24,
        "FOLIO_FLAGS": 0,
        "FOLIO_ORDER": 64,
        "FOLIO_HEAD": 6,
        "MAPPING_HOST": 0,
        "READAHEAD_INODE": 0,
    }
    assert set(found.attach) == {*ADDED, *AHEAD}
    assert set(page_cache(ADDED.get, FOLIO.get, {"PG_head": 6}).missing) == set(AHEAD)
    assert not page_cache(ADDED.get, {**FOLIO, "folio._flags_1": None}.get, {"PG_head": 6}).attach
    assert not page_cache({"mm_filemap_add_to_page_cache": ["struct page *"]}.get, FOLIO.get, {"PG_head": 6}).attach


@pytest.mark.skipif(not btf.VMLINUX.exists(), reason=f"no {btf.VMLINUX}")
def test_the_running_kernel_is_understood():
    kernel = btf.load_vmlinux()
    opcodes = io_uring_opcodes(kernel.enumerators("io_uring_op"))
    if kernel.parameters("io_uring_complete") is not None:
        assert opcodes[22:24] == ["READ", "WRITE"]
        assert "io_uring_complete" in io_uring(kernel.parameters, kernel.offset, opcodes).attach
    if kernel.parameters("tlb_flush") is not None:
        assert tlb_flush(kernel.parameters, kernel.enumerators("tlb_flush_reason")).attach

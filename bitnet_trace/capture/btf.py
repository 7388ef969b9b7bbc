"""Where the kernel keeps its fields: offsets of struct members from BTF.

The format: Documentation/bpf/btf.rst of the kernel. Only what is needed to follow struct and union members is read.
"""

import bisect
import struct
from functools import cached_property
from pathlib import Path

from bitnet_trace.errors import TraceError

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF = 2, 3, 4, 5, 6, 8
_VOLATILE, _CONST, _RESTRICT, _FUNC_PROTO, _VAR, _DATASEC = 9, 10, 11, 13, 14, 15
_DECL_TAG, _TYPE_TAG, _ENUM64, _INT = 17, 18, 19, 1
_MODIFIERS = {_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG}
# bytes after the 12 of the common header: fixed, or per member (vlen)
_FIXED = {1: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_PER_MEMBER = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


class Btf:
    """The types of one kernel image.

    `data`: the whole file. Raises TraceError when it is not little-endian BTF version 1.
    """

    def __init__(self, data: bytes) -> None:
        try:
            magic, version, _flags, header, type_off, type_len, str_off, str_len = struct.unpack_from("<HBBIIIII", data)
        except struct.error:
            magic = version = 0
        if magic != 0xEB9F or version != 1:
            raise TraceError("the kernel's type information is not BTF version 1", "bitnet-trace doctor")
        self._types = data[header + type_off : header + type_off + type_len]
        self._strings = data[header + str_off : header + str_off + str_len]

    @cached_property
    def _offsets(self) -> list[int]:
        """Position of each type in the type section, by id (0 is void). Over 100,000: one short step each."""
        words = memoryview(self._types).cast("I")
        sizes = [(12 + _FIXED.get(kind, 0) >> 2, _PER_MEMBER.get(kind, 0) >> 2) for kind in range(32)]
        offsets, at, end = [0], 0, len(words)
        append = offsets.append
        while at < end:
            append(at << 2)
            info = words[at + 1]
            fixed, per_member = sizes[info >> 24 & 31]
            at += fixed + per_member * (info & 0xFFFF)
        return offsets

    def _header(self, position: int) -> tuple[int, int, int, int]:
        """name offset, kind, vlen, size or type of the type at a position."""
        name, info, size = struct.unpack_from("<III", self._types, position)
        return name, info >> 24 & 31, info & 0xFFFF, size

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _named(self, name: str, kinds: set[int]) -> int | None:
        """Position of the first type of that name and kind: found by its name's offset in the type section."""
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        if at < 0:
            return None
        needle = struct.pack("<I", at + 1)
        position = self._types.find(needle)
        while position >= 0:
            if self._is_type(position) and self._header(position)[1] in kinds:
                return position
            position = self._types.find(needle, position + 1)
        return None

    def _is_type(self, position: int) -> bool:
        at = bisect.bisect_left(self._offsets, position, lo=1)
        return at < len(self._offsets) and self._offsets[at] == position

    def _resolve(self, type_id: int) -> int:
        """Position of a type behind typedefs and qualifiers."""
        position = self._offsets[type_id]
        _name, kind, _vlen, target = self._header(position)
        while kind in _MODIFIERS:
            position = self._offsets[target]
            _name, kind, _vlen, target = self._header(position)
        return position

    def _member(self, position: int, name: str) -> tuple[int, int] | None:
        """(offset in bytes, type id) of a member, also inside anonymous structs and unions."""
        _name, _kind, vlen, _size = self._header(position)
        anonymous = []
        for i in range(vlen):
            member_name, type_id, bits = struct.unpack_from("<III", self._types, position + 12 + 12 * i)
            offset = (bits & 0xFFFFFF) // 8
            if member_name == 0:
                anonymous.append((offset, type_id))
            elif self._name(member_name) == name:
                return offset, type_id
        for offset, type_id in anonymous:
            inner = self._resolve(type_id)
            if self._header(inner)[1] in (_STRUCT, _UNION) and (found := self._member(inner, name)):
                return offset + found[0], found[1]
        return None

    def offset(self, path: str) -> int | None:
        """Bytes from a struct's start to a member: `task_struct.mm`, `dentry.d_name.name`; None: no such member."""
        struct_name, *members = path.split(".")
        position = self._named(struct_name, {_STRUCT})
        total = 0
        for member in members:
            if position is None:
                return None
            found = self._member(position, member)
            if found is None:
                return None
            total += found[0]
            position = self._resolve(found[1]) if found[1] else None
        return total

    def size(self, struct_name: str) -> int | None:
        """Bytes of a struct; None: no such struct."""
        position = self._named(struct_name, {_STRUCT})
        return None if position is None else self._header(position)[3]

    def tracepoint_type(self, tracepoint: str) -> int | None:
        """The id of a raw tracepoint's type, `btf_trace_NAME`; None: no such tracepoint."""
        position = self._named(f"btf_trace_{tracepoint}", {_TYPEDEF})
        return None if position is None else bisect.bisect_left(self._offsets, position, lo=1)

    def parameters(self, tracepoint: str) -> list[str] | None:
        """Types of a raw tracepoint's arguments, by the prototype `btf_trace_NAME`; None: no such tracepoint.

        As in C, without qualifiers: `struct io_kiocb *`, `void *`, `u64`, `int`.
        """
        position = self._named(f"btf_trace_{tracepoint}", {_TYPEDEF})
        if position is None:
            return None
        prototype = self._resolve(self._header(self._resolve(self._header(position)[3]))[3])
        types = [
            struct.unpack_from("<I", self._types, prototype + 12 + 8 * i + 4)[0]
            for i in range(self._header(prototype)[2])
        ]
        return [self._spelled(type_id) for type_id in types[1:]]  # the first is the probe's own data

    def _spelled(self, type_id: int) -> str:
        if type_id == 0:
            return "void"
        name, kind, _vlen, target = self._header(self._offsets[type_id])
        if kind == _PTR:
            return f"{self._spelled(target)} *".replace("* *", "**")
        if kind in _MODIFIERS and kind != _TYPEDEF:
            return self._spelled(target)
        prefix = {_STRUCT: "struct ", _UNION: "union ", _ENUM: "enum ", _ENUM64: "enum "}.get(kind, "")
        return prefix + self._name(name)

    def enumerators(self, enum_name: str) -> dict[str, int] | None:
        """Names and values of an enum; None: no such enum."""
        position = self._named(enum_name, {_ENUM})
        if position is None:
            return None
        pairs = (
            struct.unpack_from("<Ii", self._types, position + 12 + 8 * i) for i in range(self._header(position)[2])
        )
        return {self._name(name): value for name, value in pairs}


def _first(btf: Btf, *paths: str) -> int:
    """The offset of the first path that this kernel has."""
    for path in paths:
        offset = btf.offset(path)
        if offset is not None:
            return offset
    raise TraceError(f"this kernel's type information has no {paths[0]}", "bitnet-trace doctor")


def kernel_constants(btf: Btf) -> dict[str, int]:
    """The -D flags that the BPF programs are compiled with: name to number."""
    # 6.2 made the resident-size counts per-CPU counters; before, an array of atomics
    per_cpu = btf.offset("percpu_counter.count") if btf.offset("mm_rss_stat.count") is None else None
    rss_stride = btf.size("percpu_counter") if per_cpu is not None else 8
    return {
        "TASK_PID": _first(btf, "task_struct.pid"),
        "TASK_TGID": _first(btf, "task_struct.tgid"),
        "TASK_COMM_OFFSET": _first(btf, "task_struct.comm"),
        "TASK_MM": _first(btf, "task_struct.mm"),
        "TASK_MIN_FLT": _first(btf, "task_struct.min_flt"),
        "TASK_MAJ_FLT": _first(btf, "task_struct.maj_flt"),
        "TASK_NVCSW": _first(btf, "task_struct.nvcsw"),
        "TASK_NIVCSW": _first(btf, "task_struct.nivcsw"),
        "TASK_SUM_RUNTIME": _first(btf, "task_struct.se.sum_exec_runtime"),
        "TASK_RUN_DELAY": btf.offset("task_struct.sched_info.run_delay") or 0,
        "TASK_RUNS": btf.offset("task_struct.sched_info.pcount") or 0,
        "TASK_STATE": _first(btf, "task_struct.__state", "task_struct.state"),
        "TASK_EXIT_CODE": _first(btf, "task_struct.exit_code"),
        "TASK_REAL_PARENT": _first(btf, "task_struct.real_parent"),
        "TASK_FILES": _first(btf, "task_struct.files"),
        "TASK_BLOCKED": _first(btf, "task_struct.blocked"),
        "TASK_STATE_DEAD": 0x80,
        "TASK_STATUS": _first(btf, "task_struct.thread_info.status"),
        "TASK_FLAGS": _first(btf, "task_struct.flags"),
        "TASK_POLICY": _first(btf, "task_struct.policy"),
        "TASK_RT_PRIORITY": _first(btf, "task_struct.rt_priority"),
        "TASK_STATIC_PRIO": _first(btf, "task_struct.static_prio"),
        "TASK_CPUS_MASK": _first(btf, "task_struct.cpus_mask", "task_struct.cpus_allowed"),
        "CPUMASK_BYTES": min(btf.size("cpumask") or 8, 64),
        "MM_RSS": _first(btf, "mm_struct.rss_stat"),
        "RSS_COUNT": per_cpu or 0,
        "RSS_STRIDE": rss_stride or 8,
        "BPRM_FILENAME": _first(btf, "linux_binprm.filename"),
        "FILES_FDT": _first(btf, "files_struct.fdt"),
        "FDT_MAX_FDS": _first(btf, "fdtable.max_fds"),
        "FDT_FD": _first(btf, "fdtable.fd"),
        "FILE_INODE": _first(btf, "file.f_inode"),
        "FILE_DENTRY": _first(btf, "file.f_path.dentry", "file.__f_path.dentry"),
        "FILE_MOUNT": _first(btf, "file.f_path.mnt", "file.__f_path.mnt"),
        "FILE_POSITION": _first(btf, "file.f_pos"),
        "FILE_FLAGS": _first(btf, "file.f_flags"),
        "MOUNT_ROOT": _first(btf, "vfsmount.mnt_root"),
        "MOUNT_VFSMOUNT": _first(btf, "mount.mnt"),
        "MOUNT_PARENT": _first(btf, "mount.mnt_parent"),
        "MOUNT_POINT": _first(btf, "mount.mnt_mountpoint"),
        "INODE_MODE": _first(btf, "inode.i_mode"),
        "INODE_SIZE": _first(btf, "inode.i_size"),
        "INODE_INO": _first(btf, "inode.i_ino"),
        "INODE_SB": _first(btf, "inode.i_sb"),
        "SB_DEV": _first(btf, "super_block.s_dev"),
        "DENTRY_NAME": _first(btf, "dentry.d_name.name", "dentry.__d_name.name"),
        "DENTRY_PARENT": _first(btf, "dentry.d_parent"),
    }


def load_vmlinux() -> Btf:
    """The running kernel's types. Raises TraceError when it has none."""
    try:
        return Btf(VMLINUX.read_bytes())
    except OSError as error:
        raise TraceError(
            f"cannot read {VMLINUX}: {error.strerror}", "a kernel built with CONFIG_DEBUG_INFO_BTF is needed"
        ) from None

"""The numpy dtypes and enums that are read from bpf/record.h, against what the C compiler makes of it."""

import json
import re
import subprocess

import numpy as np
import pytest

from bitnet_trace.recording import layout
from bitnet_trace.resources import bpf_dir

STRUCTS = {
    "event": layout.EVENT_DTYPE,
    "task_event": layout.TASK_DTYPE,
    "counter_key": layout.COUNTER_KEY_DTYPE,
    "counters": layout.COUNTERS_DTYPE,
}
ENUMS = {
    "KIND_": layout.Kind, "FAULT_": layout.FaultFlag, "SWITCH_": layout.SwitchFlag, "MEMORY_": layout.MemoryDetail,
    "IO_": layout.IoFlag, "TLB_": layout.TlbEvent, "END_": layout.PhaseEnd, "ROLE_": layout.Role, "TASK_": layout.TaskKind,
}  # fmt: skip


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What gcc says: sizes and (offset, size) of each struct's members, and values of enumerators."""
    header = bpf_dir() / "record.h"
    names = [f"{prefix}{member.name}" for prefix, enum in ENUMS.items() for member in enum]
    lines = []
    for struct, dtype in STRUCTS.items():
        lines.append(f'printf("\\"{struct}\\": [%zu, {{", sizeof(struct {struct}));')
        for i, field in enumerate(dtype.names):
            member = f"((struct {struct} *)0)->{field}"
            comma = "" if i == 0 else ", "
            lines.append(
                f'printf("{comma}\\"{field}\\": [%zu, %zu]", offsetof(struct {struct}, {field}), sizeof({member}));'
            )
        lines.append('printf("}], ");')
    lines.append('printf("\\"values\\": {");')
    lines += [f'printf("{", " if i else ""}\\"{name}\\": %d", {name});' for i, name in enumerate(names)]
    lines.append('printf("}, \\"duration_only\\": %u}", DURATION_ONLY);')
    source = (
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n"
        "typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;\n"
        f'#include "{header}"\nint main(void) {{ printf("{{");\n' + "\n".join(lines) + "\nreturn 0; }\n"
    )
    folder = tmp_path_factory.mktemp("layout")
    (folder / "layout.c").write_text(source)
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", folder / "layout", folder / "layout.c"], check=True)
    return json.loads(subprocess.run([folder / "layout"], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("struct", STRUCTS)
def test_structs_lie_as_in_c(compiled, struct):
    dtype = STRUCTS[struct]
    size, members = compiled[struct]
    assert dtype.itemsize == size
    assert {name: [offset, field.itemsize] for name, (field, offset) in dtype.fields.items()} == members


@pytest.mark.parametrize("struct", STRUCTS)
def test_no_member_is_left_out(struct):
    body = re.search(rf"^struct {struct} \{{(.*?)^\}};", (bpf_dir() / "record.h").read_text(), re.M | re.S)[1]
    statements = re.sub(r"/\*.*?\*/", "", body, flags=re.S).split(";")[:-1]
    assert [re.search(r"(\w+)(\[\d+\])?\s*$", statement)[1] for statement in statements] == list(STRUCTS[struct].names)


def test_enumerators_have_their_values(compiled):
    values = {f"{prefix}{member.name}": int(member) for prefix, enum in ENUMS.items() for member in enum}
    assert values == compiled["values"]
    assert compiled["duration_only"] == layout.DURATION_ONLY


def test_an_event_is_40_bytes_and_all_integers_are_little_endian():
    assert layout.EVENT_DTYPE.itemsize == 40
    for dtype in STRUCTS.values():
        for field, _offset in dtype.fields.values():
            assert field == field.newbyteorder("<") or field.kind == "S"
            assert field.kind in "uS"
    assert np.dtype(layout.COUNTERS_DTYPE).itemsize == 8 * len(layout.COUNTER_FIELDS)

"""Damaged programs and libraries: an answer or one clear error, in bounded time and memory, never more.

150 cases, the same ones each time. BITNET_TRACE_DAMAGE_CASES=10000 draws that many, others each time;
BITNET_TRACE_DAMAGE_FILES=a.so:b damages files of this machine too.
"""

import os
import subprocess
import traceback
from collections import Counter
from pathlib import Path

import pytest
from bounded import DEADLINE_S, PEAK_LIMIT_BYTES, Bounded, TooLong, damages
from compiled import PROGRAMS
from hypothesis import given
from hypothesis import strategies as st

from bitnet_trace.engines.inventory import inventory
from bitnet_trace.engines.libraries import links
from bitnet_trace.engines.probes import load_probe_sets
from bitnet_trace.engines.resolve import resolve
from bitnet_trace.engines.symbolize import symbolize
from bitnet_trace.errors import TraceError

BUILDS = {
    "gcc": ["g++", "-O2", "-g", "-rdynamic"],
    "library": ["g++", "-O2", "-g", "-shared", "-fPIC", "-gdwarf-4"],
    "stripped": ["g++", "-O2", "-s", "-rdynamic"],
    "compressed": ["g++", "-O2", "-g", "-gz"],
    "Intel CET": ["g++", "-O2", "-g1", "-fcf-protection=full"],
}
PARTS = (".symtab", ".strtab", ".dynsym", ".dynstr", ".dynamic", ".rela.plt", ".plt.sec", ".eh_frame", ".eh_frame_hdr",
         ".debug_info", ".debug_abbrev", ".debug_line", ".debug_str", ".debug_rnglists", ".debug_ranges", ".note.gnu.build-id",
         ".text", ".shstrtab")  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 7, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 48, (1 << 63) - 1,
                           (1 << 64) - 1]) | st.integers(0, (1 << 64) - 1)  # fmt: skip
HEADER_BYTES, SECTION_BYTES = 64, 64


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(name, bytes, {what: (begin, end)}) of undamaged files: their headers, tables and debug information."""
    folder = tmp_path_factory.mktemp("elf")
    made = []
    for name, command in BUILDS.items():
        path = folder / name.replace(" ", "-")
        subprocess.run([*command, str(PROGRAMS / "kinds.cpp"), "-o", str(path)], check=True)
        made.append(path)
    made += map(Path, filter(None, os.environ.get("BITNET_TRACE_DAMAGE_FILES", "").split(":")))
    return [(path.name, path.read_bytes(), parts_of(path)) for path in made]


def parts_of(path):
    listing = subprocess.run(["readelf", "-SW", str(path)], check=True, capture_output=True, text=True).stdout
    size = path.stat().st_size
    sections_at = int.from_bytes(path.read_bytes()[40:48], "little")
    parts = {"header": (0, HEADER_BYTES), "segments": (64, 64 + 56 * 12), "sections": (sections_at, size)}
    for line in listing.splitlines():
        fields = line.replace("[ ", "[").split()
        if len(fields) > 5 and fields[1] in PARTS:
            parts[fields[1]] = (int(fields[4], 16), int(fields[4], 16) + int(fields[5], 16))
    return parts


@st.composite
def damaged(draw, files):
    """One to four damages, most of them where sizes, offsets and counts stand."""
    name, whole, parts = draw(st.sampled_from(files))
    data, done = bytearray(whole), [name]
    for _ in range(draw(st.integers(1, 4))):
        part = draw(st.sampled_from(sorted(parts)))
        begin, end = parts[part]
        at = min(draw(st.integers(begin, max(begin, end - 1)) | st.integers(begin, begin + 200)), len(data) - 1)
        how = draw(st.sampled_from(["bit", "bit", "number", "number", "number", "cut", "garbage", "zeros", "move"]))
        done.append(f"{how} at {at:#x} in {part}")
        if at < 0:
            break
        if how == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "number":
            width = draw(st.sampled_from([1, 2, 4, 8]))
            data[at : at + width] = (draw(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        elif how == "cut":
            del data[at:]
        elif how == "garbage":
            data[at : at + draw(st.integers(1, 64))] = draw(st.binary(min_size=1, max_size=64))
        elif how == "zeros":
            data[at : at + 40] = bytes(40)
        else:
            other = draw(st.integers(0, len(data) - 1))
            data[at : at + 64] = data[other : other + 64]
    return tuple(done), bytes(data)


def look_at(path):
    """All that the tool asks of a file; its one clear error, or None."""
    sets = load_probe_sets()
    try:
        with open(path, "rb") as file:
            found = resolve(file, "damaged", sets)
            links(file, "damaged")
            inventory(file, "damaged", found.engine or "llama.cpp", True, sets)
            symbolize(file, "damaged", [*range(0, 1 << 14, 641), 1 << 40, (1 << 64) - 1])
    except TraceError as error:
        return error.message
    return None


@pytest.mark.parametrize("field", [24, 32], ids=["offset", "size"])  # of Elf64_Shdr
@pytest.mark.parametrize("number", [1 << 40, 1 << 63, (1 << 64) - 1])
def test_sections_that_lie_nowhere(files, tmp_path, field, number):
    """Each section of a file with debug information, one after the other."""
    whole = files[0][1]
    sections_at, count = int.from_bytes(whole[40:48], "little"), int.from_bytes(whole[60:62], "little")
    path = tmp_path / "x"
    for section in range(1, count):
        data = bytearray(whole)
        at = sections_at + SECTION_BYTES * section + field
        data[at : at + 8] = number.to_bytes(8, "little")
        path.write_bytes(data)
        refusal = look_at(path)
        assert refusal is None or "\n" not in refusal


def test_damaged_files(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "x"
    failures, outcome = {}, Counter()
    worst = {"seconds": 0.0, "peak_bytes": 0}
    for _, whole, _ in files:
        path.write_bytes(whole)
        assert look_at(path) is None

    @given(case=damaged(files))
    @damages
    def check(case):
        done, data = case
        path.write_bytes(data)
        bounded = Bounded()
        try:
            with bounded:
                refusal = look_at(path)
            outcome["refused" if refusal else "answered"] += 1
            assert refusal is None or ("\n" not in refusal and len(refusal) < 500), refusal
            assert bounded.seconds < DEADLINE_S
            assert bounded.peak_bytes < PEAK_LIMIT_BYTES
        except (Exception, TooLong) as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {str(error)[:200]} ({Path(at.filename).name}:{at.lineno})"
            if text not in failures:
                print(text, done, flush=True)
                failures[text] = path.rename(path.with_name(f"failed{len(failures)}"))
        worst.update({key: max(worst[key], getattr(bounded, key)) for key in worst})

    check()
    print(dict(outcome), worst)
    assert not failures, "\n".join(f"{text}: {kept}" for text, kept in failures.items())
    assert outcome["answered"] > 10
    assert outcome["refused"] > 10

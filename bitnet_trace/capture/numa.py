"""On which NUMA nodes CPUs and pages are. Sources: sysfs-devices-node, numa_maps of proc(5).

Where there is one node nothing is looked at.
"""

import re
import time
from pathlib import Path
from typing import Any

from bitnet_trace.host import cpu_list

Row = dict[str, Any]

_ON_NODE = re.compile(r"N(\d+)=(\d+)")
_PAGE_SIZE = re.compile(r"kernelpagesize_kB=(\d+)")


def nodes(root: Path = Path("/")) -> dict[int, list[int]]:
    """CPUs of each node that is online; a node of memory alone has none."""
    found = {}
    for number in cpu_list(_text(root / "sys/devices/system/node/online")) or ():
        found[number] = list(cpu_list(_text(root / f"sys/devices/system/node/node{number}/cpulist")) or ())
    return found


def node_rows(pid: int, moment: str, root: Path = Path("/")) -> list[Row]:
    """Rows of schema.NUMA_SCHEMA of a process as it is now; none when it is gone.

    The kernel tells how many pages of an area are on a node and not which, so all of them stand at the area's begin.
    """
    now_ns = time.monotonic_ns()
    rows = []
    for line in _text(root / f"proc/{pid}/numa_maps").splitlines():
        address, _, rest = line.partition(" ")
        page_bytes = 1024 * int((_PAGE_SIZE.search(rest) or ["", "4"])[1])
        begin = int(address, 16)
        for node, n_pages in _ON_NODE.findall(rest):
            end = begin + int(n_pages) * page_bytes
            rows.append({"pid": pid, "ts_ns": now_ns, "moment": moment, "begin": begin, "end": end, "node": int(node)})
            begin = end
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

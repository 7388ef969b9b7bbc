"""A program that says how its threads are scheduled, and prints timing lines: `prints.py SPEED [SECONDS]`.

Speed is what it says; with SECONDS it computes that long, in two threads.
"""

import json
import os
import sys
import threading
import time

until = time.monotonic() + (float(sys.argv[2]) if len(sys.argv) > 2 else 0.2)


def own():
    return {
        "policy": os.sched_getscheduler(0),
        "priority": os.sched_getparam(0).sched_priority,
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cpus": sorted(os.sched_getaffinity(0)),
        "thp": next(line.split()[1] for line in open("/proc/self/status") if line.startswith("THP_enabled")),
        "environment": os.environ.get("LAB", ""),
    }


def work(found):
    while time.monotonic() < until:
        time.sleep(0.01)
    found.append(own())


found = []
threads = [threading.Thread(target=work, args=(found,)) for _ in range(2)]
for thread in threads:
    thread.start()
work(found)
for thread in threads:
    thread.join()
speed = float(sys.argv[1])
print(
    f"llama_perf_context_print:        eval time = {1e4 / speed:10.2f} ms / 10 runs ({1e3 / speed:.2f} ms per token, {speed:.2f} tokens per second)"
)
if os.environ.get("SAID"):
    with open(os.environ["SAID"], "a") as file:
        file.write(json.dumps(found) + "\n")

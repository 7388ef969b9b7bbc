"""Specs and plans of experiments: what is refused, what is run, and in which order."""

import itertools
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bitnet_trace.commands.experiment import experiment
from bitnet_trace.errors import TraceError
from bitnet_trace.experiment import plan, spec
from bitnet_trace.experiment.factors import FACTORS, this_machine
from bitnet_trace.experiment.setup import Setup

MACHINE = this_machine()
LAST = MACHINE.cpus[-1]
COMMAND = [sys.executable, "-m", "model.gguf"]


def read(**table):
    table.setdefault("command", COMMAND)
    return spec.read(table, "test", MACHINE)


def planned(**table):
    found = read(**table)
    cells = plan.cells(found)
    setups = {cell.number: plan.setup(found, cell, MACHINE) for cell in cells}
    plan.check(setups, MACHINE, dict(os.environ), system_allowed=False)
    return found, cells, setups


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"factors": {"polciy": ["other"]}}, "no factor 'polciy'"),
        ({"factors": {"policy": ["fifo:100"]}}, "priorities of fifo are 1 to 99"),
        ({"factors": {"policy": ["fifo"]}}, "priorities of fifo are 1 to 99"),
        ({"factors": {"policy": ["other:5"]}}, "is no level"),
        ({"factors": {"affinity": ["9999"]}}, "CPU 9999 is not there"),
        ({"factors": {"affinity": ["1-0"]}}, "is no level"),
        ({"factors": {"policy": []}}, "the matrix is empty"),
        ({"factors": {}}, "nothing would be compared"),
        ({}, "nothing would be compared"),
        ({"factors": {"null": list(range(100)), "nice": list(range(10)), "threads": list(range(1, 11))}}, "10,000 cells"),
        ({"factors": {"null": ["a"]}, "command": ["no-such-engine"]}, "no program no-such-engine"),
        ({"factors": {"null": ["a", "a"]}}, "twice"),
        ({"factors": {"policy": "other"}}, "are no list"),
        ({"factors": {"nice": [20]}}, "is no level"),
        ({"factors": {"nice": [True]}}, "is no level"),
        ({"factors": {"threads": [0]}}, "is no level"),
        ({"factors": {"numa": ["bind:63"]}}, "no such node"),
        ({"factors": {"load": ["cpu-hog:0"]}}, "is no level"),
        ({"factors": {"thp_system": ["never"]}}, "for the whole system"),
        ({"factors": {"hugetlb": [1 << 20]}}, "more than half"),
        ({"factors": {"policy": ["fifo:5"], "threads": ["all+1"]}}, "keeps out whom it waits for"),
        ({"factors": {"null": ["a"]}, "command": [sys.executable, "{model}"]}, "a placeholder {model}"),
        ({"factors": {"page_cache": ["cold"]}, "command": [sys.executable]}, "names no model"),
        ({"factors": {"null": ["a"]}, "baseline": {"null": "b"}}, "no level 'b'"),
        ({"factors": {"null": ["a"]}, "exclude": [{"null": "a"}]}, "all cells are excluded"),
        ({"factors": {"null": ["a"]}, "measure": {"repeats": 1}}, "repeats = 1"),
        ({"factors": {"null": ["a"]}, "measure": {"repeat": 3}}, "unknown key 'repeat'"),
        ({"factors": {"null": ["a"]}, "headline": "happiness"}, "no figure"),
        ({"factors": {"null": ["a"]}, "also": "wall_ns"}, "is no list"),
        ({"factors": {"null": ["a"]}, "name": "../elsewhere"}, "a file's name"),
        ({"factors": {"null": ["a"]}, "demo": {"tokens": "many"}}, "tokens = 'many'"),
        ({"factors": {"argument": {"x": [["a\0b"]]}}}, "is no level"),
        ({"factors": {"page_cache": ["cold"]}, "command": [sys.executable, "-m", "no.gguf"]}, "no.gguf is not a file"),
        ({"factors": {"thp_system": ["never"], "thp": ["on"]}}, "are off on this system"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused(table, message):
    with pytest.raises(TraceError) as caught:
        planned(**table)
    assert message in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "text", ["name = ", "[factors]\npolicy = ['fifo:100']\n", "\x00", "factors = 3", "factors = " + "[" * 2000]
)
def test_a_bad_file_gets_two_lines_and_runs_nothing(tmp_path, text):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    command = [sys.executable, "-m", "bitnet_trace", "experiment", str(path), "-o", str(tmp_path / "out"), "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["bitnet-trace:", "hint:"]
    assert not done.stdout
    assert not (tmp_path / "out").exists()


def test_ready_specs_are_planned_without_running_anything(tmp_path):
    assert len(spec.ready_names()) == 9
    (tmp_path / "x.gguf").write_text("model")
    for name in spec.ready_names():
        binaries = (
            ["--binary", "a=true", "--binary", "b=true -x"] if name in ("engines", "openmp-vs-threadpool") else []
        )
        command = [sys.executable, "-m", "bitnet_trace", "experiment", name, "--dry-run", *binaries]
        command += ["--", "true", "-m", "x.gguf"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "baseline: " in done.stdout
        assert "where a run takes" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["engines", "--binary", "a=true"], "name at least 2"),
        (["engines", "--binary", "a=true", "--binary", "a=false"], "each LABEL once"),
        (["engines", "--binary", "a='true", "--binary", "b=false"], "No closing quotation"),
        (["/dev/zero"], "/dev/zero is not a file"),
    ],
)
def test_bad_command_lines_are_refused(words, message):
    done = CliRunner().invoke(experiment, [*words, "--dry-run", "--", "true"])
    assert done.exit_code
    assert message in getattr(done.exception, "message", done.output)


def test_every_factor_has_levels_in_words():
    assert all(kind(name).help for name, kind in FACTORS.items())


def test_a_block_has_each_cell_once_and_the_seed_decides_the_order():
    found, cells, _ = planned(factors={"null": ["a", "b", "c"], "nice": [0, 1]}, measure={"repeats": 7, "traced": 2})
    blocks = [block for block in plan.blocks(found, len(cells)) if block]
    assert [len(block) for block in blocks] == [1] + [6] * 9
    assert all(sorted(trial.cell for trial in block) == [1, 2, 3, 4, 5, 6] for block in blocks[1:])
    kinds = [block[0].kind for block in blocks]
    assert kinds == ["warm-up", *["untraced"] * 3, "traced", "untraced", "traced", *["untraced"] * 3]
    orders = {tuple(trial.cell for trial in block) for block in blocks[1:]}
    assert len(orders) > 5
    assert blocks == [block for block in plan.blocks(found, len(cells)) if block]
    keys = [trial.key for block in blocks for trial in block]
    assert len(set(keys)) == len(keys)


def test_cells_are_all_combinations_but_the_excluded_ones():
    found, cells, _ = planned(
        factors={"null": ["a", "b"], "nice": [0, 5]}, exclude=[{"null": "b", "nice": 5}], baseline={"nice": 5}
    )
    assert [tuple(cell.levels.values()) for cell in cells] == [("a", "0"), ("a", "5"), ("b", "0")]
    assert found.baseline == {"null": "a", "nice": "5"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["x", "-t", "{threads}"], ["x", "-t", "3"]),
        (["x", "-t", "8", "-n", "1"], ["x", "-t", "3", "-n", "1"]),
        (["x", "--threads=8"], ["x", "--threads=3"]),
        (["x", "-n", "1"], ["x", "-n", "1", "-t", "3"]),
        (["x", "--cpus={threads}"], ["x", "--cpus=3"]),
    ],
)
def test_threads_take_their_place_in_the_command(command, expected):
    assert Setup(command, replaced={"threads": ["3"]}).arguments() == expected


@pytest.mark.parametrize(("name", "factor"), [("threads", "threads"), ("load", "argument.load")])
def test_the_factor_that_fills_a_placeholder_is_named(name, factor):
    with pytest.raises(TraceError) as caught:
        planned(factors={"null": ["a"]}, command=[sys.executable, f"{{{name}}}"])
    assert caught.value.hint == f"add {factor} to [factors]"


def test_arguments_fill_their_placeholder_or_come_last():
    _, _, setups = planned(
        command=[sys.executable, "{load}", "-n", "8"],
        factors={"argument": {"load": {"mapped": [], "read": ["--no-mmap"]}, "more": ["-b 7"]}},
    )
    assert [one.arguments()[1:] for one in setups.values()] == [
        ["-n", "8", "-b", "7"],
        ["--no-mmap", "-n", "8", "-b", "7"],
    ]


def test_what_factors_ask_of_a_run():
    _, _, setups = planned(
        factors={
            "policy": ["rr:7"], "nice": [3], "affinity": ["pinned"], "threads": [1], "thp": ["on"], "numa": ["bind:0"],
            "env": {"OMP_WAIT_POLICY": ["passive"]}, "load": ["memory-hog:2"], "mlock": [True],
        }
    )  # fmt: skip
    (one,) = setups.values()
    assert (one.policy, one.priority, one.nice) == ("rr", 7, 3)
    assert one.cpus == MACHINE.cores[0][:1]
    assert one.memory_policy == ("bind", (0,))
    assert one.load == ("memory-hog", 2)
    assert one.locked
    environment = one.tunables()
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert environment["OMP_WAIT_POLICY"] == "passive"
    assert environment["OMP_PLACES"] == f"{{{MACHINE.cores[0][0]}}}"
    assert one.arguments()[-3:] == ["-t", "1", "--mlock"]


def test_results_belong_together_by_what_is_compared_not_by_how_often():
    table = {"factors": {"null": ["a", "b"]}}
    digests = {read(**table, measure={"repeats": n}).digest() for n in (3, 4)}
    assert len(digests) == 1
    others = [{"factors": {"null": ["a", "c"]}}, {**table, "command": ["y"]}, {**table, "measure": {"seed": 9}}]
    assert all(read(**other).digest() not in digests for other in others)


def test_binaries_replace_the_program_or_the_whole_command():
    _, _, setups = planned(factors={"binary": {"one": sys.executable, "two": [sys.executable, "-c", "pass"]}})
    assert [one.arguments() for one in setups.values()] == [COMMAND, [sys.executable, "-c", "pass"]]


def test_labels_of_cells_make_names_of_folders():
    _, cells, _ = planned(factors={"null": ["../a b", "x/y"]})
    assert [cell.folder for cell in cells] == ["001-.._a_b", "002-x_y"]
    assert not any("/" in name for name in itertools.chain(cell.folder for cell in cells))

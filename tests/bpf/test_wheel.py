"""The installed wheel: what a user gets, away from the checkout."""

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from bitnet_trace import __version__

pytestmark = pytest.mark.untimed

CHECKOUT = Path(__file__).parents[2]
DATA = ("bpf", "probes", "reports")


def run(*command, cwd, expect=0):
    """stdout of a command that is run in `cwd` without the environment's help."""
    environment = {"PATH": "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin", "HOME": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == expect, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "--no-build-isolation"
    run(sys.executable, "-m", *build, "-w", str(folder), str(CHECKOUT), cwd=folder)
    (path,) = folder.glob("bitnet_trace-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of a fresh venv with the wheel in it.

    Its dependencies are those of the venv that runs the tests, put on the path by a .pth file: .pth files found that
    way are not read, so the checkout's own package stays out.
    """
    folder = tmp_path_factory.mktemp("venv")
    run("/usr/bin/python3", "-m", "venv", "--system-site-packages", str(folder), cwd=folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--force-reinstall", "--no-index"
    run(str(folder / "bin/python"), "-m", *install, str(wheel), cwd=folder)
    return folder / "bin"


@pytest.fixture
def elsewhere(tmp_path):
    return tmp_path


def test_wheel_holds_every_data_file_of_the_checkout(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", *DATA],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    on_disk = [
        str(path.relative_to(CHECKOUT)) for name in DATA for path in (CHECKOUT / name).rglob("*") if path.is_file()
    ]
    wanted = {name for name in tracked or on_disk if not Path(name).name.startswith(".")}
    assert {"bpf/record.h", "probes/llama.toml"} <= wanted
    assert {f"bitnet_trace/{name}" for name in wanted} <= names


def test_package_and_data_are_those_of_the_wheel(installed, elsewhere):
    script = (
        "import bitnet_trace; from bitnet_trace import resources as r\n"
        "from bitnet_trace.recording import layout\n"
        "print(bitnet_trace.__file__); print(r.bpf_dir(), r.probes_dir(), r.reports_dir(), layout.EVENT_DTYPE.itemsize)"
    )
    package, data = run(str(installed / "python"), "-c", script, cwd=elsewhere).splitlines()
    home = Path(package).parent
    assert home.is_relative_to(installed.parent)
    assert data.split() == [*(str(home / name) for name in DATA), "40"]


def test_declared_dependencies_fit_together(installed, elsewhere):
    """Of `pip check` only what is said of this package: the distribution's own packages are not always at peace."""
    command = str(installed / "python"), "-m", "pip", "check"
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False, timeout=60)
    assert [line for line in done.stdout.splitlines() if line.startswith("bitnet-trace")] == []


def test_version(installed, elsewhere):
    assert run(str(installed / "bitnet-trace"), "--version", cwd=elsewhere) == f"bitnet-trace {__version__}\n"


def test_doctor_loads_the_packaged_programs(installed, elsewhere):
    document = json.loads(run(str(installed / "bitnet-trace"), "doctor", "--json", cwd=elsewhere))
    states = {check["name"]: check["state"] for check in document["checks"]}
    assert document["works"]
    assert states["BPF programs"] == states["BCC"] == states["uprobes"] == "ok"


@pytest.mark.parametrize("command", ["run", "report", "probes", "doctor", "demo"])
def test_help_of(installed, elsewhere, command):
    assert run(str(installed / "bitnet-trace"), command, "--help", cwd=elsewhere).startswith("Usage: bitnet-trace")


@pytest.mark.parametrize("detail", ["counts", "events"])
def test_demo_counts_every_token(installed, elsewhere, detail):
    """7 generated tokens: the first is sampled from the prefill of 32, each other one takes a decode call."""
    tool = str(installed / "bitnet-trace")
    size = "--size=tiny", "--tokens=7", "--threads=1"
    shown = run(tool, "demo", *size, "--detail", detail, "-o", "d.btrace", cwd=elsewhere)
    assert "slot print_timing: id  0 | task 0 |        eval time =" in shown
    assert "bitnet-trace report d.btrace" in shown
    document = json.loads(run(tool, "report", "d.btrace", "--format", "json", cwd=elsewhere))
    assert document["run"]["exit_code"] == 0
    assert document["run"]["tokens"] == {"prompt": 32, "decoded": 6}
    decode = [phase for phase in document["phases"] if phase["name"] == "decode"]
    assert [(phase["token"], phase["n_tokens"]) for phase in decode] == [(n, 1) for n in range(1, 7)]
    assert [phase["n_tokens"] for phase in document["phases"] if phase["name"] == "prefill"] == [32]
    # but for what a busy machine takes: timer samples that came too late, an interrupt inside of a program of ours
    assert set(document["health"]["lost_by"]) <= {"ticks", "recursion"}


def test_demo_refuses_to_overwrite(installed, elsewhere):
    (elsewhere / "demo.btrace").mkdir()
    run(str(installed / "bitnet-trace"), "demo", "--size=tiny", cwd=elsewhere, expect=1)

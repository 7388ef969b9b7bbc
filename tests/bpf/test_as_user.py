"""Under the real sudo, called by a real second user: the program is theirs in all that a process inherits."""

import grp
import json
import os
import pwd
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import bitnet_trace
from tests.bpf.conftest import PROGRAMS

pytestmark = pytest.mark.untimed

_CHECKOUT = str(Path(bitnet_trace.__file__).parents[1])
# where neither the environment nor the current folder says which checkout is meant
TOOL = [
    sys.executable, "-I", "-c",
    f"import sys; sys.path.insert(0, {_CHECKOUT!r}); from bitnet_trace.cli import main; main()",
]  # fmt: skip
STATE = [sys.executable, "-I", str(PROGRAMS / "state.py")]
CAP_SYS_RESOURCE = 24

# What the user set in the shell before sudo, none of it a default. Soft limits differ from hard ones.
SHELL = (
    "umask 0001; ulimit -Sn 1009; ulimit -Hn 3001; ulimit -Sc 0; ulimit -Hc 7; ulimit -Sc 5; ulimit -Su 3000; ulimit -Sl 61; ulimit -Hl 4001; "
    "ulimit -Ss 9000; ulimit -Hs 65000; ulimit -Sf 900001; "
    "renice -n 3 $$ >/dev/null; chrt -b -p 0 $$; taskset -pc 1 $$ >/dev/null; echo 300 >/proc/$$/oom_score_adj; "
    "trap '' HUP USR2; "
)


@dataclass
class User:
    """A user who may call sudo without a password. `folder`, which is theirs, holds `home`."""

    entry: pwd.struct_passwd
    folder: Path
    gid_extra: int

    @property
    def home(self) -> Path:
        return Path(self.entry.pw_dir)

    def shell(self, script, *arguments, path=None):
        """Runs a shell of the user's, which stays while what it started runs. `path`: has a folder bin."""
        entry = self.entry
        as_user = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
        environment = {"PATH": "/opt/own/bin:/usr/bin:/bin", "HOME": entry.pw_dir, "USER": entry.pw_name}
        if path is not None:
            environment["PATH"] = f"{path}/bin:{environment['PATH']}"
        environment |= {"LOGNAME": entry.pw_name, "SHELL": "/bin/sh", "SECRET": "1", "LANG": "C.UTF-8"}
        return subprocess.run(
            [*as_user, "bash", "-c", script + "; exit $?", "bash", *map(str, arguments)],
            cwd=self.folder, capture_output=True, text=True, timeout=100, check=False, env=environment,
        )  # fmt: skip

    def sudo(self, *arguments, before=""):
        return self.shell(before + 'sudo -n "$@"', *TOOL, *arguments)


def run_quietly(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def user():
    name = f"bitnet-{os.getpid()}"
    rules = Path(f"/etc/sudoers.d/{name}")
    folder = Path(tempfile.mkdtemp(prefix="bitnet-trace-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        run_quietly("groupadd", "--system", f"{name}-g")
        run_quietly(
            "useradd",
            "--create-home",
            "--home-dir",
            folder / "home",
            "--groups",
            f"{name}-g,users",
            "--shell",
            "/bin/sh",
            name,
        )
        entry = pwd.getpwnam(name)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        rules.write_text(f"{name} ALL=(ALL:ALL) NOPASSWD: ALL\n")
        rules.chmod(0o440)
        yield User(entry, folder, grp.getgrnam(f"{name}-g").gr_gid)
    finally:
        rules.unlink(missing_ok=True)
        subprocess.run(["userdel", "-f", name], capture_output=True, check=False)
        subprocess.run(["groupdel", f"{name}-g"], capture_output=True, check=False)
        shutil.rmtree(folder)


def as_root(*command, **environment):
    """Without sudo, from a root's shell."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SUDO_")}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False, env={**clean, **environment}
    )


def state(path):
    found = json.loads(path.read_text())
    environment = found.pop("environment")
    return found, environment


def may_raise_limits():
    """A container's root often may not (no CAP_SYS_RESOURCE); sudo then leaves the core limit at 0."""
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


# ---- what the program inherits --------------------------------------------------------------------------------------


def test_all_that_a_process_inherits_is_as_untraced(user):
    assert user.shell(SHELL + '"$@"', *STATE, "untraced.json").returncode == 0
    done = user.sudo("run", "-q", "--env", "ADDED=1", "-o", "all.btrace", "--", *STATE, "traced.json", before=SHELL)
    assert (done.returncode, done.stderr) == (0, "")
    expected, own = state(user.folder / "untraced.json")
    traced, environment = state(user.folder / "traced.json")
    assert expected["Umask"] == ["0001"]
    assert expected["nice"] == 3
    assert expected["limits"]["RLIMIT_NOFILE"] == [1009, 3001]
    if not may_raise_limits():
        expected["limits"]["RLIMIT_CORE"] = traced["limits"]["RLIMIT_CORE"]
    assert traced == expected
    for name in ("HOME", "USER", "LOGNAME", "SHELL", "LANG"):
        assert environment[name] == own[name], name
    # the user's own folders in their order, then what sudo adds
    assert environment["PATH"].startswith(own["PATH"] + ":")
    assert environment["ADDED"] == "1"
    assert not {name for name in environment if name.startswith("SUDO_")}
    assert "SECRET" not in environment
    assert (user.folder / "traced.json").stat().st_mode & 0o777 == 0o666 & ~0o001


def test_in_a_terminal(user):
    script = f"sudo -n {shlex.join([*TOOL, 'run', '-q', '-o', 'tty.btrace', '--', *STATE, 'tty.json'])}"
    assert user.shell('script -qec "$1" /dev/null', shlex.join([*STATE, "tty-untraced.json"])).returncode == 0
    done = user.shell('script -qec "$1" /dev/null', script)
    assert done.returncode == 0, done.stdout
    expected, traced = state(user.folder / "tty-untraced.json")[0], state(user.folder / "tty.json")[0]
    assert traced["terminal"] == expected["terminal"] == "there is one"
    for name in ("fds", "fd_kinds", "limits", "Umask", "ignored"):
        if name != "limits" or may_raise_limits():
            assert traced[name] == expected[name], name


def test_files_that_it_can_read_are_the_users(user):
    for name, gid, mode in (("roots", 0, 0o600), ("groups", user.gid_extra, 0o640), ("others", 0, 0o604)):
        (user.folder / name).write_text(f"{name}\n")
        os.chown(user.folder / name, 0, gid)
        (user.folder / name).chmod(mode)
    done = user.sudo("run", "-q", "-o", "read.btrace", "--", "cat", "roots", "groups", "others")
    assert done.returncode == 1
    assert done.stdout == "groups\nothers\n"
    assert "roots: Permission denied" in done.stderr


def test_without_a_process_of_the_users_it_has_what_sudo_gave(user):
    """sudo called from a root's shell by su: the shell replaced itself."""
    user_part = f"exec sudo -n {shlex.join([*TOOL, 'run', '-q', '-o', 'su.btrace', '--', 'sh', '-c', 'id -u; umask'])}"
    done = as_root("su", "-c", f"cd {user.folder}; {user_part}", user.entry.pw_name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == str(user.entry.pw_uid)


# ---- root -----------------------------------------------------------------------------------------------------------


def test_as_root_under_sudo(user):
    done = user.sudo("run", "-q", "--as-root", "-o", "root.btrace", "--", "sh", "-c", "id -u; id -G; cat roots")
    assert done.stdout.splitlines()[:2] == ["0", "0"]
    assert (user.folder / "root.btrace").stat().st_uid == 0
    shutil.rmtree(user.folder / "root.btrace")


def test_root_without_sudo_is_root_and_inherits_all(tmp_path):
    shell = SHELL + 'exec 7</dev/null; "$@"; exit $?'
    for path, prefix in (
        (tmp_path / "untraced", []),
        (tmp_path / "traced", [*TOOL, "run", "-q", "-o", tmp_path / "x", "--"]),
    ):
        done = as_root("bash", "-c", shell, "bash", *prefix, *STATE, path, EXTRA="1")
        assert (done.returncode, done.stderr) == (0, "")
    (expected, own), (traced, environment) = state(tmp_path / "untraced"), state(tmp_path / "traced")
    assert expected["Uid"] == ["0"] * 4
    assert 7 in expected["fds"]
    assert traced == expected
    assert environment.keys() - own.keys() == set()
    assert {name for name in own if environment.get(name) != own[name]} <= {"_"}


def test_a_forged_sudo_uid_is_only_what_it_says(user, tmp_path):
    """Whoever can set it and is root can be any user anyway: the program has that user's rights, from the database."""
    tmp_path.chmod(0o755)
    environment = {"SUDO_UID": str(user.entry.pw_uid), "SUDO_GID": "0", "SUDO_USER": "root", "HOME": "/root"}
    done = as_root(
        *TOOL,
        "run",
        "-q",
        "-o",
        user.folder / "f.btrace",
        "--",
        "sh",
        "-c",
        'id -u; id -g; id -G; echo "$HOME"',
        **environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    uid, gid, groups, home = done.stdout.splitlines()
    assert (int(uid), int(gid), home) == (user.entry.pw_uid, user.entry.pw_gid, user.entry.pw_dir)
    assert {int(one) for one in groups.split()} == set(os.getgrouplist(user.entry.pw_name, user.entry.pw_gid))
    for forged in ("4294967294", "-1", "root", "", "1e3"):
        done = as_root(*TOOL, "run", "-q", "-o", tmp_path / "y", "--", "id", SUDO_UID=forged)
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout, len(lines)) == (1, "", 2)
        assert lines[0].endswith("is no user of this machine")
    done = user.shell('SUDO_UID=0 "$@"', *TOOL, "run", "--", "id")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("bitnet-trace: tracing needs root")


# ---- the whole way --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(user):
    """`make install` into a folder that sudo's secure_path has for this user."""
    prefix = user.folder / "prefix"
    (prefix / "bin").mkdir(parents=True)
    link = ["make", "-C", _CHECKOUT, "-o", "setup", "install", f"PREFIX={prefix}", f"VENV={Path(sys.prefix)}"]
    subprocess.run(link, check=True, capture_output=True)
    rules = Path(f"/etc/sudoers.d/{user.entry.pw_name}")
    rules.write_text(rules.read_text() + f'Defaults:{user.entry.pw_name} secure_path="{prefix}/bin:/usr/bin:/bin"\n')
    return prefix


def test_the_demo_leaves_nothing_of_roots(user, installed):
    """In a mount namespace with a /tmp of its own, where nobody else writes."""
    entry = user.entry
    inside = f"""
        mount -t tmpfs -o mode=1777 none /tmp && cd {user.folder} && mkdir -m 700 demo && chown {entry.pw_uid}:{entry.pw_gid} demo
        setpriv --reuid={entry.pw_uid} --regid={entry.pw_gid} --init-groups env -i HOME={entry.pw_dir} PATH=/usr/bin:/bin \\
            bash -c 'cd demo; sudo -n bitnet-trace demo --size tiny --tokens 4; echo "exit $?"'
        find /tmp {user.folder}/demo {entry.pw_dir} ! -user {entry.pw_name} -printf 'foreign %p %u\\n'
    """
    done = as_root("unshare", "--mount", "sh", "-c", inside)
    assert "exit 0" in done.stdout.splitlines(), done.stdout + done.stderr
    foreign = [line for line in done.stdout.splitlines() if line.startswith("foreign ") and line != "foreign /tmp root"]
    assert foreign == []
    assert "decode" in done.stdout
    models = list((user.home / ".cache/bitnet-trace").iterdir())
    assert [path.name.partition("-")[0] for path in models] == ["tiny"]
    # without root: the user's own recording can be shown and removed
    shown = user.shell("cd demo && bitnet-trace report demo.btrace --format json && rm -r demo.btrace", path=installed)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["run"]["exit_code"] == 0
    assert not (user.folder / "demo/demo.btrace").exists()


def test_commands_of_an_ordinary_user(user, installed):
    for command in ("probes /bin/true", "probes", "doctor", "--version", "run --help"):
        done = user.shell(f"bitnet-trace {command}", path=installed)
        assert done.returncode == (1 if command == "doctor" else 0), done.stderr
        assert "Traceback" not in done.stderr + done.stdout
    done = user.shell("bitnet-trace demo", path=installed)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert done.stderr.startswith("bitnet-trace: tracing needs root")


def test_a_checkout_that_the_user_cannot_read(user, tmp_path):
    """Under sudo the tool runs, the program of the demo, which is the user's, cannot be read: said in one line."""
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    os.symlink(_CHECKOUT, hidden / "checkout")
    python = hidden / "python"
    shutil.copy(os.path.realpath(sys.executable), python)
    (hidden / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    script = TOOL[-1].replace(repr(_CHECKOUT), repr(str(hidden / "checkout")))
    site = f"import sys; sys.path += {[path for path in sys.path if 'site-packages' in path or 'dist-packages' in path]!r}; "
    done = user.shell(
        'sudo -n "$@"', python, "-I", "-c", site + script, "demo", "--size", "tiny", "-o", "hidden.btrace"
    )
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (1, 2), done.stderr
    assert "cannot read" in lines[0]
    assert user.entry.pw_name in lines[0]
    assert not (user.folder / "hidden.btrace").exists()

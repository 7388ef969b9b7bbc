"""What experiments keep on the disk: results that were cut off or damaged, and whose turn it is; settings that were changed."""

import json
import os
from pathlib import Path

import pytest

from bitnet_trace.errors import TraceError
from bitnet_trace.experiment import journal
from bitnet_trace.experiment.report import require_same
from bitnet_trace.experiment.store import Store

FACTS = {"digest": "1234", "files": {"/bin/engine": [5, 6]}}
RESULT = {
    "kind": "untraced", "block": 0, "cell": 1, "levels": {"nice": "5"}, "why": None, "figures": {"wall_ns": 1e9},
    "read_back": {"threads_seen": 2, "policies": ["other"], "reserved": False},
}  # fmt: skip


@pytest.fixture
def store(tmp_path):
    made = Store.new(tmp_path / "x.experiment", None, FACTS, force=False)
    yield made
    made.close()


def test_a_result_that_was_cut_off_costs_no_other(store):
    store.add(RESULT)
    path = store.path / "results.jsonl"
    with path.open("ab") as file:
        file.write(json.dumps(RESULT).encode()[:40])
    store.add({**RESULT, "block": 2})
    assert [one["block"] for one in store.results()] == [0, 2]
    assert store.n_damaged == 1


@pytest.mark.parametrize(
    "change",
    [{"cell": [1]}, {"cell": "1"}, {"levels": "nice"}, {"levels": {"nice": 5}}, {"why": 3}, {"figures": {"wall_ns": "1"}},
     {"figures": [1]}, {"recording": 7}, {"read_back": 1}, {"steal_pct": "much"}, {"kind": None}],
)  # fmt: skip
def test_results_of_wrong_types_are_left_out_and_counted(store, change):
    store.add(RESULT)
    store.add({**RESULT, **change})
    assert list(store.results()) == [RESULT]
    assert store.n_damaged == 1


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[1]\n", b"null\n", b"{}\n", b"[" * 5000 + b"\n"])
def test_lines_that_are_no_results(store, line):
    (store.path / "results.jsonl").write_bytes(line)
    assert list(store.results()) == []
    assert store.n_damaged == 1


def test_a_folder_is_one_experiments_at_a_time(store):
    with pytest.raises(TraceError, match="another experiment is writing to"):
        Store.existing(store.path, None)
    with pytest.raises(TraceError, match="another experiment is writing to"):
        Store.new(store.path, None, FACTS, force=True)
    assert (store.path / "experiment.json").is_file()


def test_only_the_same_experiment_goes_on(store):
    require_same(FACTS, store)
    require_same({**FACTS, "files": {"/bin/other": [1, 1]}}, store)
    with pytest.raises(TraceError, match="another spec, command or seed"):
        require_same({**FACTS, "digest": "5"}, store)
    with pytest.raises(TraceError, match="/bin/engine has changed"):
        require_same({**FACTS, "files": {"/bin/engine": [5, 7]}}, store)


def test_no_links_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/experiment.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(TraceError, match="cannot be used"):
        Store.existing(tmp_path / "link", None)
    with pytest.raises(TraceError, match="does not replace it"):
        Store.new(tmp_path / "link", None, FACTS, force=True)


def test_recordings_are_made_within_the_folder_only(store, tmp_path):
    store.recordings("001-a")
    store.recordings("001-a")
    assert (store.path / "recordings/001-a").is_dir()
    (store.path / "recordings").rename(tmp_path / "moved")
    (store.path / "recordings").symlink_to(tmp_path / "moved")
    with pytest.raises(TraceError, match="cannot be written"):
        store.recordings("002-b")
    assert not (tmp_path / "moved/002-b").exists()


@pytest.mark.parametrize("kind", ["link", "writable", "file"])
def test_a_journal_that_others_could_write_is_refused(tmp_path, kind):
    folder = tmp_path / "journal"
    if kind == "link":
        (tmp_path / "real").mkdir()
        folder.symlink_to("real")
    elif kind == "file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(TraceError), journal.opened(folder):
        pass
    assert not list((tmp_path / "real").glob("*"))


@pytest.mark.parametrize("text", ["[]", "{", "3", '{"/sys/x": 3}', '{"/sys/x": {"a": "b"}}', "\udcff"])
def test_a_damaged_journal_is_told(tmp_path, text):
    folder = tmp_path / "journal"
    with journal.opened(folder):
        pass
    (folder / "settings.json").write_bytes(os.fsencode(text))
    with pytest.raises(TraceError, match="is damaged"), journal.opened(folder):
        pass


@pytest.mark.parametrize("path", ["/etc/passwd", "/sys/../etc/passwd", "/proc/self/comm"])
def test_a_journal_writes_settings_only(tmp_path, path):
    folder = tmp_path / "journal"
    folder.mkdir(mode=0o700)
    (folder / "settings.json").write_text(json.dumps({path: "x"}))
    before = Path(path).read_bytes()
    with pytest.raises(TraceError, match="is no setting of the system"), journal.opened(folder) as found:
        assert found.before == {path: "x"}
    assert Path(path).read_bytes() == before
    assert journal.leftover(folder)


def test_a_signal_within_the_setting_back_does_not_end_it(tmp_path, monkeypatch):
    calls = []

    def restore(self):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal.Journal, "restore", restore)
    with pytest.raises(KeyboardInterrupt), journal.opened(tmp_path / "journal"):
        pass
    assert len(calls) == 2


def test_two_journals_at_once(tmp_path):
    with (
        journal.opened(tmp_path / "journal"),
        pytest.raises(TraceError, match="another experiment that changes settings"),
        journal.opened(tmp_path / "journal"),
    ):
        pass

"""The example notebook, run as a reader of the docs would."""

from pathlib import Path

import nbclient
import nbformat
from busy import write_busy

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("RECORDING", str(write_busy(tmp_path / "a.btrace")))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output["data"] for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert "'decoded_tokens': 5" in shown[0]["text/plain"]
    assert "decode" in shown[1]["text/plain"]
    assert any("plotly" in kind for kind in shown[3])

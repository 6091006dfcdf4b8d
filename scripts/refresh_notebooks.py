"""Execute the notebooks with their default parameters and store the outputs, for nbval to compare.

Run it after a change of a notebook, look at the difference, commit it.
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from mtlbook.workflow.kernel import OwnKernel
from mtlbook.workflow.surroundings import environment, of_kernel

ROOT = Path(__file__).resolve().parents[1]


def refresh(path: Path) -> None:
    """Execute one notebook in place; nothing that changes from run to run is stored."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        kernel_manager_class=OwnKernel,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    with tempfile.TemporaryDirectory() as scratch, environment(of_kernel(Path(scratch))):
        client.execute()
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


def main() -> None:
    chosen = [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in chosen:
        refresh(path.resolve())
        print(path.name)


if __name__ == "__main__":
    main()

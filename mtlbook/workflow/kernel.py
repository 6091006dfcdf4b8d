"""The kernel of runs and pages; of the workflow, only what executes imports Jupyter."""

from __future__ import annotations

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default


class OwnKernel(AsyncKernelManager):
    """The kernel of this interpreter, whatever else is installed under the name ``python3``."""

    @default("kernel_spec_manager")
    def _no_folder_is_searched(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

"""Jupyter's part of the doctor: versions that fit together, the right kernel, and a slider that answers."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from queue import Empty
from subprocess import DEVNULL
from time import monotonic
from typing import Any

from ip2p_lib.course.findings import TROUBLE, Finding, in_one_line

TOGETHER = ("ipywidgets", "jupyterlab_widgets", "widgetsnbextension", "jupyterlab", "ipykernel", "comm")
FRONT_END = Path("labextensions") / "@jupyter-widgets" / "jupyterlab-manager" / "package.json"
AGAIN = "run `pip install --upgrade --force-reinstall ipywidgets jupyterlab_widgets` in this environment"
SLIDER = (
    "import ipywidgets; slider = ipywidgets.IntSlider(value=1); print('slider', slider.model_id);"
    " slider.observe(lambda change: print('heard', change['new']), names='value')"
)


def unmet(wanted: Sequence[str]) -> list[str]:
    """Requirements that this environment does not meet, each with what is there instead.

    Raises:
        ImportError: `packaging`, which reads requirements, is not installed.
    """
    from packaging.requirements import Requirement

    wrong = []
    for line in wanted:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is not installed")
            continue
        if not need.specifier.contains(found, prereleases=True):
            wrong.append(f"{need.name} {found} is outside {need.specifier}")
    return wrong


def check_jupyter(packages: Sequence[str] = TOGETHER, paths: Sequence[str] | None = None) -> Finding:
    """Whether ipywidgets, JupyterLab and ipykernel have what each asks of the others, and the page its half.

    Args:
        packages: distributions whose own requirements are checked.
        paths: Jupyter's data folders, one of which must hold the widgets' half that runs in the page.
    """
    try:
        wrong = [f"{name}: {line}" for name in packages for line in unmet(metadata.requires(name) or ())]
        if wrong:
            return Finding("jupyter", "broken", "; ".join(wrong), AGAIN)
        if paths is None:
            from jupyter_core.paths import jupyter_path

            paths = jupyter_path()
    except ImportError as error:
        return Finding("jupyter", "broken", in_one_line(error), AGAIN)
    if not any((Path(p) / FRONT_END).is_file() for p in paths):
        return Finding("jupyter", "broken", "JupyterLab lacks the widgets' half that runs in the page", AGAIN)
    versions = ", ".join(f"{n} {metadata.version(n)}" for n in ("ipywidgets", "jupyterlab", "ipykernel"))
    return Finding("jupyter", "ok", versions)


def check_kernel(folders: Sequence[str] | None = None) -> Finding:
    """Whether the kernel that notebooks name, python3, runs this interpreter and not another's.

    Args:
        folders: where kernels are looked for, in this order; None asks Jupyter.
    """
    remedy = "run `python -m ipykernel install --sys-prefix`, and `jupyter kernelspec remove python3` for the other"
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

        manager = KernelSpecManager(ensure_native_kernel=False)
        if folders is not None:
            manager.kernel_dirs = list(folders)
        try:
            program = manager.get_kernel_spec("python3").argv[0]
        except NoSuchKernel:
            return Finding("kernel", "broken", "there is no kernel named python3", remedy)
    except TROUBLE as error:
        return Finding("kernel", "broken", in_one_line(error), AGAIN)
    if program in ("python", "python3", f"python3.{sys.version_info.minor}"):
        return Finding(
            "kernel", "ok", "notebooks run in this environment"
        )  # Jupyter puts its own in its place
    if os.path.normcase(shutil.which(program) or program) == os.path.normcase(sys.executable):
        return Finding("kernel", "ok", "notebooks run in this environment")
    return Finding("kernel", "look", f"notebooks would run {program}, not {sys.executable}", remedy)


def check_widgets(seconds: float = 20, variables: Mapping[str, str] | None = None) -> Finding:
    """Start a kernel, make a slider, move it as a page would, and wait for the answer.

    Args:
        seconds: how long to wait in all.
        variables: environment of the kernel; None is this process's.
    """
    remedy = f"{AGAIN}; if a firewall guards this machine, allow connections to 127.0.0.1"
    end, kernel, client = monotonic() + seconds, None, None
    try:
        from jupyter_client.manager import KernelManager

        kernel = KernelManager(kernel_name="python3")
        kernel.start_kernel(env={**(os.environ if variables is None else variables)}, stderr=DEVNULL)
        client = kernel.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=max(0.1, end - monotonic()))
        client.execute(SLIDER, store_history=False)
        model = _printed(client, "slider ", end)
        state = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
        client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": model, "data": state}))
        answer = _printed(client, "heard ", end)
    except TROUBLE as error:
        return Finding("widgets", "broken", in_one_line(error), remedy)
    finally:
        if client is not None:
            client.stop_channels()
        if kernel is not None and kernel.has_kernel:
            kernel.shutdown_kernel(now=True)
    if answer != "7":
        return Finding("widgets", "broken", f"a slider moved to 7 answered {answer}", remedy)
    return Finding("widgets", "ok", "a slider in a kernel was moved, and answered")


def _printed(client: Any, start: str, end: float) -> str:
    """What a kernel prints behind `start`; its errors are raised, and so is silence."""
    while (left := end - monotonic()) > 0:
        try:
            message = client.get_iopub_msg(timeout=left)
        except Empty:
            break
        content = message["content"]
        if message["msg_type"] == "error":
            raise RuntimeError(f"the kernel says {content['ename']}: {content['evalue']}")
        for line in content.get("text", "").splitlines():
            if line.startswith(start):
                return line.removeprefix(start)
    raise RuntimeError(f"the kernel printed nothing that begins with '{start.strip()}' in time")

"""A host's own test suite: a project of a few files, run by pytest with our plugin."""

import os
import subprocess
import sys
from pathlib import Path

# By name, so that it runs from a tree that nobody installed, too.
PLUGIN = ["-p", "no:starlette_otp", "-p", "starlette_otp.testing.plugin"]


def run_pytest(
    folder: Path, files: dict[str, str], **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Write the files and run pytest there; what is None is not in its environment."""
    for name, text in files.items():
        (folder / name).write_text(text)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    values = {**os.environ, "PYTHONPATH": path, **env}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN],
        cwd=folder,
        env={name: value for name, value in values.items() if value is not None},
        capture_output=True,
        text=True,
    )

"""``python -m docsite [FOLDER]``: builds the site into ``FOLDER/site``, by default into ``build/site``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from docsite.pages import ROOT, Missing, settings, stage


def main(arguments: Sequence[str]) -> int:
    """Builds the site, and returns the exit code: 1 if a link leads to nothing, or for any warning."""
    if find_spec("zensical") is None:
        print("The site is built by zensical, which needs Python 3.11 or newer.", file=sys.stderr)
        return 1
    folder = Path(arguments[0]).resolve() if arguments else ROOT / "build"
    pages = folder / "pages"
    for made in (pages, folder / "site"):
        shutil.rmtree(made, ignore_errors=True)
    pages.mkdir(parents=True)
    try:
        stage(pages)
    except Missing as error:
        print(f"A link leads to nothing: {error}", file=sys.stderr)
        return 1
    (folder / "zensical.toml").write_text(settings(pages))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    path = os.pathsep.join([str(ROOT), str(ROOT / "interceptors")])
    return subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Files that are to be written."""

import os
from pathlib import Path


def check_writable(path: str | Path, name: str) -> None:
    """Raises OSError naming the flag or keyword, for a file that could not be written when its time comes."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{name}: {path} is a directory; a file is wanted")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{name}: {path.parent} does not exist, so {path} cannot be written")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{name}: {path} cannot be written: permission denied")

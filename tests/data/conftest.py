"""Fixtures that write small trees of files."""

import pytest


@pytest.fixture(scope="session")
def fill():
    """Write files into a folder, given as path -> text or bytes. None stands for a text unique to the path."""

    def write(folder, files):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                content = f"# {name}\n"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return write


@pytest.fixture(scope="session")
def repository(fill):
    """Write files into a folder that counts as the root of a git repository."""

    def write(folder, files):
        (folder / ".git").mkdir(parents=True)
        return fill(folder, files)

    return write

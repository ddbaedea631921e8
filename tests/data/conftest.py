"""Small trees of files."""

import pytest


@pytest.fixture(scope="session")
def fill():
    """Write files below a folder, given as path -> text or bytes; for None a text that no other path has."""

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
    """Fill a folder that git takes for the root of a repository."""

    def write(folder, files):
        (folder / ".git").mkdir(parents=True)
        return fill(folder, files)

    return write

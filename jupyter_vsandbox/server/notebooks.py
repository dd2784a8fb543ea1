"""Notebooks of this server: their paths, and copies of them for forks."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import nbformat
from jupyter_core.utils import ensure_async
from jupyter_server.utils import ApiPath, to_api_path, to_os_path
from tornado.web import HTTPError

from jupyter_vsandbox.domain.errors import Permanent

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_server.services.contents.manager import ContentsManager

_SUFFIX = ".ipynb"


class Notebooks:
    """Names and writes notebooks.

    Args:
        contents: the server's contents manager; may be one of coroutines.
        root: the folder that paths of the contents API are below, as kernels are told it.
    """

    def __init__(self, contents: ContentsManager, root: str) -> None:
        self._contents: Any = contents  # its methods have no types
        self._root = root

    def path(self, notebook: str) -> str | None:
        """The path for the contents API of a file of this host; `None` for one outside of the root."""
        if not os.path.isabs(notebook):
            return None
        inside = os.path.relpath(notebook, self._root)
        return (
            None
            if inside.split(os.sep, 1)[0] in {os.pardir, os.curdir}
            else to_api_path(notebook, self._root)
        )

    def file(self, path: str) -> str:
        """The inverse of `path`."""
        return to_os_path(ApiPath(path), self._root)

    async def copy(self, path: str, cells: Path) -> str:
        """Write what is in the file `cells` to a new notebook beside another one.

        Args:
            path: of the other one, for the contents API.
            cells: a notebook.

        Returns:
            the new one's path, ``NAME-fork.ipynb`` where that is free.

        Raises:
            Permanent: it cannot be read or written.
        """
        folder, _, name = path.rpartition("/")
        stem = name.removesuffix(_SUFFIX)
        try:
            content = await asyncio.to_thread(_read, cells)
            free = await ensure_async(
                self._contents.increment_filename(f"{stem}-fork{_SUFFIX}", folder, insert="-")
            )
            new = f"{folder}/{free}".lstrip("/")
            model = {"type": "notebook", "format": "json", "content": content}
            await ensure_async(self._contents.save(model, new))
        except (OSError, ValueError, nbformat.ValidationError, HTTPError) as error:
            raise Permanent(f"No copy of {path} could be written beside it: {error}") from error
        return new

    async def read(self, path: str) -> Any:  # noqa: ANN401 - a notebook
        """The content of a notebook.

        Raises:
            Permanent: it cannot be read.
        """
        try:
            model = await ensure_async(self._contents.get(path, content=True, type="notebook"))
        except (OSError, HTTPError) as error:
            raise Permanent(f"{path} cannot be read as a notebook: {error}") from error
        return model["content"]

    async def write(self, path: str, content: Any) -> None:  # noqa: ANN401 - a notebook
        """Replace the content of a notebook.

        Raises:
            Permanent: it cannot be written.
        """
        try:
            model = {"type": "notebook", "format": "json", "content": content}
            await ensure_async(self._contents.save(model, path))
        except (OSError, HTTPError) as error:
            raise Permanent(f"{path} cannot be written: {error}") from error

    async def remove(self, path: str) -> None:
        """Delete a notebook. Harmless where it is gone."""
        if await ensure_async(self._contents.file_exists(path)):
            await ensure_async(self._contents.delete(path))


def _read(path: Path) -> Any:  # noqa: ANN401 - a notebook
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]

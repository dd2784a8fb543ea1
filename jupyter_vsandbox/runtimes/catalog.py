"""Where recipes are found: the built-in folder, the site's and the user's, later ones winning by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import InvalidRequest, NotFound
from jupyter_vsandbox.runtimes import recipe as recipes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_vsandbox.runtimes.recipe import Recipe
    from jupyter_vsandbox.settings import Settings

BUILTIN = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class Broken:
    """A recipe file that cannot be used.

    Attributes:
        path: the file.
        error: what is wrong and how to mend it.
    """

    path: Path
    error: InvalidRequest


class Catalog:
    """The recipes of some folders, read once.

    Args:
        folders: searched in this order; a recipe in a later folder replaces an earlier one of the
            same name. Folders that do not exist are fine.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._recipes: dict[str, Recipe] = {}
        self._paths: dict[str, Path] = {}
        self._broken: list[Broken] = []
        self._hidden: dict[str, InvalidRequest] = {}
        self.folders = tuple(folders)
        for folder in self.folders:
            self._read(folder)

    @classmethod
    def standard(cls, settings: Settings) -> Catalog:
        """The catalog that all of the project uses: built-in, then site folders, then the user's."""
        return cls((BUILTIN, *settings.recipe_folders, settings.user_recipes))

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The files that could not be used; the others work all the same."""
        return tuple(self._broken)

    def names(self) -> list[str]:
        """The names of all usable recipes, sorted."""
        return sorted(self._recipes)

    def path(self, name: str) -> Path:
        """The file that the recipe `name` comes from.

        Raises:
            NotFound: as `get`.
        """
        self.get(name)
        return self._paths[name]

    def get(self, name: str) -> Recipe:
        """The recipe called `name`.

        Raises:
            NotFound: there is none; the message lists what exists.
            InvalidRequest: the winning file of that name is broken. An older recipe of the same
                name is not used in its place, because it is not what was asked for.
        """
        if name in self._hidden:
            raise self._hidden[name]
        if name not in self._recipes:
            existing = ", ".join(self.names()) or "none at all"
            raise NotFound(f"There is no runtime {name!r}. There is: {existing}.")
        return self._recipes[name]

    def _read(self, folder: Path) -> None:
        here: dict[str, Path] = {}
        for path in sorted(folder.glob("*.toml")):
            try:
                recipe = recipes.load(path)
                if recipe.name in here:
                    raise InvalidRequest(
                        f"{path}: name: {recipe.name!r} is also the name in {here[recipe.name].name}. "
                        "Give one of them another name."
                    )
            except InvalidRequest as error:
                self._broken.append(Broken(path, error))
                if path.stem not in here:
                    self._hidden[path.stem] = error
                    self._recipes.pop(path.stem, None)
                continue
            here[recipe.name] = path
            self._hidden.pop(recipe.name, None)
            self._recipes[recipe.name] = recipe
            self._paths[recipe.name] = path

"""Recipes of a config's `recipes`: one with other switches, or a sweep, where a switch has several values. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, create_model

from clipkd.core.errors import InputError, nearest
from clipkd.plugins import recipes
from clipkd.spec.fields import Settings, distinct, setting

MOST = 10_000
"""Settings of a sweep."""
ONE, SEVERAL = "[one]", "[several]"
"""Marks of a value and of a list of values in the place of an error."""


class BasedRecipe(Settings):
    """A recipe of the user's own, without its switches."""

    base: Annotated[str, Field(min_length=1, max_length=63)] = setting(
        ..., "The recipe whose switches it has, but for those that follow: a name, or another key of `recipes`."
    )

    @property
    def values(self) -> dict[str, Any]:
        """Switch or hyperparameter -> its value, or the list of values of an axis."""
        return self.model_dump(exclude_unset=True, exclude={"base"})


def axis(kind: Any) -> Any:
    """Return the type of a value, or of a list of different ones."""
    several = Annotated[list[kind], Field(min_length=1, max_length=1000), AfterValidator(distinct)]
    which = Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE)
    return Annotated[Annotated[kind, Tag(ONE)] | Annotated[several, Tag(SEVERAL)], which]


if TYPE_CHECKING:
    OwnRecipe = BasedRecipe
else:
    OwnRecipe = create_model(
        "OwnRecipe",
        __base__=BasedRecipe,
        **{name: (axis(kind), setting(None, recipes.DESCRIPTIONS[name])) for name, kind in recipes.KINDS.items()},
    )

Own = Mapping[str, OwnRecipe]
"""A config's `recipes`."""


def merged(key: str, own: Own, above: tuple[str, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Return the package's recipe that a key is based on in the end, and all values over it.

    Raises:
        InputError: the base is unknown, or bases form a circle.
    """
    above = (*above, key)
    base = own[key].base
    if base in above:
        raise InputError(f"these recipes are based on each other in a circle: {' -> '.join([*above, base])}")
    if base in own:
        root, inherited = merged(base, own, above)
        return root, inherited | own[key].values
    known = [*recipes.names(), *own]
    if base.lower() not in known:
        raise InputError(f"unknown recipe '{base}'{nearest(base, known)} (known: {', '.join(known)})")
    return recipes.get(base).name, own[key].values


def settings(key: str, own: Own) -> dict[str, str]:
    """Return name -> recipe, as the command line takes it, of each setting of a key: the product of its lists.

    A name has the values of lists in it and no others.
    """
    base, values = merged(key, own)
    axes = {switch: found for switch, found in values.items() if isinstance(found, list)}
    count = math.prod(map(len, axes.values()))
    if count > MOST:
        raise InputError(f"its lists have {count:,} combinations, more than {MOST:,}")
    made = {}
    for chosen in itertools.product(*axes.values()):
        here = dict(zip(axes, chosen, strict=True))
        name = recipes.setting_name(key, here)
        made[name] = recipes.text(name, base, values | here)
    return made


def named(name: str, own: Own) -> list[str]:
    """Return the recipes that a name in a grid stands for, as the command line takes them; unknown ones as they are."""
    if name in own:
        return list(settings(name, own).values())
    key = name.partition("?")[0]
    if key != name and key in own:
        raise InputError(
            f"recipe '{name}': '{key}' is one of `recipes`: give its switches there, or in another with base: {key}"
        )
    key = name.partition(".")[0]
    return [settings(key, own).get(name, name) if key in own else name]


def sweeps(own: Own) -> dict[str, list[str]]:
    """Return key -> the recipes of each sweep, as the command line takes them."""
    return {key: named(key, own) for key in own if any(isinstance(one, list) for one in merged(key, own)[1].values())}

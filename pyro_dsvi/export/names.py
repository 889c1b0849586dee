"""The names that dimensions have once exported, and their labels.

A plate's dimension has the plate's name, and one of an event the name that the caller gives it in
``dims``, or ``{site}_dim_{i}``.  A plate whose name is also that of a variable, or of arviz's own
dimensions, is called ``{plate}_plate``, since xarray tells neither pair apart.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pyro_dsvi.errors import InvalidArgument
from pyro_dsvi.export.groups import SAMPLE_DIMS
from pyro_dsvi.export.sites import Site


class Names:
    """Gives each site's dimensions their names.

    Args:
        dims: names by variable: of its event's dimensions, or of all its dimensions.
        variables: names of all variables.
    """

    def __init__(
        self, dims: Mapping[str, Sequence[str]] | None, variables: Collection[str]
    ) -> None:
        self.dims = {name: tuple(given) for name, given in (dims or {}).items()}
        self.variables = variables
        unknown = sorted(set(self.dims) - set(variables))
        if unknown:
            raise InvalidArgument(
                f"dims: there is no variable {', '.join(map(repr, unknown))} to export; there are "
                f"{', '.join(map(repr, sorted(variables)))}"
            )

    def of_plates(self, site: Site) -> tuple[str, ...]:
        """Names of a site's plates, outermost first."""
        given = self.dims.get(site.name, ())
        if given and len(given) == len(site.plates) + site.event_dim:
            return given[: len(site.plates)]
        return tuple(self.of_plate(name) for name, _, _ in site.plates)

    def of_plate(self, name: str) -> str:
        """Name of a plate's dimension."""
        return f"{name}_plate" if name in self.variables or name in SAMPLE_DIMS else name

    def of_site(self, site: Site) -> tuple[str, ...]:
        """Names of a site's plates, outermost first, then of its event's dimensions.

        Raises:
            InvalidArgument: if the caller gave another number of names.
        """
        plates = self.of_plates(site)
        event = self.dims.get(
            site.name, tuple(f"{site.name}_dim_{i}" for i in range(site.event_dim))
        )
        if len(event) == len(plates) + site.event_dim:
            return event
        if len(event) == site.event_dim:
            return plates + event
        raise InvalidArgument(
            f"dims[{site.name!r}]: got {len(event)} names, but the variable has {site.event_dim} "
            f"dimensions besides its plates {plates}; name these alone, or all of them"
        )

    def of_array(self, name: str, ndim: int) -> tuple[str, ...]:
        """Names of the dimensions of an array that is no site.

        Raises:
            InvalidArgument: if the caller gave another number of names.
        """
        given = self.dims.get(name, tuple(f"{name}_dim_{i}" for i in range(ndim)))
        if len(given) != ndim:
            raise InvalidArgument(f"dims[{name!r}]: got {len(given)} names for {ndim} dimensions")
        return given


def refuse_unknown(argument: str, coords: Mapping[str, Iterable[Any]], dims: set[str]) -> None:
    """Refuse labels for dimensions that do not exist.

    Raises:
        InvalidArgument: if there are any.
    """
    unknown = sorted(set(coords) - dims)
    if unknown:
        raise InvalidArgument(
            f"{argument}: there is no dimension {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(map(repr, sorted(dims))) or 'none'}"
        )

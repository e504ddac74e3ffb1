"""Finding adapters: each is an entry point of the group `lastwrite.hypervisors`, the built-in ones too."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from hypervisors.base import Hypervisor
from hypervisors.errors import UnknownHypervisorKindError
from lastwrite.names import nearest_hint

GROUP = "lastwrite.hypervisors"


def kinds() -> list[str]:
    """Return the kinds of hypervisor for which an adapter is installed."""
    return sorted(_adapters())


def adapter(kind: str) -> type[Hypervisor]:
    """Return the adapter class of a kind; raises UnknownHypervisorKindError, also where it does not load."""
    found = _adapters().get(kind)
    if found is None:
        hint = nearest_hint(kind, kinds(), "Install the adapter.")
        raise UnknownHypervisorKindError(f"{kind!r}: no adapter for this kind of hypervisor", hint=hint)
    return _load(found)


def kind_of(url: str) -> str:
    """Return the kind of hypervisor that a URL belongs to, by its scheme.

    Raises UnknownHypervisorKindError naming the schemes that are known.
    """
    scheme = url.partition("://")[0].partition("+")[0] if "://" in url else ""
    schemes = {name: kind for kind, found in _adapters().items() for name in _schemes(found)}
    if scheme in schemes:
        return schemes[scheme]
    known = ", ".join(f"{name}://" for name in sorted(schemes))
    raise UnknownHypervisorKindError(
        f"{url!r}: its scheme belongs to no adapter",
        hint=f"A URL begins with one of {known} (as in qemu:///system).",
    )


def open_hypervisor(name: str, kind: str | None, url: str) -> Hypervisor:
    """Return a hypervisor, not yet connected; `kind` None takes it from the URL."""
    return adapter(kind or kind_of(url))(name, url)


def _adapters() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _schemes(entry: EntryPoint) -> tuple[str, ...]:
    try:
        return _load(entry).schemes
    except UnknownHypervisorKindError:
        return ()  # an adapter whose library is missing must not hide the others


def _load(entry: EntryPoint) -> type[Hypervisor]:
    try:
        loaded = entry.load()
    except ImportError as error:
        raise UnknownHypervisorKindError(
            f"{entry.name}: its adapter cannot be loaded: {error}", hint=f"Install what {entry.value} needs."
        ) from None
    if not (isinstance(loaded, type) and issubclass(loaded, Hypervisor)):
        raise UnknownHypervisorKindError(
            f"{entry.name}: {entry.value} is not a Hypervisor",
            hint="Correct the entry point of that package.",
        )
    return loaded

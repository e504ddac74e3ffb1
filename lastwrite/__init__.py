"""The words that every part of Lastwrite shares: ids, errors, configuration, the catalog.

The lowest layer: it imports no other package of the project. This file stays empty of imports,
because the agent in a guest carries it too.
"""

__version__ = "0.1.0"

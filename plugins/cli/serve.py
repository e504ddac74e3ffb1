"""`lastwrite serve`."""

from __future__ import annotations

from plugins.cli.options import Config, State, settings_of

EXAMPLES = {"serve": ("lastwrite serve --state /var/lib/lastwrite",)}


def serve(config: Config = None, state: State = None) -> None:
    """Run the server: ingest, views and control, until it is told to end.

    Three processes: ingest takes the change streams, views serves points as network block devices, control
    answers the other commands. A process that ends is started again; losing control never stops ingest.
    SIGTERM or Ctrl-C end all of them. Their logs are in the directory `logs` of the state directory.
    """
    from plugins.server.supervisor import serve as run

    run(settings_of(config, state), config)

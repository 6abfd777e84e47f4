"""What can go wrong with a server: one error, whose message names the file to read or the command to type."""

OWN_SERVERS_HINT = (
    "To use servers of your own instead, set ROWFLOW_SOURCE__URL and ROWFLOW_SINK__URL "
    "(mysql://USER:PASSWORD@HOST:PORT) and ROWFLOW_KAFKA__BOOTSTRAP_SERVERS (HOST:PORT)."
)


class ServerError(Exception):
    """A server can't be installed, started, reached or ended."""

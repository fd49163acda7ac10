"""What the client library raises."""


class ClientError(Exception):
    """The registry refused a command; the text is the registry's own message."""


class ConnectionLost(ClientError):
    """There is no connection, or it broke before the answer: whether the command was carried out is unknown."""

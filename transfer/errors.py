"""The one exception that callers of this package handle."""

from local import CommandError


class TransferError(CommandError):
    """An export or import that cannot be done. The message is one line, which names the cause and the valid choices."""

"""The exceptions that users are meant to read: one line each."""


class InputError(ValueError):
    """Something given from outside (config, file, array, model) cannot be used.

    The message is one line: what is wrong, where (key or path), the value
    found, and what is allowed or what to do.
    """

    def __init__(self, message: str) -> None:
        # What it quotes comes from outside, too.
        super().__init__(" ".join(message.split()))


class StorageError(OSError):
    """A file cannot be written: the disk is full, a quota reached, the folder read-only.

    What was there under its name before is still there.
    """

"""The one exception that users are meant to read."""


class InputError(ValueError):
    """Something given from outside (config, file, array, model) cannot be used.

    The message is one line: what is wrong, where (key or path), the value
    found, and what is allowed or what to do.
    """

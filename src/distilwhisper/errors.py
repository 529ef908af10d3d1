"""What can go wrong through no fault of the program: each is told in one line."""


class DistilwhisperError(Exception):
    """An input, a file or a machine is not as it must be; the message says what and where.

    Settings and arguments that cannot be are a ``ValueError``, files that cannot be opened an
    ``OSError``.
    """

    exit_status = 1

"""The exit codes of all commands."""

DONE = 0
ERROR = 1  # described on standard error
USAGE = 2  # an argument is missing, unknown or invalid, or two contradict each other: argparse's errors, and ConfigError
STOPPED_EARLY = 3  # training could not continue; the model is saved
SIGNAL = 128  # plus the number of the signal that ended the command; if training had begun, the model is saved
BROKEN_PIPE = 141  # the reader of the output closed the pipe: 128 + SIGPIPE, as if the signal had ended the program


class Ended(Exception):
    """Ends the command with this exit code and a message on standard error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

"""Exit codes, the same in every command."""

DONE = 0
ERROR = 1  # told on standard error
USAGE = 2  # an argument is missing, unknown or impossible, or two contradict each other: argparse's errors, and ConfigError
STOPPED_EARLY = 3  # a training that could not continue; the model is saved
SIGNAL = 128  # plus the number of the signal that ended the command; of a training that had begun the model is saved
BROKEN_PIPE = 141  # nobody reads the output any more; what the system does to programs that do not look


class Ended(Exception):
    """The command ends with this exit code, and a sentence on standard error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

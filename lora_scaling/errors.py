"""Define the errors that this project raises on purpose.

LoraScalingError
├── UserError          the input cannot be used: exit status 2
│   ├── RecordError    a stored file is not valid
│   └── UnwritableError   a folder that cannot be written, or a full disk
└── RunFailure         the work itself failed: exit status 1
    ├── OutOfMemory    … because the device had too little memory
    └── DeviceLost     … because its GPU failed, which this process cannot use again
"""


class LoraScalingError(Exception):
    """Base of every error that this project raises on purpose; its text is one sentence for the user."""

    exit_status = 1


class UserError(LoraScalingError):
    """Bad input. The text is `FIELD: got VALUE; what is allowed or what to do`, without a full stop.

    FIELD is a setting, an option or a file; without a value the text is `FIELD: missing; …`. Commands put their name in
    front (`commands/cli.py`), and tests/contract/test_errors.py checks the form of every text.
    """

    exit_status = 2


class RecordError(UserError):
    """A run record or table that cannot be read."""


class UnwritableError(UserError):
    """A folder of records that cannot be written, or whose disk is full."""


class RunFailure(LoraScalingError):
    """A run that started but could not be finished."""


class OutOfMemory(RunFailure):
    """A run that needed more memory than its device has."""


class DeviceLost(RunFailure):
    """A run whose GPU failed, so that every further run of this process would fail as well."""


def one_line(error: BaseException) -> str:
    """Write an error of any origin in one line, with its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""What a user can be told.

LoraScalingError
├── UserError          the input cannot be used: exit status 2
│   ├── RecordError    a stored file is not what it should be
│   └── UnwritableError   a folder that cannot be written, or a full disk
└── RunFailure         the work itself failed: exit status 1
    └── OutOfMemory    … because the device's memory did not suffice
"""


class LoraScalingError(Exception):
    """Base of every error this project raises on purpose; its text is one sentence for a person."""

    exit_status = 1


class UserError(LoraScalingError):
    """Bad input: the text names the field, the value received, what is allowed, and the remedy."""

    exit_status = 2


class RecordError(UserError):
    """A run record or table that cannot be read."""


class UnwritableError(UserError):
    """A folder of records that cannot be written, or whose disk is full."""


class RunFailure(LoraScalingError):
    """A run that was started and could not be finished."""


class OutOfMemory(RunFailure):
    """A run that needed more memory than its device has."""

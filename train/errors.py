"""The error that a user of the command line can put right."""


class TrainError(Exception):
    """What was asked for cannot be done; the message says why and what to do instead."""

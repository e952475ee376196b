"""Errors that are the user's to mend: shown as one message, without a traceback."""


class UserError(ValueError):
    """Says what is wrong, where, and what to do."""

"""What can go wrong in the demo: one error, whose message is what it ends with."""


class DemoError(Exception):
    """Something that the demo promises did not hold, or can't be tried here."""

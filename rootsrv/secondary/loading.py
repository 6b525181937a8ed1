"""Why an instance has nothing to start with."""


class LoadingFailed(Exception):
    """The zones cannot be served; what was served before stays served."""

"""What can go wrong with a run and its store."""


class CoordinatorError(Exception):
    """Base of every error that this package raises on purpose."""


class StoreError(CoordinatorError):
    """Base of what can go wrong between a role and its store."""


class StoreUnavailable(StoreError):
    """The store cannot be reached; worth another try."""


class StoreFull(StoreError):
    """The store has no memory left for a write."""


class StoreRefused(StoreError):
    """The store refused for good: authentication, a permission or a server that is too old."""


class MissingBlob(StoreError):
    """A blob that a document names is not there, or its bytes do not match their digest."""


class DamagedDocument(StoreError):
    """A document in the store is not what a role writes there; the message names its key."""


class LeaseLost(StoreError):
    """A write was refused because its lease has passed to another holder."""


class ExperimentError(CoordinatorError):
    """An experiment file or an override cannot be used; the message names the key."""


class RunConflict(CoordinatorError):
    """Another run exists under the same name, or none where one was."""


class RunFailed(CoordinatorError):
    """A run ended before its last round; the message says why."""

"""What can be wrong with a model, a data set or a setting."""


class LearningError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(LearningError):
    """A setting has a value that cannot be used, alone or beside another."""


class ModelError(LearningError):
    """A layer, exit or cut does not fit the network; the message names the layer."""


class DataError(LearningError):
    """A data set is unknown, missing, unreadable or of the wrong form."""


class TensorError(LearningError):
    """Bytes that should hold tensors do not: wrong type, shape, size or value."""


class NonFiniteError(TensorError):
    """A value, or what comes of it, is NaN or infinite."""

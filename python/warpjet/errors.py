"""Exceptions of warpjet that are not Python's own.

A wrong value is ValueError, a wrong type TypeError, an unsupported wish NotImplementedError, a missing file OSError.
"""

from warpjet._native import DeviceError, EngineError, ModelFormatError, QueueFullError

__all__ = ["DeviceError", "EngineError", "ModelFormatError", "QueueFullError"]

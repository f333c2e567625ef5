"""ONNX Runtime for hwbench."""

from hwbench_onnxruntime.adapter import OnnxRuntimeBackend

__all__ = ["OnnxRuntimeBackend"]

"""hwbench adapter for OpenVINO: IR files, quantised by NNCF, run by OpenVINO's device plugins."""

from __future__ import annotations

from hwbench_openvino.adapter import OpenVINOBackend

__all__ = ["OpenVINOBackend"]

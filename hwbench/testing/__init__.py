"""For authors of adapters and scenarios: conformance suites, a reference backend, a small model."""

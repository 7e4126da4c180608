"""One harness for the speed of the engine: ``python -m benchmarks``."""

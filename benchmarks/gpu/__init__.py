"""The parts of benchmarks/gpu_check.py: each `check_NAME(report)` writes rows into a report."""

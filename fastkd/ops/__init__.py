"""The operations the project exists for: one folder each, an obvious reference beside its kernels."""

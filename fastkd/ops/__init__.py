"""The operations the project exists for: a folder each, with a plain reference beside its kernels."""

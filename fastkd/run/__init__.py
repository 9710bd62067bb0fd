"""Carries out a recipe in a run folder: stages in order, networks as files, figures and charts."""

from fastkd.run.run import (
    Run,
    carry_out,
    check,
    count_parameters,
    create_folder,
    load_network,
    open_run,
    read_results,
    seed_folders,
)

__all__ = [
    "Run",
    "carry_out",
    "check",
    "count_parameters",
    "create_folder",
    "load_network",
    "open_run",
    "read_results",
    "seed_folders",
]

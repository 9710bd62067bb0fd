"""Carries out a recipe in a run folder: its stages in order, networks as files, figures and charts."""

from fastkd.run.folder import create_folder, folder_of_job, holds_run, open_run, read_results, seed_folders
from fastkd.run.job import Job, open_data, tell_of
from fastkd.run.run import (
    Run,
    check,
    count_parameters,
    load_network,
)
from fastkd.run.seeds import carry_out

__all__ = [
    "Job",
    "Run",
    "carry_out",
    "check",
    "count_parameters",
    "create_folder",
    "folder_of_job",
    "holds_run",
    "load_network",
    "open_data",
    "open_run",
    "read_results",
    "seed_folders",
    "tell_of",
]

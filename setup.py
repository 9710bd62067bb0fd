"""The metadata stands in pyproject.toml; the compiled extension will be declared here."""

from setuptools import setup

setup()

"""Carries out many recipes as one plan: each training that they share is done once, in a folder of its own."""

from fastkd.plan.cells import Cell, Plan
from fastkd.plan.nodes import Node

__all__ = ["Cell", "Node", "Plan"]

"""The main job on a real problem: ground states of spin chains by variational Monte Carlo.

`python -m ngdla demo` runs it; `run.run_demo` is the same from Python.
"""

from ngdla.demo.problems import SYSTEMS, Problem, make_problem, quick

__all__ = ["SYSTEMS", "Problem", "make_problem", "quick"]

"""How to spend labels: the scaling law of the residual variance, the split, and the planner. Pure NumPy/SciPy.

Source: Wang, Ye & Zhao, arXiv 2511.19486 (FTR), section 4.2 and EC.2; cross-fitting goes beyond it.
"""

from ftrect_ray.allocation.fitting import LawFit, fit_scaling_law, s_star_interval
from ftrect_ray.allocation.planner import Design, Plan, labels_for_half_width, plan
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import Feasibility, Split, feasibility, optimal_split, s_star

__all__ = [
    "Design",
    "Feasibility",
    "LawFit",
    "Plan",
    "ScalingLaw",
    "Split",
    "feasibility",
    "fit_scaling_law",
    "labels_for_half_width",
    "optimal_split",
    "plan",
    "s_star",
    "s_star_interval",
]

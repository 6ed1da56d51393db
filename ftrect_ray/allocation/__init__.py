"""How to spend labels: the scaling law of the residual variance, the designs, the planner, and whom to ask next.

Pure NumPy/SciPy. Source: Wang, Ye & Zhao, arXiv 2511.19486 (FTR), section 4.2 and EC.2; cross-fitting goes beyond it.
"""

from ftrect_ray.allocation.adjustment import adjusted_variances
from ftrect_ray.allocation.candidates import Choice, choose_model, plan_models
from ftrect_ray.allocation.costs import Compute, Prices
from ftrect_ray.allocation.curves import Curve, DrawnLaw, MeasuredCurve
from ftrect_ray.allocation.design import Design
from ftrect_ray.allocation.fitting import LawFit, fit_scaling_law, s_star_interval
from ftrect_ray.allocation.planner import plan
from ftrect_ray.allocation.power import labels_for_power, power, std_error_of_difference
from ftrect_ray.allocation.ramp_up import next_size
from ftrect_ray.allocation.sampling import NextLabels, draw, inclusion_probabilities, next_labels, residual_spread
from ftrect_ray.allocation.scaling_law import ScalingLaw
from ftrect_ray.allocation.split import Feasibility, Split, feasibility, optimal_split, s_star
from ftrect_ray.allocation.table import Plan
from ftrect_ray.allocation.widths import Offer, cheapest, labels_for_half_width

__all__ = [
    "Choice",
    "Compute",
    "Curve",
    "Design",
    "DrawnLaw",
    "Feasibility",
    "LawFit",
    "MeasuredCurve",
    "NextLabels",
    "Offer",
    "Plan",
    "Prices",
    "ScalingLaw",
    "Split",
    "adjusted_variances",
    "cheapest",
    "choose_model",
    "draw",
    "feasibility",
    "fit_scaling_law",
    "inclusion_probabilities",
    "labels_for_half_width",
    "labels_for_power",
    "next_labels",
    "next_size",
    "optimal_split",
    "plan",
    "plan_models",
    "power",
    "residual_spread",
    "s_star",
    "s_star_interval",
    "std_error_of_difference",
]

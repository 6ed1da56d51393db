"""The model f: backbone, readout and tokenizer, and the folder that it is kept in."""

from ftrect_ray.predictor.predictor import Predictor, Scale, Scores

__all__ = ["Predictor", "Scale", "Scores"]

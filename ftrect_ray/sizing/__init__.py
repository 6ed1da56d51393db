"""Will it fit? What a fine-tune needs of GPU, host and disk, from a model's configuration alone: no weights are read.

``presets`` are built-in configurations. ``architecture`` builds the model without numbers and counts its parameters,
``walk`` runs a step of it without numbers and counts what is alive, ``states`` knows what DeepSpeed keeps,
``planner`` compares the settings.
"""

from ftrect_ray.sizing.states import Cluster, Setting

__all__ = ["Cluster", "Setting"]

"""goat-ray: cohort-scale ensemble segmentation of multi-modal brain-tumour MRI on Ray."""

from importlib.metadata import version

__version__ = version("goat-ray")

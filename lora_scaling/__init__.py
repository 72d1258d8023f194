"""lora-scaling: measure, test and predict the energy and carbon of fine-tuning language models."""

__version__ = "0.1.0"

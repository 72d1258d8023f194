"""Train models. This is the only package that imports torch, transformers, peft and bitsandbytes."""

import logging
import os

# On import, bitsandbytes warns about an optional kernel package that is not needed here.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# Tokenizers start worker threads that deadlock with data loaders; one thread is fast enough here.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One progress line is enough, and this program prints its own.
os.environ.setdefault("TQDM_DISABLE", "1")
# CUDA would number different GPUs fastest first, NVML and people by PCI bus. Read at the driver's first call.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

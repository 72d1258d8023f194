"""The training room: data, models and the engine; the only room with torch, transformers, peft and bitsandbytes."""

import logging
import os

# bitsandbytes warns on import of an optional kernel package that few have and no one here needs.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# Tokenizers fork worker threads that deadlock with data loaders; one thread is fast enough for what we tokenise.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One moving line is enough, and it is ours.
os.environ.setdefault("TQDM_DISABLE", "1")

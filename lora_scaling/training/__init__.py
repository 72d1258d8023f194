"""The training room: data, models and the engine; the only room with torch, transformers, peft and bitsandbytes."""

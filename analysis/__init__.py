"""lora-scaling's analysis room: from a table of runs to verdicts, fits, extrapolations and a report."""

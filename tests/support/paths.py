"""Where the tests find the checkout, and the data that lies beside it."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUDY_RUNS = ROOT / "docs" / "study" / "runs"  # the records of the published study
SHARED_DATA = Path(os.environ.get("LORA_SCALING_SHARED", ROOT.parent / "shared")) / "data"

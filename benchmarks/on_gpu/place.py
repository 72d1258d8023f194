"""Where a step runs: its folder, the size of its work, and the commands of this program."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scaling.records import find_records, read_record

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of one step.

    small: tiny models, for a CPU. simulated: GPU 0 is a stand-in whose counter follows a known power; the work is done
        on the CPU.
    """

    folder: Path
    small: bool
    simulated: bool
    data: Path | None = None
    gguf: Path | None = None

    @property
    def sized(self) -> list[str]:
        """The settings of a short run: its model, samples and lengths."""
        if self.small:
            words = ["model=ladder-1m", "samples=16", "batch_size=4", "max_seq_len=64", "eval_samples=2"]
            words.append("exclusive_device=false")  # whether it is fast is not what is looked at
        else:
            words = ["model=qwen2.5-0.5b", "model.weights=random", "samples=512", "batch_size=8", "max_seq_len=512"]
            if self.data is not None:
                words += ["data=file", f"data.path={self.data}"]
        # The stand-in computes nothing, so that it is measured only if it is named.
        return [*words, "metering.idle_s=0", *(["metering.gpu_ids=[0]"] if self.simulated else [])]

    def command(self, *words: str) -> str:
        """Run `python -m WORDS`, keep what it wrote in the step's log, and return its stdout."""
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
        with (self.folder / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"$ python -m {' '.join(words)}\n{done.stdout}{done.stderr}(status {done.returncode})\n\n")
        if done.returncode not in (0, 1):
            raise RuntimeError(
                f"python -m {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
            )
        return done.stdout

    def runs(self, *words: str, sweep: bool = False) -> list[Record]:
        """Carry out a run or a sweep with these settings, and return its records."""
        chosen = [*self.sized, *words]
        given = {word.partition("=")[0]: word for word in chosen}  # the last of each name
        folder = f"runs_dir={self.folder / 'runs'}"
        self.command("lora_scaling", *(["-m"] if sweep else []), folder, "study=acceptance", *given.values())
        return self.records()

    def records(self) -> list[Record]:
        found = find_records([self.folder / "runs"])
        return sorted((dict(read_record(path)) for path in found), key=lambda record: str(record["started_at"]))


def phase(record: Record, name: str) -> Record:
    """The window of this name."""
    return next(phase for phase in record["energy"]["phases"] if phase["name"] == name)


def last_document(text: str) -> Any:
    """The JSON document that a command printed."""
    return json.loads(text[text.index("{") :])

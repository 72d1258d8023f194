"""Keep the energy of a run that is killed and continued: what each of its parts measured, in a file of its own.

A part writes its file again and again while it trains, so that what a killed one spent is known up to seconds before
its end. In the run's account, windows whose work was kept have their names; those whose work was lost with the process,
and done again, are `lost`. Of a run in several processes, each writes files of its own, in a folder that all share.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from lora_scaling.energy.measurement import (
    ComponentEnergy,
    EnergyAccount,
    GpuEnergy,
    IdleBaseline,
    PhaseEnergy,
    TimelineBin,
    iso,
    merge_bins,
)
from lora_scaling.energy.ranks import combine
from lora_scaling.energy.windows import short_window_warnings
from lora_scaling.errors import UnwritableError, UserError
from lora_scaling.records import now, write_text
from lora_scaling.records.timeline import COMPONENTS

PARTS_NAME = ".parts"  # the folder beside a record
LOST = "lost"
NOTE_EVERY_S = 10.0
MOST_BINS = 2000  # of a part's timeline while it is being made
_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is known of a part of a run, from one process, or from all `processes` of it together.

    account: None if a process was killed before its first window ended.
    longest_s: the longest time between two notes; a killed process lived no longer than this after its last one.
    """

    number: int
    rank: int
    processes: int
    started_at: str
    seen_at: str
    host: str
    first_step: int
    step: int
    ended: str | None
    longest_s: float
    account: EnergyAccount | None


class Parts:
    """The parts of a run, in `folder`: the earlier ones, and what this process does of the one that begins."""

    def __init__(
        self, folder: Path, host: str, *, number: int | None = None, rank: int = 0, processes: int = 1
    ) -> None:
        """Read the earlier parts, and begin one.

        number: that of the part, if several processes share it; None for the next one.

        Raises:
            UserError: the file of an earlier part cannot be read.
            UnwritableError: the folder cannot be written.
        """
        self.folder = folder
        self._number = next_part(folder) if number is None else number
        self.earlier = [part for part in _read_all(folder) if part.number < self._number]
        self._host, self._rank, self._processes = host, rank, processes
        self._started_at = now()
        self._noted_s = time.monotonic()
        self._longest_s = 0.0
        self.first_step = self.step = 0
        self._kept: dict[str, int] = {}
        self.warning: str | None = None
        self._write(None, ended=None)

    def refuse_unshared(self) -> None:
        """Refuse a folder that this process does not share with the first.

        Raises:
            UserError: the file that the first one has begun cannot be seen here.
        """
        if not _file(self.folder, self._number, 0).exists():
            raise UserError(
                f"resume: got auto, but process {self._rank} on {self._host} does not see what the first one writes to "
                f"{self.folder}; give a runs_dir that all processes share, or use resume=never"
            )

    @property
    def started_at(self) -> str:
        """When the first part started."""
        return min(part.started_at for part in [*self.earlier, self._part(None, None)])

    def continue_from(self, step: int, kept: Mapping[str, int]) -> None:
        """Note the checkpoint from which this part continues: its step, and the windows of each part that led to it."""
        self.first_step = self.step = step
        self._kept = dict(kept)

    def is_due(self) -> bool:
        """Return whether it is time for the next note."""
        return time.monotonic() - self._noted_s >= NOTE_EVERY_S

    def note(self, account: EnergyAccount, step: int, ended: str | None = None) -> None:
        """Write what this part has measured so far; a file that cannot be written costs no run, only a warning."""
        moment_s = time.monotonic()
        self._longest_s = max(self._longest_s, moment_s - self._noted_s)
        self._noted_s, self.step = moment_s, step
        try:
            self._write(account, ended)
        except UnwritableError as error:
            self.warning = f"The energy of this part could not be kept for the case that it is killed: {error}"

    def kept_until(self, windows: int) -> dict[str, int]:
        """Return the windows of each part that lead to a checkpoint after so many windows of this one."""
        return {**self._kept, str(self._number): windows}

    def joined(self, account: EnergyAccount, ended: str) -> EnergyAccount:
        """Return the account of the whole run: that of this part, after those of the earlier ones."""
        if not self.earlier:
            return account
        accounts = [_kept_and_lost(part, self._kept.get(str(part.number), 0)) for part in self.earlier]
        known = [earlier for earlier in accounts if earlier is not None]
        last = self._part(account, ended)
        parts = tuple(
            _described(part, joined) for part, joined in zip([*self.earlier, last], [*accounts, account], strict=True)
        )
        phases = tuple(phase for one in [*known, account] for phase in one.phases)
        verdicts = [one.exclusive for one in [*known, account]]
        warnings = {w["message"]: w for one in [*known, account] for w in one.warnings if w["kind"] != "short_window"}
        return EnergyAccount(
            host=",".join(dict.fromkeys(part.host for part in [*self.earlier, last])),
            phases=phases,
            bins=tuple(piece for one in [*known, account] for piece in one.bins),
            idle=account.idle,
            exclusive=False if False in verdicts else None if None in verdicts else True,
            conditions=account.conditions,
            warnings=(*warnings.values(), *short_window_warnings(phases), {"kind": "resumed", "message": _said(parts)}),
            parts=parts,
        )

    def _part(self, account: EnergyAccount | None, ended: str | None) -> Part:
        return Part(
            number=self._number,
            rank=self._rank,
            processes=self._processes,
            started_at=self._started_at,
            seen_at=now(),
            host=self._host,
            first_step=self.first_step,
            step=self.step,
            ended=ended,
            longest_s=self._longest_s,
            account=account,
        )

    def _write(self, account: EnergyAccount | None, ended: str | None) -> None:
        part = self._part(account, ended)
        document: dict[str, Any] = {
            "format": _FORMAT,
            **{name: getattr(part, name) for name in Part.__dataclass_fields__ if name != "account"},
            "account": None if account is None else _to_document(account),
        }
        write_text(_file(self.folder, self._number, self._rank), json.dumps(document))


def next_part(folder: Path) -> int:
    """Return the number of the part that begins now.

    Raises:
        UserError: the file of an earlier part cannot be read.
    """
    return max((part.number for part in _read_all(folder)), default=0) + 1


def forget_parts(folder: Path) -> None:
    """Remove the parts and checkpoints of a run that is finished and recorded in this folder."""
    shutil.rmtree(folder / PARTS_NAME, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Wait until the files of a folder are on the disk."""
    for file in folder.iterdir():
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


def _file(folder: Path, number: int, rank: int) -> Path:
    return folder / (f"part-{number:03d}.json" if rank == 0 else f"part-{number:03d}-{rank:05d}.json")


def _read_all(folder: Path) -> list[Part]:
    """Read the parts in a folder, each of all its processes together."""
    numbered: dict[int, list[Part]] = defaultdict(list)
    for path in sorted(folder.glob("part-*.json")):
        part = _read(path)
        numbered[part.number].append(part)
    return [_together(sorted(parts, key=lambda part: part.rank)) for _, parts in sorted(numbered.items())]


def _together(parts: Sequence[Part]) -> Part:
    """Add up what the processes of one part noted. Where that of one is missing, the energy of the part is unknown.

    They open and close their windows together, so that one noted at most the last of them, and another did not.
    """
    first = parts[0]
    accounts = [account for account in map(_bounded, parts) if account is not None]
    return replace(
        first,
        seen_at=max(part.seen_at for part in parts),
        host=",".join(dict.fromkeys(part.host for part in parts)),
        step=max(part.step for part in parts),
        ended=None if None in [part.ended for part in parts] else first.ended,
        longest_s=max(part.longest_s for part in parts),
        account=combine(accounts) if len(accounts) == first.processes else None,
    )


def _bounded(part: Part) -> EnergyAccount | None:
    """Return the account of a process; what it used after its last note, if it was killed, is within the bound."""
    if part.account is None or part.ended is not None or not part.account.phases:
        return part.account
    *before, last = part.account.phases
    if last.seconds > 0:
        share = part.longest_s / last.seconds
        last = replace(last, components={name: _widened(item, share) for name, item in last.components.items()})
    return replace(part.account, phases=(*before, last))


def _read(path: Path) -> Part:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']}")
        account = document["account"]
        fields = {name: document[name] for name in Part.__dataclass_fields__ if name != "account"}
        return Part(**fields, account=None if account is None else _from_document(account))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"resume: got {path}, which cannot be read ({error}); remove {path.parent} to begin anew"
        ) from None


def _to_document(account: EnergyAccount) -> dict[str, Any]:
    bins = [
        [iso(piece.start), iso(piece.end), piece.phase, *(piece.joules.get(name) for name in COMPONENTS)]
        for piece in merge_bins(account.bins, MOST_BINS)
    ]
    return {**account.to_dict(), "bins": bins}


def _from_document(document: Mapping[str, Any]) -> EnergyAccount:
    idle = document["idle"]
    return EnergyAccount(
        host=document["host"],
        phases=tuple(
            PhaseEnergy(
                name=phase["name"],
                started_at=datetime.fromisoformat(phase["started_at"]),
                ended_at=datetime.fromisoformat(phase["ended_at"]),
                seconds=phase["seconds"],
                components={name: ComponentEnergy(**part) for name, part in phase["components"].items()},
                gpus=tuple(GpuEnergy(**gpu) for gpu in phase["gpus"]),
                codecarbon_joules=phase["codecarbon_joules"],
            )
            for phase in document["phases"]
        ),
        bins=tuple(
            TimelineBin(
                start=datetime.fromisoformat(start),
                end=datetime.fromisoformat(end),
                phase=phase,
                joules=dict(zip(COMPONENTS, joules, strict=True)),
            )
            for start, end, phase, *joules in document["bins"]
        ),
        idle=None
        if idle is None
        else IdleBaseline(**{**idle, "measured_at": datetime.fromisoformat(idle["measured_at"])}),
        exclusive=document["exclusive"],
        conditions=document["conditions"],
        warnings=tuple(document["warnings"]),
    )


def _kept_and_lost(part: Part, kept: int) -> EnergyAccount | None:
    """Return a part's account in which the windows after the first `kept` are `lost`, but for checkpoints."""
    if part.account is None:
        return None
    phases = list(part.account.phases)
    names = [phase.name if i < kept or phase.name == "checkpoint" else LOST for i, phase in enumerate(phases)]
    first_lost = next((phases[i].started_at for i, name in enumerate(names) if name == LOST), None)
    phases = [replace(phase, name=name) for phase, name in zip(phases, names, strict=True)]
    bins = tuple(
        replace(piece, phase=LOST)
        if first_lost is not None and piece.start >= first_lost and piece.phase != "checkpoint"
        else piece
        for piece in part.account.bins
    )
    return replace(part.account, phases=tuple(phases), bins=bins)


def _widened(component: ComponentEnergy, share: float) -> ComponentEnergy:
    if component.joules is None or component.uncertainty_joules is None:
        return component
    bound_j = component.uncertainty_joules + share * component.joules
    return replace(component, uncertainty_joules=round(bound_j, 6))


def _described(part: Part, account: EnergyAccount | None) -> dict[str, Any]:
    """Return what the record says of a part."""
    lost = [] if account is None else [phase for phase in account.phases if phase.name == LOST]
    return {
        "started_at": part.started_at,
        "seen_at": part.seen_at,
        "host": part.host,
        "ended": part.ended or "killed",
        "first_step": part.first_step,
        "last_step": part.step,
        "joules": None if account is None else account.joules,
        "lost_joules": None if account is None else account.phase_joules(LOST) if lost else 0.0,
        "lost_s": None if account is None else sum(phase.seconds for phase in lost),
        "unnoted_s": part.longest_s if part.ended is None else 0.0,
    }


def _said(parts: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentence that a record says of a run in parts."""
    killed = [part for part in parts if part["ended"] == "killed"]
    steps = sum(max(0, part["last_step"] - following["first_step"]) for part, following in itertools.pairwise(parts))
    text = f"This run was made in {len(parts)} parts: its energy is their sum"
    if steps:
        text += f", with that of {steps} steps or more that were lost and done again"
    unnoted = [part["unnoted_s"] for part in killed if part["joules"] is not None]
    if unnoted:
        text += f"; what killed parts used in their last {max(unnoted):.0f} s at most is unknown and within the bound"
    silent = sum(part["joules"] is None for part in parts)
    if silent:
        text += f"; {silent} of them ended in set-up, whose energy is unknown and not counted"
    return f"{text}."

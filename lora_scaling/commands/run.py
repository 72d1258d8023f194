"""`python -m lora_scaling`: one run, or with -m a sweep. See `--help`."""

import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lora_scaling import terminal
from lora_scaling.analysis_package import use_own_analysis
from lora_scaling.commands.cli import RESUMES, Parser, command, report
from lora_scaling.config import RunConfig
from lora_scaling.errors import DeviceLost, LoraScalingError, UserError
from lora_scaling.paths import choices, config_dir, user_folders
from lora_scaling.ranks import rank, world_size
from lora_scaling.records import Record, record_to_row
from lora_scaling.records.provenance import command_for_launchers
from lora_scaling.signals import end_like_ctrl_c, end_with_parent

# The process that the user started, or torchrun for them; a launcher may have started others for the runs.
_main_pid: int | None = None

USAGE = """\
lora-scaling: fine-tune, measure the energy, record it.

  lora-scaling [setting=value …]                 one run
  lora-scaling -m samples=64,128 lora.r=4,16     a sweep: every combination
  lora-scaling +sweeps=linear_claim              a named sweep
  lora-scaling study claim=… max_minutes=10      runs until a claim is decided
  lora-scaling estimate [-m] [setting=value …]   what would it cost?
  lora-scaling emissions runs/STUDY              grams, again
  lora-scaling doctor                            what this machine can measure
  lora-scaling analyse report runs/STUDY         verdicts, plots, predictions
  lora-scaling COMMAND --help                    the options of each; --version

Without the console command: python -m lora_scaling in place of lora-scaling.
"""


@command(when_interrupted=RESUMES)
def main(words: list[str]) -> int:
    """Compose the run or the sweep that the words describe, and carry it out."""
    if {"-h", "--help"} & set(words):
        print(help_text())
    else:
        _launch(words)
    return 0


def _launch(words: Sequence[str]) -> None:
    """Have Hydra compose what the words ask for, and carry it out."""
    global _main_pid
    _main_pid = os.getpid()
    # Hydra otherwise prints an error of its own shape and exits before we can say it in one sentence.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra

    if rank() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - the first process speaks for all
    from lora_scaling.config import friendly_hydra_errors, register_plugins
    from lora_scaling.runs.sweep import register_sweeper

    if "hydra/sweeper=optuna" in words:
        os.environ.setdefault("NO_COLOR", "1")  # its log would be coloured in pipes as well
    register_plugins()
    register_sweeper(answers)
    # The record's command names the folders of the user, to repeat the run.
    sys.argv[1:] = [*(f"--config-dir={os.path.relpath(folder)}" for folder in user_folders()), *options_first(words)]
    with friendly_hydra_errors(), command_for_launchers(sys.argv):
        hydra.main(config_path=str(config_dir()), config_name="config", version_base="1.3")(task)()
    if world_size() > 1:
        from lora_scaling.training.ranks import destroy_group

        destroy_group()


def answers(folder: Path) -> list[str]:
    """Write what the runs of a sweep say on the claims: those that it tests, and where to see what decides them."""
    if rank() > 0:
        return []
    use_own_analysis()
    from analysis import decide, load_runs  # tables and statistics: not before a sweep is done

    try:
        report = decide(load_runs(folder))
    except LoraScalingError:  # said when the runs are analysed
        return []
    tested = [claim for claim in report.claims if claim.verdict != "undecided" or claim.estimate is not None]
    lines = [
        textwrap.fill(
            f"{claim.verdict.upper():<10} {claim.title}: {_first_sentence(claim.reason)}",
            width=terminal.prose_width(), initial_indent="  ", subsequent_indent=13 * " ", break_on_hyphens=False,
        )
        for claim in tested
    ]  # fmt: skip
    where = shlex.quote(str(folder))
    undecided = sum(claim.verdict == "undecided" for claim in report.claims)
    more = f"  Next: lora-scaling analyse design {where} names the runs that would decide the other {undecided}."
    return ["What these runs say:", *lines, *[more] * (undecided > 0)]


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."


def options_first(given: Sequence[str]) -> list[str]:
    """Sort a command line into the order that Hydra can read: its options, then all settings.

    Raises:
        UserError: an option is unknown or excludes another, or a setting is not `name=value`.
    """
    from hydra._internal.utils import get_args_parser

    from lora_scaling.config import check_overrides

    parser = Parser(prog="lora-scaling", parents=[get_args_parser()], add_help=False)
    args = parser.parse_intermixed_args(given)
    check_overrides(args.overrides)
    if other := args.config_name or args.config_path:
        option = "--config-name" if args.config_name else "--config-path"
        raise UserError(
            f"{option}: got {other}, and a run always begins with this program's own config, which has all settings; "
            "put what you change into DIR/experiment/NAME.yaml and give --config-dir=DIR +experiment=NAME"
        )
    chosen = [name for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(args, name)]
    if len(chosen) > 1:
        first, second = (f"--{name}".replace("_", "-") for name in chosen[:2])
        raise UserError(f"{first}, {second}: exclude each other; give one of the two")
    if args.resolve and not args.cfg:
        raise UserError("--resolve: given alone; it goes with --cfg job")
    options = list(given)
    for override in args.overrides:
        options.remove(override)
    return [*options, *args.overrides]


def help_text() -> str:
    """Write usage, the options of every group, and all settings with their defaults and comments from the YAML."""
    groups = [f"  {name}: {', '.join(choices(name))}" for name in ("model", "method", "data", "hardware", "score")]
    groups += [
        f"  +experiment: {', '.join(choices('experiment'))}",
        f"  +sweeps: {', '.join(choices('sweeps'))}",
    ]
    settings = (config_dir() / "config.yaml").read_text(encoding="utf-8").partition("\n\n")[2].partition("\nhydra:")[0]
    return "\n".join([USAGE, "Groups (group=option):", *groups, "", "Settings and their defaults:", "", settings])


def task(node: object) -> float | tuple[float, ...] | None:
    """Carry out one run, and return its objective. Called by Hydra's launcher, in this process or another."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lora_scaling.config import from_omegaconf, refuse_unused, register_plugins
    from lora_scaling.runs import progress as console
    from lora_scaling.runs.objective import objective_of
    from lora_scaling.runs.run import run

    register_plugins()  # a launcher's process has not been through main()
    terminal.make_printable()
    end_like_ctrl_c()
    if os.getpid() != _main_pid or "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())
    if HydraConfig.get().verbose:
        _log_to_stderr()
    single = HydraConfig.get().mode is not RunMode.MULTIRUN
    sweeper = HydraConfig.get().sweeper["_target_"].rpartition(".")[2]
    searches = not single and sweeper not in ("DesignSweeper", "BasicSweeper")
    try:
        config = from_omegaconf(node)
        if single:
            refuse_unused(config, HydraConfig.get().overrides.task)
            _check_single_run(config)
        if searches and not config.objectives:
            raise UserError(f"objective: got null, and {sweeper} searches by it; give objective=eval_loss, or another")
        label = f"{config.model.name} {config.method.name}"
        display = console.display
        with display.run(label, g_per_kwh=console.yearly_mean(config.grid)) as listen:
            ran = run(config, listen)
        display.run_finished(ran)
        if config.grid.forecast and ran.record is not None:
            print(when_to_run(ran.record, config))
        if ran.failure is not None and (single or world_size() > 1 or isinstance(ran.failure, DeviceLost)):
            raise ran.failure  # any other failure of a sweep's run stays in its record: the others go on
        return objective_of(config, ran) if searches else None
    except LoraScalingError as error:
        if single or (searches and isinstance(error, UserError)):  # before Hydra prints its own words
            raise SystemExit(report(error)) from None
        raise


def _log_to_stderr() -> None:
    """Print what libraries log, at the levels that `hydra.verbose` has set, and the tracebacks of errors."""
    os.environ.setdefault("LORA_SCALING_DEBUG", "1")
    logging.basicConfig(format="[%(asctime)s %(name)s] %(message)s", datefmt="%H:%M:%S")


def _check_single_run(config: RunConfig) -> None:
    """Hold a run by itself to its limits, and refuse what only a sweep can do.

    Raises:
        UserError: it is expected to exceed a limit, or was asked for several times.
    """
    from hydra.core.hydra_config import HydraConfig

    from lora_scaling.runs.sweep import check_run_limits

    for word in HydraConfig.get().overrides.hydra:
        group, _, name = word.lstrip("+").partition("=")
        if group in ("hydra/launcher", "hydra/sweeper") and name != "basic":
            raise UserError(f"{group}: got {name} for a single run, which this process makes itself: add -m")
    if config.replicates > 1:
        raise UserError(f"replicates: got {config.replicates} for a single run, which is made once: add -m")
    check_run_limits(config)


def when_to_run(record: Record, config: RunConfig) -> str:
    """Write when in the next hours the same run would emit least, by the provider's forecast."""
    from lora_scaling.estimate import hourly_emissions as hours

    return hours.when_to_run(record.get("total_s"), record_to_row(record)["energy_kwh"], config.grid)

"""Choose, describe and synchronise the device of a run, and read its memory."""

import contextlib
import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lora_scaling.config import RunConfig
from lora_scaling.config.devices import mac_chip, processor_name
from lora_scaling.errors import OutOfMemory, UserError
from lora_scaling.ranks import local_rank, world_size

# Of torch, of its CPU allocator, of cuBLAS and cuDNN (which allocate on their own), and of NCCL.
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed", "cuda calloc",
)  # fmt: skip
# After one of these, every further call to the GPU fails in this process (CUDA driver API: "sticky" errors).
_STICKY = (
    "device-side assert", "illegal memory access", "illegal instruction", "misaligned address",
    "unspecified launch failure", "uncorrectable ecc", "hardware stack error", "launch timed out",
    "cuda error: unknown error",
)  # fmt: skip
_PRECISIONS = {"cuda": ("bf16", "fp16", "fp32"), "mps": ("bf16", "fp16", "fp32"), "cpu": ("fp32", "bf16")}


@dataclass(frozen=True, kw_only=True)
class Device:
    """The device on which a run computes. `kind` is cuda, mps or cpu; `precision` is bf16, fp16 or fp32."""

    kind: str
    name: str
    precision: str

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    def synchronize(self) -> None:
        """Wait for all queued work, so that a measuring window ends when the work ends."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def release_memory(self) -> None:
        """Return the memory that the allocator keeps in reserve to the device."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()
        elif self.kind == "mps":
            torch.mps.empty_cache()
        elif sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # only glibc has it
                ctypes.CDLL(None).malloc_trim(0)

    def reset_peak_memory(self) -> None:
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif self.kind == "cpu" and sys.platform == "linux":
            _reset_peak_resident_set()

    def idle_bytes(self) -> int:
        """Return the memory, as `peak_memory_bytes` counts it, that the process already holds."""
        return 0 if self.kind != "cpu" else _status_bytes("VmRSS") or 0

    def peak_memory_bytes(self) -> int | None:
        """Return the peak since `reset_peak_memory`: the allocator's reserved bytes, or the resident set on a CPU."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_reserved()
        if self.kind == "mps":
            return torch.mps.driver_allocated_memory()
        if sys.platform == "linux":
            return _peak_resident_set()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def peak_allocated_bytes(self) -> int | None:
        """Return the peak of what tensors held of the reserved bytes; None where the two are not told apart."""
        return torch.cuda.max_memory_allocated() if self.kind == "cuda" else None

    def describe(self) -> dict[str, Any]:
        """Describe the device for the record; unknown values are null."""
        description: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "gpu_count": world_size() if self.kind == "cuda" else 0 if self.kind == "cpu" else 1,
            "threads": torch.get_num_threads() if self.kind == "cpu" else None,
            "memory_gb": None,
            "capability": None,
            "uuid": None,
        }
        if self.kind == "cuda":
            properties = torch.cuda.get_device_properties(torch.cuda.current_device())
            description["memory_gb"] = properties.total_memory / 1e9
            description["capability"] = f"{properties.major}.{properties.minor}"
            description["uuid"] = self.gpu_uuid()
        elif self.kind == "cpu":
            description["memory_gb"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        return description

    def gpu_uuid(self) -> str | None:
        """Return the UUID of the GPU that computes, as NVML writes it; None on other devices, or if it is unknown."""
        if self.kind != "cuda":
            return None
        uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
        return None if uuid is None else f"GPU-{uuid}"


@contextlib.contextmanager
def explain_out_of_memory(config: RunConfig, device: Device) -> Iterator[None]:
    """Turn any out-of-memory error of torch or the system into an `OutOfMemory` that says what to do."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_out_of_memory(device, config, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch or the system says that memory is exhausted."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


def _out_of_memory(device: Device, config: RunConfig, error: BaseException) -> str:
    detail = str(error).strip().splitlines()[0] if str(error).strip() else "no more memory"
    return (
        f"{device.name} ran out of memory with batch_size={config.batch_size}, max_seq_len={config.max_seq_len}, "
        f"method={config.method.name} ({detail}); try a smaller batch_size with more gradient_accumulation, "
        "gradient_checkpointing=true or method=qlora"
    )


def choose_device(wanted: str, precision: str) -> Device:
    """Choose the device that `device=` and `precision=` ask for.

    Raises:
        UserError: it does not exist, or does not support the precision; the text lists what does.
    """
    show_one_gpu(wanted)
    kind = _kind(wanted)
    if kind == "cuda" and world_size() > 1:
        torch.cuda.set_device(local_gpu())
    supported = [p for p in _PRECISIONS[kind] if p != "bf16" or kind != "cuda" or torch.cuda.is_bf16_supported(False)]
    if precision == "auto":
        # A CPU computes fp32 fastest unless it has matrix units for bf16; Apple's bf16 is emulated on older chips.
        precision = supported[0] if kind == "cuda" else "fp32"
    if precision not in supported:
        raise UserError(f"precision: got {precision!r}; {_name(kind)} supports {', '.join(supported)}, or auto")
    return Device(kind=kind, name=_name(kind), precision=precision)


def _kind(wanted: str) -> str:
    there = [
        kind
        for kind, present in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
            ("cpu", True),
        )
        if present
    ]
    if wanted == "auto":
        return there[0]
    kind = wanted.partition(":")[0]
    if kind not in there:
        raise UserError(f"device: got {wanted!r}; this machine has {', '.join(there)}, or say auto")
    return kind


# The index of the GPU left to this process, among those with which it was started.
_shown: int | None = None


def show_one_gpu(wanted: str) -> None:
    """Leave one GPU visible to a single process. With several, Trainer would split the batch over all of them.

    The driver reads the variable only once, at the first call, and importing bitsandbytes makes one: so this comes
    before the imports of training. `device_count` asks NVML instead.

    Raises:
        UserError: the machine has no such GPU, or the process already uses another or several.
    """
    global _shown
    kind, _, index = wanted.partition(":")
    if world_size() > 1 or kind not in ("auto", "cuda"):
        return
    if _shown is not None:
        if index and int(index) != _shown:
            raise UserError(
                f"device: got {wanted!r}; this process has begun on cuda:{_shown} and stays there: "
                "give each GPU a command of its own"
            )
        return
    count = torch.cuda.device_count()
    if count == 0:
        return
    if int(index or 0) >= count:
        raise UserError(f"device: got {wanted!r}; this machine has {count} GPUs, counted from 0")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = visible.split(",") if visible else [str(i) for i in range(count)]
    chosen = ids[int(index or 0)].strip()
    os.environ["CUDA_VISIBLE_DEVICES"] = chosen
    if (seen := _driver_count()) > 1:
        if visible is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        raise UserError(
            f"device: got {wanted!r}; this process has started CUDA with {seen} GPUs, and a run uses one: "
            f"set CUDA_VISIBLE_DEVICES={chosen} before it starts"
        )
    _shown = int(index or 0)


def _driver_count() -> int:
    """Count the GPUs that the driver shows to this process, whatever the variable has become since it was asked."""
    count = getattr(torch._C, "_cuda_getDeviceCount", torch.cuda.device_count)
    try:
        return int(count())
    except RuntimeError:  # a driver that torch cannot use: the run goes on without it
        return 0


def local_gpu() -> int:
    """Return the index of this process's GPU: its number on the host, or 0 if the launcher shows it only one."""
    return local_rank() % max(torch.cuda.device_count(), 1)


def is_sticky(error: BaseException) -> bool:
    """Return whether the GPU can no longer be used by this process after this error."""
    text = str(error).lower()
    return any(words in text for words in _STICKY)


def _name(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    if kind == "mps":
        return mac_chip() or "Apple GPU"
    return processor_name()


def _status_bytes(field: str) -> int | None:
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            values: Mapping[str, str] = dict(line.split(":", 1) for line in file)
    except OSError:
        return None
    return int(values[field].split()[0]) * 1024 if field in values else None


def _peak_resident_set() -> int | None:
    return _status_bytes("VmHWM")


def _reset_peak_resident_set() -> None:
    try:
        with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
            file.write("5")  # proc(5): resets VmHWM to the current resident set
    except OSError:
        return  # not permitted here, so the peak is that of the whole process so far


def keep_gpu_busy() -> Callable[[float], None] | None:
    """Return a function that multiplies large matrices on the first GPU for so many seconds; None without a GPU."""
    if not torch.cuda.is_available():
        return None

    def busy(seconds: float) -> None:
        a = torch.randn(4096, 4096, device="cuda", dtype=torch.float16)  # zeros would draw less power
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            torch.mm(a, a)
            torch.cuda.synchronize()

    return busy

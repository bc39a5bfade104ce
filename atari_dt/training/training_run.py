"""The ``config.json`` of a training run: what the run trains, on which data, and on which machine."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from atari_dt.config import ARITHMETIC_SETTINGS, TrainingConfig
from atari_dt.method_config import MethodConfig, read_method_config
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import (
    convert,
    read_count,
    read_dataclass,
    read_field,
    read_format_version,
    read_mapping,
)
from replay_data.storage.processes import available_cores
from replay_data.storage.regular_files import read_json_file

FILE_NAME = "config.json"
FORMAT_VERSION = 2
PACKAGES = ("atari-dt", "torch", "numpy", "ale-py")


@dataclass(frozen=True)
class Hardware:
    """The machine of a training run.

    Attributes:
        cpu: Model name of the CPU.
        cores: Number of cores that the process may use.
        gpu: Name of the GPU; None for a run on a CPU.
    """

    cpu: str
    cores: int
    gpu: str | None


@dataclass(frozen=True)
class Segment:
    """Successive updates of a run that were computed with the same arithmetic.

    Attributes:
        last_update: Number of updates that the run had made when the segment ended.
        dtype, device, processes, compiled, versions, hardware: As in `TrainingRun`.
    """

    last_update: int
    dtype: str
    device: str
    processes: int
    compiled: bool
    versions: Mapping[str, str]
    hardware: Hardware


@dataclass(frozen=True)
class TrainingRun:
    """The settings of a training run, its data and its machine.

    A run may be resumed with another precision, device, number of processes or version, and on another machine. The
    fields describe the command that wrote ``config.json`` last, and ``history`` the updates before it.

    Attributes:
        data: Path of the trajectory store.
        data_digest: Digest of the store, `TrajectoryStore.digest`.
        dtype: Name of the forward pass's type, such as ``"bfloat16"``.
        device: Name of the first process's device, such as ``"cuda:0"``.
        processes: Number of processes that train together.
        model: Config of the method and its network.
        training: Config of the training.
        versions: Versions of Python and of the packages in ``PACKAGES``, by name.
        hardware: Machine of the first process.
        compiled: Whether the network is compiled.
        history: Earlier segments of the run, oldest first; empty if all updates were computed with the same arithmetic.
            Files of earlier versions have no history.
    """

    data: str
    data_digest: str
    dtype: str
    device: str
    processes: int
    model: MethodConfig
    training: TrainingConfig
    versions: Mapping[str, str]
    hardware: Hardware
    compiled: bool = False
    history: tuple[Segment, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self), "model": self.model.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> TrainingRun:
        """Read the content of ``config.json``, of format version 1 or 2.

        Fields of the two configs that an older version did not know get their defaults, which do what it did.

        Raises:
            InputError, ValueError, KeyError, TypeError, AttributeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        training = TrainingConfig.from_json(content["training"])
        on_gpu = read_field(content, "device", str).startswith("cuda")
        compiled_by_default = training.compile == "on" or (training.compile == "auto" and on_gpu)
        return cls(
            data=read_field(content, "data", str),
            data_digest=read_field(content, "data_digest", str),
            model=read_method_config(content["model"]),
            training=training,
            history=tuple(
                Segment(last_update=read_count(segment, "last_update"), **_read_arithmetic(segment))
                for segment in content.get("history", [])
            ),
            **_read_arithmetic({"compiled": compiled_by_default, **content}),
        )

    def settings(self) -> dict[str, object]:
        """Return the settings of the experiment, which a resumed run must share, by name.

        The others decide only how results are rounded, and where: a run can move to another machine.
        """
        settings = {"method": self.model.method, **dataclasses.asdict(self.model), **dataclasses.asdict(self.training)}
        for name in ARITHMETIC_SETTINGS:
            del settings[name]
        return {**settings, "data_digest": self.data_digest}

    def segments(self, num_updates: int) -> tuple[Segment, ...]:
        """Return the segments of the run's first ``num_updates`` updates, oldest first; none for 0 updates."""
        names = (field.name for field in dataclasses.fields(Segment) if field.name != "last_update")
        current = Segment(num_updates, **{name: getattr(self, name) for name in names})
        earlier = [segment for segment in self.history if segment.last_update < num_updates]
        # The segment that made the last of these updates may have made more, which no checkpoint holds.
        last = next((segment for segment in self.history if segment.last_update >= num_updates), current)
        return (*earlier, dataclasses.replace(last, last_update=num_updates)) if num_updates else ()


def arithmetic(run: TrainingRun | Segment) -> dict[str, object]:
    """Return everything that decides how the results of updates are rounded, by name."""
    return {
        "dtype": run.dtype,
        "processes": run.processes,
        "compiled": run.compiled,
        **{name: run.versions.get(name) for name in ("torch", "numpy")},
        **dataclasses.asdict(run.hardware),
    }


def read_training_run(directory: Path) -> TrainingRun:
    """Read the ``config.json`` of a training run's directory.

    Raises:
        InputError: If the directory has no such file, or the file is malformed.
    """
    try:
        return TrainingRun.from_json(read_json_file(directory / FILE_NAME))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            f"{directory} is not a training run: its {FILE_NAME} cannot be read ({summarize_error(error)}); "
            "choose the directory of a training run, or restore the file"
        ) from error


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages in ``PACKAGES``, by name."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def find_hardware(device: torch.device) -> Hardware:
    """Return the hardware of this process; ``device`` is the device it trains on."""
    cpuinfo = Path("/proc/cpuinfo")
    cpu_models = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return Hardware(
        cpu=cpu_models[0] if cpu_models else platform.machine(),
        cores=available_cores(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def _read_arithmetic(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that `TrainingRun` and `Segment` share."""
    dtype = read_field(content, "dtype", str)
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {dtype[:80]!r}, not 'float32' or 'bfloat16'")
    return {
        "dtype": dtype,
        "device": read_field(content, "device", str),
        "processes": read_count(content, "processes", minimum=1),
        "compiled": read_field(content, "compiled", bool),
        "versions": read_mapping(content, "versions", lambda name, version: convert(version, name, str)),
        "hardware": read_dataclass(content["hardware"], Hardware),
    }

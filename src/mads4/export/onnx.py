"""A single agent as a file that needs neither this package nor its configuration.

The file, an ONNX model or a `torch.export` archive, holds `mads4.export.agent.Agent` and, as JSON
under the key ``mads4.json``, its metadata: names, shapes and order of inputs and outputs, the
number of agents, the message delay, and the origin of the policy.
A program is compared with the policy, step by step, before it is kept (`largest_difference`).
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mads4 import __version__
from mads4.errors import UserError
from mads4.export.agent import Agent, Port
from mads4.export.check import largest_difference
from mads4.io import atomic_path, json_safe
from mads4.models import SequencePolicy

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
"""Format → the ending of its files."""
METADATA = "mads4.json"
TOLERANCE = 1e-5
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")

_ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True)
class Program:
    """An exported agent that has been read back."""

    about: dict[str, Any]
    """The metadata."""
    call: Callable[[list[Tensor]], Sequence[Tensor]]
    """Inputs in the metadata's order → outputs in the metadata's order."""

    def __call__(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return outputs by name from inputs by name, all with a first axis for the batch."""
        values = self.call([given[port["name"]] for port in self.about["inputs"]])
        names = [port["name"] for port in self.about["outputs"]]
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True)
class Exported:
    """An exported file."""

    path: Path
    about: dict[str, Any]
    difference: float
    """From the policy, see `largest_difference`."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size


def export_agent(
    policy: SequencePolicy,
    path: Path,
    form: str,
    *,
    number: int | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Exported:
    """Write an agent of `policy` to `path`, read it back and compare it with the policy.

    Args:
        policy: the trained policy, of any architecture that defines `agent_step`.
        path: the file; replaced only by a program that has passed.
        form: one of `SUFFIXES`.
        number: of the exported agent; None for a program that serves all of them and takes the
            number as an input.
        origin: where the policy comes from, plain values, added to the metadata.

    Raises:
        UserError: the packages that ONNX needs are missing, or the program differs from the
            policy by more than `TOLERANCE`; then nothing is written.
    """
    if form == "onnx":
        _require_onnx()
    agent = Agent(policy, number)
    about = describe(agent) | json_safe(dict(origin or {}))
    write = {"onnx": _write_onnx, "torch_export": _write_torch}[form]
    with atomic_path(path) as beside:
        with _quiet():
            write(_trace(agent), about, beside)
        difference = largest_difference(policy, agent, read_program(beside))
        if not difference <= TOLERANCE:
            other = ", ".join(name for name in SUFFIXES if name != form)
            raise UserError(
                f"The {form} program differs from the policy by {difference:.2g}; "
                f"{TOLERANCE:g} is allowed. {path} was not written. Try format={other}."
            )
    return Exported(path, about, difference)


def describe(agent: Agent) -> dict[str, Any]:
    """Return the metadata that follow from the policy alone."""
    policy = agent.policy
    channel = policy.channel
    normalized = ("observation", "global_state", "return_to_go")
    return {
        "format": "mads4-agent",
        "schema": 2,
        "versions": {"mads4": __version__, "torch": torch.__version__},
        "inputs": [asdict(port) for port in agent.inputs],
        "outputs": [asdict(port) for port in agent.outputs],
        "normalized_inputs": [port.name for port in agent.inputs if port.name in normalized],
        "agent": agent.number,
        "n_agents": policy.spec.n_agents,
        "n_actions": policy.spec.n_actions,
        "message": "none" if channel is None else channel.message,
        "message_delay": policy.message_delay,
        "message_bytes": 4 * (0 if channel is None else channel.width),
        "autoregressive": channel is not None and channel.autoregressive,
        "agent_order": policy.agent_order,
        "memory_bytes": sum(map(_size, agent.memory)),
    }


def _size(port: Port) -> int:
    """Return the bytes of one row."""
    return port.tensor(1).nbytes


def read_program(path: Path) -> Program:
    """Read what `export_agent` wrote, in either format.

    Raises:
        UserError: the file is missing or no exported agent, or packages that it needs are.
    """
    if not path.is_file():
        raise UserError(f"There is no {path}. Make it with `mads4 export`.")
    with path.open("rb") as file:
        archive = file.read(len(_ZIP_START)) == _ZIP_START
    return _read_torch(path) if archive else _read_onnx(path)


def _trace(agent: Agent) -> torch.export.ExportedProgram:
    """Return the agent as a graph of tensor operations, for any size of the batch."""
    batch = torch.export.Dim("batch", min=1)
    example = tuple(port.tensor(2) for port in agent.inputs)
    shapes = (tuple({0: batch} for _ in example),)
    with torch.no_grad():
        program = torch.export.export(agent, example, dynamic_shapes=shapes)
    for node in program.graph.nodes:  # leave out the paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def _write_torch(
    program: torch.export.ExportedProgram, about: Mapping[str, Any], path: Path
) -> None:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={METADATA: json.dumps(about)})
    path.write_bytes(content.getvalue())


def _read_torch(path: Path) -> Program:
    extra = {METADATA: ""}
    try:
        program = torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    except (RuntimeError, ValueError, KeyError, AssertionError) as error:
        raise _foreign(path) from error
    if not extra[METADATA]:
        raise _foreign(path)
    module = program.module()
    return Program(json.loads(extra[METADATA]), lambda inputs: module(*inputs))


def _write_onnx(
    program: torch.export.ExportedProgram, about: Mapping[str, Any], path: Path
) -> None:
    model = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[port["name"] for port in about["inputs"]],
        output_names=[port["name"] for port in about["outputs"]],
    )
    assert model is not None
    for node in model.model.graph:
        node.metadata_props.clear()
    model.model.metadata_props[METADATA] = json.dumps(about)
    model.save(path, external_data=False)


def _read_onnx(path: Path) -> Program:
    _require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a step's products are too small to be worth sharing
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options)
    except Exception as error:  # its errors have no common base but this
        raise _foreign(path) from error
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise _foreign(path)
    about = json.loads(text)
    names = [port["name"] for port in about["inputs"]]

    def call(inputs: list[Tensor]) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return Program(about, call)


def _require_onnx() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"format=onnx needs {', '.join(missing)}: pip install 'mads4[export]'. "
            "format=torch_export needs nothing but PyTorch."
        )


def _foreign(path: Path) -> UserError:
    return UserError(f"{path} is not an agent that `mads4 export` wrote.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' warnings about missing packages and deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)

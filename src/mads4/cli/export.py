"""`mads4 export`: one agent of a trained policy as a program that needs nothing of this package."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mads4.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from mads4.export.onnx import Exported
    from mads4.models import SequencePolicy

SHARED = "shared"
OPTIONS = ("checkpoint", "out", "format", "agent", "model_factory")

HELP = """\
usage: mads4 export checkpoint=<run or file> out=<file> [format=...] [agent=...]

Write the step of one agent as a stand-alone program: observation, memory and incoming message →
logits, outgoing message, new memory. The program is compared with the policy before the file is
kept.

  checkpoint     a run directory, or a .pt file in it
  out            the file; its suffix decides the format
  format         onnx (.onnx) or torch_export (.pt2)
  agent          the agent's number; shared (the default): one program for all, the number an input
  model_factory  package.module:function that made the policy, for checkpoints of model=custom

example: mads4 export checkpoint=outputs/mads4/<time> out=agent.onnx
"""


@dataclass(frozen=True)
class Request:
    """A parsed command line."""

    checkpoint: Path
    out: Path
    form: str
    number: int | None
    """The agent's; None for a program that serves all."""
    factory: str | None = None
    """For a checkpoint of ``model=custom``."""


def run(command: str, argv: list[str]) -> int:
    """Run `mads4 export` and return its exit code."""
    if "--help" in argv or "-h" in argv:
        sys.stdout.write(HELP)
        return 0
    request = parse(argv)

    from mads4.experiment import build
    from mads4.experiment.sources import policy_checkpoint
    from mads4.export.onnx import export_agent
    from mads4.training import checkpoint

    source = checkpoint.find(request.checkpoint)
    payload = policy_checkpoint(source)
    policy = build.trained_policy(payload, factory=request.factory)
    n_agents = policy.spec.n_agents
    if request.number is not None and request.number >= n_agents:
        raise UserError(
            f"agent: got {request.number}, but {source} was trained with {n_agents} agents; give "
            f"0 … {n_agents - 1} or {SHARED}."
        )
    done = export_agent(
        policy, request.out, request.form, number=request.number, origin=origin(source, payload)
    )
    sys.stdout.write(report(done, policy))
    return 0


def parse(argv: Sequence[str]) -> Request:
    """Read the words of the command line.

    Raises:
        UserError: everything that is wrong with them, one line each.
    """
    from mads4.export.onnx import SUFFIXES

    given, problems = _read(argv)
    problems += [
        f"{word}: missing. Example: mads4 export checkpoint=outputs/mads4/<time> out=agent.onnx"
        for word in ("checkpoint", "out")
        if not given.get(word)
    ]
    out = Path(given.get("out") or "agent.onnx").expanduser()
    by_ending = {suffix: name for name, suffix in SUFFIXES.items()}
    form = given.get("format") or by_ending.get(out.suffix, "")
    if form not in SUFFIXES:
        what = f"format: got '{given['format']}'" if "format" in given else f"out: got '{out}'"
        endings = ", ".join(f"{name} (…{suffix})" for name, suffix in SUFFIXES.items())
        problems.append(f"{what}, expected one of {endings}.{did_you_mean(form, SUFFIXES)}")
    elif out.suffix != SUFFIXES[form]:
        problems.append(f"out: got '{out}', expected …{SUFFIXES[form]} for format={form}.")
    agent = given.get("agent", SHARED)
    if agent != SHARED and not agent.isdecimal():
        problems.append(
            f"agent: got '{agent}', expected an agent's number (0, 1, …) or {SHARED}."
            f"{did_you_mean(agent, [SHARED])}"
        )
    if problems:
        raise UserError("\n".join(problems))
    number = None if agent == SHARED else int(agent)
    source = Path(given["checkpoint"]).expanduser()
    return Request(source, out, form, number, given.get("model_factory"))


def _read(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values by word, and what is wrong with the others."""
    given: dict[str, str] = {}
    problems = []
    for text in argv:
        word, sign, value = text.partition("=")
        if not sign:
            problems.append(f"{text}: cannot be read as key=value.")
        elif word not in OPTIONS:
            problems.append(
                f"{word}: not an option of this command; it has {', '.join(OPTIONS)}."
                f"{did_you_mean(word, OPTIONS)}"
            )
        else:
            given[word] = value
    return given, problems


def origin(source: Path, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of where the policy comes from.

    The commit is what the run's ``provenance.json`` says, None where there is none.
    """
    from mads4.provenance import PROVENANCE_FILE

    file = source.parent.parent / PROVENANCE_FILE
    git = json.loads(file.read_text(encoding="utf-8"))["git"] if file.is_file() else None
    return {
        "env": payload.get("env"),
        "spec": payload["spec"],
        "training": {
            "commit": None if git is None else git["commit"],
            "dirty": None if git is None else git["dirty"],
            "seed": payload.get("seed"),
            "step": payload.get("state", {}).get("step"),
        },
    }


def report(done: Exported, policy: SequencePolicy) -> str:
    """Return the summary that is printed."""
    about = done.about
    who = f"agent {about['agent']}" if about["agent"] is not None else "any agent"
    numbers = 0 if policy.channel is None else policy.channel.width
    message = f"{about['message_bytes']} bytes ({numbers} float32) a step" if numbers else "none"
    if about["autoregressive"]:
        message += ", and the action taken"
    needs = ", ".join(port["name"] for port in about["inputs"])
    lines = {
        "program": f"{done.path} ({who} of {about['n_agents']}, {done.size:,} bytes)",
        "inputs": needs,
        "message": message,
        "memory": f"{about['memory_bytes']:,} bytes an agent",
        "difference": f"{done.difference:.2g} at most from the policy",
    }
    text = "".join(f"{name + ':':<12}{value}\n" for name, value in lines.items())
    if any(port["name"] == "global_state" for port in about["inputs"]):
        text += (
            "note: every agent needs the global state; "
            "train with model.use_global_state=false to do without it.\n"
        )
    return text

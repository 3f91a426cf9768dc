"""Decentralized execution: every agent runs an exported program and receives from one other agent.

After ``mads4 train``: ``mads4 export checkpoint=<run> out=agent.onnx``, then
``python examples/decentralized.py agent.onnx 20`` (the target return). It plays the first episode
that ``mads4 evaluate`` plays, with the same actions. The agents need onnxruntime and NumPy; `mads4`
is imported for the environment only. For ``env=custom`` a third word names its factory, too.
"""

import json
import sys

import numpy as np
import onnxruntime

from mads4.envs.registry import EnvFactory
from mads4.envs.seeding import environment_seed

program = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(program.get_modelmeta().custom_metadata_map["mads4.json"])
start = {p["name"]: np.full((1, *p["shape"]), p["initial"], p["dtype"]) for p in about["inputs"]}
outputs = [port["name"] for port in about["outputs"]]


class Agent:
    """All that one agent has: the program, its number and its memory."""

    def __init__(self, number):
        self.inputs = {**start, "agent": np.array([number])}

    def decide(self, uniform, incoming, **perceived):
        """Return what its successor receives: the message, and the action drawn with `uniform`."""
        self.inputs |= incoming | {name: np.array([value]) for name, value in perceived.items()}
        inputs = {name: self.inputs[name].astype(start[name].dtype) for name in start}
        result = dict(zip(outputs, program.run(None, inputs), strict=True))
        self.inputs |= {name[:-4]: value for name, value in result.items() if "memory" in name}
        logits = result["logits"]
        chances = np.exp(logits[0].astype(float) - logits.max()).cumsum()
        action = np.array([(chances <= uniform * chances[-1]).sum()])
        self.inputs["previous_action"] = action
        message = {"message": result["message_out"]} if "message_out" in result else {}
        return {"predecessor_action": action, **message}


env = EnvFactory.from_dict(about["env"], *sys.argv[3:])()
seed, episode, target = 0, 0, float(sys.argv[2])
agents = [Agent(number) for number in range(about["n_agents"])]
order = np.random.default_rng([seed, episode, 1]).random(len(agents)).argsort()
order = order.tolist() if about["agent_order"] == "random" else list(range(len(agents)))
numbers, outgoing, actions = np.random.default_rng([seed, episode]), {}, []
now = env.reset(environment_seed(seed, episode))
while not now.done:
    uniform = numbers.random(len(agents))
    incoming = dict(outgoing) if about["message_delay"] else outgoing  # of the step before, or this
    for number, predecessor in zip(order, [None, *order[:-1]], strict=True):
        outgoing[number] = agents[number].decide(
            uniform[number],
            incoming.get(predecessor, {}),
            observation=now.observation[number],
            global_state=now.state[number % len(now.state)],
            available_actions=now.available_actions[number],
            return_to_go=target,
        )
    actions.append([outgoing[number]["predecessor_action"].item() for number in range(len(agents))])
    now = env.step(np.array(actions[-1]))
    target -= now.reward
print(f"{len(actions)} steps, return {float(sys.argv[2]) - target:g} of {sys.argv[2]}; each agent")
print(f"receives {about['message_bytes']} bytes a step and keeps {about['memory_bytes']} bytes.")

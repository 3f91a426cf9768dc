"""Agents on their own: each has a memory, runs an exported program and hears one other agent.

After ``mads4 train``: ``mads4 export checkpoint=<run> out=agent.onnx``, then
``python examples/decentralized.py agent.onnx 20`` (the return to ask for). It plays the first
episode that ``mads4 evaluate`` plays, with the same actions. The agents need onnxruntime and
NumPy; `mads4` is imported for the environment only.
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


class Agent:
    """Everything that one agent has: the program, its number and its memory."""

    def __init__(self, number):
        self.given = {**start, "agent": np.array([number])}

    def decide(self, uniform, heard, **perceived):
        """Return what its successor hears: the message, and the action drawn with `uniform`."""
        self.given |= heard | {name: np.array([value]) for name, value in perceived.items()}
        inputs = {name: self.given[name].astype(start[name].dtype) for name in start}
        logits, *message, self.given["memory"] = program.run(None, inputs)
        chances = np.exp(logits[0].astype(float) - logits.max()).cumsum()
        action = np.array([(chances <= uniform * chances[-1]).sum()])
        self.given["previous_action"] = action
        return {"predecessor_action": action} | ({"message": message[0]} if message else {})


env, seed, episode, wanted = EnvFactory(**about["env"])(), 0, 0, float(sys.argv[2])
agents = [Agent(number) for number in range(about["n_agents"])]
order = np.random.default_rng([seed, episode, 1]).random(len(agents)).argsort()
order = order.tolist() if about["agent_order"] == "random" else list(range(len(agents)))
numbers, said, actions = np.random.default_rng([seed, episode]), {}, []
now = env.reset(environment_seed(seed, episode))
while not now.done:
    uniform = numbers.random(len(agents))
    heard = said if about["message_time"] == "same_step" else dict(said)  # or what was said before
    for number, predecessor in zip(order, [None, *order[:-1]], strict=True):
        said[number] = agents[number].decide(
            uniform[number],
            heard.get(predecessor, {}),
            observation=now.observation[number],
            global_state=now.state[number % len(now.state)],
            available_actions=now.available_actions[number],
            return_to_go=wanted,
        )
    actions.append([said[number]["predecessor_action"].item() for number in range(len(agents))])
    now = env.step(np.array(actions[-1]))
    wanted -= now.reward
print(f"{len(actions)} steps, return {float(sys.argv[2]) - wanted:g} of {sys.argv[2]}; each agent")
print(f"hears {about['message_bytes']} bytes a step and remembers {about['memory_bytes']}.")

"""On a CUDA device everything gives what it gives on the CPU."""

from __future__ import annotations

import pytest
import torch

from fakes import SPEC, make_batch, make_policy, matching_data, time_step
from mads4.data.sampler import SequenceSampler
from mads4.training.prefetch import DeviceBatches

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_sequences_and_gradients_are_the_same() -> None:
    policy, batch = make_policy(SPEC), make_batch(SPEC)
    logits = policy(batch)
    logits.masked_fill(logits.isinf(), 0.0).sum().backward()
    other = make_policy(SPEC).cuda()
    moved = other(batch.to("cuda"))
    moved.masked_fill(moved.isinf(), 0.0).sum().backward()
    torch.testing.assert_close(moved.cpu(), logits)
    for here, there in zip(policy.parameters(), other.parameters(), strict=True):
        if here.grad is not None:
            torch.testing.assert_close(there.grad.cpu(), here.grad)


def test_steps_are_the_same() -> None:
    policy, batch = make_policy(SPEC), make_batch(SPEC)
    other, moved = make_policy(SPEC).cuda(), batch.to("cuda")
    here = policy.initial_state(len(batch.mask))
    there = other.initial_state(len(batch.mask))
    with torch.inference_mode():
        for t in range(4):
            decision, here = policy.step(time_step(batch, t), here)
            expected, there = other.step(time_step(moved, t), there)
            torch.testing.assert_close(expected.logits.cpu(), decision.logits)
            assert torch.equal(expected.action.cpu(), decision.action)


def test_batches_copied_beside_the_computation_are_the_same() -> None:
    device = torch.device("cuda")
    data = matching_data()
    pinned, plain = (SequenceSampler(data, 6, 5, pin_memory=pin) for pin in (True, False))
    assert pinned.batch(0).observation.is_pinned()
    batches = DeviceBatches(pinned.batch, device, ahead=True, steps=50)
    for step in range(50):
        torch.randn(500, 500, device=device) @ torch.randn(500, 500, device=device)
        found, expected = batches.batch(step), plain.batch(step)
        for name, value in vars(found).items():
            assert value.is_cuda and torch.equal(value.cpu(), getattr(expected, name))

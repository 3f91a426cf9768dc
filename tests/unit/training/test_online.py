"""Online training: gradients, schedule, rest, falls and resumption; and that it learns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from fake_env import MatchingEnv
from fakes import SPEC, make_policy, matching_data
from mads4.algorithms.base import Context
from mads4.algorithms.mappo import MAPPO, MAPPOConfig
from mads4.algorithms.rollout_buffer import Episodes, Experience
from mads4.config import OnlineTrainerConfig
from mads4.envs.matrix_game import PENALTY_XOR, MatrixGame
from mads4.errors import UserError
from mads4.models import Mads4Policy, MlpPolicy, SequencePolicy
from mads4.models.base import unroll
from mads4.nn.ssm import ssm_parameters
from mads4.training import online
from mads4.training.checkpoint import TrainState
from mads4.training.collector import Collector
from mads4.training.online import OnlineTrainer

Make = Callable[..., OnlineTrainer]
FAST: dict[str, Any] = {
    **{
        "episodes": 6,
        "num_envs": 6,
        "num_workers": 0,
        "bptt_length": 5,
        "batch_size": 8,
        "epochs": 2,
    },
    **{"actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2, "critic_width": 8},
    **{"critic_warmup": 0, "target_kl": None, "return_window": 1, "rollback_tolerance": None},
}
CHAINS: list[dict[str, Any]] = [
    {"message": "output"},
    {"message": "state", "message_delay": 1},
    {"message": "none", "autoregressive": True},
    {"message": "logits", "autoregressive": True, "agent_order": "random"},
]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[OnlineTrainer] = []

    def call(
        policy: SequencePolicy | None = None,
        *,
        pretrained: bool = True,
        data: bool = False,
        make_env: Any = MatchingEnv,
        **options: Any,
    ) -> OnlineTrainer:
        given = FAST | options
        known = MAPPOConfig.model_fields
        settings = MAPPOConfig(**{key: given[key] for key in given if key in known})
        config = OnlineTrainerConfig(**{key: given[key] for key in given if key not in known})
        policy = policy or make_policy(dtype=torch.float32, dropout=0.3)
        torch.manual_seed(7)
        cpu = torch.device("cpu")
        recorded = matching_data(6) if data else None
        context = Context(3, cpu, config.iterations, pretrained=pretrained, data=recorded)
        algorithm = MAPPO(policy, settings, context)
        trainer = OnlineTrainer(algorithm, Collector(make_env, config, 3, cpu), config, 10.0, cpu)
        made.append(trainer)
        return trainer

    yield call
    for trainer in made:
        trainer.close()


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, v in module.state_dict().items() if not torch.equal(v, before[name])}


def experience(trainer: OnlineTrainer) -> Experience:
    played = trainer.collector.collect(trainer.policy, 0, 10.0)
    episodes = Episodes.of(played, trainer.policy.agent_order == "random")
    return trainer.algorithm.assess(episodes)


@pytest.mark.parametrize("options", CHAINS, ids=lambda o: "-".join(map(str, o.values())))
def test_both_views_take_the_same_actor_step(make: Make, options: dict[str, Any]) -> None:
    gradients, metrics = [], []
    for view in ("convolutional", "recurrent"):
        trainer = make(make_policy(**options), unroll_mode=view, max_grad_norm=1e6, freeze=())
        trainer.algorithm.critic.double()
        part = experience(trainer).select(torch.arange(8))
        with torch.no_grad():  # away from what played, so that ratios and the leash matter
            for number, parameter in enumerate(trainer.policy.parameters()):
                noise = torch.Generator().manual_seed(number)
                parameter += 0.02 * torch.randn(parameter.shape, generator=noise).double()
        metrics.append(trainer.algorithm.actor_step(part, None))
        gradients.append({name: p.grad for name, p in trainer.policy.named_parameters()})
    assert metrics[0]["kl_to_pretrained"] > 1e-3
    assert metrics[0]["approx_kl"] > 1e-3
    for name, value in metrics[0].items():
        torch.testing.assert_close(metrics[1][name], value, rtol=1e-7, atol=1e-9, msg=name)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("options", CHAINS, ids=lambda o: "-".join(map(str, o.values())))
def test_gradients_reach_predecessors_through_the_message(make: Make, options: Any) -> None:
    """Only what the last of the two decides is made to matter."""
    trainer = make(make_policy(**options), freeze=(), ent_coef=0.0, kl_coef=0.0)
    trainer.algorithm.critic.double()
    part = experience(trainer)
    part.advantage[..., 0] = 0.0
    trainer.algorithm.actor_step(part, None)
    written = [p for n, p in trainer.policy.named_parameters() if n.startswith("channel")]
    assert written
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in written)


def test_ratios_are_one_at_first(make: Make) -> None:
    trainer = make(make_policy(agent_order="random", autoregressive=True))
    trainer.algorithm.critic.double()
    found = trainer.algorithm.actor_step(experience(trainer), None)
    assert abs(found["policy_loss"].item()) < 1e-9, "the mean of standardized advantages"
    assert found["approx_kl"].item() < 1e-12
    assert found["kl_to_pretrained"].item() < 1e-12
    assert found["clip_fraction"].item() == 0.0


def test_dropout_is_off(make: Make) -> None:
    trainer = make()
    trainer.update(0)
    assert not trainer.policy.training


def test_only_the_critic_learns_while_it_warms_up(make: Make) -> None:
    trainer = make(critic_warmup=2)
    policy, critic = copied(trainer.policy), copied(trainer.algorithm.critic)
    for step in range(2):
        found = trainer.update(step)
        assert "value_loss" in found and "policy_loss" not in found
    assert changed(trainer.policy, policy) == set()
    assert changed(trainer.algorithm.critic, critic)
    assert "policy_loss" in trainer.update(2)
    assert changed(trainer.policy, policy)


@pytest.mark.parametrize("frozen", [("A", "dt"), ("A", "B", "C", "dt", "D"), ()])
def test_what_is_frozen_stays(make: Make, frozen: tuple[str, ...]) -> None:
    trainer = make(freeze=frozen)
    before = copied(trainer.policy)
    names = {id(p): name for name, p in trainer.policy.named_parameters()}
    groups = ssm_parameters(trainer.policy)
    for step in range(2):
        trainer.update(step)
    moved = changed(trainer.policy, before)
    for group, parameters in groups.items():
        assert {names[id(p)] in moved for p in parameters} == {group not in frozen}, group
    assert "head.weight" in moved
    assert not any(
        name.startswith("embedding.observation_")
        for name in moved - {"embedding.observation.weight", "embedding.observation.bias"}
    )


def test_the_pretrained_policy_is_remembered_as_it_was(make: Make) -> None:
    trainer = make(kl_coef=0.5, kl_target=1e-6)
    before = copied(trainer.policy)
    found = [trainer.update(step) for step in range(3)]
    assert trainer.algorithm.reference is not None
    assert changed(trainer.algorithm.reference, before) == set()
    assert changed(trainer.policy, before)
    assert float(found[-1]["kl_to_pretrained"]) > 1e-6
    assert trainer.algorithm.kl_controller.coef > 0.5, "too far away: it pulls harder"
    assert float(found[-1]["kl_coef"]) == pytest.approx(trainer.algorithm.kl_controller.coef)
    assert make(pretrained=False).algorithm.reference is None


def test_a_strong_leash_holds(make: Make) -> None:
    apart = []
    for weight in (1e-3, 1e3):
        trainer = make(kl_coef=weight, kl_target=0.05, epochs=4)
        found = [trainer.update(step) for step in range(3)]
        apart.append(float(found[-1]["kl_to_pretrained"]))
    assert apart[1] < 0.3 * apart[0]


def test_epochs_end_when_the_policy_has_moved(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {}
    for limit in (None, 1e-9):
        trainer, steps = (
            make(target_kl=limit, epochs=5),
            {"actor_step": 0, "critic_step": 0},
        )
        for name in steps:

            def counted(
                *args: Any, name: str = name, learner: Any = trainer.algorithm, steps: Any = steps
            ) -> Any:
                steps[name] += 1
                return getattr(MAPPO, name)(learner, *args)

            monkeypatch.setattr(trainer.algorithm, name, counted)
        trainer.update(0)
        counts[limit] = steps
    assert counts[None]["actor_step"] == counts[None]["critic_step"]
    assert counts[1e-9]["actor_step"] == counts[None]["actor_step"] / 5, "one epoch"
    assert counts[1e-9]["critic_step"] == counts[None]["critic_step"], "the critic goes on"


def test_minibatches_are_drawn_anew_and_hold_every_segment(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, seen = make(batch_size=4, epochs=3), []

    def note(part: Experience, cloned: Any) -> dict[str, Tensor]:
        seen.append(part.value_target.sum((1, 2)).tolist())
        return {"approx_kl": torch.zeros(())}

    monkeypatch.setattr(trainer.algorithm, "actor_step", note)
    trainer.update(0)
    per_epoch = len(seen) // 3
    parts = [seen[k * per_epoch : (k + 1) * per_epoch] for k in range(3)]
    epochs = [list(chain.from_iterable(part)) for part in parts]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(("data", "overlap"), [(False, False), (True, False), (False, True)])
def test_resuming_is_exact(
    make: Make, data: bool, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mads4.training.best_tracker.CHANCE", 0.0)  # falls are part of it
    options = {
        **{"data": data, "elite_buffer_size": 3, "bc_coef": 0.3, "bc_batch_size": 2},
        **{"return_window": 2, "rollback_tolerance": 0.05, "async_rollout": overlap},
    }
    whole, second = make(**options), make(**options)
    first = make(**options, iterations=2)  # nothing is played ahead of the last iteration
    expected = [whole.update(step) for step in range(5)]
    found = [first.update(step) for step in range(2)]
    with torch.no_grad():
        for parameter in [*second.policy.parameters(), *second.algorithm.critic.parameters()]:
            parameter.add_(1.0)  # nothing of what a new process begins with may remain
    second.load_state_dict(first.state_dict())
    assert_equal(second.state_dict(), first.state_dict())
    found += [second.update(step) for step in range(2, 5)]
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), step
    assert "bc_loss" in expected[0]
    assert whole.tracker.rollbacks > 0
    assert_equal(second.state_dict(), whole.state_dict())
    assert second.facts() == whole.facts()
    assert second.summary(TrainState()) == whole.summary(TrainState())


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_equal(one[name], other[name])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif isinstance(one, Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def test_a_saved_state_does_not_change_any_more(make: Make) -> None:
    trainer = make()
    trainer.update(0)
    saved = trainer.state_dict()
    weights = saved["policy"]["head.weight"].clone()
    best = saved["best_weights"]["policy"]["head.weight"].clone()
    trainer.update(1)
    assert torch.equal(saved["policy"]["head.weight"], weights)
    assert torch.equal(saved["best_weights"]["policy"]["head.weight"], best)


def test_after_a_fall_the_best_weights_play_on(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(rollback_tolerance=0.2)
    verdicts = iter(["best", "usual", "degraded", "usual"])
    monkeypatch.setattr(trainer.tracker, "update", lambda played: next(verdicts))
    trainer.tracker.best_average, trainer.tracker.average = 10.0, 7.0
    first = copied(trainer.policy), copied(trainer.algorithm.critic)
    trainer.update(0)
    trainer.update(1)
    fallen = copied(trainer.policy)
    assert changed(trainer.policy, first[0])
    with caplog.at_level(logging.WARNING):
        found = trainer.update(2)
    assert "return 7 is more than 20% below the best, 10" in caplog.text
    assert float(found["rolled_back"]) == 1.0
    assert "policy_loss" not in found, "nothing is learned from what other weights played"
    assert changed(trainer.policy, first[0]) == changed(trainer.algorithm.critic, first[1]) == set()
    assert (
        not trainer.algorithm.actor_optimizer.state and not trainer.algorithm.critic_optimizer.state
    )
    judged = trainer.validated_policy()
    assert all(torch.equal(judged[name], value) for name, value in fallen.items())
    assert "policy_loss" in trainer.update(3)


def test_overlapping_plays_with_the_weights_before_learning(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, played_by = make(async_rollout=True, iterations=3), []
    collect, learn = trainer.collector.collect, trainer.algorithm.learn
    learned_from = []

    def noted_collect(player: Any, iteration: int, best_return: float) -> Any:
        played_by.append(player.policy.head.weight.clone())
        return collect(player, iteration, best_return)

    def noted_learn(part: Experience, step: int) -> dict[str, float]:
        learned_from.append(trainer.policy.head.weight.clone())
        return learn(part, step)

    monkeypatch.setattr(trainer.collector, "collect", noted_collect)
    monkeypatch.setattr(trainer.algorithm, "learn", noted_learn)
    for step in range(3):
        trainer.update(step)
        torch.testing.assert_close(trainer.validated_policy()["head.weight"], played_by[step])
    assert len(played_by) == 3, "nothing is played that nobody would learn from"
    assert torch.equal(played_by[0], played_by[1]), "the first two are played by what there was"
    assert torch.equal(played_by[2], learned_from[1])
    assert not torch.equal(played_by[2], played_by[1])


@pytest.mark.parametrize("error", [0.1, float("nan")])
def test_views_that_disagree_are_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    def tampered(*args: Any) -> Tensor:
        logits = unroll(*args).clone()
        logits[0, 1, 0, int(logits[0, 1, 0].isfinite().nonzero()[0, 0])] += error
        return logits

    trainer = make(make_policy(dtype=torch.float32))
    before = copied(trainer.policy)
    monkeypatch.setattr(online, "unroll", tampered)
    with pytest.raises(UserError, match=r"views differ by .*trainer\.parity_tolerance=0\.001"):
        trainer.update(0)
    assert changed(trainer.policy, before) == set()


def test_what_a_checkpoint_says(make: Make) -> None:
    trainer = make()
    trainer.update(0)
    standing = trainer.tracker
    assert trainer.validate() == {"return_average": standing.average}
    assert trainer.criterion(trainer.validate()) == -standing.average
    assert trainer.facts()["returns"]["return_max"] == standing.best_return >= 10.0
    assert trainer.agent_steps(1) == 2 * standing.environment_steps > 0
    assert "best average" in trainer.progress({"return_mean": 3.0})
    undecided = make(return_window=2)
    undecided.update(0)
    assert undecided.criterion(undecided.validate()) == float("inf")


@pytest.mark.parametrize("normalization", ["shared", "per_agent"])
def test_the_critic_scales_inputs_as_the_policy_does(make: Make, normalization: str) -> None:
    policy = Mads4Policy(SPEC, n_layers=1, d_model=8, d_state=4, normalization=normalization)
    policy.embedding.observation_mean.fill_(0.5)
    trainer = make(policy)
    for name, value in policy.embedding.named_buffers():
        assert torch.equal(dict(trainer.algorithm.critic.embedding.named_buffers())[name], value)
    trainer.update(0)


@pytest.mark.parametrize("kind", ["mads4", "mlp"])
def test_it_learns_to_coordinate_from_scratch(make: Make, kind: str) -> None:
    """Penalty-XOR through the chain; without one, a game that needs no convention."""
    payoff = PENALTY_XOR if kind == "mads4" else ((0.0, 0.0), (0.0, 1.0))

    def game() -> MatrixGame:
        return MatrixGame(payoff, episode_limit=8)

    torch.manual_seed(0)
    spec = game().spec
    policy: SequencePolicy = MlpPolicy(spec, d_model=16)
    if kind == "mads4":
        policy = Mads4Policy(
            spec, n_layers=1, d_model=16, d_state=4, message="none", autoregressive=True
        )
    policy.embedding.set_normalization({"return_scale": torch.tensor(8.0)})
    trainer = make(
        policy,
        pretrained=False,
        make_env=game,
        episodes=16,
        num_envs=16,
        bptt_length=None,
        batch_size=16,
        actor_learning_rate=1e-2,
        epochs=4,
    )
    returns = [float(trainer.update(step)["return_mean"]) for step in range(25)]
    assert returns[0] < 3.0
    assert sum(returns[-3:]) / 3 > 7.0

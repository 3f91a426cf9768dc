"""An invented ``summary.json``."""

from __future__ import annotations

from typing import Any

SUMMARY: dict[str, Any] = {
    "name": "quickstart",
    "env": {
        "name": "rware",
        "scenario": "tiny-2ag",
        "n_agents": 2,
        "episode_limit": 500,
        "reward": "deliveries",
    },
    "data": {
        "name": "tiny-2ag-good",
        "fingerprint": "ab12",
        "quality": "good",
        "episodes": 1500,
        "return_mean": 20.0,
        "return_std": 3.0,
        "return_min": 9.0,
        "return_max": 27.0,
    },
    "eval": {
        "20.0": {
            "target_return": 20.0,
            "return_mean": 14.0,
            "return_std": 3.0,
            "return_iqm": 14.3,
            "return_ci95": [13.2, 15.0],
            "episodes": 64,
            "normalized_score": 0.63,
        },
        "29.7": {
            "target_return": 29.7,
            "return_mean": 16.0,
            "return_std": 3.0,
            "return_iqm": 16.5,
            "return_ci95": [15.2, 16.8],
            "episodes": 64,
            "normalized_score": None,
        },
    },
    "baselines": {
        "random": {"return_mean": 0.0, "return_ci95": [0.0, 0.1], "episodes": 64},
        "expert": {"return_mean": 25.0, "return_ci95": [24.0, 26.0], "episodes": 64},
    },
    "train": {"steps": 600, "best_step": 400, "best_validation_loss": 0.5, "parameters": 114321},
    "time": {"collect_s": 50, "train_s": 330, "evaluate_s": 40},
    "reward_definition": "deliveries",
}

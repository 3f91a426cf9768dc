"""From rollouts to metrics with intervals."""

"""The YAML groups that `mads4` composes its configuration from."""

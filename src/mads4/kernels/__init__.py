"""State-space kernels: tensors in, tensors out, no modules and no configuration."""

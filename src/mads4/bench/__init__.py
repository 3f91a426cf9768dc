"""Time and peak memory of kernels, layers and steps, beside a plain formula and a control."""

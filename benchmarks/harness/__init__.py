"""What the benchmark scripts share: clocks, memory, workloads, tables and plots."""

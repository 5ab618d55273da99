"""Benchmarks, run by hand. Each runs its baseline beside its subject in the same minutes and prints ratios; `--json` prints one JSON object instead."""

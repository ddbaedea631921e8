"""Run directories, known here alone: layout, metrics and watch records, checkpoints, locks, reading a run back."""

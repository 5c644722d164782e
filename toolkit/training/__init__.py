"""What a training has around it: schedule, evaluation with real files, plots."""

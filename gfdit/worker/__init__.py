"""What a worker does with a task: trajectories over diffusers' modular pipelines, run by elastic groups of ranks.

`gfdit.worker.tasks` holds the words of that conversation and imports no torch; everything else here may.
"""

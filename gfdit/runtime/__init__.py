"""What the simulator and the live system share: the ports, the one loop, the journal, and summaries of a run."""

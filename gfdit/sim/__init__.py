"""The simulated world: the production scheduler and driver over a virtual clock and a cost model."""

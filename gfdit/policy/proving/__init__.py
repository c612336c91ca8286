"""What holds of a policy in every small world: properties, the worlds they are tried in, and counterexamples.

Pure: nothing in here runs a scheduler or reads a file. The closed loop is `gfdit.sim.proving`.
"""

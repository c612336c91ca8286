"""The live world: worker processes, the sockets between them and the controller, and the results that clients wait
for.
"""

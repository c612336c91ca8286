"""How a new policy gets into a running system: vetted, watched in the shadow, tried in windows, armed, taken back.

    vetting.py   from a bundle of texts to a policy that checks, passes its tests and has planned once; or why not
    loading.py   what a swap names, ready before the tick that swaps it in
    shadow.py    a candidate that plans beside the policy in charge, and where the two disagree
    canary.py    two policies in alternating windows, and which of them did better
    versions.py  every version that was in charge, and its text, kept beside the journal
    status.py    all of it as data
    control.py   the operator's commands: push, arm, eject, rollback, canary

Nothing here decides about requests: whatever takes effect is an event that the scheduler observes, so the journal has
it and a replay takes the same turn.
"""

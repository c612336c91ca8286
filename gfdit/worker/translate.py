"""Between the words of the wire and those of tasks: two vocabularies, neither of which imports the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from gfdit.collectives import Endpoint
from gfdit.core.parallel import Parallel
from gfdit.wire import messages
from gfdit.wire.messages import Facts, Run, TaskDone
from gfdit.worker.tasks import ModelFacts, Task, TaskResult


def task_of(run: Run) -> Task:
    cfg, ulysses, ring = run.parallel
    return Task(
        epoch=run.epoch,
        request_id=run.request_id,
        stage=run.stage,
        ranks=run.ranks,
        first_step=run.first_step,
        steps=run.steps,
        sources=run.sources,
        parallel=Parallel(cfg, ulysses, ring),
        inputs=run.inputs,
        restore=run.restore,
    )


def done_of(result: TaskResult) -> TaskDone:
    return TaskDone(
        epoch=result.epoch,
        done=result.done,
        total=result.total,
        handover_s=result.handover_s,
        compute_s=result.compute_s,
        collectives=result.collectives,
        bytes_moved=result.bytes_moved,
        cold=result.cold,
        hot=result.hot,
        output=result.output,
    )


def endpoints_of(told: Iterable[messages.Endpoint]) -> list[Endpoint]:
    return [Endpoint(e.rank, e.incarnation, e.pid, e.fd, e.start_time) for e in told]


def endpoint_to_wire(endpoint: Endpoint) -> messages.Endpoint:
    return messages.Endpoint(endpoint.rank, endpoint.incarnation, endpoint.pid, endpoint.fd, endpoint.start_time)


def facts_to_wire(facts: ModelFacts) -> Facts:
    return Facts(**{field.name: getattr(facts, field.name) for field in fields(Facts)})


def facts_from_wire(facts: Facts) -> ModelFacts:
    return ModelFacts(**{field.name: getattr(facts, field.name) for field in fields(Facts)})

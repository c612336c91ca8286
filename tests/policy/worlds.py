"""Random worlds for the tests of the policy package: few distinct values, so that ties are common."""

from __future__ import annotations

import random

from gfdit.core.cost import CostModel, Quadratic, StageCost
from gfdit.core.lifecycle import State
from gfdit.core.work import Stage
from gfdit.policy.world import Actor, World

STAGES = (
    Stage.ENCODE,
    Stage.PREPARE,
    Stage.TIMESTEPS,
    Stage.DENOISE,
    Stage.DENOISE,
    Stage.DENOISE,
    Stage.DECODE,
    Stage.FINALIZE,
)


def random_cost(rng: random.Random) -> CostModel:
    """Two models that offer different degrees; wider is sometimes slower, sometimes as fast."""
    models = {}
    for model, degrees in (("small", (1, 2, 4)), ("large", (2, 4, 8))):
        step = {degree: Quadratic(0.0, 0.0, rng.choice((0.2, 0.4, 0.4, 0.8, 1.6))) for degree in degrees}
        flat = {degree: Quadratic(0.0, 0.0, 0.01) for degree in degrees}
        models[model] = {
            "encode": StageCost("one", {1: Quadratic(0.0, 0.0, 0.05)}),
            "prepare": StageCost("one", flat),
            "timesteps": StageCost("one", flat),
            "denoise": StageCost("one", step),
            "decode": StageCost("one", {1: Quadratic(0.0, 0.0, 0.1)}),
            "finalize": StageCost("one", {1: Quadratic(0.0, 0.0, 0.01)}),
        }
    return CostModel("random", models, dispatch_s=0.0, reshard_s=rng.choice((0.0, 0.05)))


def random_actor(rng: random.Random, number: int, gpus: int, room: int) -> Actor:
    """`room`: GPUs that no group has yet."""
    model = rng.choice(("small", "large"))
    stage = rng.choice(STAGES)
    steps = rng.choice((4, 8, 20))
    done = rng.randrange(steps) if stage is Stage.DENOISE else steps if stage in (Stage.DECODE, Stage.FINALIZE) else 0
    offered = [degree for degree in ((1, 2, 4) if model == "small" else (2, 4, 8)) if degree <= room]
    has_group = bool(offered) and stage is not Stage.ENCODE and rng.random() < 0.5
    degree = rng.choice(offered) if has_group else 0
    if degree and stage in (Stage.DECODE, Stage.FINALIZE) and rng.random() < 0.3:
        degree = 1
    age = rng.choice((0.0, 1.0, 1.0, 5.0, 90.0))
    budget = rng.choice((None, 0.5, 3.0, 3.0, 12.0, 60.0))
    return Actor(
        id=f"r{number:03d}",
        model=model,
        class_name=rng.choice(("interactive", "standard", "batch")),
        tag=rng.choice(("ui", "batch", "")),
        priority=float(rng.choice((0, 0, 50, 100))),
        arrival_s=100.0 - age,
        deadline_s=None if budget is None else 100.0 - age + budget,
        steps_total=float(steps),
        steps_done=float(done),
        stage=stage,
        sp=degree,
        state=State.RUNNING if degree and rng.random() < 0.4 else None,
        last_sp=None if degree or stage is Stage.ENCODE else rng.choice((0, 1, 2, 4)),
        group_since_s=100.0 - rng.choice((0.0, 0.5, 20.0)) if degree else None,
        preemptible=rng.random() < 0.5,
    )


def random_world(seed: int) -> World:
    rng = random.Random(seed)
    gpus = rng.choice((1, 2, 4, 7, 8, 8, 16))
    world = World(gpus=gpus, now_s=100.0, cost=random_cost(rng))
    room = gpus
    for number in range(rng.randrange(1, rng.choice((3, 6, 24)))):
        actor = random_actor(rng, number, gpus, room)
        if actor.model == "large" and gpus < 2:
            actor.model, actor.sp, actor.state = "small", 0, None
        room -= actor.sp
        world.actors.append(actor)
    rng.shuffle(world.actors)
    return world
